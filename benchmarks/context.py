"""Measure how close a part of a recording that is decoded after some context is to that part of the whole.

    python benchmarks/context.py

The recordings of the tests, joined and repeated, are decoded whole. Then a second of them is decoded in several places,
by a fresh decoder each time, which first decodes some frames before the second: its context (`Tokenizer.decode`). The
context begins where the fixed sequences of the excitation begin again, as with `spectok decode --start`; shorter
contexts are measured elsewhere too. Measured is the ratio of the second's power to that of its difference from the
whole, in dB. Writes `context.json` beside this file; recipes/cards.py makes the
table.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spectok import Tokenizer, pretrained
from spectok.audio import read_audio
from spectok.evaluation.provenance import weights_of, write_results

DATA = Path(__file__).parent.parent / "tests" / "data"
CLIPS = ("librispeech_84_16k.flac", "vctk_p259_48k.flac")
PERIOD = 1600  # frames: `EXCITATION_PERIOD` of both models
PLACES = 8
ELSEWHERE = 37  # frames after the places where the sequences begin again


def ratios(name: str, minutes: float, contexts: Sequence[int], offset: int = 0) -> Iterator[tuple[int, list[float]]]:
    """For each context, in frames, the ratios in dB at up to `PLACES` places of so many minutes of speech.

    The contexts begin `offset` frames after the places where the sequences of the excitation begin again.
    """
    tokenizer = Tokenizer.from_pretrained(name)
    speech = np.concatenate([read_audio(DATA / clip, 16000)[0] for clip in CLIPS])
    codes = tokenizer.encode(np.resize(speech, round(60 * 16000 * minutes)), layout="frames")
    whole, frame = tokenizer.decode(codes, layout="frames"), tokenizer.frame_length
    for context in contexts:
        starts = np.arange(PERIOD + offset, len(codes) - context - 50, PERIOD)
        found = []
        for start in starts[:: -(-len(starts) // PLACES)] if len(starts) else ():
            first = start + context
            part = tokenizer.decode(codes[start : first + 50], layout="frames", context=context)
            expected = whole[first * frame - tokenizer.config.synthesis_delay :][: len(part)]
            found.append(10 * float(np.log10(np.sum(expected**2) / np.sum((part - expected) ** 2))))
        yield context, found


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="of speech (default: %(default)g)")
    parser.add_argument(
        "--contexts", type=int, nargs="+", default=[25, 50, 100, 500, 1500, 3000, 6000, 15000], help="frames"
    )
    parser.add_argument("--elsewhere", type=int, nargs="+", default=[25, 50, 100, 500, 1500], help="frames")
    args = parser.parse_args(arguments)
    facts: dict[str, Any] = {"minutes": args.minutes}
    for key, contexts, offset in (("rows", args.contexts, 0), ("elsewhere", args.elsewhere, ELSEWHERE)):
        facts[key] = []
        for name in pretrained.models():
            for context, found in ratios(name, args.minutes, contexts, offset):
                facts[key].append({"model": name, "context": context, "decibels": found})
                print(key, facts[key][-1], flush=True)
    write_results(Path(__file__).parent / "context.json", facts, weights_of(pretrained.models()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
