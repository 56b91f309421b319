"""A server in a thread, for the tests of `spectok serve`."""

import asyncio
import json
import socket
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from websockets.asyncio.client import ClientConnection as AsyncClientConnection
from websockets.asyncio.client import connect as open_async
from websockets.sync.client import ClientConnection, connect

from spectok.serve.metrics import Metrics
from spectok.serve.server import Options, bound, serve_until

MODEL = "spectok-16k-800"
SMALL = 1 << 16  # bytes of the system's buffers, so that a client that does not read is noticed soon


@dataclass
class Running:
    """A server that runs."""

    url: str
    metrics: Metrics

    @contextmanager
    def open(self, **hello: Any) -> Iterator[ClientConnection]:
        """A connection after its first message, which gets the model and the mode encode if it does not name others."""
        with connect(self.url, compression=None, max_size=None) as connection:
            connection.send(json.dumps({"model": MODEL, "mode": "encode"} | hello))
            yield connection

    def page(self, path: str) -> str:
        with urllib.request.urlopen(self.url.replace("ws", "http", 1) + path, timeout=10) as response:
            content: bytes = response.read()
        return content.decode()


@contextmanager
def serving(models: tuple[str, ...] = (MODEL,), **options: Any) -> Iterator[Running]:
    """A server on a free port of this machine, which ends with the block."""
    chosen, started = Options(models, port=0, **options), threading.Event()
    listener, metrics = bound(chosen), Metrics()
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):  # the system would enlarge buffers whose size nobody has set
        listener.setsockopt(socket.SOL_SOCKET, option, SMALL)
    ends: list[Callable[[], Any]] = []

    async def run() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        ends.append(lambda: loop.call_soon_threadsafe(stop.set))
        await serve_until(stop, chosen, listener, metrics, lambda _: started.set())

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        assert started.wait(60)
        yield Running(f"ws://127.0.0.1:{listener.getsockname()[1]}", metrics)
    finally:
        ends[0]()
        thread.join()


@asynccontextmanager
async def deaf(server: Running, **hello: Any) -> AsyncIterator[AsyncClientConnection]:
    """A client that has sent its first message and reads nothing by itself. It hangs up when the block ends."""
    small = socket.socket()
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        small.setsockopt(socket.SOL_SOCKET, option, SMALL)
    small.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
    connection = await open_async(server.url, sock=small, compression=None, max_queue=1, ping_interval=None)
    try:
        await connection.send(json.dumps({"model": MODEL} | hello))
        yield connection
    finally:
        connection.transport.abort()
        await connection.wait_closed()


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until a condition holds."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it has not happened in time"
        time.sleep(0.005)
