"""Supervision of every scale of the decoder at rising resolution; the heads are not part of the codec."""

import functools
from typing import Any

import torch
from torch import Tensor, nn

from spectok.model.codec import SPECTRUM_GAIN, Codec
from spectok.model.layers import CausalConv2d, FrequencyUp, linear


class Scales(nn.Module):
    """A linear head on what enters each upsampling of the decoder, which must tell the magnitudes at that resolution.

    After SFSRNet (AAAI 2022), which supervises what every block has estimated at a rising sampling rate. The target is
    the power-law magnitude that the encoder sees, averaged over the time and frequency that one position stands for.

    Args:
        codec: what is watched, from now on: a forward pass leaves its features here until `forward` takes them.
    """

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        upsamplings = [layer for layer in codec.decoder.tower.layers if isinstance(layer, FrequencyUp)]
        tower = codec.config.decoder
        self.heads = nn.ModuleList(linear(channels, 1) for channels in reversed(tower.channels[1:]))
        self.steps: list[tuple[int, int]] = []  # hops and positions of the spectrum that one of each scale stands for
        hops = positions = 1
        for time_stride, frequency_stride in zip(tower.time_strides, tower.frequency_strides, strict=True):
            hops, positions = hops * time_stride, positions * frequency_stride
            self.steps.insert(0, (hops, positions))
        self.features: dict[int, Tensor] = {}
        for index, upsampling in enumerate(upsamplings):
            causal = upsampling.layers[0]
            assert isinstance(causal, CausalConv2d)
            keep = functools.partial(self._keep, index, causal.context)
            causal.conv.register_forward_pre_hook(keep)
        self.stft, self.power_law = codec.encoder.stft, codec.encoder.power_law

    def forward(self, real: Tensor) -> Tensor:
        """Squared error over the clip's energy, the mean of clips and scales: 1 is as wrong as silence.

        Args:
            real: what the codec has just been given, `[B, T]`, whole frames.
        """
        with torch.no_grad():
            spectrum = self.power_law.compress(self.stft(real)) * SPECTRUM_GAIN
            magnitude = spectrum.square().sum(1).sqrt()
        errors = []
        for index, (head, step) in enumerate(zip(self.heads, self.steps, strict=True)):
            target = nn.functional.avg_pool2d(magnitude, step)
            estimate = head(self.features.pop(index)).squeeze(3).float()
            energy = target.square().sum(dim=(1, 2)) + 1e-2 * target[0].numel()
            errors.append(((estimate - target).square().sum(dim=(1, 2)) / energy).mean())
        return torch.stack(errors).mean()

    def _keep(self, index: int, context: int, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        # [B, C, F, Q], with the past that the convolution has put before it.
        self.features[index] = inputs[0].permute(0, 2, 3, 1)[:, context:]
