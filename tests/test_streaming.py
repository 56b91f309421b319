import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

from spectok.model.contract import run_chunks, verify_streaming
from spectok.model.streaming import Residual, Serial, State, Streaming, Timing, leaves


class Average(Streaming):
    """y[f] = w * (x[f] + x[f - 1] + ... + x[f - context]) / 4: the smallest layer with a memory."""

    def __init__(self, context: int = 2) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.context = context
        self.timing = Timing(receptive_field=context + 1)

    def init_state(self, batch: int) -> State:
        return (self.zeros(batch, 3, self.context, 5),) if self.context else ()

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        past = torch.cat([*state, x], dim=2)
        y = self.weight * past.unfold(2, self.context + 1, 1).sum(-1) / 4
        return y, self.keep(past, x)

    def keep(self, past: Tensor, x: Tensor) -> State:
        return (past[:, :, x.shape[2] :],) if self.context else ()


class Forgetful(Average):
    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        return super().step(x, state)[0], state


class TailOfTheChunk(Average):
    def keep(self, past: Tensor, x: Tensor) -> State:
        return (x[:, :, -self.context :],)


class MinusZero(Average):
    """A context of 0, whose tail `[-0:]` is the whole input."""

    def init_state(self, batch: int) -> State:
        return (self.zeros(batch, 3, 0, 5),)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        return self.weight * x, (torch.cat([state[0], x], dim=2)[:, :, -self.context :],)


class Peeking(Average):
    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, state = super().step(x, state)
        return y + nn.functional.pad(x[:, :, 1:], (0, 0, 0, 1)), state


class InPlace(Average):
    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, after = super().step(x, state)
        state[0].copy_(after[0])
        return y, state


class WritesItsInput(Average):
    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, state = super().step(x, state)
        with torch.no_grad():
            x.data.mul_(2)
        return y, state


class MixesRows(Average):
    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, state = super().step(x, state)
        return y - x.mean(dim=0, keepdim=True), state


class Detached(Average):
    """Correct outputs, but no gradient passes from one chunk to another."""

    def keep(self, past: Tensor, x: Tensor) -> State:
        return (past[:, :, x.shape[2] :].detach(),)


class BatchSecond(Average):
    def init_state(self, batch: int) -> State:
        return (super().init_state(batch)[0].transpose(0, 1),)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, after = super().step(x, (state[0].transpose(0, 1),))
        return y, (after[0].transpose(0, 1),)


class Constant(Average):
    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, state = super().step(x, state)
        return 0 * y + self.weight, state


