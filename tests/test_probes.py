"""Tests of the linear probes on features with known answers, and of the phones of a recording."""

import numpy as np
import pytest
from numpy.typing import NDArray

from spectok.evaluation import probes
from spectok.evaluation.probes import MELS, Frames

pytestmark = pytest.mark.filterwarnings("ignore")  # deprecations in other packages
PARTS = ([0], [1])


def frames(codes: NDArray[np.float64]) -> Frames:
    """Frames with these features `[F, D]`, and log-mel magnitudes that say nothing."""
    count = len(codes)
    return Frames(codes.astype(np.float32), np.zeros((count, MELS), np.float32), np.arange(count))


def test_the_middle_of_a_frame_is_earlier_by_the_delay_of_the_synthesis() -> None:
    assert probes.frame_times(3, 320, 160).tolist() == [0, 320, 640]
    assert probes.frame_times(2, 32, 0).tolist() == [16, 48]


def test_a_tone_is_in_its_mel_band_at_its_moment() -> None:
    audio = np.zeros(16000, np.float32)
    audio[8000:] = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(8000) / 16000)
    found = probes.log_mels(audio, np.array([0, 7743, 12000, 15999]))
    assert found.shape == (4, MELS)
    assert (found[:2] == np.float32(np.log(1e-5))).all()  # the window around 7743 ends before 8000
    mels = 2595 * np.log10(1 + np.array([1000, 8000]) / 700)
    assert found[2].argmax() == round(mels[0] / mels[1] * (MELS + 1)) - 1
    assert found[3].max() < found[2].max()  # half of the window is behind the end


def test_speakers_are_recognised_by_their_mean_features() -> None:
    speakers = ["a"] * 3 + ["b"] * 6 + ["few", ""]
    files = [frames(np.full((5, 2), 1.0 * (name == "b")) + 0.01 * index) for index, name in enumerate(speakers)]
    found = probes.speaker_probe(speakers, files)
    assert found == {"n": 9, "speakers": 2, "chance": 6 / 9, "codes": 1.0, "mels": 6 / 9}
    assert probes.speaker_probe(["a"] * 3 + ["few"], files[:4]) is None


def test_labels_are_learned_on_one_part_and_measured_on_the_other() -> None:
    first, second = (np.repeat(each, 500)[:, None] for each in ([0.0, 1.0, 1.0, 1.0], [0.0, 0.0, 1.0]))
    labels = [np.where(each[:, 0] > 0.5, "AH", "SIL") for each in (first, second)]
    files = [frames(first), frames(second)]
    # The most frequent label of the first part is AH, which a third of the second has; SIL has a quarter of the first.
    assert probes.classify(files, labels, PARTS) == {"n": 3500, "codes": 1.0, "mels": 2 / 7, "chance": 2 / 7}
    assert probes.classify(files, [labels[0], None], PARTS) is None
    assert probes.classify(files, [labels[0], np.full(1500, "AH")], PARTS) is None  # one label to learn


def test_each_part_is_measured_with_what_all_others_say() -> None:
    values = np.repeat([0.0, 1.0], 500)[:, None]
    usual, other = (np.repeat(names, 500) for names in (["a", "b"], ["b", "a"]))
    found = probes.classify([frames(values)] * 5, [usual, usual, other, usual, None], [[0], [1], [2], [3, 4]])
    assert found == {"n": 4000, "codes": 0.75, "mels": 0.5, "chance": 0.5}


def test_pitch_is_estimated_in_cents_of_voiced_frames() -> None:
    octaves = [np.linspace(0, 1, count)[:, None] for count in (5000, 3000)]
    pitch = [100 * 2 ** each[:, 0] for each in octaves]
    pitch[0][:500] = 0  # unvoiced
    found = probes.pitch_error([frames(each) for each in octaves], pitch, PARTS)
    assert found is not None and found["n"] == 7500
    # The medians of the parts are 660 and 600 cents: |x - 660| has the mean 303 from 0 to 1,200, and |x - 600| the mean
    # 273.3 from 120 to 1,200, of which there are 3,000 and 4,500 frames.
    assert found["chance"] == pytest.approx((3000 * 303 + 4500 * 273.33) / 7500, abs=0.2)
    assert found["mels"] == pytest.approx(found["chance"], abs=0.2)
    assert 0 < found["codes"] < 12  # the penalty of 100 draws the slope to 0 by 1 / 46 or 1 / 31
    assert probes.pitch_error([frames(each) for each in octaves], [pitch[0], np.zeros(3000)], PARTS) is None


def test_no_more_files_are_labelled_than_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "MOST_FRAMES", 10)
    files = [frames(np.zeros((6, 1))) for _ in range(4)]
    labels: list[str | None] = [None] * 4
    taken = []
    for index in probes._enough([0, 1, 2, 3], files, labels):
        taken.append(index)
        labels[index] = None if index == 0 else "labelled"  # the first cannot be labelled
    assert taken == [0, 1, 2]


def test_phones_are_aligned_with_words(speech: NDArray[np.float32]) -> None:
    words = "but in less than five minutes the staircase groaned beneath an extraordinary weight"
    found = probes.align_phones(speech, words)
    assert found is not None and len(found) == pytest.approx(100 * len(speech) / 16000, abs=4)
    order = [name for name, before in zip(found, ["", *found], strict=False) if name != before]
    assert order[:8] == ["SIL", "B", "AH", "T", "IH", "N", "L", "EH"] and order[-4:] == ["W", "EY", "T", "SIL"]
    assert found[:20] == ["SIL"] * 20 and found[90] == "F" and found[100] == "AY"
    assert probes.align_phones(speech, words.replace("five", "5")) is None
    assert probes.align_phones(speech, "") is None
