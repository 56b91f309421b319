"""Compares the codes of all engines for a corpus, for several divisions of the streams into chunks.

    python benchmarks/agreement.py CORPUS/test      # some minutes for a quarter of an hour of speech

Codes are compared with the canonical ones, which are computed in float64 (spectok/export/agreement.py). For every
code that differs, the margin is recorded: the distance of its latent from another code, in steps of the quantizer's
grid, where neighbouring codes are 1 apart. The audio of every sixteenth file is compared too. Writes `agreement.json`
beside this file; recipes/cards.py writes the table.
"""

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from spectok import pretrained
from spectok.audio import list_audio, read_audio
from spectok.engine import ENGINES, load_codec, load_engine
from spectok.errors import InputError
from spectok.evaluation.provenance import weights_of, write_results
from spectok.export.agreement import CUTS, Agreement, Difference, Reference, audio_differences
from spectok.resampling import resample

HERE = Path(__file__).parent
AUDIO_EVERY = 16  # one in so many files is decoded frame by frame in float64, which is slow


def compare(name: str, files: list[Path]) -> list[dict[str, Any]]:
    """The results of one model: a row for each engine and each division into chunks."""
    model = pretrained.find(name)
    reference = Reference(load_codec(model))
    engines = {engine: load_engine(model, engine, threads=1) for engine in ENGINES}
    found = {(engine, cut): Agreement() for engine in engines for cut in CUTS}
    differences: dict[str, list[Difference]] = {engine: [] for engine in engines}
    nearest = 1.0
    for number, path in enumerate(files):
        audio, rate = read_audio(path)
        audio = resample(audio, rate, model.config.sample_rate)
        expected, margins = reference.encode(audio)
        nearest = min(nearest, float(margins.min()))
        for engine, cut in found:
            found[engine, cut].add(CUTS[cut](engines[engine], audio), expected, margins)
        if number % AUDIO_EVERY == 0:
            for engine, difference in zip(
                engines, audio_differences(list(engines.values()), reference, expected), strict=True
            ):
                differences[engine].append(difference)
    return [
        {"model": name, "engine": engine, "cut": cut, "codes": a.codes, "nearest": nearest, "margins": a.margins}
        | {
            "audio": max(one.audio for one in differences[engine]),
            "frames": sum(one.frames for one in differences[engine]),
            "astray": sum(one.astray for one in differences[engine]),
        }
        for (engine, cut), a in found.items()
    ]


def main() -> int:
    """Compare, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="folder of audio files")
    parser.add_argument("--jobs", type=int, default=1, help="models at a time (default: %(default)s)")
    args = parser.parse_args()
    try:
        files = list_audio(str(args.corpus))
        if not files:
            raise InputError(f"{args.corpus} holds no audio")
        with ProcessPoolExecutor(args.jobs) as pool:
            names = pretrained.models()
            rows = [row for part in pool.map(compare, names, [files] * len(names)) for row in part]
    except InputError as error:
        print(f"agreement: {error}", file=sys.stderr)
        return 2
    write_results(HERE / "agreement.json", {"files": len(files), "rows": rows}, weights_of(names))
    return 0


if __name__ == "__main__":
    sys.exit(main())
