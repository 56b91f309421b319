"""The benchmark: code every file with every coder, score it against the original, and sum up.

Conventions: everything is heard at 16 kHz mono. Bits per second are eight times the bytes on disk, header included,
over the seconds of audio. `rtf` is compute seconds per audio second, of the coder alone, after one warm-up call; the
coders take turns on each file, and no metric is computed meanwhile. A group is a category, or one of `clean_*`,
`hard_*` and `*` for several; every mean in it has its 95 % interval and n.
"""

import contextlib
import itertools
import math
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from spectok.errors import InputError
from spectok.evaluation.catalogue import SCORED
from spectok.evaluation.coders import Audio, Coded, Coder, Codes
from spectok.evaluation.items import Item, read_item
from spectok.evaluation.metrics import SAMPLE_RATE, codebook_use, has_pesq, interval, jackknife, score
from spectok.evaluation.provenance import provenance

GROUPS = ("clean_*", "hard_*", "*")
BATCH_FILES = 32  # coded, then scored, before the next: memory stays bounded and timings undisturbed

Row = dict[str, Any]
Histogram = npt.NDArray[np.int64]


def evaluate(
    items: Sequence[Item],
    coders: Sequence[Coder],
    progress: Callable[[int, int], None] | None = None,
    jobs: int = 1,
) -> dict[str, Any]:
    """Code and score every item with every coder; give back a dict that JSON can hold, NaN as None.

    `progress(done, total)` counts scored pairs of file and coder. With `jobs` above 1 the metrics run in that many
    worker processes, the coders never do: a script that asks for them needs the usual `if __name__ == "__main__"`.

    The keys are `conventions`, `provenance`, `coders` (name -> `facts`, `rtf`, `codebook`, `groups`, `files`) and
    `paired` (for each two coders and each of the groups `clean_*`, `hard_*` and `*`, the differences `first - second`
    per file).

    Raises:
        InputError: there is nothing to evaluate, two coders have one name, or a file cannot be read.
        ValueError: a coder gave back audio of another length, audio that is not finite, or impossible codes.
    """
    names = [coder.name for coder in coders]
    if not items or not coders:
        raise InputError("there is nothing to evaluate: it takes at least one file and one coder")
    if len(set(names)) < len(names):
        raise InputError(f"each coder needs its own name, but they are {', '.join(names)}")
    has_pesq()
    rows: dict[str, list[Row]] = {name: [] for name in names}
    facts = {coder.name: coder.facts() for coder in coders}
    histograms: dict[str, list[Histogram]] = {name: [] for name in names}
    for coder in coders:
        coder.code(read_item(items[0])[:SAMPLE_RATE])
    with workers(jobs) as run:
        for start in range(0, len(items), BATCH_FILES):
            batch = [entry for item in items[start : start + BATCH_FILES] for entry in _code(item, coders)]
            scores = run(score, [real for _, real, _, _ in batch], [coded.audio for _, _, coded, _ in batch])
            for (name, _, coded, row), scored in zip(batch, scores, strict=True):
                rows[name].append({**row, **scored})
                if coded.codes is not None:
                    histograms[name].append(histogram(name, coded.codes, int(facts[name]["codebook_size"])))
                if progress is not None:
                    progress(sum(map(len, rows.values())), len(items) * len(coders))
    return assemble(rows, facts, histograms, list(SCORED))


def assemble(
    rows: dict[str, list[Row]], facts: dict[str, Any], histograms: dict[str, list[Histogram]], metrics: list[str]
) -> dict[str, Any]:
    """Sum up the rows of every coder, which hold a value for each of the metrics, as `evaluate` does."""
    weights = {name: known["weights"] for name, known in facts.items() if "weights" in known}
    results = {
        "conventions": {"sample_rate": SAMPLE_RATE, "interval": "95 %, Student's t", "metrics": metrics},
        "provenance": provenance(weights, threads=None),
        "coders": {name: _summary(rows[name], facts[name], histograms[name], metrics) for name in rows},
        "paired": [
            _paired(first, second, group, rows, metrics)
            for first, second in itertools.combinations(rows, 2)
            for group in GROUPS
            if _members(rows[first], group)
        ],
    }
    plain: dict[str, Any] = _plain(results)
    return plain


