"""The engine that runs a model's graphs in ONNX Runtime, without PyTorch."""

import hashlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spectok.codebook import CODEBOOK, grid, stored
from spectok.config import CodecConfig
from spectok.engine.protocol import CodecState, Side, copied
from spectok.errors import InputError, require
from spectok.graphs import EXTENSION_WEIGHTS, MODEL_WEIGHTS, WEIGHTS, read_graph
from spectok.pretrained import Model

LOST = "lost"  # input of the graph of a decoder with concealment, bool [batch, frames]
SPECTRUM = "spectrum"  # output of the graph of a decoder, and input of that of an extension
INVERSE = "state.inverse_stft."  # start of the names of the states that a decoder does not need for its spectrum


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
        return copied(arrays, kinds) if arrays else {}

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
            require(
                facts.get("model", self._model.sha256) == self._model.sha256,
                f"{path} was made for another model than {self._model.folder}; recipes/release.py makes it anew",
            )
            arrays = [tensor.view(weights) for tensor in external]
            values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in arrays]
            options.add_external_initializers([tensor.name for tensor in external], values)
            session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            first, *others = session.get_inputs()
            states = [item for item in others if item.name != LOST]
            outputs = [item.name for item in session.get_outputs() if item.name != SPECTRUM]
            kinds: dict[str, type] = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
            wrong = [item.type for item in states if item.type not in kinds]
            require(not wrong, f"{path} has a state of an unknown type, {', '.join(wrong)}")
            zeros = {item.name: (tuple(item.shape[1:]), kinds[item.type]) for item in states}
        except InputError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions have no common base class
            raise InputError(f"cannot read {path}: {str(error).splitlines()[0]}") from error
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
