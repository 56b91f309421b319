import math

import pytest
import torch

from spectok.config import SpectrumConfig
from spectok.model.contract import verify_streaming
from spectok.model.spectrum import STFT, InverseSTFT, PowerLaw, matrices, windows
from spectok.model.streaming import Serial

SHAPES = [(320, 160, 320), (512, 160, 320), (512, 128, 512)]
configs = pytest.mark.parametrize("config", [SpectrumConfig(*shape) for shape in SHAPES], ids=str)


def double_pair(config: SpectrumConfig) -> tuple[STFT, InverseSTFT]:
    """Both layers in float64, with matrices that are not rounded to float32."""
    stft, inverse = STFT(config).double(), InverseSTFT(config).double()
    stft.matrix, inverse.matrix = (matrix.product() for matrix in matrices(config))
    return stft, inverse


@configs
def test_perfect_reconstruction_after_the_synthesis_delay(config: SpectrumConfig) -> None:
    delay = config.synthesis_length - config.hop_length
    audio = torch.randn(2, 40 * config.hop_length)
    output = InverseSTFT(config)(STFT(config)(audio))
    assert output.dtype == torch.float32
    torch.testing.assert_close(output[:, delay:], audio[:, :-delay], rtol=0, atol=1e-5)
    torch.testing.assert_close(output[:, :delay], torch.zeros(2, delay), rtol=0, atol=1e-5)

    stft, inverse = double_pair(config)
    output = inverse(stft(audio.double()))
    torch.testing.assert_close(output[:, delay:], audio.double()[:, :-delay], rtol=0, atol=1e-12)
    torch.testing.assert_close(output[:, :delay], torch.zeros(2, delay, dtype=torch.float64), rtol=0, atol=1e-12)


@configs
@pytest.mark.parametrize("at", [0, 1, 159, 777])
def test_an_impulse_is_delayed_by_the_synthesis_delay(config: SpectrumConfig, at: int) -> None:
    audio = torch.zeros(1, 16 * config.hop_length)
    audio[0, at] = 1
    both = Serial(STFT(config), InverseSTFT(config))
    output = both(audio)[0]
    assert both.timing.latency == config.synthesis_length - config.hop_length
    assert int(output.abs().argmax()) == at + both.timing.latency
    assert float(output.max()) == pytest.approx(1, abs=1e-6)
    assert float(output.abs().sum()) == pytest.approx(1, abs=1e-4)


@configs
def test_the_product_of_the_windows_overlap_adds_to_one(config: SpectrumConfig) -> None:
    analysis, synthesis = windows(config)
    assert (len(analysis), len(synthesis)) == (config.n_fft, config.synthesis_length)
    product = analysis[-config.synthesis_length :] * synthesis
    sums = product.reshape(-1, config.hop_length).sum(0)
    torch.testing.assert_close(sums, torch.ones(config.hop_length, dtype=torch.float64), rtol=0, atol=1e-12)
    assert float(analysis.min()) > 0 and float(synthesis.min()) > 0


def test_equally_long_windows_are_the_root_of_a_hann_window() -> None:
    analysis, synthesis = windows(SpectrumConfig(320, 160, 320))
    root = torch.sin((torch.arange(320, dtype=torch.float64) + 0.5) * math.pi / 320)
    torch.testing.assert_close(analysis, root / math.sqrt(160), rtol=0, atol=1e-12)  # the squares of root sum to 160
    torch.testing.assert_close(synthesis, root * math.sqrt(160), rtol=0, atol=1e-12)


@configs
def test_white_noise_of_variance_one_has_a_spectrum_of_variance_one(config: SpectrumConfig) -> None:
    assert float(windows(config)[0].square().sum()) == pytest.approx(1, abs=1e-12)
    spectrum = STFT(config)(torch.randn(1, 2000 * config.hop_length))
    power = spectrum.square().sum(1).mean(dim=(0, 1))  # of every bin, over about 2,000 frames
    assert float(power.mean()) == pytest.approx(1, abs=0.02)
    assert float((power - 1).abs().max()) < 0.2


