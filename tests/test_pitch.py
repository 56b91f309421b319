"""Tests of the pitch tracker, and of the comparison of two tracks."""

import math

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from spectok.evaluation.pitch import WORST_CENTS, compare_pitch, track_pitch

RATE = 16000


def voice(hertz: ArrayLike, seconds: float = 1.0, rate: int = RATE) -> NDArray[np.float32]:
    """A harmonic tone `[T]`; its pitch is one number, or a number for each sample."""
    phase = 2 * np.pi * np.cumsum(np.broadcast_to(hertz, round(seconds * rate)) / rate)
    return np.asarray(0.05 * sum(np.sin(k * phase) / k for k in range(1, 9)), np.float32)


@pytest.mark.parametrize("rate", [16000, 24000])
def test_the_pitch_of_a_tone_is_its_frequency(rate: int) -> None:
    pitch = track_pitch(voice(210.0, rate=rate), rate)
    assert pitch.dtype == np.float32 and pitch.shape == (100,)
    assert pitch[5:95] == pytest.approx(np.full(90, 210.0), rel=0.005)


def test_the_pitch_is_that_of_the_middle_of_a_hop() -> None:
    """The pitch rises by an octave per second: a delay of one hop would make it 12 cents too low."""
    times = np.arange(RATE) / RATE
    pitch = track_pitch(voice(120 * 2**times), RATE)
    cents = 1200 * np.log2(pitch[10:90] / (120 * 2 ** ((np.arange(10, 90) + 0.5) / 100)))
    assert abs(np.median(cents)) < 6


def test_silence_and_noise_have_no_pitch() -> None:
    noise = 0.05 * np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    assert not track_pitch(np.zeros(RATE, np.float32), RATE).any()
    assert (track_pitch(noise, RATE) > 0).mean() < 0.1
    assert track_pitch(np.zeros(0, np.float32), RATE).shape == (0,)
    assert track_pitch(np.zeros(161, np.float32), RATE).shape == (2,)


def test_a_comparison_by_hand() -> None:
    original = np.array([100.0] * 30 + [0.0] * 10, np.float32)
    decoded = np.array([100.0 * 2 ** (1 / 12)] * 20 + [0.0] * 10 + [80.0] * 10, np.float32)
    found = compare_pitch(original, decoded)
    assert found["pitch_cents"] == pytest.approx(100.0, abs=1e-3)
    assert found["voicing_error"] == pytest.approx(0.5)  # 10 lost and 10 too many, of 40


def test_pitch_errors_need_voiced_hops_and_are_limited() -> None:
    voiced, silent = np.full(20, 100.0, np.float32), np.zeros(20, np.float32)
    assert compare_pitch(voiced, voiced) == {"pitch_cents": 0.0, "voicing_error": 0.0}
    assert compare_pitch(voiced, 8 * voiced)["pitch_cents"] == WORST_CENTS
    assert compare_pitch(voiced, silent) == {"pitch_cents": WORST_CENTS, "voicing_error": 1.0}
    assert math.isnan(compare_pitch(silent, voiced)["pitch_cents"])
    assert math.isnan(compare_pitch(voiced[:19], voiced[:19])["pitch_cents"])
    assert math.isnan(compare_pitch(silent[:0], silent[:0])["voicing_error"])
