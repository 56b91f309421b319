"""Mixers with weights for each of a set of fixed bands: the alternatives to learnable queries (queries.py)."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from spectok.model.bottleneck.bands import Edges, membership
from spectok.model.layers import linear, rms, unit_gain_

EPSILON = 1e-5  # added to variances, as in nn.LayerNorm


class PaddedBands(nn.Module):
    """Bands padded to the width of the widest, so that one matrix product computes all of them."""

    def __init__(self, edges: Edges, positions: int) -> None:
        super().__init__()
        places = edges[:, :1] + np.arange((edges[:, 1] - edges[:, 0]).max())
        inside = torch.from_numpy(places < edges[:, 1:]).unsqueeze(2)
        self.register_buffer("places", torch.from_numpy(places.clip(max=positions - 1)), persistent=False)
        self.register_buffer("inside", inside, persistent=False)
        self.places: Tensor  # the positions of each band, [num_bands, widest]
        self.inside: Tensor  # False where `places` is padding, [num_bands, widest, 1]


class PackedBands(PaddedBands):
    """Bands whose parameters are stored without padding: `[rows, *]`, a row for each position and channel of each band.

    The rows of a band follow those of the band before.
    """

    def __init__(self, edges: Edges, positions: int, channels: int) -> None:
        super().__init__(edges, positions)
        widths = torch.from_numpy(edges[:, 1] - edges[:, 0])
        self.rows = int(widths.sum()) * channels
        self.register_buffer("sizes", (widths * channels).float(), persistent=False)
        self.sizes: Tensor  # rows of each band, [num_bands]
        inside = self.inside.expand(-1, -1, channels).flatten(1)  # [num_bands, widest * C]
        index = torch.full(inside.shape, self.rows)
        index[inside] = torch.arange(self.rows)
        self.register_buffer("index", index, persistent=False)
        self.index: Tensor  # the row of each place; `rows` where the place is padding

    def padded(self, parameter: Tensor) -> Tensor:
        """`[rows, *]` to `[num_bands, widest * C, *]`, zero in the padding."""
        return torch.cat([parameter, torch.zeros_like(parameter[:1])])[self.index]


class _Split(PackedBands):
    """`BandSplit` for neighbouring bands of similar width."""

    def __init__(self, edges: Edges, positions: int, channels: int) -> None:
        super().__init__(edges, positions, channels)
        self.gain, self.bias = nn.Parameter(torch.ones(self.rows)), nn.Parameter(torch.zeros(self.rows))
        fan_in = torch.repeat_interleave(self.sizes, self.sizes.long())
        self.weight = nn.Parameter(torch.randn(self.rows, channels) * fan_in.rsqrt().unsqueeze(1))
        self.offset = nn.Parameter(torch.zeros(len(edges), channels))

    def forward(self, x: Tensor) -> Tensor:
        """Apply norm and linear layer as one product; at an rms of 1, the variance is 1 minus the squared mean."""
        band = (x[:, self.places] * self.inside).flatten(2)  # [N, num_bands, widest * C]
        sizes = self.sizes.unsqueeze(1)
        level = (band.square().sum(2, keepdim=True) / sizes).clamp_min(1e-12).sqrt()
        mean = band.sum(2, keepdim=True) / sizes
        weight = self.padded(self.gain.unsqueeze(1) * self.weight)
        offset = (self.padded(self.bias).unsqueeze(1) @ self.padded(self.weight)).squeeze(1) + self.offset
        y = (band.transpose(0, 1) @ weight).transpose(0, 1) - mean * weight.sum(1)
        return y * torch.rsqrt(1 - (mean / level).square() + EPSILON) + level * offset


class BandSplit(nn.Module):
    """A norm and a linear layer for each band: `[N, Q, C]` to `[N, num_bands, C]` (Band-Split RNN, section III-A).

    The norm would remove the rms of a band; the output is multiplied by it, to preserve loudness.
    """

    def __init__(self, edges: Edges, positions: int, channels: int) -> None:
        super().__init__()
        runs = [_Split(run, positions, channels) for run in _runs(edges)]
        self.runs, self.weights = nn.ModuleList(runs), channels * sum(run.rows for run in runs)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the positions and channels of every band."""
        return torch.cat([run(x) for run in self.runs], dim=1)

    def macs(self, frames: int, tokens: int) -> int:
        """Multiply-accumulates of the bands' layers for `frames` frames, without padding."""
        return frames * self.weights


class _Merge(PackedBands):
    """`BandMerge` for neighbouring bands of similar width, without the sum over overlapping bands."""

    def __init__(self, edges: Edges, positions: int, channels: int) -> None:
        super().__init__(edges, positions, channels)
        num_bands = len(edges)
        self.gain = nn.Parameter(torch.ones(num_bands, channels))
        self.bias = nn.Parameter(torch.zeros(num_bands, channels))
        self.hidden = nn.Parameter(torch.randn(num_bands, channels, channels) / math.sqrt(channels))
        self.hidden_bias = nn.Parameter(torch.zeros(num_bands, channels))
        self.value, self.gate = (
            nn.Parameter(2 * torch.randn(self.rows, channels) / math.sqrt(channels)) for _ in range(2)
        )
        self.value_bias, self.gate_bias = (nn.Parameter(torch.zeros(self.rows)) for _ in range(2))

    def forward(self, band: Tensor) -> Tensor:
        """`[N, num_bands, C]` to `[N, num_bands * widest, C]`, zero in the padding."""
        level = rms(band, (2,))
        normed = nn.functional.layer_norm(band / level, band.shape[2:], eps=EPSILON) * self.gain + self.bias
        hidden = torch.tanh((normed.transpose(0, 1) @ self.hidden).transpose(0, 1) + self.hidden_bias).transpose(0, 1)
        value, gate = (
            (hidden @ self.padded(weight).transpose(1, 2)).transpose(0, 1) + self.padded(bias)
            for weight, bias in ((self.value, self.value_bias), (self.gate, self.gate_bias))
        )
        split: Tensor = (value * torch.sigmoid(gate) * level).unflatten(2, (-1, band.shape[2]))
        return split.flatten(1, 2)


