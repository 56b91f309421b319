"""What an engine is: the protocol, and the states that engines hand out."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from spectok.config import CodecConfig
from spectok.errors import require

Side = Literal["encoder", "decoder", "extended"]  # extended: a decoder whose output is extended to 20 kHz


class CodecState(NamedTuple):
    """The zero states of both directions; callers treat them as opaque."""

    encoder: Any
    decoder: Any


class Engine(Protocol):
    """Encodes and decodes whole frames. States are passed in and returned; an engine stores none."""

    @property
    def config(self) -> CodecConfig:
        """The codec's configuration."""

    @property
    def name(self) -> str:
        """What runs on what, for reports."""

    def init_state(self, batch: int) -> CodecState:
        """Zero states for `batch` rows."""

    def encode_step(self, audio: NDArray[np.float32], state: Any) -> tuple[NDArray[np.int64], Any]:
        """Encode audio `[B, T]`, T a multiple of frame_length; returns codes `[B, N]` and the state after them."""

    def decode_step(
        self, codes: NDArray[np.int64], state: Any, lost: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float32], Any]:
        """Decode codes `[B, N]`, N a multiple of tokens_per_frame; returns audio `[B, T]` and the state after it.

        `lost`, `[B, F]`, says which frames are lost; their codes must repeat the last frame that arrived. A codec
        without concealment ignores it.
        """

    @property
    def can_extend(self) -> bool:
        """Whether there is an extension."""

    def init_extended(self, batch: int) -> Any:
        """The zero state of `extended_step` for `batch` rows."""

    def extended_step(
        self, codes: NDArray[np.int64], state: Any, lost: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float32], Any]:
        """`decode_step` with the extension to 20 kHz: audio `[B, 3 * T]` at three times the codec's sample rate.

        Raises:
            InputError: there is no extension, or its files are damaged.
        """

    def code_vectors(self) -> NDArray[np.float32]:
        """The vectors that the quantizer has for the codes, `[codebook_size, D]`."""

    def stack(self, states: Sequence[Any]) -> Any:
        """One state with a row for each of `states`, which have one row each and are of the same side."""

    def split(self, state: Any, rows: int) -> list[Any]:
        """The states of one row each that make up a state of `rows` rows; the inverse of `stack`."""

    def to_arrays(self, state: Any) -> dict[str, NDArray[Any]]:
        """A copy of a state as arrays by name, to be stored."""

    def from_arrays(self, side: Side, arrays: Mapping[str, NDArray[Any]], rows: int) -> Any:
        """The state of `rows` rows that `to_arrays` copied.

        Raises:
            InputError: the names, shapes or types are not those of this engine's states of that side.
        """


def copied(
    arrays: Mapping[str, NDArray[Any]], kinds: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]
) -> dict[str, NDArray[Any]]:
    """Copies of arrays, in the order of `kinds`, which has the shape and type that each must have."""
    require(
        {name: (array.shape, array.dtype) for name, array in arrays.items()} == kinds,
        "the state is of another engine or codec: its arrays have other names, shapes or types",
    )
    return {name: arrays[name].copy() for name in kinds}
