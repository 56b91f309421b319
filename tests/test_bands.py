import numpy as np
import pytest

from spectok.model.bottleneck.bands import mel_bands, positional_bias

COUNTS = [(1, 16), (2, 16), (4, 32), (16, 80), (32, 80), (64, 80), (80, 80), (16, 160), (24, 256)]
counts = pytest.mark.parametrize(("count", "positions"), COUNTS)


@counts
@pytest.mark.parametrize("sample_rate", [16000, 48000])
def test_bands_cover_every_position_in_order(count: int, positions: int, sample_rate: int) -> None:
    edges = mel_bands(count, positions, sample_rate)
    assert edges.shape == (count, 2) and edges.dtype == np.int64
    assert edges[0, 0] == 0 and edges[-1, 1] == positions
    assert (edges[:, 1] > edges[:, 0]).all()
    assert (edges >= 0).all() and (edges <= positions).all()
    assert (np.diff(edges, axis=0) >= 0).all()
    covered = np.zeros(positions, bool)
    for start, end in edges:
        covered[start:end] = True
    assert covered.all()


@pytest.mark.parametrize(("count", "positions"), [(4, 32), (16, 80), (32, 80), (16, 160), (24, 256)])
def test_low_bands_are_narrower(count: int, positions: int) -> None:
    widths = np.diff(mel_bands(count, positions, 16000), axis=1)[:, 0]
    quarter = count // 4
    assert widths[0] < widths[-1]
    assert 1.5 * widths[:quarter].mean() < widths[-quarter:].mean()


def test_mel_bands_by_hand() -> None:
    # 3 bands from 0 Hz to 8 kHz: 5 points, 710.0 mel apart, at 0, 614, 1768, 3935 and 8000 Hz; a position is 500 Hz.
    edges = mel_bands(3, 16, 16000)
    assert edges.tolist() == [[0, 4], [1, 8], [3, 16]]


def test_positional_bias_by_hand() -> None:
    bias = positional_bias(np.array([[1, 4], [0, 2], [2, 6], [5, 6]]), 6)
    assert bias.dtype == np.float32
    expected: list[list[float]] = [
        [-1, -1 / 2, 0, -1 / 2, -1, -2],  # centre 2, over floor(3 / 2) + 1
        [-1 / 2, 0, -1, -2, -3, -4],  # centre 1, over 2
        [-2, -1, -2 / 3, -1 / 3, 0, -1 / 3],  # centre 4, over 3
        [-5, -4, -3, -2, -1, 0],  # centre 5, over 1
    ]
    np.testing.assert_allclose(bias, expected, rtol=0, atol=1e-6)


def test_positional_bias_is_the_least_negative_in_the_band() -> None:
    edges = mel_bands(16, 80, 16000)
    bias = positional_bias(edges, 80)
    for (start, end), row in zip(edges, bias, strict=True):
        assert (row[start:end] > -1).all() and (row[:start] <= -1).all()
        assert row[start:end].max() == 0
        assert (np.diff(row[: start + 1]) > 0).all() and (np.diff(row[end:]) < 0).all()
