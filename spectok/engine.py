"""Engines run the network. Their interface uses NumPy arrays, and callers treat states as opaque.

Sessions and tokenizer use only the protocol `Engine`. `OnnxEngine` runs a model's graphs in ONNX Runtime and does not
need PyTorch; `TorchEngine` runs the codec in PyTorch. Each library is imported when its engine is created.
"""

import hashlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from spectok.codebook import CODEBOOK, grid, stored
from spectok.config import CodecConfig
from spectok.errors import InputError
from spectok.graphs import EXTENSION_WEIGHTS, MODEL_WEIGHTS, WEIGHTS, read_graph
from spectok.pretrained import Model, find
from spectok.schema import require

if TYPE_CHECKING:
    from spectok.model.codec import Codec
    from spectok.model.extension import Extension

ENGINES = ("onnx", "torch")
LOST = "lost"  # input of the graph of a decoder with concealment, bool [batch, frames]
SPECTRUM = "spectrum"  # output of the graph of a decoder, and input of that of an extension
INVERSE = "state.inverse_stft."  # start of the names of the states that a decoder does not need for its spectrum
Side = Literal["encoder", "decoder", "extended"]  # extended: a decoder whose output is extended to 20 kHz


class CodecState(NamedTuple):
    """The zero states of both directions; callers treat them as opaque."""

    encoder: Any
    decoder: Any


class Engine(Protocol):
    """Encodes and decodes whole frames. States are passed in and returned; an engine stores none."""

    @property
    def config(self) -> CodecConfig:
        """The codec's configuration."""

    @property
    def name(self) -> str:
        """What runs on what, for reports."""

    def init_state(self, batch: int) -> CodecState:
        """Zero states for `batch` rows."""

    def encode_step(self, audio: NDArray[np.float32], state: Any) -> tuple[NDArray[np.int64], Any]:
        """Encode audio `[B, T]`, T a multiple of frame_length; returns codes `[B, N]` and the state after them."""

    def decode_step(
        self, codes: NDArray[np.int64], state: Any, lost: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float32], Any]:
        """Decode codes `[B, N]`, N a multiple of tokens_per_frame; returns audio `[B, T]` and the state after it.

        `lost`, `[B, F]`, says which frames are lost; their codes must repeat the last frame that arrived. A codec
        without concealment ignores it.
        """

    @property
    def can_extend(self) -> bool:
        """Whether there is an extension."""

    def init_extended(self, batch: int) -> Any:
        """The zero state of `extended_step` for `batch` rows."""

    def extended_step(
        self, codes: NDArray[np.int64], state: Any, lost: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float32], Any]:
        """`decode_step` with the extension to 20 kHz: audio `[B, 3 * T]` at three times the codec's sample rate.

        Raises:
            InputError: there is no extension, or its files are damaged.
        """

    def code_vectors(self) -> NDArray[np.float32]:
        """The vectors that the quantizer has for the codes, `[codebook_size, D]`."""

    def stack(self, states: Sequence[Any]) -> Any:
        """One state with a row for each of `states`, which have one row each and are of the same side."""

    def split(self, state: Any, rows: int) -> list[Any]:
        """The states of one row each that make up a state of `rows` rows; the inverse of `stack`."""

    def to_arrays(self, state: Any) -> dict[str, NDArray[Any]]:
        """A copy of a state as arrays by name, to be stored."""

    def from_arrays(self, side: Side, arrays: Mapping[str, NDArray[Any]], rows: int) -> Any:
        """The state of `rows` rows that `to_arrays` copied.

        Raises:
            InputError: the names, shapes or types are not those of this engine's states of that side.
        """


