"""Rooms, whose members hear each other: codes go from each member to all others, and the network is not run."""

from collections.abc import Callable, Hashable
from typing import NamedTuple

from spectok.errors import require
from spectok.serve.protocol import TRY_LATER, Refusal

MAX_MEMBERS = 2  # messages do not say whose they are, so that more could not be told apart


class _Room(NamedTuple):
    model: str
    members: dict[Hashable, Callable[[bytes], None]]


class Rooms:
    """The rooms of one process, which exist while they have members."""

    def __init__(self) -> None:
        self._rooms: dict[str, _Room] = {}

    def __len__(self) -> int:
        """The number of rooms."""
        return len(self._rooms)

    def join(self, room: str, model: str, member: Hashable, forward: Callable[[bytes], None]) -> None:
        """Enter a room, which the first member makes.

        Args:
            room: its name.
            model: whose codes the member sends and expects.
            member: who enters.
            forward: called with what the others send.

        Raises:
            InputError: the room is one of another model.
            Refusal: the room is full.
        """
        entered = self._rooms.get(room) or _Room(model, {})
        require(entered.model == model, f"the room has codes of {entered.model}, not of {model}")
        if len(entered.members) >= MAX_MEMBERS:
            raise Refusal(f"the room has {MAX_MEMBERS} members, its limit; try again later", TRY_LATER)
        entered.members[member] = forward
        self._rooms[room] = entered

    def send(self, room: str, member: Hashable, message: bytes) -> int:
        """Forward a message of a member to all others; returns to how many."""
        others = [forward for other, forward in self._rooms[room].members.items() if other is not member]
        for forward in others:
            forward(message)
        return len(others)

    def leave(self, room: str, member: Hashable) -> None:
        """Leave a room; the last member removes it."""
        members = self._rooms[room].members
        members.pop(member, None)
        if not members:
            del self._rooms[room]
