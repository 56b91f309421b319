"""Concealment of lost frames: a correction of the frames that stand in for them."""

import math

import torch
from torch import Tensor, nn

from spectok.model.layers import GRU, linear
from spectok.model.streaming import State, Streaming, Timing


class Concealment(Streaming):
    """What to add to the decoder's input for frames that are lost and repeat the last frame that arrived.

    A GRU along the frames `[B, F, inputs + 1]` predicts how speech goes on. The last channel is 1 where a frame is lost
    and 0 elsewhere. The output `[B, F, width]` is 0 for frames that arrived, so that streams without loss do not change
    by it. The output layer starts at zero: an untrained layer repeats the last frame.

    Args:
        inputs: numbers in a quantized frame.
        hidden: width of the GRU.
        width: of the decoder's frames.
    """

    timing = Timing(receptive_field=math.inf)

    def __init__(self, inputs: int, hidden: int, width: int) -> None:
        super().__init__()
        self.gru = GRU(inputs + 1, hidden)
        self.out = linear(hidden, width)
        nn.init.zeros_(self.out.weight)

    def init_state(self, batch: int) -> State:
        """The hidden state, `[B, hidden]`."""
        return (self.zeros(batch, self.gru.hidden_size),)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Run along time."""
        y, hidden = self.gru(x.transpose(0, 1), state[0][None])
        return self.out(y.transpose(0, 1)) * x[..., -1:], (hidden.squeeze(0),)


def repeated(frames: Tensor, lost: Tensor) -> Tensor:
    """Frames `[B, F, ...]` with each lost one replaced by the last that arrived before it; the first must have arrived.

    Args:
        frames: of any kind.
        lost: bool `[B, F]`.
    """
    numbers = torch.arange(lost.shape[1], device=lost.device)
    last = torch.where(lost, 0, numbers).cummax(dim=1).values
    return frames[torch.arange(len(lost), device=lost.device)[:, None], last]
