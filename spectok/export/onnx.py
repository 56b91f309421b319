"""Exports `Codec.encode_step` and `Codec.decode_step` as the ONNX files `encoder.onnx` and `decoder.onnx`.

    encoder.onnx    audio [batch, samples], state.*                       ->  codes [batch, tokens], next.*
    decoder.onnx    codes [batch, tokens], lost [batch, frames], state.*  ->  audio [batch, samples], next.*, spectrum
    extension.onnx  spectrum [batch, 2, frames, positions], state.*       ->  audio [batch, samples], next.*

A call accepts any number of whole frames and any number of rows. `state.tower.1.0` is the value of `next.tower.1.0`
from the previous call, and zeros at the start of a stream. The input `lost` exists only if the codec has a concealment
(concealment.py); it is true for frames that are lost, whose codes repeat the last frame that arrived.

The output `spectrum` of a decoder is the input of an extension (model/extension.py), whose weights are in a file of
their own, `extension.safetensors`. It is the last output, and not computed for programs that do not ask for it.

The graph is stored as optimised by ONNX Runtime. Its metadata are the SHA-256 of the weights and the fingerprint of the
configuration that it was made from, and the numbers that `spectok info` prints. Large weights are not in the graph,
which refers to the tensors in `model.safetensors` as external data of ONNX; that file must be in the same folder. The
graph of a further encoder also refers to that of its model, in the folder above, for what both have in common. Other
large constants are stored in compact forms. Released weights are float16 numbers; the runtime converts all weights to
float32 when it loads the graph, and computes in float32.
"""

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spectok.engine.onnx import LOST, SPECTRUM
from spectok.export.graph import fix_shapes, optimise, shorten_names, store_small
from spectok.graphs import EXTENSION_WEIGHTS
from spectok.model.codec import Codec
from spectok.model.extension import Extension
from spectok.model.streaming import State, rebuilt

PARTS = {  # names of the parts of a state
    "encoder": ("leveller", "stft", "denoiser", "tower", "context", "silence"),
    "decoder": ("concealment", "context", "tower", "excitation", "inverse_stft"),
}
OPSET = 23  # the first with RMSNormalization
FRAMES, ROWS = 3, 2  # of the example; both axes are dynamic


