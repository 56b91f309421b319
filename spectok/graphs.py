"""Finds the external data of an ONNX file, without the package onnx and before ONNX Runtime opens any file.

The graphs of a model refer to large weights as external data: a tensor names a file, an offset and a length in bytes.
ONNX Runtime opens any file that a graph names. `read_graph` finds all such tensors, so that the engine can refuse files
other than those of weights, and can pass on the bytes whose hash it has checked. It decodes protocol buffers
(https://protobuf.dev/programming-guides/encoding) with the field numbers of onnx.proto.
"""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

WEIGHTS = "model.safetensors"  # the file that a graph may refer to
EXTENSION_WEIGHTS = "extension.safetensors"  # the file that the graph of an extension may refer to
MODEL_WEIGHTS = "../model.safetensors"  # and the graph of a further encoder also to this one, of its model
KINDS: dict[int, type] = {1: np.float32, 10: np.float16}  # by onnx.TensorProto.DataType
MESSAGES = {  # in which fields of a message there are messages that may hold tensors
    "model": {7: "graph", 14: "metadata", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
}


class ExternalTensor(NamedTuple):
    """A tensor whose numbers are in another file."""

    name: str
    kind: int  # onnx.TensorProto.DataType
    shape: tuple[int, ...]
    place: dict[str, str]  # "location", "offset" and "length", as in the file
    is_initializer: bool  # of the model's graph; false for tensors of nodes, functions and inner graphs

    def view(self, files: Mapping[str, bytes]) -> NDArray[np.generic]:
        """The numbers, in the tensor's shape, as an array over the content of a file.

        Args:
            files: content of the files that the graph may refer to, by their names.

        Raises:
            ValueError: the tensor is in another file, or not within its file, or its numbers are of another type.
        """
        location = self.place.get("location", "")
        if location not in files or not self.is_initializer:
            known = " or ".join(files)
            raise ValueError(f"it refers to the file {location!r}; only its weights may be in a file, {known}")
        weights = files[location]
        offset, length = int(self.place.get("offset", 0)), int(self.place.get("length", -1))
        kind, size = KINDS.get(self.kind), math.prod(self.shape)
        if kind is None or offset < 0 or offset + length > len(weights) or length != size * np.dtype(kind).itemsize:
            raise ValueError(f"its tensor {self.name!r} is not within {location}")
        return np.frombuffer(weights, kind, size, offset).reshape(self.shape)


def check_graph(content: bytes, audio: int, codes: int | None = None) -> None:
    """Check that a graph converts frames of the right size: one of its first input and output is audio, one is codes.

    `spectok export` names the length of these arrays as a multiple of `frames`, such as "320*frames".

    Args:
        content: of the ONNX file of an encoder, from audio to codes, or a decoder, from codes to audio.
        audio: samples per frame.
        codes: codes per frame; None for the graph of an extension, whose input is a spectrum.

    Raises:
        ValueError: the sizes are others, or the content is not an ONNX file.
    """
    expected, found = {"audio": audio} | ({} if codes is None else {"codes": codes}), dict[str, int]()
    for data in (data for field, _, data in _fields(memoryview(content)) if field == 7):
        first = {field: value for field, _, value in reversed(list(_fields(data))) if field in (11, 12)}
        found.update(_frame_size(value) for value in first.values())
    if not found:
        raise ValueError("it is not an ONNX file")
    for name, size in expected.items():
        if found.get(name) != size:
            raise ValueError(f"a frame of its {name} has the size {found.get(name)}, but config.json says {size}")


def _frame_size(info: memoryview) -> tuple[str, int]:
    """Name and size of a frame of an array `[batch, size * frames]`, from a ValueInfoProto; the size 0 if unknown."""
    name, length = "", ""
    for field, _, data in _fields(info):
        if field == 1:
            name = str(data, "utf-8")
        elif field == 2:
            tensor = _inside(_inside([data], 1), 2)  # TypeProto.tensor_type.shape
            for dimension in _inside(tensor, 1):
                length = "".join(str(text, "utf-8") for kind, _, text in _fields(dimension) if kind == 2)
    factor, _, frames = length.rpartition("*")
    return name, int(factor or 1) if frames == "frames" and (factor or "1").isdecimal() else 0


def _inside(messages: list[memoryview], field: int) -> list[memoryview]:
    """The messages in a field of messages."""
    return [data for message in messages for number, _, data in _fields(message) if number == field]


def read_graph(content: bytes) -> tuple[dict[str, str], list[ExternalTensor]]:
    """The metadata of an ONNX file, and all its tensors that are in other files.

    Raises:
        ValueError: the content is not an ONNX file.
    """
    metadata: dict[str, str] = {}
    external, has_graph = [], False
    pending = [("model", 0, memoryview(content))]
    while pending:  # a loop, because graphs may be nested deeper than Python can recurse
        message, depth, fields = pending.pop()
        has_graph |= message == "graph"
        if message == "metadata":
            metadata.update([_entry(fields)])
        elif message == "tensor":
            external += _external_tensor(fields, is_initializer=depth == 2)
        else:
            inner = MESSAGES[message]
            found = ((inner[field], data) for field, _, data in _fields(fields) if field in inner)
            # Most messages do not contain the key that names a file, and need not be read.
            pending += [
                (kind, depth + 1, data)
                for kind, data in found
                if kind in ("graph", "metadata") or b"location" in bytes(data)
            ]
    if not has_graph:
        raise ValueError("it is not an ONNX file")
    return metadata, external


def _external_tensor(fields: memoryview, is_initializer: bool) -> list[ExternalTensor]:
    """The reference in a TensorProto; an empty list if the numbers are in the TensorProto itself."""
    name, kind, shape, is_external = "", 0, list[int](), False
    place: dict[str, str] = {}
    for field, number, data in _fields(fields):
        if field == 1:
            shape += _numbers(data) if data else [number]
        elif field == 2:
            kind = number
        elif field == 8:
            name = str(data, "utf-8")
        elif field == 13:
            place.update([_entry(data)])
        elif field == 14:
            is_external |= number == 1
    return [ExternalTensor(name, kind, tuple(shape), place, is_initializer)] if is_external or place else []


def _entry(fields: memoryview) -> tuple[str, str]:
    """Key and value of a StringStringEntryProto."""
    texts = {field: str(data, "utf-8") for field, _, data in _fields(fields)}
    return texts.get(1, ""), texts.get(2, "")


def _fields(message: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """The fields of a message: for each its number and either an integer or bytes; the other is 0 or empty."""
    position, nothing = 0, message[:0]
    while position < len(message):
        key, position = _number(message, position)
        field, encoding = key >> 3, key & 7
        number, length = 0, {1: 8, 5: 4}.get(encoding, 0)
        if encoding == 0:
            number, position = _number(message, position)
        elif encoding == 2:
            length, position = _number(message, position)
        elif not length:
            raise ValueError("it is not an ONNX file")
        if position + length > len(message):
            raise ValueError("it is cut off")
        yield field, number, message[position : position + length] if encoding == 2 else nothing
        position += length


def _numbers(data: memoryview) -> list[int]:
    """A sequence of integers, stored one after another."""
    numbers, position = [], 0
    while position < len(data):
        number, position = _number(data, position)
        numbers.append(number)
    return numbers


def _number(data: memoryview, position: int) -> tuple[int, int]:
    """The integer with 7 bits per byte that begins at a position, and the position after it."""
    number = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise ValueError("it is cut off")
        byte = data[position]
        position += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, position
    raise ValueError("it is not an ONNX file")
