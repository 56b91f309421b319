"""The engine that runs the codec in PyTorch, which is imported when it is needed."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spectok.config import CodecConfig
from spectok.engine.protocol import CodecState, Side, copied
from spectok.errors import InputError
from spectok.graphs import EXTENSION_WEIGHTS
from spectok.pretrained import Model, find

if TYPE_CHECKING:
    from spectok.model.codec import Codec
    from spectok.model.extension import Extension


def load_codec(model: Model | str | Path, encoder: Model | None = None) -> "Codec":
    """Load the codec in PyTorch, with its weights, on the CPU, in evaluation mode.

    Args:
        model: a model from `pretrained.find`, or the name or folder for that function.
        encoder: an encoder to use in place of the model's own, from `pretrained.find_encoder`.

    Raises:
        InputError: PyTorch is missing, there is no such model, or the weights do not fit the configuration.
    """
    try:
        from spectok.model.codec import Codec, Encoder
        from spectok.weights import load_weights
    except ModuleNotFoundError as error:
        raise InputError(f"the engine torch needs PyTorch: pip install 'spectok[torch]' ({error})") from error
    if not isinstance(model, Model):
        model = find(model)
    codec = Codec(model.config)
    load_weights(codec, model)
    if encoder is not None:
        own = codec.encoder.state_dict()
        codec.encoder = Encoder(encoder.config)
        load_weights(codec.encoder, encoder, own)
    return codec.eval()


def load_extension(model: Model) -> "Extension":
    """Load the extension of a model in PyTorch, on the CPU, in evaluation mode.

    Raises:
        InputError: the file is missing or damaged, or its tensors do not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    from spectok.model.extension import Extension

    extension, path = Extension(model.config.spectrum, model.config.sample_rate), model.folder / EXTENSION_WEIGHTS
    content = model.read(EXTENSION_WEIGHTS)
    try:
        extension.load_state_dict(load(content))
    except (SafetensorError, RuntimeError) as error:
        raise InputError(f"cannot read {path}: {str(error).splitlines()[0]}") from error
    return extension.eval()


class TorchStates(ABC):
    """The methods of an engine that handle states, for states that are nested tuples of tensors (model/streaming.py).

    They are numbered in order where arrays need names.
    """

    @abstractmethod
    def init_state(self, batch: int) -> CodecState:
        """Zero states for `batch` rows."""

    @property
    def can_extend(self) -> bool:
        """Whether there is an extension."""
        return False

    def init_extended(self, batch: int) -> Any:
        """An error: only engines that define it have an extension."""
        raise InputError("the model has no extension")

    def extended_step(
        self, codes: NDArray[np.int64], state: Any, lost: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float32], Any]:
        """An error: only engines that define it have an extension."""
        raise InputError("the model has no extension")

    def stack(self, states: Sequence[Any]) -> Any:
        """Concatenate the tensors along the batch."""
        import torch

        from spectok.model.streaming import leaves, rebuilt

        columns = zip(*(leaves(state) for state in states), strict=True)
        return rebuilt(states[0], iter([torch.cat(column) for column in columns]))

    def split(self, state: Any, rows: int) -> list[Any]:
        """The rows of each tensor."""
        from spectok.model.streaming import leaves, rebuilt

        tensors = leaves(state)
        return [rebuilt(state, iter([tensor[row : row + 1] for tensor in tensors])) for row in range(rows)]

    def to_arrays(self, state: Any) -> dict[str, NDArray[Any]]:
        """A copy of the tensors, by their numbers."""
        from spectok.model.streaming import leaves

        return {str(number): tensor.cpu().numpy().copy() for number, tensor in enumerate(leaves(state))}

    def from_arrays(self, side: Side, arrays: Mapping[str, NDArray[Any]], rows: int) -> Any:
        """The state with these tensors, on the engine's device."""
        import torch

        from spectok.model.streaming import leaves, rebuilt

        zero = self.init_extended(rows) if side == "extended" else getattr(self.init_state(rows), side)
        kinds = {name: (array.shape, array.dtype) for name, array in self.to_arrays(zero).items()}
        copies = copied(arrays, kinds).values()
        pairs = zip(copies, leaves(zero), strict=True)
        return rebuilt(zero, iter([torch.from_numpy(array).to(tensor.device) for array, tensor in pairs]))