def load_engine(
    model: Model,
    name: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    encoder: Model | None = None,
) -> Engine:
    """Create an engine for a model.

    Args:
        model: configuration and weights on disk.
        name: "onnx" or "torch"; by default onnx, but torch on a device other than the CPU, or if the model has no
            graphs.
        device: "cpu", or for torch also "cuda" or "cuda:1".
        threads: CPU threads; by default 1 for onnx, and PyTorch's own default for torch.
        encoder: an encoder of the model to use in place of its own, from `pretrained.find_encoder`.

    Raises:
        InputError: there is no such engine or device, a package is not installed, or the model is damaged.
    """
    require(name is None or name in ENGINES, f"there is no engine '{name}'; known are {', '.join(ENGINES)}")
    require(threads is None or threads > 0, f"the number of threads is {threads}, but must be positive")
    has_graphs = model.has_graphs and (encoder is None or encoder.has_graph("encoder"))
    if name == "torch" or (name is None and (device != "cpu" or not has_graphs)):
        return TorchEngine(model, device, threads, encoder)
    require(device == "cpu", f"the engine onnx runs on the device cpu, not on '{device}'; torch does")
    return OnnxEngine(model, threads or 1, encoder)


class OnnxEngine:
    """Runs the graphs that `spectok export` wrote, in ONNX Runtime on the CPU.

    The graphs refer to the weights in `model.safetensors`; a graph that refers to another file is an error. A state is
    a dictionary of arrays by the names of the graph's inputs; an empty one stands for zeros. Each graph is loaded at
    its first step, once for all threads, so that encoding alone does not load the decoder. Copies and unpickled engines
    load their own graphs.

    Args:
        model: a model with graphs.
        threads: number of CPU threads.
        encoder: an encoder to use in place of the model's own.

    Raises:
        InputError: there are no graphs, or the weights are damaged. A damaged graph is an error of the first step.
    """

    def __init__(self, model: Model, threads: int = 1, encoder: Model | None = None) -> None:
        self._model, self._threads, self._encoder = model, threads, encoder
        self._graphs: dict[str, _Graph] = {}
        self._loading = threading.Lock()
        require(model.has_graphs, f"{model.folder} has no encoder.onnx and decoder.onnx; spectok export makes them")
        self._models = {"encoder": model if encoder is None else encoder, "decoder": model, "extension": model}
        weights = model.read(WEIGHTS)
        # Files by the names that graphs have:
        self._weights = {side: {WEIGHTS: weights} for side in ("encoder", "decoder")}
        if encoder is not None:
            self._weights["encoder"] = {WEIGHTS: encoder.read(WEIGHTS), MODEL_WEIGHTS: weights}

    @property
    def config(self) -> CodecConfig:
        """The codec's configuration."""
        return self._model.config

    @property
    def name(self) -> str:
        """What runs on what, for reports."""
        return f"onnx on {self._threads} thread{'s' * (self._threads > 1)}"

    def init_state(self, batch: int) -> CodecState:
        """Zero states for any number of rows."""
        return CodecState({}, {})

    def encode_step(self, audio: NDArray[np.float32], state: Any) -> tuple[NDArray[np.int64], Any]:
        """Audio `[B, T]` to codes `[B, N]`."""
        return self._run("encoder", np.ascontiguousarray(audio, np.float32), state)

    def decode_step(
        self, codes: NDArray[np.int64], state: Any, lost: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float32], Any]:
        """Codes `[B, N]` to audio `[B, T]`."""
        return self._run("decoder", np.ascontiguousarray(codes, np.int64), state, lost)

    @property
    def can_extend(self) -> bool:
        """Whether the model has the weights and the graph of an extension."""
        return self._model.has_extension and self._model.has_graph("extension")

    def init_extended(self, batch: int) -> Any:
        """The zero state for any number of rows."""
        return {}

    def extended_step(
        self, codes: NDArray[np.int64], state: Any, lost: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float32], Any]:
        """Codes `[B, N]` to audio `[B, 3 * T]`: the decoder without its inverse STFT, and the extension."""
        graph, names = self._graph("decoder"), self._graph("extension").states
        states = state or self._zeros("extended", len(codes))
        decoder = {name: array for name, array in states.items() if name not in names}
        inputs = self._inputs(np.ascontiguousarray(codes, np.int64), decoder, lost)
        for name, (shape, kind) in graph.states.items():
            if name not in decoder:  # those of the inverse STFT, which a run needs even if it does not use them
                inputs[name] = np.zeros((len(codes), *shape), kind)
        following = graph.after
        outputs = [SPECTRUM, *(following[name] for name in decoder)]
        spectrum, *after = graph.run(outputs, inputs, _only_what_is_asked())
        extension = {name: states[name] for name in names}
        audio, extension = self._run("extension", spectrum, extension)
        return audio, dict(zip(decoder, after, strict=True)) | extension

    def code_vectors(self) -> NDArray[np.float32]:
        """The grid of the levels, or the codebook in the weights."""
        quantizer = self.config.quantizer
        return (
            grid(quantizer.levels)
            if quantizer.kind == "fsq"
            else stored(self._weights["decoder"][WEIGHTS], CODEBOOK)[0]
        )

    def stack(self, states: Sequence[Any]) -> Any:
        """Concatenate the arrays along the batch; zeros take the place of an empty state."""
        arrays: dict[str, NDArray[Any]] = next((state for state in states if state), {})
        zeros = {name: np.zeros_like(array) for name, array in arrays.items()}
        return {name: np.concatenate([(state or zeros)[name] for state in states]) for name in arrays}

    def split(self, state: Any, rows: int) -> list[Any]:
        """The rows of each array."""
        return [{name: array[row : row + 1] for name, array in state.items()} for row in range(rows)]

    def to_arrays(self, state: Any) -> dict[str, NDArray[Any]]:
        """A copy of the arrays; the empty state has none."""
        return {name: array.copy() for name, array in state.items()}

    def from_arrays(self, side: Side, arrays: Mapping[str, NDArray[Any]], rows: int) -> Any:
        """The state with these arrays, in the order of the graph's inputs."""
        kinds = {name: ((rows, *shape), np.dtype(kind)) for name, (shape, kind) in self._states(side).items()}
        return _copied(arrays, kinds) if arrays else {}

    def facts(self, side: str) -> dict[str, str]:
        """The metadata in the file of one graph, "encoder", "decoder" or "extension"."""
        return self._graph(side).facts

    def _run(
        self, side: str, chunk: NDArray[Any], state: dict[str, NDArray[Any]], lost: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[Any], Any]:
        graph = self._graph(side)
        state = state or self._zeros(side, len(chunk))
        inputs = self._inputs(chunk, state, lost) if side == "decoder" else {graph.stream: chunk, **state}
        output, *after = graph.run(graph.outputs, inputs)
        return output, dict(zip(state, after, strict=True))

    def _inputs(
        self, codes: NDArray[np.int64], state: dict[str, NDArray[Any]], lost: NDArray[np.bool_] | None
    ) -> dict[str, NDArray[Any]]:
        """The inputs of the decoder's graph."""
        graph = self._graph("decoder")
        inputs = {graph.stream: codes, **state}
        if graph.conceals:
            tokens = self.config.quantizer.tokens_per_frame
            inputs[LOST] = np.zeros((len(codes), codes.shape[1] // tokens), bool) if lost is None else lost
        return inputs

    def _zeros(self, side: str, rows: int) -> dict[str, NDArray[Any]]:
        """The zero state."""
        return {name: np.zeros((rows, *shape), kind) for name, (shape, kind) in self._states(side).items()}

    def _states(self, side: str) -> dict[str, tuple[tuple[int, ...], type]]:
        """Shapes without the batch, and types, of a state's arrays."""
        if side != "extended":
            return self._graph(side).states
        decoder = self._graph("decoder").states.items()
        return {name: kind for name, kind in decoder if not name.startswith(INVERSE)} | self._graph("extension").states

    def __reduce__(self) -> tuple[type["OnnxEngine"], tuple[Model, int, Model | None]]:
        return OnnxEngine, (self._model, self._threads, self._encoder)

    def _graph(self, side: str) -> "_Graph":
        if side not in self._graphs:
            with self._loading:
                if side not in self._graphs:
                    self._graphs[side] = self._load(side)
        return self._graphs[side]

    def _load(self, side: str) -> "_Graph":
        import onnxruntime

        model = self._models[side]
        require(side != "extension" or self.can_extend, f"the model {model.config.name} has no extension")
        file, path = f"{side}.onnx", model.folder / f"{side}.onnx"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self._threads, 1
        # The exported graph is optimised already; this level only converts the weights to float32, once.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.log_severity_level = 4  # errors are exceptions, and need not be printed too
        content, weights, own = model.read(file), self._weights.get(side, {}), WEIGHTS
        if side == "extension":
            own = EXTENSION_WEIGHTS
            weights = {own: model.read(own)}
        try:
            facts, external = read_graph(content)
            require(
                facts.get("weights") == (hashlib.sha256(weights[own]).hexdigest() if own != WEIGHTS else model.sha256),
                f"{path} was made from other weights than {own} beside it; spectok export makes it anew",
            )
            expected = model.config.fingerprint
            require(
                facts.get("config") == expected,
                f"{path} was made with another configuration than config.json beside it; spectok export makes it anew",
            )
            arrays = [tensor.view(weights) for tensor in external]
            values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in arrays]
            options.add_external_initializers([tensor.name for tensor in external], values)
            session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except InputError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions have no common base class
            raise InputError(f"cannot read {path}: {str(error).splitlines()[0]}") from error
        first, *others = session.get_inputs()
        states = [item for item in others if item.name != LOST]
        outputs = [item.name for item in session.get_outputs() if item.name != SPECTRUM]
        kinds: dict[str, type] = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
        zeros = {item.name: (tuple(item.shape[1:]), kinds[item.type]) for item in states}
        return _Graph(session.run, outputs, first.name, len(states) < len(others), zeros, facts)


class _Graph(NamedTuple):
    """A loaded graph, and facts about it that every step needs."""

    run: Any  # (outputs, inputs by name) to arrays
    outputs: list[str]
    stream: str  # name of the input with audio or codes
    conceals: bool  # whether there is an input LOST
    states: dict[str, tuple[tuple[int, ...], type]]  # shapes without the batch and types, in the order of the outputs
    facts: dict[str, str]

    @property
    def after(self) -> dict[str, str]:
        """For each state, the name of the output with its next value."""
        return dict(zip(self.states, self.outputs[1:], strict=True))


def _only_what_is_asked() -> Any:
    """Options for a run that leaves out what the outputs do not depend on."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.only_execute_path_to_fetches = True
    return options


def model_size(model: Model) -> tuple[int, dict[str, float]]:
    """Number of a model's parameters, and multiply-accumulates per second of audio of its "encoder" and "decoder".

    They are read from the metadata of the graphs; without graphs they are counted (`Codec.macs_per_second`).

    Raises:
        InputError: there are neither graphs nor PyTorch.
    """
    if not model.has_graphs:
        codec = TorchEngine(model).codec
        return codec.num_parameters, codec.macs_per_second()
    engine = OnnxEngine(model)
    facts = {side: engine.facts(side) for side in ("encoder", "decoder")}
    macs = {side: float(fact["macs_per_second"]) for side, fact in facts.items()}
    return int(facts["encoder"]["parameters"]), macs


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


def _copied(
    arrays: Mapping[str, NDArray[Any]], kinds: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]
) -> dict[str, NDArray[Any]]:
    """Copies of arrays, in the order of `kinds`, which has the shape and type that each must have."""
    require(
        {name: (array.shape, array.dtype) for name, array in arrays.items()} == kinds,
        "the state is of another engine or codec: its arrays have other names, shapes or types",
    )
    return {name: arrays[name].copy() for name in kinds}


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
        copies = _copied(arrays, kinds).values()
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
        """On a GPU, compute in full float32: TensorFloat-32 is less precise, and codes would depend on the device."""
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
