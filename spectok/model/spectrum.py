r"""Audio to spectrum and back: causal STFT, inverse STFT and the power law, as streaming layers.

    analysis window   ____/‾‾‾‾‾‾‾‾‾‾\      n_fft samples, the newest at the right
    synthesis window          /‾‾‾‾‾‾\      its last synthesis_length samples: only these wait for later frames

A long past sharpens the frequency resolution, a short synthesis window keeps the delay at
`synthesis_length - hop_length` samples. The product of both windows is a Hann window, which overlap-adds to one.
"""

import functools
import math

import torch
from torch import Tensor

from spectok.config import SpectrumConfig
from spectok.model.streaming import State, Streaming


def windows(config: SpectrumConfig) -> tuple[Tensor, Tensor]:
    """Analysis window `[n_fft]` and synthesis window `[synthesis_length]`, float64; both root of Hann if equally long.

    Between them they hold the transform's scale: a spectrum of white noise of variance 1 has variance 1.
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


def matrices(config: SpectrumConfig, positions: int | None = None, first: int = 0) -> tuple[Tensor, Tensor]:
    """The windowed Fourier transform of a frame and its inverse as matrices, float64.

    A few hundred samples times a matrix cost less than to start a fast transform, and a matrix runs everywhere.

    Args:
        config: lengths of frame and windows.
        positions: the bin above the highest there is; the others are taken for zeros. By default `n_fft // 2 + 1`.
        first: the lowest bin there is; Q is `positions - first`.

    Returns:
        From samples to real parts, then imaginary parts, `[n_fft, 2 * Q]`; and back to the samples of the synthesis
        window, `[2 * Q, synthesis_length]`.
    """
    analysis, synthesis = windows(config)
    bins = torch.fft.rfft(torch.eye(config.n_fft, dtype=torch.float64))
    transform = torch.stack([bins.real, bins.imag], dim=1)
    inverse = torch.linalg.pinv(transform.flatten(1)).unflatten(0, (2, -1))
    transform, inverse = transform[..., first:positions].flatten(1), inverse[:, first:positions].flatten(0, 1)
    return analysis[:, None] * transform, inverse[:, config.n_fft - config.synthesis_length :] * synthesis


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
        self.hops = -(-config.n_fft // config.hop_length)  # that a frame reaches into
        self.register_buffer("matrix", matrices(config, positions, first)[0].float(), persistent=False)
        self.matrix: Tensor

    def init_state(self, batch: int) -> State:
        """The hops before the newest of a frame: `[B, n_fft - hop_length]`, rounded up to whole hops."""
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
        self.register_buffer("matrix", matrices(config, positions)[1].float(), persistent=False)
        self.matrix: Tensor

    def init_state(self, batch: int) -> State:
        """The frames that reach into the next hop: `[B, synthesis_length / hop_length - 1, synthesis_length]`."""
        return (self.zeros(batch, self.overlap // self.hop_length - 1, self.overlap),)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Consume frames; return hop_length finished samples for each."""
        frames = torch.cat([state[0], _transform(x.transpose(1, 2).flatten(2), self.matrix)], dim=1)
        past = state[0].shape[1]
        # Each frame is cut into hops; a finished hop is the last of the oldest frame, the one before of the next, ...
        hops = frames.split(self.hop_length, dim=2)
        parts = (hops[past - i][:, i : i - past or None] for i in range(past + 1))
        return functools.reduce(torch.add, parts).flatten(1), (frames[:, -past:],)


class PowerLaw:
    """Compression `|s|^(1/p)` and expansion `|s|^p` with the phase kept (SpecTokenizer's DRC and DRE, equation 1).

    Spectra are `[B, 2, F, Q]`, real and imaginary part as channels. A floor under the magnitude keeps the gradients
    finite at silence, where `|s|^(1/p)` has none; from 1e-6 of full scale up nothing is changed by it.
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
        magnitude = torch.linalg.vector_norm(spectrum, dim=1, keepdim=True).clamp_min(self.FLOOR)
        return spectrum * (magnitude if exponent == 2 else magnitude ** (exponent - 1))
