"""Tests of `spectok inspect`: the recorded values, and the figure."""

import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FLAT, QUERY
from matplotlib.image import imread
from models import random_codec, use_root, write_root
from numpy.typing import NDArray

from spectok.audio import write_audio
from spectok.cli.main import main
from spectok.config import ExcitationConfig
from spectok.evaluation.inspection import Attention, Inspection, draw_inspection, inspect_codec
from spectok.model.bottleneck.bands import mel_bands, membership, positional_bias
from spectok.model.codec import NETWORK_STATES, Codec

AUDIO = 0.1 * np.random.default_rng(0).standard_normal(100 * QUERY.frame_length).astype(np.float32)


def seen_by(bias: str = "matrix", kind: str = "query", audio: NDArray[np.float32] = AUDIO) -> tuple[Codec, Inspection]:
    choice: dict[str, Any] = {"bias": bias, "kind": kind}
    bottleneck = dataclasses.replace(QUERY.bottleneck, **choice)
    codec = random_codec(dataclasses.replace(QUERY, bottleneck=bottleneck))
    return codec, inspect_codec(codec, audio)


def test_attention_is_that_of_the_encoder() -> None:
    codec, seen = seen_by()
    frames = 101  # 100, and one for the synthesis delay
    padded = torch.from_numpy(np.pad(AUDIO, (0, QUERY.frame_length)))[None]
    assert np.array_equal(seen.audio, AUDIO)
    codes, _ = codec.encode_step(padded, codec.encoder.init_state(1))
    assert np.array_equal(seen.codes, codes.reshape(frames, QUERY.quantizer.tokens_per_frame).numpy())
    assert seen.attention.weights.shape == (frames, 4, 16)
    np.testing.assert_allclose(seen.attention.weights.sum(2), 1, atol=1e-6)
    mixer = codec.encoder.bottleneck.mixer
    np.testing.assert_array_equal(seen.attention.bias, mixer.bias.matrix.detach().numpy())
    edges = mel_bands(4, 16, 16000)
    assert np.array_equal(seen.attention.layout, membership(edges, 16))
    assert np.array_equal(seen.attention.start, positional_bias(edges, 16))
    # Keys that say nothing leave the bias alone to decide, in every frame.
    mixer.to_key.weight.data.zero_()
    by_itself = torch.softmax(mixer.bias.matrix.detach(), dim=2).mean(0).numpy()
    np.testing.assert_allclose(
        inspect_codec(codec, AUDIO).attention.weights, np.tile(by_itself, (frames, 1, 1)), atol=1e-6
    )


def test_pitch_and_voicing_are_those_of_the_decoder() -> None:
    excitation = ExcitationConfig(kind="pulses", above=2000.0)
    codec = random_codec(dataclasses.replace(QUERY, excitation=excitation))
    with torch.no_grad():
        last = codec.decoder.excitation.pitch_head[2]
        last.bias.view(2, 73)[:, 72] += 1.6  # about as high as the highest of the other classes
    seen = inspect_codec(codec, AUDIO)
    assert seen.voice.pitch.shape == (202,)  # two hops a frame
    assert seen.voice.voicing.shape == (202, 24)  # of 32 bins of 250 Hz, those from 2 kHz up
    assert seen.voice.lowest == 2000.0
    assert 0 <= seen.voice.voicing.min() < seen.voice.voicing.max() <= 1
    codes = torch.from_numpy(seen.codes)[None]
    with torch.no_grad():
        state = codec.decoder.init_state(1)
        estimate, _ = codec.decoder.estimate(codec.quantizer.decode(codes), state[:NETWORK_STATES])
    classes, unvoiced = estimate.pitch[0, :, :72], estimate.pitch[0, :, 72]
    is_voiced = (classes.max(1).values > unvoiced).numpy()
    assert 0 < is_voiced.mean() < 1
    assert np.array_equal(np.isfinite(seen.voice.pitch), is_voiced)
    likeliest = 55 * (520 / 55) ** (classes.argmax(1).numpy() / 71)
    assert np.abs(12 * np.log2(seen.voice.pitch / likeliest))[is_voiced].max() < 1.1  # two classes are a semitone
    assert seen_by()[1].voice is None


