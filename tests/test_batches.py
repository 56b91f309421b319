"""The augmentation of passages, and the streams in the batches of a run."""

import dataclasses
import itertools
import multiprocessing
import shutil
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from recipes.prepare import write_manifest
from recipes.rooms import add_rooms
from spectok.errors import InputError
from spectok.training.augment import Augmenter, DataConfig, Passage
from spectok.training.batches import Batches
from spectok.training.corpus import Corpus
from spectok.training.noises import bursts, coloured, music

RATE = 16000
PLAIN = DataConfig(gain_db=(0.0, 0.0), silence_share=0.0, gap_share=0.0)
NOISY = dataclasses.replace(PLAIN, noise_share=1.0, noise_snr_db=(7.0, 7.0))
EVERYTHING = DataConfig(
    batch_size=6,
    passage_seconds=0.05,
    speed_share=0.5,
    noise_share=0.5,
    silence_share=0.1,
    floor_share=0.1,
    gap_share=0.3,
)


def white(samples: int, level: float, seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).normal(0, level, samples).clip(-1, 1)


def sine(seconds: float, frequency: float = 1000) -> NDArray[np.float64]:
    return np.asarray(0.5 * np.sin(2 * np.pi * frequency / RATE * np.arange(round(seconds * RATE))))


def write_prepared(
    folder: Path, sample_rate: int = RATE, pitch: ArrayLike | None = None, **splits: list[tuple[str, NDArray[Any]]]
) -> Path:
    """A prepared folder of splits that are lists of (source, audio); `pitch` is that of train."""
    rows = []
    for split, clips in splits.items():
        audio = [np.round(clip * 32767).astype("<i2") for _, clip in clips]
        starts = itertools.accumulate([0, *map(len, audio)])
        for (source, _), clip, start in zip(clips, audio, starts, strict=False):
            row = {"file": str(start), "split": split, "source": source, "start": start, "samples": len(clip)}
            rows.append({**row, "sample_rate": sample_rate})
        (folder / f"{split}.i16").write_bytes(np.concatenate(audio).tobytes())
        if pitch is not None and split == "train":
            (folder / f"{split}.f0").write_bytes(np.asarray(pitch, "<f4").tobytes())
    write_manifest(folder, rows)
    return folder


def draw(folder: Path, config: DataConfig, samples: int, rows: int = 64, step: int = 0) -> NDArray[Any]:
    """Passages in float64, `[rows, samples]`."""
    return np.stack([passage.audio for passage in passages(folder, config, samples, rows, step)]).astype(np.float64)


def passages(folder: Path, config: DataConfig, samples: int, rows: int = 64, step: int = 0) -> list[Passage]:
    corpus, noise = Corpus(folder, "train"), Corpus(folder, "noise") if config.noise_share else None
    augmenter = Augmenter(corpus, config, noise)
    return [augmenter.passage(samples, np.random.default_rng([1, step, row])) for row in range(rows)]


def everything(folder: Path) -> Augmenter:
    return Augmenter(Corpus(folder, "train"), EVERYTHING, Corpus(folder, "noise"))


def rms(audio: NDArray[Any]) -> Any:
    return np.sqrt(np.mean(np.square(audio), axis=-1))


def three_sigma(share: float, draws: int) -> Any:
    return pytest.approx(share, abs=3 * np.sqrt(share * (1 - share) / draws))


def frequency_of(audio: NDArray[Any]) -> float:
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio)), 64000))
    return spectrum.argmax() * RATE / 64000  # to 0.25 Hz


@pytest.fixture
def speech_and_noise(tmp_path: Path) -> Path:
    """White speech of -26 dB in two files, and noise that is periodic after 37 samples."""
    speech = [("a", white(9000, 0.05)), ("b", white(5000, 0.05, seed=1))]
    return write_prepared(tmp_path, train=speech, noise=[("n", white(37, 0.2, seed=2))])


