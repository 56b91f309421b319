"""What runs the network. Above this line everything is numpy; an engine's states are its own business.

`Engine` is the boundary: sessions and tokenizer know nothing else. `TorchEngine` runs the codec in PyTorch, which is
imported when one is made and not before.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from spectok.config import CodecConfig
from spectok.errors import InputError
from spectok.pretrained import Model


class CodecState(NamedTuple):
    """The zero states of both directions; opaque to all but the engine that made them."""

    encoder: Any
    decoder: Any


class Engine(Protocol):
    """Pure steps on whole frames. States are passed in and returned, never kept."""

    @property
    def config(self) -> CodecConfig:
        """The codec's configuration."""

    def init_state(self, batch: int) -> CodecState:
        """Zero states for `batch` rows."""

    def encode_step(self, audio: NDArray[np.float32], state: Any) -> tuple[NDArray[np.int64], Any]:
        """Audio `[B, T]`, T a multiple of frame_length, to codes `[B, N]`."""

    def decode_step(self, codes: NDArray[np.int64], state: Any) -> tuple[NDArray[np.float32], Any]:
        """Codes `[B, N]`, N a multiple of tokens_per_frame, to audio `[B, T]`."""


class TorchEngine:
    """The codec in PyTorch.

    Args:
        model: configuration and weights on disk.
        device: "cpu", "cuda" or "cuda:1".

    Raises:
        InputError: the weights do not fit the configuration, or the device does not exist here.
    """

    def __init__(self, model: Model, device: str = "cpu") -> None:
        import torch

        from spectok.model.codec import Codec
        from spectok.model.weights import load_weights

        self.codec = Codec(model.config)
        load_weights(self.codec, model)
        try:
            self.codec.to(device).eval()
            torch.zeros(1, device=device).cpu()  # "meta" is a device, but nothing comes back from it
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"the device '{device}' cannot be used here: {str(error).splitlines()[0]}") from error
        self.device = torch.device(device)

    @property
    def config(self) -> CodecConfig:
        """The codec's configuration."""
        return self.codec.config

    def init_state(self, batch: int) -> CodecState:
        """Zero states for `batch` rows."""
        return CodecState(*self.codec.init_state(batch))

    def encode_step(self, audio: NDArray[np.float32], state: Any) -> tuple[NDArray[np.int64], Any]:
        """Audio `[B, T]` to codes `[B, N]`."""
        return self._run(self.codec.encode_step, audio, state)

    def decode_step(self, codes: NDArray[np.int64], state: Any) -> tuple[NDArray[np.float32], Any]:
        """Codes `[B, N]` to audio `[B, T]`."""
        return self._run(self.codec.decode_step, codes, state)

    def _precision(self) -> AbstractContextManager[None]:
        """On a GPU, full float32: the shorter TensorFloat-32 would flip codes between devices."""
        import torch

        if self.device.type != "cuda":
            return nullcontext()
        flags: AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        return flags

    def _run(self, step: Any, chunk: NDArray[Any], state: Any) -> tuple[NDArray[Any], Any]:
        import torch

        with torch.inference_mode(), self._precision():
            output, state = step(torch.from_numpy(np.ascontiguousarray(chunk)).to(self.device), state)
        return output.cpu().numpy(), state
