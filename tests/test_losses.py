"""The losses: zero for equal signals, hand-computed elsewhere, finite at silence."""

import math

import pytest
import torch

from spectok.errors import InputError
from spectok.training.losses import LossConfig, Losses

NAMES = ("complex", "magnitude", "mel")


@pytest.fixture
def losses():
    return Losses(LossConfig(), 16000)


@pytest.fixture
def noise():
    return 0.1 * torch.randn(2, 16000, generator=torch.Generator().manual_seed(0))


def test_equal_signals_cost_nothing(losses, noise):
    assert {name: float(value) for name, value in losses(noise, noise).items()} == dict.fromkeys(NAMES, 0.0)


def test_silence_instead_of_a_loud_signal_costs_one(losses, noise):
    values = losses(1e4 * noise, torch.zeros_like(noise))
    # Far above the floors under energy and magnitude, which take the rest.
    assert float(values["complex"]) == pytest.approx(1.0, abs=5e-3)
    assert float(values["magnitude"]) == pytest.approx(1.0, abs=5e-3)


def test_phase_counts_in_the_complex_loss_alone(losses, noise):
    values = losses(10 * noise, -10 * noise)
    assert float(values["complex"]) == pytest.approx(4.0, abs=2e-2)  # |s - (-s)|² = 4 |s|²
    assert float(values["magnitude"]) == pytest.approx(0.0, abs=1e-6)
    assert float(values["mel"]) == pytest.approx(0.0, abs=1e-6)


def test_a_gain_costs_what_the_formulas_say(losses, noise):
    values = losses(10 * noise, 40 * noise)
    # A gain of 4 is a gain of 2 after the square root of the power law: (2 - 1)² of the energy.
    assert float(values["magnitude"]) == pytest.approx(1.0, abs=5e-3)
    assert float(values["complex"]) == pytest.approx(1.0, abs=5e-3)
    assert float(values["mel"]) == pytest.approx(math.log(4), abs=2e-2)  # the floor takes the rest


def test_every_clip_weighs_the_same_however_loud(losses, noise):
    fake = noise.roll(1, dims=1)
    loud = losses(100 * noise, 100 * fake)
    louder = losses(400 * noise, 400 * fake)
    for name in ("complex", "magnitude"):
        assert float(loud[name]) == pytest.approx(float(louder[name]), rel=1e-4)


def test_gradients_are_finite_at_silence(losses, noise):
    for real in (noise, torch.zeros_like(noise)):
        fake = torch.zeros_like(noise, requires_grad=True)
        losses.total(losses(real, fake)).backward()
        assert bool(torch.isfinite(fake.grad).all())


def test_total_is_the_weighted_sum():
    losses = Losses(LossConfig(complex_weight=2.0, magnitude_weight=3.0, mel_weight=5.0, commitment_weight=7.0), 16000)
    values = {"complex": 1.0, "magnitude": 10.0, "mel": 100.0, "commitment": 1000.0}
    total = losses.total({name: torch.tensor(value) for name, value in values.items()})
    assert float(total) == 2 + 30 + 500 + 7000


def test_impossible_settings_are_refused():
    with pytest.raises(InputError, match="must be lists of one length"):
        LossConfig(n_mels=(20, 40))
    with pytest.raises(InputError, match="n_mels 80 must be from 1 to an eighth of its mel_n_fft 256"):
        LossConfig(mel_n_fft=(256,), n_mels=(80,))


def test_mel_filters_cover_their_bands_and_average(losses):
    for n_fft, n_mels in zip(LossConfig().mel_n_fft, LossConfig().n_mels, strict=True):
        bank = losses.get_buffer(f"mel_{n_fft}")
        assert bank.shape == (n_fft // 2 + 1, n_mels)
        assert torch.allclose(bank.sum(0), torch.ones(n_mels), atol=1e-5)
