"""The excitation: generates the phases that the codes do not carry.

Codes of a few kbit/s carry the magnitudes of the high bins, but not their phases. The decoder multiplies the decoded
spectrum there with an excitation, on which the sound of a voice depends. A codec's configuration chooses one of two:

    Excitation    a pulse train at the decoded pitch, mixed with noise in each band: voiced speech keeps its harmonics
    RandomSigns   a random sign for each bin of each frame: voiced speech sounds breathy

Both correspond to the mixed excitation of a classic vocoder (A. McCree and T. Barnwell, IEEE Transactions on Speech and
Audio Processing 3 (4), 1995), and the decoded spectrum to the vocoder's filter.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from spectok.config import ExcitationConfig, SpectrumConfig
from spectok.model.layers import linear
from spectok.model.spectrum import STFT
from spectok.model.streaming import State, Streaming, Timing

CYCLE = 1 << 32  # a phase is an integer, in units of 1 / CYCLE of a cycle
PITCH_STEPS = 16  # grid points from one pitch class to the next; they are 3.4 cents apart
NOISE_FRAMES = 200  # length of the noise sequence: 2 s at 100 frames a second


class Estimate(NamedTuple):
    """The output of the decoder's network for each frame of the spectrum: the input of the excitation."""

    spectrum: Tensor  # [B, 2, F, Q], expanded: above the coded phases the filter, below the spectrum itself
    # For an `Excitation` only:
    voicing: Tensor | None = None  # [B, F, bands] logits
    pitch: Tensor | None = None  # [B, F, classes + 1] logits, the last one of "unvoiced"

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Estimate":
        """Apply `change` to each part that is not None."""
        parts = (part if part is None else change(part) for part in (self.voicing, self.pitch))
        return Estimate(change(self.spectrum), *parts)


class PitchGrid(nn.Module):
    """The pitches that can be coded: classes in equal ratios, and `PITCH_STEPS` grid points from each to the next.

    A voiced pitch is a grid point p, int64, from 0 (`config.pitch_range[0]`) to `size - 1` (`config.pitch_range[1]`).
    Unvoiced hops have a pitch too, written as `-1 - p`. Rounding to the grid changes a pitch by at most half a step,
    1.7 cents, and gives the same pitch in every engine.
    """

    def __init__(self, config: ExcitationConfig) -> None:
        super().__init__()
        self.lowest, self.highest = config.pitch_range
        self.classes = config.pitch_classes
        self.size = (config.pitch_classes - 1) * PITCH_STEPS + 1
        self.octaves = math.log2(self.highest / self.lowest)
        places = torch.arange(self.classes)
        near = (places - places[:, None]).abs() <= 2
        near = torch.cat([near, torch.ones_like(near[:1])])  # for "unvoiced", no class is excluded
        self.register_buffer("near", torch.where(near, 0.0, -1e4), persistent=False)
        self.register_buffer("points", (places * PITCH_STEPS).float()[:, None], persistent=False)
        self.near: Tensor  # [classes + 1, classes]: added to the logits to exclude classes far from the likeliest
        self.points: Tensor  # [classes, 1]

    def frequencies(self) -> Tensor:
        """The pitch of every grid point in Hz, float64 `[size]`."""
        return self.lowest * 2 ** torch.linspace(0, self.octaves, self.size, dtype=torch.float64)

    def index(self, frequency: Tensor) -> Tensor:
        """The grid points nearest to frequencies in Hz, int64; frequencies outside the range are clamped."""
        return torch.round(self.position(frequency) * PITCH_STEPS).long()

    def position(self, frequency: Tensor) -> Tensor:
        """Frequencies in Hz as fractional class numbers, from 0 to `classes - 1`."""
        octaves = torch.log2(frequency.clamp(self.lowest, self.highest) / self.lowest)
        return octaves * ((self.classes - 1) / self.octaves)

    def decode(self, logits: Tensor) -> Tensor:
        """Pitches `[...]` of the pitch head's logits `[..., classes + 1]`: grid points p, or `-1 - p` where unvoiced.

        p is the softmax-weighted mean over the classes within 2 of the likeliest. A mean over all classes could lie
        between a pitch and its octave where the head is uncertain. The last logit is that of "unvoiced".
        """
        likeliest = logits.argmax(-1)
        weights = torch.softmax(logits[..., : self.classes] + self.near[likeliest], dim=-1)
        points = torch.round(weights @ self.points).squeeze(-1).long()
        return torch.where(likeliest < self.classes, points, -1 - points)


