"""The bytes of version 2, as the package's documentation specifies them."""

import hashlib
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from spectok.container.header import Header, Packet
from spectok.container.parts import Taken, pack_codes, unpack_codes, varint
from spectok.errors import InputError

MAGIC = b"\xa5SPT"
DIGEST_BYTES = 4
MIN_END = 6 + DIGEST_BYTES  # bytes of the shortest last packet
HAS_DIGEST = True
_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 176400, 192000)
_MAX_VARINT = 9


def pack_header(header: Header) -> bytes:
    """The header's bytes; its stream id must be known."""
    body = pack_fields(header)
    return body + zlib.crc32(body).to_bytes(4, "little")


def pack_fields(header: Header) -> bytes:
    """The header up to the model's name."""
    assert header.stream_id is not None
    size, rate, name = header.codebook_size, header.sample_rate, header.model.encode("ascii")
    return b"".join(
        (
            MAGIC,
            bytes([header.version]),
            bytes.fromhex(header.weight_hash),
            bytes.fromhex(header.stream_id),
            bytes([header.tokens_per_frame]),
            bytes([header.bits_per_code]) if size == 1 << header.bits_per_code else b"\0" + size.to_bytes(3, "little"),
            bytes([_RATES.index(rate) + 1]) if rate in _RATES else b"\0" + rate.to_bytes(3, "little"),
            varint(header.frames_per_packet),
            bytes([len(name)]),
            name,
        )
    )


def read_header(source: Taken) -> Header:
    """The header, after its magic number and version."""
    fields = read_fields(source)
    check_header(source)
    header = Header(**fields)
    if pack_header(header) != source.raw:
        raise InputError("its header is not in its shortest form")
    return header


def read_fields(source: Taken) -> dict[str, Any]:
    """The fields of the header up to the model's name, as `Header` takes them."""
    weight_hash, stream_id, tokens = source.take(8), source.take(4), source.number(1)
    bits = source.number(1)
    size = 1 << bits if bits else source.number(3)
    rate = source.number(1)
    rate = _RATES[rate - 1] if 0 < rate <= len(_RATES) else 0 if rate else source.number(3)
    frames = source.varint()
    name = source.take(source.number(1)).decode("latin-1")
    return {
        "model": name,
        "weight_hash": weight_hash.hex(),
        "sample_rate": rate,
        "codebook_size": size,
        "tokens_per_frame": tokens,
        "frames_per_packet": frames or -1,  # 0 is not a number of frames, and would become the usual one
        "stream_id": stream_id.hex(),
    }


def check_header(source: Taken) -> None:
    """Read the checksum at the end of the header; InputError if it is another one."""
    checksum = zlib.crc32(source.raw)
    if source.number(4) != checksum:
        raise InputError("its header is damaged")


def packet_bytes(header: Header) -> int:
    """Bytes of a full packet."""
    frames = header.frames_per_packet
    return 4 + len(varint(frames)) + header.payload_bytes(frames)


def max_end(header: Header) -> int:
    """Bytes of the longest last packet."""
    return packet_bytes(header) + _MAX_VARINT + DIGEST_BYTES


def pack_packet(header: Header, index: int, codes: np.ndarray, num_samples: int | None = None) -> bytes:
    """A packet without its digest.

    Args:
        header: of the file.
        index: number of the packet.
        codes: int64 `[num_frames * tokens_per_frame]`, checked before.
        num_samples: of the whole recording, for the last packet; None for all others.
    """
    body = varint(len(codes) // header.tokens_per_frame) + (b"" if num_samples is None else varint(num_samples))
    body += pack_codes(codes, header.bits_per_code)
    return checksum_of(header, index, body).to_bytes(4, "little") + body


class Packer:
    """Makes packets of the codes of successive frames.

    Args:
        header: of the file.

    Attributes:
        num_frames: the number of frames so far.
    """

    def __init__(self, header: Header) -> None:
        self.header, self.num_frames, self._num_packets = header, 0, 0
        self._pending = np.zeros(0, np.int64)

    def add(self, codes: np.ndarray) -> Iterator[bytes]:
        """Add the codes of whole frames, int64 `[n]`, and yield the packets that are full."""
        self.num_frames += len(codes) // self.header.tokens_per_frame
        self._pending = np.concatenate([self._pending, codes])
        full = self.header.frames_per_packet * self.header.tokens_per_frame
        place = 0
        while len(self._pending) - place >= full:
            yield pack_packet(self.header, self._num_packets, self._pending[place : place + full])
            self._num_packets += 1
            place += full
        self._pending = self._pending[place:]

    def last(self, num_samples: int) -> bytes:
        """The last packet without its digest, for a recording of so many samples."""
        return pack_packet(self.header, self._num_packets, self._pending, num_samples)


def checksum_of(header: Header, index: int, body: bytes) -> int:
    """The checksum of a packet, whose bytes after it are `body`."""
    assert header.stream_id is not None
    return zlib.crc32(body, zlib.crc32(bytes.fromhex(header.stream_id) + (index & 0xFFFFFFFF).to_bytes(4, "little")))


def digest_of(hashed: "hashlib._Hash") -> bytes:
    """The digest of a file, from a SHA-256 that has been updated with all bytes before it."""
    return hashed.digest()[:DIGEST_BYTES]


def read_packet(stream: BinaryIO, header: Header, index: int) -> Packet:
    """Packet `index`, where the stream stands; InputError if it is another one, cut off or damaged.

    The digest at the end of the last packet is read and not compared.
    """
    what = f"its packet {index}"
    source = Taken(stream, what)
    checksum, frames = source.number(4), source.varint()
    if frames > header.frames_per_packet:
        raise InputError(f"{what} is damaged or cut off")
    last = frames < header.frames_per_packet
    num_samples = source.varint() if last else None
    payload = source.take(header.payload_bytes(frames))
    if checksum != checksum_of(header, index, source.raw[4:]):
        raise InputError(f"{what} is damaged or cut off")
    if last:
        source.take(DIGEST_BYTES)
    codes = unpack_codes(payload, frames * header.tokens_per_frame, header, what)
    return Packet(index * header.frames_per_packet, frames, last, source.raw, lambda: codes, num_samples)
