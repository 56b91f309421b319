"""Reads and writes weights as safetensors files."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, load_file, save_file
from torch import Tensor, nn

from spectok.errors import InputError
from spectok.files import atomic_write
from spectok.graphs import WEIGHTS
from spectok.pretrained import Model


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file; an existing file is replaced only once the new one is complete.

    Raises:
        InputError: it cannot be written.
    """
    with atomic_write(path) as temporary:
        try:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata)
        except SafetensorError as error:
            raise InputError(f"cannot write {path}: {error}") from error


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and the metadata of a safetensors file.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
        return load_file(path), metadata
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot read {path}: {error}") from error


@torch.no_grad()
def round_to_half_(module: nn.Module) -> None:
    """Round all weights to the nearest float16 value, in place; they stay float32."""
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(tensor.half())


def halved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, with every floating-point one converted to float16."""
    return {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def read_weights(model: Model) -> dict[str, Tensor]:
    """A model's weights by name, from bytes that `Model.read` has compared with their SHA-256.

    Raises:
        InputError: the file is missing or damaged.
    """
    content = model.read(WEIGHTS)
    try:
        return load(content)
    except SafetensorError as error:
        raise InputError(f"cannot read {model.weights}: {error}") from error


def load_weights(module: nn.Module, model: Model, others: dict[str, Tensor] | None = None) -> None:
    """Load a model's weights into a codec of the same configuration.

    Args:
        module: the codec, or its encoder.
        model: the model, or a further encoder of one.
        others: tensors that stand for those that the file does not have.

    Raises:
        InputError: the file is damaged, or its tensors do not fit the codec.
    """
    tensors = (others or {}) | read_weights(model)
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(f"the weights {model.weights} do not fit the configuration beside them") from error
