"""Turn a folder of audio into a prepared one for training: `manifest.csv` and one file of int16 samples per split.

    python recipes/prepare.py CORPUS OUT

CORPUS is any folder of audio, of which every fiftieth file (at least one) becomes the validation split, whatever its
speaker; or a folder with a `manifest.csv` whose columns `file` and `split` (train, valid; others are left out) say what
is what, and whose `kind`, if there is one, is `speech`. Files that cannot be read are named and left out.
"""

import argparse
import csv
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from spectok.audio import list_audio, read_audio
from spectok.config import require
from spectok.errors import InputError
from spectok.files import atomic_write

SPLITS = ("train", "valid")


def find_files(corpus: Path) -> list[tuple[str, str, str]]:
    """Rows (file relative to the corpus, split, source)."""
    manifest = corpus / "manifest.csv"
    if manifest.is_file():
        with open(manifest, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        require(bool(rows) and {"file", "split"} <= set(rows[0]), f"{manifest} needs the columns file and split")
        speech = (row for row in rows if row.get("kind", "speech") == "speech")
        return [(row["file"], row["split"], row.get("source", "")) for row in speech if row["split"] in SPLITS]
    files = [str(path.relative_to(corpus)) for path in list_audio(corpus)]
    require(len(files) > 1, f"{corpus} holds {len(files)} audio files; training needs at least two")
    return [(file, "valid" if index % 50 == 0 else "train", "") for index, file in enumerate(files)]


def load(path: Path, sample_rate: int) -> NDArray[np.int16] | str:
    """One file as int16 mono at the given rate, or why it cannot be read."""
    try:
        audio, _ = read_audio(path, sample_rate)
    except InputError as error:
        return str(error)
    return np.round(audio.clip(-1, 1) * 32767).astype("<i2")


def write_split(out: Path, split: str, chosen: list[tuple[str, str, str]], clips: Any) -> list[dict[str, Any]]:
    """Write one split's samples as they come; returns its rows of the manifest."""
    rows: list[dict[str, Any]] = []
    start = 0
    with atomic_write(out / f"{split}.i16") as temporary, open(temporary, "wb") as samples:
        for (file, _, source), clip in zip(chosen, clips, strict=True):
            if isinstance(clip, str):
                print(f"left out: {clip}", file=sys.stderr)
                continue
            samples.write(clip.tobytes())
            rows.append({"file": file, "split": split, "source": source, "start": start, "samples": len(clip)})
            start += len(clip)
        require(start > 0, f"no file of the split '{split}' can be read")
    return rows


def prepare(corpus: Path, out: Path, sample_rate: int) -> None:
    """Write the prepared folder; the manifest comes last, so that it never describes what is not there."""
    files = find_files(corpus)
    splits = {split: [row for row in files if row[1] == split] for split in SPLITS}
    for split, chosen in splits.items():
        require(bool(chosen), f"{corpus} has no files in the split '{split}'")
    out.mkdir(parents=True, exist_ok=True)
    entries = []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for split, chosen in splits.items():
            paths = [corpus / file for file, _, _ in chosen]
            clips = pool.map(load, paths, [sample_rate] * len(paths), chunksize=16)
            rows = write_split(out, split, chosen, tqdm(clips, total=len(paths), desc=split, unit="file"))
            hours = sum(row["samples"] for row in rows) / sample_rate / 3600
            print(f"{split}: {len(rows)} files, {hours:.2f} hours")
            entries += [{**row, "sample_rate": sample_rate} for row in rows]
    with atomic_write(out / "manifest.csv") as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(entries[0]))
        writer.writeheader()
        writer.writerows(entries)


def main() -> int:
    """Parse the arguments and prepare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="folder of audio")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--sample-rate", type=int, default=16000, help="in Hz (default: %(default)s)")
    args = parser.parse_args()
    try:
        prepare(args.corpus, args.out, args.sample_rate)
    except InputError as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
