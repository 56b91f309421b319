"""What happens on one connection, from the hello to the end."""

import asyncio
import hmac
import time
from dataclasses import dataclass, field

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from spectok.errors import InputError, require, shown
from spectok.pretrained import Model
from spectok.serve.batcher import Batcher, Item, Output, Stream
from spectok.serve.metrics import Metrics
from spectok.serve.protocol import (
    FAILED,
    FLUSHED,
    GOING_AWAY,
    MAX_CODEBOOK,
    REFUSED,
    TRY_LATER,
    Flush,
    Hello,
    Refusal,
    read_codes,
    read_command,
    read_hello,
    read_pcm,
    ready,
    refusal,
)
from spectok.serve.relay import Rooms
from spectok.sessions import latency_at

HELLO_SECONDS = 10.0  # until the first message must have come
CLOSE_SECONDS = 5.0  # for the last message and the closing handshake
QUEUE_BYTES = 1 << 15  # of input that may wait for the batcher before the server stops reading: 1 s of PCM at 16 kHz
RELAY_BYTES = 1 << 16  # of codes that may wait for a member of a room: more than a minute
SHUTTING_DOWN = "the server is shutting down"


@dataclass
class Service:
    """What all connections of a process share."""

    models: dict[str, Model]
    batcher: Batcher
    metrics: Metrics
    max_streams: int
    idle_timeout: float  # seconds
    token: str = ""  # "" if clients need none
    has_rooms: bool = True
    rooms: Rooms = field(default_factory=Rooms)
    clients: set["Client"] = field(default_factory=set)
    streams: int = 0  # clients that were accepted
    is_stopping: bool = False


