"""Measure the extension to 20 kHz: how near the added frequencies are to those of recordings at 48 kHz, and its cost.

    python benchmarks/extension.py CORPUS/test

Every file of the folder with 48 kHz in its name is encoded at 16 kHz and decoded at 48 kHz, with the extension and
resampled without it. `clean` is the extension of the original at 16 kHz, without a codec. No file is of a voice that
the extension was trained on. Writes `extension.json` beside this file. The options `--distillmos` and `--visqol` need
the extra `bench`.

The log-spectral distance is the mean over frames of the root mean square, over the bins from 8 to 20 kHz, of the
difference of log10 power spectra, with n_fft 2048 and hop 512; powers below 1e-8 count as 1e-8.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spectok import Tokenizer, pretrained
from spectok.audio import list_audio, read_audio
from spectok.config import EXTENSION_FACTOR
from spectok.engine import load_extension
from spectok.evaluation.catalogue import JUDGED
from spectok.evaluation.provenance import weights_of, write_results
from spectok.model.spectrum import STFT
from spectok.resampling import resample

HIGH_RATE = 48000
N_FFT, HOP, QUIETEST = 2048, 512, 1e-8
BAND = (8000, 20000)  # Hz
KEPT = 7500  # Hz up to which the low band is compared; window sidelobes of the added band reach a little below 8 kHz
SETS = {"VCTK": "vctk48k", "OHF voices": "ohf48k"}  # by a part of the file's name
ROUNDS = 5  # of timing
Audio = NDArray[np.float32]
Judge = Callable[[Audio, Audio], float]


def log_powers(audio: Audio) -> NDArray[np.float64]:
    """Log10 powers of the bins in `BAND`, `[frames, bins]`."""
    window = torch.hann_window(N_FFT)
    spectrum = torch.stft(torch.from_numpy(audio), N_FFT, HOP, window=window, return_complex=True)
    frequencies = np.arange(N_FFT // 2 + 1) * HIGH_RATE / N_FFT
    inside = (frequencies >= BAND[0]) & (frequencies <= BAND[1])
    powers: NDArray[np.float64] = spectrum.abs().double().square().clamp_min(QUIETEST).log10().numpy()[inside].T
    return powers


def spectral_distance(original: Audio, decoded: Audio) -> float:
    """The log-spectral distance of two signals of one length."""
    difference = log_powers(original) - log_powers(decoded)
    return float(np.sqrt(np.square(difference).mean(axis=1)).mean())


def low_band_db(resampled: Audio, extended: Audio) -> float:
    """How far the difference of two signals below `KEPT` lies under the first of them, in dB."""
    a, b = (np.fft.rfft(audio.astype(np.float64))[: KEPT * len(audio) // HIGH_RATE] for audio in (resampled, extended))
    return float(10 * np.log10(np.square(np.abs(a)).sum() / max(np.square(np.abs(a - b)).sum(), 1e-30)))


def extended_clean(tokenizer: Tokenizer, model: str, audio: Audio) -> Audio:
    """Audio `[T]` at 16 kHz, through the codec's transform and the extension only, `[3 * T]`."""
    config, layer = tokenizer.config, load_extension(pretrained.find(model))
    delay = config.synthesis_delay
    padded = np.zeros(-(-(len(audio) + delay) // config.frame_length) * config.frame_length, np.float32)
    padded[: len(audio)] = audio
    with torch.inference_mode():
        spectrum = STFT(config.spectrum, config.spectrum.positions)(torch.from_numpy(padded)[None])
        output: Audio = layer(spectrum)[0].numpy()
    return output[EXTENSION_FACTOR * delay :][: EXTENSION_FACTOR * len(audio)]


def visqol() -> Callable[[Audio, Audio], float]:
    """ViSQOL for audio at 48 kHz (M. Chinen et al., arXiv 2004.09584)."""
    from visqol import VisqolApi

    api = VisqolApi()
    api.create(mode="audio")

    def measure(original: Audio, decoded: Audio) -> float:
        result = api.measure_from_arrays(original.astype(np.float64), decoded.astype(np.float64), HIGH_RATE)
        return float(result.moslqo)

    return measure


def measure(models: Sequence[str], paths: Sequence[Path], judges: dict[str, Judge]) -> dict[str, dict[str, float]]:
    """The mean scores of files, for each input: "clean" and the models.

    Args:
        models: names or folders.
        paths: of the files.
        judges: further scores of the original and the decoded audio, by name.
    """
    tokenizers = {name: Tokenizer.from_pretrained(name) for name in models}
    scores: dict[str, list[dict[str, float]]] = {"clean": [], **{name: [] for name in models}}
    for path in paths:
        original, rate = read_audio(path)
        assert rate == HIGH_RATE
        narrow = resample(original, HIGH_RATE, tokenizers[models[0]].sample_rate)
        pairs = {"clean": (narrow, extended_clean(tokenizers[models[0]], models[0], narrow))}
        for name, tokenizer in tokenizers.items():
            codes = tokenizer.encode(narrow)
            pairs[name] = (
                tokenizer.decode(codes, len(narrow)),
                tokenizer.decode(codes, EXTENSION_FACTOR * len(narrow), extend=True),
            )
        for name, (low, extended) in pairs.items():
            versions = {"without": resample(low, 16000, HIGH_RATE)[: len(original)]}
            versions["with"] = extended[: len(original)]
            row = {f"lsd_{key}": spectral_distance(original, audio) for key, audio in versions.items()}
            row["low_band_db"] = low_band_db(versions["without"], versions["with"])
            for judge, judgement in judges.items():
                row |= {f"{judge}_{key}": judgement(original, audio) for key, audio in versions.items()}
            scores[name].append(row)
    means = {name: {key: statistics.mean(row[key] for row in rows) for key in rows[0]} for name, rows in scores.items()}
    for name, rows in scores.items():
        means[name]["low_band_db_worst"] = min(row["low_band_db"] for row in rows)
    return means


def cost(model: str, audio: Audio) -> dict[str, float]:
    """Parameters, multiply-accumulates, and the time of decoding with the extension over that without, in turn."""
    tokenizer, layer = Tokenizer.from_pretrained(model), load_extension(pretrained.find(model))
    config = tokenizer.config
    codes = tokenizer.encode(audio).reshape(-1, tokenizer.tokens_per_frame)
    ratios: dict[str, list[float]] = {"at_once": [], "stream": []}
    for _ in range(ROUNDS + 1):
        for kind, chunks in (("at_once", [codes]), ("stream", list(codes[:, None]))):
            seconds = []
            for extend in (False, True):
                session, begin = tokenizer.stream_decoder(extend=extend), time.perf_counter()
                for chunk in chunks:
                    session.push(chunk)
                seconds.append(time.perf_counter() - begin)
            ratios[kind].append(seconds[1] / seconds[0])
    return {
        "parameters": sum(parameter.numel() for parameter in layer.parameters()),
        "macs_per_second": layer.macs_per_frame * config.sample_rate / config.spectrum.hop_length,
        **{f"time_{kind}": statistics.median(found[1:]) for kind, found in ratios.items()},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", help="folder of speech at 48 kHz")
    parser.add_argument("--models", nargs="+", default=pretrained.models(), help="names or folders of models")
    parser.add_argument(
        "--distillmos", action="store_true", help=f"measure {JUDGED['distillmos'].title} too; it hears 16 kHz only"
    )
    parser.add_argument("--visqol", action="store_true", help=f"measure {JUDGED['visqol'].title} too")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "extension.json", help="file to write")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    judges: dict[str, Judge] = {"visqol": visqol()} if args.visqol else {}
    if args.distillmos:
        from spectok.evaluation.judges import distillmos_of

        judges["distillmos"] = lambda _, audio: distillmos_of(resample(audio, HIGH_RATE, 16000))
    rows: list[dict[str, Any]] = []
    found = list_audio(args.corpus)
    for speech, part in SETS.items():
        paths = [path for path in found if part in path.name]
        for name, means in measure(args.models, paths, judges).items():
            rows.append({"speech": speech, "input": name, "files": len(paths)})
            rows[-1] |= {key: round(value, 4) for key, value in means.items()}
            print(rows[-1], flush=True)
    audio = read_audio(next(path for path in found if SETS["VCTK"] in path.name), 16000)[0]
    costs = [{"model": name} | {key: round(x, 3) for key, x in cost(name, audio).items()} for name in args.models]
    print(costs)
    write_results(args.out, {"rows": rows, "costs": costs}, weights_of(args.models))
    return 0


if __name__ == "__main__":
    sys.exit(main())
