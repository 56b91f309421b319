"""The balancer: what it makes of losses whose gradients are known."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from spectok.training.balance import Balancer
from spectok.training.losses import LossConfig

WEIGHTS: dict[str, Any] = {
    "complex_weight": 2.0,
    "magnitude_weight": 0.0,
    "mel_weight": 3.0,
    "adversarial_weight": 0.5,
    "feature_weight": 4.0,
}
# Gradients of length 5, 13, 2 and 0.1.
SLOPES = {
    "complex": torch.tensor([[3.0, 4.0, 0.0]]),
    "mel": torch.tensor([[0.0, 5.0, 12.0]]),
    "adversarial": torch.tensor([[0.0, 0.0, -2.0]]),
    "feature": torch.tensor([[0.1, 0.0, 0.0]]),
}
RECONSTRUCTION = 2 * SLOPES["complex"] + 3 * SLOPES["mel"]


def step(balancer: Balancer, **slopes: list[float]) -> tuple[Tensor, dict[str, Tensor]]:
    """One combination of linear losses, `SLOPES` but for what is given."""
    fake = torch.zeros(1, 3, requires_grad=True)
    given = SLOPES | {name: torch.tensor([slope]) for name, slope in slopes.items()}
    return balancer.combine({name: (slope * fake).sum() for name, slope in given.items()}, fake)


@pytest.fixture
def balancer() -> Balancer:
    return Balancer(LossConfig(**WEIGHTS, balance=True))


def test_unbalanced_it_is_the_gradient_of_the_weighted_sum() -> None:
    config = LossConfig(**WEIGHTS, balance=False)
    fake = torch.randn(2, 50, requires_grad=True)
    target, mix = torch.randn(2, 50), torch.randn(50, 50)
    losses = {
        "complex": (fake - target).square().mean(),
        "mel": (fake @ mix).abs().mean(),
        "adversarial": (1 - (fake @ mix).tanh()).square().mean(),
        "feature": (fake - target).abs().mean(),
    }
    (expected,) = torch.autograd.grad(
        torch.stack([config.weights[name] * loss for name, loss in losses.items()]).sum(), fake, retain_graph=True
    )
    gradient, _ = Balancer(config).combine(losses, fake)
    assert float((gradient - expected).norm() / expected.norm()) < 1e-6
    assert fake.grad is None  # nothing but the return value carries it


def test_balanced_a_judged_loss_is_as_long_as_its_weight_says(balancer: Balancer) -> None:
    gradient, _ = step(balancer)
    length = float(RECONSTRUCTION.norm())
    expected = RECONSTRUCTION + torch.tensor([[4.0 * length, 0.0, -0.5 * length]])
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=0)


def test_the_scale_of_a_judged_loss_is_nothing_to_the_balance(balancer: Balancer) -> None:
    louder = Balancer(balancer.config)
    gradient, _ = step(balancer)
    other, _ = step(louder, adversarial=[0.0, 0.0, -2e4], feature=[1e-5, 0.0, 0.0])
    torch.testing.assert_close(other, gradient, rtol=1e-6, atol=0)


def test_lengths_are_those_of_the_unweighted_gradients(balancer: Balancer) -> None:
    _, lengths = step(balancer)
    found = {name: float(length) for name, length in lengths.items()}
    expected = {name: float(slope.norm()) for name, slope in SLOPES.items()}
    assert found == pytest.approx(expected | {"reconstruction": float(RECONSTRUCTION.norm())}, rel=1e-6)


def test_without_judged_losses_there_is_nothing_to_balance(balancer: Balancer) -> None:
    fake = torch.zeros(1, 3, requires_grad=True)
    losses = {name: (SLOPES[name] * fake).sum() for name in ("complex", "mel")}
    gradient, lengths = balancer.combine(losses, fake)
    assert torch.equal(gradient, RECONSTRUCTION)
    assert lengths.keys() == {"complex", "mel"}


def test_averages_by_hand(balancer: Balancer) -> None:
    balancer = Balancer(balancer.config, decay=0.75)
    step(balancer)
    assert float(balancer.squares["adversarial"]) == 4.0
    step(balancer, adversarial=[0.0, 0.0, 6.0])
    assert float(balancer.squares["adversarial"]) == 0.75 * 4 + 0.25 * 36
    gradient, lengths = step(balancer, adversarial=[0.0, 0.0, -10.0])
    square = 0.75 * 12 + 0.25 * 100
    assert float(balancer.squares["adversarial"]) == square
    assert float(lengths["adversarial"]) == 10.0
    assert float(balancer.squares["complex"]) == 25.0
    length = float(RECONSTRUCTION.norm())
    expected = RECONSTRUCTION + torch.tensor([[4 * length, 0, -0.5 * 10 * length / math.sqrt(square)]])
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=0)
    assert {square.dtype for square in balancer.squares.values()} == {torch.float64}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_gradient_leaves_the_averages_as_they_were(balancer: Balancer, bad: float) -> None:
    step(balancer)
    before = dict(balancer.squares)
    gradient, lengths = step(balancer, complex=[bad, 0.0, 0.0], adversarial=[bad, 0.0, 0.0])
    assert not bool(torch.isfinite(gradient).all())  # so that the trainer sees it
    assert not math.isfinite(lengths["adversarial"])
    assert balancer.squares == before  # feature and mel had the same lengths again
    good, _ = step(balancer)
    torch.testing.assert_close(good, step(Balancer(balancer.config))[0], rtol=1e-6, atol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_first_gradient_is_forgotten(balancer: Balancer, bad: float) -> None:
    step(balancer, complex=[bad, 0.0, 0.0], adversarial=[bad, 0.0, 0.0])
    good, _ = step(balancer)
    torch.testing.assert_close(good, step(Balancer(balancer.config))[0], rtol=1e-6, atol=0)


def test_a_judged_loss_that_says_nothing_adds_nothing(balancer: Balancer) -> None:
    gradient, _ = step(balancer, adversarial=[0.0, 0.0, 0.0], feature=[0.0, 0.0, 0.0])
    torch.testing.assert_close(gradient, RECONSTRUCTION, rtol=1e-6, atol=0)
