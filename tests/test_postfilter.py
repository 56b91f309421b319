"""The postfilter: the contrast of the spectrum whose phases the codes do not carry."""

import dataclasses

import numpy as np
import torch
from conftest import QUERY
from models import random_codec

from spectok.config import ExcitationConfig, SpectrumConfig
from spectok.model.codec import NETWORK_STATES
from spectok.model.postfilter import Postfilter

SPECTRUM, RATE = SpectrumConfig(), 16000
CONFIG = ExcitationConfig(kind="signs", above=1500.0, contrast=0.3)
FIRST = 30  # of 160 bins of 50 Hz
LAYER = Postfilter(CONFIG, SPECTRUM, RATE)


def test_each_bin_above_is_raised_by_its_ratio_to_the_mean_around_it() -> None:
    spectrum = torch.randn(2, 2, 5, SPECTRUM.positions, generator=torch.Generator().manual_seed(1)) * 0.1
    output = LAYER(spectrum)
    size = spectrum.double().norm(dim=1).numpy()
    levels, expected = np.log(size), np.empty_like(size)
    for bin in range(size.shape[2]):
        near = slice(max(0, bin - 60), bin + 61)  # 3 kHz to either side
        expected[..., bin] = size[..., bin] * np.exp(0.3 * (levels[..., bin] - levels[..., near].mean(2)))
    for bin in range(FIRST, size.shape[2]):
        near = slice(max(0, bin - 60), bin + 61)
        power = (size[..., near] ** 2).mean(2) / (expected[..., near] ** 2).mean(2)
        found = output[..., bin].double().norm(dim=1).numpy()
        np.testing.assert_allclose(found, expected[..., bin] * np.sqrt(power), rtol=1e-3)  # means are float16 numbers
    above = slice(FIRST, None)
    torch.testing.assert_close(
        torch.nn.functional.normalize(output[..., above], dim=1),
        torch.nn.functional.normalize(spectrum[..., above], dim=1),
        rtol=0,
        atol=1e-6,
    )
    assert torch.equal(output[..., :FIRST], spectrum[..., :FIRST])


def test_flat_and_silent_spectra_do_not_change() -> None:
    flat = torch.full((1, 2, 3, SPECTRUM.positions), 0.3)
    torch.testing.assert_close(LAYER(flat), flat, rtol=1e-3, atol=0)
    assert not LAYER(torch.zeros_like(flat)).any()


def test_the_decoder_uses_the_postfilter_and_training_does_not() -> None:
    filtered = dataclasses.replace(QUERY, excitation=dataclasses.replace(CONFIG, above=2000.0))
    plain = dataclasses.replace(QUERY, excitation=ExcitationConfig(kind="signs", above=2000.0))
    with_it, without = random_codec(filtered), random_codec(plain)
    without.load_state_dict(with_it.state_dict())
    audio = torch.randn(1, 10 * filtered.frame_length, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        estimates = [
            codec.estimate(audio, (codec.encoder.init_state(1), codec.decoder.init_state(1)[:NETWORK_STATES]))[
                0
            ].spectrum
            for codec in (with_it, without)
        ]
        outputs = [codec(audio)[0] for codec in (with_it, without)]
    assert torch.equal(*estimates)
    assert not torch.isclose(outputs[0], outputs[1], rtol=0, atol=1e-6).all()
