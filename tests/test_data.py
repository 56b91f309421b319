"""Preparing a corpus, and drawing crops from it."""

import csv
import math
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from recipes.prepare import SPLITS, prepare
from spectok.audio import write_audio
from spectok.errors import InputError
from spectok.training.augment import Augmenter, DataConfig
from spectok.training.corpus import Corpus


def ramp(samples: int, level: float) -> NDArray[np.float32]:
    return np.full(samples, level, np.float32)


def write_manifest(folder: Path, rows: Iterable[Iterable[object]]) -> None:
    with open(folder / "manifest.csv", "w", newline="") as file:
        csv.writer(file).writerows([["file", "split", "source", "kind"], *rows])


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """Three training clips of constant level and one validation clip, at 8 and 16 kHz."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name, samples, level, rate in (("a", 4000, 0.1, 16000), ("b", 8000, -0.2, 16000), ("c", 100, 0.3, 16000)):
        write_audio(corpus / f"{name}.wav", ramp(samples, level), rate)
    write_audio(corpus / "v.wav", ramp(2000, 0.5), 8000)
    speech = [["a.wav", "train"], ["b.wav", "train"], ["c.wav", "train"], ["v.wav", "valid"], ["missing.wav", "test"]]
    write_manifest(corpus, [*([*row, "here", "speech"] for row in speech), ["missing.wav", "train", "here", "noise"]])
    prepare(corpus, tmp_path / "out", 16000)
    return tmp_path / "out"


def test_the_manifest_defines_the_splits(prepared: Path) -> None:
    train, valid = Corpus(prepared, "train"), Corpus(prepared, "valid")
    assert [row["file"] for row in train.rows] == ["a.wav", "b.wav", "c.wav"]
    assert (train.sample_rate, valid.sample_rate) == (16000, 16000)
    assert train.hours_by_source() == {"here": pytest.approx(12100 / 16000 / 3600)}
    assert train.samples.tolist() == [4000, 8000, 100]
    assert train.starts.tolist() == [0, 4000, 12000]
    assert valid.samples.tolist() == [4000]  # resampled from 8 kHz


def test_clips_end_at_the_end_of_their_file(prepared: Path) -> None:
    train = Corpus(prepared, "train")
    assert np.allclose(train.clip(0), 0.1, atol=1 / 32768)
    assert np.allclose(train.clip(1, start=7000, samples=1000), -0.2, atol=1 / 32768)
    short = train.clip(2, samples=250)
    assert np.allclose(short[:100], 0.3, atol=1 / 32768)
    assert not short[100:].any()


def test_pitch_is_tracked_in_speech_and_not_in_noise(tmp_path: Path) -> None:
    """A harmonic tone of 150 Hz in its second half, at two sample rates."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name, rate in (("t.wav", 16000), ("v.wav", 24000), ("n.wav", 16000)):
        times = np.arange(2 * rate) / rate
        tone = sum(np.sin(2 * np.pi * 150 * k * times) / k for k in range(1, 9))
        write_audio(corpus / name, (0.1 * tone * (times >= 1)).astype(np.float32), rate)
    write_manifest(
        corpus, [["t.wav", "train", "", "speech"], ["v.wav", "valid", "", "speech"], ["n.wav", "noise", "", ""]]
    )
    prepare(corpus, tmp_path / "out", 16000)
    for split in ("train", "valid"):
        pitch = Corpus(tmp_path / "out", split).pitch
        assert pitch.shape == (200,)
        assert not pitch[:95].any()
        assert pitch[105:195] == pytest.approx(np.full(90, 150), rel=0.01)
    assert len(Corpus(tmp_path / "out", "noise").pitch) == 0


