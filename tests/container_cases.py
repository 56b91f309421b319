"""A small file, codes and headers, for the tests of the container."""

import io
import zlib
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray

from spectok.container import Header, read_spt, write_spt
from spectok.container.version2 import pack_header

FORMAT = Path(__file__).parent / "data" / "format"  # golden files of both versions
TINY = Header("tiny", "0123456789abcdef", 16000, 1024, 2, 2, 900, "a1b2c3d4")
TINY_CODES = [1, 1023, 512, 5, 7, 700]
TINY_HEX = (
    "a5535054 02 0123456789abcdef a1b2c3d4 02 0a 04 02 04 74696e79 fc260914"
    "89deeef8 02 01fc0f6001 776b5951 01 8407 07f00a 10cb910e"
)
TINY_HEAD = 30  # bytes of the header
TINY_PACKET = 10  # bytes of a full packet
TINY_END = 14  # bytes of the last packet, with one frame

TINY1_HEX = (  # the same in version 1
    "a5535054 01 02 0200 00040000 803e0000 8403000000000000 0123456789abcdef 04 74696e79 43a64a94"
    "663c6e14 0200 01fc0f6001 40816dd0 0180 07f00a"
)

quick = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def make_codes(header: Header, num_frames: int, seed: int = 0) -> np.ndarray:
    size = num_frames * header.tokens_per_frame
    return np.random.default_rng(seed).integers(0, header.codebook_size, size)


def to_bytes(header: Header, codes: ArrayLike) -> bytes:
    sink = io.BytesIO()
    write_spt(sink, header, codes)
    return sink.getvalue()


def from_bytes(content: bytes) -> tuple[Header, NDArray[np.int64]]:
    return read_spt(io.BytesIO(content))


def crafted(header: Header, *packets: bytes) -> bytes:
    return pack_header(header) + b"".join(packets)


def with_true_crc(content: bytes, end: int) -> bytes:
    """The content with a true checksum of its header, which has `end` bytes before it."""
    return content[:end] + zlib.crc32(content[:end]).to_bytes(4, "little") + content[end + 4 :]


@st.composite
def headers(draw: st.DrawFn) -> Header:
    return Header(
        draw(st.sampled_from(["", "m", "spectok-16k-800", "A._-" * 16])),
        draw(st.sampled_from(["00" * 8, "ff" * 8, "0123456789abcdef"])),
        draw(st.sampled_from([1000, 8000, 16000, 44100, 192000, 191999])),
        draw(st.one_of(st.integers(2, 1 << 24), st.sampled_from([2, 3, 1024, 65536]))),
        draw(st.integers(1, 9)),
        draw(st.integers(1, 12)),
        stream_id=draw(st.sampled_from(["00" * 4, "ff" * 4, "a1b2c3d4"])),
    )
