"""Converts between the arrays of numpy, in which everything is computed, and the tensors of PyTorch, if it is there."""

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectok.errors import InputError


def to_numpy(value: Any) -> NDArray[Any]:
    """An array, or a tensor on any device, or anything else that numpy converts, as a numpy array.

    Raises:
        InputError: numpy cannot convert it.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).numpy()  # numpy has no bfloat16
    try:
        return np.asarray(value)
    except ValueError as error:
        raise InputError(f"neither audio nor codes: {error}") from error


def like(original: Any, result: NDArray[Any]) -> Any:
    """A tensor on the device of `original` if that is a tensor; otherwise the array itself."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(original, torch.Tensor):
        return torch.from_numpy(np.asarray(result)).to(original.device)
    return result
