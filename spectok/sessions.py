"""Streaming: sessions that accept chunks of any size and hold the state of one stream.

    encoder = StreamEncoder(engine)
    for audio in microphone:
        send(encoder.push(audio))
    send(encoder.flush())

The joined outputs of `push` and `flush` do not depend on how the stream is split into chunks, up to rounding of the
arithmetic (README.md, Limits). Offline encoding is one session with one push. Sessions share only the engine's weights.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectok.audio import StreamResampler, check_audio, resampling_delay
from spectok.engine import Engine
from spectok.errors import InputError
from spectok.files import check_sample_rate
from spectok.schema import require

Step = Callable[[NDArray[Any], Any], tuple[NDArray[Any], Any]]  # an engine's encode_step or decode_step
BLOCK_SECONDS = 2  # long pushes are split into blocks of this length, which fit into the processor's caches


class _Session:
    """Base class of both directions: the state of a stream, and the input of its incomplete frame."""

    def __init__(self, engine: Engine, batch: int | None = None, sample_rate: int | None = None) -> None:
        self._engine, self._batch = engine, batch
        self.config = engine.config
        self.sample_rate = check_sample_rate(sample_rate or self.config.sample_rate, "the stream")
        self._frame_length, self._tokens = engine.config.frame_length, engine.config.quantizer.tokens_per_frame
        self._nothing = np.zeros((batch or 1, 0))
        self._block = max(1, round(BLOCK_SECONDS * engine.config.frame_rate))  # frames
        self.reset()

    @property
    def latency_samples(self) -> int:
        """Algorithmic latency of encoder and decoder together, in samples at this session's sample rate.

        If that is not the codec's rate, it is an upper bound that includes the resampling in both directions, which
        works in blocks of 30 ms and more.
        """
        outside, inside = self.sample_rate, self.config.sample_rate
        if outside == inside:
            return self.config.latency_samples
        seconds = resampling_delay(outside, inside) + resampling_delay(inside, outside)
        return math.ceil(outside * (seconds + self.config.latency_samples / inside))

    def reset(self) -> None:
        """Start a new stream."""
        self._state: Any = None
        self._waiting: NDArray[Any] = self._nothing
        self._resampler: StreamResampler | None = None

    def _rows(self, chunk: Any, what: str, axis: str) -> NDArray[Any]:
        """A chunk as rows `[B, *]`."""
        rows = np.asarray(chunk)
        if not self._batch and rows.ndim == 1:
            return rows[None]
        if not self._batch or rows.ndim != 2 or len(rows) != self._batch:
            expected = f"[{self._batch}, {axis}]" if self._batch else f"[{axis}]"
            raise InputError(f"{what} must have the shape {expected}, not {list(rows.shape)}")
        return rows

    def _run(self, step: Step, rows: NDArray[Any], frame: int, dtype: type) -> NDArray[Any]:
        """Run `step` on all complete frames of `frame` values, and keep the remaining input for the next call."""
        if self._waiting.shape[1]:
            rows = np.concatenate([self._waiting, rows], axis=1)
        length, block = rows.shape[1], self._block * frame
        whole = length // frame * frame
        if 0 < whole == length <= block:  # the quick path for the chunks of a live stream
            output, self._state = step(rows, self._state)
            self._waiting = self._nothing
            return output
        outputs: list[NDArray[Any]] = [np.zeros((len(rows), 0), dtype)]
        for start in range(0, whole, block):
            output, self._state = step(rows[:, start : min(start + block, whole)], self._state)
            outputs.append(output)
        self._waiting = rows[:, whole:].copy()
        return np.concatenate(outputs, axis=1)


class StreamEncoder(_Session):
    """Encodes audio that arrives in chunks of any size, and returns codes as soon as a frame is complete.

    Args:
        engine: runs the codec.
        batch: None for one stream, with chunks `[T]`; or the number of parallel streams, with chunks `[B, T]`.
        sample_rate: of the audio, in Hz; by default the codec's own. Audio of another rate is resampled (soxr) as by
            `Tokenizer.encode`.
    """

    def reset(self) -> None:
        """Start a new stream."""
        super().reset()
        self._state = self._engine.init_state(self._batch or 1).encoder
        self._num_inside = 0  # samples at the codec's rate since the start of the stream
        if self.sample_rate != self.config.sample_rate:
            self._resampler = StreamResampler(self.sample_rate, self.config.sample_rate, self._batch or 1)

    def push(self, audio: NDArray[Any] | bytes | bytearray | memoryview) -> NDArray[np.int64]:
        """Add audio, and return the codes of all frames that are now complete.

        Args:
            audio: `[T]` (or `[B, T]` with a batch) at the session's sample rate, floats in [-1, 1] or int16; T may be
                0. One stream also accepts `[T, 1]`, `[1, T]`, and the bytes of little-endian int16 samples.

        Returns:
            Codes `[N]` (or `[B, N]`), N a multiple of tokens_per_frame, often 0.

        Raises:
            InputError: the shape or type is wrong, or a sample is not finite.
        """
        chunk = audio if self._batch else _one_channel(audio)
        rows = check_audio(self._rows(chunk, "audio", "T"), dims=(2,), allow_empty=True)
        codes = self._encode(rows if self._resampler is None else self._resampler.push(rows))
        return codes if self._batch else codes[0]

    def flush(self) -> NDArray[np.int64]:
        """End the stream: return the last frames, padded with zeros so that every sample is encoded, and reset."""
        rows = self._nothing.astype(np.float32) if self._resampler is None else self._resampler.flush()
        samples = self._num_inside + rows.shape[1]
        missing = self.config.num_frames(samples) * self.config.frame_length - samples
        codes = self._encode(np.pad(rows, [(0, 0), (0, missing)]))
        self.reset()
        return codes if self._batch else codes[0]

    def _encode(self, rows: NDArray[np.float32]) -> NDArray[np.int64]:
        self._num_inside += rows.shape[1]
        return self._run(self._engine.encode_step, rows, self._frame_length, np.int64)


def _one_channel(audio: Any) -> NDArray[Any]:
    """A chunk as `[T]`, from `[T, 1]` of a sound device, `[1, T]` of a library, or bytes of a pipe."""
    if isinstance(audio, (bytes, bytearray, memoryview)):
        size = memoryview(audio).nbytes
        require(size % 2 == 0, f"audio as bytes must be whole int16 samples, not {size} bytes")
        return np.frombuffer(audio, "<i2")
    chunk = np.asarray(audio)
    return chunk.reshape(-1) if chunk.ndim == 2 and 1 in chunk.shape else chunk


class StreamDecoder(_Session):
    """Decodes codes that arrive in chunks of any size, and returns audio as soon as a frame is complete.

    The decoder's first `synthesis_delay` samples, which precede the stream, are dropped, so that sample n of the output
    is sample n of the encoder's input.

    Args:
        engine: runs the codec.
        batch: None for one stream, with chunks `[N]`; or the number of parallel streams, with chunks `[B, N]`.
        sample_rate: of the audio, in Hz; by default the codec's own. For another rate the audio is resampled (soxr) as
            by `Tokenizer.decode`.
    """

    def reset(self) -> None:
        """Start a new stream."""
        super().reset()
        self._state = self._engine.init_state(self._batch or 1).decoder
        self._to_drop = self.config.synthesis_delay
        if self.sample_rate != self.config.sample_rate:
            self._resampler = StreamResampler(self.config.sample_rate, self.sample_rate, self._batch or 1)

    def push(self, codes: NDArray[np.int64]) -> NDArray[np.float32]:
        """Add codes, and return the audio of all frames that are now complete.

        Args:
            codes: integers `[N]` (or `[B, N]` with a batch); N may be 0. Or whole frames `[F, K]` (or `[B, F, K]`), K
                the tokens per frame.

        Returns:
            Audio `[T]` (or `[B, T]`) at the session's sample rate.

        Raises:
            InputError: the shape is wrong, or a code is not in the codebook.
        """
        codes = np.asarray(codes)
        if codes.ndim == (3 if self._batch else 2) and codes.shape[-1] == self._tokens:  # whole frames
            codes = codes.reshape(*codes.shape[:-2], -1)
        rows = self._rows(codes, "codes", "N")
        if rows.size and rows.dtype.kind not in "iu":
            raise InputError(f"codes must be integers, not {rows.dtype}")
        given, size = rows, self.config.quantizer.codebook_size
        rows = given.astype(np.int64, copy=False)
        if rows.size and rows.view(np.uint64).max() >= size:  # as unsigned numbers, negative codes are too large
            row, place = np.argwhere(rows.view(np.uint64) >= size)[0]
            raise InputError(f"codes must be from 0 to {size - 1}, but code {place} is {given[row, place]}")
        audio = self._run(self._engine.decode_step, rows, self._tokens, np.float32)
        dropped = min(self._to_drop, audio.shape[1])
        self._to_drop -= dropped
        audio = audio[:, dropped:] if self._resampler is None else self._resampler.push(audio[:, dropped:])
        return audio if self._batch else audio[0]

    def flush(self) -> NDArray[np.float32]:
        """End the stream: return the audio that the resampler still holds (none at the codec's own rate), and reset.

        Raises:
            InputError: the codes ended within a frame.
        """
        left, tokens = self._waiting.shape[1], self.config.quantizer.tokens_per_frame
        audio = self._nothing.astype(np.float32) if self._resampler is None else self._resampler.flush()
        self.reset()
        require(left == 0, f"the codes end within a frame: {left} are left over, a frame has {tokens}")
        return audio if self._batch else audio[0]
