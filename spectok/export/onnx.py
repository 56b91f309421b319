"""Exports `Codec.encode_step` and `Codec.decode_step` as the ONNX files `encoder.onnx` and `decoder.onnx`.

    encoder.onnx    audio [batch, samples], state.*                       ->  codes [batch, tokens], next.*
    decoder.onnx    codes [batch, tokens], lost [batch, frames], state.*  ->  audio [batch, samples], next.*

A call accepts any number of whole frames and any number of rows. `state.tower.1.0` is the value of `next.tower.1.0`
from the previous call, and zeros at the start of a stream. The input `lost` exists only if the codec has a concealment
(concealment.py); it is true for frames that are lost, whose codes repeat the last frame that arrived.

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

import torch
from torch import Tensor, nn

from spectok.engine import LOST
from spectok.export.graph import fix_shapes, optimise, store_small
from spectok.graphs import WEIGHTS
from spectok.model.codec import Codec
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
        step = self.codec.encode_step if self.side == "encoder" else self.codec.decode_step
        lost, leaves = others[: self.conceals], others[self.conceals :]
        y, state = step(x, rebuilt(self.state, iter(leaves)), *lost)
        return (y, *self.tensors(state).values())


def export(codec: Codec, side: str, weights: Mapping[str, bytes], metadata: dict[str, str]) -> bytes:
    """Export one direction of a codec as the bytes of an ONNX file.

    Args:
        codec: the codec.
        side: "encoder" or "decoder".
        weights: content of the files that the codec was loaded from, by the names that the graph has for them: those
            of `graphs.WEIGHTS`, and for a further encoder also `graphs.MODEL_WEIGHTS`.
        metadata: entries that are stored in the file.
    """
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        traced, optimised = Path(folder) / "traced.onnx", Path(folder) / "optimised.onnx"
        _trace(_Step(codec, side), traced)
        fix_shapes(traced)
        optimise(traced, optimised)
        model = onnx.load(optimised)
    store_small(model.graph, codec, weights)
    for node in model.graph.node:  # they contain source lines and paths
        node.ClearField("doc_string")
        del node.metadata_props[:]
    del model.graph.metadata_props[:], model.graph.value_info[:], model.metadata_props[:]
    domains = {node.domain for node in model.graph.node}
    kept = [opset for opset in model.opset_import if opset.domain in domains]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    length = codec.config.quantizer.tokens_per_frame if side == "encoder" else codec.config.frame_length
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = f"{length}*frames"
    model.producer_name, model.graph.name = "spectok", side
    onnx.helper.set_model_props(model, metadata)
    content: bytes = model.SerializeToString(deterministic=True)
    if set(weights) == {WEIGHTS}:  # the check refuses files outside of the graph's folder
        with tempfile.TemporaryDirectory() as folder:  # and it needs the file that the graph refers to
            (Path(folder) / WEIGHTS).write_bytes(weights[WEIGHTS])
            (Path(folder) / "checked.onnx").write_bytes(content)
            onnx.checker.check_model(Path(folder) / "checked.onnx")
    return content


def _trace(step: _Step, path: Path) -> None:
    for name in ("torch.onnx", "onnxscript"):  # no progress messages
        logging.getLogger(name).setLevel(logging.ERROR)
    config, state = step.codec.config, step.tensors(step.state)
    length = config.frame_length if step.side == "encoder" else config.quantizer.tokens_per_frame
    x = torch.zeros(ROWS, FRAMES * length, dtype=torch.float32 if step.side == "encoder" else torch.int64)
    batch, frames = torch.export.Dim("batch", min=1, max=1 << 16), torch.export.Dim("frames", min=1, max=1 << 20)
    lost = {LOST: torch.zeros(ROWS, FRAMES, dtype=torch.bool)} if step.conceals else {}
    names = ("audio", "codes") if step.side == "encoder" else ("codes", "audio")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about changes in later releases of the exporter
        program = torch.onnx.export(
            step.eval(),
            (x, *lost.values(), *state.values()),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            dynamic_shapes=(
                {0: batch, 1: frames * length if length > 1 else frames},
                (*({0: batch, 1: frames} for _ in lost), *({0: batch} for _ in state)),
            ),
            input_names=[names[0], *lost, *(f"state.{name}" for name in state)],
            output_names=[names[1], *(f"next.{name}" for name in state)],
        )
    assert program is not None
    program.save(path)