class Client:
    """One client.

    Args:
        socket: the connection.
        service: what all connections share.
    """

    def __init__(self, socket: ServerConnection, service: Service) -> None:
        self._socket, self._service = socket, service
        self._outputs: asyncio.Queue[list[Output] | None] = asyncio.Queue()
        self._unsent = 0  # bytes in `_outputs` that other members of a room have sent
        self._space = asyncio.Event()  # set when the batcher has taken input, or nothing more can be sent
        self._is_gone = False  # whether nothing more can be sent
        self._stream: Stream | None = None
        self._room = ""
        self._is_begun = False  # whether there was input since the start or the last flush
        self._flushes = 0  # that were put and not yet answered
        self._all_flushed = asyncio.Event()
        self._heard = time.monotonic()  # when a message last arrived or was sent
        self._sending: float | None = None  # since when the client has not read what is sent

    async def run(self) -> None:
        """Serve the client until the connection is closed. Nothing that a client does raises an exception."""
        service = self._service
        service.clients.add(self)
        service.metrics.add("connections")
        try:
            await self._serve(await self._hello())
        except TimeoutError:
            await self.close(f"no first message came for {HELLO_SECONDS:g} s")
        except InputError as error:
            await self.close(str(error), error.code if isinstance(error, Refusal) else REFUSED)
        except ConnectionClosed:
            pass
        finally:
            service.clients.discard(self)
            service.metrics.add("connections", -1)

    async def close(self, sentence: str, code: int = REFUSED) -> None:
        """Tell the client why, if it still reads, and close the connection."""
        if code in (REFUSED, TRY_LATER):
            self._service.metrics.add("refused")
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._socket.send(refusal(sentence))
        except (ConnectionClosed, TimeoutError):
            self._socket.transport.abort()
            return
        await self._socket.close(code, shown(sentence, 100))

    async def finish(self) -> None:
        """End the stream as if the client had flushed, send what remains, and close the connection."""
        if self._stream is not None:
            if self._is_begun:
                self._put(Flush())
            while self._flushes and not self._is_gone:
                self._all_flushed.clear()
                await self._all_flushed.wait()
        await self.close(SHUTTING_DOWN, GOING_AWAY)

    def abort(self) -> None:
        """Close the connection at once."""
        self._socket.transport.abort()

    async def expire(self, now: float) -> None:
        """Close the connection if nothing has moved on it for the idle timeout."""
        limit = self._service.idle_timeout
        if self._sending is not None and now - self._sending > limit:
            self._service.metrics.add("refused")
            self.abort()  # a sentence would wait behind what the client does not read
        elif now - self._heard > limit:
            self._heard = now  # closing takes a while, and once is enough
            await self.close(f"no message came for {limit:g} s")

    async def _hello(self) -> Hello:
        async with asyncio.timeout(HELLO_SECONDS):
            hello = read_hello(await self._socket.recv())
        service = self._service
        if service.token:
            is_right = hmac.compare_digest(_bytes(hello.token), _bytes(service.token))
            require(is_right, "the token is wrong" if hello.token else "the server needs a token")
        model = service.models.get(hello.model)
        require(
            model is not None,
            f"the server has no model '{hello.model}'; it has {', '.join(service.models)}",
        )
        assert model is not None
        require(
            hello.weights in ("", model.weight_hash),
            f"the weights of {hello.model} are {model.weight_hash} here, not {hello.weights}",
        )
        require(
            hello.mode != "relay" or service.has_rooms,
            "a server of several workers has no rooms; start it with one worker",
        )
        if service.is_stopping:
            raise Refusal(SHUTTING_DOWN, GOING_AWAY)
        if service.streams >= service.max_streams:
            raise Refusal(f"the server has {service.max_streams} streams, its limit; try again later", TRY_LATER)
        return hello

    async def _serve(self, hello: Hello) -> None:
        service, metrics = self._service, self._service.metrics
        if hello.mode == "relay":
            service.rooms.join(hello.room, hello.model, self, self._forward)
            self._room = hello.room
        model = service.models[hello.model]
        rate = hello.sample_rate or model.config.sample_rate
        if hello.mode != "relay":
            self._stream = Stream(service.batcher.codecs[hello.model], hello.mode, rate, self._outputs.put_nowait)
        service.streams += 1
        metrics.add("streams")
        metrics.add("accepted")
        sender = asyncio.create_task(self._send())
        try:
            await self._socket.send(ready(model.config, model.weight_hash, rate, latency_at(model.config, rate)))
            async for message in self._socket:
                self._heard = time.monotonic()
                if not service.is_stopping:  # the stream is then being flushed
                    await self._take(message, hello)
        finally:
            sender.cancel()
            service.streams -= 1
            metrics.add("streams", -1)
            if self._stream is not None:
                service.batcher.leave(self._stream)
            if self._room:
                service.rooms.leave(self._room, self)

    async def _take(self, message: str | bytes, hello: Hello) -> None:
        """One message of a client that was accepted; waits while too much input waits."""
        config = self._service.models[hello.model].config
        item: Item
        if isinstance(message, str):
            item = read_command(message, hello.mode)
        else:
            item = read_codes(message, config) if hello.mode in ("decode", "relay") else read_pcm(message)
        if self._stream is None:
            self._relay(message)
            return
        if isinstance(message, str) or len(message):
            self._put(item)
        while self._stream.waiting > QUEUE_BYTES and not self._is_gone:
            self._space.clear()
            await self._space.wait()

    def _put(self, item: Item) -> None:
        assert self._stream is not None
        self._is_begun = not isinstance(item, Flush)
        self._flushes += isinstance(item, Flush)
        self._service.batcher.put(self._stream, item)

    def _relay(self, message: str | bytes) -> None:
        if isinstance(message, str):
            self._outputs.put_nowait([FLUSHED])
        elif message:
            count = self._service.rooms.send(self._room, self, message)
            self._service.metrics.add("relayed", count * len(message))

    def _forward(self, message: bytes) -> None:
        """Queue what another member of the room has sent."""
        if self._is_gone:
            return
        if self._unsent + len(message) > RELAY_BYTES:  # it reads too slowly, and live speech cannot wait for it
            self._service.metrics.add("refused")
            self._is_gone = True
            self.abort()
            return
        self._unsent += len(message)
        self._outputs.put_nowait([message])

    async def _send(self) -> None:
        """Send the outputs in turn, and let the batcher go on when the client has read them."""
        try:
            while True:
                await self._send_next()
        except ConnectionClosed:
            pass
        finally:
            self._is_gone = True
            self._space.set()
            self._all_flushed.set()

    async def _send_next(self) -> None:
        messages = await self._outputs.get()
        if messages is None:
            await self.close("the codec has failed; the server's log has more", FAILED)
            return
        for message in messages:
            self._sending = time.monotonic()
            await self._socket.send(message)
            self._heard, self._sending = time.monotonic(), None
            if self._room:
                self._unsent -= len(message) if isinstance(message, bytes) else 0
            elif message == FLUSHED:
                self._flushes -= 1
                if not self._flushes:
                    self._all_flushed.set()
        if self._stream is not None:
            self._service.batcher.sent(self._stream)
            self._space.set()


def check_codebook(model: Model) -> None:
    """Check that the codes of a model fit the messages.

    Raises:
        InputError: they do not.
    """
    size = model.config.quantizer.codebook_size
    require(size <= MAX_CODEBOOK, f"{model.config.name} has {size} codes, but 16 bits hold only {MAX_CODEBOOK}")


def _bytes(token: str) -> bytes:
    return token.encode("utf-8", "surrogatepass")
