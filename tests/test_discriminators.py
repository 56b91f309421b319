"""The discriminators: their sizes, their sums against other computations, and which of them a step uses."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from spectok.errors import InputError
from spectok.training.discriminators import (
    BandSTFTDiscriminator,
    DiscriminatorConfig,
    Discriminators,
    LogSpectrumDiscriminator,
    MultiBandSTFTDiscriminator,
    MultiPeriodDiscriminator,
    PeriodDiscriminator,
    RecognizerDiscriminator,
)
from spectok.training.whisper import COMPARED, WIDTH

SMALL = DiscriminatorConfig(periods=(2, 3, 5), period_channels=(2, 4), windows=(512, 256, 64), band_channels=2)
PAPERS = DiscriminatorConfig(period_channels=(32, 128, 512, 1024, 1024), band_channels=32)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def used(module: MultiPeriodDiscriminator | MultiBandSTFTDiscriminator) -> tuple[int, ...]:
    """The discriminators that one call uses."""
    called: list[int] = []
    hooks = [
        discriminator.register_forward_hook(lambda *_, n=n: called.append(n))
        for n, discriminator in enumerate(module.discriminators)
    ]
    module(torch.randn(1, 600))
    for hook in hooks:
        hook.remove()
    return tuple(called)


def test_sizes_of_a_period_discriminator() -> None:
    logits, maps = PeriodDiscriminator(3, (2, 4, 6))(torch.randn(2, 200))
    # 201 samples make 67 frames of 3; two strides of 3 leave 23 and 8, the last layer keeps them.
    assert logits.shape == (2, 3, 8)
    assert [tuple(x.shape) for x in maps] == [(2, 6, 23), (2, 12, 8), (2, 18, 8)]


def test_sizes_of_a_band_discriminator() -> None:
    logits, maps = BandSTFTDiscriminator(512, (0.0, 0.1, 0.25, 0.5, 0.75, 1.0), 2)(torch.randn(2, 2000))
    # 257 bins in bands of 26, 38, 64, 65 and 64; 1 + 2000 // 128 frames.
    halves = [(26, 13, 7, 4), (38, 19, 10, 5), (64, 32, 16, 8), (65, 33, 17, 9), (64, 32, 16, 8)]
    widths = [width for band in halves for width in (*band, band[-1])]  # the last layer has no stride
    assert [tuple(x.shape) for x in maps] == [(2, 2, 16, width) for width in widths]
    assert logits.shape == (2, 1, 16, 4 + 5 + 8 + 9 + 8)


def test_sizes_of_a_log_spectrum_discriminator() -> None:
    logits, maps = LogSpectrumDiscriminator(512, (2, 4, 6))(torch.randn(2, 2000))
    assert [tuple(x.shape) for x in maps] == [(2, 2, 16, 129), (2, 4, 16, 65), (2, 6, 16, 33)]
    assert logits.shape == (2, 1, 16, 33)


def test_a_log_spectrum_discriminator_hears_levels_and_no_phases() -> None:
    """The sign of the audio changes nothing; a tenth of its amplitude lowers every level by log(100) / log(1e6)."""
    discriminator, seen = LogSpectrumDiscriminator(512, (2, 4)), list[torch.Tensor]()
    discriminator.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    audio = torch.randn(1, 2000)
    first, second = discriminator(audio)[0], discriminator(-audio)[0]
    torch.testing.assert_close(first, second, rtol=0, atol=1e-6)
    discriminator(audio / 10)
    fall = (seen[0] - seen[2])[:, 0]
    assert float(fall.median()) == pytest.approx(1 / 3, abs=1e-3)
    torch.testing.assert_close(seen[0][:, 1:], seen[2][:, 1:], rtol=0, atol=0)
    assert float(discriminator(torch.zeros(1, 2000))[0].detach().abs().max()) < 10


def test_sizes_of_a_recognizer_discriminator() -> None:
    logits, maps = RecognizerDiscriminator(6, 4)(torch.randn(2, 50, 6))
    assert [tuple(x.shape) for x in maps] == [(2, 4, 50), (2, 4, 50)]
    assert logits.shape == (2, 1, 50)


def test_a_recognizer_discriminator_sees_all_dimensions_at_one_scale() -> None:
    discriminator, features = RecognizerDiscriminator(6, 4), torch.randn(2, 50, 6)
    scaled = features * torch.tensor([1.0, 2.0, 5.0, 10.0, 50.0, 100.0]) + 3
    torch.testing.assert_close(discriminator(features)[0], discriminator(scaled)[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(discriminator(features)[0], discriminator.eval()(features)[0], rtol=0, atol=0)
    assert all("scale" not in name for name in discriminator.state_dict())


def test_what_a_recognizer_hears_comes_last() -> None:
    discriminators = Discriminators(dataclasses.replace(SMALL, recognizer_channels=4))
    heard = [torch.randn(2, 50, WIDTH) for _ in COMPARED]
    logits, maps = discriminators(torch.randn(2, 600), heard)
    assert [tuple(x.shape) for x in logits[6:]] == [(2, 1, 50)] * len(COMPARED)
    assert [len(layers) for layers in maps[6:]] == [2] * len(COMPARED)
    with pytest.raises(ValueError, match="shorter"):
        discriminators(torch.randn(2, 600), heard[:1])


def test_all_kinds_are_concatenated() -> None:
    logits, maps = Discriminators(dataclasses.replace(SMALL, log_windows=(256,), log_channels=(2, 3)))(
        torch.randn(2, 600)
    )
    assert (logits.pop().shape, len(maps.pop())) == ((2, 1, 10, 33), 2)
    assert [tuple(x.shape) for x in logits[:3]] == [(2, 2, 100), (2, 3, 67), (2, 5, 40)]
    assert [x.shape[:3] for x in logits[3:]] == [(2, 1, 5), (2, 1, 10), (2, 1, 38)]  # 1 + 600 // (window / 4) frames
    assert [len(layers) for layers in maps] == [2, 2, 2, 25, 25, 25]


@pytest.mark.parametrize("missing", ["periods", "windows"])
def test_one_kind_is_enough(missing: str) -> None:
    without: dict[str, Any] = {missing: ()}
    logits, maps = Discriminators(dataclasses.replace(SMALL, **without))(torch.randn(1, 600))
    assert len(logits) == len(maps) == 3


def test_what_a_recognizer_hears_is_enough() -> None:
    only = Discriminators(DiscriminatorConfig(periods=(), windows=(), recognizer_channels=4))
    logits, maps = only(torch.randn(2, 600), [torch.randn(2, 50, WIDTH) for _ in COMPARED])
    assert len(logits) == len(maps) == len(COMPARED)


@pytest.mark.parametrize("period", [2, 3])
def test_folding_into_the_batch_is_a_convolution_of_one_column(period: int) -> None:
    discriminator = PeriodDiscriminator(period, (3, 4, 5)).double()
    audio = torch.randn(2, 90 * period, dtype=torch.float64)
    logits, maps = discriminator(audio)
    x = audio.view(2, 1, -1, period)
    for layer, found in zip(discriminator.layers, maps, strict=True):
        assert isinstance(layer, nn.Conv1d)
        x = nn.functional.conv2d(x, layer.weight[..., None], layer.bias, (*layer.stride, 1), (2, 0))
        x = nn.functional.leaky_relu(x, 0.1)
        torch.testing.assert_close(found, x.permute(0, 3, 1, 2).flatten(1, 2), rtol=0, atol=1e-12)
    x = nn.functional.conv2d(x, discriminator.output.weight[..., None], discriminator.output.bias, 1, (1, 0))
    torch.testing.assert_close(logits, x[:, 0].transpose(1, 2), rtol=0, atol=1e-12)


def test_an_incomplete_period_is_padded_by_reflection() -> None:
    discriminator = PeriodDiscriminator(4, (2, 3)).double()
    audio = torch.randn(1, 10, dtype=torch.float64)
    whole = torch.cat([audio, audio[:, [8, 7]]], dim=1)
    torch.testing.assert_close(discriminator(audio)[0], discriminator(whole)[0], rtol=0, atol=1e-12)


def test_phases_are_processed_independently() -> None:
    discriminator = PeriodDiscriminator(3, (2, 3))
    audio = torch.randn(1, 300)
    other = audio.clone()
    other[:, 1::3] += 1
    apart = (discriminator(audio)[0] - discriminator(other)[0]).abs().amax(dim=2)[0]
    assert apart[0] == apart[2] == 0.0
    assert apart[1] > 1e-3


def test_each_bin_is_in_one_band() -> None:
    for window in (2048, 1024, 512, 256):
        bands = BandSTFTDiscriminator(window, DiscriminatorConfig().band_edges, 2).bands
        assert [bin for first, last in bands for bin in range(first, last)] == list(range(window // 2 + 1))


def test_clips_are_processed_independently() -> None:
    discriminators = Discriminators(SMALL)
    audio = torch.randn(3, 600)
    logits, maps = discriminators(audio)
    for row in range(3):
        alone, maps_alone = discriminators(audio[row : row + 1])
        together = [x[row : row + 1] for x in (*logits, *(x for layers in maps for x in layers))]
        # Of values of about 1, float32 keeps 1e-7; some 50 products are summed in another order.
        torch.testing.assert_close([*alone, *(x for layers in maps_alone for x in layers)], together, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("kind", "size"), [("period", 2), ("band", 1), ("log", 1)])
def test_a_step_uses_a_random_subset_of_the_configured_size(kind: str, size: int) -> None:
    log: dict[str, Any] = {"log_windows": (512, 256, 64), "log_windows_asked": 1}
    discriminators = Discriminators(dataclasses.replace(SMALL, periods_asked=2, windows_asked=1, **log))
    module = getattr(discriminators, kind)
    draws = []
    for seed in range(12):
        torch.manual_seed(seed)
        draws.append(used(module))
        torch.manual_seed(seed)
        assert used(module) == draws[-1]
    assert {len(set(draw)) for draw in draws} == {size}
    assert all(list(draw) == sorted(draw) for draw in draws)
    # Twelve draws of one or two in three leave one out with a chance of 3 (2/3)^12 = 2 %: these seeds do not.
    assert {n for draw in draws for n in draw} == {0, 1, 2}


def test_all_are_used_by_default() -> None:
    discriminators = Discriminators(SMALL)
    assert used(discriminators.period) == used(discriminators.band) == (0, 1, 2)


def test_the_papers_widths_have_the_papers_parameters() -> None:
    with torch.device("meta"):
        period, band = MultiPeriodDiscriminator(PAPERS), MultiBandSTFTDiscriminator(PAPERS)
    widths = [(1, 32), (32, 128), (128, 512), (512, 1024), (1024, 1024)]
    # Weights, and for each output channel its bias and the length of its weights; then the last convolution.
    one = sum(5 * a * b + 2 * b for a, b in widths) + 3 * 1024 + 2
    assert count(period) == 5 * one == 41_105_770  # HiFi-GAN's: 41.1 M
    stack = (2 * 27 + 3 * 32 * 27 + 32 * 9) * 32 + 5 * 2 * 32
    assert count(band) == 3 * (5 * stack + 9 * 32 + 2) == 1_413_990


def test_every_parameter_is_learned() -> None:
    discriminators = Discriminators(dataclasses.replace(SMALL, log_windows=(256, 64)))
    logits, _ = discriminators(torch.randn(2, 600))
    torch.stack([x.square().mean() for x in logits]).sum().backward()
    still = [name for name, parameter in discriminators.named_parameters() if not parameter.grad.abs().max() > 0]
    assert still == []


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"periods": (), "windows": ()}, "must be at least 2, and not all empty"),
        ({"periods": (1, 2)}, r"periods \(1, 2\), windows"),
        ({"windows": (512, 1)}, r"windows \(512, 1\) and log_windows"),
        ({"windows": (8,)}, r"windows \(8,\)"),  # 5 bins do not fill 5 bands
        ({"period_channels": ()}, r"period_channels \(\), band_channels 8 and log_channels .* must be positive"),
        ({"period_channels": (8, 0)}, r"period_channels \(8, 0\)"),
        ({"band_channels": 0}, "band_channels 0 and log_channels"),
        ({"log_channels": ()}, r"log_channels \(\) must be positive"),
        ({"log_channels": (8, 0)}, r"log_channels \(8, 0\) must be positive"),
        ({"periods_asked": 6}, "periods_asked is 6, but must be from 0 to the number of periods, 5"),
        ({"windows_asked": -1}, "windows_asked is -1, but must be from 0 to the number of windows, 3"),
        ({"log_windows_asked": 1}, "log_windows_asked is 1, but must be from 0 to the number of log_windows, 0"),
        ({"band_edges": (0.0,)}, r"band_edges \(0.0,\) must rise from 0 to 1"),
        ({"band_edges": (0.0, 0.5, 0.5, 1.0)}, "must rise from 0 to 1"),
        ({"band_edges": (0.1, 1.0)}, "must rise from 0 to 1"),
        ({"band_edges": (0.0, 0.9)}, "must rise from 0 to 1"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        DiscriminatorConfig(**wrong)
