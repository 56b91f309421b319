"""Mixtures of speech, music and effects, made at random from a folder of recipes/separation/prepare.py."""

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recipes.separation.config import MixConfig
from spectok.training.corpus import Corpus

KINDS = ("speech", "music", "effects")
QUIET_DB = -50.0  # rms in dB of full scale, below which a stretch is drawn again
TRIES = 20  # after which a stretch is taken even if it is quiet
TEST_SEED = 2026


class Mixtures:
    """Draws mixtures from the sources of one split.

    Args:
        folder: made by recipes/separation/prepare.py.
        split: "train" or "test".
        config: what is mixed, and how loud.

    Raises:
        InputError: the folder was not made by that script.
    """

    def __init__(self, folder: str | Path, split: Literal["train", "test"], config: MixConfig) -> None:
        self.config = config
        self.corpora = [Corpus(folder, f"{kind}-{split}") for kind in KINDS]
        self.sample_rate = self.corpora[0].sample_rate

    def draw(self, samples: int, rng: np.random.Generator) -> NDArray[np.float32]:
        """The sources of one mixture, which is their sum: `[S, samples]`, S by the task."""
        return combined(
            np.stack([self._source(number, samples, rng) for number in range(len(KINDS))]), self.config.task
        )

    def batch(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """The sources of a batch for training, `[B, S, T]`."""
        samples = round(self.config.seconds * self.sample_rate)
        return np.stack([self.draw(samples, rng) for _ in range(self.config.batch_size)])

    def test(self) -> list[NDArray[np.float32]]:
        """The sources of the mixtures of the test, `[S, T]` each: always the same ones."""
        samples = round(self.config.test_seconds * self.sample_rate)
        numbers = range(self.config.test_mixtures)
        return [self.draw(samples, np.random.default_rng([TEST_SEED, number])) for number in numbers]

    def _source(self, number: int, samples: int, rng: np.random.Generator) -> NDArray[np.float32]:
        for _ in range(TRIES):
            stretch = self.corpora[number].stretch(samples, rng)
            level = float(np.sqrt(np.square(stretch, dtype=np.float64).mean()))
            if level > 10 ** (QUIET_DB / 20):
                break
        decibels = self.config.level_db[number] + rng.uniform(-1, 1) * self.config.spread_db
        return (stretch * (10 ** (decibels / 20) / max(level, 1e-6))).astype(np.float32)


def combined(sources: NDArray[np.float32], task: str) -> NDArray[np.float32]:
    """Speech, music and effects `[3, T]` as the sources of a task: all three, or speech and the sum of the others."""
    return sources if task == "cinematic" else np.stack([sources[0], sources[1] + sources[2]])
