"""One process that serves: its sockets, its engines, its thread of batches, and its clean end."""

import asyncio
import errno
import logging
import re
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response
from websockets.typing import Origin

from spectok import pretrained
from spectok.errors import InputError, require
from spectok.files import why
from spectok.serve.batcher import Batcher
from spectok.serve.connection import CLOSE_SECONDS, Client, Service, check_codebook
from spectok.serve.metrics import Metrics
from spectok.serve.protocol import MAX_MESSAGE
from spectok.tokenizer import Tokenizer

LOOPBACK = re.compile(r"https?://(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?")  # origins that are always allowed
SPARE = 64  # connections beyond the streams: those that greet, that are refused, and that ask for metrics
FLUSH_SECONDS = 5.0  # for the last output of all streams when the server ends
MESSAGES_AHEAD = 8  # that a connection reads before they are handled
LOGGER = logging.getLogger("spectok.serve.websockets")
LOGGER.setLevel(logging.CRITICAL)  # clients that fail to connect are no errors of the server


@dataclass(frozen=True)
class Options:
    """What the command line sets.

    Args:
        models: released names, or folders.
        host: to listen on: the name or address of an interface.
        port: to listen on; 0 for any that is free.
        workers: number of processes.
        max_streams: clients of each worker at a time.
        token: that clients must send; "" for none.
        idle_timeout: seconds after which a connection is closed on which nothing moves.
        origins: of browsers that may connect, besides the loopback.

    Raises:
        InputError: a number is out of range.
    """

    models: tuple[str, ...]
    host: str = "127.0.0.1"
    port: int = 8766
    workers: int = 1
    max_streams: int = 40
    token: str = ""
    idle_timeout: float = 60.0
    origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(0 <= self.port < 1 << 16, f"the port is {self.port}, but must be from 0 to 65535")
        require(1 <= self.workers <= 256, f"the number of workers is {self.workers}, but must be from 1 to 256")
        require(self.max_streams >= 1, f"the number of streams is {self.max_streams}, but must be positive")
        is_time = 0 < self.idle_timeout < 1e9
        require(is_time, f"the idle timeout is {self.idle_timeout:g} s, but must be positive and finite")

    def found(self) -> dict[str, pretrained.Model]:
        """The models by their names.

        Raises:
            InputError: there is no such model, two have one name, or one has codes that do not fit the messages.
        """
        models: dict[str, pretrained.Model] = {}
        for name in self.models:
            model = pretrained.find(name)
            check_codebook(model)
            require(model.config.name not in models, f"two models are called {model.config.name}")
            models[model.config.name] = model
        return models


