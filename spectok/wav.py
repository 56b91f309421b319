"""The header of a WAV file that is read or written as a stream, whose length may not be known."""

import struct
from collections.abc import Callable
from typing import NamedTuple

_SUBTYPES = {  # of libsndfile, by format tag and bits per sample
    (1, 8): "PCM_U8",
    (1, 16): "PCM_16",
    (1, 24): "PCM_24",
    (1, 32): "PCM_32",
    (3, 32): "FLOAT",
    (3, 64): "DOUBLE",
    (6, 8): "ALAW",
    (7, 8): "ULAW",
}
_EXTENSIBLE = 0xFFFE  # the format tag is in the extension
_UNKNOWN = 0xFFFFFFFF
_ENDLESS = 0x7FFFF000  # writers that do not know the number of bytes claim this many, or more
_MAX_CHUNK = 1 << 20  # bytes of a chunk before the samples that is kept in memory


class PcmFormat(NamedTuple):
    """How samples lie in a stream."""

    sample_rate: int  # Hz
    channels: int
    subtype: str  # as libsndfile calls it
    num_bytes: int | None  # of the samples; None if they go on to the end of the stream

    @property
    def claimed_samples(self) -> int | None:
        """The number of samples of each channel, if the writer of the header knew it."""
        return None if self.num_bytes is None or self.num_bytes >= _ENDLESS else self.num_bytes // self.frame_bytes

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of all channels."""
        bits = {subtype: bits for (_, bits), subtype in _SUBTYPES.items()}[self.subtype]
        return self.channels * bits // 8


def read_wav_header(read: Callable[[int], bytes]) -> tuple[PcmFormat | None, bytes]:
    """Read the header of a WAV up to its samples.

    Args:
        read: returns at most as many bytes as asked for, and none at the end.

    Returns:
        The format, or None if it is not a WAV of samples that can be read one by one; and all bytes that were read.
    """
    head = b""

    def take(count: int) -> bytes:
        nonlocal head
        start = len(head)
        while len(head) < start + count and (piece := read(start + count - len(head))):
            head += piece
        return head[start:]

    riff, found = take(12), None
    if riff[:4] != b"RIFF" or riff[8:] != b"WAVE":
        return None, head
    riff_end = 8 + int.from_bytes(riff[4:8], "little")
    while len(chunk := take(8)) == 8:
        kind, length = chunk[:4], int.from_bytes(chunk[4:], "little")
        if kind == b"data":
            return found and found._replace(num_bytes=_num_bytes(length, riff_end, len(head))), head
        if length > _MAX_CHUNK:
            return None, head
        body = take(length + length % 2)
        if kind == b"fmt ":
            found = _format(body)
    return None, head


def _num_bytes(length: int, riff_end: int, start: int) -> int | None:
    """The bytes of samples that a header claims; None if its writer did not know or had not filled them in yet."""
    unfilled = riff_end in (8, 8 + _UNKNOWN) or riff_end <= start
    if (length == 0 and unfilled) or length in (0x7FFFFFFF, 0x7FFFF000) or length >= _UNKNOWN - 255:
        return None
    return length


def _format(body: bytes) -> PcmFormat | None:
    if len(body) < 16:
        return None
    tag, channels, rate, _, frame_bytes, bits = struct.unpack_from("<HHIIHH", body)
    if tag == _EXTENSIBLE and len(body) >= 26:
        tag = int.from_bytes(body[24:26], "little")
    subtype = _SUBTYPES.get((tag, bits))
    if subtype is None or not channels or frame_bytes != channels * bits // 8:
        return None
    return PcmFormat(rate, channels, subtype, None)


def wav_header(sample_rate: int, num_samples: int | None) -> bytes:
    """The 44 bytes before 16-bit mono samples. If their number is not known, the lengths are 2^32 - 1."""
    size = _UNKNOWN if num_samples is None else min(2 * num_samples, _UNKNOWN)
    riff = struct.pack("<4sI4s", b"RIFF", min(size + 36, _UNKNOWN), b"WAVE")
    return riff + struct.pack("<4sIHHIIHH4sI", b"fmt ", 16, 1, 1, sample_rate, 2 * sample_rate, 2, 16, b"data", size)
