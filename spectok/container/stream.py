"""Reads `.spt` files in order, as their packets arrive."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

import numpy as np

from spectok.container import version1, version2, version3
from spectok.container.header import Header, Packet
from spectok.container.parts import UNFINISHED, Taken
from spectok.errors import InputError
from spectok.files import file_name, open_binary, why

VERSIONS: dict[int, ModuleType] = {1: version1, 2: version2, 3: version3}
MORE = "other bytes follow its end"
OTHER_DIGEST = "the digest at its end is not that of the file"


def read_header(stream: BinaryIO) -> tuple[Header, bytes]:
    """The header and its bytes; InputError if the bytes are not a valid header."""
    source = Taken(stream, "its header")
    magic = b""
    while len(magic) < 5 and (piece := stream.read(5 - len(magic))):
        magic += piece
    if not magic:
        raise InputError("it is empty")
    if magic[:4] != version2.MAGIC:
        raise InputError("it is not a .spt file")
    if len(magic) == 5 and magic[4] not in VERSIONS:
        raise InputError(f"it has format version {magic[4]}, and this program reads versions 1 to 3")
    source.raw = magic
    if len(magic) < 5:
        raise InputError("its header is damaged or cut off")
    header: Header = VERSIONS[magic[4]].read_header(source)
    return header, source.raw


@contextmanager
def naming_errors(name: str) -> Iterator[None]:
    """Give every error the name of the file."""
    try:
        yield
    except InputError as error:
        raise InputError(f"cannot read {name}: {error}") from error
    except OSError as error:
        raise InputError(f"cannot read {name}: {why(error)}") from error


def named(packet: Packet, name: str) -> Packet:
    """The packet, whose codes give errors with the name of the file."""

    def read() -> np.ndarray:
        with naming_errors(name):
            return packet.read()

    return replace(packet, read=read)


def check_end(version: ModuleType, packet: Packet, hashed: "hashlib._Hash") -> None:
    """Raise InputError if the digest in the last packet is not that of the bytes before it."""
    if version.HAS_DIGEST:
        hashed.update(packet.raw[: -version.DIGEST_BYTES])
        if packet.raw[-version.DIGEST_BYTES :] != version.digest_of(hashed):
            raise InputError(OTHER_DIGEST)


def packets_in_order(stream: BinaryIO, header: Header, head: bytes) -> Iterator[Packet]:
    """The packets from where the stream stands, which is after the header `head`; the whole file is verified."""
    version, hashed, index, position = VERSIONS[header.version], hashlib.sha256(head), 0, 0
    while True:
        packet: Packet = version.read_packet(stream, header, index)
        if packet.start_frame != position:
            raise InputError(f"its packet {index} begins with another frame than it should")
        if packet.last:
            break
        hashed.update(packet.raw)
        yield packet
        index, position = index + 1, packet.stop_frame
    if packet.num_samples is None:
        raise InputError(UNFINISHED)
    header.check_length(packet.num_samples, packet.stop_frame)
    check_end(version, packet, hashed)
    yield packet
    if stream.read(1):
        raise InputError(MORE)


def read_stream(stream: BinaryIO) -> tuple[Header, Iterator[Packet]]:
    """Read a file in order, for example from a pipe, as its packets arrive.

    Args:
        stream: it need not seek, and stays open.

    Returns:
        The header, and an iterator over all packets. The last one, which may have no codes, has `num_samples`; if the
        iterator ends, the whole file was valid.

    Raises:
        InputError: the header is not valid; or, from the iterator, a packet is damaged or the file is cut off.
    """
    name = file_name(stream)
    with naming_errors(name):
        header, head = read_header(stream)

    def packets() -> Iterator[Packet]:
        with naming_errors(name):
            for packet in packets_in_order(stream, header, head):
                yield named(packet, name)

    return header, packets()


def read_spt(source: str | Path | BinaryIO, check: Callable[[Header], None] | None = None) -> tuple[Header, np.ndarray]:
    """Read a whole file and verify all of its checksums.

    Args:
        source: a path or a binary stream.
        check: gets the header before any codes are read, and may raise an InputError.

    Returns:
        The header, and the codes, int64 `[num_frames * tokens_per_frame]`.

    Raises:
        InputError: the file cannot be read, is not a .spt file, has another version, or is damaged or unfinished.
    """
    stream, owned = open_binary(source, "rb")
    try:
        header, packets = read_stream(stream)
        if check is not None:
            check(header)
        codes = [np.zeros(0, np.int64)]
        num_samples = None
        for packet in packets:
            codes.append(packet.codes)
            num_samples = packet.num_samples
        return replace(header, num_samples=num_samples), np.concatenate(codes)
    finally:
        if owned:
            stream.close()
