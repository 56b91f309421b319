"""The benchmark: code every file with every coder, score it against the original, and sum up.

Conventions: everything is heard at 16 kHz mono. Bits per second are eight times the bytes on disk, header included,
over the seconds of audio. `rtf` is compute seconds per audio second, of the coder alone, after one warm-up call; the
coders take turns on each file, and no metric is computed meanwhile. A group is a category, or one of `clean_*`,
`hard_*` and `*` for several; every mean in it has its 95 % interval and n.
"""

import contextlib
import csv
import itertools
import math
import multiprocessing
import os
import platform
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spectok.audio import list_audio, read_audio
from spectok.errors import InputError
from spectok.evaluation.coders import Audio, Coded, Coder, Codes
from spectok.evaluation.metrics import METRICS, SAMPLE_RATE, codebook_use, interval, jackknife, score

GROUPS = ("clean_*", "hard_*", "*")
BATCH_FILES = 32  # coded, then scored, before the next: memory stays bounded and timings undisturbed

Row = dict[str, Any]
Histogram = npt.NDArray[np.int64]
ScoreAll = Callable[[list[Audio], list[Audio]], Iterable[dict[str, float]]]


@dataclass(frozen=True)
class Item:
    """One file to be coded, and the category it is counted under."""

    path: Path
    category: str


def load_items(source: str | Path, split: str | None = None) -> list[Item]:
    """The files to evaluate, from a folder or from a manifest.csv with the columns `file` and `category`.

    A folder that holds a manifest.csv is read through it; paths in it are relative to its folder. `split` picks the
    rows whose `split` column says so; without it these are the `test` rows, or all where there are none. In any other
    folder the category is part of the file's name (`000_clean_en_vctk16k.flac` is `clean_en_vctk16k`), else its
    sub-folder's name, else `all`.

    Raises:
        InputError: there is no such source, no file in it, no such split, or the manifest is not as described.
    """
    source = Path(source)
    if source.is_dir() and (source / "manifest.csv").is_file():
        source = source / "manifest.csv"
    if source.is_file():
        return _items_of_manifest(source, split)
    if not source.is_dir():
        raise InputError(f"{source} is neither a folder nor a manifest")
    if split is not None:
        raise InputError(f"{source} has no manifest.csv, so there is no split {split} to choose")
    items = [Item(path, _category(path.relative_to(source))) for path in map(Path, list_audio(source))]
    if not items:
        raise InputError(f"{source} holds no audio files")
    return items


def _category(path: Path) -> str:
    named = re.fullmatch(r"\d+_((?:clean|hard)_.+)", path.stem)
    if named:
        return named[1]
    return path.parts[0] if len(path.parts) > 1 else "all"


