"""The extension: a small head that adds the frequencies from 8 to 20 kHz to decoded speech of 16 kHz.

A transform that is three times as long, at three times the sample rate, has bins at the same distance. So the decoder's
spectrum becomes the lowest third of a spectrum at 48 kHz without a resampler and without further delay:

    decoded spectrum --+----------------------------------------> bins below 8 kHz  --+
                       |--> band energies -> GRU -> gains, mix --> bins above 8 kHz  --+--> inverse STFT at 48 kHz
                       `--> mirrored at 8 kHz, and noise ----------^

The ear is not sensitive to phases above 8 kHz, and the envelope there changes slowly with frequency. Opus has a network
for the same task in the time domain (J. Büthe and J.-M. Valin, arXiv 2412.11392).
"""

import math
from fractions import Fraction

import torch
from torch import Tensor, nn

from spectok.config import EXCITATION_PERIOD, EXTENSION_FACTOR, SpectrumConfig
from spectok.model.layers import GRU, linear, nearness
from spectok.model.spectrum import HalvedInverseSTFT
from spectok.model.streaming import State, Streaming, Timing

FEATURES, BANDS = 24, 16  # numbers of bands below the codec's highest frequency, and above it
WIDTH, HIDDEN = 64, 96  # of the input layer and of the GRU
HIGHEST = 2.5  # the highest frequency that is generated, in multiples of the codec's highest: 20 kHz
REACH = 6  # bins on each side over which the level of the mirrored spectrum is measured
FLOOR = 1e-10  # added to the energies of the features: that of 16-bit rounding noise
TINY = 1e-20  # smallest level that is a divisor
LOUDEST = 4.0  # largest natural logarithm of a gain
PRIME = (1 << 31) - 1  # modulus of the phases of the noise: products of two numbers fit in int64


def erb_centres(positions: int, bands: int, width: float) -> Tensor:
    """Centres of bands in bins, `[bands]`, from 0 to `positions - 1`, at equal distances on the ERB scale.

    The scale is that of B. Glasberg and B. Moore, Hearing Research 47 (1990). Low bands are at least one bin apart.

    Args:
        positions: number of bins.
        bands: number of bands, fewer than bins.
        width: of a bin in Hz.
    """
    highest = math.log10(1 + 0.00437 * width * (positions - 1))
    centres = (10 ** torch.linspace(0, highest, bands) - 1) / (0.00437 * width)
    return centres.maximum(torch.arange(float(bands)))


