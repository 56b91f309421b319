"""Band layouts: K overlapping bands over Q evenly spaced frequency positions.

All members of the bottleneck's family (queries.py) share them: low frequencies, where pitch and phase live, get
narrow bands, high ones wide. Musical bands follow BandIt (arXiv 2309.02539, section III-B), mel and ERB bands their
scales.
"""

import numpy as np
from numpy.typing import NDArray

Edges = NDArray[np.int64]  # [K, 2]


def bands(layout: str, count: int, positions: int, sample_rate: int) -> Edges:
    """Edges `[count, 2]` of the bands: band k holds the positions from `edges[k, 0]` to `edges[k, 1] - 1`.

    Every position is in at least one band, no band is empty, the first begins at 0 and the last ends at `positions`.

    Args:
        layout: "musical" (logarithmic), "mel" or "erb".
        count: K, how many bands.
        positions: Q, evenly spaced from 0 Hz to half the sample rate.
        sample_rate: in Hz.
    """
    nyquist = sample_rate / 2
    if layout == "musical":
        lowest = nyquist / positions
        centres = np.geomspace(lowest, nyquist, count)
        ratio = 2 ** (np.log2(nyquist / lowest) / count)
        low, high = centres / ratio, centres * ratio
    else:
        warp, unwarp = _SCALES[layout]
        grid = unwarp(np.linspace(warp(0.0), warp(nyquist), count + 2))
        low, high = grid[:-2], grid[2:]
    edges = np.stack([np.floor(low / nyquist * positions), np.ceil(high / nyquist * positions)], axis=1)
    edges = edges.clip(0, positions).astype(np.int64)
    edges[:, 0] = np.minimum(edges[:, 0], positions - 1)
    edges[:, 1] = np.maximum(edges[:, 1], edges[:, 0] + 1)
    return edges


def membership(edges: Edges, positions: int) -> NDArray[np.bool_]:
    """Whether each band holds each position, `[K, Q]`."""
    f = np.arange(positions)
    return (edges[:, :1] <= f) & (f < edges[:, 1:])


def positional_bias(edges: Edges, positions: int) -> NDArray[np.float32]:
    """SFC's psychoacoustic bias P, `[K, Q]` (arXiv 2602.08671, section III-B): near 0 in the band, falling outside.

    For band [s, e): f - s below it, (e - 1) - f above it, and -|floor((s + e) / 2) - f| / (floor((e - s) / 2) + 1)
    inside.
    """
    start, end = edges[:, :1], edges[:, 1:]
    f = np.arange(positions)[None, :]
    inside = -np.abs((start + end) // 2 - f) / ((end - start) // 2 + 1)
    bias = np.where(f < start, f - start, np.where(f >= end, end - 1 - f, inside))
    return bias.astype(np.float32)


def _mel(hertz: float) -> float:
    return 2595 * float(np.log10(1 + hertz / 700))


def _erb(hertz: float) -> float:
    return 21.4 * float(np.log10(1 + 0.00437 * hertz))


_SCALES = {
    "mel": (_mel, lambda mel: 700 * (10 ** (mel / 2595) - 1)),
    "erb": (_erb, lambda erb: (10 ** (erb / 21.4) - 1) / 0.00437),
}
