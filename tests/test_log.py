"""The log of a run: log.jsonl, samples/, and the same for TensorBoard."""

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from matplotlib.image import imread
from runs import recipe
from streams import sine
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from spectok.training.log import RunLog
from spectok.training.validation import Clip, Validation

CODEC = recipe().codec
ALL = {"scalars": 0, "images": 0, "audio": 0, "histograms": 0}  # keep every event


def board(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder / "tensorboard"), size_guidance=ALL)
    accumulator.Reload()
    return accumulator


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def result() -> Validation:
    """Two clips of half a second; the first of 1,024 codes was used nine times, the 512th and the last once each."""
    codes = np.zeros((25, 4), np.int64)
    clips = [Clip(sine(8000, 16000), np.float32(gain) * sine(8000, 16000, 880), codes) for gain in (0.5, 1.5)]
    histogram = np.zeros(1024, np.int64)
    histogram[[0, 511, 1023]] = 9, 1, 1
    return Validation({"pesq": 1.5, "stoi": math.nan}, clips, histogram)


def test_scalars_are_lines_and_curves(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run", CODEC)
    log.scalars("train", 100, 12.345, {"total": 1.23456789, "mel": 2.0})
    log.scalars("train", 200, 24.0, {"total": 1.0, "mel": -0.000123456789})
    log.close()
    assert lines(tmp_path / "run") == [
        {"kind": "train", "step": 100, "seconds": 12.3, "total": 1.2346, "mel": 2.0},
        {"kind": "train", "step": 200, "seconds": 24.0, "total": 1.0, "mel": -0.00012346},
    ]
    curves = board(tmp_path / "run")
    assert curves.Tags()["scalars"] == ["train/total", "train/mel"]
    assert [(event.step, event.value) for event in curves.Scalars("train/total")] == [
        (100, pytest.approx(1.23456789, rel=1e-6)),
        (200, 1.0),
    ]
    assert [event.value for event in curves.Scalars("train/mel")] == [2.0, pytest.approx(-0.000123456789, rel=1e-6)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_become_null(tmp_path: Path, value: float) -> None:
    log = RunLog(tmp_path, CODEC)
    log.scalars("train", 1, 0.0, {"mel": value, "total": 2.0})
    log.close()
    assert (tmp_path / "log.jsonl").read_text() == (
        '{"kind": "train", "step": 1, "seconds": 0.0, "mel": null, "total": 2.0}\n'
    )


def test_a_resumed_run_appends_to_the_same_files(tmp_path: Path) -> None:
    for before, step in ((0, 1), (1, 2)):
        log = RunLog(tmp_path, CODEC, before)
        log.scalars("train", step, float(step), {"total": 10.0 * step})
        log.close()
    assert [entry["total"] for entry in lines(tmp_path)] == [10.0, 20.0]
    assert [(event.step, event.value) for event in board(tmp_path).Scalars("train/total")] == [(1, 10.0), (2, 20.0)]


def test_what_a_killed_run_has_logged_after_its_checkpoint_is_removed(tmp_path: Path) -> None:
    log = RunLog(tmp_path, CODEC)
    for step in (1, 2, 3):
        log.scalars("train", step, float(step), {"total": 10.0 * step})
    log.close()
    with open(tmp_path / "log.jsonl", "a", encoding="utf-8") as file:
        file.write('{"kind": "train", "st')
    log = RunLog(tmp_path, CODEC, 1)
    log.scalars("train", 2, 2.0, {"total": 21.0})
    log.close()
    assert [(entry["step"], entry["total"]) for entry in lines(tmp_path)] == [(1, 10.0), (2, 21.0)]
    assert [(event.step, event.value) for event in board(tmp_path).Scalars("train/total")] == [(1, 10.0), (2, 21.0)]


def test_a_validation_writes_spectrograms_and_audio(tmp_path: Path, result: Validation) -> None:
    log = RunLog(tmp_path, CODEC)
    log.validation(7, 3.0, result)
    log.close()
    assert lines(tmp_path) == [{"kind": "valid", "step": 7, "seconds": 3.0, "pesq": 1.5, "stoi": None}]
    names = [f"{n}{kind}" for n in range(2) for kind in (".png", "_decoded.wav", "_original.wav")]
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == names

    events = board(tmp_path)
    assert {kind: sorted(events.Tags()[kind]) for kind in ("scalars", "images", "audio", "histograms")} == {
        "scalars": ["valid/pesq", "valid/stoi"],
        "images": ["spectrogram/0", "spectrogram/1"],
        "audio": ["decoded/0", "decoded/1", "original/0", "original/1"],
        "histograms": ["codes"],
    }
    for n, clip in enumerate(result.clips):
        (image,) = events.Images(f"spectrogram/{n}")
        shown = imread(io.BytesIO(image.encoded_image_string))
        np.testing.assert_allclose(shown, imread(tmp_path / "samples" / f"{n}.png"), rtol=0, atol=1.01 / 255)
        assert image.step == 7
        for kind, audio in (("original", clip.original), ("decoded", clip.decoded)):
            (event,) = events.Audio(f"{kind}/{n}")
            heard, rate = soundfile.read(io.BytesIO(event.encoded_audio_string))
            kept, rate_kept = soundfile.read(tmp_path / "samples" / f"{n}_{kind}.wav")
            assert (event.step, rate, rate_kept) == (7, 16000, 16000)
            # 16 bits, rounded or truncated; samples outside [-1, 1] are clipped.
            np.testing.assert_allclose(heard, audio.clip(-1, 1), rtol=0, atol=2 / 32768)
            np.testing.assert_allclose(kept, audio.clip(-1, 1), rtol=0, atol=2 / 32768)


def test_the_histogram_counts_the_codes(tmp_path: Path, result: Validation) -> None:
    log = RunLog(tmp_path, CODEC)
    log.validation(7, 3.0, result)
    log.close()
    (event,) = board(tmp_path).Histograms("codes")
    found = event.histogram_value
    assert (found.min, found.max, found.num, found.sum) == (0, 1023, 11, 511 + 1023)
    # 64 bins of 16 codes; each count is given with the upper edge of its bin.
    counts = dict(zip(found.bucket_limit, found.bucket, strict=True))
    assert {limit: count for limit, count in counts.items() if count} == {16: 9, 512: 1, 1024: 1}
