"""Converts the header and the packets of a `.spt` file to bytes and back, as specified in `writer.py`."""

import re
import struct
import zlib
from dataclasses import dataclass
from operator import index as as_int
from typing import BinaryIO, NamedTuple

import numpy as np

from spectok.errors import InputError
from spectok.files import MAX_SAMPLE_RATE, MIN_SAMPLE_RATE

MAGIC = b"\xa5SPT"
VERSION = 1
MAX_PAYLOAD = 1 << 20  # bytes of a packet: limits the memory that a hostile header can make a reader allocate
UNFINISHED = (1 << 64) - 1

_FIXED = struct.Struct("<4sBBHIIQ8sB")
_PREFIX = struct.Struct("<IH")
_LAST = 0x8000
_LIMITS = {
    "sample_rate": (MIN_SAMPLE_RATE, MAX_SAMPLE_RATE),
    "codebook_size": (2, 1 << 24),
    "tokens_per_frame": (1, 255),
    "frames_per_packet": (1, _LAST - 1),
    "num_samples": (0, (1 << 62) - 1),
}


@dataclass(frozen=True)
class Header:
    """The header of a `.spt` file: which model wrote the codes, their layout, and the original audio.

    Raises:
        InputError: a field is out of range.
    """

    model: str  # the name of the model that wrote the codes
    weight_hash: str  # 16 hex digits: the first 8 bytes of the SHA-256 of its model.safetensors
    sample_rate: int  # of the original audio, Hz
    codebook_size: int
    tokens_per_frame: int
    frames_per_packet: int = 50
    num_samples: int | None = None  # of the original audio; None while it is not known

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", self.model):
            raise InputError(f"model is {self.model!r}; a name is 1 to 64 letters, digits, '.', '_' or '-'")
        if not isinstance(self.weight_hash, str) or not re.fullmatch(r"[0-9a-f]{16}", self.weight_hash):
            raise InputError(f"weight_hash is {self.weight_hash!r}; expected 16 hexadecimal digits in lower case")
        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name)
            if value is None and name == "num_samples":
                continue
            try:
                object.__setattr__(self, name, as_int(value))  # a numpy integer becomes an int
            except TypeError as error:
                raise InputError(f"{name} is {value!r}; expected a whole number") from error
            if not low <= value <= high:
                raise InputError(f"{name} is {value}; expected {low} to {high}")
        if self.payload_bytes(self.frames_per_packet) > MAX_PAYLOAD:
            raise InputError(
                f"frames_per_packet is {self.frames_per_packet}; packets would be over {MAX_PAYLOAD} bytes"
            )

    @property
    def bits_per_code(self) -> int:
        """Bits per code: ceil(log2(codebook_size))."""
        return (self.codebook_size - 1).bit_length()

    @property
    def packet_bytes(self) -> int:
        """Bytes of a full packet."""
        return _PREFIX.size + self.payload_bytes(self.frames_per_packet)

    def payload_bytes(self, num_frames: int) -> int:
        """Size in bytes of the codes of `num_frames` frames in one packet."""
        return (num_frames * self.tokens_per_frame * self.bits_per_code + 7) // 8

    def frames_that_fit(self, num_bytes: int) -> int:
        """The largest number of frames that a packet of at most `num_bytes` bytes can hold."""
        frames = (num_bytes - _PREFIX.size) * 8 // (self.tokens_per_frame * self.bits_per_code)
        return min(self.frames_per_packet, max(0, frames))

    def check_length(self, num_frames: int) -> None:
        """Raise InputError if num_samples is more than `num_frames` frames can hold: a frame lasts at most 1 s."""
        if self.num_samples is not None and self.num_samples > num_frames * self.sample_rate:
            raise InputError(f"num_samples is {self.num_samples}, which {num_frames} frames of codes cannot hold")


def pack_header(header: Header) -> bytes:
    """The header's bytes, CRC included."""
    name = header.model.encode("ascii")
    fields = (header.tokens_per_frame, header.frames_per_packet, header.codebook_size, header.sample_rate)
    num_samples = UNFINISHED if header.num_samples is None else header.num_samples
    fixed = _FIXED.pack(MAGIC, VERSION, *fields, num_samples, bytes.fromhex(header.weight_hash), len(name))
    return fixed + name + zlib.crc32(fixed + name).to_bytes(4, "little")


def read_header(stream: BinaryIO) -> Header:
    """Read a header and leave the stream at the header's end; InputError if the bytes are not a valid header."""
    fixed = stream.read(_FIXED.size)
    if not fixed:
        raise InputError("it is empty")
    if fixed[:4] != MAGIC:
        raise InputError("it is not a .spt file")
    if len(fixed) > 4 and fixed[4] != VERSION:
        raise InputError(f"it has format version {fixed[4]}, and this program reads version {VERSION}")
    rest = stream.read(fixed[-1] + 4) if len(fixed) == _FIXED.size else b""
    if not rest or len(rest) < fixed[-1] + 4:
        raise InputError("it is cut off in its header")
    if zlib.crc32(fixed + rest[:-4]) != int.from_bytes(rest[-4:], "little"):
        raise InputError("its header is damaged")
    _, _, tokens, frames, size, rate, num_samples, weight_hash, _ = _FIXED.unpack(fixed)
    model, known = rest[:-4].decode("latin-1"), None if num_samples == UNFINISHED else num_samples
    return Header(model, weight_hash.hex(), rate, size, tokens, frames, known)


def pack_packet(header: Header, index: int, codes: np.ndarray, last: bool) -> bytes:
    """The bytes of packet `index`, which holds `codes`: int64 `[num_frames * tokens_per_frame]`, checked before."""
    bits = codes[:, None] >> np.arange(header.bits_per_code) & 1  # [N, bits_per_code]
    mark = len(codes) // header.tokens_per_frame | (_LAST if last else 0)
    body = mark.to_bytes(2, "little") + np.packbits(bits.astype(np.uint8).ravel(), bitorder="little").tobytes()
    return _checksum(index, body).to_bytes(4, "little") + body


def _checksum(index: int, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32((index & 0xFFFFFFFF).to_bytes(4, "little")))


class Packet(NamedTuple):
    """The codes of successive frames."""

    start_frame: int  # number of the first frame
    codes: np.ndarray  # int64 `[num_frames * tokens_per_frame]`
    last: bool  # whether this is the last packet of the file
    size: int  # bytes in the file


def unpack_packet(header: Header, index: int, data: bytes) -> Packet:
    """The packet at the start of `data`; InputError if it is not packet `index` or is cut off or damaged."""
    if len(data) < _PREFIX.size:
        raise InputError(f"it is cut off in packet {index}")
    checksum, mark = _PREFIX.unpack_from(data)
    last, frames = bool(mark & _LAST), mark & ~_LAST
    size = _PREFIX.size + header.payload_bytes(frames)
    fits = frames < header.frames_per_packet if last else frames == header.frames_per_packet
    if not fits or size > len(data) or checksum != _checksum(index, data[4:size]):
        raise InputError(f"its packet {index} is damaged or cut off")
    count, width = frames * header.tokens_per_frame, header.bits_per_code
    bits = np.unpackbits(np.frombuffer(data, np.uint8)[_PREFIX.size : size], bitorder="little")
    codes = bits[: count * width].reshape(count, width) @ (1 << np.arange(width))
    if bits[count * width :].any() or (count and codes.max() >= header.codebook_size):
        raise InputError(f"its packet {index} has codes that are not below the codebook size {header.codebook_size}")
    return Packet(index * header.frames_per_packet, codes, last, size)
