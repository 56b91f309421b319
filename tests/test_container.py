import hashlib
import io
import json
import os
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from container_cases import (
    FORMAT,
    TINY,
    TINY1_HEX,
    TINY_CODES,
    TINY_HEAD,
    TINY_HEX,
    from_bytes,
    headers,
    make_codes,
    quick,
    to_bytes,
)
from hypothesis import given
from hypothesis import strategies as st
from streams import Pipe

from spectok.container import Header, Reader, Writer, read_spt, read_stream, write_spt
from spectok.container.parts import pack_codes, unpack_codes
from spectok.errors import InputError

# The bytes.


def test_golden_bytes() -> None:
    content = to_bytes(TINY, TINY_CODES)
    assert content.hex() == TINY_HEX.replace(" ", "")
    header, codes = from_bytes(content)
    assert header == TINY
    assert codes.dtype == np.int64
    assert codes.tolist() == TINY_CODES


def strangers_reader(content: bytes) -> dict[str, Any]:
    """A reader of version 2 that shares nothing with the package, written from its documentation."""
    place = 0

    def take(count: int) -> bytes:
        nonlocal place
        place += count
        assert place <= len(content)
        return content[place - count : place]

    def number(count: int) -> int:
        return int.from_bytes(take(count), "little")

    def varint() -> int:
        value, shift = 0, 0
        while True:
            byte = number(1)
            value += (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    rates = [0, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 176400, 192000]
    assert take(5) == bytes.fromhex("a553505402")
    found: dict[str, Any] = {"weight_hash": take(8).hex(), "stream_id": take(4).hex(), "tokens": number(1)}
    power = number(1)
    size = 2**power if power else number(3)
    which = number(1)
    found |= {"size": size, "rate": rates[which] or number(3), "per_packet": varint()}
    found["name"] = take(number(1)).decode()
    assert zlib.crc32(content[:place]) == number(4)
    bits, codes, last, index = (size - 1).bit_length(), [], False, 0
    while not last:
        checksum = number(4)
        start = place
        frames = varint()
        last = frames < found["per_packet"]
        if last:
            found["num_samples"] = varint()
        word = number(-(-frames * found["tokens"] * bits // 8))
        codes += [word >> (bits * n) & (2**bits - 1) for n in range(frames * found["tokens"])]
        seed = bytes.fromhex(found["stream_id"]) + index.to_bytes(4, "little")
        assert zlib.crc32(seed + content[start:place]) == checksum
        index += 1
    assert hashlib.sha256(content[:place]).digest()[:4] == take(4)
    assert place == len(content)
    return found | {"codes": codes}


@quick
@given(headers(), st.integers(0, 40))
def test_a_reader_written_from_the_specification_agrees(header: Header, num_frames: int) -> None:
    codes = make_codes(header, num_frames)
    assert strangers_reader(to_bytes(replace(header, num_samples=num_frames * 321), codes)) == {
        "weight_hash": header.weight_hash,
        "stream_id": header.stream_id,
        "tokens": header.tokens_per_frame,
        "size": header.codebook_size,
        "rate": header.sample_rate,
        "per_packet": header.frames_per_packet,
        "name": header.model,
        "num_samples": num_frames * 321,
        "codes": codes.tolist(),
    }


@pytest.mark.parametrize(("size", "bits"), [(2, 1), (3, 2), (1000, 10), (1024, 10), (1025, 11), (65536, 16)])
def test_bits_per_code_is_ceil_log2_of_the_codebook_size(size: int, bits: int) -> None:
    header = replace(TINY, codebook_size=size, tokens_per_frame=1, frames_per_packet=80)
    assert header.bits_per_code == bits
    head, full, last = TINY_HEAD + 3 * (size & size - 1 != 0), 5 + 80 * bits // 8, 11
    assert len(to_bytes(header, np.full(240, size - 1))) == head + 3 * full + last


@pytest.mark.parametrize(
    ("rate", "tokens", "size", "seconds", "percent", "num_bytes"),
    [
        (16000, 1, 65536, 10, 4.0, 40),
        (48000, 1, 65536, 10, 4.0, 40),
        (16000, 1, 65536, 60, 2.0, 69),
        (16000, 8, 1024, 10, 4.0, 58),
        (16000, 8, 1024, 60, 2.0, 163),
    ],
)
def test_what_a_file_of_a_released_model_has_besides_its_codes(
    rate: int, tokens: int, size: int, seconds: int, percent: float, num_bytes: int
) -> None:
    header = Header("", "ab" * 8, rate, size, tokens, num_samples=rate * seconds)
    codes = make_codes(header, 50 * seconds + 1)
    code_bytes = len(codes) * header.bits_per_code // 8
    assert len(to_bytes(header, codes)) - code_bytes == num_bytes <= percent / 100 * code_bytes


def test_a_packet_has_1200_bytes_of_codes_unless_told_otherwise() -> None:
    assert Header("", "ab" * 8, 16000, 65536, 1).frames_per_packet == 600
    assert Header("", "ab" * 8, 16000, 1024, 8).frames_per_packet == 120
    assert Header("", "ab" * 8, 16000, 1 << 24, 255).frames_per_packet == 1  # 765 bytes; two would be too many
    assert Header("", "ab" * 8, 16000, 2, 1).frames_per_packet == 9600


def test_streams_draw_their_ids() -> None:
    header = replace(TINY, stream_id=None)
    ids = {from_bytes(to_bytes(header, TINY_CODES))[0].stream_id for _ in range(20)}
    assert len(ids) == 20


# Golden files: what was written once is read by every later version, and version 2 is written the same.

GOLDEN = json.loads((FORMAT / "content.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", GOLDEN)
def test_golden_files_are_read(name: str, version: int) -> None:
    golden = dict(GOLDEN[name])
    codes = golden.pop("codes")
    header, read = read_spt(FORMAT / f"{name}-version{version}.spt")
    assert read.tolist() == codes
    assert {field: getattr(header, field) for field in golden} == golden
    assert (header.version, header.model) == (version, name if version == 1 else "")
    assert (header.frames_per_packet, header.stream_id) == ((50, None) if version == 1 else (40, "00c0ffee"))


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_files_are_written(name: str) -> None:
    golden = dict(GOLDEN[name])
    codes = golden.pop("codes")
    header = Header("", **golden, frames_per_packet=40, stream_id="00c0ffee")
    assert to_bytes(header, codes) == (FORMAT / f"{name}-version2.spt").read_bytes()


def test_a_file_of_version_1_is_read_from_any_frame_and_written_in_version_2() -> None:
    content = bytes.fromhex(TINY1_HEX)
    header, codes = from_bytes(content)
    assert header == replace(TINY, stream_id=None, version=1)
    with Reader(io.BytesIO(content)) as reader:
        assert reader.read(1, 2).tolist() == TINY_CODES[2:]
        assert [packet.start_frame for packet in reader] == [0, 2]
        assert (reader.num_frames, reader.num_bytes, reader.header) == (3, len(content), header)
    assert to_bytes(replace(header, stream_id=TINY.stream_id), codes) == bytes.fromhex(TINY_HEX)


# Round trips.


@quick
@given(headers(), st.integers(0, 40), st.integers(0, 1000), st.lists(st.integers(0, 60), max_size=8))
def test_any_split_of_the_codes_gives_the_same_bytes(
    header: Header, num_frames: int, seed: int, cuts: list[int]
) -> None:
    codes = make_codes(header, num_frames, seed)
    known = replace(header, num_samples=num_frames * 100)
    content = to_bytes(known, codes)
    loaded, read = from_bytes(content)
    assert loaded == known
    np.testing.assert_array_equal(read, codes)
    sink = io.BytesIO()
    with Writer(sink, header) as writer:
        for piece in np.split(codes, np.sort(np.minimum(cuts, len(codes))).astype(int)):
            writer.write(piece)
        assert writer.num_codes == len(codes)
        writer.close(num_frames * 100)
    assert sink.getvalue() == content


@quick
@given(headers(), st.integers(0, 40), st.data())
def test_seek_equals_slice(header: Header, num_frames: int, data: st.DataObject) -> None:
    codes = make_codes(header, num_frames)
    with Reader(io.BytesIO(to_bytes(replace(header, num_samples=0), codes))) as reader:
        assert reader.num_codes == len(codes)
        start = data.draw(st.integers(0, num_frames))
        length = data.draw(st.integers(0, num_frames - start))
        expected = codes.reshape(-1, header.tokens_per_frame)[start : start + length].ravel()
        np.testing.assert_array_equal(reader.read(start, length), expected)
        np.testing.assert_array_equal(reader.read(start), codes[start * header.tokens_per_frame :])


def test_a_seek_reads_no_other_packets() -> None:
    header = replace(TINY, frames_per_packet=10)
    codes = make_codes(header, 100)
    content = bytearray(to_bytes(header, codes))
    content[40] ^= 1  # in packet 0
    with Reader(io.BytesIO(bytes(content))) as reader:
        np.testing.assert_array_equal(reader.read(10, 90), codes[20:])
        with pytest.raises(InputError, match="its packet 0 is damaged"):
            reader.read(9, 2)


def test_iteration_yields_the_packets() -> None:
    codes = make_codes(TINY, 5)
    with Reader(io.BytesIO(to_bytes(TINY, codes))) as reader:
        packets = list(reader)
    assert [packet.start_frame for packet in packets] == [0, 2, 4]
    np.testing.assert_array_equal(np.concatenate([packet.codes for packet in packets]), codes)
    with Reader(io.BytesIO(to_bytes(replace(TINY, num_samples=0), []))) as reader:
        assert list(reader) == []


@pytest.mark.parametrize(("start", "length"), [(-1, 1), (0, 4), (4, 0), (2, -1)])
def test_frames_outside_the_file_are_refused(start: int, length: int) -> None:
    with (
        Reader(io.BytesIO(to_bytes(TINY, TINY_CODES))) as reader,
        pytest.raises(InputError, match="frames 0 to 3, not"),
    ):
        reader.read(start, length)


def test_streams_are_used_from_their_position_and_stay_open() -> None:
    stream = io.BytesIO()
    stream.write(b"before")
    with Writer(stream, replace(TINY, num_samples=None)) as writer:
        writer.write(TINY_CODES)
        writer.close(900)
    assert stream.getvalue() == b"before" + to_bytes(TINY, TINY_CODES)
    stream.seek(6)
    assert read_spt(stream)[1].tolist() == TINY_CODES
    assert not stream.closed


def test_pipes() -> None:
    sink = Pipe()
    with Writer(sink, replace(TINY, num_samples=None)) as writer:
        writer.write(TINY_CODES)
        writer.close(900)
    assert bytes(sink.written) == to_bytes(TINY, TINY_CODES)
    header, codes = read_spt(Pipe(bytes(sink.written)))
    assert (header, codes.tolist()) == (TINY, TINY_CODES)
    with Reader(Pipe(bytes(sink.written))) as reader:
        assert reader.read(2).tolist() == TINY_CODES[4:]


@pytest.mark.parametrize("content", [TINY_HEX, TINY1_HEX], ids=["version 2", "version 1"])
def test_packets_are_read_as_they_arrive(content: str) -> None:
    """Through a pipe into which a packet is written only when the one before has been read."""
    data = bytes.fromhex(content)
    head, size = (TINY_HEAD, 10) if content == TINY_HEX else (41, 11)
    read, write = os.pipe()
    with os.fdopen(read, "rb") as source, os.fdopen(write, "wb", buffering=0) as sink:
        sink.write(data[:head])
        header, packets = read_stream(source)
        assert header.num_samples == (None if header.version == 2 else 900)
        sink.write(data[head : head + size])
        packet = next(packets)
        assert (packet.start_frame, packet.codes.tolist(), packet.last) == (0, TINY_CODES[:4], False)
        sink.write(data[head + size :])
        packet = next(packets)
        assert (packet.codes.tolist(), packet.last, packet.num_samples) == (TINY_CODES[4:], True, 900)
        sink.close()
        assert list(packets) == []


def test_packets_are_written_when_they_are_full() -> None:
    sink = Pipe()
    with Writer(sink, replace(TINY, num_samples=None)) as writer:
        assert len(sink.written) == TINY_HEAD
        for code in (1, 1023, 512):
            writer.write([code])
        assert len(sink.written) == TINY_HEAD
        writer.write([5])
        assert len(sink.written) == TINY_HEAD + 10
        writer.write([7, 700])
        writer.close(900)
    assert sink.written.hex() == TINY_HEX.replace(" ", "")


# Append.


@quick
@given(headers(), st.integers(0, 30), st.integers(0, 30))
def test_append_equals_one_write(
    tmp_path_factory: pytest.TempPathFactory, header: Header, first: int, second: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "append.spt"
    codes = make_codes(header, first + second)
    cut = first * header.tokens_per_frame
    write_spt(path, replace(header, num_samples=first * 100), codes[:cut])
    with Writer.append(path) as writer:
        assert writer.header == header
        assert writer.num_codes == cut
        writer.write(codes[cut:])
        writer.close((first + second) * 100)
    assert path.read_bytes() == to_bytes(replace(header, num_samples=(first + second) * 100), codes)


def test_an_append_that_fails_leaves_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.spt"
    write_spt(path, TINY, TINY_CODES)
    before = path.read_bytes()
    with pytest.raises(InputError, match="code 0 is 1024"), Writer.append(path) as writer:
        writer.write([1024])
    with pytest.raises(RuntimeError), Writer.append(path) as writer:
        writer.write([3, 4, 5, 6, 7, 8])
        raise RuntimeError
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.spt"]
    writer = Writer.append(path)
    writer.write([3, 4])
    assert path.read_bytes() == before
    writer.close(1000)
    assert read_spt(path)[1].tolist() == [*TINY_CODES, 3, 4]
    path.write_bytes(before[:-1])
    with pytest.raises(InputError, match="cut off, or was never finished"):
        Writer.append(path)
    assert os.listdir(tmp_path) == ["a.spt"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs the list of open files")
def test_an_append_to_a_damaged_file_leaves_no_file_open(tmp_path: Path) -> None:
    path = tmp_path / "a.spt"
    write_spt(path, TINY, TINY_CODES)
    content, opened = path.read_bytes(), os.listdir("/proc/self/fd")
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            Writer.append(path)
        except InputError:
            assert len(os.listdir("/proc/self/fd")) == len(opened)
        else:
            raise AssertionError(f"byte {place} is damaged, and it was not noticed")
        assert os.listdir(tmp_path) == ["a.spt"]


def test_appending_to_version_1_makes_version_2(tmp_path: Path) -> None:
    path = tmp_path / "a.spt"
    path.write_bytes(bytes.fromhex(TINY1_HEX))
    with Writer.append(path) as writer:
        writer.write([3, 4])
        writer.close(1000)
    header, codes = read_spt(path)
    assert header == replace(TINY, num_samples=1000, stream_id=header.stream_id)
    assert codes.tolist() == [*TINY_CODES, 3, 4]


# Arguments.


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model", "../../etc", "model is"),
        ("model", "a" * 65, "up to 64 letters"),
        ("model", "a\n", "model is"),
        ("model", None, "model is None"),
        ("weight_hash", "0123456789ABCDEF", "16 hexadecimal digits"),
        ("weight_hash", "00", "16 hexadecimal digits"),
        ("sample_rate", 999, "expected 1000 to 192000"),
        ("sample_rate", 192001, "expected 1000 to 192000"),
        ("sample_rate", 16000.0, "sample_rate is 16000.0; expected a whole number"),
        ("codebook_size", 1, "codebook_size is 1; expected 2 to 16777216"),
        ("codebook_size", (1 << 24) + 1, "expected 2 to 16777216"),
        ("tokens_per_frame", 0, "expected 1 to 255"),
        ("tokens_per_frame", 256, "expected 1 to 255"),
        ("frames_per_packet", -1, "expected 1 to 32767"),
        ("frames_per_packet", 32768, "expected 1 to 32767"),
        ("num_samples", -1, "num_samples is -1"),
        ("stream_id", "a1b2c3", "8 hexadecimal digits"),
        ("stream_id", "A1B2C3D4", "8 hexadecimal digits"),
        ("version", 4, "expected 1 to 3"),
    ],
)
def test_header_fields_are_checked(field: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(TINY, **{field: value})


def test_header_bounds_the_packet_and_takes_numpy_integers() -> None:
    with pytest.raises(InputError, match="packets would be over 65536 bytes"):
        replace(TINY, frames_per_packet=32767, tokens_per_frame=255)
    with pytest.raises(InputError, match="packets would be over 1048576 bytes"):
        replace(TINY, frames_per_packet=32767, tokens_per_frame=255, version=1)
    header = replace(TINY, num_samples=np.int64(900))
    assert header == TINY
    assert type(header.num_samples) is int


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([[1, 2]], r"codes must be integers \[N\], not \[1, 2\]"),
        ([0.5, 1.0], "codes must be integers, not float64"),
        ([True, False], "codes must be integers, not bool"),
        ([-1, 0], "code 0 is -1"),
        (np.array([0, 2**63], np.uint64), "code 1 is 9223372036854775808"),
        ([0, 1024], "from 0 to 1023, but code 1 is 1024"),
    ],
)
def test_codes_are_checked(codes: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        to_bytes(TINY, codes)


def test_close_needs_a_length_that_fits_the_codes() -> None:
    sink = io.BytesIO()
    with pytest.raises(InputError, match="close needs num_samples"), Writer(sink, replace(TINY, num_samples=None)):
        pass
    with pytest.raises(InputError, match="num_samples is 16001, which 1 frames"):
        to_bytes(replace(TINY, num_samples=16001), [1, 2])
    with Writer(sink, TINY) as writer:
        writer.write(TINY_CODES)
        writer.close()
        writer.close()
    with pytest.raises(InputError, match="it is closed"):
        writer.write([1])


def test_paths_may_be_strings(tmp_path: Path) -> None:
    path = str(Path(tmp_path) / "a.spt")
    write_spt(path, TINY, np.array(TINY_CODES, np.uint16))
    assert read_spt(path)[1].tolist() == TINY_CODES


@quick
@given(st.binary(max_size=40), st.integers(2, 1 << 24))
def test_any_string_of_bits_is_unpacked_or_refused(content: bytes, codebook_size: int) -> None:
    """A string that is accepted is the only one of its codes."""
    header = replace(TINY, codebook_size=codebook_size)
    count = 8 * len(content) // header.bits_per_code
    try:
        codes = unpack_codes(content, count, header, "it")
    except InputError as error:
        assert str(error) == f"it has codes that are not below the codebook size {codebook_size}"
        return
    assert len(codes) == count and np.all(codes < codebook_size)
    packed = pack_codes(codes, header.bits_per_code)
    assert packed + bytes(len(content) - len(packed)) == content


def test_a_header_of_version_1_must_have_frames_in_its_packets(tmp_path: Path) -> None:
    content = bytearray((FORMAT / "spectok-16k-800-version1.spt").read_bytes())
    content[6:8] = bytes(2)
    end = 33 + content[32]
    content[end : end + 4] = zlib.crc32(content[4:end]).to_bytes(4, "little")
    with pytest.raises(InputError, match="damaged"):  # the checksum also covers the magic number
        read_spt(io.BytesIO(content))
    content[end : end + 4] = zlib.crc32(content[:end]).to_bytes(4, "little")
    with pytest.raises(InputError, match="frames_per_packet is -1; expected 1 to 32767"):
        read_spt(io.BytesIO(content))