def named(state: State, name: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a nested state, each with a name that has its indices: `name.1.0`."""
    for index, item in enumerate(state):
        if isinstance(item, Tensor):
            yield f"{name}.{index}", item
        else:
            yield from named(item, f"{name}.{index}")


class _Step(nn.Module):
    """One direction of the codec with a flat state: `(x, *tensors)` to `(y, *tensors)`.

    The first of the tensors for a decoder with concealment is the input `lost`.
    """

    def __init__(self, codec: Codec, side: str) -> None:
        super().__init__()
        self.codec, self.side = codec, side
        self.conceals = side == "decoder" and codec.decoder.concealment is not None
        self.state = codec.init_state(ROWS)[0 if side == "encoder" else 1]

    def tensors(self, state: State) -> dict[str, Tensor]:
        """The tensors of a state, by name."""
        parts = zip(PARTS[self.side], state, strict=True)
        return {name: tensor for part, inner in parts for name, tensor in named(inner, part)}

    def forward(self, x: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        """One step."""
        lost, leaves = others[: self.conceals], others[self.conceals :]
        state = rebuilt(self.state, iter(leaves))
        if self.side == "encoder":
            codes, state = self.codec.encode_step(x, state)
            return (codes, *self.tensors(state).values())
        spectrum, before = self.codec.spectrum_step(x, state, *lost)
        audio, after = self.codec.decoder.inverse_stft.step(spectrum, state[-1])
        return (audio, *self.tensors((*before, after)).values(), spectrum)


class _ExtensionStep(nn.Module):
    """The extension with a flat state: `(spectrum, *tensors)` to `(audio, *tensors)`."""

    def __init__(self, extension: Extension) -> None:
        super().__init__()
        self.codec = extension  # the name that constants have in the graph
        self.state = extension.init_state(ROWS)

    def tensors(self, state: State) -> dict[str, Tensor]:
        """The tensors of a state, by name."""
        return dict(named(state, "extension"))

    def forward(self, spectrum: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
        """One step."""
        audio, state = self.codec.step(spectrum, rebuilt(self.state, iter(leaves)))
        return (audio, *self.tensors(state).values())


def export(codec: Codec, side: str, weights: Mapping[str, bytes], metadata: dict[str, str]) -> bytes:
    """Export one direction of a codec as the bytes of an ONNX file.

    Args:
        codec: the codec.
        side: "encoder" or "decoder".
        weights: content of the files that the codec was loaded from, by the names that the graph has for them: those
            of `graphs.WEIGHTS`, and for a further encoder also `graphs.MODEL_WEIGHTS`.
        metadata: entries that are stored in the file.
    """
    step = _Step(codec, side)
    length = codec.config.quantizer.tokens_per_frame if side == "encoder" else codec.config.frame_length
    return _exported(_traced(step), codec, weights, side, length, metadata)


def export_extension(extension: Extension, weights: bytes, metadata: dict[str, str]) -> bytes:
    """Export an extension as the bytes of an ONNX file.

    Args:
        extension: the extension.
        weights: content of the safetensors file that it was loaded from.
        metadata: entries that are stored in the file.
    """
    step = _ExtensionStep(extension)
    length = extension.inverse_stft.hop_length
    files = {EXTENSION_WEIGHTS: weights}
    return _exported(_traced_extension(step), extension, files, "extension", length, metadata)


def _exported(
    program: torch.onnx.ONNXProgram,
    module: Codec | Extension,
    weights: Mapping[str, bytes],
    name: str,
    length: int,
    metadata: dict[str, str],
) -> bytes:
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        traced, optimised = Path(folder) / "traced.onnx", Path(folder) / "optimised.onnx"
        program.save(traced)
        fix_shapes(traced)
        optimise(traced, optimised)
        model = onnx.load(optimised)
    shorten_names(model.graph)
    store_small(model.graph, module, weights)
    for node in model.graph.node:  # they contain source lines and paths
        node.ClearField("doc_string")
        del node.metadata_props[:]
    del model.graph.metadata_props[:], model.graph.value_info[:], model.metadata_props[:]
    domains = {node.domain for node in model.graph.node}
    kept = [opset for opset in model.opset_import if opset.domain in domains]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = f"{length}*frames"
    model.producer_name, model.graph.name = "spectok", name
    onnx.helper.set_model_props(model, metadata)
    content: bytes = model.SerializeToString(deterministic=True)
    if len(weights) == 1:  # the check refuses files outside of the graph's folder
        with tempfile.TemporaryDirectory() as folder:  # and it needs the file that the graph refers to
            for file, data in weights.items():
                (Path(folder) / file).write_bytes(data)
            (Path(folder) / "checked.onnx").write_bytes(content)
            onnx.checker.check_model(Path(folder) / "checked.onnx")
    return content


def _traced(step: _Step) -> torch.onnx.ONNXProgram:
    config, state = step.codec.config, step.tensors(step.state)
    length = config.frame_length if step.side == "encoder" else config.quantizer.tokens_per_frame
    x = torch.zeros(ROWS, FRAMES * length, dtype=torch.float32 if step.side == "encoder" else torch.int64)
    batch, frames = torch.export.Dim("batch", min=1, max=1 << 16), torch.export.Dim("frames", min=1, max=1 << 20)
    lost = {LOST: torch.zeros(ROWS, FRAMES, dtype=torch.bool)} if step.conceals else {}
    names = ("audio", "codes") if step.side == "encoder" else ("codes", "audio")
    return _traced_step(
        step,
        {names[0]: x} | lost | {f"state.{name}": tensor for name, tensor in state.items()},
        (
            {0: batch, 1: frames * length if length > 1 else frames},
            (*({0: batch, 1: frames} for _ in lost), *({0: batch} for _ in state)),
        ),
        [names[1], *(f"next.{name}" for name in state)] + [SPECTRUM] * (step.side == "decoder"),
    )


def _traced_extension(step: _ExtensionStep) -> torch.onnx.ONNXProgram:
    state = step.tensors(step.state)
    batch, frames = torch.export.Dim("batch", min=1, max=1 << 16), torch.export.Dim("frames", min=1, max=1 << 20)
    return _traced_step(
        step,
        {SPECTRUM: torch.zeros(ROWS, 2, FRAMES, step.codec.positions)}
        | {f"state.{name}": tensor for name, tensor in state.items()},
        ({0: batch, 2: frames}, tuple({0: batch} for _ in state)),
        ["audio", *(f"next.{name}" for name in state)],
    )


def _traced_step(
    step: nn.Module, inputs: dict[str, Tensor], shapes: tuple[Any, ...], outputs: list[str]
) -> torch.onnx.ONNXProgram:
    """Trace a step.

    Args:
        step: with the inputs as arguments.
        inputs: examples, by name.
        shapes: the dynamic axes of the first input and of the tuple of all others.
        outputs: names.
    """
    for name in ("torch.onnx", "onnxscript"):  # no progress messages
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about changes in later releases of the exporter
        program = torch.onnx.export(
            step.eval(),
            tuple(inputs.values()),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            dynamic_shapes=shapes,
            input_names=list(inputs),
            output_names=outputs,
        )
    assert program is not None
    return program
