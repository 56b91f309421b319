import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchaudio.functional import melscale_fbanks

from spectok.audio import read_audio
from spectok.evaluation.catalogue import SCORED
from spectok.evaluation.metrics import (
    Summary,
    codebook_use,
    interval,
    jackknife,
    level_db,
    mel_distance,
    overshoot_db,
    pesq_wb,
    score,
    si_sdr,
    stoi,
)

SPEECH = Path(__file__).parent / "data" / "librispeech_84_16k.flac"


@pytest.fixture(scope="module")
def speech() -> NDArray[np.float32]:
    return read_audio(SPEECH, 16000)[0]


@pytest.fixture(scope="module")
def noisy(speech: NDArray[np.float32]) -> NDArray[np.float32]:
    return speech + 0.02 * np.random.default_rng(0).standard_normal(len(speech)).astype(np.float32)


def test_identical_speech_gets_the_best_value_of_every_metric(speech: NDArray[np.float32]) -> None:
    scores = score(speech, speech)
    assert list(scores) == list(SCORED)
    assert scores["pesq"] == pytest.approx(4.643888, abs=1e-5)
    assert scores["stoi"] == pytest.approx(1.0, abs=1e-9)
    assert scores["estoi"] == pytest.approx(1.0, abs=1e-9)
    assert scores["si_sdr"] == 100.0
    assert scores["level_db"] == 0.0
    assert scores["overshoot_db"] == 0.0
    assert scores["mel_distance"] == 0.0


def test_score_has_every_metric_and_is_repeatable(speech: NDArray[np.float32], noisy: NDArray[np.float32]) -> None:
    state = np.random.get_state(legacy=False)["state"]["key"].copy()
    scores = score(speech, noisy)
    assert scores == score(speech, noisy)
    np.testing.assert_array_equal(np.random.get_state(legacy=False)["state"]["key"], state)
    assert scores == {
        "pesq": pesq_wb(speech, noisy),
        "stoi": stoi(speech, noisy),
        "estoi": stoi(speech, noisy, extended=True),
        "si_sdr": si_sdr(speech, noisy),
        "level_db": level_db(speech, noisy),
        "overshoot_db": overshoot_db(speech, noisy),
        "mel_distance": mel_distance(speech, noisy),
    }


def test_pesq_and_stoi_of_noisy_speech_are_unchanged(speech: NDArray[np.float32], noisy: NDArray[np.float32]) -> None:
    assert pesq_wb(speech, noisy) == pytest.approx(1.0985, abs=2e-3)
    assert stoi(speech, noisy) == pytest.approx(0.86049, abs=1e-4)
    assert stoi(speech, noisy, extended=True) == pytest.approx(0.70517, abs=1e-4)


def test_pesq_ignores_a_delay_and_stoi_does_not(speech: NDArray[np.float32]) -> None:
    late = np.concatenate([np.zeros(800, np.float32), speech[:-800]])
    assert pesq_wb(speech, late) > 4.3
    assert stoi(speech, late) < 0.6


def test_pesq_accepts_more_utterances_than_its_c_code_has_room_for(speech: NDArray[np.float32]) -> None:
    burst = np.concatenate([speech[16000:22400], np.zeros(6400, np.float32)])
    many = np.tile(burst, 54)  # 43 s: three pieces
    assert pesq_wb(many, many) == pytest.approx(4.643888, abs=1e-5)


@pytest.mark.parametrize("gain", [1.0, 0.01, -3.0])
def test_si_sdr_of_a_known_mixture_ignores_gain_and_offset(gain: float) -> None:
    phase = 2 * np.pi * 50 * np.arange(16000) / 16000
    original, noise = np.sin(phase), np.cos(phase)
    assert si_sdr(original, gain * (original + 0.1 * noise)) == pytest.approx(20.0, abs=1e-9)
    assert si_sdr(original + 0.3, gain * (original + 0.5 * noise) - 0.2) == pytest.approx(20 * math.log10(2), abs=1e-9)


def test_si_sdr_at_its_limits() -> None:
    original, other = np.array([1.0, -1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0, -1.0])
    assert si_sdr(original, original) == 100.0
    assert si_sdr(original, other) == -100.0
    assert si_sdr(original, 0 * original) == -100.0


