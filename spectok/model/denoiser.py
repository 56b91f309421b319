"""The denoiser removes noise and reverberation from the spectrum before an encoder that is robust."""

import math

import torch
from torch import Tensor, nn

from spectok.model.layers import GRU, linear
from spectok.model.streaming import State, Streaming, Timing


class Denoiser(Streaming):
    """Multiply each bin of a power-law spectrum `[B, 2, F, Q]` by a gain from 0 to 2, which depends on its past.

    Two GRUs along time estimate the gains from the magnitudes of all bins (DNS-style masking as in NSNet2, S. Braun and
    I. Tashev, arXiv 2008.06412). Gains over 1 are for speech that the leveller made too quiet because of the noise. The
    output layer starts at zero, so that all gains are 1: an untrained layer changes nothing.

    Args:
        positions: Q, the number of bins.
        hidden: width of the GRUs.
    """

    timing = Timing(receptive_field=math.inf)

    def __init__(self, positions: int, hidden: int) -> None:
        super().__init__()
        self.input = nn.Sequential(linear(positions, hidden), nn.SiLU())
        self.grus = nn.ModuleList(GRU(hidden, hidden) for _ in range(2))
        self.output = linear(2 * hidden, positions)
        nn.init.zeros_(self.output.weight)

    def init_state(self, batch: int) -> State:
        """The hidden states, `[B, hidden]` each."""
        return tuple(self.zeros(batch, gru.hidden_size) for gru in self.grus)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Run along time."""
        magnitude = torch.sqrt(x.square().sum(1) + 1e-8)  # [B, F, Q]
        features = self.input(magnitude).transpose(0, 1)
        outputs, after = [], []
        for gru, before in zip(self.grus, state, strict=True):
            features, hidden = gru(features, before[None])
            outputs.append(features)
            after.append(hidden.squeeze(0))
        gains = 2 * torch.sigmoid(self.output(torch.cat(outputs, dim=-1).transpose(0, 1)))
        return x * gains[:, None], tuple(after)
