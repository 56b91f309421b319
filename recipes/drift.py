"""Measure how the quality of the released models changes over minutes of a stream: PESQ-WB at its start and later.

    python recipes/drift.py CORPUS/test

The files are those with `clean` in their names, or all files if there are none. Every fifth file gives a clip of 5 s;
the other files, concatenated, are the speech that precedes the clips in the stream. Writes
`pretrained/results/drift.json`; recipes/cards.py puts it into the cards.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spectok import pretrained
from spectok.audio import list_audio, read_audio
from spectok.engine import load_engine
from spectok.errors import InputError, require
from spectok.evaluation.drift import PREAMBLES, drift
from spectok.evaluation.metrics import SAMPLE_RATE
from spectok.evaluation.provenance import write_results

OUT = pretrained.CHECKOUT / "results" / "drift.json"
EVERY, CLIP_SECONDS = 5, 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", help="folder of speech")
    parser.add_argument("--models", nargs="+", help="released models, or folders (default: all released)")
    parser.add_argument("--out", type=Path, default=OUT, help="(default: %(default)s)")
    args = parser.parse_args(arguments)
    try:
        paths = list_audio(args.corpus)
        paths = [path for path in paths if "clean" in path.name] or paths
        require(len(paths) >= 2, f"{args.corpus} holds {len(paths)} audio files; at least two are needed")
        audio = [read_audio(path, SAMPLE_RATE)[0] for path in paths]
        clips = [samples[: CLIP_SECONDS * SAMPLE_RATE] for samples in audio[::EVERY]]
        speech = np.concatenate([samples for n, samples in enumerate(audio) if n % EVERY])
        weights, found = {}, {}
        for name in args.models or pretrained.models():
            model = pretrained.find(name)
            values = drift(load_engine(model), clips, speech)
            means = {state: round(float(np.nanmean(scores)), 4) for state, scores in values.items()}
            weights[name], found[name] = model.sha256, {"clips": len(clips)} | means
            fresh = means["fresh"]
            print(
                f"{name}: fresh {fresh}",
                *(f"{state} {means[state] - fresh:+.3f}" for state in PREAMBLES),
                sep=", ",
            )
        write_results(args.out, {"models": found}, weights)
    except InputError as error:
        print(f"drift: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
