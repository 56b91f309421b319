"""Write manifests for `spectok tokenize`: one for each split of a corpus, with transcripts by Whisper base.

    python recipes/speech_lm/transcripts.py CORPUS --out WORK --minutes 30

CORPUS is a folder with a `manifest.csv`, which has the columns `file`, `split` (train, valid, test), `speaker` and
`language`; rows whose optional column `kind` is not `speech` are left out, and so are those of valid and test that are
not English or whose optional column `category` begins with `hard`. WORK/train.jsonl, valid.jsonl and test.jsonl have
`path`, `speaker` and, where it is known, `text`.

English recordings are transcribed until the minutes of processor time are over: those of valid and test first, then
those of train whose language is exactly `en`, the longest first, because Whisper takes nearly the same time for 3 s as
for 15 s. Each transcript is kept in WORK/transcripts.jsonl at once. The same command goes on where it stopped.
"""

import argparse
import csv
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from spectok.audio import read_audio
from spectok.errors import InputError, require
from spectok.evaluation.judges import transcript
from spectok.evaluation.metrics import SAMPLE_RATE
from spectok.files import write_text

SPLITS = ("valid", "test", "train")
COLUMNS = {"file", "split", "speaker", "language"}
KEPT = "transcripts.jsonl"

Row = dict[str, str]


def read_manifest(corpus: Path) -> list[Row]:
    """The rows of a corpus's manifest.csv that the manifests contain.

    Raises:
        InputError: there is no manifest, a column is missing, or a split has no rows.
    """
    manifest = corpus / "manifest.csv"
    try:
        with manifest.open(newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read {manifest} as a CSV file: {error}") from error
    require(bool(rows) and set(rows[0]) >= COLUMNS, f"{manifest} needs the columns {', '.join(sorted(COLUMNS))}")
    chosen = [row for row in rows if row["split"] in SPLITS and row.get("kind", "speech") == "speech"]
    chosen = [row for row in chosen if row["split"] == "train" or _is_clean_english(row)]
    for split in SPLITS:
        require(any(row["split"] == split for row in chosen), f"{manifest} has no speech of the split {split}")
    return chosen


def _is_clean_english(row: Row) -> bool:
    return row["language"].startswith("en") and not row.get("category", "").startswith("hard")


def to_transcribe(rows: Sequence[Row]) -> list[Row]:
    """The rows to transcribe, in this order: valid and test, then the English ones of train, the longest first."""
    first = [row for row in rows if row["split"] != "train"]
    then = [row for row in rows if row["split"] == "train" and row["language"] == "en"]
    return first + sorted(then, key=lambda row: -float(row.get("seconds", 0)))


def read_transcripts(path: Path) -> dict[str, str]:
    """The transcripts by file; none if there is no such path. A last line that was cut off is ignored."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    return {entry["path"]: entry["text"] for entry in map(json.loads, lines)}


def transcribe(corpus: Path, rows: Sequence[Row], kept: Path, seconds: float) -> dict[str, str]:
    """Transcribe rows until the seconds of processor time are over; returns all transcripts by file."""
    texts, start = read_transcripts(kept), time.process_time()
    write_text(kept, "".join(_line(path=file, text=text) for file, text in texts.items()))
    with kept.open("a", encoding="utf-8") as lines:
        for row in rows:
            if time.process_time() - start >= seconds:
                break
            if row["file"] not in texts:
                audio = read_audio(corpus / row["file"], SAMPLE_RATE)[0]
                texts[row["file"]] = str(transcript(audio, "en"))
                lines.write(_line(path=row["file"], text=texts[row["file"]]))
                lines.flush()
    return texts


def _line(**values: str) -> str:
    return json.dumps(values, ensure_ascii=False) + "\n"


def write_manifests(out: Path, rows: Sequence[Row], texts: dict[str, str]) -> None:
    """Write a manifest for each split, and print the numbers of its recordings and transcripts."""
    for split in SPLITS:
        files = {row["file"]: row["speaker"] for row in rows if row["split"] == split}
        known = {file: {"text": texts[file]} if texts.get(file) else {} for file in files}
        lines = [_line(path=file, speaker=speaker, **known[file]) for file, speaker in files.items()]
        write_text(out / f"{split}.jsonl", "".join(lines))
        print(f"{split}: {len(lines)} recordings, {sum(map(bool, known.values()))} with a transcript")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments, transcribe and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="folder with a manifest.csv")
    parser.add_argument("--out", type=Path, required=True, metavar="WORK", help="folder to write")
    parser.add_argument("--minutes", type=float, default=30.0, help="of processor time (default: %(default)g)")
    args = parser.parse_args(arguments)
    try:
        rows = read_manifest(args.corpus)
        args.out.mkdir(parents=True, exist_ok=True)
        texts = transcribe(args.corpus, to_transcribe(rows), args.out / KEPT, 60 * args.minutes)
        write_manifests(args.out, rows, texts)
    except InputError as error:
        print(f"transcripts: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
