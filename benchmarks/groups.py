"""Measure what a group of streams saves over a session for each stream.

    python benchmarks/groups.py

Sixteen streams push chunks of 20 ms of different speech, once as sessions one after the other and once as a group, in
turn for each chunk, on one core. Streams leave the group and others join it while it runs. Counted are also the codes
in which the two differ. Writes `groups.json` beside this file; recipes/cards.py makes the table.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from spectok import Tokenizer, pretrained
from spectok.audio import read_audio
from spectok.evaluation.provenance import weights_of, write_results

SPEECH = Path(__file__).parent.parent / "tests" / "data" / "librispeech_84_16k.flac"
WARM_UP = 20  # chunks before the first that is measured
STAY = 25  # chunks after which the oldest stream leaves and another joins
HOW = ("in_turn", "in_group")
Result = TypeVar("Result")


def timed(function: Callable[..., Result], *arguments: Any) -> tuple[Result, float]:
    """The result of a function, and the seconds that it took."""
    began = time.perf_counter()
    result = function(*arguments)
    return result, time.perf_counter() - began


def push_each(sessions: Iterable[Any], chunks: Iterable[NDArray[Any]]) -> list[NDArray[Any]]:
    """Push a chunk to each session, one after the other."""
    return [session.push(chunk) for session, chunk in zip(sessions, chunks, strict=True)]


def compare(name: str, engine: str, streams: int, chunks: int) -> dict[str, Any]:
    """Run streams in turn and in groups.

    Returns:
        The median seconds of a chunk of all streams together, "in_turn" and "in_group", for each of "encoder" and
        "decoder"; and the number of "codes" and of those that are "different".
    """
    tokenizer = Tokenizer.from_pretrained(name, engine=engine, threads=1)
    speech, _ = read_audio(SPEECH, tokenizer.sample_rate)
    size = tokenizer.frame_length
    encoders = [tokenizer.stream_encoder() for _ in range(streams)]
    decoders = [tokenizer.stream_decoder() for _ in range(streams)]
    encoding, decoding = tokenizer.encoder_group(), tokenizer.decoder_group()
    keys = [(encoding.join(), decoding.join()) for _ in range(streams)]
    seconds: dict[str, list[float]] = {f"{side}_{how}": [] for side in ("encoder", "decoder") for how in HOW}
    codes = different = 0
    for number in range(WARM_UP + chunks):
        if number % STAY == STAY - 1:  # the oldest stream leaves, and another joins in its place
            place = number // STAY % streams
            encoders[place].reset()
            decoders[place].flush()
            encoding.leave(keys[place][0])
            decoding.leave(keys[place][1])
            keys[place] = encoding.join(), decoding.join()
        starts = [(number * size + place * len(speech) // streams) % (len(speech) - size) for place in range(streams)]
        audio = [speech[start : start + size] for start in starts]
        apart, encoder_apart = timed(push_each, encoders, audio)
        grouped, encoder_grouped = timed(encoding.push, {key: a for (key, _), a in zip(keys, audio, strict=True)})
        _, decoder_apart = timed(push_each, decoders, apart)
        _, decoder_grouped = timed(decoding.push, {key: c for (_, key), c in zip(keys, apart, strict=True)})
        pairs = list(zip(apart, grouped.values(), strict=True))
        codes += sum(len(one) for one, _ in pairs)
        different += sum(int(np.count_nonzero(one != other)) for one, other in pairs)
        if number >= WARM_UP:
            times = (encoder_apart, encoder_grouped, decoder_apart, decoder_grouped)
            for kept, value in zip(seconds.values(), times, strict=True):
                kept.append(value)
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    return {"model": name, "engine": engine, **medians, "codes": codes, "different": different}


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments, measure, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=16, help="how many (default: %(default)s)")
    parser.add_argument("--chunks", type=int, default=500, help="of 20 ms for each stream (default: %(default)s)")
    args = parser.parse_args(arguments)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rows = []
    for name in pretrained.models():
        for engine in ("onnx", "torch"):
            rows.append(compare(name, engine, args.streams, args.chunks))
            print(rows[-1], flush=True)
    found = {"streams": args.streams, "chunks": args.chunks, "rows": rows}
    write_results(Path(__file__).parent / "groups.json", found, weights_of(pretrained.models()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
