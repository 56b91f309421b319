"""The batches of a run in the order of its steps, prepared by any number of processes."""

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, Dataset

from spectok.errors import InputError, require
from spectok.training import distributed
from spectok.training.augment import Augmenter, Batch, DataConfig
from spectok.training.corpus import Corpus

PREFETCH = 4  # batches that each worker prepares ahead


@dataclass(frozen=True)
class _Steps(Dataset[Batch]):
    """The batches of a run, indexed by step."""

    augmenter: Augmenter
    samples: int
    seed: int
    rows: range

    def __getitem__(self, step: int) -> Batch:
        return self.augmenter.batch(self.samples, self.seed, step, self.rows)


class Batches:
    """Endless iterator over the batches of a run, starting at a step; each holds `batch_size / world` streams.

    The batches do not depend on the number of workers. Workers start immediately and are spawned, because forking a
    process with threads can hang; each computes with one thread. They end with `close` or when this object is deleted.

    Args:
        corpus, config: as `Augmenter` takes them.
        samples, seed: as `Augmenter.batch` takes them.
        first_step: the step of the first batch.
        rank: the number of this process, from 0; it gets that share of each batch.
        world: the number of shares into which a batch is divided.
        workers: processes that prepare batches ahead; 0 prepares each in `next`.
        noise: the noise for `noise_share`; by default the split "noise" in the corpus's folder.

    Attributes:
        waited: seconds spent in `next` so far.

    Raises:
        InputError: `batch_size` is not a multiple of `world`, noise is needed and missing, or `Augmenter` raises one.
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
        require(workers >= 0, f"workers is {workers}, but must not be negative")
        try:
            if noise is None and config.noise_share > 0 and config.noise_kinds.get("recorded"):
                noise = Corpus(corpus.folder, "noise")
            rooms = Corpus(corpus.folder, "rooms") if config.room_share > 0 else None
        except InputError as error:
            shares = f"noise_share is {config.noise_share} and room_share {config.room_share}"
            raise InputError(f"{shares}, but {error}") from error
        augmenter = Augmenter(corpus, config, noise, rooms)
        share = config.batch_size // world
        loader = DataLoader(
            _Steps(augmenter, samples, seed, range(rank * share, (rank + 1) * share)),
            batch_size=None,
            sampler=itertools.count(first_step),
            num_workers=workers,
            prefetch_factor=PREFETCH if workers else None,
            multiprocessing_context="spawn" if workers else None,
            worker_init_fn=distributed.ignore_signals,
            generator=torch.Generator(),  # otherwise torch's global generator is used and changed
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