def test_sources_are_drawn_by_length_and_weight(tmp_path: Path) -> None:
    clips = [("a", 3000, 0.1), ("b", 8000, 0.2), ("a", 1000, 0.3), ("c", 2000, 0.4)]
    write_prepared(tmp_path, train=[(source, np.full(length, level)) for source, length, level in clips])
    for weights in ({}, {"a": 2.0}, {"a": 0.5, "c": 3.0}, {"b": 0.0, "c": 1.5}):
        config = dataclasses.replace(PLAIN, source_weights=weights)
        levels = draw(tmp_path, config, 10, rows=4000)[:, 0]
        parts = np.array([length * weights.get(source, 1.0) for source, length, _ in clips])
        for (_, _, level), part in zip(clips, parts / parts.sum(), strict=True):
            assert np.isclose(levels, level, atol=1e-3).mean() == three_sigma(part, 4000)


def test_noise_has_the_snr_that_was_drawn(speech_and_noise: Path) -> None:
    speech, mix = draw(speech_and_noise, PLAIN, 2000), draw(speech_and_noise, NOISY, 2000)
    snr = 20 * np.log10(rms(speech) / rms(mix - speech))
    assert snr == pytest.approx(np.full(64, 7.0), abs=1e-3)
    spread = dataclasses.replace(NOISY, noise_snr_db=(0.0, 30.0))
    speech, mix = draw(speech_and_noise, PLAIN, 200, 1000), draw(speech_and_noise, spread, 200, 1000)
    snr = 20 * np.log10(rms(speech) / rms(mix - speech))
    assert snr.mean() == pytest.approx(15, abs=3 * 30 / np.sqrt(12 * 1000))
    assert snr.std() == pytest.approx(30 / np.sqrt(12), abs=0.4)  # of a uniform variable
    assert (snr.min(), snr.max()) == (pytest.approx(0, abs=0.3), pytest.approx(30, abs=0.3))


def test_gain_changes_speech_and_noise_alike(speech_and_noise: Path) -> None:
    quiet = dataclasses.replace(NOISY, gain_db=(-12.0, -12.0))
    expected = draw(speech_and_noise, NOISY, 500) * 10 ** (-12 / 20)
    assert draw(speech_and_noise, quiet, 500) == pytest.approx(expected, abs=1e-6)


def test_short_noise_is_repeated_from_a_random_start(speech_and_noise: Path) -> None:
    noise = draw(speech_and_noise, NOISY, 500) - draw(speech_and_noise, PLAIN, 500)
    assert noise[:, 37:] == pytest.approx(noise[:, :-37], abs=1e-6)
    original = Corpus(speech_and_noise, "noise").clip(0)
    starts = [np.argmax([np.dot(np.roll(original, -start), row[:37]) for start in range(37)]) for row in noise]
    assert len(set(starts)) > 20  # of 37, in 64 draws: fewer than 26 happens once in ten thousand times


def test_long_noise_is_drawn_from_all_of_its_length(tmp_path: Path) -> None:
    write_prepared(tmp_path, train=[("a", white(5000, 0.05))], noise=[("n", np.linspace(0.1, 0.9, 10000))])
    added = draw(tmp_path, NOISY, 100, 500) - draw(tmp_path, PLAIN, 100, 500)
    middles = added.mean(axis=1) / (added[:, -1] - added[:, 0]) * 99 - 0.1 / 0.8 * 9999  # in samples of the noise
    assert (middles.min(), middles.max()) == (pytest.approx(50, abs=200), pytest.approx(9950, abs=200))
    assert middles.mean() == pytest.approx(5000, abs=3 * 9900 / np.sqrt(12 * 500))


def test_the_share_of_passages_with_noise(speech_and_noise: Path) -> None:
    some = dataclasses.replace(NOISY, noise_share=0.3)
    differs = (draw(speech_and_noise, some, 50, 3000) != draw(speech_and_noise, PLAIN, 50, 3000)).any(axis=1)
    assert differs.mean() == three_sigma(0.3, 3000)