class PulseTrain(Streaming):
    """Band-limited pulses, pitches `[B, F]` on the `PitchGrid`, one for each hop, to audio `[B, F * hop_length]`.

    `a * sum(cos(2 pi k phase) for k in 1 ... H)`, H the highest harmonic below the band limit, in closed form (the
    Dirichlet kernel): `a / 2 * (sin((2 H + 1) pi phase) / sin(pi phase) - 1)`. A hop's pitch is reached at its end:
    within a hop the frequency runs linearly from the last hop's pitch to its own, and the output is faded linearly from
    the sum with the a and H of the last pitch to that with its own. With `a = 2 sqrt(frequency / sample_rate)` the
    spectral density is that of white noise of variance 1 for every pitch.

    Phases between hops are integers, so that a stream has exactly the phases of offline decoding and does not drift
    over hours. At the first voiced hop after an unvoiced one, the phase starts at 0. From there on, a decoder that
    started late, or that computed a pitch differently in its last bit, has the same phase again.
    """

    NEAREST = 1e-6  # radians; replaces the angle 0, whose sine would be a divisor of 0

    def __init__(self, grid: PitchGrid, hop_length: int, sample_rate: int, band_limit: float) -> None:
        super().__init__()
        self.hop_length = hop_length
        self.timing = Timing(Fraction(1, hop_length), receptive_field=math.inf)
        frequencies = grid.frequencies()
        # Half of the frequency, in phase units per sample: a hop's advance is the sum of a part for each of its two
        # ends.
        increments = torch.round(frequencies / sample_rate * (CYCLE / 2)).long()
        cycles = increments.double() * (2 / CYCLE)  # per sample
        orders = 2 * torch.floor(band_limit / frequencies) + 1
        advances = torch.cat([increments * (hop_length - 1), increments * (hop_length + 1)])
        self.register_buffer("advances", advances[:, None], persistent=False)
        self.register_buffer("offsets", torch.tensor([0, grid.size]), persistent=False)
        for name, table in (("cycles", cycles), ("orders", orders), ("amplitudes", cycles.sqrt())):
            self.register_buffer(name, table[:, None].float(), persistent=False)
        samples = torch.arange(1, hop_length + 1, dtype=torch.float64)
        late = samples * (samples + 1) / (2 * hop_length)
        turns = torch.stack([torch.full_like(late, 1 / CYCLE), samples - late, late])
        fade = torch.stack([1 - samples / hop_length, samples / hop_length])
        self.register_buffer("turns", turns.float(), persistent=False)
        self.register_buffer("fade", fade.float(), persistent=False)
        self.advances: Tensor  # [2 * size, 1], int64: phase added by the pitch at the start of a hop, and at its end
        self.offsets: Tensor  # [2]: the rows of `advances` where the start's and the end's begin
        self.cycles: Tensor  # [size, 1]: cycles per sample
        self.orders: Tensor  # [size, 1]: 2 H + 1
        self.amplitudes: Tensor  # [size, 1]: a / 2
        self.turns: Tensor  # [3, hop_length]: factors of the phase at the start, and of the cycles at start and end
        self.fade: Tensor  # [2, hop_length]: weights of the sums for start and end

    def init_state(self, batch: int) -> State:
        """The phase at the end of the last hop and its pitch: int64 `[B, 1]` each, zeros at the start."""
        zeros = torch.zeros(batch, 1, dtype=torch.int64, device=self.advances.device)
        return zeros, zeros.clone()  # two tensors: one would become a single input in export

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Consume pitches; they receive no gradient."""
        phase, last = state
        pitches = torch.cat([last, x], dim=1)
        ends = torch.stack([pitches[:, :-1], pitches[:, 1:]], dim=2)  # of each hop, [B, F, 2]
        is_voiced = ends >= 0
        points = torch.where(is_voiced, ends, -1 - ends)
        advances = nn.functional.embedding(points + self.offsets, self.advances).sum((2, 3))
        phases = phase + advances.cumsum(1)
        starts = self._from_onsets(phases - advances, is_voiced[..., 1] & ~is_voiced[..., 0])
        phase = (starts + advances)[:, -1:] & (CYCLE - 1)
        cycles, orders, amplitudes = (
            nn.functional.embedding(points, table) for table in (self.cycles, self.orders, self.amplitudes)
        )
        begun = (starts & (CYCLE - 1)).to(self.turns.dtype)[..., None]
        with torch.autocast(x.device.type, enabled=False):
            turns = torch.cat([begun, cycles.squeeze(3)], dim=2) @ self.turns  # [B, F, hop_length]
        angles = ((turns - torch.round(turns)) * math.pi)[:, :, None]
        angles = torch.where(angles == 0, self.NEAREST, angles)
        kernels = torch.sin(orders * angles) / torch.sin(angles) - 1  # [B, F, 2, hop_length]
        pulses = (kernels * (amplitudes * self.fade)).sum(2)
        return pulses.flatten(1), (phase, pitches[:, -1:])

    @staticmethod
    def _from_onsets(phases: Tensor, onsets: Tensor) -> Tensor:
        """Phases `[B, F]` minus the phase at the latest onset (bool `[B, F]`); unchanged before the first onset."""
        number = onsets.long().cumsum(1)  # of onsets so far
        # Hops that are no onsets write 0 to place 0, which only the hops before the first onset read.
        bases = nn.functional.pad(phases, (0, 1)).scatter(1, number * onsets, phases * onsets)
        return phases - bases.gather(1, number)


class Excitation(Streaming):
    """Pulses and noise, mixed by the voicing of each band, in place of the phases that the codes do not carry.

        (sqrt(v) * pulses + sqrt(1 - v) * noise) * spectrum     above the coded phases
        spectrum                                                below them

    The pulses are the STFT of a `PulseTrain`, the noise is the STFT of one fixed white sequence; both use the codec's
    own transform. Every stream starts at the beginning of the noise, so the output depends on the codes alone. Pulses
    and noise have unit power in every bin, so that the magnitude of the spectrum is that of the output; its phase is
    that of a filter. The voicing v is the sigmoid of logits, interpolated linearly between the middles of the bands,
    and is the same for all hops of a code frame.

    The heads for pitch and voicing belong to this layer, but run with the network (`controls`), so that `step` can run
    several times on one estimate, from different states of pulses and noise.

    Args:
        config: the excitation's configuration.
        spectrum: the configuration of the codec's spectrum.
        sample_rate: in Hz.
        latent_dim: D, width of the decoder's latent, the input of the heads.
        hops: STFT hops in a code frame.
    """

    def __init__(
        self,
        config: ExcitationConfig,
        spectrum: SpectrumConfig,
        sample_rate: int,
        latent_dim: int,
        hops: int,
    ) -> None:
        super().__init__()
        self.timing = Timing(receptive_field=math.inf)  # the phase depends on all earlier pitches
        self.first = config.first_bin(spectrum.n_fft, sample_rate)
        self.hops, positions = hops, spectrum.positions - self.first
        self.grid = PitchGrid(config)
        self.pitch_head = nn.Sequential(
            linear(latent_dim, config.pitch_hidden),
            nn.SiLU(),
            linear(config.pitch_hidden, hops * (config.pitch_classes + 1)),
        )
        self.voicing_head = nn.Sequential(
            linear(latent_dim, config.voicing_hidden),
            nn.SiLU(),
            linear(config.voicing_hidden, config.voicing_bands, gain=0.5),
        )
        last = self.voicing_head[2]
        assert isinstance(last, nn.Linear)
        share = self.first / spectrum.positions  # of the spectrum that is below `config.above`
        with torch.no_grad():  # at first, low bands are voiced and high bands noisy
            last.bias.copy_(torch.linspace(2.5 - 5 * share, -2.5, config.voicing_bands))
        places = (torch.arange(positions) + 0.5) * (config.voicing_bands / positions) - 0.5
        distances = places.clamp(0, config.voicing_bands - 1) - torch.arange(config.voicing_bands)[:, None]
        self.register_buffer("spread", (1 - distances.abs()).clamp_min(0), persistent=False)
        self.spread: Tensor  # [bands, Q']: interpolates the logits of the bands at the bins
        self.pulses = PulseTrain(self.grid, spectrum.hop_length, sample_rate, config.band_limit)
        self.stft = STFT(spectrum, spectrum.positions, self.first)
        white = np.random.RandomState(0).standard_normal(NOISE_FRAMES * spectrum.hop_length)  # the same in every numpy
        # The frames of its second repetition, so that the noise continues without a seam when it repeats.
        noise = self.stft(torch.from_numpy(np.tile(white, 2)).float()[None])[0, :, NOISE_FRAMES:].half().float()
        self.register_buffer("noise", noise.transpose(0, 1).flatten(1).contiguous(), persistent=False)
        self.noise: Tensor  # [NOISE_FRAMES, 2 * Q']

    def controls(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Voicing and pitch logits, `[B, F * hops, bands]` and `[B, F * hops, classes + 1]`.

        Args:
            frames: the decoder's latent, `[B, F, D]`.
        """
        batch, length = frames.shape[0], frames.shape[1] * self.hops
        voicing = self.voicing_head(frames).repeat(1, 1, self.hops).reshape(batch, length, -1)
        return voicing, self.pitch_head(frames).reshape(batch, length, -1)

    def init_state(self, batch: int) -> State:
        """States of pulses and STFT, and the position of the last frame in the noise, int64 `[B, 1]`."""
        place = torch.zeros(batch, 1, dtype=torch.int64, device=self.noise.device)
        return self.pulses.init_state(batch), self.stft.init_state(batch), place

    def drawn_state(self, batch: int) -> State:
        """A state for training: zero, but with a random phase of the pulses and a random position in the noise."""
        (phase, pitch), stft, place = self.init_state(batch)
        phase, place = torch.randint_like(phase, CYCLE), torch.randint_like(place, NOISE_FRAMES)
        return (phase, pitch), stft, place

    def step(self, x: Estimate, state: State, pitch: Tensor | None = None) -> tuple[Tensor, State]:  # type: ignore[override]
        """Apply the excitation to the spectrum of a chunk, `[B, 2, F, Q]`, above the coded phases.

        Args:
            x: the network's estimate.
            state: the state of this layer.
            pitch: grid points `[B, F]` to use instead of those decoded from the estimate's pitch logits.
        """
        assert x.voicing is not None and x.pitch is not None
        pitch = self.grid.decode(x.pitch.detach()) if pitch is None else pitch
        pulses, pulses_state = self.pulses.step(pitch, state[0])
        harmonic, stft_state = self.stft.step(pulses, state[1])
        places = (state[2] + torch.arange(1, x.spectrum.shape[2] + 1, device=pitch.device)) % NOISE_FRAMES
        noise = nn.functional.embedding(places, self.noise).unflatten(2, (2, -1)).transpose(1, 2)
        voicing = (x.voicing @ self.spread)[:, None]
        source = torch.sigmoid(voicing).sqrt() * harmonic + torch.sigmoid(-voicing).sqrt() * noise
        direct, spectrum = x.spectrum[..., : self.first], x.spectrum[..., self.first :]
        (a, b), (c, d) = spectrum.split(1, dim=1), source.split(1, dim=1)
        excited = torch.cat([a * c - b * d, a * d + b * c], dim=1)
        after = (pulses_state, stft_state, places[:, -1:])
        return torch.cat([direct, excited], dim=3) if self.first else excited, after


