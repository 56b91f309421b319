"""Codes that know which model made them, the shapes that they can have, and the conversion between these.

One recording has N = F * K codes, F frames of K codes each. They can be flat, `[N]`, frame after frame; or by frames,
`[F, K]`; or with an axis of frames for each of the K codes of a frame, `[K, F]`. A batch has one more axis, B, before
these.
"""

from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from spectok import pretrained
from spectok.errors import InputError, require

Layout = Literal["flat", "frames", "codebooks_first"]
LAYOUTS = ("flat", "frames", "codebooks_first")


class Codes(np.ndarray[tuple[int, ...], np.dtype[np.int64]]):
    """An array of codes with the hash of the weights that made them, so that another model refuses to decode them.

    Slices, reshaped and copied codes and unpickled ones keep the hash. The results of arithmetic, comparisons and joins
    are plain arrays, or codes of an unknown model: `codes + offset` are no codes. `np.asarray(codes)` is the plain
    array. In everything else, codes are an array.

    `Codes(array, model)` does not copy the integers of the array.

    Attributes:
        model: 16 hexadecimal digits of the weights' hash, as in `Tokenizer.weight_hash`; "" if it is not known.
    """

    model: str

    def __new__(cls, array: Any, model: str = "") -> Self:  # noqa: D102, the class docstring documents the constructor
        codes = np.asarray(array).view(cls)
        codes.model = model
        return codes

    def __array_finalize__(self, parent: Any) -> None:
        self.model = getattr(parent, "model", "")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        """Compute with plain arrays."""
        if out is not None:
            options["out"] = tuple(_plain(array) for array in out)
        return getattr(ufunc, method)(*map(_plain, inputs), **options)

    def __reduce__(self) -> tuple[Any, ...]:
        parts: Any = super().__reduce__()
        return *parts[:2], (parts[2], self.model)

    def __setstate__(self, state: Any) -> None:
        array, self.model = state
        super().__setstate__(array)


def _plain(value: Any) -> Any:
    return np.asarray(value) if isinstance(value, Codes) else value


def check_model(codes: Any, name: str, weight_hash: str) -> None:
    """Check that codes were not made by other weights than those with this hash.

    Args:
        codes: any value; only `Codes` that know their model can be refused.
        name: of the model that is to use them, for the message.
        weight_hash: of that model; "" if it is not known.

    Raises:
        InputError: they were made by other weights.
    """
    if isinstance(codes, Codes) and codes.model and weight_hash and codes.model != weight_hash:
        raise InputError(other_model(pretrained.named(codes.model), codes.model, name, weight_hash))


def other_model(theirs: str | None, their_hash: str, ours: str, our_hash: str) -> str:
    """The sentence that refuses codes of another model; `theirs` is None if its name is not known."""
    return (
        f"the codes were made by {theirs or 'a model'} with weights {their_hash}, not by {ours} with weights {our_hash}"
    )


def check_layout_name(layout: Any) -> None:
    """Check that a layout is one of `LAYOUTS`.

    Raises:
        InputError: it is not.
    """
    require(layout in LAYOUTS, f"the layout is {layout!r}, but must be 'flat', 'frames' or 'codebooks_first'")


def to_rows(codes: NDArray[Any], tokens: int, layout: Layout | None = None) -> tuple[NDArray[Any], bool]:
    """Codes of any shape as rows.

    Args:
        codes: an array in one of the layouts, of one recording or of a batch.
        tokens: K, the number of codes per frame.
        layout: of the codes. None stands for flat codes, or codes by frames if these have three axes.

    Returns:
        Codes `[B, N]`, and whether they are a batch.

    Raises:
        InputError: the shape is not one of the layout, or without a layout it can mean two things: two axes of which
            the second has length K can be a batch of single frames, or the frames of one recording.
    """
    shape = list(codes.shape)
    if layout is not None:
        check_layout_name(layout)
    expected = {
        "flat": "[N] or [B, N]",
        "frames": f"[F, {tokens}] or [B, F, {tokens}]",
        "codebooks_first": f"[{tokens}, F] or [B, {tokens}, F]",
    }
    if layout == "codebooks_first" and codes.ndim in (2, 3) and shape[-2] == tokens:
        return to_rows(codes.swapaxes(-2, -1), tokens, "frames")
    of_frames = layout in ("frames", "codebooks_first") or (layout is None and codes.ndim == 3)
    allowed = expected[layout] if layout else f"{expected['flat']}, or by frames {expected['frames']}"
    fits = codes.ndim in ((2, 3) if of_frames else (1, 2)) and (not of_frames or shape[-1] == tokens)
    require(fits and layout != "codebooks_first", f"codes must be {allowed}, not {shape}")
    require(codes.ndim == 1 or shape[0] > 0 or (of_frames and codes.ndim == 2), "the batch has no rows")
    require(
        layout is not None or codes.ndim != 2 or shape[0] < 2 or shape[1] != tokens,
        f"codes of shape {shape} can be {shape[0]} recordings of one frame, or one recording of {shape[0]} frames "
        f"of {tokens}; pass layout='flat' or layout='frames'",
    )
    if of_frames:
        return codes.reshape(shape[0] if codes.ndim == 3 else 1, -1), codes.ndim == 3
    return np.atleast_2d(codes), codes.ndim == 2


def check_codes(codes: NDArray[Any], size: int) -> NDArray[np.int64]:
    """Codes of any shape as int64.

    Args:
        codes: integers.
        size: of the codebook.

    Raises:
        InputError: they are not integers, or one is not in the codebook; the sentence names the first with its place.
    """
    require(not codes.size or codes.dtype.kind in "iu", f"codes must be integers, not {codes.dtype}")
    values = codes.astype(np.int64, copy=False)
    if not values.size or values.view(np.uint64).max() < size:  # as unsigned numbers, negative codes are too large
        return values
    place = np.argwhere(values.view(np.uint64) >= size)[0]
    where = place[-1] if codes.ndim and codes.size == codes.shape[-1] else place.tolist()
    raise InputError(f"codes must be from 0 to {size - 1}, but code {where} is {codes[tuple(place)]}")


def from_rows(codes: NDArray[Any], tokens: int, layout: Layout) -> NDArray[Any]:
    """Codes `[..., N]` in a layout: `[..., N]`, `[..., F, K]` or `[..., K, F]`, where K is `tokens`."""
    if layout == "flat":
        return codes
    frames = codes.reshape(*codes.shape[:-1], -1, tokens)
    return frames if layout == "frames" else frames.swapaxes(-2, -1)
