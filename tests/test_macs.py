"""The rule by which multiply-accumulates are counted for spectok and its rivals."""

import sys

import pytest
import torch
from models import released_codec

from spectok import pretrained
from spectok.bench.costs import sizes
from spectok.bench.macs import count_macs, macs_with_transforms


@pytest.mark.parametrize(
    ("module", "shape", "macs"),
    [
        (torch.nn.Linear(3, 5), (7, 3), 7 * 3 * 5),
        (torch.nn.Conv1d(2, 4, kernel_size=3, stride=2), (1, 2, 9), 4 * (4 * 2 * 3)),  # at the rate of the output
        (torch.nn.ConvTranspose1d(2, 4, kernel_size=3, stride=2), (1, 2, 9), 9 * (4 * 2 * 3)),  # of the input
        (torch.nn.GRU(3, 5), (7, 1, 3), 7 * 3 * 5 * (3 + 5)),
        (torch.nn.LSTM(3, 5), (7, 1, 3), 7 * 4 * 5 * (3 + 5)),
        (torch.nn.Sigmoid(), (7, 3), 0),
    ],
    ids=["linear", "convolution", "transposed convolution", "GRU", "LSTM", "elementwise"],
)
def test_products_count_and_elementwise_operations_do_not(
    module: torch.nn.Module, shape: tuple[int, ...], macs: int
) -> None:
    assert count_macs(lambda: module(torch.zeros(shape))) == macs


@pytest.mark.parametrize("entries", [20, 100])  # PyTorch computes large and small numbers of distances differently
def test_the_distances_of_a_codebook_search_count(entries: int) -> None:
    vectors, codebook = torch.zeros(2, 7, 3), torch.zeros(2, entries, 3)
    assert count_macs(lambda: torch.cdist(vectors, codebook)) == 2 * 7 * 3 * entries


@pytest.mark.parametrize("name", pretrained.models())
def test_transforms_and_postfilter_are_all_that_the_count_of_the_layers_leaves_out(name: str) -> None:
    codec = released_codec(name)
    spectrum = codec.config.spectrum
    hops = codec.config.sample_rate / spectrum.hop_length
    transform = hops * spectrum.n_fft * spectrum.n_fft  # real and imaginary parts of half as many bins
    layers, whole = codec.macs_per_second(), macs_with_transforms(codec)
    assert whole["encoder"] - layers["encoder"] == pytest.approx(transform, rel=0.01)
    assert whole["decoder"] - layers["decoder"] > transform + 7e6  # the postfilter, and the spectrum of the pulses


def test_the_sizes_of_a_model_are_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = pretrained.find("spectok-16k-800")
    codec, facts = released_codec("spectok-16k-800"), sizes(model)
    assert facts["parameters"] == codec.num_parameters
    assert facts["macs"] == sum(codec.macs_per_second().values())
    assert facts["macs_with_transforms"] == sum(macs_with_transforms(codec).values())
    stored = ("model.safetensors", "encoder.onnx", "decoder.onnx")
    assert facts["weight_megabytes"] == sum((model.folder / name).stat().st_size for name in stored) / 1e6
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # as without PyTorch
    monkeypatch.delitem(sys.modules, "spectok.bench.macs")
    assert sizes(model).keys() == facts.keys() - {"macs_with_transforms"}
