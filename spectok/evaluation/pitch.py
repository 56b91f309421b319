"""The pitch of speech, by one tracker for training and for evaluation: SwiftF0 (L. Nieradzik, arXiv 2508.18440)."""

import functools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

LOWEST, HIGHEST = 55.0, 520.0  # Hz
VOICED = 0.5  # the tracker's confidence from which a frame counts as voiced
PITCH_RATE = 100  # Hz, of the pitches that are returned
LEAST_VOICED = 20  # hops, for the original to have a pitch
WORST_CENTS = 1200.0


@functools.cache
def _tracker() -> Any:
    from swift_f0 import SwiftF0

    return SwiftF0(threads=1)


def track_pitch(audio: NDArray[np.float32], sample_rate: int) -> NDArray[np.float32]:
    """The pitch of `audio` `[T]` in the middle of every hundredth of a second, float32 `[ceil(T / sample_rate * 100)]`.

    In Hz, from 55 to 520; 0 where nothing is voiced. The logarithm of the tracker's pitch runs linearly between its
    frames, 16 ms apart, where both are voiced.
    """
    hops = math.ceil(len(audio) * PITCH_RATE / sample_rate)
    if not len(audio):
        return np.zeros(hops, np.float32)
    found = _tracker().detect(audio, sample_rate, LOWEST, HIGHEST)
    voiced = found.confidence >= VOICED
    times = (np.arange(hops) + 0.5) / PITCH_RATE
    nearest = np.interp(times, found.timestamps, np.arange(len(voiced))).round().astype(int)
    octaves = np.log2(np.maximum(found.pitch_hz, 1.0))
    between = np.interp(times, found.timestamps, octaves)
    is_whole = np.interp(times, found.timestamps, voiced.astype(float)) == 1.0
    pitch = 2.0 ** np.where(is_whole, between, octaves[nearest])
    return np.where(voiced[nearest], pitch, 0.0).astype(np.float32)


def compare_pitch(real: NDArray[np.float32], fake: NDArray[np.float32]) -> dict[str, float]:
    """How far the pitch of coded speech is from that of its original, both as `track_pitch` gives them.

    Returns:
        "pitch_cents", the mean absolute difference where both are voiced, each at most an octave (1,200 cents), which
        it is too where nothing of the coded speech is voiced; and "voicing_error", the share of all hops that are
        voiced in one of the two alone. The former is NaN where less than a fifth of a second of the original is voiced.
    """
    voiced, kept = real > 0, fake > 0
    both = voiced & kept
    error = float((voiced != kept).mean()) if len(real) else math.nan
    if voiced.sum() < LEAST_VOICED:
        return {"pitch_cents": math.nan, "voicing_error": error}
    cents = np.abs(1200 * np.log2(fake[both] / real[both])).clip(max=WORST_CENTS)
    return {"pitch_cents": float(cents.mean()) if both.any() else WORST_CENTS, "voicing_error": error}
