"""Encodes and decodes every file with every coder, scores the result against the original, and summarises the scores.

Conventions: all audio is 16 kHz mono. Bits per second are those of the payload and those of the file on disk, as
coders.py defines them, divided by the seconds of audio. `rtf` is compute seconds per second of audio, of the coder
alone, after one warm-up call; the coders take turns on each file, and no metric is computed at that time. A group is a
category, or one of `clean_*`, `hard_*` and `*`, which contain several; every mean in it has its 95 % interval and n.
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
OF_FILE = ("file", "category", "seconds")  # of a row: the same for every coder, and stored once
BATCH_FILES = 32  # files coded before they are scored: limits memory, and keeps scoring out of the timings

Row = dict[str, Any]
Histogram = npt.NDArray[np.int64]


def evaluate_coders(
    items: Sequence[Item],
    coders: Sequence[Coder],
    progress: Callable[[int, int], None] | None = None,
    jobs: int = 1,
) -> dict[str, Any]:
    """Code and score every item with every coder.

    Args:
        items: the files.
        coders: the codecs, each with another name.
        progress: called with `(done, total)`, in scored pairs of file and coder.
        jobs: number of processes that compute metrics; coders always run in this one. With more than 1, a script needs
            the usual `if __name__ == "__main__"`.

    Returns:
        A dict that can be written as JSON, with None for NaN. The keys are `conventions`, `provenance`, `files` (name,
        category and seconds of each file), `coders` (name -> `facts`, `rtf`, `codebook`, `groups`, and `rows`, in the
        order of `files`) and `paired` (for each two coders and each of the groups `clean_*`, `hard_*` and `*`, the
        differences `first - second` per file).

    Raises:
        InputError: there is nothing to evaluate, two coders have the same name, or a file cannot be read.
        ValueError: a coder returned audio of another length, audio that is not finite, or impossible codes.
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
    with workers(jobs) as parallel_map:
        for start in range(0, len(items), BATCH_FILES):
            batch = [entry for item in items[start : start + BATCH_FILES] for entry in _code(item, coders)]
            scores = parallel_map(
                score, [original for _, original, _, _ in batch], [coded.audio for _, _, coded, _ in batch]
            )
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
    """The results that `evaluate_coders` returns, from the rows of every coder with a value for each of the metrics.

    Raises:
        ValueError: the rows of two coders are not of the same files in the same order.
    """
    files, *others = [[{key: row[key] for key in OF_FILE} for row in of_coder] for of_coder in rows.values()]
    if any(other != files for other in others):
        raise ValueError("the rows of every coder must be of the same files in the same order")
    weights = {name: known["weights"] for name, known in facts.items() if "weights" in known}
    results = {
        "conventions": {"sample_rate": SAMPLE_RATE, "interval": "95 %, Student's t", "metrics": metrics},
        "provenance": provenance(weights, threads=None),
        "files": files,
        "coders": {name: _summary(rows[name], facts[name], histograms[name], metrics) for name in rows},
        "paired": [
            _paired(first, second, group, rows, metrics)
            for first, second in itertools.combinations(rows, 2)
            for group in GROUPS
            if _members(rows[first], group)
        ],
    }
    assembled: dict[str, Any] = plain(results)
    return assembled


@contextlib.contextmanager
def workers(jobs: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """Yield a `map` that runs in `jobs` processes, or in this process if `jobs` is 1."""
    if jobs <= 1:
        yield map
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool.map


def _code(item: Item, coders: Sequence[Coder]) -> list[tuple[str, Audio, Coded, Row]]:
    """Code a file with each coder: the coder's name, the original, the output, and the first part of the row."""
    original = read_item(item)
    return [(coder.name, original, *code_item(item, original, coder)) for coder in coders]


def code_item(item: Item, original: Audio, coder: Coder) -> tuple[Coded, Row]:
    """Code a file with one coder; returns the output and the first part of the file's row.

    Raises:
        ValueError: the decoded audio has another length or is not finite.
    """
    coded = coder.code(original)
    if coded.audio.shape != original.shape:
        raise ValueError(f"{coder.name} made {coded.audio.shape} samples of the {original.shape} in {item.path.name}")
    if not np.isfinite(coded.audio).all():
        raise ValueError(f"{coder.name} made samples that are not finite of {item.path.name}")
    return coded, {
        "file": item.path.name,
        "category": item.category,
        "seconds": len(original) / SAMPLE_RATE,
        "payload_bits": coded.payload_bits,
        "num_bytes": coded.num_bytes,
        "encode_seconds": coded.encode_seconds,
        "decode_seconds": coded.decode_seconds,
    }


def histogram(name: str, codes: Codes, size: int) -> Histogram:
    """Count how often the codes use each entry of a coder's codebook.

    Raises:
        ValueError: a code is not in the codebook.
    """
    counts = np.bincount(codes, minlength=size) if not len(codes) or codes.min() >= 0 else np.zeros(0, np.int64)
    if len(counts) != size:
        raise ValueError(f"{name} gave codes from {codes.min()} to {codes.max()} for a codebook of {size} entries")
    return counts


def _members(rows: list[Row], group: str) -> list[int]:
    """The indices of the rows of a group; `*` at the end of its name matches any text."""
    if group.endswith("*"):
        return [index for index, row in enumerate(rows) if row["category"].startswith(group[:-1])]
    return [index for index, row in enumerate(rows) if row["category"] == group]


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan


def _group(rows: list[Row], metrics: list[str]) -> dict[str, Any]:
    seconds = sum(row["seconds"] for row in rows)
    means = {metric: interval([row[metric] for row in rows]).as_dict() for metric in metrics}
    of_file = {
        "file_disk_bits_per_second": [_ratio(8 * row["num_bytes"], row["seconds"]) for row in rows],
        "file_rtf_encode": [_ratio(row["encode_seconds"], row["seconds"]) for row in rows],
        "file_rtf_decode": [_ratio(row["decode_seconds"], row["seconds"]) for row in rows],
    }
    means |= {name: interval(values).as_dict() for name, values in of_file.items()}
    rates = {
        "payload_bits_per_second": _ratio(sum(row["payload_bits"] for row in rows), seconds),
        "disk_bits_per_second": _ratio(8 * sum(row["num_bytes"] for row in rows), seconds),
    }
    return {"files": len(rows), "seconds": seconds, **rates, **means}


def _codebook(histograms: list[Histogram]) -> dict[str, Any] | None:
    """Codebook use over all files: share of used entries and normalised entropy, with jackknife intervals."""
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
    kept = [{key: value for key, value in row.items() if key not in OF_FILE} for row in rows]
    return {"facts": facts, "rtf": rtf, "codebook": _codebook(histograms), "groups": groups, "rows": kept}


def _paired(first: str, second: str, group: str, rows: dict[str, list[Row]], metrics: list[str]) -> dict[str, Any]:
    members = _members(rows[first], group)
    differences = {
        metric: interval([rows[first][index][metric] - rows[second][index][metric] for index in members]).as_dict()
        for metric in metrics
    }
    return {"first": first, "second": second, "group": group, "files": len(members), **differences}


def plain(value: Any) -> Any:
    """Replace NaN by None and NumPy scalars by Python numbers, in dicts, lists and tuples, which become lists."""
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
