"""Measure all that the documents quote about the released models, and write it into the documents.

    python recipes/measure.py CORPUS --list        # what there is to measure, and of which weights the results are
    python recipes/measure.py CORPUS               # what was measured with other weights than the released ones
    python recipes/measure.py CORPUS --all         # everything anew
    python recipes/measure.py CORPUS --only benchmarks/loss.json

CORPUS is a folder of recordings with a `manifest.csv`. Leave the machine alone meanwhile: most of the results are
times. With `--jobs 2`, those that are not run two at a time. Each measurement is a command of its own, which is
printed before it starts; if one fails, the others go on, and the exit code is 1. `spectok bench` continues where it was
stopped, in the folder WORK. At the end `recipes/cards.py` writes the documents.

Not measured here, because they train networks or need more than the corpus: the studies (`recipes/study.py`), the
speech language model (`recipes/speech_lm`), `recipes/speed.json` and `benchmarks/install.json`; nor the inputs that
`benchmarks/fuzz.py` invents.
"""

import argparse
import csv
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from spectok.errors import InputError, require
from spectok.evaluation.provenance import weights_of
from spectok.files import write_text
from spectok.pretrained import models

ROOT = Path(__file__).parent.parent
QUALITY = "pretrained/results/results.json"
TOKENS = "pretrained/results/tokens.json"
COMMANDS = {  # by the file of results; what stands in braces is filled in by `command`
    QUALITY: "-m spectok bench {corpus}/test --out {work}/bench --jobs 2",
    "pretrained/results/drift.json": "recipes/drift.py {corpus}/test",
    TOKENS: "-m spectok tokens {work}/tokens.csv --probe --out {work}/tokens",
    "pretrained/results/tokens-train.json": "-m spectok tokens {work}/tokens-train.csv --out {work}/tokens-train",
    "benchmarks/results.json": "benchmarks/run.py",
    "benchmarks/agreement.json": "benchmarks/agreement.py {corpus}/test --jobs 2",
    "benchmarks/precision.json": "benchmarks/precision.py {corpus}/test --every 8",
    "benchmarks/entropy.json": "benchmarks/entropy.py {corpus}/test",
    "benchmarks/context.json": "benchmarks/context.py",
    "benchmarks/memory.json": "benchmarks/memory.py",
    "benchmarks/kills.json": "benchmarks/kills.py",
    "benchmarks/loss.json": "benchmarks/loss.py {corpus}/test",
    "benchmarks/generations.json": "benchmarks/generations.py {corpus}/test",
    "benchmarks/noise.json": "benchmarks/noise.py {corpus}/test",
    "benchmarks/extension.json": "benchmarks/extension.py {corpus}/test --distillmos --visqol",
    "benchmarks/groups.json": "benchmarks/groups.py",
    "benchmarks/batches.json": "benchmarks/batches.py {corpus}/test --every 3",
    "benchmarks/bulk.json": "benchmarks/bulk.py {work}/bulk",
    "benchmarks/browser.json": "benchmarks/browser.py",
    "benchmarks/serve.json": "benchmarks/serve.py --seconds 4",
    "benchmarks/soak.json": "benchmarks/soak.py {corpus}/test",
}
MOVED = {  # results that are written in the folder WORK first
    QUALITY: "bench/results.json",
    TOKENS: "tokens/tokens.json",
    "pretrained/results/tokens-train.json": "tokens-train/tokens.json",
}
TOGETHER = {  # results without times, whose commands use one processor each
    "pretrained/results/drift.json",
    TOKENS,
    "pretrained/results/tokens-train.json",
    "benchmarks/context.json",
    "benchmarks/loss.json",
    "benchmarks/generations.json",
    "benchmarks/noise.json",
}
LEAST_FILES = 3  # of a speaker whose tokens of the test split are measured
BULK_RECORDINGS = 200  # of the training split


def stale(name: str) -> bool:
    """Whether results are missing, or of other weights than those that are released."""
    path, current = ROOT / name, weights_of(models(), encoders=True)
    if not path.exists():
        return True
    weights: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))["provenance"]["weights"] or {}
    return any(current.get(model) != sha256 for model, sha256 in weights.items())


