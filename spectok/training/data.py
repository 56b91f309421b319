"""Training audio: a prepared folder, endless streams of it, and the batches of a run, in the order of its steps.

A prepared folder (recipes/prepare.py) holds `manifest.csv` (columns file, split, source, start, samples, sample_rate)
and for each split `<split>.i16`, all its audio as little-endian int16 at one sample rate, and `<split>.f0`, its pitch
100 times a second as float32 in Hz, 0 where nothing is voiced. Those files are mapped, not loaded, and opened anew by
each worker process.

Each row of a batch is a stream that goes on from step to step, so that the states of the codec can. It is made of
passages of some seconds, each a function of the seed, its row and its number:

    silence, a noise floor, or a stretch of a file -> speed -> gain -> noise -> a gap

Noise follows gain, so that the gain scales both and leaves the SNR as it was drawn. What comes out is both what the
codec hears and what it has to give back.
"""

import csv
import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from spectok.audio import resample
from spectok.errors import InputError
from spectok.evaluation.pitch import PITCH_RATE
from spectok.schema import require
from spectok.training import distributed

SILENT = 1e-4  # rms, -80 dB: three steps of int16
NOMINAL = 16000  # Hz: a speed is the ratio of a rate to this one, whatever the corpus was recorded at
MARGIN = 256  # samples; the resampler's answer to an edge is below 1e-6 after 128
PREFETCH = 4  # batches that each worker prepares ahead


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


