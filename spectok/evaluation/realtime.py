"""Measures a stream: the time that each chunk takes, and whether codes and audio equal those of the offline codec."""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spectok.tokenizer import Tokenizer


@dataclass(frozen=True)
class StreamReport:
    """Output and speed of a stream, and its difference from encoding and decoding everything at once."""

    codes: NDArray[np.int64]  # [N]
    audio: NDArray[np.float32]  # [T], as long as the input
    chunk_seconds: NDArray[np.float64]  # [chunks], compute time of encoding and decoding each
    flush_seconds: float  # compute time of the last, partial frames, after the last chunk
    audio_seconds: float
    different_codes: int  # number of codes that differ from offline encoding
    audio_difference: float  # largest absolute difference from decoding the stream's codes offline

    @property
    def rtf(self) -> float:
        """Compute seconds per second of audio, encoder and decoder together, from the first chunk to the end."""
        return (float(self.chunk_seconds.sum()) + self.flush_seconds) / self.audio_seconds

    def percentile_ms(self, percent: float) -> float:
        """A percentile of the chunks' compute times, in milliseconds."""
        return 1000 * float(np.percentile(self.chunk_seconds, percent))


def measure_stream(tokenizer: Tokenizer, audio: NDArray[np.float32], chunk_length: int) -> StreamReport:
    """Encode and decode audio `[T]` at the tokenizer's rate as a stream, in chunks of `chunk_length` samples."""
    encoder, decoder = tokenizer.stream_encoder(), tokenizer.stream_decoder()
    # The first pass through the network allocates and plans; a warm-up on 1 s of silence keeps this out of the times.
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
    streamed, decoded = np.concatenate(codes), np.concatenate(pieces)[: len(audio)]
    offline = tokenizer.encode(audio)
    return StreamReport(
        codes=streamed,
        audio=decoded,
        chunk_seconds=np.array(seconds),
        flush_seconds=flush_seconds,
        audio_seconds=len(audio) / tokenizer.sample_rate,
        different_codes=int((streamed != offline).sum()),
        audio_difference=float(np.abs(decoded - tokenizer.decode(streamed, len(audio))).max()),
    )
