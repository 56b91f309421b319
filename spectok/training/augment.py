"""Training audio: endless streams of augmented passages of a corpus.

Each row of a batch is a stream that continues in the next step, so that the codec's states can be carried over. It
consists of passages of some seconds, each a function of the seed, its row and its number:

    silence, a noise floor, or a stretch of a file -> speed -> gain -> a gap -> a room -> noise

The noise is scaled relative to the speech after its gain, so that the SNR is as drawn. The result is the input of the
codec. It is the target as well, unless the codec is to remove noise (`DataConfig.denoise`): then the target is what was
there before the room and the noise.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectok.errors import require
from spectok.evaluation.pitch import PITCH_RATE
from spectok.resampling import resample
from spectok.training import noises
from spectok.training.corpus import Corpus

SILENT = 1e-4  # rms below which a signal counts as silent: -80 dB, three steps of int16
NOMINAL = 16000  # Hz: the rate to which speeds are relative in resampling; independent of the corpus's sample rate
NOISE_KINDS = (  # the first from the split "noise", babble of several speakers of the corpus, the others computed
    "recorded",
    "babble",
    "coloured",
    "bursts",
    "music",
)
TALKERS = (4, 8)  # lowest and highest number of voices in babble
MARGIN = 256  # samples of context for the resampler, whose response to an edge is below 1e-6 after 128


@dataclass(frozen=True)
class DataConfig:
    """How streams are drawn. A share is a probability for each passage; 0 disables it. Ranges are drawn uniformly."""

    batch_size: int = 4  # streams in a batch
    crop_seconds: float = 1.0  # length of each stream in a step
    passage_seconds: float = 4.0  # mean length of a passage; single ones are from 0 to twice as long
    source_weights: dict[str, float] = field(default_factory=dict)  # weight of each second of a source; by default 1
    speed_share: float = 0.0  # passages played faster or slower, which changes pitch and tempo
    speed: tuple[float, float] = (0.9, 1.1)  # range of their speed factor
    gain_db: tuple[float, float] = (-15.0, 6.0)  # range of the gain in dB; limited so that nothing clips
    noise_share: float = 0.0  # passages mixed with noise; silent passages stay silent
    noise_snr_db: tuple[float, float] = (0.0, 30.0)  # range of their signal-to-noise ratio in dB, by rms
    noise_kinds: dict[str, float] = field(default_factory=lambda: {"recorded": 1.0})  # weights of NOISE_KINDS
    room_share: float = 0.0  # passages convolved with a response from the split "rooms"
    denoise: bool = False  # the target is without rooms, noise and floors; silence is mixed with noise in the input
    noise_alone_db: tuple[float, float] = (-60.0, -20.0)  # denoise: range of the rms in dB of noise on silence
    silence_share: float = 0.02  # passages of digital silence
    floor_share: float = 0.0  # passages of white noise at a low level
    floor_db: tuple[float, float] = (-85.0, -50.0)  # range of their rms in dB of full scale
    gap_share: float = 0.05  # passages with a stretch of digital silence

    def __post_init__(self) -> None:
        require(self.batch_size > 0, f"batch_size is {self.batch_size}, but must be positive")
        for name in ("crop_seconds", "passage_seconds"):
            require(getattr(self, name) > 0, f"{name} is {getattr(self, name)}, but must be positive")
        unknown = ", ".join(sorted(map(repr, self.noise_kinds.keys() - set(NOISE_KINDS))))
        require(not unknown, f"noise_kinds has {unknown}, but the kinds are {', '.join(map(repr, NOISE_KINDS))}")
        kinds = self.noise_kinds.values()
        require(min(kinds, default=-1) >= 0 < sum(kinds), f"noise_kinds {self.noise_kinds} need a positive weight")
        for source, weight in self.source_weights.items():
            require(0 <= weight <= 1e9, f"source_weights: {source} is {weight}, but must be from 0 to 1e9")
        for name in ("speed_share", "noise_share", "room_share"):
            require(0 <= getattr(self, name) <= 1, f"{name} is {getattr(self, name)}, but must be from 0 to 1")
        for name, least, most in (
            ("speed", 0.5, 2.0),
            ("gain_db", -200.0, 200.0),
            ("noise_snr_db", -200.0, 200.0),
            ("floor_db", -200.0, 0.0),
            ("noise_alone_db", -200.0, 0.0),
        ):
            low, high = getattr(self, name)
            require(
                least <= low <= high <= most,
                f"{name} is {(low, high)}, but must be (lowest, highest), from {least:g} to {most:g}",
            )
        shares = (self.silence_share, self.floor_share, self.gap_share)
        require(
            min(shares) >= 0 and sum(shares) <= 1,
            f"silence_share {shares[0]}, floor_share {shares[1]} and gap_share {shares[2]} must be at least 0 and at "
            "most 1 together",
        )


class Batch(NamedTuple):
    """The part of each stream that belongs to one step."""

    audio: Tensor  # float32 [B, T], the target
    heard: Tensor  # float32 [B, T], the input
    pitch: Tensor  # float32 [B, T * PITCH_RATE / sample_rate], Hz; 0 where unvoiced


class Passage(NamedTuple):
    """A piece of a stream."""

    audio: NDArray[np.float32]  # [T], the target
    heard: NDArray[np.float32]  # [T], the input
    pitch: NDArray[np.float32]  # [T * PITCH_RATE / sample_rate], Hz; 0 where unvoiced


class Augmenter:
    """Streams of a corpus for training.

    Args:
        corpus: the files to draw from.
        config: how streams are drawn.
        noise: recorded noise, for `noise_share`.
        rooms: impulse responses that begin with the direct sound, for `room_share`.

    Attributes:
        edges: cumulative probability of the files, `[files]`; a file's probability is proportional to its length times
            the weight of its source.

    Raises:
        InputError: a weight is given for an unknown source, all weights are 0, or noise or rooms are needed and missing
            or have another sample rate.
    """

    def __init__(
        self, corpus: Corpus, config: DataConfig, noise: Corpus | None = None, rooms: Corpus | None = None
    ) -> None:
        self.corpus, self.config, self.noise, self.rooms = corpus, config, noise, rooms
        sources, weights = corpus.sources.tolist(), config.source_weights
        unknown = ", ".join(sorted(map(repr, weights.keys() - set(sources))))
        known = ", ".join(map(repr, sources))
        require(not unknown, f"source_weights has {unknown}, but the sources of {corpus.folder} are {known}")
        by_source = np.array([weights.get(source, 1.0) for source in sources])
        ends = np.cumsum(by_source[corpus.source_of] * corpus.samples)
        require(ends[-1] > 0, f"source_weights gives every source of {corpus.folder} the weight 0")
        for name, share, split in (
            ("noise", config.noise_share * config.noise_kinds.get("recorded", 0.0), noise),
            ("rooms", config.room_share, rooms),
        ):
            require(
                share == 0 or split is not None, f"{name.rstrip('s')}_share needs the split {name}, which is missing"
            )
            rates = (split.sample_rate if split else corpus.sample_rate, corpus.sample_rate)
            require(rates[0] == rates[1], f"the {name} was prepared at {rates[0]} Hz, but the corpus at {rates[1]}")
        self.kinds = [kind for kind in NOISE_KINDS if config.noise_kinds.get(kind, 0.0) > 0]
        self.kind_edges = np.cumsum([config.noise_kinds[kind] for kind in self.kinds])
        self.edges: NDArray[np.float64] = ends / ends[-1]

    def batch(self, samples: int, seed: int, step: int, rows: range | None = None) -> Batch:
        """The batch of a training step, or some of its rows; it depends on seed, step and row only.

        Args:
            samples: length of the stream in a step; a multiple of a hundredth of a second.
            seed: the seed of the run.
            step: the number of the step.
            rows: the rows of the batch to compute; by default all `batch_size` rows.
        """
        hop = self.corpus.hop
        streams = [
            self._stream(seed, row, step * samples // hop, samples // hop)
            for row in (range(self.config.batch_size) if rows is None else rows)
        ]
        return Batch(*(torch.from_numpy(np.stack(part)) for part in zip(*streams, strict=True)))

    def _stream(
        self,
        seed: int,
        row: int,
        start: int,
        hops: int,
    ) -> Passage:
        """A row's stream from the hop `start` on. Passage n begins at random in the n-th of equal intervals, 0 at 0."""
        stretch = self.config.passage_seconds * PITCH_RATE
        hop, parts = self.corpus.hop, []
        numbers = range(max(0, int(start / stretch) - 1), int((start + hops) / stretch) + 2)
        draws = {number: np.random.default_rng([seed, row, number]) for number in numbers}
        borders = {number: round((number + rng.random()) * stretch) if number else 0 for number, rng in draws.items()}
        for number in numbers[:-1]:
            first, end = borders[number], borders[number + 1]
            if first < min(end, start + hops) and end > start:
                passage = self.passage((end - first) * hop, draws[number])
                lower, upper = max(0, start - first), min(end, start + hops) - first
                samples = slice(lower * hop, upper * hop)
                parts.append((passage.audio[samples], passage.heard[samples], passage.pitch[lower:upper]))
        return Passage(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def passage(self, samples: int, rng: np.random.Generator) -> Passage:
        """One random passage of `samples` samples."""
        config, hop = self.config, self.corpus.hop
        kind = rng.random()
        unvoiced = np.zeros(-(-samples // hop), np.float32)
        silence = np.zeros(samples, np.float32)
        if kind < config.silence_share:
            is_noisy = config.denoise and rng.random() < config.noise_share
            return Passage(silence, self._noise_alone(samples, rng) if is_noisy else silence, unvoiced)
        if kind < config.silence_share + config.floor_share:
            level = 10 ** (rng.uniform(*config.floor_db) / 20)
            floor = np.float32(level) * rng.standard_normal(samples, np.float32)
            return Passage(silence if config.denoise else floor, floor, unvoiced)
        audio, pitch = self._speech(samples, rng)
        is_noisy = rng.random() < config.noise_share
        if kind >= 1 - config.gap_share:
            first, last = np.sort(rng.integers(len(pitch), size=2))
            audio[first * hop : last * hop] = 0
            pitch[first:last] = 0
        heard = audio
        if config.room_share and rng.random() < config.room_share:
            heard = self._in_a_room(heard, rng)
        if is_noisy:
            mix = _add(heard, self._noise(samples, rng), rng.uniform(*config.noise_snr_db))
            gain = 1 / max(np.float32(1), np.abs(mix).max())  # so that it does not clip
            heard, audio = mix * gain, audio * gain
        return Passage(audio if config.denoise else heard, heard, pitch)

    def _noise(self, samples: int, rng: np.random.Generator) -> NDArray[np.float32]:
        """Noise of a random kind, `[samples]`, at any level."""
        kind = self.kinds[int(np.searchsorted(self.kind_edges, rng.random() * self.kind_edges[-1], side="right"))]
        if kind == "recorded" and self.noise is not None:
            return self.noise.stretch(samples, rng)
        if kind == "babble":
            voices = (self.corpus.stretch(samples, rng) for _ in range(rng.integers(*TALKERS, endpoint=True)))
            babble: NDArray[np.float32] = np.sum(
                [voice / max(float(np.abs(voice).max()), 1e-5) for voice in voices], axis=0, dtype=np.float32
            )
            return babble
        if kind == "coloured":
            return noises.coloured(samples, rng.uniform(-2.0, 1.0), rng)
        return (noises.bursts if kind == "bursts" else noises.music)(samples, self.corpus.sample_rate, rng)

    def _noise_alone(self, samples: int, rng: np.random.Generator) -> NDArray[np.float32]:
        noise = self._noise(samples, rng)
        level = 10 ** (rng.uniform(*self.config.noise_alone_db) / 20)
        return noise * np.float32(level / max(_rms(noise), SILENT))

    def _in_a_room(self, audio: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        """Audio with the reverberation of a random room, `[T]`, scaled to its own rms."""
        assert self.rooms is not None  # the constructor requires it
        response = self.rooms.clip(int(rng.integers(len(self.rooms))))
        length = len(audio) + len(response) - 1
        spectra = (np.fft.rfft(part, n=noises.fast_length(length)) for part in (audio, response))
        wet = np.fft.irfft(np.multiply(*spectra))[: len(audio)].astype(np.float32)
        return wet * np.float32(min(_rms(audio) / max(_rms(wet), 1e-9), 1 / max(float(np.abs(wet).max()), 1e-5)))

    def _speech(self, samples: int, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """A random stretch of a file at a random speed and gain, and its pitch; zeros after the end of a short file."""
        corpus, config = self.corpus, self.config
        index = int(np.searchsorted(self.edges, rng.random(), side="right"))
        rate = round(NOMINAL * rng.uniform(*config.speed)) if rng.random() < config.speed_share else NOMINAL
        needed = math.ceil(samples * rate / NOMINAL)
        start = int(rng.integers(max(1, int(corpus.samples[index]) - needed + 1)))
        lead = min(start, MARGIN)
        played = resample(corpus.clip(index, start - lead, lead + needed + MARGIN), rate, NOMINAL)
        crop = played[round(lead * NOMINAL / rate) :][:samples]
        gain = 10 ** (rng.uniform(*config.gain_db) / 20)
        crop = crop * np.float32(min(gain, 1 / max(float(np.abs(crop).max()), 1e-5)))
        return crop, corpus.pitch_of(index, start, samples, rate / NOMINAL)


def _add(speech: NDArray[np.float32], noise: NDArray[np.float32], snr_db: float) -> NDArray[np.float32]:
    """The mix `[T]`; the speech alone if either signal is silent."""
    levels = _rms(speech), _rms(noise)
    if min(levels) < SILENT:
        return speech
    return speech + noise * np.float32(levels[0] / levels[1] * 10 ** (-snr_db / 20))


def _rms(audio: NDArray[np.float32]) -> float:
    return math.sqrt(np.square(audio, dtype=np.float64).mean())
