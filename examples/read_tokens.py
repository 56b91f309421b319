"""Read what `spectok tokenize` has written, as training sequences of a language model.

    python examples/read_tokens.py TOKENS --length 512 --batch 8

The shards are read one row group at a time, in another order in each epoch, and each process of a DataLoader reads its
own ones. Recordings are joined, with END after each, and cut into sequences of equal length.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info


class Sequences(IterableDataset[torch.Tensor]):
    """Sequences of tokens, int64 `[length]`; what is left at the end of an epoch is dropped.

    Args:
        folder: that `spectok tokenize` has written.
        length: of a sequence, in tokens.
        seed: of the order of the row groups, together with `epoch`.
    """

    def __init__(self, folder: Path, length: int, seed: int = 0) -> None:
        self.files = sorted(folder.glob("tokens-*.parquet"))
        self.length, self.seed, self.epoch = length, seed, 0
        facts = json.loads(pq.read_schema(self.files[0]).metadata[b"spectok"])
        self.end: int = facts["codebook_size"]  # the code after the last one of the codebook

    def groups(self) -> list[tuple[Path, int]]:
        """The row groups of this process in the order of this epoch: files, and places in them."""
        found = [(path, group) for path in self.files for group in range(pq.read_metadata(path).num_row_groups)]
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(found))
        worker = get_worker_info()
        mine = order if worker is None else order[worker.id :: worker.num_workers]
        return [found[place] for place in mine]

    def __iter__(self) -> Iterator[torch.Tensor]:
        waiting = np.zeros(0, np.int64)
        for path, group in self.groups():
            with pq.ParquetFile(path) as file:
                codes = file.read_row_group(group, columns=["codes"])["codes"]
            parts = [waiting]
            for row in codes:
                parts += [row.values.to_numpy().astype(np.int64), np.array([self.end])]
            waiting = np.concatenate(parts)
            whole = len(waiting) // self.length * self.length
            yield from torch.from_numpy(waiting[:whole]).view(-1, self.length)
            waiting = waiting[whole:].copy()


def main(arguments: list[str] | None = None) -> None:
    """Read one epoch and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--length", type=int, default=512, help="tokens of a sequence (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="sequences of a batch (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="processes that read (default: %(default)s)")
    args = parser.parse_args(arguments)
    sequences = Sequences(args.folder, args.length)
    batches = [batch.shape for batch in DataLoader(sequences, args.batch, num_workers=args.workers)]
    count = sum(len(batch) * args.length for batch in map(torch.empty, batches))
    print(f"{len(batches)} batches, {count:,} tokens, vocabulary {sequences.end + 1:,}")


if __name__ == "__main__":
    main()
