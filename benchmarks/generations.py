"""Measure what is left of speech that is decoded and encoded again and again.

    python benchmarks/generations.py CORPUS/test

Each generation encodes the decoded audio of the one before; the first encodes the original. Scores are means over the
first seconds of every fifth clean file, compared with the original. Writes `generations.json` beside this file;
recipes/cards.py makes the table.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.clips import clean_speech
from spectok import Tokenizer, pretrained
from spectok.evaluation.metrics import SAMPLE_RATE, level_db, pesq_wb, stoi
from spectok.evaluation.provenance import weights_of, write_results

GENERATIONS = 10
SCORED = (1, 2, 5, 10)
EVERY, CLIP_SECONDS = 5, 6


def generations(
    tokenizer: Tokenizer, clip: NDArray[np.float32], count: int
) -> Iterator[tuple[NDArray[np.float32], float]]:
    """The audio `[T]` of each generation, and the share of its codes that differ from the generation before (first: 0).

    Args:
        tokenizer: the codec.
        clip: the original, `[T]` at the codec's sample rate.
        count: the number of generations.
    """
    audio, before = clip, None
    for _ in range(count):
        codes = tokenizer.encode(audio, layout="frames")
        audio = np.clip(tokenizer.decode(codes, len(clip), layout="frames"), -1, 1)  # as a 16-bit file limits it
        yield audio, 0.0 if before is None else float(np.mean(codes != before))
        before = codes


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", help="folder of speech")
    parser.add_argument("--models", nargs="+", default=pretrained.models(), help="names or folders of models")
    parser.add_argument("--every", type=int, default=EVERY, help="take every n-th file (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "generations.json", help="file to write")
    args = parser.parse_args(arguments)
    clips = [speech[: CLIP_SECONDS * SAMPLE_RATE] for speech in clean_speech(args.corpus, args.every)]
    rows = []
    for name in args.models:
        tokenizer, scores = Tokenizer.from_pretrained(name), dict[int, list[tuple[float, ...]]]()
        for clip in clips:
            for number, (audio, changed) in enumerate(generations(tokenizer, clip, GENERATIONS), start=1):
                if number in SCORED:
                    found = (pesq_wb(clip, audio), stoi(clip, audio), level_db(clip, audio), changed)
                    scores.setdefault(number, []).append(found)
        for number, found_all in scores.items():
            means = np.nanmean(np.array(found_all), axis=0).round(4).tolist()
            facts = dict(zip(("pesq", "stoi", "level_db", "changed"), means, strict=True))
            rows.append({"model": tokenizer.config.name, "generation": number, **facts})
            print(rows[-1], flush=True)
    write_results(args.out, {"clips": len(clips), "rows": rows}, weights_of(args.models))
    return 0


if __name__ == "__main__":
    sys.exit(main())
