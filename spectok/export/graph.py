"""Transforms a traced graph: constant shapes, fused operators, and compact forms of constants."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spectok.graphs import KINDS
from spectok.model.codec import Codec
from spectok.model.extension import Extension
from spectok.model.spectrum import STFT, FourierMatrix, InverseSTFT

LEAST_STORED = 64  # smallest size of a constant that gets a compact form
FLOAT = 1  # onnx.TensorProto.FLOAT, float32
DTYPES = {"F32": 1, "F16": 10}  # from the names of safetensors to onnx.TensorProto.DataType


def fix_shapes(path: Path) -> None:
    """Give every Reshape and Expand a constant shape, with 0 for an unchanged axis and -1 for the inferred one.

    The traced graph computes shapes from those of its inputs, which is a third of all operators. If two axes would have
    to be inferred, the length of the first is taken from another tensor that has the same first axis; without such a
    tensor the shape is not changed.
    """
    import onnx

    model = onnx.load(path)
    graph, make = model.graph, onnx.helper.make_node
    shapes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.input, *graph.output)
    }
    constants = {item.name for item in graph.initializer}
    squeezed = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Squeeze"}
    first = {shapes[value.name][0]: value.name for value in graph.input}  # a tensor for each first axis
    nodes = []
    for node in graph.node:
        before, after = (shapes.get(name, []) for name in (node.input[0], node.output[0]))
        if node.op_type in ("Reshape", "Expand") and len(after) > 1 and node.input[1] not in constants:
            is_kept = [node.op_type == "Reshape" and before[i : i + 1] == after[i : i + 1] for i in range(len(after))]
            shape = [
                axis if isinstance(axis, int) else 0 if kept else -1 for axis, kept in zip(after, is_kept, strict=True)
            ]
            asked, name = shape.count(-1) > (node.op_type == "Reshape"), f"{node.output[0]}.shape"
            if shape[asked:].count(-1) <= 1 and (not asked or after[0] in first):
                if asked:
                    length = make("Shape", [first[after[0]]], [f"{name}.first"], start=0, end=1)
                    nodes += [length, make("Concat", [f"{name}.first", f"{name}.rest"], [name], axis=0)]
                constant = onnx.numpy_helper.from_array(np.array(shape[asked:]), f"{name}.rest" if asked else name)
                graph.initializer.append(constant)
                node.input[1] = name
                del node.attribute[:]  # with allowzero, 0 would mean an axis of length 0
                if shape[0] == 0 and 0 not in shape[1:]:  # the input before the Squeeze has the same first axis
                    node.input[0] = squeezed.get(node.input[0], node.input[0])
        if node.op_type == "Reshape" and after:
            first.setdefault(after[0], node.output[0])
        nodes.append(node)
    needed, kept = {value.name for value in graph.output}, []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    onnx.save(model, path)


def optimise(source: Path, destination: Path) -> None:
    """Let ONNX Runtime fuse operators, but not use layouts for one kind of processor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 3  # no warnings about removed constants
    options.optimized_model_filepath = os.fspath(destination)
    onnxruntime.InferenceSession(os.fspath(source), options, providers=["CPUExecutionProvider"])


def shorten_names(graph: Any) -> None:
    """Number the values between operators, v0, v1 and so on; their traced names would take 2 % of an encoder.

    Inputs, outputs and constants keep their names.

    Args:
        graph: the graph, which is changed in place.
    """
    kept = {value.name for value in (*graph.input, *graph.output)}
    between = [name for node in graph.node for name in node.output if name and name not in kept]
    short = {name: f"v{number}" for number, name in enumerate(between)}
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [short.get(name, name) for name in names]


class Weight(NamedTuple):
    """A tensor of a file of weights."""

    file: str  # its name in the graph
    name: str
    kind: int  # onnx.TensorProto.DataType
    shape: tuple[int, ...]
    offset: int  # bytes from the beginning of the file
    length: int  # bytes


def stored_weights(file: str, content: bytes) -> Iterator[tuple[Weight, np.ndarray]]:
    """The floating-point tensors in the content of a safetensors file, and their numbers as float32."""
    start = 8 + int.from_bytes(content[:8], "little")
    for name, entry in json.loads(content[8:start]).items():
        if entry.get("dtype") in DTYPES:  # "__metadata__" has no such key
            kind, (first, end) = DTYPES[entry["dtype"]], entry["data_offsets"]
            weight = Weight(file, name, kind, tuple(entry["shape"]), start + first, end - first)
            values: np.ndarray = np.frombuffer(content, KINDS[kind], math.prod(weight.shape), weight.offset)
            yield weight, values.reshape(weight.shape).astype(np.float32)


