"""The denoiser removes noise and reverberation from the spectrum before an encoder that is robust."""

import math

import torch
from torch import Tensor, nn

from spectok.model.layers import GRU, linear, nearness
from spectok.model.streaming import State, Streaming, Timing

BANDS = 64  # of the gains: single bins at low frequencies, and as wide as a share of their frequency at high ones
QUIETEST = 1e-3  # energy of a band below which it counts as silence; speech has about 1


def band_centres(positions: int) -> Tensor:
    """Centres of the bands in bins, `[bands]`, from 0 to `positions - 1`.

    Each is one bin above the one before, or a constant share of its frequency if that is more; few positions have a
    band each.
    """
    if positions <= BANDS:
        return torch.arange(float(positions))
    low, high = 0.0, 1.0
    centres = torch.zeros(BANDS)
    for _ in range(60):
        share = (low + high) / 2
        for band in range(1, BANDS):
            before = float(centres[band - 1])
            centres[band] = before + max(1.0, share * before)
        low, high = (low, share) if centres[-1] > positions - 1 else (share, high)
    return centres * ((positions - 1) / centres[-1])


class Denoiser(Streaming):
    """Multiply a power-law spectrum `[B, 2, F, Q]` by gains from 0 to 2 in bands, which depend on its past.

    Two GRUs along time estimate the gains from the logarithms of the bands' energies, as in RNNoise (J.-M. Valin, arXiv
    1709.08243); the gain of a bin is linear between those of the two nearest bands. Gains over 1 are for speech that
    the leveller made too quiet because of the noise. The output layer starts at zero, so that all gains are 1: an
    untrained layer changes nothing.

    Args:
        positions: Q, the number of bins.
        hidden: width of the GRUs.
    """

    timing = Timing(receptive_field=math.inf)

    def __init__(self, positions: int, hidden: int) -> None:
        super().__init__()
        centres = band_centres(positions)
        shares = nearness(centres, torch.arange(float(positions)))
        self.register_buffer("nearness", shares, persistent=False)
        self.register_buffer("mean", shares / shares.sum(0), persistent=False)
        self.nearness: Tensor
        self.mean: Tensor
        self.hidden = hidden
        self.input = nn.Sequential(linear(len(centres), hidden), nn.SiLU())
        self.grus = nn.ModuleList(GRU(hidden, hidden) for _ in range(2))
        self.output = linear(2 * hidden, len(centres))
        nn.init.zeros_(self.output.weight)

    def init_state(self, batch: int) -> State:
        """The hidden states, `[B, hidden]` each."""
        return tuple(self.zeros(batch, self.hidden) for _ in self.grus)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Run along time."""
        energies = x.square().sum(1) @ self.mean  # [B, F, bands]
        features = self.input(torch.log(energies + QUIETEST) / 2 + 1).transpose(0, 1)
        outputs, after = [], []
        for gru, before in zip(self.grus, state, strict=True):
            features, hidden = gru(features, before[None])
            outputs.append(features)
            after.append(hidden.squeeze(0))
        gains = 2 * torch.sigmoid(self.output(torch.cat(outputs, dim=-1).transpose(0, 1)))
        return x * (gains @ self.nearness.T)[:, None], tuple(after)
