"""Encodes audio from a microphone and plays the decoded audio on a speaker.

    loop = Loop(tokenizer, chunk_length=320)
    speaker.play(loop(chunk))       # as many samples as the chunk has, delayed by loop.delay samples

`run_live` calls a `Loop` in the callback of an audio stream, of sounddevice or of a library with the same interface.
"""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectok.tokenizer import Tokenizer

SHOWN_PER_SECOND = 10
FLOOR_DB = -99.0  # the level reported for silence


@dataclass(frozen=True)
class Reading:
    """One update of the level meter."""

    input_db: float  # rms of the last input chunk, dB of full scale
    output_db: float  # rms of the last output chunk, dB of full scale
    delay: float  # seconds from microphone to speaker: of the loop, and of the devices as they report it
    chunk_ms: float  # longest compute time of a chunk since the last reading
    overruns: int  # number of chunks since the start whose audio the devices lost


class Loop:
    """Encodes and decodes a stream, and returns as many samples as it gets.

    The output begins with `delay` samples of silence. With fewer, a later chunk would not be decoded in time. `codes`
    holds the codes of the last chunk.

    Args:
        tokenizer: the codec; its sample rate is that of the audio.
        chunk_length: samples in each chunk; the last one may be shorter.
    """

    def __init__(self, tokenizer: Tokenizer, chunk_length: int) -> None:
        self._encoder, self._decoder = tokenizer.stream_encoder(), tokenizer.stream_decoder()
        frame = tokenizer.frame_length
        # The encoder holds back an unfinished frame. Its length is a multiple of the gcd and less than a frame.
        self.delay = frame - math.gcd(frame, chunk_length) + tokenizer.config.synthesis_delay
        self._ready = np.zeros(self.delay, np.float32)  # decoded, not yet played
        self.codes = np.zeros(0, np.int64)

    def __call__(self, chunk: NDArray[np.float32]) -> NDArray[np.float32]:
        """Push a chunk `[T]` and return as many samples."""
        self.codes = self._encoder.push(chunk)
        ready = np.concatenate([self._ready, self._decoder.push(self.codes)])
        self._ready = ready[len(chunk) :]
        return ready[: len(chunk)]


def run_live(
    tokenizer: Tokenizer,
    open_stream: Callable[..., AbstractContextManager[Any]],
    show: Callable[[Reading], None],
    seconds: float | None = None,
) -> int:
    """Run the loop between microphone and speaker until the stream ends, the time is up, or Ctrl-C.

    Args:
        tokenizer: the codec.
        open_stream: `sounddevice.Stream` or a function with its keyword arguments samplerate, blocksize, channels,
            dtype and callback.
        show: called with a new reading ten times a second.
        seconds: when to stop; by default never.

    Returns:
        The number of codes of the whole stream.
    """
    rate, block = tokenizer.sample_rate, tokenizer.frame_length
    loop = Loop(tokenizer, block)
    last = {"input": np.zeros(1, np.float32), "output": np.zeros(1, np.float32)}
    counts = {"codes": 0, "overruns": 0, "slowest": 0.0}

    def callback(heard: NDArray[np.float32], played: NDArray[np.float32], frames: int, clock: Any, status: Any) -> None:
        began = time.perf_counter()
        last["input"] = heard[:, 0].copy()
        last["output"] = played[:, 0] = loop(last["input"])
        counts["codes"] += len(loop.codes)
        counts["overruns"] += bool(status)
        counts["slowest"] = max(counts["slowest"], time.perf_counter() - began)

    with open_stream(samplerate=rate, blocksize=block, channels=1, dtype="float32", callback=callback) as stream:
        ends = time.monotonic() + (float("inf") if seconds is None else seconds)
        try:
            while stream.active and time.monotonic() < ends:
                time.sleep(1 / SHOWN_PER_SECOND)
                slowest, counts["slowest"] = counts["slowest"], 0.0
                show(
                    Reading(
                        input_db=decibels(last["input"]),
                        output_db=decibels(last["output"]),
                        delay=(loop.delay + block) / rate + sum(stream.latency),
                        chunk_ms=1000 * slowest,
                        overruns=int(counts["overruns"]),
                    )
                )
        except KeyboardInterrupt:
            pass
    return int(counts["codes"])


def decibels(audio: NDArray[np.float32]) -> float:
    """The rms of audio in dB of full scale, at least `FLOOR_DB`."""
    power = float(np.mean(np.square(audio, dtype=np.float64)))
    return max(FLOOR_DB, 10 * float(np.log10(power))) if power else FLOOR_DB
