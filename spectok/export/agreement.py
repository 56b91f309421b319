"""Compares an engine's codes with the canonical ones, for several divisions of a stream into chunks.

Canonical codes are computed in float64, where they do not depend on the chunks, the batch or the processor
(`Reference`). In float32 the last bits depend on the number of frames and rows in a step, so a latent within a
millionth of a step from a decision boundary may get the neighbouring code. The margin of a code that differs is the
distance of its latent from the nearest other code.
"""

import copy
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spectok.engine import CodecState, Engine, OnnxEngine, TorchEngine, load_codec, load_extension
from spectok.errors import require
from spectok.export.onnx import export, export_extension
from spectok.files import atomic_write
from spectok.graphs import EXTENSION_WEIGHTS, MODEL_WEIGHTS, WEIGHTS
from spectok.model.codec import Codec
from spectok.pretrained import EXTENSION_GRAPH, Model
from spectok.resampling import fit_length
from spectok.sessions import StreamEncoder

Audio = NDArray[np.float32]
Codes = NDArray[np.int64]
MARGIN = 1e-4  # steps of the grid; the largest allowed margin of codes that differ
DIFFERENCE = 1e-4  # of full scale; the largest allowed difference of the audio
ASTRAY = 0.1  # the largest allowed share of frames whose pulses have other positions


class Reference:
    """A codec in float64."""

    def __init__(self, codec: Codec) -> None:
        self.codec = copy.deepcopy(codec).double().eval()

    @torch.inference_mode()
    def encode(self, audio: Audio) -> tuple[Codes, NDArray[np.float64]]:
        """Encode audio `[T]`; returns codes `[N]` and their margins (`quantizer.margin`)."""
        config = self.codec.config
        padded = fit_length(audio.astype(np.float64), config.padded_length(len(audio)))
        latent = self.codec.encoder(torch.from_numpy(padded)[None])
        return self.codec.quantizer.encode(latent).flatten().numpy(), self.codec.quantizer.margin(
            latent
        ).flatten().numpy()

    def init_state(self, batch: int) -> CodecState:
        """Zero states for `batch` rows."""
        return CodecState(*self.codec.init_state(batch))

    @torch.inference_mode()
    def decode_step(self, codes: Codes, state: Any) -> tuple[NDArray[np.float64], Any]:
        """Decode codes `[B, N]` to audio `[B, T]`."""
        audio, state = self.codec.decode_step(torch.from_numpy(codes), state)
        return audio.numpy(), state


def at_once(engine: Engine, audio: Audio) -> Codes:
    """Encode audio `[T]` with one push, in blocks of some seconds, to codes `[N]`."""
    session = StreamEncoder(engine)
    return np.concatenate([session.push(audio), session.flush()])


def frame_by_frame(engine: Engine, audio: Audio) -> Codes:
    """Encode audio `[T]` with one frame in each push, to codes `[N]`."""
    session, step = StreamEncoder(engine), engine.config.frame_length
    codes = [session.push(audio[start : start + step]) for start in range(0, len(audio), step)]
    return np.concatenate([*codes, session.flush()])


