"""The decoder's spectrum with parts of the original's."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import QUERY
from models import random_codec

from recipes.oracle import averaged, main, variants
from spectok.config import ExcitationConfig
from spectok.training.validation import reconstruct


def test_each_variant_has_the_right_parts_of_the_original() -> None:
    codec = random_codec(dataclasses.replace(QUERY, excitation=ExcitationConfig(kind="signs", above=2000.0)))
    times = np.arange(4800) / 16000
    original = (0.3 * np.sin(2 * np.pi * 500 * times) + 0.1 * np.sin(2 * np.pi * 5000 * times)).astype(np.float32)
    found = variants(codec, original)
    assert all(audio.shape == original.shape for audio in found.values())
    np.testing.assert_array_equal(found["nothing"], reconstruct(codec, original)[0])
    # Only the highest bin is missing.
    np.testing.assert_allclose(found["everything"][100:-100], original[100:-100], atol=1e-3)
    powers = {name: np.abs(np.fft.rfft(audio[:4480] * np.hanning(4480))) ** 2 for name, audio in found.items()}
    low, high = slice(130, 150), slice(1390, 1410)  # bins around 500 Hz and 5 kHz
    for part, name in ((low, "magnitudes and phases below"), (high, "magnitudes and phases above")):
        np.testing.assert_allclose(powers[name][part].sum(), powers["everything"][part].sum(), rtol=0.02)
        assert powers["nothing"][part].sum() != pytest.approx(powers["everything"][part].sum(), rel=0.5)


def test_averages_are_of_powers() -> None:
    magnitude = torch.tensor([3.0, 4.0, 0.0, 0.0, 12.0])[None, None, None]
    expected = np.sqrt([(9 + 9 + 16) / 3, (9 + 16) / 3, 16 / 3, 144 / 3, 288 / 3])
    np.testing.assert_allclose(averaged(magnitude, 3)[0, 0, 0].numpy(), expected, rtol=1e-6)


def test_a_folder_without_a_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--data", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("oracle: ")
