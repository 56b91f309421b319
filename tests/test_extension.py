"""The extension from 16 to 48 kHz: the layer, its files, engines, sessions and commands."""

import torch

from spectok.config import SpectrumConfig
from spectok.model.contract import verify_streaming
from spectok.model.extension import Extension
from spectok.model.spectrum import STFT, HalvedInverseSTFT, InverseSTFT

SHORT = SpectrumConfig(64, 32, 64)
CODEC = SpectrumConfig()


def test_the_layer_keeps_the_contract() -> None:
    verify_streaming(Extension(SHORT, 16000), torch.randn(2, 2, 6, 32), time_axis=2, output_time_axis=1)


def test_the_halved_transform_is_the_inverse_transform() -> None:
    for config in (SpectrumConfig(960, 480, 960), SpectrumConfig(64, 8, 32)):
        positions = config.n_fft // 2 - 12
        layer = HalvedInverseSTFT(config, positions)
        verify_streaming(layer, torch.randn(2, 2, 8, positions), time_axis=2, output_time_axis=1)
        x = torch.randn(2, 2, 5, positions)
        torch.testing.assert_close(layer(x), InverseSTFT(config, positions)(x), rtol=0, atol=2e-6)


def test_silence_stays_silent() -> None:
    assert not Extension(CODEC, 16000)(torch.zeros(1, 2, 4, 160)).any()


def test_low_frequencies_and_their_delay_are_those_of_the_codec() -> None:
    torch.manual_seed(0)
    audio = torch.nn.functional.pad(torch.randn(1, 1600), (320, 320))
    spectrum = STFT(CODEC, 160)(audio)
    layer = Extension(CODEC, 16000)
    with torch.no_grad():
        layer.output.weight.zero_()
        layer.output.bias[:16] = -20  # gains
    extended = layer(spectrum).detach()[0]
    plain = InverseSTFT(CODEC, 160)(spectrum)[0]
    assert len(extended) == 3 * len(plain)
    bins = torch.fft.rfft(extended), torch.fft.rfft(plain)
    below = len(plain) * 7 // 16  # 7 kHz
    error = bins[0][:below] / 3 - bins[1][:below]
    assert 10 * torch.log10(error.abs().square().sum() / bins[1][:below].abs().square().sum()) < -45
    assert bins[0][len(plain) * 9 // 16 :].abs().max() < 0.03 * bins[1].abs().max()


def test_an_impulse_is_as_late_as_without_the_extension() -> None:
    audio = torch.zeros(1, 3200)
    audio[0, 1600] = 1
    spectrum = STFT(CODEC, 160)(audio)
    plain = InverseSTFT(CODEC, 160)(spectrum)[0].abs().argmax()
    extended = Extension(CODEC, 16000)(spectrum).detach()[0]
    assert plain == 1600 + 160
    assert abs(int(extended.abs().argmax()) - 3 * int(plain)) <= 1
    assert not extended[: 3 * 1600 - 480].any()


def test_the_level_of_the_input_scales_the_output() -> None:
    layer, spectrum = Extension(CODEC, 16000), torch.randn(1, 2, 4, 160)
    with torch.no_grad():
        layer.output.weight.zero_()
    torch.testing.assert_close(layer(0.01 * spectrum), 0.01 * layer(spectrum), rtol=1e-4, atol=1e-6)


def test_the_cost_is_below_40_million_multiplications_a_second() -> None:
    layer = Extension(CODEC, 16000)
    assert 100 * layer.macs_per_frame < 40e6
    assert sum(parameter.numel() for parameter in layer.parameters()) < 55_000
