"""Compares models: the rtf of a stream, measured in turn on one thread, and the number of operators per chunk.

    python benchmarks/turns.py spectok-16k-4k OTHER_RELEASE/spectok-16k-4k

To find the cost of a change, measure the versions before and after it in turn in one run: the seconds of different runs
cannot be compared. Prints a Markdown table.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spectok import InputError, Tokenizer, pretrained
from spectok.audio import read_audio
from spectok.evaluation.tables import markdown_table

SPEECH = Path(__file__).parent.parent / "tests" / "data" / "librispeech_84_16k.flac"
SECONDS, ROUNDS = 20, 5


def stream(tokenizer: Tokenizer, audio: NDArray[np.float32]) -> tuple[float, float]:
    """The rtf of an encoder and of a decoder session, in chunks of one frame."""
    encoder, decoder = tokenizer.stream_encoder(), tokenizer.stream_decoder()
    size, seconds = tokenizer.config.frame_length, [0.0, 0.0]
    for start in range(0, len(audio) - size + 1, size):
        times = [time.perf_counter()]
        codes = encoder.push(audio[start : start + size])
        times.append(time.perf_counter())
        decoder.push(codes)
        times.append(time.perf_counter())
        seconds = [total + after - before for total, before, after in zip(seconds, times, times[1:], strict=False)]
    duration = len(audio) / tokenizer.sample_rate
    return seconds[0] / duration, seconds[1] / duration


def operators(name: str) -> tuple[int, int]:
    """The number of operators that ONNX Runtime runs per chunk in encoder and decoder, after constant folding."""
    import onnx
    import onnxruntime

    model, counts = pretrained.find(name), []
    for side in ("encoder", "decoder"):
        with tempfile.TemporaryDirectory() as folder:
            options = onnxruntime.SessionOptions()
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
            options.optimized_model_filepath = f"{folder}/folded.onnx"
            onnxruntime.InferenceSession(model.folder / f"{side}.onnx", options, providers=["CPUExecutionProvider"])
            counts.append(len(onnx.load(options.optimized_model_filepath).graph.node))
    return counts[0], counts[1]


def table(names: Sequence[str], seconds: int = SECONDS, rounds: int = ROUNDS) -> str:
    """The models' rtf, medians over the rounds, and their operators, as Markdown."""
    tokenizers = [Tokenizer.from_pretrained(name) for name in names]
    speech, sample_rate = read_audio(SPEECH)
    audio = np.resize(speech, seconds * sample_rate)
    found = [[stream(tokenizer, audio) for tokenizer in tokenizers] for _ in range(rounds)]
    medians = np.median(found, axis=0)  # [models, 2]
    rows = []
    for name, (encode, decode) in zip(names, medians, strict=True):
        ratio = (encode + decode) / medians[0].sum()
        before, after = operators(name)
        rows.append([name, f"{encode:.4f} + {decode:.4f}", f"{ratio:.2f}", f"{before} + {after}"])
    return markdown_table(["model", "rtf, encoder + decoder", "of the first", "operators of a chunk"], rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="released names, or folders")
    args = parser.parse_args(arguments)
    try:
        print(table(args.models))
    except InputError as error:
        print(f"turns: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
