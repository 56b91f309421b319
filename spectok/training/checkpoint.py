"""Checkpoints as named tensors, without pickle: the parts of a run, and initial weights from a released model."""

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spectok.config import CodecConfig
from spectok.errors import require
from spectok.model.codec import Codec
from spectok.pretrained import Model
from spectok.weights import read_weights


class Part(NamedTuple):
    """A part of a checkpoint: a function that returns its tensors, and one that restores them."""

    take: Callable[[], dict[str, Tensor]]
    put_back: Callable[[dict[str, Tensor]], object]


def module_part(module: nn.Module) -> Part:
    """The parameters and persistent buffers of a module."""
    return Part(module.state_dict, module.load_state_dict)


def optimizer_part(optimizer: torch.optim.Optimizer) -> Part:
    """The state of an optimiser."""
    return Part(lambda: optimizer_tensors(optimizer), lambda tensors: restore_optimizer(optimizer, tensors))


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state, `<parameter index>.<key>`."""
    return {
        f"{index}.{key}": value
        for index, entry in optimizer.state_dict()["state"].items()
        for key, value in entry.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restore the state returned by `optimizer_tensors`."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def initial_weights(model: Model, codec: Codec) -> dict[str, Tensor]:
    """A model's weights for a codec whose convolutions may be shorter, and some parts may differ.

    Dropped taps are summed into the oldest kept tap, which preserves the response at low frequencies. Weights of the
    excitation, concealment and denoiser that the model lacks, or has in another shape, keep the codec's initial values.

    Raises:
        InputError: the configurations differ in more than that and their names, or the file is damaged.
    """
    message = f"the model {model.config.name} has another configuration than the recipe"
    its, mine = (asdict(config) for config in (_with_allowed_differences(codec.config, model.config), codec.config))
    differing = [name for name in mine if its[name] != mine[name]]
    require(not differing, f"{message} in {' and '.join(differing)}")
    weights, own = {name: t.float() for name, t in read_weights(model).items()}, codec.state_dict()
    for name, kernel in weights.items():
        if kernel.dim() == 4:  # [out, in, time, frequency]
            dropped = kernel.shape[2] - own[name].shape[2]
            require(dropped >= 0, message)
            oldest = kernel[:, :, : dropped + 1].sum(2, keepdim=True)
            weights[name] = torch.cat([oldest, kernel[:, :, dropped + 1 :]], dim=2)
    optional = (".excitation.", ".concealment.", ".denoiser.")
    for name in [name for name in own | weights if any(part in name for part in optional)]:
        if name not in own:
            del weights[name]
        elif name not in weights or weights[name].shape != own[name].shape:
            weights[name] = own[name]
    return weights


def _with_allowed_differences(config: CodecConfig, other: CodecConfig) -> CodecConfig:
    """`other` with those parts of `config` that may differ, and the time lengths of its convolutions."""
    mine, its = config.tower, other.tower
    input_kernel, kernel = (mine.input_kernel[0], its.input_kernel[1]), (mine.kernel[0], its.kernel[1])
    tower = replace(its, input_kernel=input_kernel, kernel=kernel)
    parts = ("name", "excitation", "concealment_hidden", "leveller", "denoiser_hidden", "silence_codes")
    same = {name: getattr(config, name) for name in parts}
    return replace(other, tower=tower, **same)
