import hashlib
import io
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from container_cases import (
    TINY,
    TINY1_HEX,
    TINY_CODES,
    TINY_END,
    TINY_HEAD,
    TINY_HEX,
    TINY_PACKET,
    crafted,
    from_bytes,
    make_codes,
    quick,
    to_bytes,
    with_true_crc,
)
from hypothesis import given
from hypothesis import strategies as st

from spectok.container import Header, Reader, Writer, read_spt, write_spt
from spectok.container.version2 import pack_packet, packet_bytes
from spectok.errors import InputError

# Damage.


@pytest.mark.parametrize("content", [TINY_HEX, TINY1_HEX], ids=["version 2", "version 1"])
def test_every_damaged_byte_is_detected(content: str | bytes) -> None:
    content = bytes.fromhex(str(content))
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
    start, size = TINY_HEAD, TINY_PACKET
    swapped = content[:start] + content[start + size : start + 2 * size] + content[start : start + size]
    with pytest.raises(InputError, match="its packet 0 is damaged"):
        from_bytes(swapped + content[start + 2 * size :])


def test_packets_of_another_file_are_detected() -> None:
    """Of 533 packets, none passes in a file with the same header but for its stream id, and the same place."""
    codes = make_codes(TINY, 2 * 533)
    ours, other = (to_bytes(replace(TINY, stream_id=name), codes) for name in ("a1b2c3d4", "a1b2c3d5"))
    for packet in range(533):
        start = TINY_HEAD + packet * TINY_PACKET
        mixed = ours[:start] + other[start : start + TINY_PACKET] + ours[start + TINY_PACKET :]
        with pytest.raises(InputError, match=f"its packet {packet} is damaged"):
            from_bytes(mixed)


def test_the_digest_finds_packets_of_another_version_of_the_file() -> None:
    """With the same stream id and the right place every checksum is right, but the file is not what was written."""
    ours, other = (to_bytes(TINY, make_codes(TINY, 7, seed)) for seed in (0, 1))
    mixed = ours[:TINY_HEAD] + other[TINY_HEAD : TINY_HEAD + TINY_PACKET] + ours[TINY_HEAD + TINY_PACKET :]
    with pytest.raises(InputError, match="the digest at its end is not that of the file"):
        from_bytes(mixed)
    with (
        Reader(io.BytesIO(mixed)) as reader,
        pytest.raises(InputError, match="the digest at its end is not that of the file"),
    ):
        list(reader)
    with Reader(io.BytesIO(mixed), recover=True) as reader:
        assert (reader.lost, reader.faults) == ([], ["the digest at its end is not that of the file"])
        assert reader.has_end and not reader.complete


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"RIFF....WAVEfmt ", r"it is not a \.spt file"),
        (b"\xa5SPT\x09" + bytes(40), "format version 9, and this program reads versions 1 to 3"),
        (bytes.fromhex(TINY_HEX)[:4], "its header is damaged or cut off"),
        (bytes.fromhex(TINY_HEX)[:20], "its header is damaged or cut off"),
        (bytes.fromhex(TINY_HEX)[:28], "its header is damaged or cut off"),
        (bytes.fromhex(TINY_HEX)[:10] + b"\1" + bytes.fromhex(TINY_HEX)[11:], "its header is damaged"),
        (bytes.fromhex(TINY_HEX)[:-1], "its packet 1 is damaged or cut off"),
        (bytes.fromhex(TINY_HEX)[: TINY_HEAD + TINY_PACKET], "it is cut off, or was never finished"),
        (bytes.fromhex(TINY_HEX)[:TINY_HEAD], "it is cut off, or was never finished"),
        (bytes.fromhex(TINY_HEX) + b"\0", "other bytes follow its end"),
        (bytes.fromhex(TINY1_HEX)[:40], "its header is damaged or cut off"),
        (bytes.fromhex(TINY1_HEX)[:-1], "its packet 1 is damaged or cut off"),
        (bytes.fromhex(TINY1_HEX)[:52], "it is cut off, or was never finished"),
    ],
    ids=[
        *("empty", "magic", "version", "start", "header", "crc", "field", "packet", "no-last", "no-packet", "extra"),
        *("header-1", "packet-1", "no-last-1"),
    ],
)
def test_messages_name_the_error(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.spt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"^cannot read {path}: .*{message}"):
        read_spt(path)
    with pytest.raises(InputError, match=rf"^cannot read {path}: "):
        Reader(path)


