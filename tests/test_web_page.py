"""The page of `spectok web` in a headless browser: what it makes equals what Python makes of the same audio."""

import base64
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from web_build import needs_build, needs_chromium, node

from spectok import Tokenizer
from spectok.audio import read_audio, write_audio
from spectok.cli.main import main
from spectok.container import read_spt
from spectok.web import PageServer

pytestmark = [needs_build, needs_chromium]


@pytest.fixture(scope="module")
def wav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    audio, rate = read_audio(Path(__file__).parent / "data" / "librispeech_84_16k.flac")
    path = tmp_path_factory.mktemp("page") / "speech.wav"
    write_audio(path, audio, rate)
    return path


@pytest.fixture(scope="module")
def found(wav: Path) -> Iterator[dict[str, Any]]:
    """What web/test/browser/browse.js reports."""
    with PageServer() as server:
        thread = server.start()
        yield json.loads(node("test/browser/browse.js", server.url, wav, wav.parent))
        server.shutdown()
        thread.join()


def floats(text: str) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(text), "<f4")


def test_a_dropped_file_gives_the_codes_of_python(found: dict[str, Any], wav: Path) -> None:
    audio, rate = read_audio(wav)
    clip = found["dropped"]
    np.testing.assert_array_equal(floats(clip["original"]), audio)
    assert clip["sampleRate"] == rate
    for name, made in (("spectok-16k-4k", clip), ("spectok-16k-800", found["other"])):
        tokenizer = Tokenizer.from_pretrained(name)
        assert made["codes"] == tokenizer.encode(audio).tolist()
        decoded = tokenizer.decode(np.array(made["codes"]), len(audio))
        assert np.abs(floats(made["decoded"]) - decoded).max() < 1e-5


def test_saved_files_have_the_bytes_of_the_command_line(
    found: dict[str, Any], wav: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to the stream id, which is drawn at random, and in the audio up to one step of 16 bits."""
    assert found["savedSpt"]["name"] == "speech.spt"
    saved = tmp_path / "saved.spt"
    saved.write_bytes(base64.b64decode(found["savedSpt"]["content"]))
    stream_id = read_spt(saved)[0].stream_id
    monkeypatch.setattr(secrets, "token_hex", lambda _: stream_id)
    assert main(["encode", str(wav), str(tmp_path / "encoded.spt")]) == 0
    assert (tmp_path / "encoded.spt").read_bytes() == saved.read_bytes()
    assert main(["decode", str(saved), str(tmp_path / "decoded.wav")]) == 0
    expected = (tmp_path / "decoded.wav").read_bytes()
    content = base64.b64decode(found["savedWav"]["content"])
    assert (found["savedWav"]["name"], content[:44], len(content)) == ("speech.wav", expected[:44], len(expected))
    samples = [np.frombuffer(data[44:], "<i2").astype(int) for data in (content, expected)]
    assert np.abs(np.subtract(*samples)).max() <= 1


def test_a_link_holds_the_recording(found: dict[str, Any]) -> None:
    """Opening the link, and then the saved file, shows the codes that were shared; damaged links get a sentence."""
    assert found["shared"]["codes"] == found["other"]["codes"]
    assert found["linked"]["codes"] == found["other"]["codes"]
    assert found["linked"]["original"] is None
    assert len(found["link"].partition("#")[2]) < 700
    assert [status for status, _ in found["refused"]] == ["error"] * 7
    assert all(text.startswith("The link ") and text.endswith(".") for _, text in found["refused"])


def test_versions_are_switched_while_playing(found: dict[str, Any]) -> None:
    assert found["versions"] == ["original", "decoded"]
    assert found["playing"] == "Pause"
    before, after = found["moved"]
    assert after == pytest.approx(max(0.0, before - 1), abs=0.05)


def test_the_microphone_gives_the_codes_of_python(found: dict[str, Any]) -> None:
    """The codes of what the recorder heard, while the decoded sound was played.

    The devices begin with digital silence. Its last frame before the sound may be silence here and not in Python, where
    the resampler's filter is longer, so that a trace of the sound is in it. What the recorder hears differs from run to
    run, and at 44.1 kHz the other resampler can change one more code.
    """
    clip = found["live"]
    heard, rate = floats(clip["original"]), clip["sampleRate"]
    assert len(heard) > 2.5 * rate
    assert np.square(heard).mean() > 1e-5
    tokenizer = Tokenizer.from_pretrained("spectok-16k-800")
    codes, expected = np.array(clip["codes"]), tokenizer.encode(heard, rate)
    differing = codes[codes != expected].tolist()
    assert len(codes) > 100
    assert differing.count(tokenizer.config.silence_codes[0]) <= 1
    assert len(differing) <= 2
    readings = dict(text.split("\n") for text in found["reading"] if "\n" in text)
    assert float(readings["Delay, without devices"].removesuffix(" ms")) >= 30


def test_nothing_is_wrong_with_the_page(found: dict[str, Any], wav: Path) -> None:
    """No errors, no other server, nothing that a screen reader cannot use, and no sideways scrolling on a telephone."""
    assert found["errors"] == []
    assert len(found["requests"]) == 1
    assert found["axeEmpty"] == found["axe"] == found["axeDark"] == []
    assert found["widest"] == 390
    for name in ("web-light.jpg", "web-dark.jpg"):
        assert (wav.parent / name).stat().st_size > 20_000