@contextlib.contextmanager
def workers(jobs: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """A `map` that runs in so many processes, or here for one."""
    if jobs <= 1:
        yield map
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool.map


def _code(item: Item, coders: Sequence[Coder]) -> list[tuple[str, Audio, Coded, Row]]:
    """The file through each coder in turn: the coder's name, the original, what came back, and the row begun."""
    real = read_item(item)
    return [(coder.name, real, *code_item(item, real, coder)) for coder in coders]


def code_item(item: Item, real: Audio, coder: Coder) -> tuple[Coded, Row]:
    """A file through one coder: what came back, and the row begun.

    Raises:
        ValueError: what came back is of another length, or not finite.
    """
    coded = coder.code(real)
    if coded.audio.shape != real.shape:
        raise ValueError(f"{coder.name} made {coded.audio.shape} samples of the {real.shape} in {item.path.name}")
    if not np.isfinite(coded.audio).all():
        raise ValueError(f"{coder.name} made samples that are not finite of {item.path.name}")
    return coded, {
        "file": item.path.name,
        "category": item.category,
        "seconds": len(real) / SAMPLE_RATE,
        "num_bytes": coded.num_bytes,
        "encode_seconds": coded.encode_seconds,
        "decode_seconds": coded.decode_seconds,
    }


def histogram(name: str, codes: Codes, size: int) -> Histogram:
    """How often each entry of a coder's codebook is among the codes.

    Raises:
        ValueError: a code is not in the codebook.
    """
    counts = np.bincount(codes, minlength=size) if not len(codes) or codes.min() >= 0 else np.zeros(0, np.int64)
    if len(counts) != size:
        raise ValueError(f"{name} gave codes from {codes.min()} to {codes.max()} for a codebook of {size} entries")
    return counts


def _members(rows: list[Row], group: str) -> list[int]:
    """Where the rows of a group are: a trailing star stands for anything."""
    if group.endswith("*"):
        return [index for index, row in enumerate(rows) if row["category"].startswith(group[:-1])]
    return [index for index, row in enumerate(rows) if row["category"] == group]


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan


def _group(rows: list[Row], metrics: list[str]) -> dict[str, Any]:
    seconds = sum(row["seconds"] for row in rows)
    means = {metric: interval([row[metric] for row in rows]).as_dict() for metric in metrics}
    bits = 8 * sum(row["num_bytes"] for row in rows)
    of_file = {
        "file_bits_per_second": [_ratio(8 * row["num_bytes"], row["seconds"]) for row in rows],
        "file_rtf_encode": [_ratio(row["encode_seconds"], row["seconds"]) for row in rows],
        "file_rtf_decode": [_ratio(row["decode_seconds"], row["seconds"]) for row in rows],
    }
    means |= {name: interval(values).as_dict() for name, values in of_file.items()}
    return {"files": len(rows), "seconds": seconds, "bits_per_second": _ratio(bits, seconds), **means}


def _codebook(histograms: list[Histogram]) -> dict[str, Any] | None:
    """Codebook use over all files: share of entries used and normalised entropy, with jackknife intervals."""
    if not histograms:
        return None
    total = np.sum(histograms, axis=0)
    use, left_out = codebook_use(total), [codebook_use(total - counts) for counts in histograms]
    return {
        "size": len(total),
        "tokens": int(total.sum()),
        "used": jackknife(use.used, [each.used for each in left_out]).as_dict(),
        "entropy": jackknife(use.entropy, [each.entropy for each in left_out]).as_dict(),
    }


def _summary(rows: list[Row], facts: dict[str, Any], histograms: list[Histogram], metrics: list[str]) -> dict[str, Any]:
    seconds = sum(row["seconds"] for row in rows)
    rtf = {side: _ratio(sum(row[f"{side}_seconds"] for row in rows), seconds) for side in ("encode", "decode")}
    groups = {}
    for group in (*GROUPS, *sorted({row["category"] for row in rows})):
        members = _members(rows, group)
        if members:
            groups[group] = _group([rows[index] for index in members], metrics)
    return {"facts": facts, "rtf": rtf, "codebook": _codebook(histograms), "groups": groups, "files": rows}


def _paired(first: str, second: str, group: str, rows: dict[str, list[Row]], metrics: list[str]) -> dict[str, Any]:
    members = _members(rows[first], group)
    differences = {
        metric: interval([rows[first][index][metric] - rows[second][index][metric] for index in members]).as_dict()
        for metric in metrics
    }
    return {"first": first, "second": second, "group": group, "files": len(members), **differences}


def _plain(value: Any) -> Any:
    """The same with NaN as None and numpy's scalars as Python's own."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
