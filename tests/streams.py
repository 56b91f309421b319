"""Signals and streams for the tests of several modules."""

import io
from typing import Any

import numpy as np
import soundfile


def sine(length: int, rate: int, frequency: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(length) / rate)).astype(np.float32)


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
