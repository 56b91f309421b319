"""Turn a folder of audio into a prepared one for training: `manifest.csv`, and the samples and pitches of each split.

    python recipes/prepare.py CORPUS OUT

CORPUS is a folder of audio. If it has a `manifest.csv`, its columns `file` and `split` (train, valid or noise; other
rows are ignored) define the splits; if there is a column `kind`, only rows of the kind `speech` are used for train and
valid. Without a manifest, every fiftieth file (at least one) becomes the validation split, regardless of speakers. The
split noise, for training with noise, is optional; `--noise FOLDER` adds all audio of a folder to it. Files that cannot
be read are listed and skipped. The pitch of train and valid is tracked by SwiftF0 (L. Nieradzik, arXiv 2508.18440).
"""

import argparse
import csv
import os
import sys
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from spectok.audio import list_audio, read_audio
from spectok.errors import InputError, require
from spectok.evaluation.pitch import track_pitch
from spectok.files import atomic_write
from spectok.samples import to_int16

SPLITS = ("train", "valid", "noise")


@dataclass(frozen=True)
class Entry:
    """A file to prepare."""

    path: Path
    file: str  # its name in the prepared manifest
    split: str
    source: str


def find_files(corpus: Path, noise: Path | None = None) -> list[Entry]:
    """The files of a corpus and of a folder of noise, whose names in the manifest begin with `noise:`."""
    added = list_audio(noise) if noise else []
    manifest = corpus / "manifest.csv"
    if manifest.is_file():
        entries = read_manifest(manifest)
    else:
        speech = [path for path in list_audio(corpus) if not (noise and path.resolve().is_relative_to(noise.resolve()))]
        require(len(speech) > 1, f"{corpus} holds {len(speech)} audio files; training needs at least two")
        entries = [
            Entry(path, str(path.relative_to(corpus)), "train" if index % 50 else "valid", "")
            for index, path in enumerate(speech)
        ]
    if noise:
        require(bool(added), f"{noise} holds no audio files")
        source = noise.resolve().name
        entries += [Entry(path, f"noise:{path.relative_to(noise)}", "noise", source) for path in added]
    return entries


def read_manifest(manifest: Path) -> list[Entry]:
    """The rows of a corpus's manifest that belong to a split and, for train and valid, are speech."""
    try:
        with open(manifest, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read {manifest} as a CSV file: {error}") from error
    require(bool(rows) and {"file", "split"} <= set(rows[0]), f"{manifest} needs the columns file and split")
    return [
        Entry(manifest.parent / row["file"], row["file"], row["split"], row.get("source", ""))
        for row in rows
        if row["split"] in SPLITS and (row["split"] == "noise" or row.get("kind", "speech") == "speech")
    ]


def load(path: Path, sample_rate: int, is_speech: bool) -> tuple[NDArray[np.int16], NDArray[np.float32]] | str:
    """A file as int16 mono at the given rate, and its pitch if it is speech; or the error if it cannot be read."""
    try:
        audio, _ = read_audio(path, sample_rate)
    except InputError as error:
        return str(error)
    pitch = track_pitch(audio, sample_rate) if is_speech else np.zeros(0, np.float32)
    return to_int16(audio).astype("<i2"), pitch.astype("<f4")


def write_split(out: Path, split: str, entries: list[Entry], sample_rate: int, pool: Executor) -> list[dict[str, Any]]:
    """Write the samples and pitches of a split; returns its rows of the manifest."""
    rows: list[dict[str, Any]] = []
    start = 0
    paths = [entry.path for entry in entries]
    clips = tqdm(
        pool.map(load, paths, [sample_rate] * len(paths), [split != "noise"] * len(paths), chunksize=16),
        total=len(paths),
        desc=split,
        unit="file",
    )
    with (
        atomic_write(out / f"{split}.i16") as samples_path,
        atomic_write(out / f"{split}.f0") as pitch_path,
        open(samples_path, "wb") as samples,
        open(pitch_path, "wb") as pitches,
    ):
        for entry, found in zip(entries, clips, strict=True):
            if isinstance(found, str):
                print(f"skipped: {found}", file=sys.stderr)
                continue
            clip, pitch = found
            samples.write(clip.tobytes())
            pitches.write(pitch.tobytes())
            row = {"file": entry.file, "split": split, "source": entry.source, "start": start, "samples": len(clip)}
            rows.append({**row, "sample_rate": sample_rate})
            start += len(clip)
        require(start > 0, f"no file of the split '{split}' can be read")
    print(f"{split}: {len(rows)} files, {start / sample_rate / 3600:.2f} hours")
    return rows


def write_manifest(out: Path, rows: list[dict[str, Any]]) -> None:
    """Write the prepared folder's `manifest.csv`."""
    with atomic_write(out / "manifest.csv") as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def prepare(corpus: Path, out: Path, sample_rate: int, noise: Path | None = None) -> None:
    """Write the prepared folder; the manifest is written last, so that it never lists files that are missing."""
    entries = find_files(corpus, noise)
    splits = {split: [entry for entry in entries if entry.split == split] for split in SPLITS}
    for split in ("train", "valid"):
        require(bool(splits[split]), f"{corpus} has no files in the split '{split}'")
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for split, chosen in splits.items():
            if chosen:
                rows += write_split(out, split, chosen, sample_rate, pool)
    write_manifest(out, rows)


def main() -> int:
    """Parse the arguments and prepare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="folder of audio")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--sample-rate", type=int, default=16000, help="in Hz (default: %(default)s)")
    parser.add_argument("--noise", type=Path, metavar="FOLDER", help="folder of noise to train with")
    args = parser.parse_args()
    try:
        prepare(args.corpus, args.out, args.sample_rate, args.noise)
    except InputError as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
