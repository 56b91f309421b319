"""Fixtures of the benchmarks: one processor core, 30 s of speech, and the released models."""

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from spectok import Tokenizer, pretrained
from spectok.audio import read_audio

DATA = Path(__file__).parent.parent / "tests" / "data"
CLIPS = ("librispeech_84_16k.flac", "vctk_p259_48k.flac")


@pytest.fixture(scope="session", autouse=True)
def _one_core() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


@pytest.fixture(scope="session")
def speech() -> NDArray[np.float32]:
    """30 s of speech, float32 `[T]` at 16 kHz: the two recordings, repeated."""
    clips = [read_audio(DATA / name, 16000)[0] for name in CLIPS]
    return np.tile(np.concatenate(clips), 8)[: 30 * 16000]


@pytest.fixture(scope="session", params=pretrained.models())
def model(request: pytest.FixtureRequest) -> str:
    """The name of a released model."""
    return str(request.param)


@pytest.fixture(scope="session", params=["onnx", "torch"])
def tokenizer(model: str, request: pytest.FixtureRequest) -> Tokenizer:
    """A released model in each engine."""
    return Tokenizer.from_pretrained(model, engine=request.param, threads=1)