class Extension(Streaming):
    """The decoder's spectrum `[B, 2, F, Q]` to audio `[B, F * 3 * hop_length]` at three times the codec's sample rate.

    The input is what the decoder passes to its inverse STFT. Its bins are kept. Above them, each bin is

        gain * (sqrt(v) * mirrored + sqrt(1 - v) * noise)

    where the gain and the mix v are interpolated between bands, and relative to the energy of the upper half of the
    input: silence stays silent. `mirrored` is the input reflected at its highest frequency, and above twice that
    frequency the input shifted, divided by its level in the bins around; a harmonic at 7900 Hz becomes one at 8100 Hz.
    `noise` has magnitude 1 and a phase that is a hash of the number of the frame and the bin, in integers, so that
    streaming equals offline to the bit. Frames are counted modulo `EXCITATION_PERIOD`.

    Args:
        config: the codec's spectrum.
        sample_rate: the codec's, in Hz.
    """

    def __init__(self, config: SpectrumConfig, sample_rate: int) -> None:
        super().__init__()
        sizes = (config.n_fft, config.hop_length, config.synthesis_length)
        n_fft, hop, synthesis = (EXTENSION_FACTOR * size for size in sizes)
        positions = config.positions
        self.positions, self.high = positions, int((HIGHEST - 1) * positions)
        self.inverse_stft = HalvedInverseSTFT(SpectrumConfig(n_fft, hop, synthesis), positions + self.high)
        inner = self.inverse_stft.timing
        self.timing = Timing(Fraction(1, hop), inner.latency, math.inf)
        centres = erb_centres(positions, FEATURES, sample_rate / config.n_fft)
        shares = nearness(centres, torch.arange(float(positions)))
        places = torch.arange(float(self.high))
        spread = nearness(torch.linspace(0, self.high - 1, BANDS), places).T
        seeds = torch.arange(1, self.high + 1) * 1_103_515_245 % PRIME
        # Rounded to float16, which is how an exported graph stores them.
        self.register_buffer("bands", (shares / shares.sum(0)).half().float(), persistent=False)
        self.register_buffer("spread", spread.half().float().contiguous(), persistent=False)
        self.register_buffer("seeds", seeds, persistent=False)
        self.bands: Tensor  # [Q, FEATURES]: means over bands
        self.spread: Tensor  # [BANDS, high]: interpolates between bands
        self.seeds: Tensor  # [high], int64
        self.input = nn.Sequential(linear(FEATURES, WIDTH), nn.SiLU())
        self.gru = GRU(WIDTH, HIDDEN)
        self.output = linear(HIDDEN, 2 * BANDS, gain=0.1)

    @property
    def macs_per_frame(self) -> int:
        """Multiply-accumulates for one frame of the spectrum, those of the inverse transform included."""
        learned = FEATURES * WIDTH + 3 * HIDDEN * (WIDTH + HIDDEN) + HIDDEN * 2 * BANDS
        fixed = self.bands.numel() + 2 * self.spread.numel() + self.inverse_stft.matrix.numel()
        return learned + fixed

    def init_state(self, batch: int) -> State:
        """Hidden state `[B, HIDDEN]`, number of the last frame, int64 `[B, 1]`, and the state of the inverse STFT."""
        frame = torch.zeros(batch, 1, dtype=torch.int64, device=self.seeds.device)
        return self.zeros(batch, HIDDEN), frame, self.inverse_stft.init_state(batch)

    def energies(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Energies of a spectrum `[B, 2, F, Q]` in bands, `[B, F, FEATURES]`, and of its upper half, `[B, F, 1]`."""
        power = x.square().sum(1)
        return power @ self.bands, power[..., self.positions // 2 :].mean(-1, keepdim=True)

    def controls(self, energies: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Natural logarithms of gains, logits of the mix, both `[B, F, BANDS]`, and the next hidden state.

        Args:
            energies: of the bands, `[B, F, FEATURES]`.
            hidden: `[B, HIDDEN]`.
        """
        # This is log(energies + FLOOR); ONNX Runtime takes the addition of a number below 1e-8 for one of zero.
        levels = torch.log(energies / FLOOR + 1) + (math.log(FLOOR) + 10)
        features = self.input(levels / 4).transpose(0, 1)
        features, hidden = self.gru(features, hidden[None])
        gains, mix = self.output(features.transpose(0, 1)).split(BANDS, dim=-1)
        return gains * 4 - 2, mix, hidden.squeeze(0)

    def noise(self, frames: Tensor) -> Tensor:
        """Bins of magnitude 1 and random phase, `[B, 2, F, high]`, for the numbers of frames `[B, F]`."""
        x = (frames[..., None] * 48_271 + self.seeds) % PRIME
        square = x * x % PRIME
        angles = (square * square % PRIME * x % PRIME).to(self.spread.dtype) * (2 * math.pi / PRIME)
        return torch.stack([torch.cos(angles), torch.sin(angles)], dim=1)

    def mirrored(self, x: Tensor) -> Tensor:
        """The input `[B, 2, F, Q]` reflected and shifted, with a level of 1, `[B, 2, F, high]`.

        Bin Q + j is the conjugate of bin Q - j, for the bin at the edge of the one below it; bin 2 Q + j is bin j.
        """
        level = nn.functional.avg_pool1d(x.square().sum(1), 2 * REACH + 1, 1, REACH, count_include_pad=False)
        white = x * torch.rsqrt(level.clamp_min(TINY))[:, None]
        reflected = torch.cat([white[..., -1:], white[..., 1:].flip(-1)], dim=-1)
        real, imaginary = reflected.split(1, dim=1)
        conjugate = torch.cat([real, -imaginary], dim=1)
        return torch.cat([conjugate, white[..., : self.high - self.positions]], dim=-1)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Consume frames; return 3 * hop_length samples for each."""
        spectrum, (hidden, frame) = self.spectrum(x, state[:2])
        audio, synthesis = self.inverse_stft.step(spectrum, state[2])
        return audio, (hidden, frame, synthesis)

    def spectrum(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """The first part of a step: the spectrum at the higher rate, `[B, 2, F, Q + high]`.

        Args:
            x: as in `step`.
            state: the first two parts of the state.
        """
        energies, upper = self.energies(x)
        gains, mix, hidden = self.controls(energies, state[0])
        gains = torch.exp((gains @ self.spread).clamp_max(LOUDEST)) * upper.sqrt()
        mix = mix @ self.spread
        frames = (state[1] + torch.arange(1, x.shape[2] + 1, device=x.device)) % EXCITATION_PERIOD
        shares = torch.sigmoid(mix).sqrt()[:, None], torch.sigmoid(-mix).sqrt()[:, None]
        high = gains[:, None] * (shares[0] * self.mirrored(x) + shares[1] * self.noise(frames))
        # The windows are scaled for noise of variance 1, so that sinusoids grow with the root of their length.
        return torch.cat([x, high], dim=3) * math.sqrt(EXTENSION_FACTOR), (hidden, frames[:, -1:])
