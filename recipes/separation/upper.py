"""The upper octave of sources that were separated at half of the mixture's sample rate, after SFSRNet.

SFSRNet (J. Rixen, M. Renz, AAAI 2022) estimates the magnitudes above the separator's range by a heuristic: the
mixture's, times one number for each frame, a ratio of the estimate and the mixture in the range that was separated. The
paper prints the mixture over the estimate, which makes a source loud where it is quiet; the inverse is meant. The ratio
here is one of sums of magnitudes. A convolutional network then refines the magnitudes. Phases above are the mixture's.

All functions are for mixtures and sources at the full rate, whose upper octave begins at the middle position.
"""

import torch
from torch import Tensor, nn

from spectok.model.layers import unit_gain_

HEURISTICS = ("nothing", "printed", "corrected", "shared")
TINY = 1e-8  # added to sums of magnitudes, and to magnitudes


def halve(audio: Tensor) -> Tensor:
    """Audio `[..., T]` at half of its rate, `[..., T / 2]`, by cutting the spectrum of the whole; T must be even."""
    samples = audio.shape[-1]
    halved: Tensor = torch.fft.irfft(torch.fft.rfft(audio)[..., : samples // 4 + 1], n=samples // 2) / 2
    return halved


def double(audio: Tensor) -> Tensor:
    """Audio `[..., T]` at twice its rate, `[..., 2 T]`, with nothing in the new octave."""
    doubled: Tensor = torch.fft.irfft(torch.fft.rfft(audio), n=2 * audio.shape[-1]) * 2
    return doubled


def heuristic(mixture: Tensor, estimates: Tensor, kind: str) -> Tensor:
    """The upper octave of each source: the mixture's times a ratio of sums of magnitudes for each frame.

    Args:
        mixture: its complex spectrum, `[..., F, Q]`, Q odd; the upper octave is all above position Q // 2.
        estimates: those of the sources, of which only the lower octaves are used, `[..., S, F, Q]`.
        kind: "nothing": zero; "printed": the mixture's sum over the estimate's; "corrected": the estimate's over the
            mixture's; "shared": the estimate's over that of all estimates.

    Returns:
        Complex spectra, `[..., S, F, Q // 2]`.
    """
    middle = mixture.shape[-1] // 2
    upper = mixture[..., None, :, middle + 1 :]
    if kind == "nothing":
        return torch.zeros_like(upper).expand(*estimates.shape[:-1], -1)
    own = estimates[..., : middle + 1].abs().sum(-1, keepdim=True)
    whole = mixture[..., None, :, : middle + 1].abs().sum(-1, keepdim=True)
    whole = own.sum(-3, keepdim=True) if kind == "shared" else whole
    ratio = (whole + TINY) / (own + TINY) if kind == "printed" else (own + TINY) / (whole + TINY)
    return upper * ratio


class UpperNetwork(nn.Module):
    """Refines the square roots of the heuristic's magnitudes by depthwise convolutions; it starts as the identity.

    The network of the paper's reproductions has 6.7 M parameters and needs 107 GMAC/s; this one is a substitute that a
    processor can run. Its input has `2 S + 2` channels, the heuristic's and the mixture's magnitudes in the upper
    octave, and the estimates' and the mixture's as many positions below.

    Args:
        sources: S.
        width: channels inside.
    """

    def __init__(self, sources: int, width: int = 32) -> None:
        super().__init__()
        last = nn.Conv2d(width, sources, 1)
        layers: list[nn.Module] = []
        for inputs in (2 * sources + 2, width):
            around = nn.Conv2d(width, width, 5, padding=2, groups=width)
            layers += [nn.Conv2d(inputs, width, 1), nn.SiLU(), around, nn.SiLU()]
        layers.append(last)
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                unit_gain_(layer)
        nn.init.zeros_(last.weight)
        self.layers = nn.Sequential(*layers)

    def forward(self, mixture: Tensor, estimates: Tensor) -> Tensor:
        """The upper octave of each source.

        Args:
            mixture: its complex spectrum, `[B, F, Q]`.
            estimates: those of the sources, `[B, S, F, Q]`.

        Returns:
            Complex spectra with the mixture's phases, `[B, S, F, Q // 2]`.
        """
        middle = mixture.shape[-1] // 2
        level = mixture.abs().square().mean((1, 2), keepdim=True).clamp_min(TINY).sqrt()[:, None]
        start = ((heuristic(mixture, estimates, "corrected").abs() + TINY) / level).sqrt()  # has a slope at 0
        whole = (mixture.abs()[:, None] / level).sqrt()
        below = ((estimates[..., 1 : middle + 1].abs() + TINY) / level).sqrt()
        features = torch.cat([start, whole[..., middle + 1 :], below, whole[..., 1 : middle + 1]], dim=1)
        magnitudes = torch.relu(start + self.layers(features)).square() * level
        upper = mixture[:, None, :, middle + 1 :]
        return magnitudes * upper / (upper.abs() + TINY)

    def macs_per_second(self, frames: float, positions: int) -> float:
        """Multiply-accumulates for `frames` frames of `positions` positions."""
        weights = sum(layer.weight.numel() for layer in self.layers if isinstance(layer, nn.Conv2d))
        return frames * positions * weights
