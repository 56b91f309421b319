"""Reads the bytes of version 1, which is no longer written."""

import zlib
from typing import BinaryIO

from spectok.container.header import Header, Packet
from spectok.container.parts import Taken, unpack_codes
from spectok.errors import InputError

MIN_END = 6  # bytes of the shortest last packet
HAS_DIGEST = False
_LAST = 0x8000
_UNFINISHED = (1 << 64) - 1


def read_header(source: Taken) -> Header:
    """The header, after its magic number and version."""
    tokens, frames, size, rate = (source.number(count) for count in (1, 2, 4, 4))
    num_samples, weight_hash = source.number(8), source.take(8)
    name = source.take(source.number(1))
    checksum = zlib.crc32(source.raw)
    if source.number(4) != checksum:
        raise InputError("its header is damaged")
    if not name:
        raise InputError("its header names no model")
    known = None if num_samples == _UNFINISHED else num_samples
    frames = frames or -1  # 0 is not a number of frames, and would become the usual one
    return Header(name.decode("latin-1"), weight_hash.hex(), rate, size, tokens, frames, known, version=1)


def packet_bytes(header: Header) -> int:
    """Bytes of a full packet."""
    return 6 + header.payload_bytes(header.frames_per_packet)


def max_end(header: Header) -> int:
    """Bytes of the longest last packet: as many as a full one has, where bits are padded."""
    return packet_bytes(header)


def read_packet(stream: BinaryIO, header: Header, index: int) -> Packet:
    """Packet `index`, where the stream stands; InputError if it is another one, cut off or damaged."""
    what = f"its packet {index}"
    source = Taken(stream, what)
    checksum, mark = source.number(4), source.number(2)
    last, frames = bool(mark & _LAST), mark & ~_LAST
    if not (frames < header.frames_per_packet if last else frames == header.frames_per_packet):
        raise InputError(f"{what} is damaged or cut off")
    payload = source.take(header.payload_bytes(frames))
    seed = zlib.crc32((index & 0xFFFFFFFF).to_bytes(4, "little"))
    if checksum != zlib.crc32(source.raw[4:], seed):
        raise InputError(f"{what} is damaged or cut off")
    codes = unpack_codes(payload, frames * header.tokens_per_frame, header, what)
    start = index * header.frames_per_packet
    return Packet(start, frames, last, source.raw, lambda: codes, header.num_samples if last else None)
