"""`spectok serve` as processes: its messages, its end, and workers that are killed."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import released
from numpy.typing import NDArray
from serving import MODEL, until
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from spectok import InputError, client
from spectok.cli.main import main
from spectok.samples import to_int16
from spectok.serve.metrics import Metrics
from spectok.serve.server import Options
from spectok.serve.workers import Workers


@contextmanager
def command(*arguments: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """`spectok serve` on a free port: the process and its address."""
    line = [sys.executable, "-m", "spectok", "serve", "--port", "0", "--model", MODEL, *arguments]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    with process.stdout, process.stderr:
        try:
            said = process.stdout.readline()
            assert said.startswith("listening on ws://127.0.0.1:") and said.endswith(f" with {MODEL}\n")
            yield process, said.split()[2]
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_server_flushes_and_ends_with_0(number: signal.Signals, speech: NDArray[np.float32]) -> None:
    pcm = to_int16(speech[:5000])

    async def run(process: "subprocess.Popen[str]", url: str) -> NDArray[Any]:
        async with client.connect(url, MODEL, "encode") as stream, client.connect(url, MODEL, "encode"):
            await stream.send(pcm)
            first = await stream.receive()
            process.send_signal(number)
            assert first is not None
            codes = np.concatenate([first, await stream.rest()])
            with pytest.raises(InputError, match=r"^the server: the server is shutting down$"):
                await stream.receive()
            return codes

    with command() as (process, url):
        codes = asyncio.run(run(process, url))
        assert (process.wait(20), process.stderr.read() if process.stderr else None) == (0, "")
    np.testing.assert_array_equal(codes, released(MODEL).encode(pcm))


def _workers(process: "subprocess.Popen[str]") -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="utf-8").split()
    return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def _sockets(pid: int) -> int:
    return sum(os.readlink(path).startswith("socket:") for path in Path(f"/proc/{pid}/fd").iterdir())


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to find the workers")
def test_a_killed_worker_is_replaced_and_the_other_goes_on(speech: NDArray[np.float32]) -> None:
    pcm = to_int16(speech[:8000])
    expected = released(MODEL).encode(pcm)

    async def stream(url: str, half: asyncio.Barrier, killed: asyncio.Event) -> NDArray[Any] | None:
        try:
            async with client.connect(url, MODEL, "encode") as stream:
                await stream.send(pcm[:4000])
                await half.wait()
                await killed.wait()
                await stream.send(pcm[4000:])
                return await stream.flush()
        except InputError:
            return None

    async def run(process: "subprocess.Popen[str]", url: str) -> list[NDArray[Any] | None]:
        half, killed = asyncio.Barrier(9), asyncio.Event()
        streams = [asyncio.create_task(stream(url, half, killed)) for _ in range(8)]
        await half.wait()
        os.kill(min(_workers(process), key=_sockets), signal.SIGKILL)  # the other one has at least four streams
        killed.set()
        return await asyncio.gather(*streams)

    def workers(url: str) -> str:
        try:
            with urllib.request.urlopen(url.replace("ws", "http") + "/metrics", timeout=10) as response:
                text: str = response.read().decode()
        except OSError:  # the connection was given to the worker that was killed
            return ""
        return text.split("\nspectok_workers ")[1].split("\n")[0]

    with command("--workers", "2") as (process, url):
        with pytest.raises(InputError, match="a server of several workers has no rooms"):
            asyncio.run(_enter(url))
        found = asyncio.run(run(process, url))
        kept = [codes for codes in found if codes is not None]  # those whose worker was not killed
        assert len(kept) >= 4
        for codes in kept:
            np.testing.assert_array_equal(codes, expected)
        until(lambda: process.poll() is not None or len(_workers(process)) == 2)
        until(lambda: workers(url) == "2")
        for _ in range(4):
            np.testing.assert_array_equal(client.run(url, MODEL, "encode", pcm), expected)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert process.stderr.read() == "spectok: a worker has ended with -9 and is replaced\n"


async def _enter(url: str) -> None:
    async with client.connect(url, MODEL, "relay", room="a"):
        pass


def test_workers_end_when_their_parent_is_killed() -> None:
    with command("--workers", "2") as (process, url):
        port = int(url.rpartition(":")[2])
        process.kill()

        def is_free() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) != 0

        until(is_free)


def test_the_metrics_of_workers_are_summed_and_those_of_a_dead_one_cleared() -> None:
    workers = Workers(Options((MODEL,), workers=2), 0)
    for number, metrics in enumerate(workers.metrics):
        metrics.add("streams", number + 1)
        metrics.add("accepted", 10)
        metrics.observe(0.001)
    workers.metrics[1].clear_gauges()
    assert (Metrics.get(workers.metrics[0], "streams"), workers.metrics[0].get("accepted")) == (1, 20)
    assert "\nspectok_turn_seconds_count 2\n" in workers.metrics[1].text()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_in_use_is_one_sentence(workers: str, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert main(["serve", "--port", port, "--model", MODEL, "--workers", workers]) == 2
    assert capsys.readouterr().err == f"spectok: cannot listen on 127.0.0.1:{port}: the port is in use\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--port", "65536"], "the port is 65536, but must be from 0 to 65535"),
        (["--host", "a..b"], "cannot listen on a..b:0: "),
        (["--workers", "0"], "the number of workers is 0, but must be from 1 to 256"),
        (["--max-streams", "0"], "the number of streams is 0, but must be positive"),
        (["--idle-timeout", "nan"], "the idle timeout is nan s, but must be positive and finite"),
        (["--model", "nobody"], "there is no model 'nobody'"),
        (["--model", MODEL, "--model", MODEL], f"two models are called {MODEL}"),
    ],
)
def test_a_wrong_option_is_one_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--port", "0", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"spectok: {sentence}") and said.count("\n") == 1


@pytest.mark.parametrize("by_variable", [False, True])
def test_the_command_line_sets_the_token_and_the_origins(by_variable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if by_variable:
        monkeypatch.setenv("SPECTOK_TOKEN", "secret")
    options = ["--origin", "https://example.org", *([] if by_variable else ["--token", "secret"])]
    with command(*options) as (process, url):
        assert len(client.run(url, MODEL, "encode", np.zeros(320, np.int16), token="secret")) == 2
        with pytest.raises(InputError, match=r"^the server: the server needs a token$"):
            client.run(url, MODEL, "encode", np.zeros(320, np.int16))
        with connect(url, origin=Origin("https://example.org")):
            pass
        with pytest.raises(InvalidStatus), connect(url, origin=Origin("https://example.com")):
            pass
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_without_websockets_there_is_one_sentence() -> None:
    code = "import sys; sys.modules['websockets'] = None; from spectok.cli.main import main; sys.exit(main(['serve']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("spectok: spectok serve needs websockets: pip install 'spectok[serve]' (")
    assert done.stderr.count("\n") == 1
