"""The samples in docs/ are what the released models make of the speech in tests/data."""

from pathlib import Path

import pytest
import soundfile

from recipes import samples
from spectok import pretrained


def test_samples_are_of_the_released_weights_and_small() -> None:
    assert samples.stale() == [], "run recipes/samples.py"
    paths = [samples.SAMPLES / f"{name}.flac" for name in ("original", *pretrained.models())]
    assert [soundfile.info(path).frames for path in paths] == [63840] * 3
    assert sum(path.stat().st_size for path in paths) < 300_000
    assert paths[0].read_bytes() == samples.SPEECH.read_bytes()


def test_samples_of_other_weights_are_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "SAMPLES", tmp_path)
    assert samples.stale() == list(pretrained.models())
