"""Tests of quality in streams of several minutes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import DoubleEngine, released, released_codec
from numpy.typing import NDArray

from recipes import drift as recipe
from spectok import pretrained
from spectok.audio import write_audio
from spectok.evaluation.drift import PREAMBLES, code_from, drift

LIMIT = 0.05  # PESQ-WB


def test_code_from_equals_the_tokenizer_and_continues_from_a_state(speech: NDArray[np.float32]) -> None:
    tokenizer = released("spectok-16k-4k")
    engine = tokenizer.engine
    heard, state = code_from(engine, speech, engine.init_state(1))
    expected = tokenizer.decode(tokenizer.encode(speech), len(speech))
    np.testing.assert_allclose(heard, expected, rtol=0, atol=1e-4)
    again, _ = code_from(engine, speech, state)
    assert np.abs(again - heard).max() > 1e-3  # the state has an effect


def test_a_codec_without_memory_does_not_drift(speech: NDArray[np.float32]) -> None:
    """A codec without memory beyond a frame codes every clip alike after any preamble."""

    class Forgetful(DoubleEngine):
        def encode_step(self, audio: NDArray[np.float32], state: Any) -> tuple[NDArray[np.int64], Any]:
            return super().encode_step(audio, self.init_state(1).encoder)

        def decode_step(
            self, codes: NDArray[np.int64], state: Any, lost: NDArray[np.bool_] | None = None
        ) -> tuple[NDArray[np.float32], Any]:
            return super().decode_step(codes, self.init_state(1).decoder, lost)

    engine = Forgetful(released_codec("spectok-16k-800"))
    values = drift(engine, [speech[:32000]], speech)
    assert values.keys() == {"fresh", *PREAMBLES}
    assert len({scores[0] for scores in values.values()}) == 1


def test_the_recipe_measures_a_folder(
    speech: NDArray[np.float32], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for n in range(2):
        write_audio(tmp_path / f"{n}.wav", speech[n * 16000 :][:32000], 16000)
    out = tmp_path / "drift.json"
    assert recipe.main([str(tmp_path), "--models", "spectok-16k-800", "--out", str(out)]) == 0
    results = json.loads(out.read_text())
    found = results["models"]["spectok-16k-800"]
    assert found.keys() == {"clips", "fresh", *PREAMBLES}
    assert results["provenance"]["weights"] == {"spectok-16k-800": pretrained.find("spectok-16k-800").sha256}
    assert f"fresh {found['fresh']}" in capsys.readouterr().out
    (tmp_path / "1.wav").unlink()
    assert recipe.main([str(tmp_path), "--out", str(out)]) == 2
    assert "holds 1 audio files; at least two are needed" in capsys.readouterr().err


@pytest.mark.parametrize("name", pretrained.models())
def test_released_models_do_not_drift(name: str) -> None:
    """Checks the committed measurements on the test split, which are of the released weights."""
    found = json.loads(recipe.OUT.read_text(encoding="utf-8"))["models"][name]
    assert all(found["fresh"] - found[preamble] <= LIMIT for preamble in PREAMBLES)