def test_inspection_leaves_no_hook_behind() -> None:
    codec, _ = seen_by()
    assert not codec.encoder.bottleneck.mixer._forward_pre_hooks


def test_adaptivity_by_hand() -> None:
    def adaptivity(*frames: list[float]) -> float:
        weights = np.array(frames, np.float32)[:, None]
        return Attention(weights, weights, weights, weights > 0).adaptivity

    assert adaptivity([0.5, 0.5], [0.5, 0.5]) == 0.0
    assert adaptivity([1.0, 0.0], [0.0, 1.0]) == pytest.approx(0.5, abs=1e-7)
    assert adaptivity(*np.eye(10)) == pytest.approx(0.9, abs=1e-6)
    assert adaptivity([0.6, 0.4], [0.4, 0.6]) == pytest.approx(0.1, abs=1e-7)


def test_only_the_first_ten_seconds_are_inspected() -> None:
    _, seen = seen_by(audio=np.tile(AUDIO, 51))  # 3,200 samples each
    assert len(seen.audio) == 160000
    assert len(seen.codes) == 5001


@pytest.mark.parametrize("bias", ["none", "matrix", "mask"])
def test_every_kind_of_bias_can_be_drawn(tmp_path: Path, bias: str) -> None:
    draw_inspection(tmp_path / "a.png", seen_by(bias)[1], 16000, "title")
    height, width, _ = imread(tmp_path / "a.png").shape
    assert (width, height) == (1320, 1496)  # 12 by 5.5 + 1.6 + 6.5 inches


@pytest.mark.parametrize("codec", [random_codec(FLAT), seen_by(kind="mamba")[0]], ids=["flat", "mamba"])
def test_without_attention_codes_are_drawn(tmp_path: Path, codec: Codec) -> None:
    seen = inspect_codec(codec, AUDIO)
    assert seen.attention is None
    draw_inspection(tmp_path / "a.png", seen, 16000)
    height, width, _ = imread(tmp_path / "a.png").shape
    assert (width, height) == (1320, 605)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_root(tmp_path / "pretrained")
    use_root(monkeypatch, tmp_path / "pretrained")
    monkeypatch.chdir(tmp_path)
    write_audio("in.wav", AUDIO, 16000)
    write_audio("empty.wav", AUDIO[:0], 16000)
    return tmp_path


def test_the_command_writes_a_figure(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "in.wav", "out.png", "--model", "tiny-query"]) == 0
    assert imread("out.png").shape[:2] == (1496, 1320)
    before = (folder / "out.png").read_bytes()
    assert main(["inspect", "in.wav", "out.png", "--model", "tiny-query"]) == 2
    assert "out.png exists" in capsys.readouterr().err
    assert (folder / "out.png").read_bytes() == before
    assert main(["inspect", "in.wav", "out.png", "--model", "tiny-flat", "--force"]) == 0
    assert imread("out.png").shape[:2] == (605, 1320)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["empty.wav", "out.png"], "empty.wav holds no samples"),
        (["missing.wav", "out.png"], "cannot read missing.wav"),
        (["in.wav", "out.png", "--model", "nobody"], "there is no model 'nobody'"),
        (["in.wav", "no/out.png"], "cannot write no/out.png"),
        (["in.wav", "out.jpg"], "cannot write out.jpg: its name must end in .png"),
    ],
)
def test_bad_input_raises_one_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    model = [] if "--model" in arguments else ["--model", "tiny-query"]
    assert main(["inspect", *arguments, *model]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1
    assert not (folder / "out.png").exists()


def test_a_missing_package_is_named_before_the_computation(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["inspect", "in.wav", "out.png"]) == 2
    sentence = r"spectok: spectok inspect needs more packages: pip install 'spectok\[eval,torch\]' \(.*matplotlib.*\)\n"
    assert re.fullmatch(sentence, capsys.readouterr().err)