def _items_of_manifest(manifest: Path, split: str | None) -> list[Item]:
    try:
        with manifest.open(newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read {manifest} as a CSV file: {error}") from error
    if not rows or not rows[0].get("file"):
        raise InputError(f"{manifest} has no rows with a column named file")
    if split is None and any(row.get("split") == "test" for row in rows):
        split = "test"
    chosen = [row for row in rows if split is None or row.get("split") == split]
    if not chosen:
        raise InputError(f"{manifest} has no rows of the split {split}")
    items = []
    for row in chosen:
        path = manifest.parent / (row["file"] or "")
        if not path.is_file():
            raise InputError(f"{manifest} names {row['file']}, but there is no such file")
        items.append(Item(path, row.get("category") or _category(Path(row["file"]))))
    return items


def evaluate(
    items: Sequence[Item],
    coders: Sequence[Coder],
    progress: Callable[[int, int], None] | None = None,
    jobs: int = 1,
) -> dict[str, Any]:
    """Code and score every item with every coder; give back a dict that JSON can hold, NaN as None.

    `progress(done, total)` counts scored pairs of file and coder. With `jobs` above 1 the metrics run in that many
    worker processes, the coders never do: a script that asks for them needs the usual `if __name__ == "__main__"`.

    The keys are `conventions`, `machine`, `coders` (name -> `facts`, `rtf`, `codebook`, `groups`, `files`) and `paired`
    (for each two coders and each of the groups `clean_*`, `hard_*` and `*`, the differences `first - second` per file).

    Raises:
        InputError: there is nothing to evaluate, two coders have one name, or a file cannot be read.
        ValueError: a coder gave back audio of another length, audio that is not finite, or impossible codes.
    """
    names = [coder.name for coder in coders]
    if not items or not coders:
        raise InputError("there is nothing to evaluate: it takes at least one file and one coder")
    if len(set(names)) < len(names):
        raise InputError(f"each coder needs its own name, but they are {', '.join(names)}")
    rows: dict[str, list[Row]] = {name: [] for name in names}
    facts = {coder.name: coder.facts() for coder in coders}
    histograms: dict[str, list[Histogram]] = {name: [] for name in names}
    for coder in coders:
        coder.code(_read(items[0])[:SAMPLE_RATE])
    with _scorer(jobs) as score_all:
        for start in range(0, len(items), BATCH_FILES):
            batch = [entry for item in items[start : start + BATCH_FILES] for entry in _code(item, coders)]
            scores = score_all([real for _, real, _, _ in batch], [coded.audio for _, _, coded, _ in batch])
            for (name, _, coded, row), scored in zip(batch, scores, strict=True):
                rows[name].append({**row, **scored})
                if coded.codes is not None:
                    histograms[name].append(_histogram(name, coded.codes, int(facts[name]["codebook_size"])))
                if progress is not None:
                    progress(sum(map(len, rows.values())), len(items) * len(coders))
    results = {
        "conventions": {"sample_rate": SAMPLE_RATE, "interval": "95 %, Student's t", "metrics": METRICS},
        "machine": _machine(),
        "coders": {name: _summary(rows[name], facts[name], histograms[name]) for name in names},
        "paired": [
            _paired(first, second, group, rows)
            for first, second in itertools.combinations(names, 2)
            for group in GROUPS
            if _members(rows[first], group)
        ],
    }
    return _plain(results)


@contextlib.contextmanager
def _scorer(jobs: int) -> Iterator[ScoreAll]:
    if jobs <= 1:
        yield lambda reals, fakes: map(score, reals, fakes)
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield lambda reals, fakes: pool.map(score, reals, fakes)


def _read(item: Item) -> Audio:
    return read_audio(item.path, SAMPLE_RATE)[0]


def _code(item: Item, coders: Sequence[Coder]) -> list[tuple[str, Audio, Coded, Row]]:
    """The file through each coder in turn: the coder's name, the original, what came back, and the row begun."""
    real, entries = _read(item), []
    for coder in coders:
        coded = coder.code(real)
        if coded.audio.shape != real.shape:
            raise ValueError(f"{coder.name} made {coded.audio.shape} samples of the {real.shape} in {item.path.name}")
        if not np.isfinite(coded.audio).all():
            raise ValueError(f"{coder.name} made samples that are not finite of {item.path.name}")
        row = {
            "file": item.path.name,
            "category": item.category,
            "seconds": len(real) / SAMPLE_RATE,
            "num_bytes": coded.num_bytes,
            "encode_seconds": coded.encode_seconds,
            "decode_seconds": coded.decode_seconds,
        }
        entries.append((coder.name, real, coded, row))
    return entries


def _histogram(name: str, codes: Codes, size: int) -> Histogram:
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


def _group(rows: list[Row]) -> dict[str, Any]:
    seconds = sum(row["seconds"] for row in rows)
    means = {metric: interval([row[metric] for row in rows]).as_dict() for metric in METRICS}
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


def _summary(rows: list[Row], facts: dict[str, Any], histograms: list[Histogram]) -> dict[str, Any]:
    seconds = sum(row["seconds"] for row in rows)
    rtf = {side: _ratio(sum(row[f"{side}_seconds"] for row in rows), seconds) for side in ("encode", "decode")}
    groups = {}
    for group in (*GROUPS, *sorted({row["category"] for row in rows})):
        members = _members(rows, group)
        if members:
            groups[group] = _group([rows[index] for index in members])
    return {"facts": facts, "rtf": rtf, "codebook": _codebook(histograms), "groups": groups, "files": rows}


def _paired(first: str, second: str, group: str, rows: dict[str, list[Row]]) -> dict[str, Any]:
    members = _members(rows[first], group)
    differences = {
        metric: interval([rows[first][index][metric] - rows[second][index][metric] for index in members]).as_dict()
        for metric in METRICS
    }
    return {"first": first, "second": second, "group": group, "files": len(members), **differences}


def _machine() -> dict[str, Any]:
    versions = {package: version(package) for package in ("pesq", "pystoi", "numpy", "onnxruntime")}
    return {"cores": os.cpu_count(), "processor": platform.machine(), "versions": versions}


def _plain(value: Any) -> Any:
    """The same with NaN as None and numpy's scalars as Python's own."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
