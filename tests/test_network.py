"""Packets of a few frames for networks: their bytes, redundancy, and the jitter buffer."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import released
from numpy.typing import NDArray

from spectok.container import Header
from spectok.errors import InputError
from spectok.network import Depacketizer, Packetizer

SMALL = Header("", "0" * 16, 16000, 1024, 8)  # 80 bits a frame
LARGE = Header("", "0" * 16, 16000, 65536, 1)  # 16 bits a frame
ODD = Header("", "0" * 16, 16000, 1000, 3)  # 30 bits a frame
headers = pytest.mark.parametrize("header", [SMALL, LARGE, ODD], ids=["8 x 10 bits", "1 x 16 bits", "3 x 10 bits"])


def random_codes(header: Header, frames: int) -> NDArray[np.int64]:
    shape = (frames, header.tokens_per_frame)
    return np.random.default_rng(frames).integers(header.codebook_size, size=shape)


def packets_of(header: Header, codes: NDArray[np.int64], frames: int = 1, redundancy: int = 0) -> list[bytes]:
    packetizer = Packetizer(header, frames, redundancy)
    return [*packetizer.push(codes), *packetizer.flush()]


def test_a_packet_by_hand() -> None:
    assert packets_of(LARGE, np.array([0x1234])) == [bytes([0, 0x34, 0x12])]
    # 10 bits each, lowest first: 1 | 2 << 10 | 3 << 20 = 0x300801, and 2 zero bits.
    assert packets_of(ODD, np.array([1, 2, 3])) == [bytes([0, 0x01, 0x08, 0x30, 0x00])]
    first, second, third = packets_of(LARGE, np.array([7, 8, 9]), redundancy=1)
    assert (first, second, third) == (b"\0\7\0", b"\0\7\0\x08\0", b"\1\x08\0\x09\0")


@headers
@pytest.mark.parametrize(("frames", "redundancy"), [(1, 0), (1, 1), (3, 2), (6, 16)])
def test_what_is_sent_arrives_across_the_end_of_the_numbers(header: Header, frames: int, redundancy: int) -> None:
    codes, buffer = random_codes(header, 700), Depacketizer(header, delay=0)
    packetizer, played = Packetizer(header, frames, redundancy), []
    for chunk in np.split(codes, [1, 4, 9, 200, 333]):
        for packet in packetizer.push(chunk.reshape(-1)):
            buffer.push(packet)
            played.append(buffer.pull(frames))
    for packet in packetizer.flush():
        buffer.push(packet)
    played.append(buffer.pull(700 % frames))
    np.testing.assert_array_equal(np.concatenate([part.codes for part in played]), codes)
    assert not np.concatenate([part.lost for part in played]).any()
    assert (buffer.received, buffer.lost, buffer.late) == (700, 0, 0)


def test_sizes_are_a_byte_more_than_the_codes() -> None:
    for name, size in (("spectok-16k-4k", 10), ("spectok-16k-800", 2)):
        header = released(name).header(16000, None)
        assert {len(packet) for packet in packets_of(header, random_codes(header, 60), 1)} == {1 + size}
        assert {len(packet) for packet in packets_of(header, random_codes(header, 60), 6)} == {1 + 6 * size}


@headers
def test_order_and_repetition_do_not_matter_within_the_delay(header: Header) -> None:
    codes = random_codes(header, 40)
    packets = packets_of(header, codes)
    order = sorted(range(40), key=lambda n: n + 5 * (n % 3))  # late by up to 10 places
    buffer, played = Depacketizer(header, delay=12), []
    for number in order:
        buffer.push(packets[number])
        buffer.push(packets[number])
        played.append(buffer.pull())
    played.append(buffer.pull(12))
    found = np.concatenate([part.codes for part in played])
    lost = np.concatenate([part.lost for part in played])
    assert lost.tolist() == [True] * 12 + [False] * 40  # the delay
    np.testing.assert_array_equal(found[12:], codes)
    assert (buffer.received, buffer.lost, buffer.late) == (40, 0, 0)


@pytest.mark.parametrize(("redundancy", "lost"), [(0, [3, 4, 8]), (1, [3]), (2, [])])
def test_redundancy_restores_what_the_next_packet_repeats(redundancy: int, lost: list[int]) -> None:
    codes = random_codes(LARGE, 12)
    buffer = Depacketizer(LARGE, delay=2)
    for number, packet in enumerate(packets_of(LARGE, codes, redundancy=redundancy)):
        if number not in (3, 4, 8):
            buffer.push(packet)
    found = buffer.pull(14)
    assert np.flatnonzero(found.lost[2:]).tolist() == lost
    kept = ~found.lost[2:]
    np.testing.assert_array_equal(found.codes[2:][kept], codes[kept])
    assert (buffer.received, buffer.lost) == (12 - len(lost), len(lost))


def test_a_frame_that_arrives_too_late_is_lost_and_counted_once() -> None:
    packets = packets_of(LARGE, random_codes(LARGE, 5))
    buffer = Depacketizer(LARGE, delay=1)
    for number in (0, 1, 3):
        buffer.push(packets[number])
    assert buffer.pull(4).lost.tolist() == [True, False, False, True]
    for _ in range(2):
        buffer.push(packets[2])
    assert (buffer.received, buffer.lost, buffer.late) == (2, 1, 1)
    assert buffer.pull(1).lost.tolist() == [False]
    assert buffer.pull(0).codes.shape == (0, 1)


def test_an_endless_stream_with_loss_needs_no_more_memory() -> None:
    """Every tenth frame of 20 s is lost; those of the last 2.56 s are remembered, because they may still arrive."""
    packetizer, buffer = Packetizer(LARGE), Depacketizer(LARGE, delay=0)
    for number, frame in enumerate(random_codes(LARGE, 1000)):
        (packet,) = packetizer.push(frame)
        if number % 10 != 5:
            buffer.push(packet)
        buffer.pull()
    assert (buffer.received, buffer.lost, buffer.late) == (900, 100, 0)
    assert len(buffer._missed) == 13 and not buffer._frames


def test_before_the_first_packet_there_is_nothing_to_play() -> None:
    buffer = Depacketizer(SMALL)
    assert buffer.pull(5).codes.shape == (0, 8)
    buffer.push(packets_of(SMALL, random_codes(SMALL, 1))[0])
    assert buffer.pull(5).lost.tolist() == [True, True, True, False, True]


def test_a_stream_may_be_joined_at_any_frame() -> None:
    packets = packets_of(LARGE, random_codes(LARGE, 400))
    buffer = Depacketizer(LARGE, delay=0)
    for packet in packets[300:]:
        buffer.push(packet)
    found = buffer.pull(100)
    assert not found.lost.any()
    np.testing.assert_array_equal(found.codes, random_codes(LARGE, 400)[300:])


@headers
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.binary(max_size=40))
def test_any_bytes_are_a_packet_or_refused(header: Header, content: bytes) -> None:
    buffer = Depacketizer(header, delay=0)
    try:
        buffer.push(content)
    except InputError:
        assert buffer.pull(3).codes.shape == (0, header.tokens_per_frame)
    else:
        found = buffer.pull(22)
        assert found.codes.max() < header.codebook_size
        again = packets_of(header, found.codes[~found.lost], 1, 0)
        assert sum(len(packet) - 1 for packet in again) >= len(content) - 1


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: Packetizer(LARGE, frames=7), "^frames is 7, but must be from 1 to 6$"),
        (lambda: Packetizer(LARGE, redundancy=17), "^redundancy is 17, but must be from 0 to 16$"),
        (lambda: Packetizer(SMALL).push(np.zeros(9, np.int64)), "^the codes end within a frame of 8: there are 9$"),
        (lambda: Packetizer(LARGE).push(np.array([65536])), "^codes must be from 0 to 65535, but code 0 is 65536$"),
        (lambda: Packetizer(LARGE).push(np.array([0.9])), "^codes must be integers, not float64$"),
        (lambda: Depacketizer(LARGE, delay=101), "^delay is 101, but must be from 0 to 100 frames$"),
        (lambda: Depacketizer(LARGE).push(b""), "^0 bytes are no packet of this codec$"),
        (lambda: Depacketizer(LARGE).push(b"\0\0"), "^2 bytes are no packet of this codec$"),
        (lambda: Depacketizer(ODD).push(b"\0\1\0\0\xc0"), "^the packet has codes that are not below the codebook size"),
        (lambda: Depacketizer(LARGE).pull(-1), "^frames is -1, but must not be negative$"),
        (lambda: Packetizer(Header("", "0" * 16, 16000, 64, 1)), "^a frame of this codec has 6 bits; packets need at"),
    ],
)
def test_what_does_not_fit_is_refused(call: Callable[[], object], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        call()


def deliver(packets: Sequence[bytes], lost: NDArray[np.bool_], header: Header) -> NDArray[np.bool_]:
    buffer = Depacketizer(header, delay=1)
    for packet, is_lost in zip(packets, lost, strict=True):
        if not is_lost:
            buffer.push(packet)
    return buffer.pull(len(packets) + 1).lost[1:]


def test_with_one_repeat_a_frame_is_lost_only_with_two_packets() -> None:
    """At 20 % of random loss."""
    rng = np.random.default_rng(0)
    lost = rng.random(100) < 0.2
    lost[0] = False
    codes = random_codes(LARGE, 100)
    plain = deliver(packets_of(LARGE, codes), lost, LARGE)
    np.testing.assert_array_equal(plain, lost)
    repeated = deliver(packets_of(LARGE, codes, redundancy=1), lost, LARGE)
    np.testing.assert_array_equal(repeated[:-1], lost[:-1] & lost[1:])
