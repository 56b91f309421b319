"""The states of the streams in training, which are carried over from step to step."""

from collections.abc import Callable

import torch
from torch import Tensor

from spectok.model.codec import NETWORK_STATES, Codec, Encoder
from spectok.model.excitation import Estimate
from spectok.model.streaming import State, leaves
from spectok.training import distributed


class Streams:
    """States of the codec for the streams of a batch, carried over from step to step without their gradients.

    A codec that is trained on the first second of streams only drifts when it is used for minutes. In each step the
    network runs once for each stream; excitation and synthesis run `draws` times, with different states.

    Args:
        codec: the codec to be trained.
        rows: B, the number of streams of this process.
        draws: the number of outputs for each stream.
        teacher: another encoder that encodes the same streams (robust.py), if there is one.

    Attributes:
        network: states of the encoder, of the decoder's network, and of the teacher if there is one, B rows each.
        synthesis: states of excitation and inverse STFT, `draws * B` rows: first B rows of one draw, then of the next.
        tail: the last `synthesis_delay` samples of each stream, `[B, delay]`, for the delay of the output.
    """

    def __init__(self, codec: Codec, rows: int, draws: int, teacher: Encoder | None = None) -> None:
        self.codec, self.rows, self.draws, self.teacher = codec, rows, draws, teacher
        encoder, decoder = self.codec.init_state(self.rows)
        self.network: tuple[State, ...] = (encoder, decoder[:NETWORK_STATES])
        if teacher is not None:
            self.network += (teacher.init_state(self.rows),)
        self.synthesis = self.codec.decoder.drawn_state(self.draws * self.rows)
        delay = self.codec.config.synthesis_delay
        self.tail = torch.zeros(self.rows, delay, device=next(self.codec.parameters()).device)

    def reset(self, rows: Tensor) -> None:
        """Reset the streams where `rows`, bool `[B]`, is true: to zeros, with a random state of the excitation."""
        if not rows.any():
            return
        fresh = Streams(self.codec, self.rows, self.draws, self.teacher)

        def mixed(new: State, old: State, chosen: Tensor) -> State:
            return _zipped(lambda a, b: torch.where(_along(chosen, a), a, b), new, old)

        self.network = tuple(mixed(new, old, rows) for new, old in zip(fresh.network, self.network, strict=True))
        self.synthesis = mixed(fresh.synthesis, self.synthesis, rows.repeat(self.draws))
        self.tail = self.tail.masked_fill(rows[:, None], 0)

    def synthesize(self, estimate: Estimate, pitch: Tensor | None) -> tuple[Tensor, State]:
        """All draws of an estimate, `[draws * B, T]`, and the state after them."""

        def repeated(part: Tensor) -> Tensor:
            return part.repeat(self.draws, *[1] * (part.dim() - 1))

        pitch = pitch if pitch is None else repeated(pitch)
        return self.codec.decoder.synthesize(estimate.mapped(repeated), self.synthesis, pitch)

    def delayed(self, audio: Tensor) -> Tensor:
        """A step's input `[B, T]` delayed by `synthesis_delay` samples, to be compared with its output."""
        return torch.cat([self.tail, audio], dim=1)[:, : audio.shape[1]]

    def go_on(self, audio: Tensor, network: tuple[State, ...], synthesis: State) -> None:
        """Store the states after a step for the next one."""
        self.network = tuple(_mapped(_own, state) for state in network)
        self.synthesis = _mapped(_own, synthesis)
        self.tail = _own(audio[:, audio.shape[1] - self.tail.shape[1] :])

    def tensors(self) -> dict[str, Tensor]:
        """All states, named "0", "1" and so on, with the rows of all ranks concatenated."""
        names = [f"{index}" for index in range(len(self._leaves()))]
        return {name: distributed.gather(tensor) for name, tensor in zip(names, self._leaves(), strict=True)}

    def restore(self, tensors: dict[str, Tensor], rank: int, world: int) -> None:
        """Restore the states returned by `tensors`."""
        shares = iter(tensors[f"{index}"].chunk(world)[rank] for index in range(len(tensors)))
        device = self.tail.device
        *network, self.synthesis, (self.tail,) = (
            _mapped(lambda _: _own(next(shares).to(device)), state)
            for state in (*self.network, self.synthesis, (self.tail,))
        )
        self.network = tuple(network)

    def _leaves(self) -> list[Tensor]:
        return [leaf for state in (*self.network, self.synthesis, (self.tail,)) for leaf in leaves(state)]


def _own(tensor: Tensor) -> Tensor:
    """A contiguous copy without gradients; the memory layout of states affects the last bits of results."""
    return tensor.detach().clone(memory_format=torch.contiguous_format)


def _mapped(change: Callable[[Tensor], Tensor], state: State) -> State:
    return tuple(change(item) if isinstance(item, Tensor) else _mapped(change, item) for item in state)


def _zipped(change: Callable[[Tensor, Tensor], Tensor], first: State, second: State) -> State:
    pairs = zip(first, second, strict=True)
    return tuple(change(a, b) if isinstance(a, Tensor) else _zipped(change, a, b) for a, b in pairs)


def _along(rows: Tensor, tensor: Tensor) -> Tensor:
    """`[B]` in a shape that broadcasts with `[B, ...]`."""
    return rows.view(-1, *[1] * (tensor.dim() - 1))
