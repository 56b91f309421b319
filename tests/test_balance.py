"""The balancer, with losses whose gradients are known."""

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
# Gradients of norm 5, 13, 2 and 0.1.
SLOPES = {
    "complex": torch.tensor([[3.0, 4.0, 0.0]]),
    "mel": torch.tensor([[0.0, 5.0, 12.0]]),
    "adversarial": torch.tensor([[0.0, 0.0, -2.0]]),
    "feature": torch.tensor([[0.1, 0.0, 0.0]]),
}
RECONSTRUCTION = 2 * SLOPES["complex"] + 3 * SLOPES["mel"]


def step(balancer: Balancer, **slopes: list[float]) -> tuple[Tensor, dict[str, Tensor]]:
    """Combine linear losses with the gradients `SLOPES`, some of them replaced."""
    output = torch.zeros(1, 3, requires_grad=True)
    given = SLOPES | {name: torch.tensor([slope]) for name, slope in slopes.items()}
    return balancer.combine({name: (slope * output).sum() for name, slope in given.items()}, output)


@pytest.fixture
def balancer() -> Balancer:
    return Balancer(LossConfig(**WEIGHTS, balance=True))


def test_without_balancing_it_is_the_gradient_of_the_weighted_sum() -> None:
    config = LossConfig(**WEIGHTS, balance=False)
    output = torch.randn(2, 50, requires_grad=True)
    target, mix = torch.randn(2, 50), torch.randn(50, 50)
    losses = {
        "complex": (output - target).square().mean(),
        "mel": (output @ mix).abs().mean(),
        "adversarial": (1 - (output @ mix).tanh()).square().mean(),
        "feature": (output - target).abs().mean(),
    }
    (expected,) = torch.autograd.grad(
        torch.stack([config.weights[name] * loss for name, loss in losses.items()]).sum(), output, retain_graph=True
    )
    gradient, _ = Balancer(config).combine(losses, output)
    assert float((gradient - expected).norm() / expected.norm()) < 1e-6
    assert output.grad is None  # the gradient is only returned


def test_a_balanced_gradient_has_the_norm_of_the_reconstruction_times_its_weight(balancer: Balancer) -> None:
    gradient, _ = step(balancer)
    norm = float(RECONSTRUCTION.norm())
    expected = RECONSTRUCTION + torch.tensor([[4.0 * norm, 0.0, -0.5 * norm]])
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=0)


def test_the_scale_of_a_balanced_loss_does_not_matter(balancer: Balancer) -> None:
    louder = Balancer(balancer.config)
    gradient, _ = step(balancer)
    other, _ = step(louder, adversarial=[0.0, 0.0, -2e4], feature=[1e-5, 0.0, 0.0])
    torch.testing.assert_close(other, gradient, rtol=1e-6, atol=0)


def test_norms_are_those_of_the_unweighted_gradients(balancer: Balancer) -> None:
    _, norms = step(balancer)
    found = {name: float(norm) for name, norm in norms.items()}
    expected = {name: float(slope.norm()) for name, slope in SLOPES.items()}
    assert found == pytest.approx(expected | {"reconstruction": float(RECONSTRUCTION.norm())}, rel=1e-6)


def test_reconstruction_losses_alone_are_not_balanced(balancer: Balancer) -> None:
    output = torch.zeros(1, 3, requires_grad=True)
    losses = {name: (SLOPES[name] * output).sum() for name in ("complex", "mel")}
    gradient, norms = balancer.combine(losses, output)
    assert torch.equal(gradient, RECONSTRUCTION)
    assert norms.keys() == {"complex", "mel"}


def test_averages_by_hand(balancer: Balancer) -> None:
    balancer = Balancer(balancer.config, decay=0.75)
    step(balancer)
    assert float(balancer.squares["adversarial"]) == 4.0
    step(balancer, adversarial=[0.0, 0.0, 6.0])
    assert float(balancer.squares["adversarial"]) == 0.75 * 4 + 0.25 * 36
    gradient, norms = step(balancer, adversarial=[0.0, 0.0, -10.0])
    square = 0.75 * 12 + 0.25 * 100
    assert float(balancer.squares["adversarial"]) == square
    assert float(norms["adversarial"]) == 10.0
    assert float(balancer.squares["complex"]) == 25.0
    norm = float(RECONSTRUCTION.norm())
    expected = RECONSTRUCTION + torch.tensor([[4 * norm, 0, -0.5 * 10 * norm / math.sqrt(square)]])
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=0)
    assert {square.dtype for square in balancer.squares.values()} == {torch.float64}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_gradient_leaves_the_averages_as_they_were(balancer: Balancer, bad: float) -> None:
    step(balancer)
    before = dict(balancer.squares)
    gradient, norms = step(balancer, complex=[bad, 0.0, 0.0], adversarial=[bad, 0.0, 0.0])
    assert not bool(torch.isfinite(gradient).all())  # so that the trainer sees it
    assert not math.isfinite(norms["adversarial"])
    assert balancer.squares == before  # feature and mel had the same norms again
    good, _ = step(balancer)
    torch.testing.assert_close(good, step(Balancer(balancer.config))[0], rtol=1e-6, atol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_first_gradient_is_forgotten(balancer: Balancer, bad: float) -> None:
    step(balancer, complex=[bad, 0.0, 0.0], adversarial=[bad, 0.0, 0.0])
    good, _ = step(balancer)
    torch.testing.assert_close(good, step(Balancer(balancer.config))[0], rtol=1e-6, atol=0)


def test_a_balanced_loss_without_gradient_adds_nothing(balancer: Balancer) -> None:
    gradient, _ = step(balancer, adversarial=[0.0, 0.0, 0.0], feature=[0.0, 0.0, 0.0])
    torch.testing.assert_close(gradient, RECONSTRUCTION, rtol=1e-6, atol=0)
