"""Lists the files to evaluate, from a folder or a manifest, with the category of each file."""

import csv
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spectok.audio import list_audio, read_audio
from spectok.errors import InputError
from spectok.evaluation.coders import Audio
from spectok.evaluation.metrics import SAMPLE_RATE


@dataclass(frozen=True)
class Item:
    """A file to evaluate, its category, and its speaker, which is empty if it is not known."""

    path: Path
    category: str
    speaker: str = ""


def load_items(source: str | Path, split: str | None = None) -> list[Item]:
    """The files to evaluate, from a folder or from a manifest.csv with the columns `file` and `category`.

    A column `speaker` is optional. In a folder without a manifest.csv, the category is part of the file's name
    (`000_clean_en_vctk16k.flac` is `clean_en_vctk16k`), or else the name of its sub-folder, or else `all`.

    Args:
        source: a manifest, or a folder. If the folder contains a manifest.csv, this is used; the paths in it are
            relative to its folder.
        split: use only the rows of the manifest with this value in the column `split`; by default those with `test`,
            or all rows if there are none.

    Raises:
        InputError: the source or the split does not exist or has no files, or the manifest is not as described.
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
        with manifest.open(newline="", encoding="utf-8-sig") as lines:
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
        category = row.get("category") or _category(Path(row["file"]))
        items.append(Item(path, category, row.get("speaker") or ""))
    return items


def read_item(item: Item) -> Audio:
    """The original, [T] at 16 kHz."""
    return read_audio(item.path, SAMPLE_RATE)[0]


def checksum(original: Audio) -> str:
    """Eight hexadecimal digits that tell an original [T] from others by its samples."""
    return f"{zlib.crc32(np.ascontiguousarray(original).tobytes()):08x}"
