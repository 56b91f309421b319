"""Training audio: endless streams of augmented passages of a corpus.

Each row of a batch is a stream that goes on from step to step, so that the states of the codec can. It is made of
passages of some seconds, each a function of the seed, its row and its number:

    silence, a noise floor, or a stretch of a file -> speed -> gain -> noise -> a gap

Noise follows gain, so that the gain scales both and leaves the SNR as it was drawn. What comes out is both what the
codec hears and what it has to give back.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectok.audio import resample
from spectok.evaluation.pitch import PITCH_RATE
from spectok.schema import require
from spectok.training.corpus import Corpus

SILENT = 1e-4  # rms, -80 dB: three steps of int16
NOMINAL = 16000  # Hz: a speed is the ratio of a rate to this one, whatever the corpus was recorded at
MARGIN = 256  # samples; the resampler's answer to an edge is below 1e-6 after 128


@dataclass(frozen=True)
class DataConfig:
    """How streams are drawn."""

    batch_size: int = 4  # streams side by side
    crop_seconds: float = 1.0  # of each stream in each step
    passage_seconds: float = 4.0  # the mean; uniform borders make passages of 0 to twice as long
    source_weights: dict[str, float] = field(default_factory=dict)  # how often a second of a source is drawn; else 1
    speed_share: float = 0.0  # passages that are played faster or slower, pitch and tempo together
    speed: tuple[float, float] = (0.9, 1.1)  # uniform
    gain_db: tuple[float, float] = (-15.0, 6.0)  # uniform in decibels, limited so that nothing clips
    noise_share: float = 0.0  # passages with noise from the corpus's split of that name; silence stays silence
    noise_snr_db: tuple[float, float] = (0.0, 30.0)  # uniform, by rms over the passage
    silence_share: float = 0.02  # passages that are digital silence
    floor_share: float = 0.0  # passages that are white noise at a low level
    floor_db: tuple[float, float] = (-85.0, -50.0)  # its rms, uniform in decibels of full scale
    gap_share: float = 0.05  # passages in which a stretch is digital silence

    def __post_init__(self) -> None:
        require(self.batch_size > 0, f"batch_size is {self.batch_size}, but must be positive")
        for name in ("crop_seconds", "passage_seconds"):
            require(getattr(self, name) > 0, f"{name} is {getattr(self, name)}, but must be positive")
        for source, weight in self.source_weights.items():
            require(0 <= weight <= 1e9, f"source_weights: {source} is {weight}, but must be from 0 to 1e9")
        for name in ("speed_share", "noise_share"):
            require(0 <= getattr(self, name) <= 1, f"{name} is {getattr(self, name)}, but must be from 0 to 1")
        for name, least, most in (
            ("speed", 0.5, 2.0),
            ("gain_db", -200.0, 200.0),
            ("noise_snr_db", -200.0, 200.0),
            ("floor_db", -200.0, 0.0),
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
    """A step's part of each stream."""

    audio: Tensor  # float32 [B, T]
    pitch: Tensor  # float32 [B, T * PITCH_RATE / sample_rate], Hz; 0 where nothing is voiced


class Passage(NamedTuple):
    """A piece of a stream."""

    audio: NDArray[np.float32]  # [T]
    pitch: NDArray[np.float32]  # [T * PITCH_RATE / sample_rate], Hz; 0 where nothing is voiced


