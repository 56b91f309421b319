"""Tracks the pitch of speech, for training and for evaluation, with SwiftF0 (L. Nieradzik, arXiv 2508.18440)."""

import functools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

LOWEST, HIGHEST = 55.0, 520.0  # Hz
VOICED = 0.5  # smallest confidence of the tracker in a voiced frame
PITCH_RATE = 100  # Hz, rate of the returned pitch values
LEAST_VOICED = 20  # hops; with fewer voiced ones in the original, the pitch error is undefined
WORST_CENTS = 1200.0


@functools.cache
def _tracker() -> Any:
    from swift_f0 import SwiftF0

    return SwiftF0(threads=1)


def track_pitch(audio: NDArray[np.float32], sample_rate: int) -> NDArray[np.float32]:
    """The pitch of `audio` `[T]` in the middle of every hundredth of a second, float32 `[ceil(T / sample_rate * 100)]`.

    In Hz, from 55 to 520; 0 in unvoiced hops. Between two voiced frames of the tracker, which are 16 ms apart, the
    logarithm of the pitch is interpolated linearly.
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


def compare_pitch(original: NDArray[np.float32], decoded: NDArray[np.float32]) -> dict[str, float]:
    """Compare the pitch of decoded speech with that of its original, both as returned by `track_pitch`.

    Returns:
        "pitch_cents", the mean absolute difference over hops in which both are voiced, each limited to an octave (1,200
        cents); it is 1,200 if there are no such hops, and NaN if less than 0.2 s of the original is voiced. And
        "voicing_error", the share of all hops that are voiced in only one of the two.
    """
    voiced, kept = original > 0, decoded > 0
    both = voiced & kept
    error = float((voiced != kept).mean()) if len(original) else math.nan
    if voiced.sum() < LEAST_VOICED:
        return {"pitch_cents": math.nan, "voicing_error": error}
    cents = np.abs(1200 * np.log2(decoded[both] / original[both])).clip(max=WORST_CENTS)
    return {"pitch_cents": float(cents.mean()) if both.any() else WORST_CENTS, "voicing_error": error}
