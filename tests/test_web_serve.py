"""The client of the npm package, and two pages in a browser, with a server of this package."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from models import released
from numpy.typing import NDArray
from serving import MODEL, Running, serving
from web_build import needs_build, needs_chromium, node

from spectok import pretrained
from spectok.audio import write_audio
from spectok.samples import to_int16
from spectok.web import PageServer

pytestmark = needs_build


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving((MODEL,)) as running:
        yield running


def test_the_client_gets_what_the_sessions_give(server: Running, speech: NDArray[np.float32], tmp_path: Path) -> None:
    tokenizer, pcm = released(MODEL), to_int16(speech[20000:36001])
    codes = tokenizer.encode(pcm)
    (tmp_path / "speech.i16").write_bytes(pcm.astype("<i2").tobytes())
    (tmp_path / "codes.u16").write_bytes(codes.astype("<u2").tobytes())
    arguments = ("test/tools/connect.js", server.url, tmp_path / "speech.i16", tmp_path / "codes.u16")
    found = json.loads(node(*arguments, options=["--experimental-websocket", "--no-warnings"]))
    for name in ("encoded", "floats"):
        for stream in found[name]["streams"]:
            np.testing.assert_array_equal(np.frombuffer(base64.b64decode(stream), "<u2"), codes)
    decoder = tokenizer.stream_decoder()
    expected = to_int16(np.concatenate([decoder.push(codes), decoder.flush()]))
    for stream in found["decoded"]["streams"]:
        heard = np.frombuffer(base64.b64decode(stream), "<i2")
        assert heard.shape == expected.shape
        assert np.abs(heard.astype(int) - expected).max() <= 1
    ready = {"model": MODEL, "weights": pretrained.find(MODEL).weight_hash, "sampleRate": 16000, "frameLength": 320}
    ready |= {"tokensPerFrame": 1, "codebookSize": 65536, "latencySamples": 480}
    assert (found["encoded"]["ready"], found["encoded"]["reason"]) == (ready, "")
    assert found["relay"] == {
        "heard": codes.tolist(),
        "third": "the server refuses: the room has 2 members, its limit; try again later",
    }
    assert [name for name, _ in found["refused"]] == ["InputError"] * 4
    assert all(sentence.startswith("the server refuses: ") for _, sentence in found["refused"][:3])
    assert found["refused"][3][1] == "cannot reach a server at ws://127.0.0.1:9"


@needs_chromium
def test_two_pages_hear_each_other(server: Running, speech: NDArray[np.float32], tmp_path: Path) -> None:
    """Each gets codes of the other, which are not silent, and no more than the other has sent."""
    write_audio(tmp_path / "speech.wav", speech, 16000)
    with PageServer() as page:
        thread = page.start()
        told = json.loads(node("test/browser/talk.js", page.url, server.url, tmp_path / "speech.wav"))
        page.shutdown()
        thread.join()
    assert told["errors"] == []
    assert told["status"] == "The conversation has ended."
    first, second = told["found"]
    assert 100 <= first["received"] <= second["sent"]
    assert 100 <= second["received"] <= first["sent"]
    assert told["played"] > 0.05
