"""A server in this process, and clients that behave well and badly: what they get, and what is refused."""

import asyncio
import json
import threading
import urllib.error
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import released
from numpy.typing import NDArray
from serving import MODEL, SMALL, Running, deaf, serving, until
from streams import cut
from websockets.asyncio.client import ClientConnection as AsyncClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import ServerConnection, serve
from websockets.typing import Origin

from spectok import InputError, Tokenizer, client, pretrained
from spectok.client import ServedStream, transfer
from spectok.samples import to_int16
from spectok.serve import batcher, connection, relay
from spectok.serve.protocol import MAX_MESSAGE, code_bytes, read_pcm

HASH = pretrained.find(MODEL).weight_hash


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving((MODEL, "spectok-16k-4k")) as running:
        yield running
        until(lambda: running.metrics.get("connections") == 0)
        assert running.metrics.get("streams") == running.metrics.get("waiting") == 0


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return released(MODEL)


def ending(connection: ClientConnection) -> tuple[str, int]:
    """The sentence and the code with which the server closes a connection, after any other messages."""
    sentence = ""
    try:
        while True:
            message = connection.recv(timeout=20)
            if isinstance(message, str) and "error" in message:
                sentence = json.loads(message)["error"]
    except ConnectionClosed as closed:
        assert closed.rcvd is not None
        return sentence, closed.rcvd.code


async def in_pieces(stream: ServedStream, chunks: list[NDArray[Any]]) -> NDArray[Any]:
    """The whole output for chunks, between which other streams get their turns."""

    async def write() -> None:
        for chunk in chunks:
            await stream.send(chunk)
            await asyncio.sleep(0.002)
        await stream.end()

    writing = asyncio.create_task(write())
    output = await stream.rest()
    await writing
    return output


@pytest.mark.parametrize("name", pretrained.models())
@pytest.mark.parametrize("rate", [16000, 8000, 44100])
def test_a_stream_equals_the_sessions(name: str, rate: int, server: Running, speech: NDArray[np.float32]) -> None:
    tokenizer, pcm = released(name), to_int16(speech[20000:36001])
    codes = client.run(server.url, name, "encode", pcm, rate, tokenizer.weight_hash)
    np.testing.assert_array_equal(codes, tokenizer.encode(pcm, rate))
    decoder = tokenizer.stream_decoder(rate)
    audio = to_int16(np.concatenate([decoder.push(codes), decoder.flush()]))
    for mode, sent, expected in (("decode", codes, audio), ("transcode", pcm, audio[: len(pcm)])):
        heard = client.run(server.url, name, mode, sent, rate)  # type: ignore[arg-type]
        assert heard.dtype == np.int16 and heard.shape == expected.shape
        assert np.abs(heard.astype(int) - expected).max() <= 1


def test_many_streams_at_once_get_the_codes_of_single_ones(server: Running, speech: NDArray[np.float32]) -> None:
    """Different speech, models, rates and chunk sizes; they join and leave at different times, and some come again."""
    pcm = to_int16(speech)
    jobs = [
        (name, rate, size, pcm[3001 * number : 3001 * number + length])
        for number, (name, rate, size, length) in enumerate(
            (name, rate, size, length)
            for name in pretrained.models()
            for rate, size, length in ((16000, 320, 9000), (16000, 7, 1500), (16000, 5000, 16000), (48000, 960, 12000))
        )
    ]

    async def job(number: int, name: str, rate: int, size: int, audio: NDArray[np.int16]) -> list[NDArray[Any]]:
        await asyncio.sleep(0.02 * number)
        async with client.connect(server.url, name, "encode", rate) as stream:
            return [await in_pieces(stream, cut(audio, [size])) for _ in range(2)]

    async def run() -> list[list[NDArray[Any]]]:
        return await asyncio.gather(*(job(number, *facts) for number, facts in enumerate(jobs)))

    before = server.metrics.get("batched") - server.metrics.get("batches")
    for (name, rate, _, audio), found in zip(jobs, asyncio.run(run()), strict=True):
        expected = released(name).encode(audio, rate)
        for codes in found:
            np.testing.assert_array_equal(codes, expected)
    assert server.metrics.get("batched") - server.metrics.get("batches") > before  # streams have run together


