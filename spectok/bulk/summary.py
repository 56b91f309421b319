"""Writes what a finished run says about itself: the rejected recordings, and the statistics of the tokens."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from spectok.bulk.plan import Plan
from spectok.bulk.shards import read_facts
from spectok.errors import InputError, require
from spectok.files import atomic_write, why, write_text

REJECTED, SUMMARY = "rejected.parquet", "summary.json"
_TEXTS = pa.schema([("id", pa.string()), ("source", pa.string()), ("reason", pa.string())])


def write_summary(plan: Plan) -> dict[str, Any]:
    """Write `rejected.parquet` and `summary.json` beside the shards, all of which are finished.

    Returns:
        The content of `summary.json`.

    Raises:
        InputError: a shard is missing or damaged, or a file cannot be written.
    """
    rejects: list[list[str]] = []
    facts: dict[str, Any] = {}
    recordings = tokens = size = 0
    seconds, histogram = 0.0, np.zeros(0, np.int64)
    for index in range(plan.num_shards):
        found, path = read_facts(plan, index), plan.shard(index)
        require(found is not None, f"{path} is missing")
        assert found is not None
        facts, counted = found, _histogram(path, found["codebook_size"])
        require(counted.sum() == facts["tokens"], f"{path} does not hold the {facts['tokens']} tokens that it should")
        histogram = counted if index == 0 else histogram + counted
        rejects += facts["rejects"]
        recordings, tokens, seconds = (
            recordings + facts["recordings"],
            tokens + facts["tokens"],
            seconds + facts["seconds"],
        )
        size += path.stat().st_size
    columns = [[row[place] for row in rejects] for place in range(3)]
    folder = Path(plan.folder)
    try:
        with atomic_write(folder / REJECTED) as temporary:
            pq.write_table(pa.table(columns, _TEXTS), temporary, compression="zstd")
    except OSError as error:
        raise InputError(f"cannot write {folder / REJECTED}: {why(error)}") from error
    summary = {
        "plan": plan.digest,
        "shards": plan.num_shards,
        **{name: facts[name] for name in ("model", "weight_hash", "sample_rate", "tokens_per_frame", "codebook_size")},
        "recordings": recordings,
        "rejected": len(rejects),
        "hours": round(seconds / 3600, 6),
        "tokens": tokens,
        "bytes": size,
        "token_statistics": statistics(histogram),
    }
    write_text(folder / SUMMARY, json.dumps(summary, indent=1) + "\n")
    return summary


def _histogram(path: Path, codebook_size: int) -> np.ndarray:
    """How often each code occurs in a shard, int64 `[codebook_size]`."""
    histogram = np.zeros(codebook_size, np.int64)
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=["codes"], use_threads=False):
                codes = batch.column(0).flatten().to_numpy()
                histogram += np.bincount(codes, minlength=codebook_size)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise InputError(f"{path} is damaged; after it is removed, the same command makes it again") from error
    return histogram


def statistics(histogram: np.ndarray) -> dict[str, Any]:
    """The distribution of the tokens.

    Args:
        histogram: how often each code occurs, `[codebook_size]`.

    Returns:
        `entropy_bits` of a token by its frequency alone, `codes_used` (how many occur), and the `most_frequent` code
        with its `share` of the tokens. Without tokens, 0 and None.
    """
    total = int(histogram.sum())
    if not total:
        return {"entropy_bits": 0.0, "codes_used": 0, "most_frequent": None, "share": 0.0}
    shares = histogram[histogram > 0] / total
    return {
        "entropy_bits": round(float(-(shares * np.log2(shares)).sum()), 6) + 0.0,
        "codes_used": len(shares),
        "most_frequent": int(histogram.argmax()),
        "share": round(float(histogram.max() / total), 9),
    }
