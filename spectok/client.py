"""A client of `spectok serve`, which needs the package websockets (`pip install "spectok[serve]"`).

    async with connect("ws://127.0.0.1:8766", "spectok-16k-800", "encode") as stream:
        await stream.send(audio)
        codes = await stream.receive()  # of the frames that are complete
        rest = await stream.flush()  # the stream has ended; another one may follow

`transfer` sends and receives a whole recording, and `run` does so without asyncio.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from spectok.codes import check_codes
from spectok.errors import InputError, require
from spectok.files import why
from spectok.samples import check_audio, check_sample_rate, to_int16
from spectok.serve.protocol import FLUSH, MAX_MESSAGE, Hello, Mode, code_bytes

OPEN_SECONDS = 10.0  # for the connection, and for the answer to the first message
PIECE = MAX_MESSAGE // 4  # bytes of a message; longer input is cut


class Facts(NamedTuple):
    """What the server says about the stream that it has accepted."""

    model: str
    weights: str  # first 16 hexadecimal digits of the SHA-256 of the model's weights
    sample_rate: int  # of the PCM, in Hz
    frame_length: int  # samples, at the codec's own rate
    tokens_per_frame: int
    codebook_size: int
    latency_samples: int  # of encoder and decoder together, at `sample_rate`


class ServedStream:
    """A stream on a server, from `connect`.

    Attributes:
        facts: what the server has said about it.
    """

    def __init__(self, socket: ClientConnection, mode: Mode, facts: Facts) -> None:
        self._socket, self._mode, self.facts = socket, mode, facts

    async def send(self, chunk: NDArray[Any]) -> None:
        """Send a chunk; waits while the server does not read.

        Args:
            chunk: audio `[T]`, floats in [-1, 1] or int16, in the modes encode and transcode; codes `[N]`, whole frames
                of integers, in the modes decode and relay. Of any length, also 0.

        Raises:
            InputError: the chunk is of another kind, or the server has refused an earlier one.
        """
        for message in self._messages(chunk):
            await self._write(message)

    async def lose(self, frames: int) -> None:
        """Say that frames are lost, which the server conceals; in the mode decode.

        Args:
            frames: how many, from 1 to 250.
        """
        await self._write(json.dumps({"lost": frames}))

    async def end(self) -> None:
        """Say that the stream ends; what is sent afterwards is another one. `receive` then returns None once."""
        await self._write(FLUSH)

    async def receive(self) -> NDArray[Any] | None:
        """The next output: int64 codes `[N]`, or int16 samples `[T]`; None after the last one of a stream that `end`s.

        Raises:
            InputError: the server has refused something, and has closed the connection.
        """
        message = await self._read()
        if isinstance(message, bytes):
            if self._mode in ("encode", "relay"):
                return np.frombuffer(message, "<u2").astype(np.int64)
            return np.frombuffer(message, "<i2").astype(np.int16)
        return None

    async def flush(self) -> NDArray[Any]:
        """End the stream, and return the rest of its output, `[N]` or `[T]`.

        Raises:
            InputError: as in `receive`.
        """
        await self.end()
        return await self.rest()

    async def rest(self) -> NDArray[Any]:
        """The joined output until the end of a stream that `end`s."""
        kind = np.int64 if self._mode in ("encode", "relay") else np.int16
        parts: list[NDArray[Any]] = [np.zeros(0, kind)]
        while (part := await self.receive()) is not None:
            parts.append(part)
        return np.concatenate(parts)

    def abort(self) -> None:
        """Close the connection at once, without a word to the server."""
        self._socket.transport.abort()

    @property
    def _sends_audio(self) -> bool:
        return self._mode in ("encode", "transcode")

    def _messages(self, chunk: NDArray[Any]) -> list[bytes]:
        content = self._bytes(chunk)
        frame = 2 if self._sends_audio else 2 * self.facts.tokens_per_frame
        piece = max(1, PIECE // frame) * frame
        return [content[start : start + piece] for start in range(0, len(content), piece)]

    def _bytes(self, chunk: NDArray[Any]) -> bytes:
        if self._sends_audio:
            array = np.asarray(chunk)
            if array.dtype != np.int16:
                array = to_int16(check_audio(array, allow_empty=True))
            require(array.ndim == 1, f"audio must have the shape [T], not {list(array.shape)}")
            return array.astype("<i2").tobytes()
        codes = np.asarray(chunk)
        require(codes.ndim == 1, f"codes must be integers [N], not {list(codes.shape)}")
        return code_bytes(check_codes(codes, self.facts.codebook_size))

    async def _write(self, message: str | bytes) -> None:
        try:
            await self._socket.send(message)
        except ConnectionClosed as error:
            raise _ended(error) from error

    async def _read(self) -> str | bytes:
        try:
            message = await self._socket.recv()
        except ConnectionClosed as error:
            raise _ended(error) from error
        if isinstance(message, str) and "error" in (table := json.loads(message)):
            raise InputError(f"the server: {table['error']}")
        return message


@asynccontextmanager
async def connect(
    url: str,
    model: str,
    mode: Mode,
    sample_rate: int | None = None,
    weights: str = "",
    token: str = "",
    room: str = "",
) -> AsyncIterator[ServedStream]:
    """Open a stream on a server.

    Args:
        url: of the server, such as "ws://127.0.0.1:8766", or "wss://..." behind a proxy with TLS.
        model: its name.
        mode: "encode" for audio to codes; "decode" for codes to audio; "transcode" for audio to audio, through the
            codes; "relay" to exchange codes with the other clients in a room.
        sample_rate: of the audio, in Hz; by default the codec's own.
        weights: the first 16 hexadecimal digits of the SHA-256 of the model's weights, `Tokenizer.weight_hash`. The
            server refuses the stream if its own are others; by default they are not compared.
        token: if the server asks for one.
        room: name of the room of a relay.

    Raises:
        InputError: the server cannot be reached, or refuses the stream.
    """
    rate = 0 if sample_rate is None else check_sample_rate(sample_rate)
    hello = Hello(model, mode, rate, weights, token, room)
    try:
        socket = await open_socket(url, compression=None, open_timeout=OPEN_SECONDS, max_size=None)
    except (InvalidHandshake, InvalidURI, TimeoutError) as error:
        raise InputError(f"{url} is no server of streams: {str(error) or 'it does not answer'}") from error
    except OSError as error:
        raise InputError(f"cannot connect to {url}: {why(error)}") from error
    async with socket:
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                await socket.send(hello.to_json())
                answer = await socket.recv()
        except TimeoutError as error:
            raise InputError(f"{url} does not answer") from error
        except ConnectionClosed as error:
            raise _ended(error) from error
        yield ServedStream(socket, mode, _facts(url, answer))


def _facts(url: str, answer: str | bytes) -> Facts:
    """The facts in a server's answer to the first message."""
    try:
        told = json.loads(answer)
        refusal = told.get("error")
        facts = None if refusal else Facts(**told["ready"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"{url} is no server of streams: it answers something else") from error
    if facts is None:
        raise InputError(f"the server: {refusal}")
    return facts


async def transfer(stream: ServedStream, chunk: NDArray[Any]) -> NDArray[Any]:
    """Send a whole recording or all of its codes, and return all of the output, `[N]` or `[T]`.

    Args:
        stream: from `connect`, at the start of a stream.
        chunk: as for `ServedStream.send`.

    Raises:
        InputError: the server has refused something.
    """
    messages = stream._messages(chunk)

    async def write() -> None:
        for message in messages:
            await stream._write(message)
        await stream.end()

    writing = asyncio.create_task(write())
    try:
        return await stream.rest()
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)


def run(
    url: str,
    model: str,
    mode: Mode,
    chunk: NDArray[Any],
    sample_rate: int | None = None,
    weights: str = "",
    token: str = "",
) -> NDArray[Any]:
    """Encode, decode or transcode a whole recording on a server, without asyncio.

    Args:
        url: as for `connect`, like all others but `chunk`.
        model: its name.
        mode: "encode", "decode" or "transcode".
        chunk: audio `[T]`, or codes `[N]`, as for `ServedStream.send`.
        sample_rate: of the audio, in Hz.
        weights: of the model.
        token: if the server asks for one.

    Returns:
        Int64 codes `[N]`, as of `Tokenizer.encode`, or int16 samples `[T]`.

    Raises:
        InputError: the server cannot be reached, or refuses something.
    """

    async def whole() -> NDArray[Any]:
        async with connect(url, model, mode, sample_rate, weights, token) as stream:
            return await transfer(stream, chunk)

    return asyncio.run(whole())


def _ended(error: ConnectionClosed) -> InputError:
    reason = error.rcvd.reason if error.rcvd is not None else ""
    return InputError(f"the server has closed the connection{reason and ': '}{reason}")
