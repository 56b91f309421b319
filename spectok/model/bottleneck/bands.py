"""Band layout: overlapping bands of equal width in mel, over Q evenly spaced frequency positions.

All kinds of bottleneck (queries.py) share it. Low frequencies, where pitch and phase matter most, get narrow bands,
and high frequencies wide ones.
"""

import numpy as np
from numpy.typing import NDArray

Edges = NDArray[np.int64]  # [num_bands, 2]


def mel_bands(num_bands: int, positions: int, sample_rate: int) -> Edges:
    """Edges `[num_bands, 2]` of the bands: band k holds the positions from `edges[k, 0]` to `edges[k, 1] - 1`.

    Every position is in at least one band, no band is empty, the first begins at 0 and the last ends at `positions`.

    Args:
        num_bands: the number of bands.
        positions: Q, evenly spaced from 0 Hz to half the sample rate.
        sample_rate: in Hz.
    """
    nyquist = sample_rate / 2
    grid = 700 * (10 ** (np.linspace(0.0, _mel(nyquist), num_bands + 2) / 2595) - 1)  # Hz
    low, high = grid[:-2], grid[2:]
    edges = np.stack([np.floor(low / nyquist * positions), np.ceil(high / nyquist * positions)], axis=1)
    edges = edges.clip(0, positions).astype(np.int64)
    edges[:, 0] = np.minimum(edges[:, 0], positions - 1)
    edges[:, 1] = np.maximum(edges[:, 1], edges[:, 0] + 1)
    return edges


def membership(edges: Edges, positions: int) -> NDArray[np.bool_]:
    """Whether each band holds each position, `[num_bands, Q]`."""
    f = np.arange(positions)
    return (edges[:, :1] <= f) & (f < edges[:, 1:])


def positional_bias(edges: Edges, positions: int) -> NDArray[np.float32]:
    """SFC's psychoacoustic bias P, `[num_bands, Q]` (arXiv 2602.08671, section III-B).

    It is near 0 in a band and falls outside it. For band [s, e): f - s below it, (e - 1) - f above it, and
    -|floor((s + e) / 2) - f| / (floor((e - s) / 2) + 1) inside.
    """
    start, end = edges[:, :1], edges[:, 1:]
    f = np.arange(positions)[None, :]
    inside = -np.abs((start + end) // 2 - f) / ((end - start) // 2 + 1)
    bias = np.where(f < start, f - start, np.where(f >= end, end - 1 - f, inside))
    return bias.astype(np.float32)


def _mel(hertz: float) -> float:
    return 2595 * float(np.log10(1 + hertz / 700))
