"""Layers on the latent, one vector for each code frame: GRUs along time, and the dense paths from and to spectra.

Its shape is `[B, F, D]`: batch, code frames, width of the latent.
"""

import math

from torch import Tensor, nn

from spectok.model.layers import GRU, RMSNorm, linear
from spectok.model.streaming import State, Streaming, Timing


class LatentGRU(Streaming):
    """RMSNorm -> GRU along time -> linear, on `[B, F, D]`; the linear layer starts at zero. Used in a `Residual`."""

    timing = Timing(receptive_field=math.inf)

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = RMSNorm(width)
        self.gru = GRU(width, hidden)
        self.out = linear(hidden, width)
        nn.init.zeros_(self.out.weight)

    def init_state(self, batch: int) -> State:
        """The hidden state, `[B, hidden]`."""
        return (self.zeros(batch, self.gru.hidden_size),)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Run along time."""
        y, hidden = self.gru(self.norm(x).transpose(0, 1), state[0][None])
        return self.out(y.transpose(0, 1)), (hidden.squeeze(0),)


class DenseAnalysis(nn.Module):
    """Low-rank path from a code frame's whole spectrum to the latent, `[B, 2, F * s, Q]` to `[B, F, D]`.

    s is the time stride. The coded phases pass through this path.
    """

    def __init__(self, positions: int, time_stride: int, rank: int, latent_dim: int) -> None:
        super().__init__()
        self.time_stride = time_stride
        self.layers = nn.Sequential(linear(2 * positions * time_stride, rank), nn.SiLU(), linear(rank, latent_dim, 2.0))

    def forward(self, spectrum: Tensor) -> Tensor:
        """Gather each code frame's bins into one vector and project it."""
        batch, _, frames, _ = spectrum.shape
        y: Tensor = self.layers(spectrum.transpose(1, 2).reshape(batch, frames // self.time_stride, -1))
        return y


class DenseSynthesis(nn.Module):
    """Low-rank path from the latent to the whole spectrum of its code frame, `[B, F, D]` to `[B, 2, F * s, Q]`."""

    def __init__(self, positions: int, time_stride: int, rank: int, latent_dim: int) -> None:
        super().__init__()
        self.time_stride, self.positions = time_stride, positions
        self.layers = nn.Sequential(
            linear(latent_dim, rank), nn.SiLU(), linear(rank, 2 * positions * time_stride, gain=0.5)
        )

    def forward(self, latent: Tensor) -> Tensor:
        """Project each frame and spread it over its bins."""
        batch, frames, _ = latent.shape
        spectrum: Tensor = self.layers(latent).reshape(batch, frames * self.time_stride, 2, self.positions)
        return spectrum.transpose(1, 2)
