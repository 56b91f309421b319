"""The streaming contract as one function: `verify_streaming(layer, x)` passes or names the clause that fails."""

import copy
import math
from typing import Any

import torch
from torch import Tensor

from spectok.model.streaming import State, Streaming, leaves


def verify_streaming(
    layer: Streaming,
    x: Tensor,
    time_axis: int = 1,
    output_time_axis: int | None = None,
    atol: float = 1e-12,
    seed: int = 0,
) -> None:
    """Check every clause of the contract in float64, on a copy with noise added to its parameters (none may be zero).

    Args:
        layer: the layer to check; it is not modified.
        x: an input with at least two rows and at least three blocks of the layer's `timing`.
        time_axis: the time axis of the input.
        output_time_axis: the time axis of the output; by default that of the input.
        atol: the largest difference from the offline outputs; for gradients it is 1e-10 of the largest gradient.
        seed: of the random chunk sizes, the changes of the input and the noise.

    Raises:
        AssertionError: a clause does not hold; the message names it.
    """
    output_axis = time_axis if output_time_axis is None else output_time_axis
    random = torch.Generator().manual_seed(seed)
    layer, x = copy.deepcopy(layer).double(), x.detach().double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=random, dtype=torch.float64))
    stride = layer.timing.block
    steps = x.shape[time_axis] // stride
    assert x.shape[0] >= 2 and steps >= 3 and steps * stride == x.shape[time_axis], (
        "the input must have two or more rows, and a whole number of blocks, three or more"
    )
    chunkings = [[stride] * steps, [steps * stride], *(_chunking(steps, stride, random) for _ in range(3))]

    with torch.no_grad():
        _verify_state(layer, x, chunkings[0], time_axis)
        for sizes in chunkings:
            _verify_purity(layer, x, sizes, time_axis)
            _verify_outputs(layer, x, sizes, (time_axis, output_axis), atol)
        _verify_rows(layer, x, chunkings[-1], (time_axis, output_axis), atol)
        _verify_causality(layer, x, stride, (time_axis, output_axis), atol, random)
        _verify_timing(layer, x, (time_axis, output_axis), atol, random)
    _verify_gradients(layer, x, chunkings[0], (time_axis, output_axis), random)
    _verify_gradients(layer, x, chunkings[-1], (time_axis, output_axis), random)


def structure(state: State) -> tuple[Any, ...]:
    """The properties of a state that steps must keep: its nesting, and the shape and dtype of each tensor."""
    return tuple((tuple(s.shape), s.dtype) if isinstance(s, Tensor) else structure(s) for s in state)


def run_chunks(layer: Streaming, x: Tensor, sizes: list[int], axis: int) -> list[Tensor]:
    """The outputs for consecutive chunks of `x`, starting from the zero state."""
    outputs, state = [], layer.init_state(x.shape[0])
    for chunk in x.split(sizes, axis):
        y, state = layer.step(chunk, state)
        outputs.append(y)
    return outputs


def _chunking(steps: int, stride: int, random: torch.Generator) -> list[int]:
    sizes: list[int] = []
    while sum(sizes) < steps:
        sizes.append(int(torch.randint(1, steps - sum(sizes) + 1, (), generator=random)))
    return [stride * size for size in sizes]


def _close(a: Tensor, b: Tensor, atol: float) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-12, atol=atol)


def _verify_state(layer: Streaming, x: Tensor, sizes: list[int], axis: int) -> None:
    batch = x.shape[0]
    state = layer.init_state(batch)
    before = structure(state)
    for leaf, other in zip(leaves(state), leaves(layer.init_state(batch + 1)), strict=True):
        assert leaf.shape[0] == batch and other.shape == (batch + 1, *leaf.shape[1:]), (
            f"batch must be axis 0 of every state, but {batch} rows have {tuple(leaf.shape)}"
        )
        assert not leaf.any(), "the zero state must be zero"
    for chunk in x.split(sizes, axis):
        _, state = layer.step(chunk, state)
        assert structure(state) == before, f"the state's structure changed from {before} to {structure(state)}"


def _verify_purity(layer: Streaming, x: Tensor, sizes: list[int], axis: int) -> None:
    state, kept = layer.init_state(x.shape[0]), []
    for chunk in x.split(sizes, axis):
        chunk = chunk.clone()
        kept.append((chunk, chunk.clone(), "input"))
        kept.extend((leaf, leaf.clone(), "state") for leaf in leaves(state))
        y, state = layer.step(chunk, state)
        kept.append((y, y.clone(), "earlier output"))
    for tensor, clone, what in kept:
        assert torch.equal(tensor, clone), f"a step wrote into its {what}"