class RandomSigns(Streaming):
    """Multiply each bin above a frequency by a random sign in every frame; the estimate's spectrum is `[B, 2, F, Q]`.

    A network that cannot estimate a phase outputs the same one in every frame, which sounds like a buzz at the frame
    rate; random signs sound like breath (as in MPEG-4's perceptual noise substitution, J. Herre and D. Schulz, AES
    1998). The signs are one fixed sequence of `PERIOD` frames that every stream starts with, so the output depends on
    the codes alone.

    Args:
        first: the lowest bin with random signs.
        positions: Q.
    """

    PERIOD = 128

    def __init__(self, first: int, positions: int) -> None:
        super().__init__()
        draws = np.random.RandomState(0).randint(2, size=(self.PERIOD, positions - first))  # the same in every numpy
        signs = np.concatenate([np.ones((self.PERIOD, first)), 2.0 * draws - 1], axis=1)
        signs = np.roll(signs, 1, axis=0)  # the first frame reads place 1
        self.register_buffer("signs", torch.from_numpy(signs).float(), persistent=False)
        self.signs: Tensor

    def init_state(self, batch: int) -> State:
        """The position of the last frame in the sequence, int64 `[B, 1]`."""
        return (torch.zeros(batch, 1, dtype=torch.int64, device=self.signs.device),)

    def drawn_state(self, batch: int) -> State:
        """A state for training: a random position in the sequence."""
        return tuple(torch.randint_like(place, self.PERIOD) for place in self.init_state(batch))

    def step(self, x: Estimate, state: State, pitch: Tensor | None = None) -> tuple[Tensor, State]:  # type: ignore[override]
        """Multiply each frame by its signs."""
        places = (state[0] + torch.arange(1, x.spectrum.shape[2] + 1, device=x.spectrum.device)) % self.PERIOD
        return x.spectrum * nn.functional.embedding(places, self.signs)[:, None], (places[:, -1:],)