class TwoImplementations(Average):
    """Causal in streaming, but not offline."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x.mean(dim=2, keepdim=True)


class RemembersInTheModule(Average):
    seen = 0.0

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, state = super().step(x, state)
        self.seen += 1
        return y + self.seen, state


class SaysTooLittle(Average):
    def __init__(self) -> None:
        super().__init__()
        self.timing = Timing(receptive_field=2)


class SaysTooMuch(Average):
    def __init__(self) -> None:
        super().__init__()
        self.timing = Timing(receptive_field=4)


class SaysRecurrent(Average):
    def __init__(self) -> None:
        super().__init__(context=0)
        self.timing = Timing(receptive_field=math.inf)


class SaysStrided(Average):
    def __init__(self) -> None:
        super().__init__()
        self.timing = Timing(Fraction(2), receptive_field=4)


def frames() -> Tensor:
    return torch.randn(3, 3, 11, 5)


@pytest.mark.parametrize("context", [0, 1, 2, 20])
def test_contract_accepts_the_smallest_layer(context: int) -> None:
    verify_streaming(Average(context), frames(), time_axis=2)


@pytest.mark.parametrize(
    ("broken", "clause"),
    [
        (Forgetful(), "do not give the offline output"),
        (TailOfTheChunk(), "the state's structure changed"),
        (MinusZero(0), "the state's structure changed"),
        (Peeking(), "do not give the offline output"),
        (InPlace(), "a step wrote into its state"),
        (WritesItsInput(), "a step wrote into its input"),
        (MixesRows(), "differs from the row alone"),
        (Detached(), "do not give the offline gradient of"),
        (BatchSecond(), "batch must be axis 0"),
        (Constant(), "does not depend on the input"),
        (TwoImplementations(), "do not give the offline output"),
        (RemembersInTheModule(), "do not give the offline output"),
        (SaysTooLittle(), "depends on more than the declared receptive field of 2 steps"),
        (SaysTooMuch(), "does not depend on the first step of the declared receptive field of 4"),
        (SaysRecurrent(), "does not depend on earlier blocks"),
        (SaysStrided(), "12 steps became 12, which is not the declared time stride 2"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Streaming) else "",
)
def test_contract_rejects_broken_layers_and_names_the_clause(broken: Average, clause: str) -> None:
    with pytest.raises(AssertionError, match=clause):
        verify_streaming(broken, torch.randn(3, 3, 12, 5), time_axis=2)


def test_timings_in_series_by_hand() -> None:
    """A transform of hop 160, two strided layers, an upsampling one, and the inverse of the transform."""
    transform = Timing(Fraction(160), receptive_field=320)
    assert (transform.block, transform.outputs) == (160, 1)
    down, up = Timing(Fraction(2), receptive_field=3), Timing(Fraction(1, 2), receptive_field=2)
    assert (down.block, down.outputs, up.block, up.outputs) == (2, 1, 1, 2)
    inverse = Timing(Fraction(1, 160), latency=Fraction(1), receptive_field=2)
    # 3 hops; the oldest depends on 160 more samples.
    assert transform.then(down) == Timing(Fraction(320), receptive_field=320 + 2 * 160, block=320)
    # The upsampling layer depends on two frames of the strided layers, which depend on 5 hops.
    both = down.then(up)
    assert both == Timing(Fraction(1), receptive_field=5, block=2)
    assert both.outputs == 2
    # The first of a block's two hops overlaps the last hop of the block before.
    whole = transform.then(both).then(inverse)
    assert whole == Timing(Fraction(1), Fraction(160), receptive_field=320 + 6 * 160, block=320)
    assert up.then(down) == Timing(Fraction(1), receptive_field=3, block=1)
    recurrent = Timing(receptive_field=math.inf)
    assert recurrent.then(down).receptive_field == down.then(recurrent).receptive_field == math.inf


def test_serial_and_residual_keep_the_contract() -> None:
    verify_streaming(Serial(Average(2), nn.Tanh(), Average(0), Average(3)), frames(), time_axis=2)
    verify_streaming(Residual(Average(2)), frames(), time_axis=2)
    nested = Serial(Residual(Serial(nn.Tanh(), Average(1))), Residual(Average(0)), Average(4))
    verify_streaming(nested, frames(), time_axis=2)
    verify_streaming(Serial(nn.Tanh()), frames(), time_axis=2)


def test_serial_is_its_layers_in_order_and_its_state_the_tuple_of_theirs() -> None:
    x, first, second = frames(), Average(2), Average(1)
    serial = Serial(first, nn.Tanh(), second)
    torch.testing.assert_close(serial(x), second(torch.tanh(first(x))), rtol=0, atol=0)
    state = serial.init_state(4)
    assert [len(part) for part in state] == [1, 0, 1]
    assert [tuple(leaf.shape) for leaf in leaves(state)] == [(4, 3, 2, 5), (4, 3, 1, 5)]


def test_serial_refuses_a_state_of_another_depth() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Serial(Average(1), Average(1)).step(frames(), (Average(1).init_state(3),))


def test_residual_adds_and_shares_the_state_of_its_layer() -> None:
    x, layer = frames(), Average(2)
    torch.testing.assert_close(Residual(layer)(x), x + layer(x), rtol=0, atol=0)
    assert [tuple(leaf.shape) for leaf in Residual(layer).init_state(2)] == [(2, 3, 2, 5)]


def test_stateless_layers_have_the_empty_state() -> None:
    assert Streaming().init_state(3) == ()
    assert Serial().init_state(3) == ()


def test_step_must_be_defined() -> None:
    with pytest.raises(TypeError, match="Streaming does not define step"):
        Streaming()(frames())


def test_zeros_take_the_dtype_of_parameters_or_buffers() -> None:
    assert Average().double().init_state(1)[0].dtype == torch.float64
    layer = Streaming()
    layer.register_buffer("window", torch.ones(2, dtype=torch.float16))
    assert layer.zeros(2, 3).dtype == torch.float16


def test_interleaved_streams_of_one_layer_are_independent() -> None:
    layer, a, b = Serial(Average(2), Average(1)), frames(), frames()
    state_a, state_b, outputs_a, outputs_b = layer.init_state(3), layer.init_state(3), [], []
    for chunk_a, chunk_b in zip(a.split(2, 2), b.split(2, 2), strict=True):
        y, state_a = layer.step(chunk_a, state_a)
        outputs_a.append(y)
        y, state_b = layer.step(chunk_b, state_b)
        outputs_b.append(y)
    sizes = [2, 2, 2, 2, 2, 1]
    assert torch.equal(torch.cat(outputs_a, 2), torch.cat(run_chunks(layer, a, sizes, 2), 2))
    assert torch.equal(torch.cat(outputs_b, 2), torch.cat(run_chunks(layer, b, sizes, 2), 2))
