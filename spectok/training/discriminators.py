"""Discriminators: multi-period (HiFi-GAN, arXiv 2010.05646) and multi-band STFT (DAC, arXiv 2306.06546).

All take audio `[B, T]` and return `(logits, feature_maps)`: `logits` holds one tensor for each period or window, and
`feature_maps` holds for each of them a list with one tensor for each layer.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from spectok.schema import require

DiscriminatorOutput = tuple[list[Tensor], list[list[Tensor]]]


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Periods, windows and widths. The defaults are small enough for a CPU; comments give the papers' widths."""

    periods: tuple[int, ...] = (2, 3, 5, 7, 11)  # samples
    period_channels: tuple[int, ...] = (8, 16, 32, 32, 32)  # channels of each layer; papers: (32, 128, 512, 1024, 1024)
    windows: tuple[int, ...] = (2048, 1024, 512)  # samples; the hop is a quarter
    band_edges: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)  # shares of the Nyquist frequency
    band_channels: int = 8  # channels of each layer; paper: 32
    periods_asked: int = 0  # number of periods used in a step, drawn at random for each; 0 uses all
    windows_asked: int = 0  # the same for windows

    def __post_init__(self) -> None:
        require(
            bool(self.periods or self.windows) and min(self.periods + self.windows) > 1,
            f"periods {self.periods} and windows {self.windows} must be at least 2, and not both empty",
        )
        require(
            min(self.period_channels, default=0) > 0 and self.band_channels > 0,
            f"period_channels {self.period_channels} and band_channels {self.band_channels} must be positive",
        )
        require(
            0 <= self.periods_asked <= len(self.periods) and 0 <= self.windows_asked <= len(self.windows),
            f"periods_asked {self.periods_asked} and windows_asked {self.windows_asked} must be from 0 to the "
            f"numbers of periods and windows, {len(self.periods)} and {len(self.windows)}",
        )
        edges = self.band_edges
        require(
            len(edges) > 1 and edges[0] == 0 and edges[-1] == 1 and list(edges) == sorted(set(edges)),
            f"band_edges {edges} must rise from 0 to 1",
        )
        for window in self.windows:
            ends = {round(edge * (window // 2 + 1)) for edge in edges}
            require(
                window >= 4 and len(ends) == len(edges),
                f"windows {self.windows} are too short for the bands {edges}: one of {window} has bands without bins",
            )


def _activate(x: Tensor) -> Tensor:
    return nn.functional.leaky_relu(x, 0.1)


class PeriodDiscriminator(nn.Module):
    """Audio folded at a period; convolutions along time only, so that each phase is processed separately.

    The papers' convolutions of kernel (5, 1) over `[B, 1, T / period, period]` are computed with
    kernel 5 over a batch of `B * period` sequences: the same sums in half the time on a CPU.
    """

    def __init__(self, period: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.period = period
        strides = [3] * (len(channels) - 1) + [1]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv1d(*widths, 5, stride, padding=2))
            for widths, stride in zip(itertools.pairwise((1, *channels)), strides, strict=True)
        )
        self.output = weight_norm(nn.Conv1d(channels[-1], 1, 3, padding=1))

    def forward(self, audio: Tensor) -> tuple[Tensor, list[Tensor]]:
        """`[B, T]` to logits `[B, period, F]` and the feature maps, `[B, period * C, F]`."""
        batch, excess = audio.shape[0], -audio.shape[1] % self.period
        folded = nn.functional.pad(audio[:, None], (0, excess), mode="reflect").unflatten(2, (-1, self.period))
        x = folded.transpose(2, 3).reshape(batch * self.period, 1, -1)
        maps = []
        for layer in self.layers:
            x = _activate(layer(x))
            maps.append(x.reshape(batch, -1, x.shape[2]))
        return self.output(x).reshape(batch, self.period, -1), maps


class BandSTFTDiscriminator(nn.Module):
    """A complex spectrogram in bands, each with its own convolutions; strides shrink the frequency axis only."""

    def __init__(self, window: int, edges: tuple[float, ...], channels: int) -> None:
        super().__init__()
        bins = window // 2 + 1
        self.n_fft = window
        self.bands = list(itertools.pairwise(round(edge * bins) for edge in edges))
        self.register_buffer("window", torch.hann_window(window), persistent=False)
        self.window: Tensor
        shapes = [((3, 9), (1, 1)), *[((3, 9), (1, 2))] * 3, ((3, 3), (1, 1))]
        self.stacks = nn.ModuleList(
            nn.ModuleList(
                weight_norm(nn.Conv2d(channels if n else 2, channels, kernel, stride, (1, kernel[1] // 2)))
                for n, (kernel, stride) in enumerate(shapes)
            )
            for _ in self.bands
        )
        self.output = weight_norm(nn.Conv2d(channels, 1, (3, 3), padding=1))

    def forward(self, audio: Tensor) -> tuple[Tensor, list[Tensor]]:
        """`[B, T]` to logits `[B, 1, F, Q]`, the bands side by side, and the feature maps of all bands."""
        spectrum = torch.stft(
            audio.float(), self.n_fft, self.n_fft // 4, window=self.window, normalized=True, return_complex=True
        )
        x = torch.view_as_real(spectrum).permute(0, 3, 2, 1)  # [B, 2, F, Q]
        maps, ends = [], []
        for (first, last), stack in zip(self.bands, self.stacks, strict=True):
            band = x[..., first:last]
            assert isinstance(stack, nn.ModuleList)
            for layer in stack:
                band = _activate(layer(band))
                maps.append(band)
            ends.append(band)
        return self.output(torch.cat(ends, dim=3)), maps


class _RandomSubset(nn.Module):
    """Discriminators of one kind, of which each step uses a random subset of fixed size, or all (0)."""

    def __init__(self, discriminators: Sequence[nn.Module], size: int) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(discriminators)
        self.size = size or len(discriminators)

    def forward(self, audio: Tensor) -> DiscriminatorOutput:
        """`[B, T]` to the logits and the feature maps of each discriminator in the subset."""
        drawn = torch.randperm(len(self.discriminators))[: self.size].sort().values
        outputs = [self.discriminators[int(n)](audio) for n in drawn]
        return [logits for logits, _ in outputs], [maps for _, maps in outputs]


class MultiPeriodDiscriminator(_RandomSubset):
    """One `PeriodDiscriminator` per period (HiFi-GAN, section 2.3)."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        discriminators = [PeriodDiscriminator(period, config.period_channels) for period in config.periods]
        super().__init__(discriminators, config.periods_asked)


class MultiBandSTFTDiscriminator(_RandomSubset):
    """One `BandSTFTDiscriminator` per window (DAC, section 3.3)."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        edges, channels = config.band_edges, config.band_channels
        super().__init__(
            [BandSTFTDiscriminator(n_fft, edges, channels) for n_fft in config.windows], config.windows_asked
        )


class Discriminators(nn.Module):
    """Both kinds of discriminators; logits and feature maps are concatenated."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.period = MultiPeriodDiscriminator(config)
        self.band = MultiBandSTFTDiscriminator(config)

    def forward(self, audio: Tensor) -> DiscriminatorOutput:
        """`[B, T]` to the logits and the feature maps of all discriminators."""
        (logits, maps), (more_logits, more_maps) = self.period(audio), self.band(audio)
        return logits + more_logits, maps + more_maps
