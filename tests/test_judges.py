"""Tests of the judges with known results, on a recording, tones and silence."""

import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from spectok.audio import read_audio
from spectok.evaluation import judges
from spectok.evaluation.catalogue import JUDGED
from spectok.evaluation.warpq import warpq

SPEECH = Path(__file__).parent / "data" / "librispeech_84_16k.flac"
WORDS = "but in less than five minutes the staircase groaned beneath an extraordinary weight"
pytestmark = pytest.mark.filterwarnings("ignore")  # deprecations in other packages
HERE = [name for name in JUDGED if name not in judges.missing()]


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
    same, worse = judges.judge(speech, [speech, speech + 0.02 * noise], HERE)
    assert set(same) == set(worse) == set(HERE)
    assert same["dnsmos"] == pytest.approx(3.177, abs=0.01)
    assert same["distillmos"] == pytest.approx(4.369, abs=0.02)
    assert same["speaker"] == pytest.approx(1.0, abs=1e-5)
    assert (same["pitch_cents"], same["wer"], same.get("wer_moonshine", 0.0)) == (0.0, 0.0, 0.0)
    assert worse["dnsmos"] < same["dnsmos"] - 0.3
    assert worse["distillmos"] < same["distillmos"] - 0.3
    assert worse["speaker"] < 0.97
    assert 0.0 < worse["pitch_cents"] < 100.0


def test_judges_print_nothing(speech: NDArray[np.float32], capfd: pytest.CaptureFixture[str]) -> None:
    for name in HERE:
        for loaded in (judges._distillmos, judges._visqol, judges._speaker_encoder):
            loaded.cache_clear()
        judges.judge(speech[:16000], [speech[:16000] / 2], [name])
        assert capfd.readouterr() == ("", ""), name


@pytest.mark.skipif("wer_moonshine" not in HERE, reason="needs moonshine-voice")
def test_moonshine_understands_english_and_keeps_no_state(
    speech: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert judges.moonshine_transcript(speech) == WORDS
    judges.moonshine_transcript(np.zeros(16000, np.float32))
    judges.moonshine_transcript(speech[:20000])
    assert judges.moonshine_transcript(speech) == WORDS
    half = speech * (np.arange(len(speech)) < len(speech) // 2)
    (found,) = judges.judge(speech, [half], ["wer_moonshine"])
    assert 0.3 < found["wer_moonshine"] < 0.7
    german = judges.Words("wie es steht")
    german.language = "de"
    monkeypatch.setattr(judges, "transcript", lambda *_: german)
    (found,) = judges.judge(speech, [half], ["wer_moonshine"])
    assert math.isnan(found["wer_moonshine"])


def test_two_runs_give_the_same_results(speech: NDArray[np.float32]) -> None:
    noise = np.random.default_rng(0).standard_normal(32000).astype(np.float32)
    pair = speech[:32000], [speech[:32000] + 0.01 * noise]
    assert judges.judge(*pair, HERE) == judges.judge(*pair, HERE)


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


def test_only_the_wanted_metrics_are_computed(speech: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch) -> None:
    for other in ("dnsmos_overall", "distillmos_of", "embedding", "transcript", "visqol"):
        monkeypatch.setattr(judges, other, None)
    (found,) = judges.judge(speech, [speech], ["warpq", "pitch_cents"])
    assert list(found) == ["warpq", "pitch_cents"]


def test_a_missing_package_leaves_out_its_metrics_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(judges.PACKAGES) == list(JUDGED)
    lacking = {"visqol", "swift_f0"}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in lacking else name)
    assert judges.missing() == {"visqol": "visqol", "pitch_cents": "swift_f0", "voicing_error": "swift_f0"}


@pytest.mark.skipif("visqol" not in HERE, reason="the package visqol-python is missing")
def test_visqol_is_that_of_the_original_program(speech: NDArray[np.float32]) -> None:
    noisy = speech + 0.02 * np.random.default_rng(0).standard_normal(len(speech)).astype(np.float32)
    assert judges.visqol(speech, speech) == pytest.approx(4.66, abs=0.02)  # with the lattice; otherwise it is 5
    assert judges.visqol(speech, 0.5 * speech) == pytest.approx(4.60, abs=0.02)
    assert judges.visqol(speech, noisy) == pytest.approx(1.66, abs=0.02)
    silence = np.zeros_like(speech)
    assert math.isnan(judges.visqol(speech, silence)) and math.isnan(judges.visqol(silence, silence))
    assert math.isnan(judges.visqol(speech[:800], speech[:800]))


def test_warpq_has_the_scores_of_its_authors_package(speech: NDArray[np.float32]) -> None:
    """Those of warpq 1.5.2 with NumPy 1's `np.lib.pad`, which are rounded to .001."""
    noisy = speech + 0.02 * np.random.default_rng(0).standard_normal(len(speech)).astype(np.float32)
    late = np.pad(speech, (80, 0))[: len(speech)]
    assert warpq(speech, speech) == pytest.approx(0.655, abs=0.001)
    assert warpq(speech, 0.5 * speech) == pytest.approx(0.655, abs=0.001)
    assert warpq(speech, noisy) == pytest.approx(2.789, abs=0.001)
    assert warpq(speech, late) == pytest.approx(0.735, abs=0.001)
    assert math.isnan(warpq(speech, np.zeros_like(speech))) and math.isnan(warpq(speech[:3000], speech[:3000]))