def _verify_outputs(layer: Streaming, x: Tensor, sizes: list[int], axes: tuple[int, int], atol: float) -> None:
    offline = layer(x)
    streamed = torch.cat(run_chunks(layer, x, sizes, axes[0]), axes[1])
    assert _close(offline, streamed, atol), f"chunks of {sizes} do not give the offline output"


def _verify_rows(layer: Streaming, x: Tensor, sizes: list[int], axes: tuple[int, int], atol: float) -> None:
    together = torch.cat(run_chunks(layer, x, sizes, axes[0]), axes[1])
    for row in range(x.shape[0]):
        alone = torch.cat(run_chunks(layer, x[row : row + 1], sizes, axes[0]), axes[1])
        assert _close(together[row : row + 1], alone, atol), f"row {row} of the batch differs from the row alone"


def _verify_causality(
    layer: Streaming, x: Tensor, stride: int, axes: tuple[int, int], atol: float, random: torch.Generator
) -> None:
    length = x.shape[axes[0]]
    offline = layer(x)
    for past in {stride, stride * int(torch.randint(1, length // stride, (), generator=random)), length - stride}:
        other = x.clone()
        future = other.narrow(axes[0], past, length - past)
        future.add_(torch.randn(future.shape, generator=random, dtype=torch.float64))
        done = offline.shape[axes[1]] * past // length
        changed = layer(other)
        assert not torch.equal(offline, changed), "the output does not depend on the input"
        assert _close(offline.narrow(axes[1], 0, done), changed.narrow(axes[1], 0, done), atol), (
            f"the offline output before time {past} depends on the input after it"
        )
        sizes = [past, length - past]
        assert torch.equal(run_chunks(layer, x, sizes, axes[0])[0], run_chunks(layer, other, sizes, axes[0])[0]), (
            f"the streamed output before time {past} depends on the input after it"
        )


def _verify_timing(layer: Streaming, x: Tensor, axes: tuple[int, int], atol: float, random: torch.Generator) -> None:
    timing, length, offline = layer.timing, x.shape[axes[0]], layer(x)
    assert offline.shape[axes[1]] * timing.time_stride == length, (
        f"{length} steps became {offline.shape[axes[1]]}, which is not the declared time stride {timing.time_stride}"
    )

    def last_block(first: int, count: int) -> Tensor:
        """The output of the last block after `count` steps of the input, from `first` on, are changed."""
        other = x.clone()
        steps = other.narrow(axes[0], first, count)
        steps.add_(torch.randn(steps.shape, generator=random, dtype=torch.float64))
        output: Tensor = layer(other)
        return output.narrow(axes[1], output.shape[axes[1]] - timing.outputs, timing.outputs)

    before = last_block(0, 0)
    if math.isinf(timing.receptive_field):
        past = length - timing.block
        assert not torch.equal(last_block(0, past), before), "the output does not depend on earlier blocks"
        return
    unseen = max(0, length - int(timing.receptive_field))
    assert _close(last_block(0, unseen), before, atol), (
        f"the output depends on more than the declared receptive field of {timing.receptive_field} steps"
    )
    assert not torch.equal(last_block(unseen, 1), before), (
        f"the output does not depend on the first step of the declared receptive field of {timing.receptive_field}"
    )


def _verify_gradients(
    layer: Streaming, x: Tensor, sizes: list[int], axes: tuple[int, int], random: torch.Generator
) -> None:
    weights = torch.randn(layer(x).shape, generator=random, dtype=torch.float64)
    learned = {name: parameter for name, parameter in layer.named_parameters() if parameter.requires_grad}
    names = ["input", *learned]

    def gradients(chunks: list[int]) -> list[Tensor]:
        source = x.clone().requires_grad_()
        output = layer(source) if not chunks else torch.cat(run_chunks(layer, source, chunks, axes[0]), axes[1])
        return list(torch.autograd.grad((output * weights).sum(), [source, *learned.values()]))

    for name, offline, streamed in zip(names, gradients([]), gradients(sizes), strict=True):
        largest = float(offline.abs().max())
        assert largest > 0, f"the gradient of {name} is zero"
        assert torch.allclose(offline, streamed, rtol=0, atol=1e-10 * largest), (
            f"chunks of {sizes} do not give the offline gradient of {name}"
        )