@configs
def test_stft_is_torch_stft_of_the_audio_after_zeros(config: SpectrumConfig) -> None:
    audio = torch.randn(2, 12 * config.hop_length, dtype=torch.float64)
    padded = torch.nn.functional.pad(audio, (config.n_fft - config.hop_length, 0))
    reference = torch.stft(
        padded, config.n_fft, config.hop_length, window=windows(config)[0], center=False, return_complex=True
    ).transpose(1, 2)
    spectrum = double_pair(config)[0](audio)
    assert spectrum.shape == (2, 2, 12, config.n_fft // 2 + 1)
    torch.testing.assert_close(torch.complex(spectrum[:, 0], spectrum[:, 1]), reference, rtol=0, atol=1e-12)


@configs
def test_omitted_bins_are_the_highest_and_count_as_zeros(config: SpectrumConfig) -> None:
    count = config.n_fft // 2
    audio = torch.randn(2, 12 * config.hop_length)
    whole, fewer = STFT(config)(audio), STFT(config, count)(audio)
    torch.testing.assert_close(fewer, whole[..., :count], rtol=0, atol=1e-5)
    torch.testing.assert_close(
        InverseSTFT(config, count)(fewer),
        InverseSTFT(config)(torch.nn.functional.pad(fewer, (0, 1))),
        rtol=0,
        atol=1e-5,
    )


@configs
def test_contract(config: SpectrumConfig) -> None:
    hop = config.hop_length
    verify_streaming(STFT(config), torch.randn(2, 7 * hop), time_axis=1, output_time_axis=2)
    verify_streaming(InverseSTFT(config), torch.randn(2, 2, 7, config.n_fft // 2 + 1), time_axis=2, output_time_axis=1)


@configs
def test_states_are_the_past_samples_and_frames(config: SpectrumConfig) -> None:
    stft, inverse = STFT(config), InverseSTFT(config)
    past = -(-config.n_fft // config.hop_length) * config.hop_length - config.hop_length
    assert stft.init_state(3)[0].shape == (3, past)
    before = config.synthesis_length // config.hop_length - 1
    assert inverse.init_state(3)[0].shape == (3, before, config.synthesis_length)
    audio = torch.randn(3, 5 * config.hop_length)
    assert torch.equal(stft.step(audio, stft.init_state(3))[1][0], audio[:, -past:])


@pytest.mark.parametrize("power", [1.5, 2.0, 3.0])
def test_power_law_is_its_formula_and_keeps_the_phase(power: float) -> None:
    spectrum = torch.randn(2, 2, 5, 7, dtype=torch.float64)
    spectrum *= (0.01 + spectrum.norm(dim=1, keepdim=True)) / spectrum.norm(dim=1, keepdim=True)
    bins = torch.complex(spectrum[:, 0], spectrum[:, 1])
    law = PowerLaw(power)
    for result, exponent in ((law.compress(spectrum), 1 / power), (law.expand(spectrum), power)):
        after = torch.complex(result[:, 0], result[:, 1])
        torch.testing.assert_close(after.abs(), bins.abs() ** exponent, rtol=1e-12, atol=0)
        torch.testing.assert_close(after.angle(), bins.angle(), rtol=0, atol=1e-12)


def test_power_law_round_trip() -> None:
    angle = torch.rand(500, dtype=torch.float64) * 2 * math.pi
    magnitude = torch.logspace(-6, 2, 500, dtype=torch.float64)
    spectrum = torch.stack([magnitude * angle.cos(), magnitude * angle.sin()])[None, :, None]
    law = PowerLaw(2.0)
    error = (law.expand(law.compress(spectrum)) - spectrum).norm(dim=1) / magnitude
    assert float(error.max()) < 1e-12


def test_power_of_one_is_the_identity() -> None:
    spectrum = torch.randn(2, 2, 3, 4)
    spectrum[0, :, 0] = 0
    assert torch.equal(PowerLaw(1.0).compress(spectrum), spectrum)
    assert torch.equal(PowerLaw(1.0).expand(spectrum), spectrum)


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("direction", ["compress", "expand"])
def test_silence_stays_silence_and_its_gradient_is_finite(power: float, direction: str) -> None:
    silence = torch.zeros(1, 2, 3, 4, requires_grad=True)
    output = getattr(PowerLaw(power), direction)(silence)
    assert torch.equal(output.detach(), torch.zeros(1, 2, 3, 4))
    output.sum().backward()
    exponent = 1 / power if direction == "compress" else power
    expected = 1e-6 ** (exponent - 1)  # the slope of s * max(|s|, floor) ** (exponent - 1) at 0
    torch.testing.assert_close(silence.grad, torch.full((1, 2, 3, 4), expected), rtol=1e-5, atol=0)
