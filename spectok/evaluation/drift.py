"""Measures whether a codec's quality changes over minutes of a stream."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from spectok.engine import CodecState, Engine
from spectok.evaluation.metrics import pesq_wb
from spectok.resampling import fit_length

Audio = NDArray[np.float32]
PREAMBLES = {"speech 60 s": 60, "speech 300 s": 300, "silence 60 s": 60}  # s; what a stream begins with
BLOCK_SECONDS = 2


def drift(engine: Engine, clips: Sequence[Audio], speech: Audio) -> dict[str, list[float]]:
    """PESQ-WB of clips at the start of a stream, and after each of `PREAMBLES` in the same stream.

    Args:
        engine: of a codec at 16 kHz.
        clips: `[T]` each.
        speech: `[T]`, the audio of the preambles of speech, cut to their length or repeated.

    Returns:
        The values of all clips, by the name of the preamble; "fresh" without a preamble.
    """
    rate = engine.config.sample_rate
    states = {"fresh": engine.init_state(1)}
    for name, seconds in PREAMBLES.items():
        samples = seconds * rate
        before = np.resize(speech, samples) if name.startswith("speech") else np.zeros(samples, np.float32)
        states[name] = code_from(engine, before, engine.init_state(1))[1]
    return {
        name: [pesq_wb(clip, code_from(engine, clip, state)[0]) for clip in clips] for name, state in states.items()
    }


def code_from(engine: Engine, audio: Audio, state: CodecState) -> tuple[Audio, CodecState]:
    """Encode and decode audio `[T]` from a given state; returns the decoded audio, `[T]`, and the state after it."""
    config = engine.config
    padded = fit_length(audio, config.padded_length(len(audio)))
    block = round(BLOCK_SECONDS * config.frame_rate) * config.frame_length
    encoder, decoder = state
    decoded = []
    for start in range(0, len(padded), block):
        codes, encoder = engine.encode_step(padded[None, start : start + block], encoder)
        samples, decoder = engine.decode_step(codes, decoder)
        decoded.append(samples[0])
    return np.concatenate(decoded)[config.synthesis_delay :][: len(audio)], CodecState(encoder, decoder)
