"""Tests of the judges with known results, on a recording, tones and silence."""

import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from spectok.audio import read_audio
from spectok.evaluation import judges
from spectok.evaluation.catalogue import JUDGED

SPEECH = Path(__file__).parent / "data" / "librispeech_84_16k.flac"
WORDS = "but in less than five minutes the staircase groaned beneath an extraordinary weight"
pytestmark = pytest.mark.filterwarnings("ignore")  # deprecations in other packages


@pytest.fixture(scope="module")
def speech() -> NDArray[np.float32]:
    return read_audio(SPEECH, 16000)[0]


def tone(hertz: float) -> NDArray[np.float32]:
    """One second of a voice-like tone with all harmonics, each half as loud as the one below."""
    time = np.arange(16000) / 16000
    harmonics = [0.5**k * 0.2 * np.sin(2 * np.pi * k * hertz * time) for k in range(1, 9)]
    return np.asarray(sum(harmonics), np.float32)


def test_speech_is_judged_against_itself_and_against_noisier_speech(speech: NDArray[np.float32]) -> None:
    noise = np.random.default_rng(0).standard_normal(len(speech)).astype(np.float32)
    same, worse = judges.judge(speech, [speech, speech + 0.02 * noise])
    assert set(same) == set(worse) == set(JUDGED)
    assert same["dnsmos"] == pytest.approx(3.177, abs=0.01)
    assert same["distillmos"] == pytest.approx(4.369, abs=0.02)
    assert same["speaker"] == pytest.approx(1.0, abs=1e-5)
    assert (same["pitch_cents"], same["wer"]) == (0.0, 0.0)
    assert worse["dnsmos"] < same["dnsmos"] - 0.3
    assert worse["distillmos"] < same["distillmos"] - 0.3
    assert worse["speaker"] < 0.97
    assert 0.0 < worse["pitch_cents"] < 100.0


def test_two_runs_give_the_same_results(speech: NDArray[np.float32]) -> None:
    assert judges.judge(speech[:32000], [speech[:32000]]) == judges.judge(speech[:32000], [speech[:32000]])


def test_words_and_language_are_recognised(speech: NDArray[np.float32]) -> None:
    words = judges.transcript(speech)
    assert words.replace(" 5 ", " five ") == WORDS  # digit or word: this depends on rounding
    assert words.language == "en"


def test_wrong_words_are_counted() -> None:
    assert judges.word_error_rate("a b c d", "a x c") == pytest.approx(0.5)
    assert judges.word_error_rate("a b", "a b") == 0.0
    assert judges.word_error_rate("a b", "a a a a a a a") == 1.0  # of five too many and one wrong
    assert math.isnan(judges.word_error_rate("", "a"))


def test_silence_has_no_speaker_embedding() -> None:
    silence = np.zeros(16000, np.float32)
    assert not judges.embedding(silence).any()