@pytest.mark.parametrize("gain", [2.0, 0.5, -3.0])
def test_level_of_a_gain_is_the_gain_in_decibels(speech: NDArray[np.float32], gain: float) -> None:
    original = speech.astype(np.float64)  # so that -3 is exact to its last bits
    assert level_db(original, gain * original) == pytest.approx(20 * math.log10(abs(gain)), abs=1e-9)
    assert level_db(original, gain * original[::-1]) == pytest.approx(20 * math.log10(abs(gain)), abs=1e-9)
    assert level_db(np.array([1.0, 0.0]), np.array([0.0, 2.0])) == pytest.approx(6.0206, abs=1e-5)


def test_level_at_its_limits() -> None:
    original = np.array([0.5, -0.5])
    assert level_db(original, 1e6 * original) == level_db(original, 1e5 * original) == pytest.approx(100.0, abs=1e-9)
    assert level_db(original, 1e-6 * original) == level_db(original, 0 * original) == pytest.approx(-100.0, abs=1e-9)
    assert level_db(original, 1e-4 * original) == pytest.approx(-80.0, abs=1e-9)
    assert math.isnan(level_db(0 * original, original)) and math.isnan(level_db(0 * original, 0 * original))


def test_overshoot_of_a_gain_is_the_gain_and_of_a_loss_zero(speech: NDArray[np.float32]) -> None:
    original = speech.astype(np.float64)
    assert overshoot_db(original, -2 * original) == pytest.approx(20 * math.log10(2), abs=1e-9)
    assert overshoot_db(0.01 * original, 0.02 * original) == pytest.approx(20 * math.log10(2), abs=1e-9)
    assert overshoot_db(original, 0.9 * original) == 0.0
    assert overshoot_db(original, 0 * original) == 0.0


def test_overshoot_counts_the_bins_within_60_db(speech: NDArray[np.float32], noisy: NDArray[np.float32]) -> None:
    def magnitudes(audio: NDArray[np.float32]) -> Tensor:
        window = torch.hann_window(512, dtype=torch.float64)
        given = torch.from_numpy(audio).double()
        return torch.stft(given, 512, 128, window=window, pad_mode="constant", return_complex=True).abs()

    original, decoded = magnitudes(speech), magnitudes(noisy)
    heard = original > original.max() / 1000
    assert 0.2 < float(heard.double().mean()) < 0.9
    expected = torch.relu(20 * torch.log10(decoded[heard] / original[heard])).mean()
    assert overshoot_db(speech, noisy) == pytest.approx(float(expected), abs=1e-9)
    silence = np.zeros(16000)
    assert math.isnan(overshoot_db(silence, noisy[:16000])) and math.isnan(overshoot_db(silence[:0], silence[:0]))


def test_mel_distance_of_a_gain_is_its_logarithm() -> None:
    noise = 0.3 * np.random.default_rng(0).standard_normal(16000)
    assert mel_distance(noise, 0.5 * noise) == pytest.approx(math.log(2), abs=1e-9)
    assert mel_distance(noise, -noise) == 0.0


