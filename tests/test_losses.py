"""The losses: zero for equal signals, equal to values computed by hand, finite at silence."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from spectok.errors import InputError
from spectok.training.losses import LossConfig, Losses, adversarial_losses, decorrelation, pitch_loss

NAMES = ("complex", "magnitude", "mel", "stft", "level")
WEIGHTS = (*NAMES, "adversarial", "feature", "commitment", "latent", "denoised", "decorrelation", "pitch", "recognizer")


@pytest.fixture
def losses() -> Losses:
    return Losses(LossConfig(stft_weight=1.0, level_weight=1.0), 16000)


@pytest.fixture
def noise() -> Tensor:
    return 0.1 * torch.randn(2, 16000, generator=torch.Generator().manual_seed(0))


def test_equal_signals_have_losses_of_zero(losses: Losses, noise: Tensor) -> None:
    assert {name: float(value) for name, value in losses(noise, noise).items()} == dict.fromkeys(NAMES, 0.0)


def test_silence_instead_of_a_loud_signal_gives_one(losses: Losses, noise: Tensor) -> None:
    values = losses(1e4 * noise, torch.zeros_like(noise))
    # The signal is far above the floors of energy and magnitude; the tolerance covers their effect.
    assert float(values["complex"]) == pytest.approx(1.0, abs=5e-3)
    assert float(values["magnitude"]) == pytest.approx(1.0, abs=5e-3)


def test_only_the_complex_loss_depends_on_phase(losses: Losses, noise: Tensor) -> None:
    values = losses(10 * noise, -10 * noise)
    assert float(values["complex"]) == pytest.approx(4.0, abs=2e-2)  # |s - (-s)|² = 4 |s|²
    assert float(values["magnitude"]) == pytest.approx(0.0, abs=1e-6)
    assert float(values["mel"]) == pytest.approx(0.0, abs=1e-6)


def test_the_complex_loss_may_end_at_a_frequency(noise: Tensor) -> None:
    values = Losses(LossConfig(), 16000, phase_below=2000.0)(10 * noise, -10 * noise)
    assert float(values["complex"]) == pytest.approx(4.0 / 4, abs=5e-2)  # of white noise, a quarter lies below
    high = torch.sin(2 * math.pi * 5000 / 16000 * torch.arange(16000))[None]
    assert float(Losses(LossConfig(), 16000, phase_below=2000.0)(high, -high)["complex"]) < 5e-3  # 4 without the limit


def test_losses_of_a_gain_follow_the_formulas(losses: Losses, noise: Tensor) -> None:
    values = losses(10 * noise, 40 * noise)
    # A gain of 4 is a gain of 2 after the square root of the power law: (2 - 1)² of the energy.
    assert float(values["magnitude"]) == pytest.approx(1.0, abs=5e-3)
    assert float(values["complex"]) == pytest.approx(1.0, abs=5e-3)
    assert float(values["mel"]) == pytest.approx(math.log(4), abs=2e-2)  # not exact because of the floor


def test_clips_count_equally_whatever_their_loudness(losses: Losses, noise: Tensor) -> None:
    decoded = noise.roll(1, dims=1)
    loud = losses(100 * noise, 100 * decoded)
    louder = losses(400 * noise, 400 * decoded)
    for name in ("complex", "magnitude"):
        assert float(loud[name]) == pytest.approx(float(louder[name]), rel=1e-4)


def test_gradients_are_finite_at_silence(losses: Losses, noise: Tensor) -> None:
    for original in (noise, torch.zeros_like(noise)):
        decoded = torch.zeros_like(noise, requires_grad=True)
        torch.stack(list(losses(original, decoded).values())).sum().backward()
        assert bool(decoded.grad.isfinite().all())


def test_the_stft_loss_of_a_gain_is_its_logarithm(losses: Losses, noise: Tensor) -> None:
    # At this level no magnitude is near the floor of -70 dB.
    assert float(losses(1e4 * noise, 2e4 * noise)["stft"]) == pytest.approx(math.log(2), abs=1e-4)
    assert float(losses(2e4 * noise, -1e4 * noise)["stft"]) == pytest.approx(math.log(2), abs=1e-4)
    assert float(losses(1e-6 * noise, 2e-6 * noise)["stft"]) < 1e-3  # both silent


def test_the_log_spectra_by_hand(losses: Losses, noise: Tensor) -> None:
    original, decoded, terms = noise, noise.flip(1) * torch.linspace(0, 1, 16000), []
    for n_fft in (1024, 2048):
        window = torch.hann_window(n_fft)
        frames = [x.unfold(1, n_fft, n_fft // 4) * window for x in (original, decoded)]
        logs = [torch.log(torch.fft.rfft(x).abs() * (2 / window.sum()) + 10 ** (-70 / 20)) for x in frames]
        terms.append((logs[0] - logs[1]).abs().mean())
    assert float(losses(original, decoded)["stft"]) == pytest.approx(float(sum(terms)) / 2, rel=1e-5)


def test_the_stft_loss_distinguishes_harmonics_from_noise_and_the_mel_loss_does_not(losses: Losses) -> None:
    """Above 2 kHz: the harmonics of 120 Hz in place of noise with the same power in every band of 240 Hz."""
    times = torch.arange(16000) / 16000
    voices = [
        sum(torch.cos(2 * math.pi * 120 * k * times + phase[k]) for k in range(17, 66)) / 50
        for phase in (2 * math.pi * torch.rand(2, 66))
    ]
    spectrum = torch.fft.rfft(torch.randn(16000))
    spectrum[:1980], spectrum[7860:] = 0, 0
    noise = torch.fft.irfft(spectrum)
    noise *= voices[0].square().mean().sqrt() / noise.square().mean().sqrt()
    same, other = (losses(voices[0][None], x[None]) for x in (voices[1], noise))
    assert float(other["stft"]) > 10 * float(same["stft"])
    assert float(other["stft"]) > 3 * float(other["mel"])


def test_the_pitch_loss_by_hand() -> None:
    """Two voiced hops and one that is not; the targets are Gaussians of one class, and the class "unvoiced"."""
    logits = torch.randn(1, 3, 6)
    position, voiced = torch.tensor([[1.0, 2.5, 3.0]]), torch.tensor([[True, True, False]])
    expected = 0.0
    for hop in (0, 1):
        target = torch.exp(-(torch.arange(5.0) - position[0, hop]).square() / 2)
        expected -= float((target / target.sum() * torch.log_softmax(logits[0, hop], 0)[:5]).sum()) / 3
    expected -= float(torch.log_softmax(logits[0, 2], 0)[5]) / 3
    assert float(pitch_loss(logits, position, voiced)) == pytest.approx(expected, rel=1e-5)


def test_the_level_loss_of_a_gain_is_its_logarithm(losses: Losses, noise: Tensor) -> None:
    assert float(losses(10 * noise, -40 * noise)["level"]) == pytest.approx(math.log(4), abs=1e-5)
    # The end of the second clip is louder: 14 of its 30 windows of 1,024 samples are inside it, and half of one.
    decoded = 10 * noise
    decoded[1, 8192:] *= 2
    windows = 10 * noise[1, 7680:8704]  # the window that is half inside
    both = 0.5 * math.log(float(decoded[1, 7680:8704].square().mean() / windows.square().mean()))
    expected = ((16000 - 8192 - 1024) // 512 + 1) * math.log(2) + both
    assert float(losses(10 * noise, decoded)["level"]) == pytest.approx(expected / (2 * 30), abs=1e-5)
    # Silence is as loud as the floor of -70 dB.
    silent = float(losses(torch.full((1, 4096), 0.1), torch.zeros(1, 4096))["level"])
    assert silent == pytest.approx(50 / 20 * math.log(10), abs=1e-4)


def test_the_level_loss_starts_at_its_share_of_the_budget(noise: Tensor) -> None:
    late = Losses(LossConfig(level_weight=1.0, level_start=0.5), 16000)
    early, later = late(noise, -2 * noise, 0.49), late(noise, -2 * noise, 0.5)
    assert set(later) - set(early) == {"level"}
    assert all(torch.equal(early[name], later[name]) for name in early)
    with pytest.raises(InputError, match=r"level_start is -0\.1, but must be from 0 to 1"):
        LossConfig(level_start=-0.1)


def test_long_windows_have_the_level_of_their_loudest_part(noise: Tensor) -> None:
    # A click 60 dB above the rest determines the level of the one long window, and of one or two in thirty short ones.
    original = 0.01 * noise
    original[:, 8192] = 160.0
    decoded = original.clone()
    decoded[:, 8192] /= 10
    terms = [float(_level((length,))(original, decoded)["level"]) for length in (1024, 16000)]
    assert terms == pytest.approx([2 / 30 * math.log(10), math.log(10)], rel=0.01)
    assert float(_level((1024, 16000))(original, decoded)["level"]) == pytest.approx(sum(terms) / 2, rel=1e-6)


def _level(windows: tuple[int, ...]) -> Losses:
    return Losses(LossConfig(level_weight=1.0, level_windows=windows), 16000)


def test_the_loss_of_a_batch_is_the_mean_of_the_losses_of_its_clips(losses: Losses, noise: Tensor) -> None:
    decoded = noise.flip(1) * torch.tensor([[0.5], [2.0]])
    together = losses(noise, decoded)
    alone = [losses(noise[row : row + 1], decoded[row : row + 1]) for row in range(2)]
    for name in NAMES:
        assert float(together[name]) == pytest.approx(float(alone[0][name] + alone[1][name]) / 2, rel=1e-5)


def test_two_draws_give_half_of_the_energy_distance(losses: Losses, noise: Tensor) -> None:
    draws = 0.1 * torch.randn(2, 2, 16000, generator=torch.Generator().manual_seed(1))
    together = losses(noise, draws.flatten(0, 1))
    for name in ("complex", "magnitude"):  # over the energy of the original, also between the draws
        ratio = float(losses.spectral(noise, 0 * noise)[name] / losses.spectral(draws[0], 0 * noise)[name])
        assert ratio == pytest.approx(1, abs=0.02)
    for name in ("mel", "stft", "level"):
        first, second = (float(losses(noise, draw)[name]) for draw in draws)
        between = float(losses(draws[0], draws[1])[name])
        assert float(together[name]) == pytest.approx((first + second - between) / 2, rel=1e-4)
    with pytest.raises(InputError, match=r"draws is 3, but must be 1 or 2"):
        LossConfig(draws=3)


def test_one_draw_favours_quiet_output_and_two_draws_the_level_of_the_original() -> None:
    """Noise against other noise: with one draw the best gain is too low, with two it is that of the original."""
    generator = torch.Generator().manual_seed(0)
    original, *draws = 0.1 * torch.randn(3, 8, 16000, generator=generator)
    losses = Losses(LossConfig(), 16000)
    gains = torch.arange(0.5, 1.5, 0.05)

    def best(*samples: Tensor) -> list[float]:
        """The gains that minimise the magnitude and mel losses."""
        values = [losses(original, gain * torch.cat(samples)) for gain in gains]
        return [float(gains[int(torch.stack([v[name] for v in values]).argmin())]) for name in ("magnitude", "mel")]

    assert best(draws[0])[0] == pytest.approx(0.85, abs=0.01)
    assert best(*draws) == pytest.approx([1.0, 1.0], abs=0.01)


def test_weights_by_name() -> None:
    given: dict[str, Any] = {f"{name}_weight": float(n) for n, name in enumerate(WEIGHTS)}
    weights = LossConfig(**given).weights
    assert weights == {name: float(n) for n, name in enumerate(WEIGHTS)}
    assert {name for name, weight in LossConfig().weights.items() if weight} == {*NAMES[:3], "commitment"}


def test_either_weight_makes_a_run_adversarial() -> None:
    assert not LossConfig().is_adversarial
    assert LossConfig(adversarial_weight=0.1).is_adversarial
    assert LossConfig(feature_weight=0.1).is_adversarial


@pytest.mark.parametrize("name", NAMES)
def test_losses_of_weight_zero_are_not_computed(noise: Tensor, name: str) -> None:
    rest: dict[str, Any] = {f"{other}_weight": float(other != name) for other in NAMES}
    assert Losses(LossConfig(**rest), 16000)(noise, noise).keys() == set(NAMES) - {name}


def test_least_squares_by_hand() -> None:
    real, fake = [torch.tensor([1.0, 0.0]), torch.tensor([3.0])], [torch.tensor([0.5, -1.0]), torch.tensor([2.0])]
    maps = [[torch.ones(1)], [torch.ones(1)]]
    losses, error = adversarial_losses((real, maps), (fake, maps))
    # The codec: (0.25 + 4) / 2 and 1. The discriminators: (0 + 1) / 2 + (0.25 + 1) / 2 and 4 + 4.
    assert float(losses["adversarial"]) == (2.125 + 1) / 2
    assert float(error) == (1.125 + 8) / 2


def test_features_by_hand() -> None:
    real = [[torch.tensor([[2.0, -4.0]]), torch.tensor([[1.0, 1.0]])], [torch.tensor([[0.5, 0.0]])]]
    fake = [[torch.tensor([[1.0, -1.0]]), torch.tensor([[1.0, 3.0]])], [torch.tensor([[0.5, 1.0]])]]
    logits = [torch.zeros(1), torch.zeros(1)]
    # Mean differences of 2, 1 and 0.5, over mean magnitudes of 3, 1 and 0.25.
    expected = (2 / 3 + 1 + 2) / 3
    assert float(adversarial_losses((logits, real), (logits, fake))[0]["feature"]) == pytest.approx(expected, abs=1e-6)
    ten = [[[10 * x for x in layers] for layers in maps] for maps in (real, fake)]
    assert float(adversarial_losses((logits, ten[0]), (logits, ten[1]))[0]["feature"]) == pytest.approx(
        expected, abs=1e-6
    )
    silent, faint = [[torch.zeros(1, 2)]], [[torch.full((1, 2), -3e-4)]]
    # A magnitude below 1e-4 counts as 1e-4.
    losses, _ = adversarial_losses((logits[:1], silent), (logits[:1], faint))
    assert float(losses["feature"]) == pytest.approx(3.0, rel=1e-5)


def test_features_of_the_original_get_no_gradient_from_the_codec_losses() -> None:
    logits = [torch.randn(3, requires_grad=True) for _ in range(2)]
    maps = [torch.randn(3, 4, requires_grad=True) for _ in range(2)]
    losses, error = adversarial_losses(([logits[0]], [[maps[0]]]), ([logits[1]], [[maps[1]]]))
    (losses["adversarial"] + losses["feature"]).backward(retain_graph=True)
    assert [x.grad for x in (logits[0], maps[0])] == [None, None]
    assert float(logits[1].grad.abs().min()) > 0 and float(maps[1].grad.abs().min()) > 0
    error.backward()
    assert float(logits[0].grad.abs().max()) > 0 and maps[0].grad is None


def corners(dims: int, deviation: float = 1.2) -> Tensor:
    """`[1, 2^dims, 1, dims]`: independent dimensions of exactly this deviation."""
    return deviation * torch.tensor(list(itertools.product((-1.0, 1.0), repeat=dims)))[None, :, None]


def test_decorrelation_is_zero_for_independent_dimensions_of_the_right_deviation() -> None:
    assert float(decorrelation(corners(5))) == pytest.approx(0.0, abs=1e-12)
    latent = 1.2 * torch.randn(4, 500, 8, 5)
    # Of 16,000 rows, moments have a variance of 1/16,000, squares of 2/16,000: (20 + 2 * 5) / 25 of that is expected.
    assert 0 < float(decorrelation(latent)) < 3 * 30 / 25 / 16000


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.1, 2.0])
def test_decorrelation_of_another_deviation(scale: float) -> None:
    assert float(decorrelation(scale * corners(4))) == pytest.approx((scale**2 - 1) ** 2 / 4, rel=1e-5)
    assert float(decorrelation(scale * corners(4, 0.7), 0.7)) == pytest.approx((scale**2 - 1) ** 2 / 4, rel=1e-5)


def test_decorrelation_counts_pairs_of_equal_dimensions() -> None:
    same = corners(1).expand(-1, -1, -1, 5)
    assert float(decorrelation(same)) == pytest.approx(20 / 25, rel=1e-6)
    half = torch.cat([corners(2), corners(2)], dim=-1)  # four dimensions, two of which repeat the others
    assert float(decorrelation(half)) == pytest.approx(4 / 16, rel=1e-6)


def test_minimising_decorrelation_reaches_the_deviation() -> None:
    for scale, sign in ((0.8, -1), (1.25, 1)):
        latent = (scale * corners(3)).requires_grad_()
        decorrelation(latent).backward()
        assert bool((latent.grad.sign() == sign * latent.detach().sign()).all())


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(InputError, match="must be lists of one length"):
        LossConfig(n_mels=(20, 40))
    with pytest.raises(InputError, match="n_mels 80 must be from 1 to an eighth of its mel_n_fft 256"):
        LossConfig(mel_n_fft=(256,), n_mels=(80,))
    for name in WEIGHTS:
        negative: dict[str, Any] = {f"{name}_weight": -0.1}
        with pytest.raises(InputError, match=rf"{name}_weight is -0\.1, but must not be negative"):
            LossConfig(**negative)
    with pytest.raises(InputError, match=r"adversarial_start is 1\.5, but must be from 0 to 1"):
        LossConfig(adversarial_start=1.5)
    for windows in ((), (1024, 1)):
        with pytest.raises(InputError, match=r"level_windows are \(.*\), but must be windows of at least 2 samples"):
            LossConfig(level_windows=windows)
    with pytest.raises(InputError, match=r"power is 0\.5, but must be at least 1"):
        LossConfig(power=0.5)


def test_audio_must_be_as_long_as_the_longest_window() -> None:
    assert LossConfig().longest == 2048
    assert LossConfig(spectral_n_fft=4096).longest == 4096
    for name in ("stft", "level"):  # theirs have 2,048 and 1,024 samples
        weight: dict[str, Any] = {f"{name}_weight": 1.0}
        short = LossConfig(mel_n_fft=(256,), n_mels=(20,), **weight)
        audio = torch.zeros(1, short.longest)
        assert float(Losses(short, 16000)(audio, audio)[name]) == 0.0


def test_mel_filters_cover_their_bands_and_average(losses: Losses) -> None:
    for n_fft, n_mels in zip(LossConfig().mel_n_fft, LossConfig().n_mels, strict=True):
        bank = losses.get_buffer(f"mel_{n_fft}")
        assert bank.shape == (n_fft // 2 + 1, n_mels)
        assert torch.allclose(bank.sum(0), torch.ones(n_mels), atol=1e-5)
