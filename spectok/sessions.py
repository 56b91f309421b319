"""The frame-by-frame loop: mutable sessions that take chunks of any size and own one stream's state.

    encoder = StreamEncoder(engine)
    for audio in microphone:
        send(encoder.push(audio))
    send(encoder.flush())

What the pushes and the flush return, joined, is exactly what one push of everything returns: the engine's steps do
not care how a stream is cut. Offline encoding is one session and one push. Sessions share nothing but the engine's
weights.
"""

import numpy as np
from numpy.typing import NDArray

from spectok.audio import check_audio
from spectok.config import require
from spectok.engine import Engine

BLOCK_SECONDS = 20  # long pushes run in blocks of this length: constant memory, the same answer


class StreamEncoder:
    """Audio in chunks of any size, codes out as soon as a frame is complete.

    Args:
        engine: runs the codec.
        batch: None for one stream, whose chunks are `[T]`; or the number of streams in step, whose chunks are `[B, T]`.
    """

    def __init__(self, engine: Engine, batch: int | None = None) -> None:
        self._engine, self._batch = engine, batch
        self.config = engine.config
        self.reset()

    @property
    def latency_samples(self) -> int:
        """Algorithmic latency of encoder and decoder together, in samples at the codec's rate."""
        return self.config.latency_samples

    def reset(self) -> None:
        """Forget the stream."""
        self._state = self._engine.init_state(self._batch or 1).encoder
        self._waiting = np.zeros((self._batch or 1, 0), np.float32)
        self.num_samples = 0  # pushed since the start of the stream

    def push(self, audio: NDArray[np.float32]) -> NDArray[np.int64]:
        """Encode what is complete.

        Args:
            audio: `[T]` (or `[B, T]` with a batch) at the codec's sample rate, floats in [-1, 1] or int16, T from 0 up.

        Returns:
            Codes `[N]` (or `[B, N]`), N a multiple of tokens_per_frame, often 0.

        Raises:
            InputError: the shape or type is wrong, or a sample is not finite.
        """
        chunk = check_audio(_rows(audio, self._batch, "audio"), dims=(2,), allow_empty=True)
        self.num_samples += chunk.shape[1]
        self._waiting = np.concatenate([self._waiting, chunk], axis=1)
        return self._encode(self._waiting.shape[1] // self.config.frame_length)

    def flush(self) -> NDArray[np.int64]:
        """End the stream: return the last frames, padded with zeros so that every sample gets out, and reset."""
        total = self.config.num_frames(self.num_samples) * self.config.frame_length
        done = self.num_samples - self._waiting.shape[1]
        padding = total - self.num_samples
        self._waiting = np.pad(self._waiting, ((0, 0), (0, padding)))
        codes = self._encode((total - done) // self.config.frame_length)
        self.reset()
        return codes

    def _encode(self, frames: int) -> NDArray[np.int64]:
        length = self.config.frame_length
        codes = [np.zeros((self._batch or 1, 0), np.int64)]
        for start, stop in _blocks(frames, self.config.frame_rate):
            block, self._state = self._engine.encode_step(self._waiting[:, start * length : stop * length], self._state)
            codes.append(block)
        self._waiting = self._waiting[:, frames * length :].copy()
        joined = np.concatenate(codes, axis=1)
        return joined if self._batch else joined[0]


class StreamDecoder:
    """Codes in chunks of any size, audio out as soon as a frame is complete.

    The decoder's first `synthesis_delay` samples, which precede the stream, are dropped: sample n out is sample n in.

    Args:
        engine: runs the codec.
        batch: as in `StreamEncoder`.
    """

    def __init__(self, engine: Engine, batch: int | None = None) -> None:
        self._engine, self._batch = engine, batch
        self.config = engine.config
        self.reset()

    @property
    def latency_samples(self) -> int:
        """Algorithmic latency of encoder and decoder together, in samples at the codec's rate."""
        return self.config.latency_samples

    def reset(self) -> None:
        """Forget the stream."""
        self._state = self._engine.init_state(self._batch or 1).decoder
        self._waiting = np.zeros((self._batch or 1, 0), np.int64)
        self._to_drop = self.config.synthesis_delay

    def push(self, codes: NDArray[np.int64]) -> NDArray[np.float32]:
        """Decode what is complete.

        Args:
            codes: `[N]` (or `[B, N]` with a batch), N from 0 up.

        Returns:
            Audio `[T]` (or `[B, T]`) at the codec's sample rate.

        Raises:
            InputError: the shape is wrong, or a code is not in the codebook.
        """
        chunk = _rows(codes, self._batch, "codes")
        size = self.config.quantizer.codebook_size
        require(chunk.size == 0 or np.issubdtype(chunk.dtype, np.integer), f"codes must be integers, not {chunk.dtype}")
        require(chunk.size == 0 or bool(chunk.min() >= 0 and chunk.max() < size), f"codes must be from 0 to {size - 1}")
        self._waiting = np.concatenate([self._waiting, chunk.astype(np.int64)], axis=1)
        tokens = self.config.quantizer.tokens_per_frame
        frames = self._waiting.shape[1] // tokens
        pieces = [np.zeros((self._batch or 1, 0), np.float32)]
        for start, stop in _blocks(frames, self.config.frame_rate):
            block, self._state = self._engine.decode_step(self._waiting[:, start * tokens : stop * tokens], self._state)
            pieces.append(block)
        self._waiting = self._waiting[:, frames * tokens :].copy()
        audio = np.concatenate(pieces, axis=1)
        dropped = min(self._to_drop, audio.shape[1])
        self._to_drop -= dropped
        audio = audio[:, dropped:]
        return audio if self._batch else audio[0]

    def flush(self) -> NDArray[np.float32]:
        """End the stream and reset; returns an empty chunk, for the encoder's flush has brought all audio out.

        Raises:
            InputError: part of a frame was left over.
        """
        left, tokens = self._waiting.shape[1], self.config.quantizer.tokens_per_frame
        self.reset()
        require(left == 0, f"the codes end within a frame: {left} are left over, a frame has {tokens}")
        return self.push(np.zeros((self._batch, 0) if self._batch else 0, np.int64))


def _blocks(frames: int, frame_rate: float) -> list[tuple[int, int]]:
    block = max(1, round(BLOCK_SECONDS * frame_rate))
    return [(start, min(start + block, frames)) for start in range(0, frames, block)]


def _rows(chunk: NDArray, batch: int | None, what: str) -> NDArray:
    chunk = np.asarray(chunk)
    axis = "T" if what == "audio" else "N"
    shape = f"[{batch}, {axis}]" if batch else f"[{axis}]"
    require(
        chunk.ndim == 2 and chunk.shape[0] == batch if batch else chunk.ndim == 1,
        f"{what} must have the shape {shape}, not {list(chunk.shape)}",
    )
    return chunk if batch else chunk[None]
