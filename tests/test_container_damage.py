import io
import os
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from container_cases import TINY, TINY_CODES, TINY_HEX, crafted, from_bytes, make_codes, quick, to_bytes
from hypothesis import given
from hypothesis import strategies as st

from spectok.container import Reader, Writer, read_spt, write_spt
from spectok.container.packets import pack_packet
from spectok.errors import InputError

# Damage.


def test_every_damaged_byte_is_detected() -> None:
    content = to_bytes(TINY, TINY_CODES)
    for place in range(len(content)):
        for flip in range(1, 256):
            damaged = bytearray(content)
            damaged[place] ^= flip
            with pytest.raises(InputError):
                from_bytes(bytes(damaged))


@pytest.mark.parametrize("num_frames", [0, 3, 4])
def test_every_truncation_and_addition_is_detected(num_frames: int) -> None:
    content = to_bytes(replace(TINY, num_samples=0), make_codes(TINY, num_frames))
    for length in range(len(content)):
        with pytest.raises(InputError):
            from_bytes(content[:length])
    for extra in (b"\0", b"x" * 6, content, bytes(40)):
        with pytest.raises(InputError):
            from_bytes(content + extra)


def test_packets_out_of_place_are_detected() -> None:
    content = to_bytes(TINY, make_codes(TINY, 6))
    start, size = 41, TINY.packet_bytes
    swapped = content[:start] + content[start + size : start + 2 * size] + content[start : start + size]
    with pytest.raises(InputError, match="its packet 0 is damaged"):
        from_bytes(swapped + content[start + 2 * size :])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"RIFF....WAVEfmt ", r"it is not a \.spt file"),
        (b"\xa5SPT\x02" + bytes(40), "format version 2, and this program reads version 1"),
        (bytes.fromhex(TINY_HEX)[:20], "cut off in its header"),
        (bytes.fromhex(TINY_HEX)[:40], "cut off in its header"),
        (bytes.fromhex(TINY_HEX)[:10] + b"\1" + bytes.fromhex(TINY_HEX)[11:], "its header is damaged"),
        (bytes.fromhex(TINY_HEX)[:-1], "its packet 1 is damaged or cut off"),
        (bytes.fromhex(TINY_HEX)[:52], "it is cut off, or other bytes follow its end"),
        (bytes.fromhex(TINY_HEX) + b"\0", "it is cut off, or other bytes follow its end"),
        (crafted(replace(TINY, num_samples=None)), "it was never finished"),
    ],
    ids=["empty", "magic", "version", "header", "name", "field", "packet", "no-last", "extra", "unfinished"],
)
def test_messages_name_the_error(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.spt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"^cannot read {path}: .*{message}"):
        read_spt(path)


def test_paths_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_spt(tmp_path / "none.spt")
    with pytest.raises(InputError, match="Is a directory"):
        read_spt(tmp_path)
    for place in (tmp_path, tmp_path / "none" / "a.spt"):
        with pytest.raises(InputError, match="cannot write"):
            write_spt(place, TINY, TINY_CODES)
        with pytest.raises(InputError, match="cannot write"):
            Writer(place, TINY)


def test_a_failed_write_keeps_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "a.spt"
    with pytest.raises(InputError):
        write_spt(path, TINY, [*TINY_CODES, 1024])
    assert os.listdir(tmp_path) == []
    write_spt(path, TINY, TINY_CODES)
    with pytest.raises(InputError, match=r"cannot finish .*a\.spt: 7 codes are not whole frames of 2"):
        write_spt(path, TINY, [*TINY_CODES, 1])
    assert os.listdir(tmp_path) == ["a.spt"]
    assert read_spt(path)[1].tolist() == TINY_CODES


# Recovery.


def recovered(content: bytes) -> tuple[dict[int, list[int]], list[range], bool]:
    with Reader(io.BytesIO(content), recover=True) as reader:
        return {packet.start_frame: packet.codes.tolist() for packet in reader}, reader.lost, reader.complete


def test_recovery_of_a_whole_file_finds_nothing_wrong() -> None:
    assert recovered(bytes.fromhex(TINY_HEX)) == ({0: [1, 1023, 512, 5], 2: [7, 700]}, [], True)


def test_recovery_skips_damaged_packets() -> None:
    codes = make_codes(TINY, 9)
    content = bytearray(to_bytes(TINY, codes))
    for packet in (1, 2, 4):
        content[41 + packet * 11 + 7] ^= 0x10
    with Reader(io.BytesIO(bytes(content)), recover=True) as reader:
        assert reader.lost == [range(2, 6), range(8, 9)]
        assert not reader.complete
        assert reader.header == TINY
        assert reader.num_codes == 18
        assert [packet.start_frame for packet in reader] == [0, 6]
        np.testing.assert_array_equal(reader.read(6, 2), codes[12:16])
        with pytest.raises(InputError, match="its packet 2 is damaged"):
            reader.read(5, 2)


