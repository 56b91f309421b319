"""The leveller brings speech of any loudness to one level, before an encoder that is robust to noise and loudness."""

import math

import torch
from torch import Tensor

from spectok.model.streaming import State, Streaming, Timing

TARGET_DB = -23.0  # of the level in dB of full scale: of the loud parts, which the level follows
SECONDS = 8.0  # after which a sound counts 1 / e in the level
PRIOR_HOPS = 1.0  # number of hops at the target level that always count: they bound the gain of quiet input


class Leveller(Streaming):
    """Multiply audio `[B, T]` by a gain that brings its level to `TARGET_DB`; T is a multiple of `hop_length`.

    The level is the mean of the energies of all hops up to now, in which each hop has its own energy as its weight and
    old hops count less. The weights make pauses and quiet noise irrelevant, and the same speech at another loudness
    gets the same level after its first loud hops, up to the prior. The gain is linear within a hop.

    The matrix of the decay has a row and a column for each hop of a step, so that steps should be at most some seconds
    long.
    """

    def __init__(self, hop_length: int, sample_rate: int) -> None:
        super().__init__()
        self.hop_length = hop_length
        self.timing = Timing(receptive_field=math.inf, block=hop_length)
        self.decay = hop_length / (sample_rate * SECONDS)  # of the logarithm of a weight, in each hop
        ramp = torch.arange(1, hop_length + 1) / hop_length
        self.register_buffer("ramp", ramp, persistent=False)
        self.ramp: Tensor

    def init_state(self, batch: int) -> State:
        """Sums of weighted energies and of weights `[B, 1]` each, and the logarithm of the last gain, `[B, 1]`."""
        return self.zeros(batch, 1), self.zeros(batch, 1), self.zeros(batch, 1)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Measure the level in each hop and apply the gain."""
        hops = x.unflatten(1, (-1, self.hop_length))
        energy = hops.square().mean(-1) * 10 ** (-TARGET_DB / 10)  # [B, H], relative to the target
        ages = torch.arange(energy.shape[1], device=x.device, dtype=x.dtype)
        ages = ages[:, None] - ages  # of hop s at hop t, [H, H]
        decay = torch.exp(-self.decay * ages.clamp_min(0)) * (ages >= 0)
        left = torch.exp(-self.decay * (ages[:, 0] + 1))  # of the sums before this step, [H]
        weighted = energy.square() @ decay.T + state[0] * left
        weights = energy @ decay.T + state[1] * left
        gain = -0.5 * torch.log((weighted + PRIOR_HOPS) / (weights + PRIOR_HOPS))
        before = torch.cat([state[2], gain[:, :-1]], dim=1)
        levelled = hops * (torch.exp(before)[..., None] * (1 - self.ramp) + torch.exp(gain)[..., None] * self.ramp)
        return levelled.flatten(1), (weighted[:, -1:], weights[:, -1:], gain[:, -1:])
