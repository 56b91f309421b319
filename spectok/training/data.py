"""Training audio: a prepared folder, and random crops of it that depend only on the seed and the step.

A prepared folder (recipes/prepare.py) holds `manifest.csv` (columns file, split, source, start, samples, sample_rate)
and for each split `<split>.i16`, all its audio as little-endian int16 at one sample rate. That file is mapped, not
loaded: a crop costs a page fault, so no worker processes are needed.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spectok.config import require
from spectok.errors import InputError


@dataclass(frozen=True)
class DataConfig:
    """How crops are drawn."""

    batch_size: int = 4
    crop_seconds: float = 1.0
    gain_db: tuple[float, float] = (-15.0, 6.0)  # uniform in decibels, limited so that nothing clips
    silence_share: float = 0.02  # crops that are digital silence
    gap_share: float = 0.05  # crops in which a stretch is digital silence

    def __post_init__(self) -> None:
        require(self.batch_size > 0, f"batch_size is {self.batch_size}, but must be positive")
        require(self.crop_seconds > 0, f"crop_seconds is {self.crop_seconds}, but must be positive")
        require(self.gain_db[0] <= self.gain_db[1], f"gain_db is {self.gain_db}, but must be (lowest, highest)")
        shares = (self.silence_share, self.gap_share)
        require(
            min(shares) >= 0 and sum(shares) <= 1,
            f"silence_share {shares[0]} and gap_share {shares[1]} must be at least 0 and at most 1 together",
        )


class Corpus:
    """One split of a prepared folder.

    Args:
        folder: the prepared folder.
        split: "train" or "valid".

    Raises:
        InputError: the folder is not a prepared one, or has no such split.
    """

    def __init__(self, folder: str | Path, split: str) -> None:
        folder = Path(folder)
        try:
            with open(folder / "manifest.csv", newline="", encoding="utf-8") as file:
                self.rows = [row for row in csv.DictReader(file) if row["split"] == split]
            require(len(self.rows) > 0, f"{folder} has no files in the split '{split}'")
            self.starts = np.array([int(row["start"]) for row in self.rows])
            self.samples = np.array([int(row["samples"]) for row in self.rows])
            self.sample_rate = int(self.rows[0]["sample_rate"])
            self.audio = np.memmap(folder / f"{split}.i16", "<i2", "r")
        except InputError:
            raise
        except (OSError, KeyError, ValueError) as error:
            raise InputError(f"{folder} is not a folder made by recipes/prepare.py: {error}") from error
        require(
            len(self.audio) == self.samples.sum(), f"{folder}/{split}.i16 is not as long as manifest.csv says it is"
        )
        self.edges = np.cumsum(self.samples) / self.samples.sum()

    def hours_by_source(self) -> dict[str, float]:
        """Hours of audio of each source that the manifest names."""
        hours: dict[str, float] = {}
        for row, samples in zip(self.rows, self.samples, strict=True):
            hours[row["source"]] = hours.get(row["source"], 0.0) + float(samples) / self.sample_rate / 3600
        return hours

    def __len__(self) -> int:
        return len(self.rows)

    def clip(self, index: int, start: int = 0, samples: int | None = None) -> NDArray[np.float32]:
        """A file, or a stretch of it, as float32 `[T]`; zeros beyond its end."""
        length = int(self.samples[index])
        samples = length if samples is None else samples
        first = int(self.starts[index]) + start
        stretch = self.audio[first : first + min(samples, length - start)].astype(np.float32) / 32768
        return np.pad(stretch, (0, samples - len(stretch)))

    def batch(self, config: DataConfig, samples: int, seed: int, step: int) -> NDArray[np.float32]:
        """The batch of a training step, `[batch_size, samples]`: a function of seed and step alone."""
        rng = np.random.default_rng([seed, step])
        return np.stack([self._crop(config, samples, rng) for _ in range(config.batch_size)])

    def _crop(self, config: DataConfig, samples: int, rng: np.random.Generator) -> NDArray[np.float32]:
        index = int(np.searchsorted(self.edges, rng.random(), side="right").clip(0, len(self) - 1))
        start = int(rng.integers(max(1, int(self.samples[index]) - samples + 1)))
        crop = self.clip(index, start, samples)
        peak = float(np.abs(crop).max())
        gain = 10 ** (rng.uniform(*config.gain_db) / 20)
        crop = crop * np.float32(min(gain, 1 / max(peak, 1e-5)))
        draw = rng.random()
        if draw < config.silence_share:
            crop[:] = 0
        elif draw < config.silence_share + config.gap_share:
            first, last = np.sort(rng.integers(samples, size=2))
            crop[first:last] = 0
        return crop
