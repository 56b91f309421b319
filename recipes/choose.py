"""Compare weights on the validation split, and select the best by a fixed rule.

    python recipes/choose.py --data PREPARED spectok-16k-800 runs/a/release runs/b/release
    python recipes/choose.py --data PREPARED --clips 16 runs/a/release

The rule: every metric of `RANKED` ranks the candidates by its mean over the clips, the ranks are averaged, and the
lowest mean rank wins. A candidate is a released model or a folder, for example `release/` of a run.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from spectok.engine import load_codec
from spectok.errors import InputError, require
from spectok.evaluation.catalogue import METRICS
from spectok.evaluation.judges import judge, missing
from spectok.evaluation.metrics import mel_distance, pesq_wb, stoi
from spectok.evaluation.tables import markdown_table, number
from spectok.model.codec import Codec
from spectok.training.corpus import Corpus
from spectok.training.validation import reconstruct

RANKED = ("pesq", "stoi", "distillmos", "dnsmos", "mel_distance", "wer")
SHOWN = (*RANKED, "wer_moonshine", "speaker", "pitch_cents", "voicing_error")
MAX_SECONDS = 6.0


def measure(codecs: Sequence[Codec], corpus: Corpus, clips: int) -> list[dict[str, float]]:
    """Means of every metric over the first seconds of some clips, for each codec.

    Raises:
        InputError: the package of a metric that ranks is missing, or a codec has another sample rate than the corpus.
    """
    lacking = missing()
    needed = [f"{METRICS[name].title} needs {module}" for name, module in lacking.items() if name in RANKED]
    require(not needed, f"packages of the extra bench are missing: {', '.join(needed)}")
    for codec in codecs:
        rate, name = codec.config.sample_rate, codec.config.name
        require(rate == corpus.sample_rate, f"{name} is at {rate} Hz, but the corpus at {corpus.sample_rate}")
    shown = [name for name in SHOWN if name not in lacking]
    scores: list[list[dict[str, float]]] = [[] for _ in codecs]
    for index in np.linspace(0, len(corpus) - 1, min(clips, len(corpus))).round().astype(int):
        original = corpus.clip(index, samples=min(int(corpus.samples[index]), int(MAX_SECONDS * corpus.sample_rate)))
        decoded = [reconstruct(codec, original)[0] for codec in codecs]
        for found, audio, judged in zip(scores, decoded, judge(original, decoded, shown), strict=True):
            plain = {name: metric(original, audio) for name, metric in (("pesq", pesq_wb), ("stoi", stoi))}
            plain["mel_distance"] = mel_distance(original, audio)
            found.append(judged | plain)
    return [{name: float(np.nanmean([one[name] for one in found])) for name in shown} for found in scores]


def mean_ranks(rows: list[dict[str, float]]) -> list[float]:
    """The mean rank of each candidate, 1 the best; equal values share the mean of their ranks."""
    ranks = np.zeros((len(rows), len(RANKED)))
    for column, name in enumerate(RANKED):
        values = np.array([row[name] if METRICS[name].better == "higher" else -row[name] for row in rows])
        ranks[:, column] = [1 + (values > value).sum() + ((values == value).sum() - 1) / 2 for value in values]
    return [float(rank) for rank in ranks.mean(axis=1)]


def table(names: Sequence[str], rows: list[dict[str, float]]) -> str:
    """The candidates, their metrics and their mean ranks, as Markdown."""
    metrics = [METRICS[name] for name in SHOWN if name in rows[0]]
    cells = [
        [name, *(metric.text(row[metric.name]) for metric in metrics), number(rank, 2)]
        for name, row, rank in zip(names, rows, mean_ranks(rows), strict=True)
    ]
    return markdown_table(["weights", *(metric.heading for metric in metrics), "mean rank"], cells)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="+", help="released models, or folders with config.json and model.safetensors")
    parser.add_argument("--data", type=Path, required=True, help="folder made by recipes/prepare.py")
    parser.add_argument(
        "--clips", type=int, default=1000, help="number of clips, evenly spread (default: at most %(default)s)"
    )
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        rows = measure([load_codec(name) for name in args.weights], Corpus(args.data, "valid"), args.clips)
    except InputError as error:
        print(f"choose: {error}", file=sys.stderr)
        return 2
    print(table(args.weights, rows))
    print(f"\nbest by mean rank: {args.weights[int(np.argmin(mean_ranks(rows)))]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
