"""One gradient at the codec's output out of many losses: here, and only here, the weights apply."""

import torch
from torch import Tensor

from spectok.training import distributed
from spectok.training.losses import LossConfig

JUDGED = ("adversarial", "feature")  # losses whose scale the discriminators set


class Balancer:
    """Weigh losses by `LossConfig`, and remember how long their gradients are.

    The reconstruction losses are summed with their weights. Adversarial and feature losses have no scale of their own,
    so a balanced weight is the length of their gradient over that of the reconstruction's, both averaged over recent
    steps (after EnCodec's balancer, arXiv 2210.13438, section 3.4).

    Args:
        config: the weights.
        decay: of the running averages of the squared lengths.
    """

    def __init__(self, config: LossConfig, decay: float = 0.99) -> None:
        self.config, self.decay = config, decay
        self.squares: dict[str, Tensor] = {}  # running mean of the squared length, float64

    def combine(self, losses: dict[str, Tensor], fake: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The gradient for the codec's output, and the lengths of the unweighted gradients by name.

        Args:
            losses: scalars that depend on `fake`.
            fake: the codec's output, `[B, T]`, a leaf.
        """
        weights = self.config.weights
        gradients = {name: torch.autograd.grad(loss, fake, retain_graph=True)[0] for name, loss in losses.items()}
        total = torch.zeros_like(fake)
        for name, gradient in gradients.items():
            if name not in JUDGED:
                total += weights[name] * gradient
        judged = {name: gradient for name, gradient in gradients.items() if name in JUDGED}
        lengths = self._measure(gradients | ({"reconstruction": total} if judged else {}))
        for name, gradient in judged.items():
            if self.config.balance:
                gradient = gradient * (self.squares["reconstruction"] / self.squares[name].clamp_min(1e-24)).sqrt()
            total = total + weights[name] * gradient.to(total.dtype)
        return total, lengths

    def _measure(self, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
        """Lengths of the gradients of the mean over all ranks' clips; updates the running averages."""
        squares = {name: gradient.square().sum().double() for name, gradient in gradients.items()}
        distributed.mean_(squares.values())  # the whole batch's gradient is the ranks' own over their number
        squares = {name: square / distributed.world() for name, square in squares.items()}
        for name, square in squares.items():
            before = self.squares.get(name, square)
            after = torch.where(torch.isfinite(before), torch.lerp(square, before, self.decay), square)
            self.squares[name] = torch.where(torch.isfinite(after), after, before)
        return {name: square.sqrt() for name, square in squares.items()}