def test_the_server_says_what_it_serves(server: Running) -> None:
    with server.open(sample_rate=48000, weights=HASH) as connection:
        facts = json.loads(connection.recv())["ready"]
    assert facts == {
        "model": MODEL,
        "weights": HASH,
        "sample_rate": 48000,
        "frame_length": 320,
        "tokens_per_frame": 1,
        "codebook_size": 65536,
        "latency_samples": released(MODEL).stream_encoder(48000).latency_samples,
    }


def test_after_a_flush_a_new_stream_begins(server: Running, tokenizer: Tokenizer, speech: NDArray[np.float32]) -> None:
    pcm = to_int16(speech[:5001])
    expected = tokenizer.encode(pcm)

    async def run() -> None:
        async with client.connect(server.url, MODEL, "encode") as stream:
            for _ in range(3):
                np.testing.assert_array_equal(await transfer(stream, pcm), expected)
                await stream.send(pcm[:0])
            nothing = tokenizer.stream_encoder().flush()
            np.testing.assert_array_equal(await stream.flush(), nothing)

    asyncio.run(run())


def test_lost_frames_are_concealed(server: Running, tokenizer: Tokenizer, speech: NDArray[np.float32]) -> None:
    codes = tokenizer.encode(speech[20000:28000])
    session = tokenizer.stream_decoder()
    expected = [session.push(codes[:10]), session.push(np.zeros(12, int), np.ones(12, bool)), session.push(codes[22:])]

    async def run() -> NDArray[Any]:
        async with client.connect(server.url, MODEL, "decode") as stream:
            await stream.send(codes[:10])
            await stream.lose(12)
            await stream.send(codes[22:])
            return await stream.flush()

    heard, whole = asyncio.run(run()), to_int16(np.concatenate(expected))
    assert heard.shape == whole.shape
    assert np.abs(heard.astype(int) - whole).max() <= 1


@pytest.mark.parametrize(
    ("hello", "sentence"),
    [
        ({"model": "nobody"}, f"the server has no model 'nobody'; it has {MODEL}, spectok-16k-4k"),
        ({"weights": "0" * 16}, f"the weights of {MODEL} are {HASH} here, not 0000000000000000"),
        ({"mode": "sing"}, "the first message: mode is 'sing', but must be one of 'encode', 'decode', 'transcode', "),
        ({"rate": 16000}, "the first message has the unknown key 'rate'; known are mode, model, "),
        ({"sample_rate": 10}, "the stream has a sample rate of 10 Hz; it must be 1000 to 192000"),
    ],
)
def test_a_bad_hello_is_refused(server: Running, hello: dict[str, Any], sentence: str) -> None:
    with server.open(**hello) as connection:
        found, code = ending(connection)
    assert found.startswith(sentence) and code == 1008


@pytest.mark.parametrize(
    ("mode", "message", "sentence", "code"),
    [
        ("encode", b"\0\0\0", "PCM must be whole samples of 16 bits, not 3 bytes", 1008),
        ("transcode", b"\0", "PCM must be whole samples of 16 bits, not 1 bytes", 1008),
        ("decode", b"\0" * 18, "codes must be whole frames of 16 bytes, not 18 bytes", 1008),
        ("decode", b"\xff" * 16, "codes must be from 0 to 1023, but code 0 is 65535", 1008),
        ("encode", '{"lost": 1}', "frames can be lost in the mode decode, not in encode", 1008),
        ("encode", "hello", "the message is no JSON", 1008),
        ("encode", b"\0" * (MAX_MESSAGE + 2), "", 1009),
    ],
)
def test_a_bad_message_is_refused(server: Running, mode: str, message: Any, sentence: str, code: int) -> None:
    with server.open(model="spectok-16k-4k", mode=mode) as connection:
        connection.send(message)
        assert ending(connection) == (sentence, code)