def test_a_mix_that_would_clip_is_scaled_down(tmp_path: Path) -> None:
    speech, noise = 0.9 * sine(0.1), sine(0.1, frequency=3000)
    write_prepared(tmp_path, train=[("a", speech)], noise=[("n", noise)])
    (mix,) = draw(tmp_path, dataclasses.replace(NOISY, noise_snr_db=(-20.0, -20.0)), 1600, rows=1)
    assert np.abs(mix).max() == 1.0
    (scale, added), residual, _, _ = np.linalg.lstsq(np.stack([speech, noise], 1), mix, rcond=None)
    assert residual < 1600 * 1e-5**2 * 100
    assert 20 * np.log10(added * rms(noise) / (scale * rms(speech))) == pytest.approx(20, abs=0.01)


def test_silent_speech_gets_no_noise_and_silent_noise_is_not_added(tmp_path: Path, speech_and_noise: Path) -> None:
    (tmp_path / "silent").mkdir()
    write_prepared(tmp_path / "silent", train=[("a", np.zeros(900))], noise=[("n", white(900, 0.2))])
    assert not draw(tmp_path / "silent", NOISY, 300).any()
    write_prepared(tmp_path / "silent", train=[("a", white(900, 0.2))], noise=[("n", np.zeros(900))])
    assert np.array_equal(draw(tmp_path / "silent", NOISY, 300), draw(tmp_path / "silent", PLAIN, 300))
    interrupted = dataclasses.replace(NOISY, silence_share=0.25, gap_share=0.75)
    assert (draw(speech_and_noise, interrupted, 4800, rows=40) == 0).all(axis=1).mean() == three_sigma(0.25, 40)
    interrupted = dataclasses.replace(interrupted, noise_share=0.0)
    zeros = draw(speech_and_noise, interrupted, 4800, rows=2000) == 0
    assert zeros.all(axis=1).mean() == three_sigma(0.25, 2000)
    gaps = zeros[~zeros.all(axis=1)].mean(axis=1)
    # The distance of two uniform variables, here two of thirty hops.
    assert gaps.mean() == pytest.approx((1 - 1 / 900) / 3, abs=3 * np.sqrt(1 / 18 / 1500))


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.1, 1.23456, 2.0])
def test_a_faster_sine_is_higher_and_has_no_artefacts(tmp_path: Path, factor: float) -> None:
    write_prepared(tmp_path, train=[("a", sine(2))])
    config = dataclasses.replace(PLAIN, speed_share=1.0, speed=(factor, factor))
    crops = draw(tmp_path, config, 8000, rows=16)
    assert crops.shape == (16, 8000)
    phase = 2 * np.pi * 1000 * round(factor * RATE) / RATE / RATE * np.arange(8000)
    for crop in crops:
        basis = np.stack([np.sin(phase), np.cos(phase)], 1)
        parts = np.linalg.lstsq(basis, crop, rcond=None)[0]
        assert np.hypot(*parts) == pytest.approx(0.5, abs=1e-3)
        assert np.abs(crop - basis @ parts).max() < 2e-4  # 68 dB below the sine, also at the ends


def test_the_share_of_speeds_and_their_uniform_distribution(tmp_path: Path) -> None:
    write_prepared(tmp_path, train=[("a", sine(2))])
    config = dataclasses.replace(PLAIN, speed_share=0.6, speed=(0.9, 1.05))
    found = np.array([frequency_of(crop) for crop in draw(tmp_path, config, 8000, rows=500)])
    same = np.isclose(found, 1000, atol=0.3)
    assert same.mean() == three_sigma(0.4 + 0.6 * 0.6 / 150, 500)
    speeds = found[~same] / 1000
    assert (speeds.min(), speeds.max()) == (pytest.approx(0.9, abs=3e-3), pytest.approx(1.05, abs=3e-3))
    assert speeds.mean() == pytest.approx(0.975, abs=3 * 0.15 / np.sqrt(12 * len(speeds)))


