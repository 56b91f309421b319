"""The streaming loop under a clock: how long each chunk takes, and whether the stream equals the offline codec."""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spectok.tokenizer import Tokenizer


@dataclass(frozen=True)
class StreamReport:
    """What came out of a stream, how fast, and how it differs from encoding and decoding the whole at once."""

    codes: NDArray[np.int64]  # [N]
    audio: NDArray[np.float32]  # [T], as long as the input
    chunk_seconds: NDArray[np.float64]  # [chunks], compute time of encoding and decoding each
    flush_seconds: float  # compute time of the end: the last, partial frames, which no chunk waits for
    audio_seconds: float
    different_codes: int  # from offline
    audio_difference: float  # largest absolute one, from decoding the stream's own codes offline

    @property
    def rtf(self) -> float:
        """Compute seconds per second of audio, encoder and decoder together, from the first chunk to the end."""
        return (float(self.chunk_seconds.sum()) + self.flush_seconds) / self.audio_seconds

    def percentile_ms(self, percent: float) -> float:
        """Milliseconds that this share of the chunks stays under."""
        return 1000 * float(np.percentile(self.chunk_seconds, percent))


def stream(tokenizer: Tokenizer, audio: NDArray[np.float32], chunk_length: int) -> StreamReport:
    """Run audio `[T]` at the tokenizer's rate through both sessions, `chunk_length` samples at a time."""
    encoder, decoder = tokenizer.stream_encoder(), tokenizer.stream_decoder()
    # The first pass through the network allocates and plans; a warm-up on a second of silence keeps it out of the
    # figures.
    tokenizer.decode(tokenizer.encode(np.zeros(tokenizer.sample_rate, np.float32)))
    codes, pieces, seconds = [], [], []
    for start in range(0, len(audio), chunk_length):
        began = time.perf_counter()
        chunk = encoder.push(audio[start : start + chunk_length])
        pieces.append(decoder.push(chunk))
        seconds.append(time.perf_counter() - began)
        codes.append(chunk)
    began = time.perf_counter()
    codes.append(encoder.flush())
    pieces.append(decoder.push(codes[-1]))
    decoder.flush()
    flush_seconds = time.perf_counter() - began
    streamed, heard = np.concatenate(codes), np.concatenate(pieces)[: len(audio)]
    offline = tokenizer.encode(audio)
    return StreamReport(
        codes=streamed,
        audio=heard,
        chunk_seconds=np.array(seconds),
        flush_seconds=flush_seconds,
        audio_seconds=len(audio) / tokenizer.sample_rate,
        different_codes=int((streamed != offline).sum()),
        audio_difference=float(np.abs(heard - tokenizer.decode(streamed, len(audio))).max()),
    )
