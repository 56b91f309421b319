r"""Audio to spectrum and back: causal STFT, inverse STFT and the power law, as streaming layers.

    analysis window   ____/‾‾‾‾‾‾‾‾‾‾\      n_fft samples, the newest on the right
    synthesis window          /‾‾‾‾‾‾\      its last synthesis_length samples: the only ones that overlap later frames

The long analysis window gives a fine frequency resolution; the short synthesis window keeps the delay at
`synthesis_length - hop_length` samples. The product of both windows is a Hann window, which overlap-adds to one.
"""

import functools
import math
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor

from spectok.config import SpectrumConfig
from spectok.model.streaming import State, Streaming, Timing


def windows(config: SpectrumConfig) -> tuple[Tensor, Tensor]:
    """Analysis window `[n_fft]` and synthesis window `[synthesis_length]`, float64.

    If both are equally long, each is the square root of a Hann window. They are scaled so that the spectrum of white
    noise of variance 1 has variance 1.
    """
    n_fft, overlap = config.n_fft, config.synthesis_length
    fall = overlap // 2
    rise = n_fft - fall
    rising = torch.sin((torch.arange(rise, dtype=torch.float64) + 0.5) * (math.pi / 2 / rise))
    falling = torch.cos((torch.arange(fall, dtype=torch.float64) + 0.5) * (math.pi / 2 / fall))
    analysis = torch.cat([rising, falling])
    hann = torch.sin((torch.arange(overlap, dtype=torch.float64) + 0.5) * (math.pi / overlap)) ** 2
    synthesis = hann * (2 * config.hop_length / overlap) / analysis[n_fft - overlap :]
    scale = analysis.square().sum().rsqrt()
    return analysis * scale, synthesis / scale


