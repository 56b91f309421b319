"""The streaming contract: each layer has one implementation, and its state is an argument.

    offline     y        = layer(audio)                   one big step from the zero state
    streaming   y0, s1   = layer.step(chunk0, s0)
                y1, s2   = layer.step(chunk1, s1)         cat(y0, y1, ...) equals y for all chunk sizes

The zero state stands for zero padding on the left, so the start of a stream needs no special case. A state is a nested
tuple of tensors whose first axis is the batch; it is passed in and returned, never held by the module and never written
to, and its structure, shapes and dtypes never change. A layer without memory has the state `()`.

Each layer declares its `Timing`; `contract.py` checks that the declaration is true.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

State = tuple[Any, ...]  # nested tuples of tensors


def leaves(state: State) -> list[Tensor]:
    """The tensors of a nested tuple, in order."""
    assert isinstance(state, tuple), f"a state must be a nested tuple of tensors, but holds a {type(state).__name__}"
    return [leaf for item in state for leaf in ([item] if isinstance(item, Tensor) else leaves(item))]


def rebuilt(state: State, leaves: Iterator[Tensor]) -> State:
    """A state with the same nesting that contains the tensors `leaves`."""
    return tuple(next(leaves) if isinstance(item, Tensor) else rebuilt(item, leaves) for item in state)


@dataclass(frozen=True)
class Timing:
    """How a layer's output relates to its input in time. Steps are positions on the time axis: samples, hops, frames.

    Chunks hold whole blocks, and the output steps of a block depend on input steps up to the end of that block only.

    Args:
        time_stride: input steps for each output step: 2 halves the number of steps, 1/2 doubles it.
        latency: input steps by which the output lags behind the input once a block is complete.
        receptive_field: how many input steps, up to the end of its block, an output step depends on; infinite for
            recurrent layers.
        block: input steps in the shortest chunk; by default the shortest that gives a whole number of output steps.
    """

    time_stride: Fraction = Fraction(1)
    latency: Fraction = Fraction(0)
    receptive_field: float = 1
    block: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "block", self.block or self.time_stride.numerator)

    @property
    def outputs(self) -> int:
        """Output steps in a block."""
        return int(self.block / self.time_stride)

    def then(self, later: "Timing") -> "Timing":
        """The timing of a layer with this timing followed by a layer with the timing `later`."""
        block = self.block * (later.block // math.gcd(self.outputs, later.block))
        between = int(block / self.time_stride)  # steps that the first layer passes to the second in a block of both
        reach = later.receptive_field + between - later.block
        blocks = math.ceil(reach / self.outputs) if math.isfinite(reach) else math.inf
        return Timing(
            self.time_stride * later.time_stride,
            self.latency + later.latency * self.time_stride,
            self.receptive_field + (blocks - 1) * self.block,
            block,
        )


def in_series(layers: Iterable[nn.Module]) -> Timing:
    """The timing of layers one after another. Modules that are not `Streaming` do not change it."""
    timing = Timing()
    for layer in layers:
        timing = timing.then(layer.timing) if isinstance(layer, Streaming) else timing
    return timing


class Streaming(nn.Module):
    """A causal layer. Subclasses define `step`, `init_state` if they have a state, and `timing` if it differs."""

    timing = Timing()

    def init_state(self, batch: int) -> State:
        """The zero state for `batch` rows."""
        return ()

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Consume a chunk of whole blocks (see `Timing`); return the output and the next state."""
        raise TypeError(f"{type(self).__name__} does not define step")

    def forward(self, x: Tensor) -> Tensor:
        """Offline and training: one step from the zero state."""
        return self.step(x, self.init_state(x.shape[0]))[0]

    def zeros(self, *shape: int) -> Tensor:
        """Zeros of the layer's own dtype and device."""
        reference = next(itertools.chain(self.parameters(), self.buffers()))
        return torch.zeros(shape, dtype=reference.dtype, device=reference.device)


class Serial(Streaming):
    """Layers one after another; its state is the tuple of theirs. Modules that are not `Streaming` have no memory."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.timing = in_series(layers)

    def init_state(self, batch: int) -> State:
        """The tuple of the layers' zero states."""
        return tuple(layer.init_state(batch) if isinstance(layer, Streaming) else () for layer in self.layers)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Thread the chunk and the states through the layers."""
        after = []
        for layer, before in zip(self.layers, state, strict=True):
            if isinstance(layer, Streaming):
                x, before = layer.step(x, before)
            else:
                x = layer(x)
            after.append(before)
        return x, tuple(after)


class Residual(Streaming):
    """`x + layer(x)`, for a layer that keeps the shape."""

    def __init__(self, layer: Streaming) -> None:
        super().__init__()
        self.layer = layer
        self.timing = layer.timing
        assert self.timing.time_stride == 1 and self.timing.latency == 0, (
            "a residual path needs a layer without time stride and latency"
        )

    def init_state(self, batch: int) -> State:
        """The layer's zero state."""
        return self.layer.init_state(batch)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Add the layer's output to its input."""
        y, state = self.layer.step(x, state)
        return x + y, state
