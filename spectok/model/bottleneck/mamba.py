"""Mamba's selective scan in plain PyTorch, for sequences of a few dozen frequency positions."""

import math

import torch
from torch import Tensor, nn

from spectok.model.layers import linear, unit_gain_


class Mamba(nn.Module):
    """One direction of a selective state space, `[N, L, width]` to the same shape (arXiv 2312.00752, algorithm 2).

    Args:
        width: channels of the sequence, and inside the block (an expansion of 1).
        states: state variables of each channel.
        taps: length of the depthwise convolution before the scan.
    """

    def __init__(self, width: int, states: int = 8, taps: int = 4) -> None:
        super().__init__()
        self.states, self.rank = states, math.ceil(width / 16)
        self.to_input_and_gate = linear(width, 2 * width, bias=False)
        self.conv = nn.Conv1d(width, width, taps, groups=width)
        self.to_parameters = linear(width, self.rank + 2 * states, bias=False)
        self.to_step = linear(self.rank, width)
        steps = torch.exp(torch.linspace(math.log(1e-2), 0.0, width))  # longer steps than Mamba's, for short sequences
        unit_gain_(self.conv)
        with torch.no_grad():
            self.to_step.bias.copy_(steps + torch.log(-torch.expm1(-steps)))  # the inverse of softplus
        self.log_decay = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(width, 1))
        self.skip = nn.Parameter(torch.ones(width))
        self.out = linear(width, width, gain=4.0, bias=False)  # the two gates reduce the level to a quarter

    def forward(self, x: Tensor) -> Tensor:
        """Run from the first position to the last."""
        u, gate = self.to_input_and_gate(x).chunk(2, dim=-1)
        u = nn.functional.pad(u.transpose(1, 2), (self.conv.kernel_size[0] - 1, 0))
        u = nn.functional.silu(self.conv(u)).transpose(1, 2)
        step, inward, outward = self.to_parameters(u).split([self.rank, self.states, self.states], dim=-1)
        step = nn.functional.softplus(self.to_step(step))
        y = self.scan(u, step, inward, outward) + self.skip * u
        out: Tensor = self.out(y * nn.functional.silu(gate))
        return out

    def scan(self, u: Tensor, step: Tensor, inward: Tensor, outward: Tensor) -> Tensor:
        """h_l = exp(step_l A) h_(l-1) + step_l inward_l u_l, y_l = outward_l h_l, for every channel.

        Args:
            u: `[N, L, width]`.
            step: step size of the discretisation, `[N, L, width]`, positive.
            inward: B, `[N, L, states]`.
            outward: C, `[N, L, states]`.
        """
        decay = torch.exp(step.unsqueeze(-1) * -torch.exp(self.log_decay))  # [N, L, width, states]
        drive = (step * u).unsqueeze(-1) * inward.unsqueeze(2)
        state, states = torch.zeros_like(drive[:, 0]), []
        for kept, added in zip(decay.unbind(1), drive.unbind(1), strict=True):
            state = torch.addcmul(added, kept, state)
            states.append(state)
        return (torch.stack(states, dim=1) @ outward.unsqueeze(-1)).squeeze(-1)

    def macs(self, rows: int, length: int) -> int:
        """Multiply-accumulates of the scan: decay, drive and output of every state."""
        return 3 * rows * length * self.log_decay.numel()


class TwoWayMamba(nn.Module):
    """The sum of a scan up and a scan down: each position depends on all others, `[N, L, width]` to the same shape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = Mamba(width), Mamba(width)

    def forward(self, x: Tensor) -> Tensor:
        """Scan both ways."""
        y: Tensor = (self.up(x) + self.down(x.flip(1)).flip(1)) / math.sqrt(2)
        return y