def test_without_a_manifest_every_fiftieth_file_is_for_validation(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    (corpus / "deep").mkdir(parents=True)
    for n in range(52):
        write_audio(corpus / "deep" / f"{n:02}.wav", ramp(50, 0.1), 16000)
    prepare(corpus, tmp_path / "out", 16000)
    assert [row["file"] for row in Corpus(tmp_path / "out", "valid").rows] == ["deep/00.wav", "deep/50.wav"]
    assert len(Corpus(tmp_path / "out", "train")) == 50


def drawn(folder: Path, config: DataConfig, samples: int, rows: int = 4000) -> NDArray[Any]:
    """Passages of the split train, `[rows, samples]`."""
    train = Corpus(folder, "train")
    augmenter, rng = Augmenter(train, config), np.random.default_rng(0)
    return np.stack([augmenter.passage(samples, rng).audio for _ in range(rows)])


def test_longer_files_are_drawn_more_often(prepared: Path) -> None:
    levels = drawn(prepared, DataConfig(gain_db=(0.0, 0.0), silence_share=0.0, gap_share=0.0), 50)[:, 0]
    shares = [float((np.abs(levels - level) < 1e-3).mean()) for level in (0.1, -0.2, 0.3)]
    assert np.allclose(shares, np.array([4000, 8000, 100]) / 12100, atol=0.025)  # three standard deviations


def test_gain_is_uniform_in_decibels_and_never_clips(prepared: Path) -> None:
    batch = drawn(prepared, DataConfig(gain_db=(-20.0, 40.0), silence_share=0.0, gap_share=0.0), 20)
    assert np.abs(batch).max() <= 1.0 + 1e-6
    gains = 20 * np.log10(np.abs(batch[:, 0]) / 0.2)[np.isclose(np.sign(batch[:, 0]), -1)]  # of file b only
    assert gains.min() == pytest.approx(-20, abs=0.1)
    assert gains.max() == pytest.approx(20 * np.log10(1 / 0.2), abs=1e-3)
    below = gains[gains < 10]
    assert below.mean() == pytest.approx(-5, abs=0.7)


def test_the_shares_of_silence_and_gaps(prepared: Path) -> None:
    loud = DataConfig(silence_share=0.1, gap_share=0.2, source_weights={"here": 1.0})
    zeros = (drawn(prepared, loud, 3200) == 0).mean(axis=1)
    zeros = zeros[zeros != 31 / 32]  # not those of the file of 100 samples, one in 121
    assert (zeros == 1).mean() == pytest.approx(0.1, abs=0.02)
    # A gap of a passage of 20 hops is empty when both ends are the same hop: one time in twenty.
    assert ((zeros > 0) & (zeros < 1)).mean() == pytest.approx(0.2 * 19 / 20, abs=0.02)


def test_a_manifest_may_have_noise(tmp_path: Path) -> None:
    corpus, noise = tmp_path / "corpus", tmp_path / "street"
    (noise / "deep").mkdir(parents=True)
    corpus.mkdir()
    for name, level in (("t", 0.1), ("v", 0.2), ("n", 0.3), ("o", 0.4)):
        write_audio(corpus / f"{name}.wav", ramp(100, level), 16000)
    write_audio(noise / "deep" / "car.wav", ramp(70, -0.5), 8000)
    speech = [["t.wav", "train", "a", "speech"], ["v.wav", "valid", "a", "speech"], ["o.wav", "train", "a", "noise"]]
    write_manifest(corpus, [*speech, ["n.wav", "noise", "b", "noise"], ["o.wav", "noise", "c", "other"]])
    prepare(corpus, tmp_path / "out", 16000)
    found = Corpus(tmp_path / "out", "noise")
    assert [(row["file"], row["source"], row["split"]) for row in found.rows] == [
        ("n.wav", "b", "noise"),
        ("o.wav", "c", "noise"),
    ]
    assert np.allclose(np.concatenate([found.clip(0), found.clip(1)]), [0.3] * 100 + [0.4] * 100, atol=1 / 32768)
    assert [row["file"] for row in Corpus(tmp_path / "out", "train").rows] == ["t.wav"]
    manifest = corpus / "manifest.csv"
    manifest.write_text(manifest.read_text(encoding="utf-8"), encoding="utf-8-sig")  # as Excel writes it

    prepare(corpus, tmp_path / "out", 16000, noise)
    found = Corpus(tmp_path / "out", "noise")
    assert [row["file"] for row in found.rows] == ["n.wav", "o.wav", "noise:deep/car.wav"]
    assert found.hours_by_source() == pytest.approx({"b": 100 / 5.76e7, "c": 100 / 5.76e7, "street": 140 / 5.76e7})
    assert found.clip(2)[70] == pytest.approx(-0.5, abs=0.01)


def test_a_folder_of_noise_is_not_used_as_speech(tmp_path: Path) -> None:
    (tmp_path / "corpus" / "noise").mkdir(parents=True)
    for name in ("1.wav", "2.wav", "noise/3.wav"):
        write_audio(tmp_path / "corpus" / name, ramp(50, 0.1), 16000)
    prepare(tmp_path / "corpus", tmp_path / "out", 16000, tmp_path / "corpus" / "noise")
    files = {split: [row["file"] for row in Corpus(tmp_path / "out", split).rows] for split in SPLITS}
    assert files == {"train": ["2.wav"], "valid": ["1.wav"], "noise": ["noise:3.wav"]}
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty holds no audio files$"):
        prepare(tmp_path / "corpus", tmp_path / "out", 16000, tmp_path / "empty")


def test_a_split_that_was_prepared_without_noise_has_none(prepared: Path) -> None:
    assert not (prepared / "noise.i16").exists()
    with pytest.raises(InputError, match=r"has no files in the split 'noise'$"):
        Corpus(prepared, "noise")


def test_a_corpus_is_pickled_as_folder_and_split(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(prepared.parent)
    train = Corpus(prepared.name, "train")
    content = pickle.dumps(train)
    assert len(content) < 1000
    monkeypatch.chdir("/")
    again = pickle.loads(content)
    assert isinstance(again.audio, np.memmap)
    assert again.rows == train.rows
    assert np.array_equal(again.clip(1), train.clip(1))


def test_unreadable_files_are_listed_and_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name in "abc":
        write_audio(corpus / f"{name}.wav", ramp(50, 0.1), 16000)
    (corpus / "b.wav").write_text("no audio")
    prepare(corpus, tmp_path / "out", 16000)
    assert [row["file"] for row in Corpus(tmp_path / "out", "train").rows] == ["c.wav"]
    assert f"skipped: {corpus / 'b.wav'}" in capsys.readouterr().err


def test_an_inconsistent_folder_is_refused(prepared: Path) -> None:
    with open(prepared / "train.i16", "ab") as file:
        file.write(b"12")
    with pytest.raises(InputError, match=r"train\.i16 is not as long as manifest\.csv says it is"):
        Corpus(prepared, "train")
    with open(prepared / "valid.f0", "ab") as file:
        file.write(b"1234")
    with pytest.raises(InputError, match=r"valid\.f0 is not as long as manifest\.csv says it is"):
        Corpus(prepared, "valid")


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("batch_size", 0, "batch_size is 0"),
        ("crop_seconds", 0.0, "crop_seconds is 0.0"),
        ("passage_seconds", 0.0, "passage_seconds is 0.0"),
        ("floor_db", (-90.0, 3.0), r"floor_db is \(-90.0, 3.0\), but must be \(lowest, highest\), from -200 to 0$"),
        ("gain_db", (3.0, -3.0), r"gain_db is \(3.0, -3.0\), but must be \(lowest, highest\), from -200 to 200$"),
        ("noise_snr_db", (0.0, math.inf), r"noise_snr_db is \(0.0, inf\), but must be \(lowest, highest\), from -200"),
        ("speed", (0.0, 1.0), r"speed is \(0.0, 1.0\), but must be \(lowest, highest\), from 0.5 to 2$"),
        ("noise_share", 1.5, "noise_share is 1.5, but must be from 0 to 1$"),
        ("speed_share", math.nan, "speed_share is nan, but must be from 0 to 1$"),
        ("source_weights", {"a": 1.0, "b": -1.0}, "source_weights: b is -1.0, but must be from 0 to 1e9$"),
        ("silence_share", 0.99, "silence_share 0.99, floor_share 0.0 and gap_share 0.05"),
    ],
)
def test_impossible_settings_are_refused(key: str, value: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        DataConfig(**{key: value})


def test_folders_that_are_not_prepared_are_refused(tmp_path: Path, prepared: Path) -> None:
    with pytest.raises(InputError, match=r"is not a folder made by recipes/prepare\.py"):
        Corpus(tmp_path, "train")
    with pytest.raises(InputError, match=r"has no files in the split 'test'$"):
        Corpus(prepared, "test")
    with pytest.raises(InputError, match="holds 0 audio files; training needs at least two"):
        (tmp_path / "empty").mkdir()
        prepare(tmp_path / "empty", tmp_path / "nowhere", 16000)
    assert not (tmp_path / "nowhere").exists()
