"""The streaming contract: one implementation per layer, and the state is data.

    offline     y        = layer(audio)                   one big step from the zero state
    streaming   y0, s1   = layer.step(chunk0, s0)
                y1, s2   = layer.step(chunk1, s1)         cat(y0, y1, ...) equals y, for every way of cutting

The zero state is the zero padding on the left, so the start of a stream is not special. A state is a nested tuple of
tensors whose first axis is the batch; it is passed in and returned, never held by the module and never written to, and
its structure, shapes and dtypes never change. A layer without memory has the state `()`.
"""

import itertools
from typing import Any

import torch
from torch import Tensor, nn

State = tuple[Any, ...]  # nested tuples of tensors


class Streaming(nn.Module):
    """A causal layer. Subclasses write `step`, and `init_state` if they remember anything."""

    def init_state(self, batch: int) -> State:
        """The zero state for `batch` rows."""
        return ()

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Consume a chunk of any number of frames (a multiple of the layer's time stride); return output and state."""
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

    def init_state(self, batch: int) -> State:
        """The layer's zero state."""
        return self.layer.init_state(batch)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Add the layer's output to its input."""
        y, state = self.layer.step(x, state)
        return x + y, state
