"""`tokenize`: from recordings to shards of tokens, in this process, in several, or on Ray."""

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from spectok import pretrained
from spectok.bulk.cluster import run_ray
from spectok.bulk.plan import make_plan
from spectok.bulk.pool import run_here, run_pool
from spectok.bulk.shards import Counts, load_tokenizer, read_facts
from spectok.bulk.sources import find_source
from spectok.bulk.summary import write_summary
from spectok.errors import require

SHARD_RECORDINGS = 1000
BATCH_CPU, BATCH_GPU = 4, 32  # recordings; on the CPU larger batches are slower


def tokenize(
    sources: Sequence[str | Path] | str | Path,
    out: str | Path,
    *,
    model: str | Path = pretrained.DEFAULT,
    engine: str | None = None,
    device: str = "cpu",
    jobs: int | None = None,
    ray: bool = False,
    shard_recordings: int = SHARD_RECORDINGS,
    shard_hours: float | None = None,
    batch: int | None = None,
    root: str | Path | None = None,
    report: Callable[[int, int, Counts, Counts], None] | None = None,
) -> dict[str, Any]:
    """Encode all recordings of the sources, and write their tokens into a folder as Parquet files.

    Shards that the folder already holds from a run with the same plan are kept. A recording that cannot be read is
    left out, and listed in `rejected.parquet`.

    Args:
        sources: folders, manifests (.csv, .tsv, .jsonl), tar files, Parquet files and audio files.
        out: folder of the output; it is made if it does not exist.
        model: a released name, or the folder of a model.
        engine: "onnx" or "torch"; by default as in `Tokenizer.from_pretrained`.
        device: "cpu", or with the engine torch "cuda".
        jobs: number of further processes, or of CPUs of a local Ray; by default one per core, and one for a device
            other than the CPU. 0 is for tests: everything runs in this process.
        ray: run on Ray.
        shard_recordings: number of recordings of a shard.
        shard_hours: end a shard earlier, at so many hours of audio.
        batch: number of recordings that are encoded together; by default 4 on the CPU, otherwise 32.
        root: folder that the paths in manifests are relative to; by default that of each manifest.
        report: called at the start and after each shard, with the numbers of finished shards and of all shards, and the
            counts of all finished shards and of those of this run.

    Returns:
        The content of `summary.json`.

    Raises:
        InputError: a source, an option or the output is wrong, or shards could not be finished.
    """
    names = [sources] if isinstance(sources, str | Path) else list(sources)
    require(len(names) > 0, "there are no sources")
    require(jobs is None or jobs >= 0, f"the number of jobs is {jobs}, but must be positive")
    require(batch is None or batch > 0, f"the batch is {batch}, but must be positive")
    require(shard_recordings > 0, f"a shard has {shard_recordings} recordings, but must have at least one")
    require(shard_hours is None or shard_hours > 0, f"a shard has {shard_hours} hours, but must have more than 0")
    found = [find_source(name, root) for name in names]
    folder = pretrained.find(model).folder
    model = str(model) if str(model) in pretrained.models() else os.path.abspath(folder)
    is_cpu = device == "cpu"
    plan = make_plan(
        found,
        out,
        load_tokenizer(model, engine, device),
        model=model,
        engine=engine,
        device=device,
        batch=batch or (BATCH_CPU if is_cpu else BATCH_GPU),
        shard_recordings=shard_recordings,
        shard_hours=shard_hours,
    )
    done, new = Counts(0, 0, 0.0, 0), Counts(0, 0, 0.0, 0)
    missing, report = [], report or (lambda *_: None)
    for index in range(plan.num_shards):
        facts = read_facts(plan, index)
        if facts is None:
            missing.append(index)
        else:
            done = add(done, Counts(*(facts[name] for name in Counts._fields)))
    report(plan.num_shards - len(missing), plan.num_shards, done, new)
    jobs = (_cores() if is_cpu else 1) if jobs is None else jobs
    if ray and missing:
        results = run_ray(plan, missing, max(1, min(jobs, len(missing))))
    else:
        results = run_pool(plan, missing, jobs) if jobs else run_here(plan, missing)
    with closing(results):  # an interrupt ends the processes too
        for number, (_, counts) in enumerate(results, plan.num_shards - len(missing) + 1):
            done, new = add(done, counts), add(new, counts)
            report(number, plan.num_shards, done, new)
    return write_summary(plan)


def _cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def add(one: Counts, other: Counts) -> Counts:
    """The counts of two sets of shards together."""
    return Counts(
        one.recordings + other.recordings,
        one.rejected + other.rejected,
        one.seconds + other.seconds,
        one.tokens + other.tokens,
    )
