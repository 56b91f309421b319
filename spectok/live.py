"""Microphone to codes to speaker: the frame-by-frame loop between two devices that keep their own time.

    loop = Loop(tokenizer, chunk_length=320)
    speaker.play(loop(chunk))       # as long as the chunk, loop.delay samples behind it

`live` runs it in the callback of an audio stream; sounddevice's, or anything that opens as that does.
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
FLOOR_DB = -99.0  # what silence is called


@dataclass(frozen=True)
class Reading:
    """What a level meter shows of the last moments."""

    input_db: float  # rms of the last chunk, dB of full scale
    output_db: float
    delay: float  # seconds from microphone to speaker: the loop's own and what the devices say of theirs
    chunk_ms: float  # longest compute time of a chunk since the last reading
    overruns: int  # chunks whose audio the devices lost, since the start


class Loop:
    """Audio in, as much audio out, through the codes: `codes` holds those of the last chunk.

    As much silence as it takes for no later chunk to wait comes out first: `delay` samples.

    Args:
        tokenizer: the codec; its sample rate is that of the audio.
        chunk_length: of every chunk but the last, which may be shorter.
    """

    def __init__(self, tokenizer: Tokenizer, chunk_length: int) -> None:
        self._encoder, self._decoder = tokenizer.stream_encoder(), tokenizer.stream_decoder()
        frame = tokenizer.frame_length
        # Of the samples pushed, those of an unfinished frame wait, at most a frame less the step in which they grow.
        self.delay = frame - math.gcd(frame, chunk_length) + tokenizer.config.synthesis_delay
        self._ready = np.zeros(self.delay, np.float32)  # decoded, not yet played
        self.codes = np.zeros(0, np.int64)

    def __call__(self, chunk: NDArray[np.float32]) -> NDArray[np.float32]:
        """Push a chunk `[T]` and return as many samples."""
        self.codes = self._encoder.push(chunk)
        ready = np.concatenate([self._ready, self._decoder.push(self.codes)])
        self._ready = ready[len(chunk) :]
        return ready[: len(chunk)]


def live(
    tokenizer: Tokenizer,
    open_stream: Callable[..., AbstractContextManager[Any]],
    show: Callable[[Reading], None],
    seconds: float | None = None,
) -> int:
    """Run the loop between microphone and speaker until the stream ends, the time is up, or Ctrl-C.

    Args:
        tokenizer: the codec.
        open_stream: `sounddevice.Stream` or its like: called with samplerate, blocksize, channels, dtype and callback.
        show: told the levels ten times a second.
        seconds: how long; by default for ever.

    Returns:
        How many codes have passed.
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
    """The rms of audio in dB of full scale, not below `FLOOR_DB`."""
    power = float(np.mean(np.square(audio, dtype=np.float64)))
    return max(FLOOR_DB, 10 * float(np.log10(power))) if power else FLOOR_DB
