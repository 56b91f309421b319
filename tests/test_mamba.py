import math

import pytest
import torch
from torch import Tensor

from spectok.model.bottleneck.mamba import Mamba, TwoWayMamba

WIDTH, LENGTH, STATES, TAPS = 6, 9, 8, 4


def sequence(rows: int = 2) -> Tensor:
    return torch.randn(rows, LENGTH, WIDTH, dtype=torch.float64)


def mamba() -> Mamba:
    layer = Mamba(WIDTH).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


@torch.no_grad()
def test_mamba_is_its_recurrence() -> None:
    """Mamba, algorithm 2 and the block around it, one row, one position and one channel at a time."""
    layer, x = mamba(), sequence()
    for row, output in zip(x, layer(x), strict=True):
        u, gate = (row @ layer.to_input_and_gate.weight.T).split(WIDTH, dim=1)
        u = torch.cat([torch.zeros(TAPS - 1, WIDTH), u])
        state = torch.zeros(WIDTH, STATES, dtype=torch.float64)
        for position in range(LENGTH):
            heard = (u[position : position + TAPS] * layer.conv.weight[:, 0].T).sum(0) + layer.conv.bias
            heard = heard * torch.sigmoid(heard)
            step, inward, outward = (heard @ layer.to_parameters.weight.T).split([1, STATES, STATES])
            step = torch.log1p(torch.exp(step @ layer.to_step.weight.T + layer.to_step.bias))
            y = layer.skip * heard
            for channel in range(WIDTH):
                for n in range(STATES):
                    decay = math.exp(-step[channel] * math.exp(layer.log_decay[channel, n]))
                    state[channel, n] = decay * state[channel, n] + step[channel] * inward[n] * heard[channel]
                    y[channel] += outward[n] * state[channel, n]
            expected = (y * gate[position] * torch.sigmoid(gate[position])) @ layer.out.weight.T
            torch.testing.assert_close(output[position], expected, rtol=0, atol=1e-10)


def test_one_way_depends_on_earlier_positions_and_two_ways_on_all() -> None:
    x = sequence(1).requires_grad_()
    heard = torch.autograd.grad(mamba()(x)[0, 4].sum(), x)[0][0].any(1)
    assert heard.tolist() == [True] * 5 + [False] * 4
    heard = torch.autograd.grad(TwoWayMamba(WIDTH).double()(x)[0, 4].sum(), x)[0][0].any(1)
    assert heard.tolist() == [True] * LENGTH


@torch.no_grad()
def test_the_scan_down_is_the_scan_up_of_the_reversed_sequence() -> None:
    layer, x = TwoWayMamba(WIDTH).double(), sequence()
    up_of_reversed = layer.down(x.flip(1)).flip(1)
    torch.testing.assert_close(layer(x), (layer.up(x) + up_of_reversed) / math.sqrt(2), rtol=0, atol=1e-14)
    layer.down.load_state_dict(layer.up.state_dict())
    torch.testing.assert_close(layer(x.flip(1)), layer(x).flip(1), rtol=0, atol=1e-14)


@torch.no_grad()
def test_states_start_with_time_constants_of_one_to_hundreds_of_positions() -> None:
    layer = Mamba(32)
    steps = torch.nn.functional.softplus(layer.to_step.bias)
    constants = 1 / (steps[:, None] * layer.log_decay.exp())
    assert float(constants.min()) == pytest.approx(1 / 8, rel=1e-4)
    assert float(constants.max()) == pytest.approx(100, rel=1e-4)


def test_macs_of_the_scan() -> None:
    assert Mamba(WIDTH).macs(7, LENGTH) == 7 * LENGTH * WIDTH * STATES * 3  # decay, drive and output
