"""Discriminators: multi-period (HiFi-GAN, arXiv 2010.05646), multi-band STFT (DAC, arXiv 2306.06546), log spectra.

All take audio `[B, T]` and return `(logits, feature_maps)`: `logits` holds one tensor for each period or window, and
`feature_maps` holds for each of them a list with one tensor for each layer.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from spectok.errors import require
from spectok.training.whisper import COMPARED, WIDTH

DiscriminatorOutput = tuple[list[Tensor], list[list[Tensor]]]
LOG_FLOOR = 1e-6  # added to powers before the logarithm; the discriminators hear audio with a mean power of 1


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
    log_windows: tuple[int, ...] = ()  # samples, of discriminators that see log spectra; the hop is a quarter
    log_channels: tuple[int, ...] = (16, 32, 64, 64)  # of their layers
    log_windows_asked: int = 0  # number of these used in a step, as for the others
    recognizer_channels: int = 0  # of discriminators of what a speech recogniser hears (whisper.py); 0: there are none

    def __post_init__(self) -> None:
        require(
            min(self.periods + self.windows + self.log_windows, default=2 * (self.recognizer_channels > 0)) > 1,
            f"periods {self.periods}, windows {self.windows} and log_windows {self.log_windows} must be at least 2, "
            "and not all empty unless there are recognizer_channels",
        )
        require(
            all(channels and min(channels) > 0 for channels in (self.period_channels, self.log_channels))
            and self.band_channels > 0,
            f"period_channels {self.period_channels}, band_channels {self.band_channels} and log_channels "
            f"{self.log_channels} must be positive",
        )
        for name in ("periods", "windows", "log_windows"):
            asked, known = getattr(self, f"{name}_asked"), len(getattr(self, name))
            require(
                0 <= asked <= known, f"{name}_asked is {asked}, but must be from 0 to the number of {name}, {known}"
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


def _spectrum(audio: Tensor, window: Tensor) -> Tensor:
    """Real and imaginary parts of the short-time spectrum of audio `[B, T]`, `[B, 2, F, Q]`; the hop is a quarter."""
    n_fft = len(window)
    spectrum = torch.stft(audio.float(), n_fft, n_fft // 4, window=window, normalized=True, return_complex=True)
    return torch.view_as_real(spectrum).permute(0, 3, 2, 1)


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
        x = _spectrum(audio, self.window)
        maps, ends = [], []
        for (first, last), stack in zip(self.bands, self.stacks, strict=True):
            band = x[..., first:last]
            assert isinstance(stack, nn.ModuleList)
            for layer in stack:
                band = _activate(layer(band))
                maps.append(band)
            ends.append(band)
        return self.output(torch.cat(ends, dim=3)), maps


class LogSpectrumDiscriminator(nn.Module):
    """The logarithms of a spectrogram's powers, and where each bin lies; strides shrink the frequency axis only.

    It does not see phases, so that it cannot ask for those that the codes do not contain. Discriminators of this kind
    train the speech enhancement of Opus (J. Büthe et al., arXiv 2309.14521).
    """

    def __init__(self, window: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        places = torch.linspace(0, 1, window // 2 + 1)
        waves = [torch.cos(math.pi * octave * places) for octave in (1, 2, 4)]
        self.register_buffer("window", torch.hann_window(window), persistent=False)
        self.register_buffer("places", torch.stack(waves), persistent=False)
        self.window: Tensor
        self.places: Tensor  # [3, Q]
        widths = itertools.pairwise((1 + len(waves), *channels))
        self.layers = nn.ModuleList(weight_norm(nn.Conv2d(*pair, 3, (1, 2), padding=1)) for pair in widths)
        self.output = weight_norm(nn.Conv2d(channels[-1], 1, 3, padding=1))

    def forward(self, audio: Tensor) -> tuple[Tensor, list[Tensor]]:
        """`[B, T]` to logits `[B, 1, F, Q]` and the feature maps."""
        power = _spectrum(audio, self.window).square().sum(1, keepdim=True)
        levels = torch.log(power + LOG_FLOOR) / -math.log(LOG_FLOOR) + 0.5
        x = torch.cat([levels, self.places[None, :, None].expand(len(power), -1, power.shape[2], -1)], dim=1)
        maps = []
        for layer in self.layers:
            x = _activate(layer(x))
            maps.append(x)
        return self.output(x), maps


class RecognizerDiscriminator(nn.Module):
    """Convolutions over time, over the features of one layer of a speech recogniser's encoder.

    The recogniser is not trained. Discriminators on features of a pretrained network learn in fewer steps than those on
    audio (A. Sauer et al., arXiv 2111.01007), and have made synthetic speech more natural (StyleTTS 2, Y. A. Li et al.,
    arXiv 2306.07691).
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        # A few dimensions are a hundred times larger than the others. The statistics are always those of the batch.
        self.scale = nn.BatchNorm1d(width, affine=False, track_running_stats=False)
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv1d(*widths, 5, padding=2)) for widths in ((width, channels), (channels, channels))
        )
        self.output = weight_norm(nn.Conv1d(channels, 1, 3, padding=1))

    def forward(self, features: Tensor) -> tuple[Tensor, list[Tensor]]:
        """`[B, F, D]` to logits `[B, 1, F]` and the feature maps."""
        x = self.scale(features.transpose(1, 2))
        maps = []
        for layer in self.layers:
            x = _activate(layer(x))
            maps.append(x)
        return self.output(x), maps


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


class MultiLogSpectrumDiscriminator(_RandomSubset):
    """One `LogSpectrumDiscriminator` per window."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        discriminators = [LogSpectrumDiscriminator(n_fft, config.log_channels) for n_fft in config.log_windows]
        super().__init__(discriminators, config.log_windows_asked)


class Discriminators(nn.Module):
    """All kinds of discriminators; logits and feature maps are concatenated."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.period = MultiPeriodDiscriminator(config)
        self.band = MultiBandSTFTDiscriminator(config)
        self.log = MultiLogSpectrumDiscriminator(config)
        channels = config.recognizer_channels
        self.recognizer = nn.ModuleList(RecognizerDiscriminator(WIDTH, channels) for _ in COMPARED if channels)

    def forward(self, audio: Tensor, heard: Sequence[Tensor] = ()) -> DiscriminatorOutput:
        """Audio `[B, T]` to the logits and the feature maps of all discriminators.

        Args:
            audio: originals, then decoded audio.
            heard: what a recogniser hears in them, for each of its layers `[B, F, D]`.
        """
        logits, maps = [], []
        for kind in (self.period, self.band, self.log):
            found, layers = kind(audio)
            logits += found
            maps += layers
        for discriminator, features in zip(self.recognizer, heard if len(self.recognizer) else (), strict=True):
            output, hidden = discriminator(features)
            logits.append(output)
            maps.append(hidden)
        return logits, maps
