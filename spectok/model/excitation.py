"""The excitation: what the decoder makes up where the codes do not tell phases.

Codes of a few kbit/s say how loud the high bins are, not in which phase. Whatever the decoder multiplies with their
magnitudes there decides what a voice sounds like. Two excitations stand here, and a codec's configuration chooses:

    Excitation    a pulse train at the decoded pitch, mixed with noise band by band: voices keep their harmonics
    RandomSigns   a random sign for each bin of each frame: voices sound like breath

Both are what a classic vocoder drives its filter with, a mixed excitation (A. McCree and T. Barnwell, IEEE Transactions
on Speech and Audio Processing 3 (4), 1995); the filter is the spectrum that the network decodes.
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
PITCH_STEPS = 16  # between two pitch classes: the grid of pitches that the pulses can have, 3.4 cents apart
NOISE_FRAMES = 200  # length of the noise sequence: 2 s at 100 frames a second


class Estimate(NamedTuple):
    """What the decoder's network knows about each frame of the spectrum, and the excitation does not."""

    spectrum: Tensor  # [B, 2, F, Q], expanded: the filter above the coded phases, the spectrum itself below
    # Of an `Excitation` alone:
    voicing: Tensor | None = None  # [B, F, bands] logits
    pitch: Tensor | None = None  # [B, F, classes + 1] logits, the last of nothing being voiced

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Estimate":
        """The same of each part that there is."""
        parts = (part if part is None else change(part) for part in (self.voicing, self.pitch))
        return Estimate(change(self.spectrum), *parts)


class PitchGrid(nn.Module):
    """The pitches that can be coded: classes in equal ratios, and `PITCH_STEPS` grid points from each to the next.

    A pitch is a number on the grid, int64, from 0 (`config.pitch_range[0]`) to `size - 1` (`config.pitch_range[1]`); -1
    less it is the same pitch where nothing is voiced. Rounding to the grid changes a pitch by at most half a step, 1.7
    cents, and makes it the same in every engine.
    """

    def __init__(self, config: ExcitationConfig) -> None:
        super().__init__()
        self.lowest, self.highest = config.pitch_range
        self.classes = config.pitch_classes
        self.size = (config.pitch_classes - 1) * PITCH_STEPS + 1
        self.octaves = math.log2(self.highest / self.lowest)
        places = torch.arange(self.classes)
        near = (places - places[:, None]).abs() <= 2
        near = torch.cat([near, torch.ones_like(near[:1])])  # where nothing is voiced, any class may be the pitch
        self.register_buffer("near", torch.where(near, 0.0, -1e4), persistent=False)
        self.register_buffer("points", (places * PITCH_STEPS).float()[:, None], persistent=False)
        self.near: Tensor  # [classes + 1, classes]: added to the logits, leaves those near the likeliest
        self.points: Tensor  # [classes, 1]

    def frequencies(self) -> Tensor:
        """The pitch of every grid point in Hz, float64 `[size]`."""
        return self.lowest * 2 ** torch.linspace(0, self.octaves, self.size, dtype=torch.float64)

    def index(self, frequency: Tensor) -> Tensor:
        """The grid points nearest to frequencies in Hz, int64; beyond the range, its ends."""
        return torch.round(self.position(frequency) * PITCH_STEPS).long()

    def position(self, frequency: Tensor) -> Tensor:
        """Frequencies in Hz in units of classes, from 0 to `classes - 1`."""
        octaves = torch.log2(frequency.clamp(self.lowest, self.highest) / self.lowest)
        return octaves * ((self.classes - 1) / self.octaves)

    def decode(self, logits: Tensor) -> Tensor:
        """Grid points `[...]`, or -1 less them, of the pitch head's logits `[..., classes + 1]`.

        The mean over the classes within 2 of the likeliest, weighed by their softmax: a mean over all of them would lie
        between an octave and its double where the head wavers. The last logit is that of nothing being voiced.
        """
        likeliest = logits.argmax(-1)
        weights = torch.softmax(logits[..., : self.classes] + self.near[likeliest], dim=-1)
        points = torch.round(weights @ self.points).squeeze(-1).long()
        return torch.where(likeliest < self.classes, points, -1 - points)


