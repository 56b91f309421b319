"""A prepared corpus: its audio, its pitch, and the sources of its files.

A prepared folder (recipes/prepare.py) holds `manifest.csv` (columns file, split, source, start, samples, sample_rate)
and for each split `<split>.i16`, all its audio as little-endian int16 at one sample rate, and `<split>.f0`, its pitch
100 times a second as float32 in Hz, 0 where unvoiced. These files are memory-mapped, and each worker process opens them
itself.
"""

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spectok.errors import InputError, require
from spectok.evaluation.pitch import PITCH_RATE


class Corpus:
    """One split of a prepared folder. It is pickled as folder and split only; a worker process opens the files itself.

    Args:
        folder: the prepared folder.
        split: "train", "valid", or "noise" if there is one.

    Raises:
        InputError: the folder was not made by recipes/prepare.py, or has no such split.
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
        return Corpus, (self.folder.absolute(), self.split)  # a spawned process may have another working directory

    def hours_by_source(self) -> dict[str, float]:
        """Hours of audio for each source in the manifest."""
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

    def pitch_of(self, index: int, start: int, samples: int, speed: float = 1.0) -> NDArray[np.float32]:
        """The pitch of a file from sample `start` on, played at a speed, at the middles of hops.

        Args:
            index: the number of the file.
            start: the first sample of the file.
            samples: the number of samples played.
            speed: samples of the file for each sample played.

        Returns:
            Pitch in Hz, `[samples / hop]`; 0 where unvoiced, and after the end of the file.
        """
        length = -(-int(self.samples[index]) // self.hop) if len(self.pitch) else 0
        tracked = self.pitch[self.pitch_starts[index] :][:length]
        middles = (np.arange(-(-samples // self.hop)) + 0.5) * speed + start / self.hop
        places = middles.astype(int)
        pitch = np.zeros(len(places), np.float32)
        inside = places < length
        pitch[inside] = tracked[places[inside]] * np.float32(speed)
        return pitch

    def stretch(self, samples: int, rng: np.random.Generator) -> NDArray[np.float32]:
        """A random stretch of a random file, `[samples]`; a shorter file is repeated."""
        index = int(np.searchsorted(self.ends, rng.random(), side="right"))
        length = int(self.samples[index])
        if length < samples:
            return np.take(self.clip(index), rng.integers(length) + np.arange(samples), mode="wrap")
        return self.clip(index, int(rng.integers(length - samples + 1)), samples)
