"""Measure what entropy coding saves: the bytes of .spt files with it and without, of the same codes.

    python benchmarks/entropy.py CORPUS/test

Every clean file of the folder is encoded and written both ways, as a file of its own, and all of them as one long
recording. Reading a long file is timed as well, in turn with decoding its codes to audio. Writes `entropy.json` beside
this file; recipes/cards.py makes the table.
"""

import argparse
import io
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.clips import clean_speech
from spectok import Tokenizer, pretrained
from spectok.evaluation.provenance import weights_of, write_results

TIMED_FRAMES, ROUNDS = 1500, 3  # half a minute


def file_of(tokenizer: Tokenizer, codes: NDArray[np.int64], samples: int, entropy_coding: bool) -> bytes:
    """The content of a .spt file; it is read again, and its codes compared."""
    sink = io.BytesIO()
    tokenizer.save(sink, codes, samples, entropy_coding=entropy_coding)
    sink.seek(0)
    if not np.array_equal(tokenizer.load(sink).codes, codes):
        raise RuntimeError("the codes of a file are not those that were written")
    return sink.getvalue()


def seconds_of(function: Callable[[], Any]) -> float:
    """Processor time of a call."""
    began = time.process_time()
    function()
    return time.process_time() - began


def measure(tokenizer: Tokenizer, clips: Sequence[NDArray[np.float32]]) -> list[dict[str, Any]]:
    """A row for the files one by one, and one for all of them as one recording."""
    codes = [tokenizer.encode(clip) for clip in clips]
    samples = [len(clip) for clip in clips]
    whole = np.concatenate(codes)
    sets = {
        "files": list(zip(codes, samples, strict=True)),
        "one recording": [(whole, tokenizer.config.num_samples(len(whole) // tokenizer.tokens_per_frame))],
    }
    rows = []
    for what, recordings in sets.items():
        seconds = sum(length for _, length in recordings) / tokenizer.sample_rate
        code_bytes = sum(len(part) for part, _ in recordings) * math.log2(tokenizer.codebook_size) / 8
        plain, coded = (
            sum(len(file_of(tokenizer, *recording, entropy_coding=how)) for recording in recordings)
            for how in (False, True)
        )
        row = {"what": what, "files": len(recordings), "seconds": round(seconds, 3), "code_bytes": round(code_bytes)}
        rows.append({**row, "plain_bytes": plain, "coded_bytes": coded})
    part = whole[: TIMED_FRAMES * tokenizer.tokens_per_frame]
    content = file_of(tokenizer, part, tokenizer.config.num_samples(len(part) // tokenizer.tokens_per_frame), True)
    reads, decodes = [], []
    for _ in range(ROUNDS):
        reads.append(seconds_of(lambda: tokenizer.load(io.BytesIO(content))))
        decodes.append(seconds_of(lambda: tokenizer.decode(part)))
    rows[-1]["reading_share"] = round(min(reads) / min(decodes), 4)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", help="folder of speech")
    parser.add_argument("--models", nargs="+", default=pretrained.models(), help="names or folders of models")
    parser.add_argument("--every", type=int, default=1, help="take every n-th file (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "entropy.json", help="file to write")
    args = parser.parse_args(arguments)
    clips, rows = clean_speech(args.corpus, args.every), []
    for name in args.models:
        tokenizer = Tokenizer.from_pretrained(name)
        for row in measure(tokenizer, clips):
            rows.append({"model": tokenizer.config.name, **row})
            print(rows[-1], flush=True)
    write_results(args.out, {"rows": rows}, weights_of(args.models))
    return 0


if __name__ == "__main__":
    sys.exit(main())