class PulseTrain(Streaming):
    """Band-limited pulses, pitches `[B, F]` on the `PitchGrid`, one for each hop, to audio `[B, F * hop_length]`.

    `a * sum(cos(2 pi k phase) for k in 1 ... K)`, K the last harmonic below the band limit, in closed form (the
    Dirichlet kernel): `a / 2 * (sin((2 K + 1) pi phase) / sin(pi phase) - 1)`. The frequency runs linearly from one
    hop's pitch, reached at its end, to the next one's, and so do the weights of the sums with either's a and K. With
    `a = 2 sqrt(frequency / sample_rate)` the spectral density is that of white noise of variance 1, whatever the pitch.

    Phases are integers where they pass from hop to hop, so that a stream has the phase of the whole file to the bit and
    hours do not drift. At the first voiced hop after one that is not, the phase begins at 0: a decoder that came in
    late, or computed a pitch differently in its last bit, is back in step from there on.
    """

    NEAREST = 1e-6  # radians, in place of 0, by whose sine nothing can be divided

    def __init__(self, grid: PitchGrid, hop_length: int, sample_rate: int, band_limit: float) -> None:
        super().__init__()
        self.hop_length = hop_length
        self.timing = Timing(Fraction(1, hop_length), receptive_field=math.inf)
        frequencies = grid.frequencies()
        # Half of the frequency in units of a phase a sample: either end of a hop has its part in the hop's advance.
        increments = torch.round(frequencies / sample_rate * (CYCLE / 2)).long()
        cycles = increments.double() * (2 / CYCLE)  # a sample
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
        self.advances: Tensor  # [2 * size, 1], int64: what either end of a hop adds to its phase, by pitch
        self.offsets: Tensor  # [2]: where the table of either end begins
        self.cycles: Tensor  # [size, 1]: cycles a sample
        self.orders: Tensor  # [size, 1]: 2 K + 1
        self.amplitudes: Tensor  # [size, 1]: a / 2
        self.turns: Tensor  # [3, hop_length], at each sample: of the phase at the start, and of either end's cycles
        self.fade: Tensor  # [2, hop_length], at each sample: weights of either end

    def init_state(self, batch: int) -> State:
        """The phase at the end of the last hop and its pitch: int64 `[B, 1]` each, zeros at the start."""
        zeros = torch.zeros(batch, 1, dtype=torch.int64, device=self.advances.device)
        return zeros, zeros.clone()  # one tensor in two places would be one input of an exported graph

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Consume pitches; no gradient reaches them."""
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
        """Phases `[B, F]` less that of the last onset, bool `[B, F]`, up to there."""
        number = onsets.long().cumsum(1)  # of the onset
        # What is no onset writes 0 into the place of none; a place that nobody writes to is not read either.
        bases = nn.functional.pad(phases, (0, 1)).scatter(1, number * onsets, phases * onsets)
        return phases - bases.gather(1, number)


class Excitation(Streaming):
    """Pulses and noise, mixed by the voicing of each band, in place of the phases that the codes do not tell.

        (sqrt(v) * pulses + sqrt(1 - v) * noise) * spectrum     above the coded phases
        spectrum                                                below them

    Pulses are those of a `PulseTrain` through the codec's own STFT, noise the same of one fixed white sequence, with
    which every stream begins: what comes out depends on the codes alone. Both have unit power in every bin, so the
    spectrum keeps its meaning as magnitude; its phase is the filter's. The voicing v is the sigmoid of logits that run
    linearly from the middle of one band to that of the next, and is the same for all hops of a code frame.

    The heads for pitch and voicing belong to it, but run with the network (`controls`); so `step` can run several times
    on one estimate, each time with pulses and noise of its own.

    Args:
        config: its own.
        spectrum: of the codec.
        sample_rate: in Hz.
        latent_dim: D, width of the frames that pitch and voicing are read from.
        hops: of a code frame.
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
        self.timing = Timing(receptive_field=math.inf)  # pulses have a phase
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
        share = self.first / spectrum.positions  # of the spectrum that is below
        with torch.no_grad():  # low bands begin voiced, high ones noisy
            last.bias.copy_(torch.linspace(2.5 - 5 * share, -2.5, config.voicing_bands))
        places = (torch.arange(positions) + 0.5) * (config.voicing_bands / positions) - 0.5
        distances = places.clamp(0, config.voicing_bands - 1) - torch.arange(config.voicing_bands)[:, None]
        self.register_buffer("spread", (1 - distances.abs()).clamp_min(0), persistent=False)
        self.spread: Tensor  # [bands, Q']: of the logits of bands over their bins
        self.pulses = PulseTrain(self.grid, spectrum.hop_length, sample_rate, config.band_limit)
        self.stft = STFT(spectrum, spectrum.positions, self.first)
        white = np.random.RandomState(0).standard_normal(NOISE_FRAMES * spectrum.hop_length)  # the same in every numpy
        # The second time round: as if the sequence had gone on for ever.
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
        """States of pulses and STFT, and the place of the frame before in the noise, int64 `[B, 1]`."""
        place = torch.zeros(batch, 1, dtype=torch.int64, device=self.noise.device)
        return self.pulses.init_state(batch), self.stft.init_state(batch), place

    def drawn_state(self, batch: int) -> State:
        """The zero state, but with any phase of the pulses and any place in the noise: what training learns on."""
        (phase, pitch), stft, place = self.init_state(batch)
        phase, place = torch.randint_like(phase, CYCLE), torch.randint_like(place, NOISE_FRAMES)
        return (phase, pitch), stft, place

    def step(self, x: Estimate, state: State, pitch: Tensor | None = None) -> tuple[Tensor, State]:  # type: ignore[override]
        """Excite a chunk's spectrum, `[B, 2, F, Q]` in and out.

        Args:
            x: the network's estimate.
            state: of this layer.
            pitch: grid points `[B, F]` in place of those that the estimate's own pitch logits give.
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
    """The sign of each bin above a frequency drawn anew in every frame, on estimates whose spectrum is `[B, 2, F, Q]`.

    A network that does not know a phase gives the same one in every frame, and that is heard as a buzz at the frame
    rate; random ones are heard as breath (as in MPEG-4's perceptual noise substitution, J. Herre and D. Schulz, AES
    1998). The signs are one fixed sequence of `PERIOD` frames that every stream begins with, so what comes out depends
    on the codes alone.
    """

    PERIOD = 128

    def __init__(self, first: int, positions: int) -> None:
        super().__init__()
        draws = np.random.RandomState(0).randint(2, size=(self.PERIOD, positions - first))  # the same in every numpy
        signs = np.concatenate([np.ones((self.PERIOD, first)), 2.0 * draws - 1], axis=1)
        signs = np.roll(signs, 1, axis=0)  # the first frame comes after place 0
        self.register_buffer("signs", torch.from_numpy(signs).float(), persistent=False)
        self.signs: Tensor

    def init_state(self, batch: int) -> State:
        """The place of the frame before in the sequence, int64 `[B, 1]`."""
        return (torch.zeros(batch, 1, dtype=torch.int64, device=self.signs.device),)

    def drawn_state(self, batch: int) -> State:
        """Any place in the sequence: what training learns on."""
        return tuple(torch.randint_like(place, self.PERIOD) for place in self.init_state(batch))

    def step(self, x: Estimate, state: State, pitch: Tensor | None = None) -> tuple[Tensor, State]:  # type: ignore[override]
        """Give each frame its signs."""
        places = (state[0] + torch.arange(1, x.spectrum.shape[2] + 1, device=x.spectrum.device)) % self.PERIOD
        return x.spectrum * nn.functional.embedding(places, self.signs)[:, None], (places[:, -1:],)