class Corpus:
    """One split of a prepared folder. Pickled as its folder and split, so that a worker process opens it anew.

    Args:
        folder: the prepared folder.
        split: "train", "valid", or "noise" where there is one.

    Raises:
        InputError: the folder is not a prepared one, or has no such split.
    """

    def __init__(self, folder: str | Path, split: str) -> None:
        self.folder, self.split = folder, split = Path(folder), split
        try:
            with open(folder / "manifest.csv", newline="", encoding="utf-8") as file:
                self.rows = [row for row in csv.DictReader(file) if row["split"] == split]
            require(len(self.rows) > 0, f"{folder} has no files in the split '{split}'")
            self.starts = np.array([int(row["start"]) for row in self.rows])
            self.samples = np.array([int(row["samples"]) for row in self.rows])
            self.sample_rate = int(self.rows[0]["sample_rate"])
            self.sources, self.source_of = np.unique([row["source"] for row in self.rows], return_inverse=True)
            self.audio = np.memmap(folder / f"{split}.i16", "<i2", "r")
            pitch = folder / f"{split}.f0"  # empty for noise
            is_tracked = pitch.exists() and pitch.stat().st_size > 0
            self.pitch = np.memmap(pitch, "<f4", "r") if is_tracked else np.zeros(0, np.float32)
        except InputError:
            raise
        except (OSError, KeyError, ValueError) as error:
            raise InputError(f"{folder} is not a folder made by recipes/prepare.py: {error}") from error
        total = self.samples.sum()
        require(len(self.audio) == total, f"{folder}/{split}.i16 is not as long as manifest.csv says it is")
        self.ends = np.cumsum(self.samples) / total
        require(
            self.sample_rate % PITCH_RATE == 0,
            f"{folder} was prepared at {self.sample_rate} Hz, but that must be a multiple of {PITCH_RATE} Hz",
        )
        self.hop = self.sample_rate // PITCH_RATE
        hops = -(-self.samples // self.hop)
        self.pitch_starts = np.cumsum(hops) - hops
        require(
            len(self.pitch) in (0, hops.sum()),
            f"{folder}/{split}.f0 is not as long as manifest.csv says it is",
        )

    def __reduce__(self) -> tuple[type["Corpus"], tuple[Path, str]]:
        return Corpus, (self.folder.absolute(), self.split)  # a spawned process may begin in another folder

    def hours_by_source(self) -> dict[str, float]:
        """Hours of audio of each source that the manifest names."""
        hours = np.bincount(self.source_of, self.samples) / self.sample_rate / 3600
        return dict(zip(self.sources.tolist(), hours.tolist(), strict=True))

    def __len__(self) -> int:
        return len(self.rows)

    def clip(self, index: int, start: int = 0, samples: int | None = None) -> NDArray[np.float32]:
        """A file, or a stretch of it, as float32 `[T]`; zeros beyond its end."""
        length = int(self.samples[index])
        samples = length if samples is None else samples
        first = int(self.starts[index]) + start
        stretch = self.audio[first : first + min(samples, length - start)].astype(np.float32) / 32768
        return np.pad(stretch, (0, samples - len(stretch)))

    def edges(self, config: DataConfig, noise: "Corpus | None" = None) -> NDArray[np.float64]:
        """Where in [0, 1] each file ends, `[files]`: its part is its length times the weight of its source.

        Raises:
            InputError: a weight for a source that is not here, or none but 0; noise is wanted, but not given or at
                another sample rate.
        """
        sources, weights = self.sources.tolist(), config.source_weights
        unknown = ", ".join(sorted(map(repr, weights.keys() - set(sources))))
        known = ", ".join(map(repr, sources))
        require(not unknown, f"source_weights has {unknown}, but the sources of {self.folder} are {known}")
        by_source = np.array([weights.get(source, 1.0) for source in sources])
        ends = np.cumsum(by_source[self.source_of] * self.samples)
        require(ends[-1] > 0, f"source_weights gives every source of {self.folder} the weight 0")
        if noise is None:
            require(config.noise_share == 0, f"noise_share is {config.noise_share}, but no noise was given")
        else:
            rates = (noise.sample_rate, self.sample_rate)
            require(rates[0] == rates[1], f"the noise was prepared at {rates[0]} Hz, but the corpus at {rates[1]}")
        return ends / ends[-1]

    def batch(
        self,
        config: DataConfig,
        samples: int,
        seed: int,
        step: int,
        rows: range | None = None,
        noise: "Corpus | None" = None,
    ) -> Batch:
        """The batch of a training step, or some rows of it: a function of seed, step and row alone.

        Args:
            config: how streams are drawn.
            samples: how far a stream goes on in a step; a multiple of a hundredth of a second.
            seed: of the run.
            step: of the run.
            rows: which rows of the batch; without it, all `batch_size` of them.
            noise: where `noise_share` of the passages find their noise.

        Raises:
            InputError: as `edges`.
        """
        edges = self.edges(config, noise)
        streams = [
            self._stream(config, seed, row, step * samples // self.hop, samples // self.hop, edges, noise)
            for row in (range(config.batch_size) if rows is None else rows)
        ]
        audio, pitch = (torch.from_numpy(np.stack(part)) for part in zip(*streams, strict=True))
        return Batch(audio, pitch)

    def _stream(
        self,
        config: DataConfig,
        seed: int,
        row: int,
        start: int,
        hops: int,
        edges: NDArray[np.float64],
        noise: "Corpus | None",
    ) -> Passage:
        """A row's stream from the hop `start` on. Passage n begins within the n-th of equal stretches, but 0 at 0."""
        stretch = config.passage_seconds * PITCH_RATE
        parts = []
        numbers = range(max(0, int(start / stretch) - 1), int((start + hops) / stretch) + 2)
        draws = {number: np.random.default_rng([seed, row, number]) for number in numbers}
        borders = {number: round((number + rng.random()) * stretch) if number else 0 for number, rng in draws.items()}
        for number in numbers[:-1]:
            first, end = borders[number], borders[number + 1]
            if first < min(end, start + hops) and end > start:
                passage = self.passage(config, (end - first) * self.hop, edges, draws[number], noise)
                lower, upper = max(0, start - first), min(end, start + hops) - first
                parts.append((passage.audio[lower * self.hop : upper * self.hop], passage.pitch[lower:upper]))
        return Passage(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def passage(
        self,
        config: DataConfig,
        samples: int,
        edges: NDArray[np.float64],
        rng: np.random.Generator,
        noise: "Corpus | None" = None,
    ) -> Passage:
        """One random passage of `samples` samples; `edges` are those of `Corpus.edges`."""
        kind = rng.random()
        nothing = np.zeros(-(-samples // self.hop), np.float32)
        if kind < config.silence_share:
            return Passage(np.zeros(samples, np.float32), nothing)
        if kind < config.silence_share + config.floor_share:
            level = 10 ** (rng.uniform(*config.floor_db) / 20)
            return Passage(np.float32(level) * rng.standard_normal(samples, np.float32), nothing)
        audio, pitch = self._speech(config, samples, edges, rng)
        if rng.random() < config.noise_share and noise is not None:
            audio = _add(audio, noise.stretch(samples, rng), rng.uniform(*config.noise_snr_db))
        if kind >= 1 - config.gap_share:
            first, last = np.sort(rng.integers(len(pitch), size=2))
            audio[first * self.hop : last * self.hop] = 0
            pitch[first:last] = 0
        return Passage(audio, pitch)

    def stretch(self, samples: int, rng: np.random.Generator) -> NDArray[np.float32]:
        """A random stretch of a random file, `[samples]`; a file that is shorter is repeated."""
        index = int(np.searchsorted(self.ends, rng.random(), side="right"))
        length = int(self.samples[index])
        if length < samples:
            return np.take(self.clip(index), rng.integers(length) + np.arange(samples), mode="wrap")
        return self.clip(index, int(rng.integers(length - samples + 1)), samples)

    def _speech(
        self, config: DataConfig, samples: int, edges: NDArray[np.float64], rng: np.random.Generator
    ) -> Passage:
        """A random stretch of a file at a random speed and gain; silence after the end of a file that is shorter."""
        index = int(np.searchsorted(edges, rng.random(), side="right"))
        rate = round(NOMINAL * rng.uniform(*config.speed)) if rng.random() < config.speed_share else NOMINAL
        needed = math.ceil(samples * rate / NOMINAL)
        start = int(rng.integers(max(1, int(self.samples[index]) - needed + 1)))
        lead = min(start, MARGIN)
        played = resample(self.clip(index, start - lead, lead + needed + MARGIN), rate, NOMINAL)
        crop = played[round(lead * NOMINAL / rate) :][:samples]
        gain = 10 ** (rng.uniform(*config.gain_db) / 20)
        crop = crop * np.float32(min(gain, 1 / max(float(np.abs(crop).max()), 1e-5)))
        return Passage(crop, self._pitch(index, start, samples, rate / NOMINAL))

    def _pitch(self, index: int, start: int, samples: int, speed: float) -> NDArray[np.float32]:
        """The pitch of a file from sample `start` on, played at a speed, at the middles of hops; 0 where it ends."""
        length = -(-int(self.samples[index]) // self.hop) if len(self.pitch) else 0
        tracked = self.pitch[self.pitch_starts[index] :][:length]
        middles = (np.arange(-(-samples // self.hop)) + 0.5) * speed + start / self.hop
        places = middles.astype(int)
        pitch = np.zeros(len(places), np.float32)
        inside = places < length
        pitch[inside] = tracked[places[inside]] * np.float32(speed)
        return pitch


def _add(speech: NDArray[np.float32], noise: NDArray[np.float32], snr_db: float) -> NDArray[np.float32]:
    """The mix `[T]`, scaled down where it would clip; the speech alone where either is silent."""
    levels = [math.sqrt(np.square(audio, dtype=np.float64).mean()) for audio in (speech, noise)]
    if min(levels) < SILENT:
        return speech
    mix = speech + noise * np.float32(levels[0] / levels[1] * 10 ** (-snr_db / 20))
    return mix / max(np.float32(1), np.abs(mix).max())


@dataclass(frozen=True)
class _Steps(Dataset[Batch]):
    """The batches of a run, by step."""

    corpus: Corpus
    config: DataConfig
    samples: int
    seed: int
    rows: range
    noise: Corpus | None

    def __getitem__(self, step: int) -> Batch:
        return self.corpus.batch(self.config, self.samples, self.seed, step, self.rows, self.noise)


class Batches:
    """Iterates over the batches of a run from a step on, without end: `batch_size / world` streams in each.

    Any number of workers gives the same batches. They start at once, spawned (a fork of a process with threads can
    hang), compute with one thread each, and end with `close` or when this object is dropped.

    Args:
        corpus, config, samples, seed: as `Corpus.batch` takes them.
        first_step: the step of the first batch.
        rank: which of the shares of each batch, from 0.
        world: into how many shares a batch is divided.
        workers: processes that prepare batches ahead; 0 prepares each when it is asked for.
        noise: without it, noise is drawn from the split "noise" of the corpus's folder.

    Attributes:
        waited: seconds that `next` has taken so far.

    Raises:
        InputError: the batch cannot be divided so, noise is wanted and there is none, or as `Corpus.batch`.
    """

    def __init__(
        self,
        corpus: Corpus,
        config: DataConfig,
        samples: int,
        seed: int,
        first_step: int = 0,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        noise: Corpus | None = None,
    ) -> None:
        self.waited = 0.0
        require(0 <= rank < world, f"rank is {rank}, but must be at least 0 and less than the world of {world}")
        require(config.batch_size % world == 0, f"batch_size {config.batch_size} is not a multiple of {world} ranks")
        require(workers >= 0, f"there cannot be {workers} workers")
        if noise is None and config.noise_share > 0:
            try:
                noise = Corpus(corpus.folder, "noise")
            except InputError as error:
                raise InputError(f"noise_share is {config.noise_share}, but {error}") from error
        corpus.edges(config, noise)  # what it refuses is refused here, not in a worker
        share = config.batch_size // world
        loader = DataLoader(
            _Steps(corpus, config, samples, seed, range(rank * share, (rank + 1) * share), noise),
            batch_size=None,
            sampler=itertools.count(first_step),
            num_workers=workers,
            prefetch_factor=PREFETCH if workers else None,
            multiprocessing_context="spawn" if workers else None,
            worker_init_fn=distributed.outlive_signals,
            generator=torch.Generator(),  # without one, torch's global generator is drawn from
        )
        self._batches: Iterator[Batch] = iter(loader)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        began = time.perf_counter()
        batch = next(self._batches)
        self.waited += time.perf_counter() - began
        return batch

    def close(self) -> None:
        """End the workers; there are no batches after that."""
        self._batches = iter(())
