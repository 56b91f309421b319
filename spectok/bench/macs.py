"""Counts multiply-accumulates by one rule for spectok and for the neural codecs that it is compared with.

The rule is that of PyTorch's `FlopCounterMode`: matrix products and convolutions count, a transposed convolution at its
input rate, and elementwise operations do not. The products of the layers with weights are told apart from the others,
which are Fourier transforms and a postfilter in spectok, and the search of the nearest codebook entries in its rivals.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from spectok.model.codec import Codec


def count_macs(run: Callable[[], Any]) -> float:
    """The multiply-accumulates of all matrix products, convolutions and distances between vectors in `run()`."""
    aten: Any = torch.ops.aten
    distances = dict.fromkeys((aten._euclidean_dist, aten._cdist_forward), _distance_flops)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about TensorFloat-32 on Intel GPUs
        with (
            torch.no_grad(),
            torch.backends.mkldnn.flags(enabled=False),  # PyTorch does not count the operations of MKL-DNN's LSTM
            FlopCounterMode(display=False, custom_mapping=distances) as counter,
        ):
            run()
    return float(counter.get_total_flops() / 2)


def _distance_flops(first: torch.Size, second: torch.Size, *_: Any, **__: Any) -> int:
    """Floating-point operations of the distances of all vectors of `[..., N, D]` to all of `[..., M, D]`."""
    return 2 * math.prod(first) * second[-2]


def macs_with_transforms(codec: Codec) -> dict[str, float]:
    """Multiply-accumulates per second of audio for "encoder" and "decoder", of every matrix product that they run.

    `Codec.macs_per_second` has those of the layers with weights alone.
    """
    config = codec.config
    frames = math.ceil(config.frame_rate)
    state = codec.init_state(1)
    audio = torch.zeros(1, frames * config.frame_length)
    codes = torch.zeros(1, frames * config.quantizer.tokens_per_frame, dtype=torch.int64)
    counts = {
        "encoder": count_macs(lambda: codec.encode_step(audio, state[0])),
        "decoder": count_macs(lambda: codec.decode_step(codes, state[1])),
    }
    return {side: count * config.frame_rate / frames for side, count in counts.items()}
