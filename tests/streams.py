"""Signals and streams for the tests of several modules."""

import io
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import soundfile
from numpy.typing import NDArray

from spectok.sessions import StreamDecoder, StreamEncoder

Scalar = TypeVar("Scalar", bound=np.generic)


def sine(length: int, rate: int, frequency: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(length) / rate)).astype(np.float32)


def noise(length: int, seed: int = 0) -> NDArray[np.float32]:
    """Noise whose level rises and falls, float32 `[length]`."""
    white = np.random.default_rng(seed).standard_normal(length)
    return (0.3 * white * np.sin(np.arange(length) / 97)).astype(np.float32)


def cut(array: NDArray[Scalar], sizes: Sequence[int]) -> list[NDArray[Scalar]]:
    """Split an array into chunks of the given sizes, repeated until its end; sizes may be 0."""
    chunks, position, turn = [], 0, 0
    while position < len(array):
        size = sizes[turn % len(sizes)] if any(sizes) else 1
        chunks.append(array[position : position + size])
        position, turn = position + size, turn + 1
    return chunks


def through(session: StreamEncoder | StreamDecoder, chunks: Iterable[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate([*map(session.push, chunks), session.flush()])


def wav_bytes(samples: np.ndarray, rate: int = 16000, **options: Any) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", **options)
    return buffer.getvalue()


class Pipe(io.RawIOBase):
    """A stream that cannot seek. Reading returns `content`, and `written` collects what is written."""

    def __init__(self, content: bytes = b"") -> None:
        self.inner = io.BytesIO(content)
        self.written = bytearray()

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self.inner.readinto(buffer)

    def write(self, data: Any) -> int:
        self.written += data
        return len(data)
