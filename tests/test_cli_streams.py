"""Pipes, raw samples, signals and kills: what `encode` and `decode` do while their input arrives."""

import io
import os
import random
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import soundfile
from models import listing, released
from numpy.typing import NDArray
from serving import until

from benchmarks import kills, memory
from spectok.audio import write_audio
from spectok.cli.decoding import block_frames
from spectok.cli.main import main
from spectok.container import Reader, read_spt

NAMES = ("spectok-16k-4k", "spectok-16k-800")
COMMAND = [sys.executable, "-m", "spectok"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def start(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    """Run the program in a process of its own, which reads from a pipe and writes to one, unless told otherwise."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    settings = {**pipes, "preexec_fn": reset_signals, **options}
    return subprocess.Popen([*COMMAND, *arguments], env=ENVIRONMENT, bufsize=0, **settings)


def reset_signals() -> None:
    """Give a new process the default signal handlers: tests that run under nohup would pass on ignored signals."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def pcm(audio: NDArray[np.float32]) -> bytes:
    return np.rint(32768 * audio).astype("<i2").tobytes()


def pipe_of(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


def take(stream: IO[bytes] | None, count: int) -> bytes:
    """So many bytes from a process, one after another as they come."""
    data = b""
    while len(data) < count:
        assert select.select([pipe_of(stream)], [], [], 60)[0], "nothing has come for a minute"
        piece = pipe_of(stream).read(1)
        assert piece, "the program has ended"
        data += piece
    return data


def test_packets_leave_the_encoder_when_they_are_full_and_the_decoder_when_they_arrive(
    speech: NDArray[np.float32],
) -> None:
    """Two processes in a row. Their input stays open, so that nothing they give can have waited for its end."""
    audio = speech[:32000]
    with (
        start("encode", "-", "-", "--raw", "--packet-ms", "200", "--model", NAMES[1]) as encoder,
        start("decode", "-", "-", "--raw") as decoder,
    ):
        pipe_of(encoder.stdin).write(pcm(audio[:16000]))  # 50 frames, in packets of 10
        head = 26
        arrived = take(encoder.stdout, head + 5 * 25)
        pipe_of(decoder.stdin).write(arrived)
        heard = take(decoder.stdout, 2 * (50 * 320 - 160 - 320))  # a frame is held back, and the synthesis is late
        pipe_of(encoder.stdin).write(pcm(audio[16000:]))
        pipe_of(encoder.stdin).close()
        rest = pipe_of(encoder.stdout).read()
        pipe_of(decoder.stdin).write(rest)
        pipe_of(decoder.stdin).close()
        heard += pipe_of(decoder.stdout).read()
    assert (encoder.wait(), decoder.wait()) == (0, 0)
    tokenizer = released(NAMES[1])
    _, codes = read_spt(io.BytesIO(arrived + rest))
    assert len(codes) == 101
    assert np.count_nonzero(codes != tokenizer.encode(audio)) <= 2  # other blocks: rounding may flip a code
    samples = np.frombuffer(heard, "<i2")
    np.testing.assert_allclose(samples / 32768, tokenizer.decode(codes, 32000), rtol=0, atol=1e-4)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_raw_samples_are_those_of_a_wav(speech: NDArray[np.float32], rate: int) -> None:
    audio = speech[8000:20001]
    write_audio("in.wav", audio, rate)
    Path("in.raw").write_bytes(soundfile.read("in.wav", dtype="int16")[0].tobytes())
    assert main(["encode", "in.wav", "a.spt", "--model", NAMES[1]]) == 0
    assert main(["encode", "in.raw", "b.spt", "--model", NAMES[1], "--raw", "--rate", str(rate)]) == 0
    np.testing.assert_array_equal(read_spt("a.spt")[1], read_spt("b.spt")[1])
    assert main(["decode", "a.spt", "a.wav"]) == main(["decode", "a.spt", "a.pcm", "--raw"]) == 0
    assert Path("a.pcm").read_bytes() == soundfile.read("a.wav", dtype="int16")[0].tobytes()
    assert len(Path("a.pcm").read_bytes()) == 2 * 12001
    assert main(["encode", "in.wav", "c.spt", "--rate", "16000"]) == 2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seconds", [3.0, 25.5])
def test_the_command_line_gives_the_codes_and_the_audio_of_the_api(
    speech: NDArray[np.float32], name: str, seconds: float
) -> None:
    audio = np.resize(speech, round(seconds * 48000))
    write_audio("in.wav", audio, 48000)
    assert main(["encode", "in.wav", "codes.spt", "--model", name]) == 0
    header, codes = read_spt("codes.spt")
    tokenizer = released(name)
    np.testing.assert_array_equal(codes, tokenizer.encode("in.wav"))
    assert header.frames_per_packet == {1: 2000, 8: 400}[tokenizer.tokens_per_frame]
    assert main(["decode", "codes.spt", "out.wav"]) == 0
    expected = np.rint(32768 * tokenizer.decode(codes, len(audio), 48000)).clip(-32768, 32767)
    np.testing.assert_array_equal(soundfile.read("out.wav", dtype="int16")[0], expected.astype(np.int16))


def test_packets_have_the_length_that_is_asked_for(speech: NDArray[np.float32]) -> None:
    write_audio("in.wav", speech[:16000], 16000)
    for milliseconds, frames in (("1", 1), ("20", 1), ("50", 2), ("1000", 50)):
        assert main(["encode", "in.wav", "out.spt", "-f", "--model", NAMES[1], "--packet-ms", milliseconds]) == 0
        assert read_spt("out.spt")[0].frames_per_packet == frames
    for wrong in ("0", "-1", "nan", "inf", "1e9"):
        assert main(["encode", "in.wav", "out.spt", "-f", f"--packet-ms={wrong}"]) == 2


def test_blocks_end_where_packets_end() -> None:
    config = released(NAMES[0]).config
    found = [block_frames(config, frames) for frames in (1, 2, 97, 100, 101, 120, 600)]
    assert found == [1, 2, 97, 100, 1, 60, 100]
    assert block_frames(config) == 100


# Signals and kills.


def test_a_kill_while_the_input_pauses_loses_no_packet(speech: NDArray[np.float32]) -> None:
    arguments = ("encode", "-", "-", "--raw", "--packet-ms", "20", "--model", NAMES[1])
    with open("live.spt", "wb") as sink, start(*arguments, stdout=sink) as process:
        pipe_of(process.stdin).write(pcm(speech[:32000]))  # 100 frames
        until(lambda: Path("live.spt").stat().st_size == 26 + 7 * 100, 60)
        process.kill()
    with Reader("live.spt", recover=True) as reader:
        assert sum(packet.num_frames for packet in reader) == 100


@pytest.mark.parametrize(("options", "version"), [([], 3), (["--no-entropy-coding"], 2), (["--packet-ms", "200"], 2)])
def test_the_options_choose_the_version(speech: NDArray[np.float32], options: list[str], version: int) -> None:
    write_audio("in.wav", speech[:16000], 16000)
    assert main(["encode", "in.wav", "a.spt", "--model", NAMES[1], *options]) == 0
    header, codes = read_spt("a.spt")
    assert header.version == version
    np.testing.assert_array_equal(codes, released(NAMES[1]).encode("in.wav"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("command", ["encode", "decode"])
def test_a_signal_ends_the_program_and_leaves_nothing(command: str, number: signal.Signals) -> None:
    """While it waits for the rest of its input, in the middle of writing a file."""
    source, output = ("in.wav", "out.spt") if command == "encode" else ("in.spt", "out.wav")
    write_audio("in.wav", np.zeros(16000 * 15, np.float32), 16000)
    assert main(["encode", "in.wav", "in.spt", "--packet-ms", "500"]) == 0
    content = Path(source).read_bytes()
    with start(command, "-", output) as process:
        pipe_of(process.stdin).write(content[: len(content) * 9 // 10])
        until(lambda: list(Path().glob(".spectok-*")), 60)
        process.send_signal(number)
        assert process.wait(60) == 128 + number
        assert pipe_of(process.stderr).read() == b""
    assert listing(".") == ["in.spt", "in.wav"]


def test_a_signal_stops_all_jobs(speech: NDArray[np.float32]) -> None:
    write_audio("speech.wav", np.resize(speech, 16000 * 600), 16000)
    Path("in").mkdir()
    for number in range(20):
        os.link("speech.wav", f"in/{number}.wav")
    with start("encode", "in", "out", "--jobs", "2") as process:
        until(lambda: list(Path().glob("out/.spectok-*")), 60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    assert len(listing("out")) < 10
    assert [name for name in listing("out") if ".spectok-" in name] == []


def test_what_a_kill_leaves_the_next_run_removes(speech: NDArray[np.float32]) -> None:
    write_audio("in.wav", speech[:16000], 16000)
    with start("encode", "-", "out.spt", "--raw") as process:
        pipe_of(process.stdin).write(bytes(32000 * 15))
        until(lambda: list(Path().glob(".spectok-*")), 60)
        process.kill()
    assert len(list(Path().glob(".spectok-*"))) == 1
    with start("encode", "in.wav", "new.spt") as process:
        assert process.wait(60) == 0
    assert listing(".") == ["in.wav", "new.spt"]


def test_live_encodings_that_are_killed_lose_the_packet_in_flight_only(
    speech: NDArray[np.float32],
) -> None:
    """A kill at a random moment each; `benchmarks/kills.py` does the same more often."""
    random_seconds = random.Random(0)
    codes = released(NAMES[1]).encode(np.resize(speech, 16000 * 10))
    packets = [kills.kill_one(Path("live.spt"), codes, speech, random_seconds.uniform(0.0, 0.4)) for _ in range(20)]
    assert max(packets) > 0


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    """Of 8 minutes, audio alone would take 31 MB more, and its copies several times that."""
    short, long = (memory.measure(minutes, tmp_path) for minutes in (1, 8))
    for command, (peak, _) in long.items():
        assert peak < short[command][0] + 12
        assert peak < 200