class Augmenter:
    """Streams of a corpus for training.

    Args:
        corpus: whose files are heard.
        config: how streams are drawn.
        noise: where `noise_share` of the passages find their noise.

    Attributes:
        edges: where in [0, 1] each file ends, `[files]`: its part is its length times the weight of its source.

    Raises:
        InputError: a weight for a source that is not there, or none but 0; noise is wanted, but not given or at
            another sample rate.
    """

    def __init__(self, corpus: Corpus, config: DataConfig, noise: Corpus | None = None) -> None:
        self.corpus, self.config, self.noise = corpus, config, noise
        sources, weights = corpus.sources.tolist(), config.source_weights
        unknown = ", ".join(sorted(map(repr, weights.keys() - set(sources))))
        known = ", ".join(map(repr, sources))
        require(not unknown, f"source_weights has {unknown}, but the sources of {corpus.folder} are {known}")
        by_source = np.array([weights.get(source, 1.0) for source in sources])
        ends = np.cumsum(by_source[corpus.source_of] * corpus.samples)
        require(ends[-1] > 0, f"source_weights gives every source of {corpus.folder} the weight 0")
        if noise is None:
            require(config.noise_share == 0, f"noise_share is {config.noise_share}, but no noise was given")
        else:
            rates = (noise.sample_rate, corpus.sample_rate)
            require(rates[0] == rates[1], f"the noise was prepared at {rates[0]} Hz, but the corpus at {rates[1]}")
        self.edges: NDArray[np.float64] = ends / ends[-1]

    def batch(self, samples: int, seed: int, step: int, rows: range | None = None) -> Batch:
        """The batch of a training step, or some rows of it: a function of seed, step and row alone.

        Args:
            samples: how far a stream goes on in a step; a multiple of a hundredth of a second.
            seed: of the run.
            step: of the run.
            rows: which rows of the batch; without it, all `batch_size` of them.
        """
        hop = self.corpus.hop
        streams = [
            self._stream(seed, row, step * samples // hop, samples // hop)
            for row in (range(self.config.batch_size) if rows is None else rows)
        ]
        audio, pitch = (torch.from_numpy(np.stack(part)) for part in zip(*streams, strict=True))
        return Batch(audio, pitch)

    def _stream(
        self,
        seed: int,
        row: int,
        start: int,
        hops: int,
    ) -> Passage:
        """A row's stream from the hop `start` on. Passage n begins within the n-th of equal stretches, but 0 at 0."""
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
                parts.append((passage.audio[lower * hop : upper * hop], passage.pitch[lower:upper]))
        return Passage(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def passage(self, samples: int, rng: np.random.Generator) -> Passage:
        """One random passage of `samples` samples."""
        config, hop = self.config, self.corpus.hop
        kind = rng.random()
        nothing = np.zeros(-(-samples // hop), np.float32)
        if kind < config.silence_share:
            return Passage(np.zeros(samples, np.float32), nothing)
        if kind < config.silence_share + config.floor_share:
            level = 10 ** (rng.uniform(*config.floor_db) / 20)
            return Passage(np.float32(level) * rng.standard_normal(samples, np.float32), nothing)
        audio, pitch = self._speech(samples, rng)
        if rng.random() < config.noise_share and self.noise is not None:
            audio = _add(audio, self.noise.stretch(samples, rng), rng.uniform(*config.noise_snr_db))
        if kind >= 1 - config.gap_share:
            first, last = np.sort(rng.integers(len(pitch), size=2))
            audio[first * hop : last * hop] = 0
            pitch[first:last] = 0
        return Passage(audio, pitch)

    def _speech(self, samples: int, rng: np.random.Generator) -> Passage:
        """A random stretch of a file at a random speed and gain; silence after the end of a file that is shorter."""
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
        return Passage(crop, corpus.pitch_of(index, start, samples, rate / NOMINAL))


def _add(speech: NDArray[np.float32], noise: NDArray[np.float32], snr_db: float) -> NDArray[np.float32]:
    """The mix `[T]`, scaled down where it would clip; the speech alone where either is silent."""
    levels = [math.sqrt(np.square(audio, dtype=np.float64).mean()) for audio in (speech, noise)]
    if min(levels) < SILENT:
        return speech
    mix = speech + noise * np.float32(levels[0] / levels[1] * 10 ** (-snr_db / 20))
    mix /= max(np.float32(1), np.abs(mix).max())
    return mix
