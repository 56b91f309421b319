"""Turn a folder of audio into a prepared one for training: `manifest.csv` and one int16 array per split.

    python recipes/prepare.py CORPUS OUT

CORPUS is any folder of audio, of which every fiftieth file (at least one) becomes the validation split; or a folder
with a `manifest.csv` whose columns `file` and `split` (train, valid; others are left out) say what is what, and whose
`kind`, if there is one, is `speech`.
"""

import argparse
import csv
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from spectok.audio import list_audio, read_audio
from spectok.config import require
from spectok.errors import InputError

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


def load(path: Path, sample_rate: int) -> NDArray[np.int16]:
    """One file as int16 mono at the given rate."""
    audio, _ = read_audio(path, sample_rate)
    return np.round(audio.clip(-1, 1) * 32767).astype(np.int16)


def prepare(corpus: Path, out: Path, sample_rate: int) -> None:
    """Write the prepared folder."""
    rows = find_files(corpus)
    out.mkdir(parents=True, exist_ok=True)
    entries = []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for split in SPLITS:
            chosen = [row for row in rows if row[1] == split]
            require(bool(chosen), f"{corpus} has no files in the split '{split}'")
            paths = [corpus / file for file, _, _ in chosen]
            loaded = pool.map(load, paths, [sample_rate] * len(paths), chunksize=16)
            clips = list(tqdm(loaded, total=len(paths), desc=split, unit="file"))
            starts = np.cumsum([0, *(len(clip) for clip in clips)])
            for (file, _, source), start, clip in zip(chosen, starts, clips, strict=False):
                entries.append({"file": file, "split": split, "source": source, "start": start, "samples": len(clip)})
            np.save(out / f"{split}.npy", np.concatenate(clips))
            print(f"{split}: {len(clips)} files, {starts[-1] / sample_rate / 3600:.2f} hours")
    with open(out / "manifest.csv", "w", newline="", encoding="utf-8") as manifest:
        writer = csv.DictWriter(manifest, list(entries[0]))
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
