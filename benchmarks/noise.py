"""Measure what noise and loudness do to the codes and to the decoded speech, with each encoder of a model.

    python benchmarks/noise.py CORPUS/test

Every clean file is mixed with one recording of noise from the folder, at several signal-to-noise ratios; the files take
turns with the recordings. Two of the three kinds of noise, music and the murmur of meetings, do not occur in the
training of the robust encoder; of the third, sounds of the surroundings, other recordings do. Scores compare the
decoded audio with the clean original, and codes with those of the same encoder for the clean original. The noise of
each mix is also encoded alone, and its level after decoding is compared with its own. Writes `noise.json` beside this
file. Models without a robust encoder are measured with their own only.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.clips import clean_speech
from spectok import Tokenizer, pretrained
from spectok.audio import list_audio, read_audio
from spectok.evaluation.metrics import SAMPLE_RATE, pesq_wb, stoi
from spectok.evaluation.provenance import weights_of, write_results

SNRS = (20, 10)  # dB, by rms
GAINS = (-6, 6)  # dB
KINDS = {"hard_noise": "surroundings", "hard_music": "music", "hard_meeting": "meeting"}  # by a part of the file's name
Audio = NDArray[np.float32]


def noises(corpus: str | Path) -> list[tuple[str, Audio]]:
    """The recordings of noise in a folder with their kinds, in turns of the kinds, `[T]` each at 16 kHz."""
    found = [
        [(kind, read_audio(path, SAMPLE_RATE)[0]) for path in list_audio(corpus) if part in path.name]
        for part, kind in KINDS.items()
    ]
    longest = max(map(len, found))
    return [of_kind[turn % len(of_kind)] for turn in range(longest) for of_kind in found if of_kind]


def level(audio: Audio) -> float:
    """The rms in dB of full scale; -120 for digital silence."""
    return float(10 * np.log10(max(float(np.square(audio, dtype=np.float64).mean()), 1e-12)))


def mixed(speech: Audio, noise: Audio, snr_db: float, rng: np.random.Generator) -> tuple[Audio, Audio]:
    """Speech with a random stretch of the noise, and that stretch alone, `[T]`; both are scaled down if they clip."""
    places = (rng.integers(len(noise)) + np.arange(len(speech))) % len(noise)
    stretch = noise[places] * np.float32(10 ** ((level(speech) - level(noise[places]) - snr_db) / 20))
    mix = speech + stretch
    limit = np.float32(max(1.0, float(np.abs(mix).max())))
    return mix / limit, stretch / limit


def measure(
    tokenizers: dict[str | None, Tokenizer], clips: Sequence[Audio], recordings: Sequence[tuple[str, Audio]]
) -> list[dict[str, Any]]:
    """The mean scores of each encoder and condition, over all files and for each kind of noise."""
    scores: dict[tuple[str, str, str], list[tuple[float, ...]]] = {}
    for number, clip in enumerate(clips):
        kind, noise = recordings[number % len(recordings)]
        conditions = {"clean": (clip, "all")}
        alone = []
        for snr in SNRS:
            mix, stretch = mixed(clip, noise, snr, np.random.default_rng([number, snr]))
            conditions[f"{snr} dB SNR"] = (mix, kind)
            alone.append(stretch)
        for gain in GAINS:
            scaled = clip * np.float32(10 ** (gain / 20))
            conditions[f"{gain:+} dB gain"] = (np.clip(scaled, -1, 1), "all")
        for encoder, tokenizer in tokenizers.items():
            name, clean = encoder or "own", tokenizer.encode(clip)
            for condition, (heard, of_kind) in conditions.items():
                codes = tokenizer.encode(heard)
                decoded = tokenizer.decode(codes, len(clip))
                row = (pesq_wb(clip, decoded), stoi(clip, decoded), float((codes != clean).mean()))
                for group in {"all", of_kind}:
                    scores.setdefault((name, condition, group), []).append(row)
            decoded = tokenizer.decode(tokenizer.encode(alone[-1]), len(clip))
            for group in ("all", kind):
                levels = (np.nan, np.nan, np.nan, level(decoded) - level(alone[-1]))
                scores.setdefault((name, "noise alone", group), []).append(levels)
    rows: list[dict[str, Any]] = []
    for (name, condition, group), values in scores.items():
        means = np.array(values).mean(axis=0).round(4).tolist()
        facts = dict(zip(("pesq", "stoi", "changed", "level_db"), means, strict=False))
        kept = {key: value for key, value in facts.items() if np.isfinite(value)}
        rows.append({"encoder": name, "condition": condition, "noise": group, "files": len(values), **kept})
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", help="folder of speech and noise")
    parser.add_argument("--models", nargs="+", default=pretrained.models(), help="names or folders of models")
    parser.add_argument("--every", type=int, default=1, help="take every n-th file (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "noise.json", help="file to write")
    args = parser.parse_args(arguments)
    clips, recordings = clean_speech(args.corpus, args.every), noises(args.corpus)
    rows = []
    for name in args.models:
        encoders = (None, *pretrained.encoders(pretrained.find(name)))
        tokenizers = {encoder: Tokenizer.from_pretrained(name, encoder=encoder) for encoder in encoders}
        for row in measure(tokenizers, clips, recordings):
            rows.append({"model": pretrained.find(name).config.name, **row})
            print(rows[-1], flush=True)
    write_results(args.out, {"clips": len(clips), "rows": rows}, weights_of(args.models, encoders=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
