"""Tests of neural rivals with random weights, and with weights that are on disk."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from spectok.bench import neural
from spectok.bench.neural import NEURAL
from spectok.resampling import resample

TINY: dict[str, Any] = {"num_filters": 4, "codebook_dim": 32, "hidden_size": 32, "num_lstm_layers": 1}


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep no model in memory from one test to the next."""
    monkeypatch.setattr(neural, "folder_of", lambda weights: None)
    torch.set_num_threads(1)
    yield
    for rival in NEURAL.values():
        vars(rival).pop("model", None)


# Parameters in millions, GMAC/s of the layers, within 1 % of what was counted for these codecs elsewhere by hooks on
# their modules, and the codes of a second times the numbers in a codebook.
@pytest.mark.parametrize(
    ("name", "millions", "gmacs", "search"),
    [
        ("encodec-1.5", 14.85, 2.9795, 150 * 1024 * 128),
        ("encodec-6", 14.85, 2.9795, 600 * 1024 * 128),
        ("dac-6", 74.1, 40.092, 600 * 1024 * 8),
        ("mimi-1.1", 79.3, 5.4650, 104 * 2048 * 256),
        ("snac-1", 19.8, 7.4208, 84 * 4096 * 8),
    ],
)
def test_random_weights_have_the_right_size(name: str, millions: float, gmacs: float, search: int) -> None:
    facts = NEURAL[name].facts()
    assert facts["parameters"] / 1e6 == pytest.approx(millions, rel=0.005)
    assert facts["macs"] / 1e9 == pytest.approx(gmacs, rel=2e-5)
    assert facts["macs_with_transforms"] - facts["macs"] == search
    assert facts["weight_megabytes"] == pytest.approx(4 * facts["parameters"] / 1e6)
    sentence = f"{name} needs its weights, {NEURAL[name].weights}, in the cache of Hugging Face's hub"
    assert (NEURAL[name].missing, NEURAL[name].without_weights) == (None, sentence)


@pytest.mark.parametrize("name", ["encodec-1.5", "mimi-1.1", "snac-1"])
def test_audio_keeps_its_length_and_bytes_fit_the_bitrate(name: str, speech: NDArray[np.float32]) -> None:
    rival = NEURAL[name]
    coded = rival.code(speech[:16001])
    assert coded.audio.shape == (16001,) and coded.audio.dtype == np.float32
    assert rival.bitrate <= coded.payload_bits <= 1.08 * rival.bitrate  # whole frames
    assert math.isnan(coded.num_bytes)
    assert coded.encode_seconds > 0 and coded.decode_seconds > 0


def test_weights_on_disk_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speech: NDArray[np.float32]) -> None:
    from transformers import EncodecConfig, EncodecModel

    torch.manual_seed(1)
    model = EncodecModel(EncodecConfig(**TINY))
    model.save_pretrained(tmp_path / "weights")
    monkeypatch.setattr(neural, "folder_of", lambda weights: tmp_path / "weights")
    rival = NEURAL["encodec-6"]
    assert rival.without_weights is None
    assert rival.facts()["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    coded = rival.code(speech[:16000])
    soundfile.write(tmp_path / "in.wav", speech[:16000], 16000, subtype="FLOAT")
    (_, _, *encode), (_, _, *decode) = rival.commands(tmp_path / "in.wav", tmp_path / "coded", tmp_path / "out.wav")
    for words in (encode, decode):
        assert words.pop(0) == "spectok.bench.neural"
        neural.main(*words)
    heard, rate = soundfile.read(tmp_path / "out.wav", dtype="float32")
    assert (rate, len(heard)) == (24000, 24000)
    np.testing.assert_allclose(resample(heard, 24000, 16000), coded.audio, rtol=0, atol=1e-4)  # written with 16 bits


def test_weights_outside_of_the_cache_are_not_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert neural.folder_of("nobody/nothing") is None


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert NEURAL["snac-1"].missing == "snac-1 needs the package snac: pip install 'spectok[neural]'"
