"""The shapes that codes can have, and the conversion between them.

One recording has N = F * K codes, F frames of K codes each. They can be flat, `[N]`, frame after frame; or by frames,
`[F, K]`; or with an axis of frames for each of the K codes of a frame, `[K, F]`. A batch has one more axis, B, before
these.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from spectok.schema import require

Layout = Literal["flat", "frames"]
LAYOUTS = ("flat", "frames")


def check_layout_name(layout: Any) -> None:
    """Check that a layout is one of `LAYOUTS`.

    Raises:
        InputError: it is not.
    """
    require(layout in LAYOUTS, f"the layout is {layout!r}, but must be 'flat' or 'frames'")


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
    expected = {"flat": "[N] or [B, N]", "frames": f"[F, {tokens}] or [B, F, {tokens}]"}
    of_frames = layout == "frames" or (layout is None and codes.ndim == 3)
    allowed = expected[layout] if layout else f"{expected['flat']}, or by frames {expected['frames']}"
    fits = codes.ndim in ((2, 3) if of_frames else (1, 2)) and (not of_frames or shape[-1] == tokens)
    require(fits, f"codes must be {allowed}, not {shape}")
    require(codes.ndim == 1 or shape[0] > 0 or of_frames, "the batch has no rows")
    require(
        layout is not None or codes.ndim != 2 or shape[0] < 2 or shape[1] != tokens,
        f"codes of shape {shape} can be {shape[0]} recordings of one frame, or one recording of {shape[0]} frames "
        f"of {tokens}; pass layout='flat' or layout='frames'",
    )
    if of_frames:
        return codes.reshape(shape[0] if codes.ndim == 3 else 1, -1), codes.ndim == 3
    return np.atleast_2d(codes), codes.ndim == 2