def bound(options: Options, port: int | None = None, shared: bool = False) -> socket.socket:
    """A socket on the address of the options that does not listen yet.

    Args:
        options: have the host and the port.
        port: in place of theirs.
        shared: with other processes of the same user, of which each gets a part of the connections.

    Raises:
        InputError: the address cannot be used.
    """
    port = options.port if port is None else port
    try:
        infos = socket.getaddrinfo(options.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = infos[0]
        found = socket.socket(family, kind, protocol)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            found.bind(address)
        except BaseException:
            found.close()
            raise
    except (OSError, UnicodeError) as error:  # UnicodeError: a host that cannot be a name
        raise _cannot_listen(options.host, port, error) from error
    return found


def _cannot_listen(host: str, port: int, error: OSError | UnicodeError) -> InputError:
    reason = "the port is in use" if getattr(error, "errno", None) == errno.EADDRINUSE else why(error)
    return InputError(f"cannot listen on {host}:{port}: {reason}")


async def serve_until(
    stop: asyncio.Event,
    options: Options,
    listener: socket.socket,
    metrics: Metrics,
    listening: Callable[[int], None],
) -> None:
    """Serve until an event is set, and then end: nobody is accepted, what waits is computed, all streams are flushed.

    Args:
        stop: the event.
        options: of the command line.
        listener: from `bound`; it is closed at the end.
        metrics: of this process.
        listening: called with the port when clients can connect.

    Raises:
        InputError: a model cannot be loaded, or the address cannot be used.
    """
    models = options.found()
    tokenizers = {name: Tokenizer.from_pretrained(model.folder, threads=1) for name, model in models.items()}
    batcher = Batcher(tokenizers, metrics)
    has_rooms = options.workers == 1
    service = Service(
        models, batcher, metrics, options.max_streams, options.idle_timeout, options.token, has_rooms=has_rooms
    )
    port = listener.getsockname()[1]
    batcher.start(asyncio.get_running_loop())
    try:
        server = await serve(
            lambda connection: Client(connection, service).run(),
            sock=listener,
            process_request=lambda connection, request: _answer(service, connection, request),
            origins=[None, LOOPBACK, *(Origin(origin) for origin in options.origins)],
            compression=None,  # codes and noise-like samples do not get smaller
            max_size=MAX_MESSAGE,
            max_queue=MESSAGES_AHEAD,
            ping_interval=None,  # the idle timeout finds clients that are gone
            close_timeout=CLOSE_SECONDS,
            server_header="spectok",
            logger=LOGGER,
        )
    except OSError as error:
        batcher.stop()
        raise _cannot_listen(options.host, port, error) from error
    watch = asyncio.create_task(_watch(service))
    metrics.add("workers")
    listening(port)
    await stop.wait()
    watch.cancel()
    await _end(server, service)
    batcher.stop()
    metrics.add("workers", -1)


def _answer(service: Service, connection: ServerConnection, request: Request) -> Response | None:
    """The response to a request for a page, or None if it opens a WebSocket."""
    path = request.path.partition("?")[0]
    if path == "/healthz":
        return connection.respond(503, "stopping\n") if service.is_stopping else connection.respond(200, "ok\n")
    if path == "/metrics":
        response = connection.respond(200, service.metrics.text())
        del response.headers["Content-Type"]
        response.headers["Content-Type"] = "text/plain; version=0.0.4; charset=utf-8"
        return response
    if path != "/":
        return connection.respond(404, "there are /, /healthz and /metrics\n")
    if len(service.clients) >= service.max_streams + SPARE:
        return connection.respond(503, "too many connections\n")
    return None


async def _watch(service: Service) -> None:
    """Close connections on which nothing has moved for too long."""
    while True:
        await asyncio.sleep(min(1.0, service.idle_timeout / 4))
        now = time.monotonic()
        await asyncio.gather(*(client.expire(now) for client in service.clients))


async def _end(server: Server, service: Service) -> None:
    service.is_stopping = True
    server.close(close_connections=False)
    try:
        async with asyncio.timeout(FLUSH_SECONDS):
            await asyncio.gather(*(client.finish() for client in service.clients))
    except TimeoutError:
        for client in list(service.clients):
            client.abort()
    with suppress(TimeoutError):  # what is still open then is cancelled with the loop
        async with asyncio.timeout(CLOSE_SECONDS):
            await server.wait_closed()


def run(options: Options, listening: Callable[[int], None]) -> None:
    """Serve in this process until SIGTERM or Ctrl-C.

    Raises:
        InputError: as `serve_until`.
    """
    asyncio.run(until_signal(options, bound(options), Metrics(), listening))


async def until_signal(
    options: Options, listener: socket.socket, metrics: Metrics, listening: Callable[[int], None], parent: int = 0
) -> None:
    """`serve_until` SIGTERM, Ctrl-C, or the end of another process.

    Args:
        options: of the command line.
        listener: from `bound`.
        metrics: of this process.
        listening: called with the port when clients can connect.
        parent: a file descriptor that becomes readable when the other process ends; 0 for none.
    """
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if parent:
        loop.add_reader(parent, stop.set)
    try:
        await serve_until(stop, options, listener, metrics, listening)
    finally:
        listener.close()
        if parent:
            loop.remove_reader(parent)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
