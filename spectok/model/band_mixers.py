"""Mixers whose weights belong to fixed bands: what learnable queries compete with (bottleneck.py)."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from spectok.model.bands import Edges, membership
from spectok.model.layers import linear, rms, unit_gain_


class BandSplit(nn.Module):
    """A norm and a linear layer for each band: `[N, Q, C]` to `[N, K, C]` (Band-Split RNN, section III-A).

    The rms of a band, which its norm would lose, is put back after.
    """

    def __init__(self, edges: Edges, positions: int, channels: int) -> None:
        super().__init__()
        self.edges = edges.tolist()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm((end - start) * channels), linear((end - start) * channels, channels))
            for start, end in self.edges
        )

    def forward(self, x: Tensor) -> Tensor:
        """Mix the positions and channels of every band."""
        outputs = []
        for (start, end), layer in zip(self.edges, self.layers, strict=True):
            band = x[:, start:end].flatten(1)
            level = rms(band, (1,))
            outputs.append(layer(band / level) * level)
        return torch.stack(outputs, dim=1)


class BandMerge(nn.Module):
    """A norm and a gated two-layer network for each band, `[N, K, C]` to `[N, Q, C]`; where bands overlap they add up.

    LayerNorm, linear, tanh, gated linear (Band-Split RNN, section III-C).
    """

    def __init__(self, edges: Edges, positions: int, channels: int) -> None:
        super().__init__()
        self.edges = edges.tolist()
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(channels),
                linear(channels, channels),
                nn.Tanh(),
                linear(channels, 2 * (end - start) * channels, gain=2.0),
                nn.GLU(),
            )
            for start, end in self.edges
        )
        self.register_buffer("share", _share(edges, positions), persistent=False)
        self.share: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Unfold every band and add up."""
        y = x.new_zeros(x.shape[0], len(self.share), x.shape[2])
        for band, (start, end), layer in zip(x.unbind(1), self.edges, self.layers, strict=True):
            level = rms(band, (1,))
            y[:, start:end] += (layer(band / level) * level).unflatten(1, (end - start, -1))
        return y * self.share


class PaddedBands(nn.Module):
    """Bands of one width, so that one grouped convolution serves them all: narrower ones than the widest are padded."""

    def __init__(self, edges: Edges, positions: int) -> None:
        super().__init__()
        places = edges[:, :1] + np.arange((edges[:, 1] - edges[:, 0]).max())
        inside = torch.from_numpy(places < edges[:, 1:]).unsqueeze(2)
        self.register_buffer("places", torch.from_numpy(places.clip(max=positions - 1)), persistent=False)
        self.register_buffer("inside", inside, persistent=False)
        self.places: Tensor  # the positions of each band, [K, widest]
        self.inside: Tensor  # whether they are, [K, widest, 1]


class BandConvolution(PaddedBands):
    """A convolution of its own for each band, as wide as the band: `[N, Q, C]` to `[N, K, C]`.

    Its channels are in groups; a linear layer that the bands share mixes them.
    """

    def __init__(self, edges: Edges, positions: int, channels: int, groups: int) -> None:
        super().__init__(edges, positions)
        count, width = self.places.shape
        self.conv = nn.Conv1d(count * channels, count * channels, width, groups=count * groups, bias=False)
        unit_gain_(self.conv, gain=math.sqrt(self.inside.numel() / float(self.inside.sum())))
        self.mix = linear(channels, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Gather the bands, convolve, mix."""
        gathered = (x[:, self.places] * self.inside).transpose(2, 3).flatten(1, 2)  # [N, K * C, width]
        y: Tensor = self.mix(self.conv(gathered).reshape(x.shape[0], -1, x.shape[2]))
        return y


class BandTransposed(PaddedBands):
    """The transpose of `BandConvolution`: `[N, K, C]` to `[N, Q, C]`; where bands overlap they add up."""

    def __init__(self, edges: Edges, positions: int, channels: int, groups: int) -> None:
        super().__init__(edges, positions)
        count, width = self.places.shape
        self.register_buffer("share", _share(edges, positions), persistent=False)
        self.share: Tensor
        self.mix = linear(channels, channels, bias=False)
        self.conv = nn.Conv1d(count * channels, count * channels * width, 1, groups=count * groups, bias=False)
        unit_gain_(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        """Mix, spread over the bands, add up."""
        count, width = self.places.shape
        spread = self.conv(self.mix(x).flatten(1).unsqueeze(2)).reshape(x.shape[0], count, -1, width).transpose(2, 3)
        y = x.new_zeros(x.shape[0], len(self.share), x.shape[2])
        return y.index_add(1, self.places.flatten(), (spread * self.inside).flatten(1, 2)) * self.share


def _share(edges: Edges, positions: int) -> Tensor:
    """What the sum of the bands at each position is multiplied with to keep its variance, `[Q, 1]`."""
    return torch.from_numpy(membership(edges, positions).sum(axis=0)).rsqrt().unsqueeze(1)