def command(name: str, corpus: Path, work: Path) -> list[str]:
    """The command that measures a file of results."""
    words = COMMANDS[name].split()
    return [sys.executable, *(word.format(corpus=corpus, work=work) for word in words)]


def write_inputs(corpus: Path, work: Path) -> None:
    """Write what some commands read, into the folder `work`.

    `tokens.csv` is a manifest of the clean English speech of the test, of speakers with at least `LEAST_FILES` files,
    and `tokens-train.csv` one of the training speech of LibriSpeech. `bulk` is a folder of `BULK_RECORDINGS` of these.

    Raises:
        InputError: the corpus has no manifest, or no such speech.
    """
    try:
        with open(corpus / "manifest.csv", newline="", encoding="utf-8-sig") as file:
            rows: list[dict[str, Any]] = list(csv.DictReader(file))
            english = [row for row in rows if row["split"] == "test" and row["language"] == "en"]
            clean = [row for row in english if row["category"].startswith("clean")]
            training = [row for row in rows if row["split"] == "train" and row["source"] == "librispeech"]
    except (OSError, KeyError) as error:
        raise InputError(f"cannot read {corpus}/manifest.csv: {error}") from error
    files = Counter(row["speaker"] for row in clean)
    test = [row for row in clean if files[row["speaker"]] >= LEAST_FILES]
    require(len(test) > 0, f"{corpus}/manifest.csv has no clean English speech in the split test")
    require(len(training) > 0, f"{corpus}/manifest.csv has no LibriSpeech in the split train")
    shutil.rmtree(work / "bulk", ignore_errors=True)
    (work / "bulk").mkdir(parents=True)
    for row in training[:BULK_RECORDINGS]:
        shutil.copy(corpus / row["file"], work / "bulk")
    for name, kept in (("tokens", test), ("tokens-train", training)):
        with open(work / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(row | {"file": str((corpus / row["file"]).resolve())} for row in kept)


def measure(names: Sequence[str], corpus: Path, work: Path, jobs: int = 1) -> list[str]:
    """Run the commands of some results; returns the names of those that failed.

    The results `TOGETHER` come first, `jobs` at a time, then the others in turn.
    """

    def succeeds(name: str) -> bool:
        words = command(name, corpus, work)
        print(f"{name}: {' '.join(words[1:])}", flush=True)
        if subprocess.run(words, cwd=ROOT, check=False).returncode:
            return False
        if name in MOVED:
            write_text(ROOT / name, (work / MOVED[name]).read_text(encoding="utf-8"))
        return True

    together = [name for name in names if name in TOGETHER]
    in_turn = [name for name in names if name not in TOGETHER]
    with ThreadPoolExecutor(jobs) as pool:
        successes = [*pool.map(succeeds, together), *map(succeeds, in_turn)]
    return [name for name, success in zip(together + in_turn, successes, strict=True) if not success]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, metavar="CORPUS", help="folder of recordings with manifest.csv")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "measure", help="folder for what is not kept")
    parser.add_argument("--jobs", type=int, default=1, help="of results without times (default: %(default)s)")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--all", action="store_true", help="also what was measured with these weights before")
    chosen.add_argument("--only", action="append", metavar="RESULTS", choices=COMMANDS, help="may be repeated")
    chosen.add_argument("--list", action="store_true", help="measure nothing")
    args = parser.parse_args(arguments)
    corpus, work = args.corpus.resolve(), args.work.resolve()
    if args.list:
        for name in COMMANDS:
            print(f"{'stale' if stale(name) else 'right'}  {name}: {' '.join(command(name, corpus, work)[1:])}")
        return 0
    names = args.only or [name for name in COMMANDS if args.all or stale(name)]
    if args.all:  # the benchmark would continue with what it has measured
        shutil.rmtree(work / "bench", ignore_errors=True)
    try:
        write_inputs(corpus, work)
    except (InputError, OSError) as error:
        print(f"measure: {error}", file=sys.stderr)
        return 2
    failed = measure(names, corpus, work, args.jobs)
    written = subprocess.run([sys.executable, "recipes/cards.py"], cwd=ROOT, check=False).returncode
    for name in failed:
        print(f"measure: {name} was not measured", file=sys.stderr)
    return 1 if failed or written else 0


if __name__ == "__main__":
    sys.exit(main())