def test_a_short_file_at_another_speed_ends_earlier_or_later(tmp_path: Path) -> None:
    write_prepared(tmp_path, train=[("a", np.full(1000, 0.5))])
    for factor, length in ((0.5, 2000), (1.0, 1000), (1.25, 800)):
        config = dataclasses.replace(PLAIN, speed_share=1.0, speed=(factor, factor))
        (crop,) = draw(tmp_path, config, 3000, rows=1)
        assert crop[80 : length - 80] == pytest.approx(0.5, abs=1e-3)
        assert crop[length + 80 :] == pytest.approx(0.0, abs=1e-3)


def test_rows_depend_on_the_seed_and_not_on_other_rows(speech_and_noise: Path) -> None:
    train = everything(speech_and_noise)
    whole = train.batch(4800, seed=3, step=7)
    assert (whole.audio.dtype, whole.audio.shape) == (torch.float32, (6, 4800))
    assert (whole.pitch.dtype, whole.pitch.shape) == (torch.float32, (6, 30))
    assert len(torch.unique(whole.audio, dim=0)) == 6
    assert torch.equal(train.batch(4800, 3, 7, range(4, 6)).audio, whole.audio[4:])
    for seed, step in ((3, 8), (4, 7)):
        other = train.batch(4800, seed, step)
        assert not (other.audio == whole.audio).all(dim=1).any()