def test_the_longest_message_is_read(server: Running, tokenizer: Tokenizer, speech: NDArray[np.float32]) -> None:
    pcm = to_int16(speech[: MAX_MESSAGE // 2])
    with server.open() as connection:
        connection.recv()
        connection.send(pcm.tobytes())
        connection.send('{"flush": true}')
        found = []
        while isinstance(message := connection.recv(timeout=20), bytes):
            found.append(np.frombuffer(message, "<u2"))
    assert json.loads(message) == {"flushed": True}
    assert {len(part) for part in found[:-2]} == {batcher.TURN_FRAMES}  # so that others get their turns
    np.testing.assert_array_equal(np.concatenate(found), tokenizer.encode(pcm))


def test_a_token_is_needed_where_the_server_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HELLO_SECONDS", 0.2)
    with serving(token="secret ü", max_streams=2) as server:
        for hello, sentence in (
            ({}, "the server needs a token"),
            ({"token": "Secret ü"}, "the token is wrong"),
            ({"token": "\ud800"}, "the token is wrong"),
        ):
            with server.open(**hello) as bad:
                assert ending(bad) == (sentence, 1008)
        with pytest.raises(InputError, match=r"^the server: the token is wrong$"):
            client.run(server.url, MODEL, "encode", np.zeros(9, np.int16), token="no")
        assert len(client.run(server.url, MODEL, "encode", np.zeros(320, np.int16), token="secret ü")) == 2
        with connect(server.url) as silent:
            assert ending(silent) == ("no first message came for 0.2 s", 1008)
        assert server.metrics.get("refused") == 5 and server.metrics.get("accepted") == 1


def test_more_streams_than_the_limit_are_refused_until_one_ends() -> None:
    with serving(max_streams=2) as server:
        with server.open() as first, server.open() as second:
            assert "ready" in str(first.recv()) and "ready" in str(second.recv())
            with server.open() as third:
                assert ending(third) == ("the server has 2 streams, its limit; try again later", 1013)
        until(lambda: server.metrics.get("streams") == 0)
        with server.open() as again:
            assert "ready" in str(again.recv())


def test_only_so_many_connections_are_open_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spectok.serve.server.SPARE", 1)
    with serving(max_streams=1) as server, server.open(), connect(server.url):
        until(lambda: server.metrics.get("connections") == 2)
        with pytest.raises(InvalidStatus) as refused, connect(server.url):
            pass
        assert refused.value.response.status_code == 503


def test_connections_on_which_nothing_moves_are_closed() -> None:
    with serving(idle_timeout=0.3) as server:
        with server.open() as idle:
            assert ending(idle) == ("no message came for 0.3 s", 1008)
        until(lambda: server.metrics.get("streams") == 0)


async def _overfill(stream: AsyncClientConnection, codes: bytes, repeats: int) -> int:
    """How many messages the server takes from a client that does not read, until it stops."""
    for count in range(repeats):
        try:
            async with asyncio.timeout(0.5):
                await stream.send(codes)
        except TimeoutError:  # what was being sent is in the client's buffer
            return count + 1
    raise AssertionError("the server has taken everything")


def test_a_client_that_reads_slowly_is_not_read_and_loses_nothing(
    server: Running, tokenizer: Tokenizer, speech: NDArray[np.float32]
) -> None:
    codes = np.resize(tokenizer.encode(speech[:64000]), 8192)
    pieces = [code_bytes(part) for part in cut(codes, [4096])]

    async def run() -> None:
        decoded = server.metrics.get("decoded")
        async with deaf(server, mode="decode") as stream:
            count = await _overfill(stream, pieces[0], 1000)
            waiting = server.metrics.get("waiting")
            limit = connection.QUEUE_BYTES + MAX_MESSAGE
            assert 0 < waiting <= 2 * limit and count < 100
            done, before = -1.0, -2.0
            while done != before:  # until it computes nothing more, because nobody reads it
                await asyncio.sleep(0.3)
                done, before = server.metrics.get("decoded") - decoded, done
            assert done * 640 < 40 * SMALL
            await stream.recv()  # ready
            heard: list[NDArray[Any]] = []
            while sum(map(len, heard)) < 320 * (done + 50):
                message = await stream.recv()
                assert isinstance(message, bytes)
                heard.append(read_pcm(message))
            found = np.concatenate(heard)
            sent = np.resize(codes[:4096], len(found) // 320 + 2)  # the same piece again and again
            expected = to_int16(tokenizer.stream_decoder().push(sent))[: len(found)]
            assert np.abs(found.astype(int) - expected).max() <= 1
            assert server.metrics.get("decoded") - decoded > done

    asyncio.run(run())
    until(lambda: server.metrics.get("streams") == 0 and server.metrics.get("waiting") == 0)


def test_a_client_that_does_not_read_is_closed(tokenizer: Tokenizer, speech: NDArray[np.float32]) -> None:
    codes = code_bytes(tokenizer.encode(speech[:64000]))
    with serving(idle_timeout=0.4) as server:

        async def run() -> None:
            async with deaf(server, mode="decode") as stream:
                await _overfill(stream, codes, 10000)
                await asyncio.to_thread(until, lambda: server.metrics.get("streams") == 0)

        asyncio.run(run())
        assert server.metrics.get("waiting") == 0


def test_a_killed_client_leaves_the_others_right(
    server: Running, tokenizer: Tokenizer, speech: NDArray[np.float32]
) -> None:
    chunks = [to_int16(part) for part in cut(speech[:20001], [320])]
    expected = tokenizer.encode(to_int16(speech[:20001]))

    async def dies() -> None:
        async with client.connect(server.url, MODEL, "transcode") as stream:
            for chunk in chunks[:20]:
                await stream.send(chunk)
            await stream.receive()
            stream.abort()
            with pytest.raises(InputError, match=r"^the server has closed the connection$"):
                await stream.rest()

    async def lives() -> NDArray[Any]:
        async with client.connect(server.url, MODEL, "encode") as stream:
            return await in_pieces(stream, chunks)

    async def run() -> list[Any]:
        return list(await asyncio.gather(lives(), dies(), lives(), dies()))

    first, _, second, _ = asyncio.run(run())
    np.testing.assert_array_equal(first, expected)
    np.testing.assert_array_equal(second, expected)
    until(lambda: server.metrics.get("streams") == 0)


def test_a_fault_of_the_codec_ends_its_streams_and_no_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with serving() as server:
        run = batcher.ModelStreams.run
        with monkeypatch.context() as patch:
            patch.setattr(batcher.ModelStreams, "run", lambda *_: [][0])
            with server.open() as stream:
                stream.send(bytes(640))
                assert ending(stream) == ("the codec has failed; the server's log has more", 1011)
        assert batcher.ModelStreams.run is run and "list index out of range" in caplog.text
        assert len(client.run(server.url, MODEL, "encode", np.zeros(320, np.int16))) == 2


def test_members_of_a_room_hear_each_other(server: Running) -> None:
    codes = [np.arange(n, n + 50) * 1000 for n in range(2)]

    async def run() -> None:
        async with (
            client.connect(server.url, MODEL, "relay", room="a") as one,
            client.connect(server.url, MODEL, "relay", room="a") as two,
            client.connect(server.url, MODEL, "relay", room="b") as other,
        ):
            await other.send(codes[0] + 1)
            for stream, sent in ((one, codes[0]), (two, codes[1])):
                await stream.send(sent)
            for stream, expected in ((one, codes[1]), (two, codes[0])):
                np.testing.assert_array_equal(await stream.receive(), expected)
            assert (await other.flush()).shape == (0,)

    before = server.metrics.get("relayed")
    asyncio.run(run())
    assert server.metrics.get("relayed") - before == 2 * 2 * 50  # bytes, of two messages


def test_a_room_has_one_model_and_two_members(server: Running) -> None:
    with ExitStack() as stack:
        members = [stack.enter_context(server.open(mode="relay", room="full")) for _ in range(relay.MAX_MEMBERS)]
        for member in members:
            assert "ready" in str(member.recv())
        with server.open(mode="relay", room="full") as third:
            assert ending(third) == ("the room has 2 members, its limit; try again later", 1013)
        with server.open(model="spectok-16k-4k", mode="relay", room="full") as other:
            assert ending(other) == (f"the room has codes of {MODEL}, not of spectok-16k-4k", 1008)
        members[0].send(b"\0")
        assert ending(members[0]) == ("codes must be whole frames of 2 bytes, not 1 bytes", 1008)


def test_a_member_that_does_not_read_leaves_the_room(server: Running) -> None:
    piece = np.zeros(8192, np.int64)

    async def run() -> None:
        async with (
            deaf(server, mode="relay", room="c"),
            client.connect(server.url, MODEL, "relay", room="c") as speaker,
        ):
            await asyncio.to_thread(until, lambda: server.metrics.get("streams") == 2)
            refused = server.metrics.get("refused")
            for _ in range(1000):
                await speaker.send(piece)
                if server.metrics.get("refused") > refused:
                    break
            await asyncio.to_thread(until, lambda: server.metrics.get("streams") == 1)
            await speaker.flush()

    asyncio.run(run())


def test_the_pages(server: Running, tokenizer: Tokenizer) -> None:
    before = server.metrics.get("encoded")
    client.run(server.url, MODEL, "encode", np.zeros(3200, np.int16))
    assert server.page("/healthz") == "ok\n"
    lines = server.page("/metrics?x=1").splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert len(values) == len([line for line in lines if not line.startswith("#")])
    assert float(values['spectok_frames_total{side="encoder"}']) - before == 11
    assert (values["spectok_workers"], values["spectok_waiting_bytes"]) == ("1", "0")
    buckets = [float(value) for name, value in values.items() if name.startswith("spectok_turn_seconds_bucket")]
    assert buckets == sorted(buckets) and buckets[-1] == float(values["spectok_turn_seconds_count"]) > 0
    assert lines.count("# TYPE spectok_frames_total counter") == 1
    with pytest.raises(urllib.error.HTTPError, match="404") as missing:
        server.page("/other")
    missing.value.close()


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost:5173", True),
        ("http://127.0.0.1", True),
        ("https://example.org", True),
        ("https://example.com", False),
        ("http://localhost.example.com", False),
        ("null", False),
    ],
)
def test_pages_of_other_hosts_cannot_connect(origin: str, allowed: bool, origins_server: Running) -> None:
    if allowed:
        with connect(origins_server.url, origin=Origin(origin)):
            return
    with pytest.raises(InvalidStatus) as refused, connect(origins_server.url, origin=Origin(origin)):
        pass
    assert refused.value.response.status_code == 403


@pytest.fixture(scope="module")
def origins_server() -> Iterator[Running]:
    with serving(origins=("https://example.org",)) as running:
        yield running


MESSAGES = st.one_of(
    st.binary(max_size=700),
    st.integers(0, 700).map(lambda n: bytes(2 * n)),
    st.sampled_from(['{"flush": true}', '{"lost": 3}', '{"lost": -1}', "{}", "[", ""]),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["encode", "decode", "transcode", "relay"]), st.lists(MESSAGES, max_size=6), st.booleans())