@pytest.mark.parametrize("version", [1, 2])
def test_a_file_that_claims_a_sample_rate_over_192_khz_is_refused(version: int) -> None:
    """The sample rate of the original multiplies the samples that a decoder makes of a small file."""
    for rate in (191_999, 192_001, 768_000):
        field = rate.to_bytes(3, "little")
        if version == 1:
            content = bytes.fromhex(TINY1_HEX)
            content = with_true_crc(content[:12] + field + content[15:], 37)
        else:
            content = bytes.fromhex(TINY_HEX)
            content = with_true_crc(content[:19] + b"\0" + field + content[20:], 29)
            content = content[:-4] + hashlib.sha256(content[:-4]).digest()[:4]
        if rate <= 192_000:
            assert from_bytes(content)[0].sample_rate == rate
            continue
        with pytest.raises(InputError, match=f"sample_rate is {rate}; expected 1000 to 192000"):
            from_bytes(content)


def test_a_header_with_a_long_name_or_none_is_refused_in_one_short_sentence() -> None:
    content = bytes.fromhex(TINY_HEX)
    long = with_true_crc(content[:21] + b"\xff" + bytes(255) + bytes(4) + content[30:], 22 + 255)
    with pytest.raises(InputError, match=r"model is '.{60,80}; a name is up to 64 letters"):
        from_bytes(long)
    old = bytes.fromhex(TINY1_HEX)
    with pytest.raises(InputError, match="its header names no model"):
        from_bytes(with_true_crc(old[:32] + bytes(1) + bytes(4) + old[41:], 33))


def test_an_unfinished_file_of_version_1_is_refused() -> None:
    content = bytes.fromhex(TINY1_HEX)
    marked = with_true_crc(content[:16] + b"\xff" * 8 + content[24:], 37)
    with pytest.raises(InputError, match="was never finished"):
        from_bytes(marked)
    assert recovered(marked) == ({0: TINY_CODES[:4], 2: TINY_CODES[4:]}, [], False)


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


@pytest.mark.parametrize("content", [TINY_HEX, TINY1_HEX], ids=["version 2", "version 1"])
def test_recovery_of_a_whole_file_finds_nothing_wrong(content: str) -> None:
    assert recovered(bytes.fromhex(content)) == ({0: [1, 1023, 512, 5], 2: [7, 700]}, [], True)


def test_recovery_skips_damaged_packets() -> None:
    codes = make_codes(TINY, 9)
    content = bytearray(to_bytes(TINY, codes))
    for packet in (1, 2):
        content[TINY_HEAD + packet * TINY_PACKET + 7] ^= 0x10
    with Reader(io.BytesIO(bytes(content)), recover=True) as reader:
        assert reader.damaged == [1, 2]
        assert reader.lost == [range(2, 6)]
        assert reader.faults == []
        assert reader.has_end and not reader.complete
        assert reader.header == TINY
        assert reader.num_codes == 18
        assert [packet.start_frame for packet in reader] == [0, 6, 8]
        np.testing.assert_array_equal(reader.read(6, 3), codes[12:])
        with pytest.raises(InputError, match="its packet 2 is damaged"):
            reader.read(5, 2)


