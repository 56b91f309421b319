"""Combines the gradients of the losses at the codec's output, with their weights."""

import torch
from torch import Tensor

from spectok.training import distributed
from spectok.training.losses import LossConfig

BALANCED = ("adversarial", "feature", "recognizer")  # losses by networks, whose gradients have no fixed scale


class Balancer:
    """Weight losses by `LossConfig`, and keep running averages of the norms of their gradients.

    The reconstruction losses are summed with their weights. The losses `BALANCED` have no fixed scale. If
    `config.balance` is set, their weight is the ratio of the norm of their gradient to that of the reconstruction
    losses, both averaged over recent steps (after EnCodec's balancer, arXiv 2210.13438, section 3.4).

    Args:
        config: the weights.
        decay: decay of the running averages of the squared norms.
    """

    def __init__(self, config: LossConfig, decay: float = 0.99) -> None:
        self.config, self.decay = config, decay
        self.squares: dict[str, Tensor] = {}  # running mean of the squared norm of each gradient, float64

    def combine(self, losses: dict[str, Tensor], output: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The gradient at the codec's output, and the norms of the unweighted gradients by name.

        Args:
            losses: scalars that depend on `output`.
            output: the codec's output, `[B, T]`, a leaf tensor.
        """
        weights = self.config.weights
        gradients = {name: torch.autograd.grad(loss, output, retain_graph=True)[0] for name, loss in losses.items()}
        total = torch.zeros_like(output)
        for name, gradient in gradients.items():
            if name not in BALANCED:
                total += weights[name] * gradient
        balanced = {name: gradient for name, gradient in gradients.items() if name in BALANCED}
        norms = self._measure(gradients | ({"reconstruction": total} if balanced else {}))
        for name, gradient in balanced.items():
            if self.config.balance:
                gradient = gradient * (self.squares["reconstruction"] / self.squares[name].clamp_min(1e-24)).sqrt()
            total = total + weights[name] * gradient.to(total.dtype)
        return total, norms

    def _measure(self, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
        """Norms of the gradients of the mean loss over all ranks' clips; updates the running averages."""
        squares = {name: gradient.square().sum().double() for name, gradient in gradients.items()}
        distributed.mean_(
            squares.values()
        )  # the whole batch's gradient is that of a rank divided by the number of ranks
        squares = {name: square / distributed.world() for name, square in squares.items()}
        for name, square in squares.items():
            before = self.squares.get(name, square)
            after = torch.where(torch.isfinite(before), torch.lerp(square, before, self.decay), square)
            self.squares[name] = torch.where(torch.isfinite(after), after, before)
        return {name: square.sqrt() for name, square in squares.items()}
