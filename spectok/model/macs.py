"""How many multiply-accumulates a codec needs for a second of audio."""

import math

import torch
from torch import Tensor, nn

from spectok.model.bottleneck.band_mixers import BandMerge, BandSplit
from spectok.model.bottleneck.mamba import Mamba
from spectok.model.bottleneck.queries import QueryAttention

COUNTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.GRU, QueryAttention, Mamba, BandSplit, BandMerge)


def macs_per_second(codec: nn.Module, frame_length: int, frame_rate: float) -> dict[str, float]:
    """Multiply-accumulates per second of audio, for "encoder" and "decoder".

    Counted are linear layers, convolutions, GRUs and the attention's matrix products; upsampling is counted at its
    input rate. Not counted are the Fourier transforms (1 MMAC/s as fast transforms, ten times that as the matrix
    products used here), the postfilter's means (8 MMAC/s), the search of a learned codebook, and elementwise
    operations.

    Args:
        codec: with the parts `encoder` and `decoder`; called with audio `[1, T]`.
        frame_length: samples in a code frame.
        frame_rate: code frames per second.
    """
    counts = {"encoder": 0.0, "decoder": 0.0}
    training = codec.training
    frames = math.ceil(frame_rate)
    handles = []

    def hook(side: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        counts[side] += _macs(module, inputs[0], output)

    # The projection of the learnable queries does not depend on the audio; it is a constant and not counted.
    attentions = [module for module in codec.modules() if isinstance(module, QueryAttention)]
    constant = {attention.to_query for attention in attentions if attention.adaptive}
    for side in counts:
        for module in getattr(codec, side).modules():
            if isinstance(module, COUNTED) and module not in constant:
                handles.append(module.register_forward_hook(lambda m, i, o, side=side: hook(side, m, i, o)))
    codec.eval()  # a BatchNorm in training mode would learn from the silence below
    try:
        with torch.inference_mode():
            reference = next(codec.parameters())
            codec(reference.new_zeros(1, frames * frame_length))
    finally:
        codec.train(training)
        for handle in handles:
            handle.remove()
    return {side: count * frame_rate / frames for side, count in counts.items()}


def _macs(module: nn.Module, x: Tensor, y: Tensor) -> int:
    if isinstance(module, nn.Linear):
        return y.numel() * module.in_features
    if isinstance(module, nn.GRU):
        return 3 * x.shape[0] * x.shape[1] * module.hidden_size * (module.input_size + module.hidden_size)
    if isinstance(module, (QueryAttention, Mamba, BandSplit, BandMerge)):
        return module.macs(x.shape[0], x.shape[1])
    assert isinstance(module, (nn.Conv1d, nn.Conv2d))
    return y.numel() * module.weight[0].numel()
