"""Checks arrays of audio samples and their rates, converts them to float32, and splits streams of them into blocks."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectok.errors import InputError

MIN_SAMPLE_RATE = 1_000  # Hz
MAX_SAMPLE_RATE = 192_000  # Hz; the highest that audio interfaces commonly use
MAX_PEAK = 16.0  # +24 dB: above any recording, and below integers that were cast to float without scaling


def check_audio(
    audio: Any, what: str = "the audio", *, dims: tuple[int, ...] = (1,), allow_empty: bool = False
) -> np.ndarray:
    """Check audio and convert it to float32. Integers are scaled to [-1, 1], floats keep their values.

    Args:
        audio: an array, or anything that numpy converts to one, with a number of axes listed in `dims`; of floats,
            int8, int16, int32 or uint8.
        what: what to call the audio in a message, such as the file's name.
        dims: the allowed numbers of axes.
        allow_empty: accept an array without samples.

    Returns:
        Float32 of the same shape; the same array if nothing had to be converted.

    Raises:
        InputError: the type or the number of axes is wrong, there are no samples, a sample is NaN or infinite, or the
            peak is over 16.
    """
    if (
        isinstance(audio, np.ndarray)
        and audio.dtype == np.float32
        and audio.ndim in dims
        and audio.size > 0
        and np.vdot(audio, audio) <= MAX_PEAK**2  # bounds every sample, and is False for NaN
    ):
        return audio  # this quick check keeps the cost of a live stream's chunk low
    try:
        array = np.asarray(audio)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{what} is not an array of samples") from error
    if array.ndim not in dims:
        allowed = " or ".join(str(n) for n in dims)
        raise InputError(
            f"{what} has shape {list(array.shape)}; expected {allowed} {'axis' if allowed == '1' else 'axes'}"
        )
    if array.size == 0:
        if allow_empty:
            return array.astype(np.float32)
        raise InputError(f"{what} holds no samples")
    if array.dtype == np.uint8:  # in an 8-bit WAV silence is 128
        return (array.astype(np.float32) - 128) / 128
    if array.dtype in (np.int8, np.int16, np.int32):
        return (array / 2.0 ** (8 * array.dtype.itemsize - 1)).astype(np.float32)
    if array.dtype.kind != "f":
        raise InputError(f"{what} has samples of type {array.dtype}; expected floats in [-1, 1], int16 or int32")
    peak = float(np.abs(array).max())
    if not np.isfinite(peak):
        raise InputError(f"{what} has samples that are not finite (NaN or infinity)")
    if peak > MAX_PEAK:
        raise InputError(
            f"{what} has a peak of {peak:.6g}; floats must be in [-1, 1] (16-bit integers are divided by 32768)"
        )
    return array.astype(np.float32, copy=False)


def check_sample_rate(sample_rate: Any, what: str = "the audio") -> int:
    """The sample rate in Hz as an int.

    Raises:
        InputError: it is not a whole number from 1 kHz to 192 kHz.
    """
    if isinstance(sample_rate, str):
        raise InputError(f"{what} has a sample rate of {sample_rate!r}, a text; it must be a whole number of Hz")
    try:
        whole = int(sample_rate) if int(sample_rate) == sample_rate else -1
    except (TypeError, ValueError, OverflowError):
        whole = -1
    if not MIN_SAMPLE_RATE <= whole <= MAX_SAMPLE_RATE:
        raise InputError(
            f"{what} has a sample rate of {sample_rate} Hz; it must be {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE}"
        )
    return whole


def to_int16(audio: Any) -> NDArray[np.int16]:
    """Audio of any shape, floats in [-1, 1], as 16-bit samples; what is out of range is clipped."""
    array = np.asarray(audio)
    return np.clip(np.rint(array * np.float32(32768)), -32768, 32767).astype(np.int16)


def blocks(pieces: Iterable[NDArray[Any]], size: int) -> Iterator[NDArray[Any]]:
    """Join pieces `[n]` of any length and split them into blocks of `size` values; the last one may be shorter."""
    waiting: list[NDArray[Any]] = []
    length = 0
    for piece in pieces:
        waiting.append(piece)
        length += len(piece)
        if length >= size:
            joined = np.concatenate(waiting)
            whole = length // size * size
            yield from (joined[start : start + size] for start in range(0, whole, size))
            waiting, length = [joined[whole:]], length - whole
    if length:
        yield np.concatenate(waiting)