def test_streams_continue_from_step_to_step(speech_and_noise: Path) -> None:
    """The steps joined give the same stream, whatever their length."""
    train = everything(speech_and_noise)
    whole = train.batch(48000, seed=3, step=0).audio
    for samples in (160, 480, 4800):
        steps = [train.batch(samples, 3, step, range(2)).audio for step in range(9600 // samples)]
        assert torch.equal(torch.cat(steps, dim=1), whole[:2, :9600])


def test_passages_have_random_lengths_around_their_mean(tmp_path: Path) -> None:
    """Files of constant level, each passage with its own gain: a passage is a stretch of one level."""
    write_prepared(tmp_path, train=[("a", np.full(400_000, 0.5))])
    config = dataclasses.replace(PLAIN, passage_seconds=0.2, gain_db=(-20.0, 0.0))
    stream = Augmenter(Corpus(tmp_path, "train"), config).batch(3_200_000, seed=0, step=0, rows=range(1)).audio[0]
    borders = torch.nonzero(stream.diff()).flatten() + 1
    lengths = borders.diff() / 3200  # relative to the mean
    assert torch.equal(borders % 160, torch.zeros_like(borders))
    assert len(borders) == pytest.approx(999, abs=6)  # two borders in one hop count once
    assert float(lengths.max()) <= 2 + 0.05
    assert float(lengths.std()) == pytest.approx(np.sqrt(1 / 6), abs=0.04)  # the sum of two uniform variables


def test_the_pitch_follows_the_audio(tmp_path: Path) -> None:
    """A sine of 400 Hz, whose track begins after a second: speed, position and silence follow the audio."""
    tracked = np.where(np.arange(400) < 100, 0, 400)
    write_prepared(tmp_path, train=[("a", sine(4, 400))], pitch=tracked)
    config = dataclasses.replace(PLAIN, speed_share=0.7, gap_share=0.5, silence_share=0.1)
    seen = passages(tmp_path, config, 16000, rows=200)
    assert any(passage.pitch.all() for passage in seen)
    for passage in seen:
        loud = np.abs(passage.audio).reshape(100, 160).max(axis=1) > 0.1
        assert not passage.pitch[~loud].any()
        voiced = passage.pitch > 0
        if voiced.all():
            assert passage.pitch == pytest.approx(frequency_of(passage.audio), rel=2e-3)
        assert len(set(passage.pitch[voiced].tolist())) <= 1
    starts = [
        np.flatnonzero(passage.pitch)[0] for passage in passages(tmp_path, PLAIN, 16000, 200) if passage.pitch.any()
    ]
    assert min(starts) == 0 and max(starts) > 80


def test_noise_floors_have_their_share_and_level(tmp_path: Path) -> None:
    write_prepared(tmp_path, train=[("a", np.full(9000, 0.5))])
    config = dataclasses.replace(PLAIN, floor_share=0.3, floor_db=(-70.0, -50.0))
    drawn = draw(tmp_path, config, 3200, rows=1000)
    levels = 20 * np.log10(rms(drawn))
    floors = levels[levels < -40]
    assert len(floors) / 1000 == three_sigma(0.3, 1000)
    assert floors.mean() == pytest.approx(-60, abs=3 * 20 / np.sqrt(12 * 300))
    assert (floors.min(), floors.max()) == (pytest.approx(-70, abs=0.7), pytest.approx(-50, abs=0.7))


def test_batches_depend_on_the_step_and_are_divided_among_ranks(speech_and_noise: Path) -> None:
    train, drawn = Corpus(speech_and_noise, "train"), everything(speech_and_noise)
    batches = Batches(train, EVERYTHING, 480, seed=3, first_step=5)
    ranks = [Batches(train, EVERYTHING, 480, seed=3, first_step=5, rank=rank, world=3) for rank in range(3)]
    for step, batch, *shares in zip((5, 6, 7), batches, *ranks, strict=False):
        expected = drawn.batch(480, 3, step)
        assert all(torch.equal(a, b) for a, b in zip(batch, expected, strict=True))
        assert [tuple(share.audio.shape) for share in shares] == [(2, 480)] * 3
        assert torch.equal(torch.cat([share.audio for share in shares]), batch.audio)
        assert torch.equal(torch.cat([share.pitch for share in shares]), batch.pitch)


def test_workers_give_the_same_batches_and_end(speech_and_noise: Path) -> None:
    train = Corpus(speech_and_noise, "train")
    state = torch.get_rng_state()
    ahead = Batches(train, EVERYTHING, 480, seed=3, first_step=2, workers=2)
    assert len(multiprocessing.active_children()) == 2
    plain = Batches(train, EVERYTHING, 480, seed=3, first_step=2)
    for _ in range(20):  # more than are prepared ahead
        assert all(torch.equal(a, b) for a, b in zip(next(ahead), next(plain), strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    ahead.close()
    assert multiprocessing.active_children() == []
    assert list(ahead) == []


def test_deleted_batches_are_freed(speech_and_noise: Path) -> None:
    batches = Batches(Corpus(speech_and_noise, "train"), EVERYTHING, 480, seed=3)
    kept = weakref.ref(batches._batches)
    next(batches)
    del batches
    assert kept() is None


def test_waiting_time_is_measured(speech_and_noise: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = Corpus(speech_and_noise, "train")
    batches = Batches(train, PLAIN, 480, seed=3)
    assert batches.waited == 0.0

    def slow(*_: object) -> Tensor:
        time.sleep(0.05)
        return torch.zeros(4, 480)

    monkeypatch.setattr(Augmenter, "batch", slow)
    passed = 0.0
    for _ in range(3):
        began = time.perf_counter()
        next(batches)
        passed += time.perf_counter() - began
        time.sleep(0.05)  # time between batches does not count
    assert 0.15 <= batches.waited <= passed


def test_impossible_settings_are_refused_before_the_first_batch(tmp_path: Path, speech_and_noise: Path) -> None:
    (tmp_path / "other").mkdir()
    other = write_prepared(tmp_path / "other", 8000, train=[("a", white(900, 0.2))])
    train, valid = Corpus(speech_and_noise, "train"), Corpus(other, "train")
    for corpus, changes, options, sentence in (
        (
            train,
            {"source_weights": {"a": 2.0, "c": 1.0, "d": 1.0}},
            {},
            r"source_weights has 'c', 'd', but the .* 'a', 'b'",
        ),
        (train, {"source_weights": {"a": 0.0, "b": 0.0}}, {}, "source_weights gives every source of .* the weight 0"),
        (
            valid,
            {"noise_share": 0.5},
            {},
            "noise_share is 0.5 and room_share 0.0, but .* has no files in the split 'noise'",
        ),
        (train, {"noise_share": 0.5}, {"noise": valid}, "the noise was prepared at 8000 Hz, but the corpus at 16000"),
        (train, {"batch_size": 6}, {"world": 4}, "batch_size 6 is not a multiple of 4 ranks"),
        (train, {}, {"rank": 2, "world": 2}, "rank is 2, but must be at least 0 and less than the world of 2"),
        (train, {}, {"workers": -1}, "workers is -1, but must not be negative"),
    ):
        with pytest.raises(InputError, match=f"^{sentence}$"):
            Batches(corpus, dataclasses.replace(PLAIN, **changes), 480, 0, **options)
    for config, name in ((NOISY, "noise"), (dataclasses.replace(PLAIN, room_share=0.1), "rooms")):
        share = name.removesuffix("s")
        with pytest.raises(InputError, match=f"^{share}_share needs the split {name}, which is missing$"):
            Augmenter(train, config)


DENOISE = dataclasses.replace(NOISY, denoise=True)


def test_the_target_has_no_noise_and_the_input_has(speech_and_noise: Path) -> None:
    """Gaps come before the noise, so that pauses have noise in the input and silence in the target."""
    clean, noisy = draw(speech_and_noise, PLAIN, 2000), passages(speech_and_noise, DENOISE, 2000)
    assert np.array_equal(np.stack([passage.audio for passage in noisy]), clean)
    added = np.stack([passage.heard.astype(np.float64) for passage in noisy]) - clean
    assert 20 * np.log10(rms(clean) / rms(added)) == pytest.approx(np.full(64, 7.0), abs=1e-3)
    gaps = dataclasses.replace(DENOISE, gap_share=1.0)
    for passage in passages(speech_and_noise, gaps, 4800):
        silent = passage.audio == 0
        assert silent.mean() < 1 and (passage.heard != 0).mean() > 0.999
    assert np.array_equal(*(getattr(passages(speech_and_noise, NOISY, 500)[0], part) for part in ("audio", "heard")))


def test_target_and_input_are_scaled_alike_if_the_mix_would_clip(tmp_path: Path) -> None:
    write_prepared(tmp_path, train=[("a", 0.9 * sine(0.1))], noise=[("n", sine(0.1, frequency=3000))])
    loud = dataclasses.replace(DENOISE, noise_snr_db=(-20.0, -20.0))
    (passage,) = passages(tmp_path, loud, 1600, rows=1)
    assert np.abs(passage.heard).max() == 1.0
    noise = passage.heard.astype(np.float64) - passage.audio
    assert 20 * np.log10(rms(noise) / rms(passage.audio)) == pytest.approx(20, abs=1e-3)


def test_silence_and_floors_are_wanted_as_silence(speech_and_noise: Path) -> None:
    for config in (
        dataclasses.replace(DENOISE, silence_share=1.0, noise_alone_db=(-40.0, -40.0)),
        dataclasses.replace(DENOISE, floor_share=1.0, floor_db=(-40.0, -40.0)),
    ):
        for passage in passages(speech_and_noise, config, 3700):
            assert not passage.audio.any() and not passage.pitch.any()
            assert 20 * np.log10(rms(passage.heard.astype(np.float64))) == pytest.approx(-40, abs=0.5)


def test_the_kinds_of_noise(speech_and_noise: Path) -> None:
    """Recorded noise repeats after 37 samples, babble holds several voices, and coloured noise has a slope."""
    kinds = {"recorded": 1.0, "coloured": 2.0, "babble": 1.0}
    config = dataclasses.replace(DENOISE, noise_kinds=kinds)
    noise = [passage.heard - passage.audio for passage in passages(speech_and_noise, config, 500, rows=2000)]
    repeats = [np.abs(one[37:] - one[:-37]).max() < 1e-5 for one in noise]
    assert np.mean(repeats) == three_sigma(0.25, 2000)
    augmenter = Augmenter(Corpus(speech_and_noise, "train"), dataclasses.replace(config, noise_kinds={"babble": 1.0}))
    drawn = [augmenter._noise(4000, np.random.default_rng(seed)) for seed in range(100)]
    voices = np.square([rms(one) / rms(augmenter.corpus.clip(0)[:4000] / 0.18) for one in drawn])
    assert voices.mean() == pytest.approx(6, abs=1)  # from 4 to 8, of equal power
    for slope in (-2.0, 0.0, 1.0):
        power = np.square(np.abs(np.fft.rfft(coloured(1 << 17, slope, np.random.default_rng(0)))))
        octaves = [10 * np.log10(power[first : 2 * first].mean()) for first in (1000, 4000, 16000)]
        assert np.diff(octaves) == pytest.approx(10 * np.log10(4.0**slope) * np.ones(2), abs=0.3)


def test_computed_noises_are_at_unit_level_and_music_consists_of_tones() -> None:
    """A hundredth of the bins holds most of the energy of music, and little of that of bursts."""
    shares: dict[str, list[float]] = {"bursts": [], "music": []}
    for seed in range(30):
        for make in (bursts, music):
            noise = make(16000, 16000, np.random.default_rng(seed)).astype(np.float64)
            assert np.square(noise).mean() == pytest.approx(1, abs=1e-4)
            power = np.sort(np.square(np.abs(np.fft.rfft(noise))))
            shares[make.__name__].append(power[-80:].sum() / power.sum())
    assert np.median(shares["music"]) > 0.5 > 0.3 > np.median(shares["bursts"])


def test_reverberation_is_heard_and_not_wanted(tmp_path: Path) -> None:
    """A room with one echo, at the level of the direct sound."""
    echo = np.zeros(400)
    echo[[0, 300]] = 0.5
    clip = white(3000, 0.05)
    write_prepared(tmp_path, train=[("a", clip)], rooms=[("simulated", echo)])
    config = dataclasses.replace(PLAIN, room_share=1.0, denoise=True)
    augmenter = Augmenter(Corpus(tmp_path, "train"), config, rooms=Corpus(tmp_path, "rooms"))
    passage = augmenter.passage(3000, np.random.default_rng(0))
    assert passage.audio == pytest.approx(clip, abs=1e-4)
    reverberant = passage.audio + np.pad(passage.audio, (300, 0))[:3000]
    assert passage.heard == pytest.approx(reverberant * rms(passage.audio) / rms(reverberant), abs=1e-6)
    batches = Batches(Corpus(tmp_path, "train"), config, 480, 0)
    assert next(batches).heard.shape == (4, 480)


def test_simulated_rooms_are_added_to_a_prepared_folder(prepared: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(prepared, tmp_path / "copy"))
    for count in (2, 3):  # the second time replaces the first
        add_rooms(folder, count)
    rooms = Corpus(folder, "rooms")
    assert len(rooms) == 3 and len(Corpus(folder, "train")) == len(Corpus(prepared, "train"))
    for number in range(3):
        response = rooms.clip(number)
        assert response.shape == (8000,) and response.argmax() == 0 and response[0] == pytest.approx(0.9, abs=1e-4)
        early, late = np.square(response[:800]).sum(), np.square(response[-800:]).sum()
        assert late < 0.01 * early