def in_a_batch(engine: Engine, audio: Audio) -> Codes:
    """Encode audio `[T]` as the second row in a batch of three, to codes `[N]`; the other rows have other audio."""
    rows = np.stack([audio[::-1], audio, 0.5 * np.roll(audio, len(audio) // 2)])
    session = StreamEncoder(engine, batch=len(rows))
    codes: Codes = np.concatenate([session.push(rows), session.flush()], axis=1)[1]
    return codes


CUTS: dict[str, Callable[[Engine, Audio], Codes]] = {
    "at once": at_once,
    "frame by frame": frame_by_frame,
    "in a batch": in_a_batch,
}


@dataclass
class Agreement:
    """Codes that were compared, and the margin of each that differed."""

    codes: int = 0
    margins: list[float] = field(default_factory=list)

    def add(self, codes: Codes, expected: Codes, margins: NDArray[np.float64]) -> None:
        """Compare the codes of one more file."""
        self.codes += len(expected)
        self.margins += margins[codes != expected].tolist()


@dataclass(frozen=True)
class Difference:
    """The difference between an engine's audio and the reference's, decoded from the same codes."""

    audio: float  # largest absolute difference, of full scale, over the frames whose pulses have the same positions
    frames: int
    astray: int  # number of other frames: rounding moved a pitch to another value of its grid, up to the next onset


def audio_difference(engine: Engine, reference: Reference, codes: Codes) -> Difference:
    """Decode codes `[N]` frame by frame with both, and compare."""
    return audio_differences([engine], reference, codes)[0]


def audio_differences(engines: Sequence[Engine], reference: Reference, codes: Codes) -> list[Difference]:
    """`audio_difference` for several engines, with one pass of the reference, which takes most of the time."""
    frames = codes.reshape(-1, reference.codec.config.quantizer.tokens_per_frame)
    expected = list(_frame_by_frame(reference, frames))
    return [_difference(list(_frame_by_frame(engine, frames)), expected) for engine in engines]


Frame = tuple[NDArray[Any], list[NDArray[np.int64]]]  # audio, and the whole numbers in the state after it


def _frame_by_frame(engine: Engine | Reference, frames: Codes) -> Iterator[Frame]:
    state = engine.init_state(1).decoder
    for frame in frames:
        audio, state = engine.decode_step(frame[None], state)
        yield audio, _whole_numbers(state)


def _difference(found: list[Frame], expected: list[Frame]) -> Difference:
    audio = np.array([np.abs(a - b).max() for (a, _), (b, _) in zip(found, expected, strict=True)])
    astray = np.array(
        [
            any(not np.array_equal(a, b) for a, b in zip(numbers, others, strict=True))
            for (_, numbers), (_, others) in zip(found, expected, strict=True)
        ]
    )
    touched = astray.copy()  # frames that overlap with an astray one
    for late in (1, 2):
        touched[late:] |= astray[:-late]
    return Difference(float(audio[~touched].max(initial=0.0)), len(expected), int(astray.sum()))


def _whole_numbers(state: Any) -> list[NDArray[np.int64]]:
    """The integers in a decoder's state: phase and pitch of the pulses, and the position in the noise."""
    if isinstance(state, dict):
        return [value for value in state.values() if value.dtype == np.int64]
    if isinstance(state, torch.Tensor):
        return [] if state.is_floating_point() else [state.numpy()]
    return [value for item in state for value in _whole_numbers(item)]


def export_verified(model: Model, speech: Audio, folder: Path, encoder: Model | None = None) -> None:
    """Export a model, compare the graphs with the codec, and write `encoder.onnx` and `decoder.onnx` into a folder.

    The graphs refer to the weights in `model.safetensors`, which is copied into a folder that is not the model's own.
    If the model has an extension, `extension.onnx` and its weights are written likewise.

    Args:
        model: the model to export.
        speech: audio for the comparison, `[T]` at the codec's sample rate.
        folder: an existing folder; it may be the model's own.
        encoder: another encoder of the model, from `pretrained.find_encoder`; then only its graph is exported.

    Raises:
        InputError: codes or audio of the graphs differ from the codec's, or the graphs cannot be written.
    """
    codec, exported = load_codec(model, encoder), encoder or model
    macs, weights = codec.macs_per_second(), exported.read(WEIGHTS)
    sources = {WEIGHTS: weights} | ({} if encoder is None else {MODEL_WEIGHTS: model.read(WEIGHTS)})
    files = {} if folder.samefile(exported.folder) else {WEIGHTS: weights}
    for side in ("encoder", "decoder") if encoder is None else ("encoder",):
        facts = {"weights": exported.sha256, "config": exported.config.fingerprint}
        facts |= {"parameters": str(codec.num_parameters), "macs_per_second": str(round(macs[side]))}
        facts |= {} if encoder is None else {"model": model.sha256}
        files[f"{side}.onnx"] = export(codec, side, sources, facts)
    extends = model.has_extension and encoder is None
    if extends:
        files |= exported_extension(model)
    with tempfile.TemporaryDirectory() as trial:
        for name, content in {WEIGHTS: weights, **files}.items():
            (Path(trial) / name).write_bytes(content)
        new = Model(exported.config, Path(trial), exported.sha256)
        engine = OnnxEngine(new) if encoder is None else OnnxEngine(model, encoder=new)
        _verify(engine, Reference(codec), speech)
        if extends:
            _verify_extension(engine, TorchEngine(new), speech)
    if extends and folder.samefile(model.folder):
        del files[EXTENSION_WEIGHTS]
    for name, content in files.items():
        with atomic_write(folder / name) as temporary:
            temporary.write_bytes(content)


def exported_extension(model: Model) -> dict[str, bytes]:
    """The weights and the exported graph of a model's extension, by the names of the files."""
    weights = model.read(EXTENSION_WEIGHTS)
    facts = {"weights": hashlib.sha256(weights).hexdigest(), "config": model.config.fingerprint}
    return {EXTENSION_WEIGHTS: weights, EXTENSION_GRAPH: export_extension(load_extension(model), weights, facts)}


def _verify_extension(engine: Engine, expected: Engine, speech: Audio) -> None:
    codes = at_once(engine, speech)[None]
    audio, others = (e.extended_step(codes, e.init_extended(1))[0] for e in (engine, expected))
    difference = float(np.abs(audio - others).max() / max(1.0, np.abs(others).max()))
    require(difference < DIFFERENCE, f"the exported extension differs by {difference:.1e} of full scale")


def _verify(engine: Engine, reference: Reference, speech: Audio) -> None:
    silence = np.zeros(3 * engine.config.frame_length, np.float32)
    speech = np.concatenate([speech, silence, np.roll(speech, 1)[: len(silence)]])
    expected, margins = reference.encode(speech)
    for cut, encode in CUTS.items():
        agreement = Agreement()
        agreement.add(encode(engine, speech), expected, margins)
        wrong = sum(margin > MARGIN for margin in agreement.margins)
        require(
            wrong == 0, f"the export differs from the codec: {wrong} of {agreement.codes} codes differ, encoded {cut}"
        )
    found = audio_difference(engine, reference, expected)
    require(
        found.audio < DIFFERENCE,
        f"the export differs from the codec: its audio differs by {found.audio:.1e} of full scale",
    )
    require(
        found.astray < ASTRAY * found.frames,
        f"the export differs from the codec: its pulses have moved in {found.astray} of {found.frames} frames",
    )
