"""Batches of recordings of different lengths: groups of similar length, padding, and masks."""

from collections.abc import Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from spectok.errors import require

CodesT = TypeVar("CodesT")
ArrayT = TypeVar("ArrayT")


class EncodedBatch(NamedTuple, Generic[CodesT, ArrayT]):
    """What `Tokenizer.encode_batch` returns: arrays, or tensors if it was given tensors."""

    codes: CodesT  # int64 `[B, N]`, `[B, F, K]` or `[B, K, F]`; without padding a list of codes of one recording each
    mask: ArrayT  # bool: True where codes are those of a recording; `[B, N]` for the layout "flat", otherwise `[B, F]`
    lengths: ArrayT  # int64 `[B]`: samples of each recording, at the codec's own sample rate


def by_length(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """The numbers of recordings in groups of at most `size` whose lengths are similar, the longest first."""
    order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    for start in range(0, len(order), size):
        yield order[start : start + size]


def padded(rows: Sequence[NDArray[Any]], fill: float = 0) -> NDArray[Any]:
    """Arrays `[n, ...]` of different n as one, `[B, longest, ...]`, with `fill` behind the shorter ones."""
    batch = np.full((len(rows), max(map(len, rows)), *rows[0].shape[1:]), fill, rows[0].dtype)
    for row, values in zip(batch, rows, strict=True):
        row[: len(values)] = values
    return batch


def mask_of(lengths: Sequence[int]) -> NDArray[np.bool_]:
    """`[B, longest]`: True in the first `lengths[b]` places of row b."""
    return np.arange(max(lengths)) < np.asarray(lengths)[:, None]


def masked_frames(mask: NDArray[Any], batch: int, frames: int, tokens: int) -> NDArray[np.int64]:
    """The number of frames that a mask leaves of each row, `[B]`.

    Args:
        mask: booleans or 0 and 1, for each code, `[B, F * K]`, or for each frame, `[B, F]`.
        batch: B.
        frames: F.
        tokens: K.

    Raises:
        InputError: the mask has another shape or other values; or a row does not begin with all its codes, or ends
            within a frame.
    """
    shapes = [(batch, frames * tokens), (batch, frames)]
    allowed = " or ".join(str(list(shape)) for shape in dict.fromkeys(shapes))
    require(mask.shape in shapes, f"the mask has the shape {list(mask.shape)}, but must have {allowed}")
    require(bool(np.isin(mask, (0, 1)).all()), "the mask must hold only True and False, or 1 and 0")
    mask = mask.astype(bool)
    counts: NDArray[np.int64] = mask.sum(axis=1)
    ends_early = (mask != (np.arange(mask.shape[1]) < counts[:, None])).any(axis=1)
    row = int(ends_early.argmax()) if len(ends_early) else 0
    require(not ends_early.any(), f"the padding of row {row} is not at its end")
    if mask.shape == (batch, frames):
        return counts
    left: NDArray[np.int64] = counts % tokens
    row = int((left > 0).argmax()) if len(left) else 0
    require(not left.any(), f"the mask of row {row} ends within a frame of {tokens} codes")
    counts = counts // tokens
    return counts