class FourierMatrix(NamedTuple):
    """A windowed Fourier transform, or its inverse, as factors: an exported graph holds these and computes the matrix.

    For a few hundred samples, a matrix product takes less time than a fast transform, and every engine supports it.
    """

    # Some transforms have an axis for several matrices before these axes.
    left: Tensor  # [I, 1], float64
    rows: Tensor  # [I, 1], int64: numbers of samples (inverse: of bins)
    columns: Tensor  # [1, J], int64: numbers of bins (inverse: of samples)
    offsets: Tensor  # [I, 1] or [1, J], int64: 0 for a real part, n_fft for an imaginary one
    waves: Tensor  # [2 * n_fft], float64: a period of the cosine, then of the negative sine
    right: Tensor  # [1, J], float64

    def product(self) -> Tensor:
        """The matrix, `[I, J]`, float64."""
        return self.left * self.waves[self.rows * self.columns % (len(self.waves) // 2) + self.offsets] * self.right


def matrices(
    config: SpectrumConfig, positions: int | None = None, first: int = 0
) -> tuple[FourierMatrix, FourierMatrix]:
    """The windowed Fourier transform of a frame and its inverse.

    Args:
        config: lengths of frame and windows.
        positions: the highest bin used plus 1, by default `n_fft // 2 + 1`; all other bins count as zero.
        first: the lowest bin used; Q is `positions - first`.

    Returns:
        The transform from samples to real parts, then imaginary parts, `[n_fft, 2 * Q]`; and its inverse to the samples
        of the synthesis window, `[2 * Q, synthesis_length]`.
    """
    n_fft = config.n_fft
    analysis, synthesis = windows(config)
    angles = torch.arange(n_fft, dtype=torch.float64) * (2 * math.pi / n_fft)
    waves = torch.cat([torch.cos(angles), -torch.sin(angles)])
    samples = torch.arange(n_fft)
    bins = torch.arange(n_fft // 2 + 1)[first:positions]
    offsets = torch.arange(2).repeat_interleave(len(bins)) * n_fft
    shares = torch.where(bins * 2 % n_fft == 0, 1.0, 2.0).double() / n_fft  # inner bins count for two
    bins, shares = bins.repeat(2), shares.repeat(2)
    ones = torch.ones(1, len(bins), dtype=torch.float64)
    return (
        FourierMatrix(analysis[:, None], samples[:, None], bins[None], offsets[None], waves, ones),
        FourierMatrix(
            shares[:, None],
            bins[:, None],
            samples[None, n_fft - config.synthesis_length :],
            offsets[:, None],
            waves,
            synthesis[None],
        ),
    )


def _transform(x: Tensor, matrix: Tensor) -> Tensor:
    """`x @ matrix` in the matrix's precision, also under autocast."""
    if torch.is_autocast_enabled(x.device.type):
        with torch.autocast(x.device.type, enabled=False):
            return x.to(matrix.dtype) @ matrix
    return x @ matrix


class STFT(Streaming):
    """Causal short-time Fourier transform: audio `[B, T]` to spectrum `[B, 2, T / hop_length, Q]`.

    Frame f covers the n_fft samples that end with sample `(f + 1) * hop_length`. Its bins are those from `first` to
    below `positions`, by default all.
    """

    def __init__(self, config: SpectrumConfig, positions: int | None = None, first: int = 0) -> None:
        super().__init__()
        self.n_fft, self.hop_length = config.n_fft, config.hop_length
        self.hops = -(-config.n_fft // config.hop_length)  # that a frame spans
        self.timing = Timing(Fraction(self.hop_length), receptive_field=self.n_fft)
        self.fourier = matrices(config, positions, first)[0]
        self.register_buffer("matrix", self.fourier.product().float(), persistent=False)
        self.matrix: Tensor

    def init_state(self, batch: int) -> State:
        """The past samples of a frame: `[B, n_fft - hop_length]`, rounded up to whole hops."""
        return (self.zeros(batch, (self.hops - 1) * self.hop_length),)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Consume a multiple of hop_length samples."""
        audio = torch.cat([state[0], x], dim=-1)
        hops = audio.unflatten(-1, (-1, self.hop_length))  # [B, F + hops - 1, hop_length]
        ends = [*range(1 - self.hops, 0), None]
        frames = torch.cat([hops[:, i:end] for i, end in enumerate(ends)], dim=-1)
        frames = frames[..., self.hops * self.hop_length - self.n_fft :]
        spectrum = _transform(frames, self.matrix).unflatten(-1, (2, -1)).transpose(1, 2)  # [B, 2, F, Q]
        return spectrum, (audio[:, -state[0].shape[1] :],)


class InverseSTFT(Streaming):
    """Overlap-add synthesis: spectrum `[B, 2, F, Q]` to audio `[B, F * hop_length]`.

    Q is `positions`, by default all bins. The output lags `synthesis_length - hop_length` samples behind the input of
    the `STFT`.
    """

    def __init__(self, config: SpectrumConfig, positions: int | None = None) -> None:
        super().__init__()
        self.hop_length, self.overlap = config.hop_length, config.synthesis_length
        past = Fraction(self.overlap, self.hop_length) - 1  # earlier frames that overlap the first hop of a frame
        self.timing = Timing(Fraction(1, self.hop_length), past, int(past) + 1)
        self.fourier = matrices(config, positions)[1]
        self.register_buffer("matrix", self.fourier.product().float(), persistent=False)
        self.matrix: Tensor

    def init_state(self, batch: int) -> State:
        """The frames that overlap the next hop: `[B, synthesis_length / hop_length - 1, synthesis_length]`."""
        return (self.zeros(batch, self.overlap // self.hop_length - 1, self.overlap),)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Consume frames; return hop_length finished samples for each."""
        frames = torch.cat([state[0], self.frames(x)], dim=1)
        past = state[0].shape[1]
        # A finished hop is the sum of the last hop of the oldest frame, the last but one of the next frame, and so on.
        hops = frames.split(self.hop_length, dim=2)
        parts = (hops[past - i][:, i : i - past or None] for i in range(past + 1))
        return functools.reduce(torch.add, parts).flatten(1), (frames[:, -past:],)

    def frames(self, x: Tensor) -> Tensor:
        """The windowed samples of each frame, `[B, F, synthesis_length]`, before overlapping frames are added."""
        return _transform(x.transpose(1, 2).flatten(2), self.matrix)


class HalvedInverseSTFT(InverseSTFT):
    """An `InverseSTFT` with a quarter of the multiplications, for long transforms.

    Cosines and sines are symmetric in time, and even and odd bins repeat after half a transform with the same or the
    other sign. So the real and imaginary parts of even and odd bins, transformed one by one to the first quarter of the
    samples, give all samples by additions (as the first two steps of a fast Fourier transform).

    Args:
        config: n_fft is a multiple of 4.
        positions: Q, an even number.
    """

    def __init__(self, config: SpectrumConfig, positions: int) -> None:
        super().__init__(config, positions)
        n_fft = config.n_fft
        assert n_fft % 4 == 0 and positions % 2 == 0 and positions <= n_fft // 2
        whole, quarter = self.fourier, n_fft // 4
        bins = torch.arange(positions).unflatten(0, (-1, 2)).T[:, None, None, :, None]  # even bins, and odd ones
        shares = torch.where(bins == 0, 1.0, 2.0).double() / n_fft
        offsets = torch.tensor([0, n_fft])[:, None, None, None]  # real and imaginary parts
        samples = torch.arange(quarter + 1)[None]
        one = torch.ones(1, 1, dtype=torch.float64)
        self.fourier = FourierMatrix(shares, bins, samples, offsets, whole.waves, one)
        self.register_buffer("matrix", self.fourier.product().float(), persistent=False)
        self.register_buffer("window", whole.right[0].float(), persistent=False)
        self.window: Tensor

    def frames(self, x: Tensor) -> Tensor:
        """The windowed samples of each frame, `[B, F, synthesis_length]`, before overlapping frames are added."""
        parts = x.unflatten(3, (-1, 2)).permute(4, 1, 0, 2, 3)  # [2, 2, B, F, Q / 2]
        (a, b), (c, d) = (parity.unbind(0) for parity in _transform(parts, self.matrix).unbind(0))
        last = self.matrix.shape[-1] - 1
        even = torch.cat([a + b, (a - b)[..., 1:last].flip(-1)], dim=-1)
        odd = torch.cat([c + d, (d - c)[..., 1:last].flip(-1)], dim=-1)
        return torch.cat([even + odd, even - odd], dim=-1)[..., -self.overlap :] * self.window


class PowerLaw:
    """Compression `|s|^(1/p)` and expansion `|s|^p` with the phase kept (SpecTokenizer's DRC and DRE, equation 1).

    Spectra are `[B, 2, F, Q]`, real and imaginary part as channels. A floor under the magnitude keeps the gradients
    finite at silence, where `|s|^(1/p)` has no derivative; magnitudes of 1e-6 of full scale and more are not changed.
    """

    FLOOR = 1e-6

    def __init__(self, power: float) -> None:
        self.power = power

    def compress(self, spectrum: Tensor) -> Tensor:
        """`|s|^(1/p)`, phase kept."""
        return self._scale(spectrum, 1 / self.power)

    def expand(self, spectrum: Tensor) -> Tensor:
        """`|s|^p`, phase kept."""
        return self._scale(spectrum, self.power)

    def _scale(self, spectrum: Tensor, exponent: float) -> Tensor:
        magnitude: Tensor = torch.linalg.vector_norm(spectrum, dim=1, keepdim=True).clamp_min(self.FLOOR)
        return spectrum * (magnitude if exponent == 2 else magnitude ** (exponent - 1))