def test_any_messages_are_answered_or_refused(server: Running, mode: str, messages: list[Any], ends: bool) -> None:
    room = {"room": "fuzz"} if mode == "relay" else {}
    with server.open(mode=mode, **room) as stream:
        try:
            for message in messages:
                stream.send(message)
            if ends:
                stream.send('{"flush": true}')
                while "flushed" not in str(stream.recv(timeout=20)):
                    pass
        except ConnectionClosed:
            assert ending(stream)[1] == 1008


def test_a_client_names_what_is_wrong(server: Running) -> None:
    with pytest.raises(InputError, match=r"^cannot connect to ws://127.0.0.1:1: Connect"):
        client.run("ws://127.0.0.1:1", MODEL, "encode", np.zeros(9, np.int16))
    with pytest.raises(InputError, match=r"^http://127.0.0.1 is no server of streams: "):
        client.run("http://127.0.0.1", MODEL, "encode", np.zeros(9, np.int16))
    with pytest.raises(InputError, match=r"/other is no server of streams: .*404"):
        client.run(f"{server.url}/other", MODEL, "encode", np.zeros(9, np.int16))
    with pytest.raises(InputError, match=r"^the audio has a sample rate of 0 Hz; it must be 1000 to 192000$"):
        client.run(server.url, MODEL, "encode", np.zeros(9, np.int16), sample_rate=0)
    with pytest.raises(InputError, match=r"^codes must be from 0 to 65535, but code 0 is 65536$"):
        client.run(server.url, MODEL, "decode", np.array([65536]))
    with pytest.raises(InputError, match=r"^codes must be integers \[N\], not \[2, 2\]$"):
        client.run(server.url, MODEL, "decode", np.zeros((2, 2), np.int64))
    with pytest.raises(InputError, match=r"^codes must be integers, not float64$"):
        client.run(server.url, MODEL, "decode", np.zeros(3))
    with pytest.raises(InputError, match=r"^audio must have the shape \[T\], not \[2, 2\]$"):
        client.run(server.url, MODEL, "encode", np.zeros((2, 2), np.int16))


@pytest.mark.parametrize("answer", ["hello", "[1]", "{}", '{"ready": 3}', '{"ready": {"model": "a"}}', b"\xff"])
def test_another_server_of_websockets_is_noticed(answer: str | bytes) -> None:
    def other(stream: ServerConnection) -> None:
        stream.recv()
        stream.send(answer)

    with serve(other, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        with pytest.raises(InputError, match=f"^{url} is no server of streams: it answers something else$"):
            client.run(url, MODEL, "encode", np.zeros(9, np.int16))
        server.shutdown()
        thread.join()
