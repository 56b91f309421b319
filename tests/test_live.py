"""Tests of `spectok.live` and `spectok live`, with a recording in place of the sound devices."""

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, Self

import numpy as np
import pytest
from models import released, use_root, write_root
from numpy.typing import NDArray

from spectok import pretrained
from spectok.cli.main import main
from spectok.live import FLOOR_DB, Loop, Reading, decibels, run_live

NAMES = pretrained.models()


class FileStream:
    """Stands in for `sounddevice.Stream`, with a recording as microphone and a list as speaker."""

    latency = (0.010, 0.020)  # seconds, of input and output

    def __init__(
        self,
        recording: NDArray[np.float32],
        samplerate: int,
        blocksize: int,
        channels: int,
        dtype: str,
        callback: Callable[..., None],
    ) -> None:
        assert (channels, dtype) == (1, "float32")
        self.recording, self.rate, self.block, self.callback = recording, samplerate, blocksize, callback
        self.played: list[NDArray[np.float32]] = []
        self.active = True
        self.thread = threading.Thread(target=self.run)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.thread.join()

    def run(self) -> None:
        for number, start in enumerate(range(0, len(self.recording), self.block)):
            chunk = self.recording[start : start + self.block, None]
            output = np.full_like(chunk, np.nan)
            self.callback(chunk, output, len(chunk), None, "input overflow" if number == 3 else "")
            self.played.append(output[:, 0])
        self.active = False


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("size", "delay"), [(1, 479), (160, 320), (320, 160), (441, 479), (640, 160), (1000, 440)])
def test_the_output_is_the_decoded_stream_after_the_reported_delay(
    name: str, size: int, delay: int, speech: NDArray[np.float32]
) -> None:
    tokenizer, audio = released(name), speech[8000 : 8000 + 16 * size + 6400]
    loop = Loop(tokenizer, size)
    assert loop.delay == delay
    played = np.concatenate([loop(audio[start : start + size]) for start in range(0, len(audio), size)])
    assert played.shape == audio.shape
    expected = tokenizer.decode(tokenizer.encode(audio), len(audio))
    np.testing.assert_allclose(played[delay:], expected[: len(audio) - delay], rtol=0, atol=1e-5)
    assert not played[:delay].any()


@pytest.mark.parametrize("size", [1, 160, 320, 441, 640, 1000])
def test_the_delay_is_the_smallest_with_which_no_chunk_is_late(size: int) -> None:
    tokenizer = released(pretrained.DEFAULT)
    loop, fewest = Loop(tokenizer, size), size
    for _ in range(2 * 320):
        assert len(loop(np.zeros(size, np.float32))) == size
        fewest = min(fewest, len(loop._ready))
    assert fewest == 0


def test_run_live_calls_the_loop_in_the_callback_of_a_stream(speech: NDArray[np.float32]) -> None:
    tokenizer, audio = released(pretrained.DEFAULT), speech[: 320 * 100]
    opened: list[FileStream] = []
    readings: list[Reading] = []

    def open_stream(**options: Any) -> FileStream:
        opened.append(FileStream(audio, **options))
        return opened[0]

    codes = run_live(tokenizer, open_stream, readings.append)
    assert (opened[0].rate, opened[0].block) == (16000, 320)
    assert codes == 100 * 8
    loop = Loop(tokenizer, 320)
    expected = np.concatenate([loop(audio[start : start + 320]) for start in range(0, len(audio), 320)])
    np.testing.assert_array_equal(np.concatenate(opened[0].played), expected)
    last = readings[-1]
    assert last.overruns == 1
    # A delay of 160 samples in the loop, and 320 because a chunk is processed once it is complete.
    assert last.delay == pytest.approx((160 + 320) / 16000 + 0.030, abs=1e-9)
    assert last.input_db == pytest.approx(decibels(audio[-320:]), abs=1e-4)
    assert last.output_db == pytest.approx(decibels(expected[-320:]), abs=1e-4)


def test_run_live_ends_when_its_time_is_up_or_at_ctrl_c(
    speech: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    clock = SimpleNamespace(
        monotonic=lambda: now[0], sleep=lambda s: now.append(now.pop() + s), perf_counter=time.perf_counter
    )
    monkeypatch.setattr("spectok.live.time", clock)

    class Endless:
        latency, active = (0.0, 0.0), True

        def __init__(self, **options: Any) -> None:
            pass

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    seen: list[Reading] = []
    assert run_live(released(pretrained.DEFAULT), Endless, seen.append, seconds=0.15) == 0
    assert len(seen) == 2  # one every tenth of a second, the last after the time was up

    def stop(_: object) -> NoReturn:
        raise KeyboardInterrupt

    assert run_live(released(pretrained.DEFAULT), Endless, stop) == 0


def test_decibels_of_known_signals() -> None:
    assert decibels(np.ones(10, np.float32)) == 0.0
    assert decibels(np.full(10, 0.1, np.float32)) == pytest.approx(-20, abs=1e-5)
    assert decibels(np.zeros(10, np.float32)) == FLOOR_DB
    assert decibels(np.full(10, 1e-9, np.float32)) == FLOOR_DB


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, speech: NDArray[np.float32]) -> SimpleNamespace:
    """Tiny models, and a stand-in for sounddevice whose microphone records 1 s of speech."""
    write_root(tmp_path / "pretrained")
    use_root(monkeypatch, tmp_path / "pretrained")
    error = type("PortAudioError", (Exception,), {})
    module = SimpleNamespace(Stream=lambda **options: FileStream(speech[:16000], **options), PortAudioError=error)
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    return module


def test_live_on_the_command_line(devices: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["live", "--model", "tiny-query"]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == "1000 codes"  # 500 frames of 32 samples
    assert " lost" in said and "delay 33 ms" in said  # 16 samples before, 32 in a chunk, and 30 ms of the devices


def test_live_names_what_is_missing(
    devices: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(**options: Any) -> NoReturn:
        raise devices.PortAudioError("Error querying device -1")

    devices.Stream = fails
    assert main(["live", "--model", "tiny-query"]) == 2
    assert main(["live", "--seconds", "0"]) == 2
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert main(["live"]) == 2
    first, second, third = capsys.readouterr().err.splitlines()
    assert first == "spectok: cannot open the audio devices: Error querying device -1"
    assert second == "spectok: --seconds is 0.0, but must be positive"
    assert third.startswith("spectok: spectok live needs sounddevice, pip install 'spectok[live]', and PortAudio, on ")
