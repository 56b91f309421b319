"""The vectors of a codebook without PyTorch: of a grid, computed; of a learned codebook, from the weights' file."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectok.errors import InputError

CODEBOOK = "quantizer.codebook.embed"  # name of the learned codebook in model.safetensors, [1, codebook_size, D]
KINDS: dict[str, type] = {"F16": np.float16, "F32": np.float32}  # by the names of safetensors


def grid(levels: Sequence[int]) -> NDArray[np.float32]:
    """The points of finite scalar quantization: `[product of the levels, D]`, from -1 to 1 in each dimension.

    The first dimension changes fastest from code to code. Each is `digit * (2 / (levels - 1)) - 1`, in float32.
    """
    codes, columns = np.arange(int(np.prod(levels))), []
    for count in levels:
        codes, digits = np.divmod(codes, count)
        columns.append(digits.astype(np.float32) * np.float32(2 / (count - 1)) - np.float32(1))
    return np.stack(columns, axis=-1)


def stored(weights: bytes, name: str) -> NDArray[np.float32]:
    """A tensor of a safetensors file, as float32.

    Args:
        weights: content of the file: the length of a header in 8 bytes, the header in JSON, then the numbers.
        name: of the tensor.

    Raises:
        InputError: the file has no such tensor, or is damaged.
    """
    try:
        start = 8 + int.from_bytes(weights[:8], "little")
        entry: dict[str, Any] = json.loads(weights[8:start])[name]
        first, stop = entry["data_offsets"]
        values: NDArray[Any] = np.frombuffer(weights[start + first : start + stop], KINDS[entry["dtype"]])
        return values.reshape(entry["shape"]).astype(np.float32)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"the weights have no readable tensor {name!r}") from error
