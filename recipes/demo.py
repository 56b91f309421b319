"""Encode, decode, stream, measure and plot real speech with each released model. `make demo` runs it.

It needs only this repository: the speech is in tests/data (CC BY 4.0, sources named there), the weights are in
pretrained/. For each released model it writes the original and decoded audio, the .spt file and a plot to demo/.
"""

import argparse
from pathlib import Path

import numpy as np

from spectok import pretrained
from spectok.audio import read_audio, write_audio
from spectok.container import read_spt
from spectok.evaluation.catalogue import METRICS, RATES
from spectok.evaluation.metrics import has_pesq, pesq_wb, stoi
from spectok.evaluation.realtime import measure_stream
from spectok.plotting import comparison, save
from spectok.resampling import resample, restore
from spectok.tokenizer import Tokenizer

SPEECH = Path(__file__).parent.parent / "tests" / "data"


def demonstrate(tokenizer: Tokenizer, source: Path, out: Path) -> dict[str, str]:
    """Run one codec on one file; writes its files to `out` and returns the lines to print, by name."""
    name = f"{source.stem}.{tokenizer.config.name}"
    audio, sample_rate = read_audio(source)
    write_audio(out / f"{source.stem}.wav", audio, sample_rate)

    codes = tokenizer.encode(audio, sample_rate)
    tokenizer.save(out / f"{name}.spt", codes, len(audio), sample_rate)
    _, stored = read_spt(out / f"{name}.spt")
    decoded = tokenizer.decode(stored, length=len(audio), sample_rate=sample_rate)
    write_audio(out / f"{name}.wav", decoded, sample_rate)

    length = len(audio) * 16000 // sample_rate
    original, restored = (restore(a, sample_rate, 16000, length) for a in (audio, decoded))
    frames = codes.reshape(-1, tokenizer.tokens_per_frame)
    title = f"{name}, {tokenizer.bitrate:g} bits/s"
    save(comparison(original, restored, frames, 16000, tokenizer.frame_rate, title), out / f"{name}.png")
    report = measure_stream(tokenizer, resample(audio, sample_rate, tokenizer.sample_rate), tokenizer.frame_length)
    size, seconds = (out / f"{name}.spt").stat().st_size, len(audio) / sample_rate
    latency = tokenizer.config.latency_samples
    scores = ({"pesq": pesq_wb(original, restored)} if has_pesq() else {}) | {"stoi": stoi(original, restored)}
    payload, disk = RATES.values()
    return {
        "bitrate": f"{tokenizer.bitrate:g} {payload.title}, {8 * size / seconds:.0f} {disk.title} ({size} bytes)",
        "quality": ", ".join(f"{METRICS[name].title} {METRICS[name].text(value)}" for name, value in scores.items()),
        "length": f"{len(audio)} samples in, {len(decoded)} out, at {sample_rate} Hz",
        "speed": f"{1 / report.rtf:.1f} x real time, encoding and decoding in 20 ms chunks on one core",
        "latency": f"{1000 * latency / tokenizer.sample_rate:g} ms ({latency} samples)",
        "streaming": f"{report.different_codes} of {len(codes)} codes differ from offline",
    }


def main() -> None:
    """Run every released model on the files in tests/data."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="(default: %(default)s)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    np.set_printoptions(linewidth=100)
    for model in pretrained.models():
        tokenizer = Tokenizer.from_pretrained(model)
        for source in sorted(SPEECH.glob("*.flac")):
            print(f"\n{model}: {source.name}")
            for what, value in demonstrate(tokenizer, source, args.out).items():
                print(f"  {what:<10} {value}")
        print(f"  codes      {tokenizer.encode(source)[:16]} ...")
    print(f"\nThe results are in {args.out}/: the originals, and for each model *.wav and *.png.")


if __name__ == "__main__":
    main()