class TorchEngine(TorchStates):
    """Runs the codec in PyTorch.

    Args:
        model: configuration and weights on disk.
        device: "cpu", "cuda" or "cuda:1".
        threads: number of CPU threads, set for PyTorch in the whole process; by default it is not changed.
        encoder: an encoder to use in place of the model's own.

    Raises:
        InputError: PyTorch is missing, the weights do not fit the configuration, or the device does not exist here.
    """

    def __init__(
        self, model: Model, device: str = "cpu", threads: int | None = None, encoder: Model | None = None
    ) -> None:
        self.codec = load_codec(model, encoder)
        import torch

        if threads is not None:
            torch.set_num_threads(threads)
        try:
            self.codec.to(device)
            torch.zeros(1, device=device).cpu()  # fails on the device "meta", which stores no data
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"the device '{device}' cannot be used here: {str(error).splitlines()[0]}") from error
        self.device = torch.device(device)
        self.extension = load_extension(model) if model.has_extension else None
        if self.extension is not None:
            self.extension.to(device)

    @property
    def config(self) -> CodecConfig:
        """The codec's configuration."""
        return self.codec.config

    @property
    def name(self) -> str:
        """What runs on what, for reports."""
        import torch

        threads = torch.get_num_threads()
        return (
            f"torch on {threads} thread{'s' * (threads > 1)}"
            if self.device.type == "cpu"
            else f"torch on {self.device}"
        )

    def init_state(self, batch: int) -> CodecState:
        """Zero states for `batch` rows."""
        return CodecState(*self.codec.init_state(batch))

    def encode_step(self, audio: NDArray[np.float32], state: Any) -> tuple[NDArray[np.int64], Any]:
        """Audio `[B, T]` to codes `[B, N]`."""
        return self._run(self.codec.encode_step, audio, state)

    def decode_step(
        self, codes: NDArray[np.int64], state: Any, lost: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float32], Any]:
        """Codes `[B, N]` to audio `[B, T]`."""
        return self._run(self.codec.decode_step, codes, state, *([] if lost is None else [lost]))

    @property
    def can_extend(self) -> bool:
        """Whether the model has the weights of an extension."""
        return self.extension is not None

    def init_extended(self, batch: int) -> Any:
        """The zero state of the decoder without its inverse STFT, and of the extension."""
        if self.extension is None:
            return super().init_extended(batch)
        return self.codec.decoder.init_state(batch)[:-1], self.extension.init_state(batch)

    def extended_step(
        self, codes: NDArray[np.int64], state: Any, lost: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float32], Any]:
        """Codes `[B, N]` to audio `[B, 3 * T]`: the decoder without its inverse STFT, and the extension."""
        extension = self.extension
        if extension is None:
            return super().extended_step(codes, state, lost)

        def step(codes: Any, state: Any, *lost: Any) -> tuple[Any, Any]:
            spectrum, decoder = self.codec.spectrum_step(codes, state[0], *lost)
            audio, after = extension.step(spectrum, state[1])
            return audio, (decoder, after)

        return self._run(step, codes, state, *([] if lost is None else [lost]))

    def code_vectors(self) -> NDArray[np.float32]:
        """What the quantizer decodes all codes to."""
        import torch

        with torch.inference_mode():
            codes = torch.arange(self.config.quantizer.codebook_size, device=self.device)
            return self.codec.quantizer.decode(codes).float().cpu().numpy()

    def _precision(self) -> AbstractContextManager[None]:
        """On a GPU, compute convolutions and GRUs in full float32: in TensorFloat-32, codes would depend on the device.

        For matrix products PyTorch does so by default; `torch.backends.cuda.matmul.allow_tf32` is left as it is.
        """
        import torch

        if self.device.type != "cuda":
            return nullcontext()
        flags: AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        return flags

    def _run(self, step: Any, chunk: NDArray[Any], state: Any, *lost: NDArray[np.bool_]) -> tuple[NDArray[Any], Any]:
        import torch

        with torch.inference_mode(), self._precision():
            first, *others = (torch.from_numpy(np.ascontiguousarray(x)).to(self.device) for x in (chunk, *lost))
            output, state = step(first, state, *others)
        return output.cpu().numpy(), state
