"""Data parallelism: every rank computes its rows of the batch, and the gradients are averaged over the ranks.

The processes are started by `torchrun`. In a single process the world has one rank, and the functions here do nothing.
Gradients are averaged as one flat tensor after the backward pass: the codec has few parameters, and training also needs
gradients with respect to its output, which `DistributedDataParallel` does not allow.
"""

import os
import signal
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor


def start(device: str) -> str:
    """Join the other processes, if `torchrun` started this one; returns the device of this rank."""
    if "LOCAL_RANK" not in os.environ:
        return device
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return device


def stop() -> None:
    """Leave the group of processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def ignore_signals(worker: int = 0) -> None:
    """Ignore SIGTERM and SIGINT, which reach a whole process group: the parent saves, then ends this process."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def rank() -> int:
    """The number of this process; rank 0 writes the files."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def mean_(tensors: Iterable[Tensor]) -> None:
    """Replace tensors by their means over the ranks."""
    tensors = list(tensors)
    if world() == 1 or not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    pieces = (flat / world()).split([tensor.numel() for tensor in tensors])
    for tensor, piece in zip(tensors, pieces, strict=True):
        tensor.copy_(piece.view_as(tensor))


def mean(tensor: Tensor) -> Tensor:
    """The mean over the ranks. Its gradient is that of this rank's tensor, so that averaged gradients are correct."""
    if world() == 1:
        return tensor
    whole = tensor.detach().clone()
    mean_([whole])
    return tensor + (whole - tensor.detach())


def gather(tensor: Tensor) -> Tensor:
    """The ranks' tensors concatenated along the first axis: the rows of the whole batch, in order."""
    if world() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(world())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def agree(values: list[float], device: str) -> list[float]:
    """The maximum of each value over the ranks, so that all ranks take the same decisions."""
    if world() == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    greatest: list[float] = tensor.tolist()
    return greatest