def test_recovery_verifies_the_last_packet_by_itself() -> None:
    """Its own checksum holds although the digest cannot; and without it the length is not known."""
    codes = make_codes(TINY, 9)
    content = bytearray(to_bytes(TINY, codes))
    content[TINY_HEAD + 7] ^= 1
    with Reader(io.BytesIO(bytes(content)), recover=True) as reader:
        assert (reader.damaged, reader.faults, reader.header.num_samples) == ([0], [], 900)
    content[-6] ^= 1
    with Reader(io.BytesIO(bytes(content)), recover=True) as reader:
        assert reader.damaged[:2] == [0, 4]
        assert reader.faults == ["it is cut off, or was never finished"]
        assert (reader.header.num_samples, reader.has_end) == (None, False)
        assert [packet.start_frame for packet in reader] == [2, 4, 6]


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
    assert len(content) == TINY_HEAD + 3 * TINY_PACKET + TINY_END
    for length in range(TINY_HEAD, len(content)):
        packets, lost, complete = recovered(content[:length])
        whole, torn = divmod(length - TINY_HEAD, TINY_PACKET)
        whole = min(whole, 3)
        assert packets == {2 * n: codes[4 * n : 4 * n + 4].tolist() for n in range(whole)}
        frames = [0] * 8 + [1, 1] if length < TINY_HEAD + 4 * TINY_PACKET else [2] * 4  # of 20 bits, after 5 bytes
        assert lost == ([range(2 * whole, 2 * whole + frames[torn])] if frames[torn] else [])
        assert not complete
    with Reader(io.BytesIO(content + b"\0" * 30), recover=True) as reader:
        assert (reader.num_frames, reader.lost, reader.faults) == (7, [], ["other bytes follow its end"])


def test_recovery_needs_the_header() -> None:
    with pytest.raises(InputError, match="header is damaged"):
        Reader(io.BytesIO(bytes.fromhex("a553505402" + "01" * 60)), recover=True)


def test_a_length_that_cannot_be_is_dropped_in_recovery() -> None:
    body = crafted(TINY, pack_packet(TINY, 0, np.array([1, 2]), 1 << 60))
    content = body + hashlib.sha256(body).digest()[:4]
    with pytest.raises(InputError, match="1 frames of codes cannot hold"):
        from_bytes(content)
    with Reader(io.BytesIO(content), recover=True) as reader:
        assert reader.header == replace(TINY, num_samples=None)
        assert not reader.has_end


# Writers that are killed.

WRITER = """
import sys
import numpy as np
from spectok.container import Header, Writer
codes = np.random.default_rng(0).integers(0, 1024, 4_000_000)
writer = (
    Writer.append(sys.argv[1])
    if sys.argv[2] == "append"
    else Writer(sys.argv[1], Header("tiny", "0123456789abcdef", 16000, 1024, 2, 2))
)
progress = open(sys.argv[3], "wb", buffering=0)
print("ready", flush=True)
for start in range(0, len(codes), 6):
    writer.write(codes[start : start + 6])
    progress.write(b".")
writer.close(900)
"""


def kill_a_writer(path: Path, how: str, seconds: float) -> int:
    """Start a process that writes one packet after another, and end it with SIGKILL.

    Returns how many calls of `write` have returned, of 6 codes each, which are one and a half packets.
    """
    progress = path.parent.with_suffix(".progress")
    command = [sys.executable, "-c", WRITER, str(path), how, str(progress)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        time.sleep(seconds)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    return progress.stat().st_size


@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.05])
def test_a_writer_that_is_killed_loses_no_full_packet(tmp_path: Path, seconds: float) -> None:
    path = tmp_path / "live.spt"
    done = kill_a_writer(path, "write", seconds)
    codes = np.random.default_rng(0).integers(0, 1024, 4_000_000)
    size = path.stat().st_size
    with Reader(path, recover=True) as reader:
        packets = list(reader)
        assert len(packets) == (size - TINY_HEAD) // TINY_PACKET
    assert len(packets) >= 3 * done // 2
    read = np.concatenate([np.zeros(0, int), *(packet.codes for packet in packets)])
    np.testing.assert_array_equal(read, codes[: len(read)])


