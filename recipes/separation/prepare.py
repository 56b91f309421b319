"""Write the sources of mixtures, as int16 at 16 kHz, into one folder for `spectok.training.corpus.Corpus`.

    python recipes/separation/prepare.py CORPUS --music MUSIC --effects FOLDER... --out SOURCES

CORPUS is a folder with a `manifest.csv` (columns file, split, category and kind). Its speech of the split train is for
training, or with `--prepared` that of a folder made by recipes/prepare.py, which saves the decoding; its clean speech
of the split test is for the test. MUSIC is a folder of tracks; every fifth one is for the test. Each FOLDER holds
effects, whose class is the beginning of the file's name (`effect_class`); classes in `--held-out` are for the test, and
classes in `--leave-out` are not used, because they are music. The splits of SOURCES are named speech-train,
speech-test, music-train and so on.
"""

import argparse
import csv
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recipes.prepare import Entry, load, write_manifest
from spectok.audio import list_audio
from spectok.errors import InputError, require
from spectok.files import atomic_write
from spectok.training.corpus import Corpus

SAMPLE_RATE = 16000
TEST_TRACK = 5  # every track of this number is for the test
HELD_OUT = ("esc10-5", "elec")  # classes of effects for the test: one fold of ESC-10, one class of Sonic Pi's samples
LEFT_OUT = ("bass", "bd", "drum", "guit", "loop", "sn", "tabla")  # Sonic Pi's samples of instruments


def effect_class(path: Path) -> str:
    """The class of an effect by its file name: the text before the first "_", or ESC-10's name with its fold.

    ESC-10's recordings have names such as `esc10-5-200461-A`, with the fold and without the class. Clips of one
    recording are in one fold, so that a fold that is held out contains no recording of the others.
    """
    found = re.match(r"esc10-\d|[^_]+", path.stem)
    return found.group() if found else path.stem


def speech(corpus: Path, split: str) -> list[Entry]:
    """The rows of speech of a corpus's manifest in a split; of the test only those of a clean category."""
    manifest = corpus / "manifest.csv"
    require(manifest.is_file(), f"{corpus} has no manifest.csv")
    with open(manifest, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split and row.get("kind", "speech") == "speech"]
    rows = [row for row in rows if split != "test" or row["category"].startswith("clean")]
    return [Entry(corpus / row["file"], row["file"], f"speech-{split}", row.get("source", "")) for row in rows]


def music(folder: Path) -> list[Entry]:
    """The tracks of a folder, every fifth one for the test."""
    tracks = sorted(list_audio(folder))
    splits = ["music-test" if number % TEST_TRACK == 0 else "music-train" for number in range(1, len(tracks) + 1)]
    return [Entry(path, path.name, split, folder.name) for path, split in zip(tracks, splits, strict=True)]


def effects(folders: Sequence[Path], held_out: Sequence[str], left_out: Sequence[str]) -> list[Entry]:
    """The effects of folders, without the classes that are left out; those of classes held out are for the test."""
    found = [(path, effect_class(path)) for folder in folders for path in sorted(list_audio(folder))]
    return [
        Entry(path, path.name, "effects-test" if kind in held_out else "effects-train", kind)
        for path, kind in found
        if kind not in left_out
    ]


def write_split(out: Path, split: str, entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Decode the files of a split one after the other; returns its rows of the manifest."""
    rows: list[dict[str, Any]] = []
    start = 0
    with atomic_write(out / f"{split}.i16") as temporary, open(temporary, "wb") as samples:
        for entry in entries:
            found = load(entry.path, SAMPLE_RATE, is_speech=False)
            if isinstance(found, str):
                print(f"skipped: {found}", file=sys.stderr)
                continue
            clip, _ = found
            samples.write(clip.tobytes())
            row = {"file": entry.file, "split": split, "source": entry.source, "start": start, "samples": len(clip)}
            rows.append({**row, "sample_rate": SAMPLE_RATE})
            start += len(clip)
    require(start > 0, f"no file of the split '{split}' can be read")
    print(f"{split}: {len(rows)} files, {start / SAMPLE_RATE / 3600:.2f} hours", flush=True)
    return rows


def copy_prepared(prepared: Path, out: Path) -> list[dict[str, Any]]:
    """Copy the training speech of a folder made by recipes/prepare.py; returns its rows of the manifest."""
    corpus = Corpus(prepared, "train")
    require(corpus.sample_rate == SAMPLE_RATE, f"{prepared} was prepared at {corpus.sample_rate} Hz, not {SAMPLE_RATE}")
    with atomic_write(out / "speech-train.i16") as temporary:
        shutil.copyfile(prepared / "train.i16", temporary)
    print(f"speech-train: {len(corpus)} files, {corpus.samples.sum() / SAMPLE_RATE / 3600:.2f} hours", flush=True)
    return [{**row, "split": "speech-train"} for row in corpus.rows]


def prepare(
    corpus: Path,
    music_folder: Path,
    effects_folders: Sequence[Path],
    out: Path,
    prepared: Path | None = None,
    held_out: Sequence[str] = HELD_OUT,
    left_out: Sequence[str] = LEFT_OUT,
) -> None:
    """Write all splits, and the manifest last, so that it never lists files that are missing.

    Raises:
        InputError: a folder is missing or a split has no files.
    """
    entries = [*speech(corpus, "test"), *music(music_folder), *effects(effects_folders, held_out, left_out)]
    entries += [] if prepared else speech(corpus, "train")
    names = [f"{kind}-{split}" for kind in ("speech", "music", "effects") for split in ("train", "test")]
    splits = {name: [entry for entry in entries if entry.split == name] for name in names}
    for name, chosen in splits.items():
        require(bool(chosen) or (prepared is not None and name == "speech-train"), f"there are no files for '{name}'")
    out.mkdir(parents=True, exist_ok=True)
    rows = copy_prepared(prepared, out) if prepared else []
    for name, chosen in splits.items():
        rows += write_split(out, name, chosen) if chosen else []
    write_manifest(out, rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments and prepare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="folder of speech with a manifest.csv")
    parser.add_argument("--music", type=Path, required=True, help="folder of tracks")
    parser.add_argument("--effects", type=Path, required=True, nargs="+", metavar="FOLDER", help="folders of effects")
    parser.add_argument("--out", type=Path, required=True, metavar="SOURCES", help="folder to write")
    parser.add_argument("--prepared", type=Path, help="folder made by recipes/prepare.py, for the training speech")
    parser.add_argument("--held-out", nargs="*", default=HELD_OUT, metavar="CLASS", help="classes for the test")
    parser.add_argument("--leave-out", nargs="*", default=LEFT_OUT, metavar="CLASS", help="classes not to be used")
    args = parser.parse_args(arguments)
    try:
        prepare(args.corpus, args.music, args.effects, args.out, args.prepared, args.held_out, args.leave_out)
    except InputError as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