class BandMerge(nn.Module):
    """A norm and a gated two-layer network for each band, `[N, num_bands, C]` to `[N, Q, C]`; overlapping bands add up.

    LayerNorm, linear, tanh, gated linear (Band-Split RNN, section III-C).
    """

    def __init__(self, edges: Edges, positions: int, channels: int) -> None:
        super().__init__()
        runs = [_Merge(run, positions, channels) for run in _runs(edges)]
        self.runs, self.counts = nn.ModuleList(runs), [len(run.places) for run in runs]
        self.weights = channels * (2 * sum(run.rows for run in runs) + len(edges) * channels)
        places = torch.cat([run.places.flatten() for run in runs])
        inside = torch.cat([run.inside.flatten() for run in runs])
        slots = [((places == q) & inside).nonzero()[:, 0] for q in range(positions)]
        most = max(map(len, slots))
        share = _share(edges, positions)
        self.register_buffer("slots", torch.stack([_filled(s, most) for s in slots]), persistent=False)
        shares = [share[q] * (torch.arange(most) < len(s)) for q, s in enumerate(slots)]
        self.register_buffer("shares", torch.stack(shares).unsqueeze(2), persistent=False)
        self.slots: Tensor  # indices of the bands' outputs for each position, [Q, most]
        self.shares: Tensor  # their factors, 0 for padding, [Q, most, 1]

    def forward(self, x: Tensor) -> Tensor:
        """Expand every band and add them up."""
        bands = x.split(self.counts, dim=1)
        spread = torch.cat([run(band) for run, band in zip(self.runs, bands, strict=True)], dim=1)
        return (spread[:, self.slots] * self.shares).sum(2)

    def macs(self, frames: int, tokens: int) -> int:
        """Multiply-accumulates of the bands' layers for `frames` frames, without padding."""
        return frames * self.weights


def _runs(edges: Edges) -> list[Edges]:
    """Groups of neighbouring bands, in which no band is more than twice as wide as a narrower one before it."""
    runs, first = [], 0
    widths = edges[:, 1] - edges[:, 0]
    for k in range(len(edges)):
        if widths[k] > 2 * widths[first:k].min(initial=widths[k]):
            runs.append(edges[first:k])
            first = k
    return [*runs, edges[first:]]


def _filled(slots: Tensor, length: int) -> Tensor:
    """The slots, padded to `length` with the first one."""
    return torch.cat([slots, slots[:1].expand(length - len(slots))])


class BandConvolution(PaddedBands):
    """A separate convolution for each band, as wide as the band: `[N, Q, C]` to `[N, num_bands, C]`.

    The convolutions work on groups of channels; a linear layer shared by the bands mixes the groups.
    """

    def __init__(self, edges: Edges, positions: int, channels: int, groups: int) -> None:
        super().__init__(edges, positions)
        num_bands, width = self.places.shape
        self.conv = nn.Conv1d(num_bands * channels, num_bands * channels, width, groups=num_bands * groups, bias=False)
        unit_gain_(self.conv, gain=math.sqrt(self.inside.numel() / float(self.inside.sum())))
        self.mix = linear(channels, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Gather the bands, convolve, mix."""
        gathered = (x[:, self.places] * self.inside).transpose(2, 3).flatten(1, 2)  # [N, num_bands * C, width]
        y: Tensor = self.mix(self.conv(gathered).reshape(x.shape[0], -1, x.shape[2]))
        return y


class BandTransposed(PaddedBands):
    """The transpose of `BandConvolution`: `[N, num_bands, C]` to `[N, Q, C]`; overlapping bands add up."""

    def __init__(self, edges: Edges, positions: int, channels: int, groups: int) -> None:
        super().__init__(edges, positions)
        num_bands, width = self.places.shape
        self.register_buffer("share", _share(edges, positions), persistent=False)
        self.share: Tensor
        self.mix = linear(channels, channels, bias=False)
        self.conv = nn.Conv1d(
            num_bands * channels, num_bands * channels * width, 1, groups=num_bands * groups, bias=False
        )
        unit_gain_(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        """Mix, spread over the bands, add up."""
        num_bands, width = self.places.shape
        spread = (
            self.conv(self.mix(x).flatten(1).unsqueeze(2)).reshape(x.shape[0], num_bands, -1, width).transpose(2, 3)
        )
        y = x.new_zeros(x.shape[0], len(self.share), x.shape[2])
        return y.index_add(1, self.places.flatten(), (spread * self.inside).flatten(1, 2)) * self.share


def _share(edges: Edges, positions: int) -> Tensor:
    """The factor that keeps the variance of the sum of overlapping bands, for each position, `[Q, 1]`."""
    return torch.from_numpy(membership(edges, positions).sum(axis=0)).rsqrt().unsqueeze(1)