def store_small(graph: Any, codec: Codec | Extension, weights: Mapping[str, bytes]) -> None:
    """Store large float32 constants in compact forms, with operators that compute exactly the same numbers from them.

    A tensor of `model.safetensors`, its transpose, or the matrix of a GRU with its gates in ONNX's order becomes a
    reference to the tensor in that file. A Fourier matrix becomes its factors, the codebook of an FSQ the numbers along
    each of its dimensions, and other constants that are exact in float16 become float16.

    Args:
        graph: the graph, which is changed in place.
        codec: the codec, or the extension, that was traced.
        weights: content of the files that the codec was loaded from, by the names that the graph has for them.
    """
    import onnx

    fourier = {
        f"codec.{name}.matrix": layer.fourier
        for name, layer in codec.named_modules()
        if isinstance(layer, (STFT, InverseSTFT))
    }
    known: dict[tuple[Any, ...], tuple[str, Weight]] = {}  # by shape and bytes
    for weight, stored in (item for file, content in weights.items() for item in stored_weights(file, content)):
        for form, values in _forms(stored):
            known.setdefault((values.shape, values.tobytes()), (form, weight))
    small, kept = _Constants(), []
    for tensor in graph.initializer:
        name, values = tensor.name, onnx.numpy_helper.to_array(tensor)
        if tensor.data_type != onnx.TensorProto.FLOAT or values.size < LEAST_STORED:
            kept.append(tensor)
        elif name in fourier:
            small.add_fourier(name, fourier[name])
        elif isinstance(codec, Codec) and name == "codec.quantizer.fsq.implicit_codebook":
            small.add_codebook(name, values, np.array(codec.config.quantizer.levels))
        elif found := known.get((values.shape, values.tobytes())):
            small.add_weight(name, *found)
        elif _is_half(values):
            small.add_half(name, values)
        else:
            kept.append(tensor)
    nodes = [*small.nodes, *graph.node]
    del graph.node[:], graph.initializer[:]
    graph.initializer.extend([*kept, *small.tensors.values()])
    graph.node.extend(nodes)


def _forms(values: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The forms of a weight that `_Constants.add_weight` can produce."""
    yield "as stored", values
    if values.ndim == 2:
        yield "transposed", values.T
        if len(values) % 3 == 0:
            yield "gates", _reordered(values)


def _reordered(rows: np.ndarray) -> np.ndarray:
    """The rows `[3 * hidden, ...]` of a GRU's matrix in torch, as `[1, 3 * hidden, ...]` in ONNX's order of gates."""
    reset, update, new = np.split(rows, 3)
    return np.concatenate([update, reset, new])[None]


class _Constants:
    """Compact constants, and the nodes that compute the graph's constants from them."""

    def __init__(self) -> None:
        self.tensors: dict[str, Any] = {}
        self.nodes: list[Any] = []

    def add_weight(self, name: str, form: str, weight: Weight) -> None:
        """Add a tensor of `model.safetensors`, in one of `_forms`."""
        source = self._external(weight)
        if form == "transposed":
            source = self._node("Transpose", [source], f"{name}.transposed", perm=[1, 0])
        elif form == "gates":
            order = _reordered(np.arange(weight.shape[0], dtype=np.int32))  # Gather of [1, 3 * hidden] adds the axis
            source = self._node("Gather", [source, self._tensor(f"gates.{order.size}", order)], f"{name}.gates", axis=0)
        self._node("Cast", [source], name, to=FLOAT)

    def add_half(self, name: str, values: np.ndarray) -> None:
        """Add numbers that are exact in float16."""
        self._node("Cast", [self._tensor(f"{name}.half", values.astype(np.float16))], name, to=FLOAT)

    def add_fourier(self, name: str, matrix: FourierMatrix) -> None:
        """Add a Fourier matrix, computed as by `FourierMatrix.product`."""
        part = {key: self._tensor(f"{name}.{key}", value.numpy()) for key, value in matrix._asdict().items()}
        period = self._tensor(f"{name}.period", np.array(len(matrix.waves) // 2))
        place = self._node("Mul", [part["rows"], part["columns"]], f"{name}.turned")
        place = self._node("Mod", [place, period], f"{name}.phases")
        place = self._node("Add", [place, part["offsets"]], f"{name}.places")
        wave = self._node("Gather", [part["waves"], place], f"{name}.wave")
        wave = self._node("Mul", [part["left"], wave], f"{name}.weighed")
        wave = self._node("Mul", [wave, part["right"]], f"{name}.double")
        self._node("Cast", [wave], name, to=FLOAT)

    def add_codebook(self, name: str, values: np.ndarray, levels: np.ndarray) -> None:
        """Add the entries `[size, D]` of an FSQ: in each dimension, the number that the code's digit stands for."""
        steps = np.cumprod([1, *levels[:-1]])  # difference of two codes of which one digit differs by 1
        numbers = np.concatenate([values[steps[i] * np.arange(levels[i]), i] for i in range(len(levels))])
        columns = {"steps": steps, "levels": levels, "firsts": np.cumsum(levels) - levels}
        part = {key: self._tensor(f"{name}.{key}", column[:, None]) for key, column in columns.items()}
        ends = {"start": 0, "end": len(values), "delta": 1}
        codes = [self._tensor(f"{name}.{key}", np.array(value)) for key, value in ends.items()]
        place = self._node("Div", [self._node("Range", codes, f"{name}.codes"), part["steps"]], f"{name}.quotients")
        place = self._node("Mod", [place, part["levels"]], f"{name}.digits")
        place = self._node("Add", [place, part["firsts"]], f"{name}.places")
        table = self._node("Gather", [self._tensor(f"{name}.numbers", numbers), place], f"{name}.table")
        self._node("Transpose", [table], name, perm=[1, 0])

    def _tensor(self, name: str, values: np.ndarray) -> str:
        import onnx

        self.tensors[name] = onnx.numpy_helper.from_array(values, name)
        return name

    def _external(self, weight: Weight) -> str:
        import onnx

        tensor = onnx.TensorProto(name=weight.name, data_type=weight.kind, dims=weight.shape)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in {"location": weight.file, "offset": weight.offset, "length": weight.length}.items():
            tensor.external_data.add(key=key, value=str(value))
        self.tensors[weight.name] = tensor
        return weight.name

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        import onnx

        self.nodes.append(onnx.helper.make_node(kind, inputs, [output], **attributes))
        return output


def _is_half(values: np.ndarray) -> bool:
    """Whether all of these numbers are exact in float16."""
    with np.errstate(over="ignore"):
        return bool(np.array_equal(values.astype(np.float16).astype(np.float32), values))