def test_mel_distance_follows_its_definition(speech: NDArray[np.float32], noisy: NDArray[np.float32]) -> None:
    def log_mel(audio: NDArray[np.float32], n_fft: int, n_mels: int) -> Tensor:
        window = torch.hann_window(n_fft, dtype=torch.float64)
        given = torch.from_numpy(audio).double()
        spectrum = torch.stft(given, n_fft, n_fft // 4, window=window, pad_mode="constant", return_complex=True)
        filters = melscale_fbanks(n_fft // 2 + 1, 0.0, 8000.0, n_mels, 16000).double()
        return torch.log(torch.clamp(filters.T @ spectrum.abs() / window.sum(), min=1e-5))

    scales = [(128, 10), (256, 20), (512, 40), (1024, 80), (2048, 160)]
    expected = np.mean([(log_mel(speech, *s) - log_mel(noisy, *s)).abs().mean() for s in scales])
    assert mel_distance(speech, noisy) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("length", [0, 1, 100, 3000, 16000, 32000])
def test_a_silent_or_short_original_has_only_a_mel_distance(length: int) -> None:
    silence = np.zeros(length, np.float32)
    for decoded in (silence, silence + 0.1):
        scores = score(silence, decoded)
        assert math.isnan(scores["mel_distance"]) == (length == 0)
        assert all(math.isnan(value) for name, value in scores.items() if name != "mel_distance")


def test_too_short_speech_has_no_pesq_and_no_stoi(speech: NDArray[np.float32]) -> None:
    short = speech[16000:19000]
    scores = score(short, short)
    assert math.isnan(scores["pesq"]) and math.isnan(scores["stoi"]) and math.isnan(scores["estoi"])
    assert scores["si_sdr"] == 100.0 and scores["mel_distance"] == 0.0


def test_mostly_silent_speech_has_too_few_frames_for_stoi(speech: NDArray[np.float32]) -> None:
    sparse = np.zeros(32000, np.float32)
    sparse[16000:18000] = speech[16000:18000]
    assert math.isnan(stoi(sparse, sparse)) and math.isnan(stoi(sparse, sparse, extended=True))


def test_decoding_speech_to_silence_gets_the_bottom_of_the_scale(speech: NDArray[np.float32]) -> None:
    scores = score(speech, np.zeros_like(speech))
    assert (scores["pesq"], scores["stoi"], scores["estoi"], scores["si_sdr"]) == (1.0, 0.0, 0.0, -100.0)
    assert scores["level_db"] == -100.0
    assert scores["mel_distance"] > 1.0


@pytest.mark.parametrize("metric", [pesq_wb, stoi, si_sdr, level_db, mel_distance, score])
def test_audio_that_cannot_be_compared_is_refused(metric: Callable[..., object], speech: NDArray[np.float32]) -> None:
    with pytest.raises(ValueError, match="one length"):
        metric(speech, speech[:-1])
    with pytest.raises(ValueError, match="one length"):
        metric(speech[None], speech[None])
    with pytest.raises(ValueError, match="not finite"):
        metric(speech, speech * np.float32("nan"))


def test_interval_against_a_table_of_students_t() -> None:
    summary = interval([1.0, 2.0, math.nan, 3.0, 4.0, 5.0])
    assert (summary.mean, summary.n) == (3.0, 5)
    assert summary.half_width_95 == pytest.approx(2.776445 * math.sqrt(2.5) / math.sqrt(5), abs=1e-6)
    assert interval([1.0, 2.0]).half_width_95 == pytest.approx(12.706205 * 0.5, abs=1e-6)
    assert interval(np.arange(101.0)).half_width_95 == pytest.approx(1.983972 * 29.300171 / math.sqrt(101), abs=1e-5)


def test_interval_of_one_value_or_none() -> None:
    one, none = interval([math.nan, 2.5]), interval([math.nan])
    assert (one.mean, one.n) == (2.5, 1) and math.isnan(one.half_width_95)
    assert none.n == 0 and math.isnan(none.mean) and math.isnan(none.half_width_95)
    assert Summary(1.0, 0.5, 3).as_dict() == {"mean": 1.0, "half_width_95": 0.5, "n": 3}


@pytest.mark.parametrize(
    ("histogram", "used", "entropy"),
    [
        ([5] * 1024, 1.0, 1.0),
        ([0, 9, 0, 0], 0.25, 0.0),
        ([3, 0, 3, 0], 0.5, 0.5),
        ([2, 1, 1, 0], 0.75, 0.75),
        ([3, 1], 1.0, 0.8112781244591328),
    ],
)
def test_codebook_use_of_known_histograms(histogram: list[int], used: float, entropy: float) -> None:
    use = codebook_use(histogram)
    assert use.used == used
    assert use.entropy == pytest.approx(entropy, abs=1e-12)


def test_codebook_use_without_counts_or_with_impossible_ones() -> None:
    assert math.isnan(codebook_use([0, 0]).used) and math.isnan(codebook_use([0, 0]).entropy)
    for histogram in ([1], [1, -1], [[1, 2], [3, 4]]):
        with pytest.raises(ValueError, match="histogram"):
            codebook_use(histogram)


def test_the_jackknife_of_a_mean_is_the_usual_interval() -> None:
    values = np.array([1.0, 4.0, 2.0, 7.0, 3.5])
    left_out = [np.delete(values, index).mean() for index in range(5)]
    ours, usual = jackknife(values.mean(), left_out), interval(values)
    assert (ours.mean, ours.n) == (usual.mean, 5)
    assert ours.half_width_95 == pytest.approx(usual.half_width_95, rel=1e-12)
    assert math.isnan(jackknife(1.0, [1.0]).half_width_95)