def test_recovery_of_a_file_that_was_not_closed(tmp_path: Path) -> None:
    path = tmp_path / "live.spt"
    writer = Writer(path, replace(TINY, num_samples=None))
    writer.write(make_codes(TINY, 7))
    try:
        packets, lost, complete = recovered(path.read_bytes())  # while the file is being written
    finally:
        writer.__exit__(RuntimeError, None, None)
    assert packets == {start: make_codes(TINY, 7)[2 * start : 2 * start + 4].tolist() for start in (0, 2, 4)}
    assert (lost, complete) == ([], False)
    with pytest.raises(InputError, match="is closed"):
        writer.write([1])


def test_recovery_of_every_truncation_and_of_other_bytes_at_the_end() -> None:
    codes = make_codes(TINY, 7)
    content = to_bytes(TINY, codes)
    assert len(content) == 41 + 3 * 11 + 9
    for length in range(41, len(content)):
        packets, lost, complete = recovered(content[:length])
        whole, torn = divmod(length - 41, 11)
        assert packets == {2 * n: codes[4 * n : 4 * n + 4].tolist() for n in range(whole)}
        frames = [0] * 9 + [1, 1]  # of 20 bits, after 6 bytes of prefix
        assert lost == ([range(2 * whole, 2 * whole + frames[torn])] if frames[torn] else [])
        assert not complete
    packets, lost, complete = recovered(content + b"\0" * 30)
    assert (sorted(packets), lost, complete) == ([0, 2, 4, 6], [], True)


def test_recovery_needs_the_header() -> None:
    with pytest.raises(InputError, match="header is damaged"):
        Reader(io.BytesIO(bytes.fromhex("a553505401" + "00" * 60)), recover=True)


def test_recovery_drops_an_impossible_length() -> None:
    content = crafted(replace(TINY, num_samples=1 << 60), pack_packet(TINY, 0, np.array([1, 2]), True))
    with pytest.raises(InputError, match="1 frames of codes cannot hold"):
        from_bytes(content)
    with Reader(io.BytesIO(content), recover=True) as reader:
        assert reader.header == replace(TINY, num_samples=None)


# Hostile input.


@quick
@given(st.binary(max_size=200), st.sampled_from([0, 4, 5, 33, 41]), st.booleans(), st.booleans())
def test_random_bytes_raise_only_input_error(noise: bytes, kept: int, mend: bool, recover: bool) -> None:
    content = bytes.fromhex(TINY_HEX)[:kept] + noise
    if mend and len(content) > 33:  # a correct CRC, so that the fields and packets are parsed
        end = 33 + content[32]
        content = content[:end] + zlib.crc32(content[:end]).to_bytes(4, "little") + content[end + 4 :]
    try:
        with Reader(io.BytesIO(content), recover=recover) as reader:
            assert len(list(reader)) <= len(content)
            reader.read()
    except InputError as error:
        assert len(str(error)) < 400


@quick
@given(st.integers(0, 30), st.binary(min_size=1, max_size=12))
def test_hostile_fields_with_a_correct_crc(place: int, noise: bytes) -> None:
    content = bytearray(bytes.fromhex(TINY_HEX))
    noise = noise[: 32 - place]  # the name keeps its length
    content[5 + place : 5 + place + len(noise)] = noise
    content[32] = 4
    content[37:41] = zlib.crc32(bytes(content[:37])).to_bytes(4, "little")
    for recover in (False, True):
        try:
            with Reader(io.BytesIO(bytes(content)), recover=recover) as reader:
                assert reader.num_codes <= 8 * len(content)
                reader.read()
        except InputError as error:
            assert len(str(error)) < 400


def test_codes_outside_the_codebook_and_nonzero_padding_are_refused() -> None:
    header = replace(TINY, codebook_size=1000, num_samples=0)
    beyond = crafted(header, pack_packet(header, 0, np.array([999, 1000]), True))
    wide = replace(TINY, codebook_size=1 << 12)  # 24 bits in 3 bytes: as 20 bits, the upper 4 are padding
    padded = crafted(header, pack_packet(wide, 0, np.array([0, 0x800]), True))
    for content in (beyond, padded):
        with pytest.raises(InputError, match="not below the codebook size 1000"):
            from_bytes(content)


def test_a_last_packet_in_the_middle_is_refused() -> None:
    header = replace(TINY, tokens_per_frame=1, frames_per_packet=8, codebook_size=2, num_samples=0)
    seven = [pack_packet(header, index, np.ones(7, np.int64), True) for index in range(2)]
    with Reader(io.BytesIO(crafted(header, *seven))) as reader:
        with pytest.raises(InputError, match="packet 0 claims to be the last one"):
            reader.read()
        with pytest.raises(InputError, match="packet 0 claims to be the last one"):
            list(reader)
