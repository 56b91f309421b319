"""The parts that the bytes of a `.spt` file are made of: integers, varints, and codes as a string of bits."""

from typing import BinaryIO

import numpy as np

from spectok.container.header import Header
from spectok.errors import InputError

UNFINISHED = "it is cut off, or was never finished"


class Taken:
    """Bytes read from a stream, exactly as many as asked for, and kept.

    Args:
        stream: it need not seek.
        what: the part of the file that is read, for messages.
    """

    def __init__(self, stream: BinaryIO, what: str) -> None:
        self._stream, self._what = stream, what
        self.raw = b""

    def take(self, count: int) -> bytes:
        """The next `count` bytes; InputError if the stream ends before."""
        pieces, missing = [], count
        while missing and (piece := self._stream.read(missing)):
            pieces.append(piece)
            missing -= len(piece)
        data = b"".join(pieces)
        self.raw += data
        if missing:
            raise InputError(f"{self._what} is damaged or cut off" if self.raw else UNFINISHED)
        return data

    def number(self, count: int) -> int:
        """An integer of `count` bytes."""
        return int.from_bytes(self.take(count), "little")

    def varint(self) -> int:
        """An integer of 1 to 9 bytes; InputError if it has more bytes than it needs."""
        value = 0
        for place in range(9):
            byte = self.number(1)
            value |= (byte & 127) << (7 * place)
            if byte < 128:
                if byte == 0 and place:
                    break
                return value
        raise InputError(f"{self._what} is damaged")


def varint(value: int) -> bytes:
    """An integer below 2^63 as 7 bits in each byte, the lowest first."""
    data = bytearray()
    while value >= 128:
        data.append(value & 127 | 128)
        value >>= 7
    data.append(value)
    return bytes(data)


def pack_codes(codes: np.ndarray, width: int) -> bytes:
    """Integers, int64 `[N]`, as one string of bits, `width` of each."""
    bits = codes[:, None] >> np.arange(width) & 1  # [N, width]
    return np.packbits(bits.astype(np.uint8).ravel(), bitorder="little").tobytes()


def unpack_codes(payload: bytes, count: int, header: Header, what: str) -> np.ndarray:
    """The first `count` codes of a string of bits, int64; InputError if one is too large or a bit after them is set."""
    width = header.bits_per_code
    bits = np.unpackbits(np.frombuffer(payload, np.uint8), bitorder="little")
    codes: np.ndarray = bits[: count * width].reshape(count, width) @ (1 << np.arange(width))
    if bits[count * width :].any() or (count and codes.max() >= header.codebook_size):
        raise InputError(f"{what} has codes that are not below the codebook size {header.codebook_size}")
    return codes