@pytest.mark.parametrize("seconds", [0.0, 0.05])
def test_an_append_that_is_killed_leaves_the_file_and_the_next_one_clears_up(tmp_path: Path, seconds: float) -> None:
    path = tmp_path / "a.spt"
    write_spt(path, TINY, TINY_CODES)
    before = path.read_bytes()
    kill_a_writer(path, "append", seconds)
    assert path.read_bytes() == before
    assert len(os.listdir(tmp_path)) == 2
    code = f"from spectok.container import Writer\nwith Writer.append({str(path)!r}) as w: w.close(900)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert os.listdir(tmp_path) == ["a.spt"]
    assert path.read_bytes() == before


# Hostile input.


@quick
@given(st.binary(max_size=200), st.sampled_from([0, 4, 5, 21, 26, 30, 33, 41]), st.booleans(), st.booleans())
def test_random_bytes_raise_nothing_but_input_error(noise: bytes, kept: int, mend: bool, recover: bool) -> None:
    for whole, place in ((TINY_HEX, 21), (TINY1_HEX, 32)):
        content = bytes.fromhex(whole)[:kept] + noise
        if mend and len(content) > place:  # a true CRC, so that the noise reaches the fields and the packets
            content = with_true_crc(content, place + 1 + content[place])
        try:
            with Reader(io.BytesIO(content), recover=recover) as reader:
                assert len(list(reader)) <= len(content)
                reader.read()
        except InputError as error:
            assert len(str(error)) < 400


@quick
@given(st.integers(0, 20), st.binary(min_size=1, max_size=12))
def test_hostile_fields_behind_a_true_crc(place: int, noise: bytes) -> None:
    for whole, name_at in ((TINY_HEX, 21), (TINY1_HEX, 32)):
        content = bytearray(bytes.fromhex(whole))
        changed = noise[: max(0, name_at - 5 - place)]  # the name keeps its length
        content[5 + place : 5 + place + len(changed)] = changed
        content = bytearray(with_true_crc(bytes(content), name_at + 5))
        for recover in (False, True):
            try:
                with Reader(io.BytesIO(bytes(content)), recover=recover) as reader:
                    assert reader.num_codes <= 8 * len(content)
                    reader.read()
            except InputError as error:
                assert len(str(error)) < 400


def finished(header: Header, *packets: bytes) -> bytes:
    """A file of these packets, the last of which has no digest yet."""
    body = crafted(header, *packets)
    return body + hashlib.sha256(body).digest()[:4]


def test_codes_past_the_codebook_and_set_padding_are_refused() -> None:
    header = replace(TINY, codebook_size=1000)
    beyond = finished(header, pack_packet(header, 0, np.array([999, 1000]), 0))
    wide = replace(TINY, codebook_size=1 << 12)  # 24 bits in 3 bytes: as 20 bits, the upper 4 are padding
    padded = finished(header, pack_packet(wide, 0, np.array([0, 0x800]), 0))
    for content in (beyond, padded):
        with pytest.raises(InputError, match="not below the codebook size 1000"):
            from_bytes(content)


@pytest.mark.parametrize(
    ("place", "longer"),
    [(18, "00 000400"), (19, "00 803e00"), (20, "8200"), (20, "8280808080808080808000")],
    ids=["codebook size", "sample rate", "varint", "long varint"],
)
def test_only_the_shortest_form_of_a_header_is_read(place: int, longer: str) -> None:
    content = bytes.fromhex(TINY_HEX)
    header = content[:place] + bytes.fromhex(longer) + content[place + 1 : TINY_HEAD]
    with pytest.raises(InputError, match="its header is "):
        from_bytes(with_true_crc(header, len(header) - 4) + content[TINY_HEAD:])


def test_a_last_packet_in_the_middle_is_refused() -> None:
    header = replace(TINY, tokens_per_frame=1, frames_per_packet=80, codebook_size=2)
    early = pack_packet(header, 0, np.ones(16, np.int64), 0) + b"1234"
    early += bytes(packet_bytes(header) - len(early))
    content = finished(header, early, pack_packet(header, 1, np.ones(7, np.int64), 0))
    with Reader(io.BytesIO(content)) as reader:
        with pytest.raises(InputError, match="packet 0 claims to be the last one"):
            reader.read()
        with pytest.raises(InputError, match="the digest"):
            list(reader)
