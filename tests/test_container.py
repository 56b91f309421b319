import io
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from container_cases import TINY, TINY_CODES, TINY_HEX, from_bytes, headers, make_codes, quick, to_bytes
from hypothesis import given
from hypothesis import strategies as st
from streams import Pipe

from spectok.container import Header, Reader, Writer, read_spt, write_spt
from spectok.errors import InputError

# The bytes.


def test_golden_bytes() -> None:
    content = to_bytes(TINY, TINY_CODES)
    assert content.hex() == TINY_HEX.replace(" ", "")
    header, codes = from_bytes(content)
    assert header == TINY
    assert codes.dtype == np.int64
    assert codes.tolist() == TINY_CODES


def test_codes_are_packed_as_specified() -> None:
    content = to_bytes(TINY, TINY_CODES)
    word = sum(code << (10 * place) for place, code in enumerate(TINY_CODES[:4]))
    start = 37 + len(TINY.model)
    assert content[start + 6 : start + 11] == word.to_bytes(5, "little")
    assert content[start : start + 4] == zlib.crc32(bytes(4) + content[start + 4 : start + 11]).to_bytes(4, "little")
    sixteen = Header("tiny", "00" * 8, 16000, 65536, 1, 3, 1)
    assert to_bytes(sixteen, [1, 65535, 0x1234])[41 + 6 : 41 + 12] == bytes.fromhex("0100ffff3412")


@pytest.mark.parametrize(("size", "bits"), [(2, 1), (3, 2), (1000, 10), (1024, 10), (1025, 11), (65536, 16)])
def test_bits_per_code_is_ceil_log2_of_the_codebook_size(size: int, bits: int) -> None:
    header = replace(TINY, codebook_size=size, tokens_per_frame=1, frames_per_packet=80)
    assert header.bits_per_code == bits
    full, last = 6 + 80 * bits // 8, 6
    assert len(to_bytes(header, np.full(240, size - 1))) == 37 + 4 + 3 * full + last


def test_a_packet_has_six_bytes_more_than_its_codes() -> None:
    header = Header("spectok-16k-800x", "ab" * 8, 16000, 65536, 1, 50, 160_000)
    assert len(to_bytes(header, make_codes(header, 500))) == 53 + 10 * (100 + 6) + 6


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
    content[60] ^= 1  # in packet 0
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
    write_spt(sink, TINY, TINY_CODES)
    assert bytes(sink.written) == to_bytes(TINY, TINY_CODES)
    header, codes = read_spt(Pipe(bytes(sink.written)))
    assert (header, codes.tolist()) == (TINY, TINY_CODES)
    with pytest.raises(InputError, match="must be known at the start"):
        Writer(Pipe(), replace(TINY, num_samples=None))
    writer = Writer(Pipe(), TINY)
    writer.write(TINY_CODES)
    with pytest.raises(InputError, match="header says that num_samples is 900"):
        writer.close(901)


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


def test_an_append_that_fails_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "a.spt"
    write_spt(path, TINY, TINY_CODES)
    before = path.read_bytes()
    with pytest.raises(InputError, match="one is 1024"), Writer.append(path) as writer:
        writer.write([1024])
    assert path.read_bytes() == before  # nothing was written yet
    with pytest.raises(RuntimeError), Writer.append(path) as writer:
        writer.write([3, 4, 5])
        raise RuntimeError
    with pytest.raises(InputError, match="never finished"):
        read_spt(path)
    with Reader(path, recover=True) as reader:
        assert np.concatenate([packet.codes for packet in reader]).tolist() == [*TINY_CODES, 3, 4]
    with pytest.raises(InputError, match="never finished"):
        Writer.append(path)


# Arguments.


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model", "", "model is ''"),
        ("model", "../../etc", "model is"),
        ("model", "a" * 65, "1 to 64 letters"),
        ("model", "a\n", "model is"),
        ("model", None, "model is None"),
        ("weight_hash", "0123456789ABCDEF", "16 hexadecimal digits"),
        ("weight_hash", "00", "16 hexadecimal digits"),
        ("sample_rate", 999, "expected 1000 to 768000"),
        ("sample_rate", 16000.0, "sample_rate is 16000.0; expected a whole number"),
        ("codebook_size", 1, "codebook_size is 1; expected 2 to 16777216"),
        ("codebook_size", (1 << 24) + 1, "expected 2 to 16777216"),
        ("tokens_per_frame", 0, "expected 1 to 255"),
        ("tokens_per_frame", 256, "expected 1 to 255"),
        ("frames_per_packet", 0, "expected 1 to 32767"),
        ("frames_per_packet", 32768, "expected 1 to 32767"),
        ("num_samples", -1, "num_samples is -1"),
    ],
)
def test_header_fields_are_checked(field: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(TINY, **{field: value})


def test_header_limits_the_packet_size_and_accepts_numpy_integers() -> None:
    with pytest.raises(InputError, match="packets would be over 1048576 bytes"):
        replace(TINY, frames_per_packet=32767, tokens_per_frame=255)
    header = replace(TINY, num_samples=np.int64(900))
    assert header == TINY
    assert type(header.num_samples) is int


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([[1, 2]], r"shape \[1, 2\]"),
        ([0.5, 1.0], "type float64"),
        ([True, False], "type bool"),
        ([-1, 0], "one is -1"),
        (np.array([0, 2**63], np.uint64), "one is 9223372036854775808"),
        ([0, 1024], "from 0 to 1023, and one is 1024"),
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
