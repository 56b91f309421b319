"""What reads untrusted bytes, for `fuzz.py`: for each kind of input some valid ones, and a function that reads any.

A function returns if it can read the input, after it has checked what it has read, and raises an `InputError` if it
refuses the input. Anything else is an error: another exception, over a second of processor time, or too much memory.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import io
import json
import signal
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spectok import InputError, StreamDecoder, StreamEncoder, pretrained
from spectok.audio import AudioReader
from spectok.cli.checks import repair, verify
from spectok.config import CodecConfig
from spectok.container import Header, Reader, read_spt, write_spt
from spectok.container.parts import Taken, pack_codes, unpack_codes, varint
from spectok.container.stream import read_header
from spectok.container.version2 import DIGEST_BYTES, MAGIC
from spectok.engine import OnnxEngine
from spectok.entropy import EntropyModel, RangeEncoder
from spectok.graphs import WEIGHTS, _fields, check_graph, read_graph
from spectok.network import Depacketizer, Packetizer
from spectok.samples import MAX_PEAK
from spectok.serve import protocol
from spectok.wav import wav_header

FORMAT = Path(__file__).parent.parent / "tests" / "data" / "format"
TINY = Header("tiny", "0123456789abcdef", 16000, 1024, 2, 2, 900, "a1b2c3d4")
MAX_SECONDS = 1.0  # of processor time that an input may take
PULL = 200  # in sequences of packets: bytes from here up pull frames


class Target(NamedTuple):
    """A kind of input."""

    seeds: list[bytes]  # valid inputs
    read: Callable[[bytes], None]  # InputError if it refuses the input
    mend: Callable[[bytes], bytes] | None = None  # makes the checksums of a mutated input true
    share: float = 1.0  # of the number of executions, so that all kinds take about as long


def execute(target: Target, content: bytes) -> bool:
    """Read an input; returns whether it was good, that is, not refused.

    Raises:
        TimeoutError: it took over a second of processor time.
        Exception: any other than InputError is an error of the function that reads it.
    """
    signal.signal(signal.SIGVTALRM, _too_long)
    signal.setitimer(signal.ITIMER_VIRTUAL, MAX_SECONDS)
    try:
        target.read(content)
    except InputError:
        return False
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return True


def _too_long(*_: object) -> None:
    raise TimeoutError(f"over {MAX_SECONDS:g} s of processor time")


# Files of codes.


def _spt(content: bytes) -> None:
    """Both readers agree, and writing what was read gives the same bytes, or with entropy coding the same codes."""
    header, codes = read_spt(io.BytesIO(content))
    assert codes.size == 0 or 0 <= codes.min() <= codes.max() < header.codebook_size
    with Reader(io.BytesIO(content)) as reader:
        assert reader.header == header and np.array_equal(reader.read(), codes)
    if header.version > 1:
        sink = io.BytesIO()
        write_spt(sink, header, codes)
        if header.version == 2:
            assert sink.getvalue() == content
        else:
            assert np.array_equal(read_spt(io.BytesIO(sink.getvalue()))[1], codes)


def _damaged_spt(content: bytes) -> None:
    """The packets are in order, and a file is complete exactly if it can be read whole."""
    position = 0
    with Reader(io.BytesIO(content), recover=True) as reader:
        for packet in reader:
            assert packet.start_frame >= position
            assert 0 <= packet.codes.min() <= packet.codes.max() < reader.header.codebook_size
            position = packet.stop_frame
        most = 32 * len(content) + reader.header.frames_per_packet if reader.header.entropy_id else 8 * len(content)
        assert position <= reader.num_frames <= most
    try:
        read_spt(io.BytesIO(content))
    except InputError:
        assert not reader.complete
    else:
        assert reader.complete


def _repaired(folder: Path) -> Callable[[bytes], None]:
    source, destination = folder / "damaged.spt", folder / "repaired.spt"
    args = argparse.Namespace(inputs=[str(source)], quiet=False, output=str(destination), force=True, model=None)
    args.input = args.inputs[0]

    def read(content: bytes) -> None:
        """The repaired file can be read, and has the intact packets at their places."""
        source.write_bytes(content)
        destination.unlink(missing_ok=True)
        with contextlib.redirect_stdout(io.StringIO()):
            with contextlib.suppress(InputError):
                verify(args)
            try:
                repair(args)
            except InputError:
                assert not destination.exists()
                raise
        header, codes = read_spt(destination)
        with Reader(source, recover=True) as reader:
            for packet in reader:
                start = packet.start_frame * header.tokens_per_frame
                assert np.array_equal(codes[start : start + len(packet.codes)], packet.codes)

    return read


def _with_checksums(content: bytes) -> bytes:
    """A .spt file with true checksums of the header and the packets, and a true digest, as far as they can be found."""
    data = bytearray(content)
    if len(data) < 40 or data[:4] != MAGIC or data[4] not in (1, 2, 3):
        return content
    place = 32 if data[4] == 1 else 18
    if data[4] > 1:
        for _ in range(2):  # codebook size and sample rate have a byte, or 3 bytes after a 0
            place += 1 if data[place] else 4
        while place < len(data) and data[place] & 128:  # frames per packet
            place += 1
        place += 1
    end = place + 1 + data[place] if place < len(data) else len(data)
    if data[4] == 3:
        while end < len(data) and data[end] & 128:  # bytes of a packet
            end += 1
        end += 5
    data[end : end + 4] = zlib.crc32(data[:end]).to_bytes(4, "little")
    try:
        header, head = read_header(io.BytesIO(bytes(data)))
        start, index, last = len(head), 0, False
        while not last:
            packet = Taken(io.BytesIO(bytes(data[start:])), "a packet")
            packet.take(4)
            if header.version == 1:
                mark = packet.number(2)
                frames, last, seed = mark & 0x7FFF, mark > 0x7FFF, b""
            elif header.version == 3:
                mark, _ = packet.varint(), packet.varint()
                last, seed = bool(mark % 2), bytes.fromhex(header.stream_id or "")
                if last:
                    packet.varint()
                size = packet.varint() if last else header.packet_bytes - len(packet.raw)
            else:
                frames = packet.varint()
                last, seed = frames < header.frames_per_packet, bytes.fromhex(header.stream_id or "")
                if last:
                    packet.varint()
            if header.version < 3:
                size = header.payload_bytes(min(frames, header.frames_per_packet))
            packet.take(min(max(0, size), 1 << 16))
            checksum = zlib.crc32(packet.raw[4:], zlib.crc32(seed + index.to_bytes(4, "little")))
            data[start : start + 4] = checksum.to_bytes(4, "little")
            start, index = start + len(packet.raw), index + 1
        if header.version > 1:
            data[start : start + DIGEST_BYTES] = hashlib.sha256(data[:start]).digest()[:DIGEST_BYTES]
    except InputError:
        pass
    return bytes(data)


def _spt_seeds() -> list[bytes]:
    model = pretrained.find(pretrained.models()[0])
    quantizer = model.config.quantizer
    rest = quantizer.codebook_size, quantizer.tokens_per_frame
    plain = Header("", model.weight_hash, 44100, *rest, 3, 17_000, "00112233")
    coded = dataclasses.replace(plain, frames_per_packet=0, version=0, entropy_id=model.entropy_id, packet_bytes=400)
    headers = [TINY, plain, coded]
    seeds = [path.read_bytes() for path in sorted(FORMAT.glob("*-800-*.spt"))]
    for header in headers:
        sink = io.BytesIO()
        write_spt(sink, header, np.arange(22 * header.tokens_per_frame) * 37 % header.codebook_size)
        seeds.append(sink.getvalue())
    return seeds


def _entropy_seed() -> bytes:
    """An entropy model of two codes with two digits each, and what a range coder has written."""
    size = 2 * (4 + 3)
    weights = np.zeros((1 + 3 * size, size), np.int8)
    weights[0], weights[1 + size :] = 5, np.arange(2 * size * size).reshape(2 * size, size) % 91 - 45
    return EntropyModel((4, 3), 2, weights).to_bytes() + bytes(range(7, 250, 9))


def _entropy(content: bytes) -> None:
    """An entropy model, and codes that are decoded with it. They are coded to the same probabilities again."""
    digits = content[0] if content else 0
    size = 2 * sum(content[1 : 1 + digits])
    end = 1 + digits + (1 + 3 * size) * size
    model = EntropyModel.from_bytes(content[:end], 2)
    codes = model.decode(content[end:], 12)
    assert codes.shape == (12, 2) and 0 <= codes.min() <= codes.max() < model.codebook_size
    starts, sizes = model.intervals(codes, codes[:0])
    coder = RangeEncoder()
    coder.put(starts.ravel().tolist(), sizes.ravel().tolist())
    assert np.array_equal(model.decode(coder.finish(), 12), codes)


# Packets for networks, and strings of bits.


def _network(content: bytes) -> None:
    """A sequence: a byte from 200 up pulls 1 to 4 frames, another is the length of a packet that follows.

    A packet that is refused leaves the buffer as it was, and the buffer never holds more than the frames of a cycle.
    """
    buffer, place, refused = Depacketizer(TINY, delay=3), 0, 0
    while place < len(content):
        size, place = content[place], place + 1
        before, received = _facts(buffer), buffer.received
        if size >= PULL:
            codes, lost = buffer.pull(1 + size % 4)
            assert len(codes) == len(lost) and not codes[lost].any()
            assert len(codes) == 0 or 0 <= codes.min() <= codes.max() < TINY.codebook_size
            assert buffer.received - received == np.count_nonzero(~lost)
            continue
        try:
            buffer.push(content[place : place + size])
        except InputError:
            refused += 1
            assert _facts(buffer) == before
        place += size
        assert len(buffer._frames) < 256 and len(buffer._missed) <= 128
    if refused:
        raise InputError(f"{refused} packets are none")


def _facts(buffer: Depacketizer) -> tuple[int | None, ...]:
    return buffer._next, len(buffer._frames), buffer.received, buffer.lost, buffer.late, len(buffer._missed)


def _network_seeds() -> list[bytes]:
    """Packets in order, and packets of which some are lost, repeated or late."""
    codes = np.arange(80) * 37 % TINY.codebook_size
    seeds = []
    for frames, redundancy, order in ((2, 0, range(8)), (1, 2, [3, 3, 0, 1, 9, 8, 7, 30, 5])):
        packets = Packetizer(TINY, frames, redundancy).push(codes)
        sequence = [bytes([len(packets[n])]) + packets[n] + bytes([PULL + frames - 1]) for n in order]
        seeds.append(b"".join(sequence))
    return seeds


def _bits(content: bytes) -> None:
    """The codebook size and a string of codes; packing the codes gives the string back."""
    size, payload = 2 + int.from_bytes(content[:3], "little") % ((1 << 24) - 1), content[3:]
    header = dataclasses.replace(TINY, codebook_size=size)
    count = 8 * len(payload) // header.bits_per_code
    codes = unpack_codes(payload, count, header, "the string")
    assert len(codes) == count and (count == 0 or 0 <= codes.min() <= codes.max() < size)
    packed = pack_codes(codes, header.bits_per_code)
    assert payload[: len(packed)] == packed and not any(payload[len(packed) :])


# Audio files.


def _samples(source: Any) -> None:
    with AudioReader(source) as reader:
        for block in reader:
            assert block.dtype == np.float32 and np.abs(block).max() <= MAX_PEAK


def _wav_file(folder: Path) -> Callable[[bytes], None]:
    path = folder / "audio.wav"

    def read(content: bytes) -> None:
        path.write_bytes(content)
        _samples(path)

    return read


def _wav_seeds() -> list[bytes]:
    """16 bits with and without a length, floats of two channels behind another chunk, and the long form of a header."""
    samples = np.arange(-150, 150, dtype="<i2").tobytes()
    floats = struct.pack("<4sIHHIIHH", b"fmt ", 16, 3, 2, 8000, 64000, 8, 32)
    floats = b"WAVE" + floats + b"LIST\5\0\0\0INFO\0\0" + b"data" + struct.pack("<I32f", 128, *np.linspace(-1, 1, 32))
    long = struct.pack("<4sIHHIIHHHHI", b"fmt ", 40, 0xFFFE, 1, 48000, 144000, 3, 24, 22, 24, 4)
    long = b"WAVE" + long + bytes.fromhex("0100000000001000800000aa00389b71") + b"data\x1e\0\0\0" + samples[:30]
    return [
        wav_header(16000, 300) + samples,
        wav_header(44100, None) + samples,
        *(b"RIFF" + len(body).to_bytes(4, "little") + body for body in (floats, long)),
    ]


# Models.


def _config(folder: Path) -> Callable[[bytes], None]:
    path = folder / "config.json"

    def read(content: bytes) -> None:
        path.write_bytes(content)
        config = CodecConfig.load(path)
        assert 0 < config.frame_length <= config.latency_samples and config.bitrate >= 0
        assert CodecConfig.from_json(json.loads(config.to_json()), "config") == config

    return read


def _config_seeds() -> list[bytes]:
    """Those of the released models, and one of the first format."""
    tower = {"channels": [8, 32], "frequency_strides": [2], "time_strides": [2]}
    first = {"name": "old", "encoder": tower, "decoder": tower, "bottleneck": {"queries": 8, "bands": "mel"}}
    released = [pretrained.find(name).read("config.json") for name in pretrained.models()]
    return [*released, json.dumps(first).encode()]


def _index(folder: Path) -> Callable[[bytes], None]:
    def read(content: bytes) -> None:
        (folder / "index.toml").write_bytes(content)
        assert all(set(hashes) <= set(pretrained.FILES) for hashes in pretrained.read_index(folder).values())

    return read


def _graph(content: bytes) -> None:
    try:
        _, external = read_graph(content)
        check_graph(content, 320, 8)
        for tensor in external:
            tensor.view({WEIGHTS: bytes(64)})
    except ValueError as error:  # which the engine turns into an InputError
        raise InputError(str(error)) from error


def _graph_seed() -> bytes:
    """The encoder of a released model, with three of each part of its graph."""
    content = pretrained.find(pretrained.models()[0]).read("encoder.onnx")

    def message(field: int, data: bytes) -> bytes:
        return varint(field << 3 | 2) + varint(len(data)) + data

    whole = b""
    for field, _, data in _fields(memoryview(content)):
        if field == 7:
            count = Counter[int]()
            parts = []
            for inner, _, part in _fields(data):
                count[inner] += 1
                parts += [message(inner, bytes(part))] if count[inner] <= 3 else []
            data = memoryview(b"".join(parts))
        whole += message(field, bytes(data)) if len(data) else b""
    return whole


# Kept sessions.


def _session(engine: OnnxEngine, side: str, rate: int) -> tuple[list[bytes], Callable[[bytes], None]]:
    """States of a session as files, new and in use; and a function that continues a stream from any file."""
    tokens = engine.config.quantizer.tokens_per_frame
    audio = np.linspace(-0.1, 0.1, engine.config.frame_length, dtype=np.float32)
    chunk: Any = np.arange(tokens) if side == "decoder" else audio

    def session() -> Any:
        return (StreamDecoder if side == "decoder" else StreamEncoder)(engine, sample_rate=rate)

    def read(content: bytes) -> None:
        try:
            state = np.load(io.BytesIO(content), allow_pickle=False)
        except Exception as error:  # of numpy, before spectok has seen anything
            raise InputError(f"numpy cannot read it: {error!r}") from error
        if not isinstance(state, np.lib.npyio.NpzFile):
            raise InputError("it is a single array")
        loaded = session()
        loaded.load_state_dict(state)
        loaded.state_dict()
        loaded.push(chunk)
        loaded.push(chunk)

    used, files = session(), []
    for chunks in ([], [chunk, chunk, chunk[: len(chunk) // 2]]):
        for piece in chunks:
            used.push(piece)
        file = io.BytesIO()
        np.savez(file, **used.state_dict())
        files.append(file.getvalue())
    return files, read


def _with_zip_checksums(content: bytes) -> bytes:
    """A zip file with true checksums, as far as its directory can be read."""
    data = bytearray(content)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            place = archive.start_dir
            for member in archive.infolist():
                head = member.header_offset
                start = head + 30 + sum(struct.unpack_from("<HH", data, head + 26))
                checksum = zlib.crc32(data[start : start + member.compress_size]).to_bytes(4, "little")
                data[head + 14 : head + 18] = data[place + 16 : place + 20] = checksum
                place += 46 + sum(struct.unpack_from("<HHH", data, place + 28))
    except Exception:  # whatever zipfile raises: the file stays as it is
        pass
    return bytes(data)


def _messages(config: CodecConfig) -> Callable[[bytes], None]:
    def read(content: bytes) -> None:
        """A WebSocket message to `spectok serve`: the first byte says which one it is, the others are its content."""
        body = content[1:]
        text = body.decode("utf-8", "replace")
        kind = content[0] % 4 if content else 0
        if kind == 0:
            hello = protocol.read_hello(text)
            assert hello.mode in protocol.MODES
            assert protocol.read_hello(hello.to_json()) == hello
        elif kind == 1:
            command = protocol.read_command(text, "decode")
            assert not isinstance(command, protocol.Lost) or 1 <= command.frames <= protocol.MAX_LOST
        elif kind == 2:
            assert len(protocol.read_pcm(body)) == len(body) // 2
        else:
            codes = protocol.read_codes(body, config)
            assert codes.size % config.quantizer.tokens_per_frame == 0
            assert codes.size == 0 or codes.max() < config.quantizer.codebook_size

    return read


def _message_seeds() -> list[bytes]:
    hello = protocol.Hello("spectok-16k-800", "relay", 48000, "0123456789abcdef", "secret", "kitchen")
    codes = protocol.code_bytes(np.arange(16))
    texts = (b"\0" + hello.to_json().encode(), b"\1" + protocol.FLUSH.encode(), b'\1{"lost": 3}')
    return [*texts, b"\2" + bytes(range(40)), b"\3" + codes]


def targets(folder: Path) -> dict[str, Target]:
    """All kinds of inputs. `folder` is for those that must be files; one in memory makes them faster."""
    index = (pretrained.root() / "index.toml").read_bytes()
    engine = OnnxEngine(pretrained.find(pretrained.models()[0]))
    found = {
        ".spt": Target(_spt_seeds(), _spt, _with_checksums),
        ".spt, recovered": Target(_spt_seeds(), _damaged_spt, _with_checksums, 0.4),
        ".spt, repaired": Target(_spt_seeds(), _repaired(folder), _with_checksums, 0.03),
        "entropy.dat": Target([_entropy_seed()], _entropy, share=0.5),
        "network packets": Target(_network_seeds(), _network, share=0.5),
        "bits": Target([b"\xfe\3\0" + bytes(range(60)), b"\xfe\xff\0" + bytes(range(64))], _bits, share=2.5),
        "WAV stream": Target(_wav_seeds(), lambda content: _samples(io.BytesIO(content)), share=1.2),
        "WAV file": Target(_wav_seeds(), _wav_file(folder), share=0.8),
        "config.json": Target(_config_seeds(), _config(folder), share=1.2),
        "index.toml": Target([index], _index(folder), share=1.2),
        "ONNX": Target([_graph_seed()], _graph, share=1.5),
        "WebSocket": Target(_message_seeds(), _messages(engine.config), share=1.2),
    }
    for name, side, rate in (
        ("encoder", "encoder", 16000),
        ("decoder", "decoder", 16000),
        ("resampler", "encoder", 48000),
    ):
        found[f"kept {name}"] = Target(*_session(engine, side, rate), _with_zip_checksums, 0.3)
    return found
