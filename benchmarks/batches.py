"""Measure the time of batches by length beside that of recordings one by one, and of batches in any order.

    python benchmarks/batches.py CORPUS/test

The recordings of a folder are encoded one by one, with `Tokenizer.encode_batch`, which makes batches of similar length,
and in batches of the given order, each padded to its longest recording; the three in turn, in several rounds, on one
core. Measured is the time of the processor, not of the clock, because other programs may run. Counted are also the
codes in which batches by length differ from recordings one by one. Writes `batches.json` beside this file;
recipes/cards.py makes the table.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.clips import clean_speech
from benchmarks.tables import saving
from spectok import Tokenizer, pretrained
from spectok.batching import padded
from spectok.evaluation.provenance import weights_of, write_results

WAYS = ("one by one", "by length", "in any order")


def encode(tokenizer: Tokenizer, way: str, audio: list[NDArray[np.float32]], batch_size: int) -> list[NDArray[Any]]:
    """Encode recordings in one of `WAYS`; the codes of each."""
    if way == "one by one":
        return [tokenizer.encode(clip) for clip in audio]
    if way == "by length":
        return tokenizer.encode_batch(audio, padding=False, batch_size=batch_size).codes
    codes: list[NDArray[Any]] = []
    for start in range(0, len(audio), batch_size):
        codes += list(tokenizer.encode(padded(audio[start : start + batch_size])[:, None]))
    return codes


def compare(name: str, engine: str, audio: list[NDArray[np.float32]], batch_size: int, rounds: int) -> dict[str, Any]:
    """Encode recordings in each of `WAYS`.

    Returns:
        The "seconds" of the processor in each way in each round, and the number of "codes" and of those that are
        "different".
    """
    tokenizer = Tokenizer.from_pretrained(name, engine=engine, threads=1)
    tokenizer.encode(audio[0])  # loads the graph
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    found: dict[str, list[NDArray[Any]]] = {}
    for _ in range(rounds):
        for way in WAYS:
            began = time.process_time()
            found[way] = encode(tokenizer, way, audio, batch_size)
            seconds[way].append(time.process_time() - began)
    pairs = list(zip(found["one by one"], found["by length"], strict=True))
    return {
        "model": name,
        "engine": engine,
        "seconds": seconds,
        "codes": sum(len(one) for one, _ in pairs),
        "different": sum(int(np.count_nonzero(one != other)) for one, other in pairs),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments, measure, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="folder of speech")
    parser.add_argument("--batch", type=int, default=16, help="recordings in a batch (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--every", type=int, default=1, help="take every n-th file (default: %(default)s)")
    args = parser.parse_args(arguments)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    audio = clean_speech(args.corpus, args.every)
    rows = []
    for name in pretrained.models():
        for engine in ("onnx", "torch"):
            rows.append(compare(name, engine, audio, args.batch, args.rounds))
            print(rows[-1], {way: round(saving(rows[-1], way), 2) for way in WAYS}, flush=True)
    lengths = [len(clip) / 16000 for clip in audio]
    found = {"batch_size": args.batch, "seconds_of_recordings": lengths, "rows": rows}
    write_results(Path(__file__).parent / "batches.json", found, weights_of(pretrained.models()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
