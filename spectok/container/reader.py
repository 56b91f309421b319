"""Reads `.spt` files: in order as they arrive, or any frames of them, or the intact part of a damaged one."""

import hashlib
import io
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import BinaryIO, Self

import numpy as np

from spectok.container import version1, version2, version3
from spectok.container.header import Header, Packet
from spectok.container.parts import UNFINISHED, Taken
from spectok.errors import InputError
from spectok.files import file_name, open_binary, why

_VERSIONS: dict[int, ModuleType] = {1: version1, 2: version2, 3: version3}
MORE = "other bytes follow its end"
OTHER_DIGEST = "the digest at its end is not that of the file"


def _read_header(stream: BinaryIO) -> tuple[Header, bytes]:
    """The header and its bytes; InputError if the bytes are not a valid header."""
    source = Taken(stream, "its header")
    magic = b""
    while len(magic) < 5 and (piece := stream.read(5 - len(magic))):
        magic += piece
    if not magic:
        raise InputError("it is empty")
    if magic[:4] != version2.MAGIC:
        raise InputError("it is not a .spt file")
    if len(magic) == 5 and magic[4] not in _VERSIONS:
        raise InputError(f"it has format version {magic[4]}, and this program reads versions 1 to 3")
    source.raw = magic
    if len(magic) < 5:
        raise InputError("its header is damaged or cut off")
    header: Header = _VERSIONS[magic[4]].read_header(source)
    return header, source.raw


@contextmanager
def _errors(name: str) -> Iterator[None]:
    """Give every error the name of the file."""
    try:
        yield
    except InputError as error:
        raise InputError(f"cannot read {name}: {error}") from error
    except OSError as error:
        raise InputError(f"cannot read {name}: {why(error)}") from error


def _named(packet: Packet, name: str) -> Packet:
    """The packet, whose codes give errors with the name of the file."""

    def read() -> np.ndarray:
        with _errors(name):
            return packet.read()

    return replace(packet, read=read)


def _check_end(version: ModuleType, packet: Packet, hashed: "hashlib._Hash") -> None:
    """Raise InputError if the digest in the last packet is not that of the bytes before it."""
    if version.HAS_DIGEST:
        hashed.update(packet.raw[: -version.DIGEST_BYTES])
        if packet.raw[-version.DIGEST_BYTES :] != version.digest_of(hashed):
            raise InputError(OTHER_DIGEST)


def _in_order(stream: BinaryIO, header: Header, head: bytes) -> Iterator[Packet]:
    """The packets from where the stream stands, which is after the header `head`; the whole file is verified."""
    version, hashed, index, position = _VERSIONS[header.version], hashlib.sha256(head), 0, 0
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
    _check_end(version, packet, hashed)
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
    with _errors(name):
        header, head = _read_header(stream)

    def packets() -> Iterator[Packet]:
        with _errors(name):
            for packet in _in_order(stream, header, head):
                yield _named(packet, name)

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


class Reader:
    """Reads a `.spt` file from any frame on. A damaged file is an error, unless `recover` is set.

    Opening checks the header and the last packet; reading checks the packets that it reads, and iteration over all
    packets also the digest of the file.

    With `recover`, opening scans the whole file. `damaged` lists the numbers of the damaged packets, `lost` their
    frames, `frames` those of each packet, and `faults` what else is wrong, one sentence each; `complete` is True if
    nothing is. Iteration yields the intact packets. If the end was cut off, `lost` includes as many frames as the
    remaining bytes of the cut packet can hold (without entropy coding); the number of frames after them is unknown, and
    so is num_samples, except in version 1.

    A stream is read from its current position to its end; one that cannot seek is read into memory.

    Args:
        source: a path, or a binary stream, which stays open.
        recover: accept a damaged file.

    Raises:
        InputError: the file cannot be read, is damaged or unfinished; with `recover`, its header is damaged.
    """

    def __init__(self, source: str | Path | BinaryIO, *, recover: bool = False) -> None:
        self._name = file_name(source)
        self._stream, self._owned = open_binary(source, "rb")
        self.recover = recover
        self.damaged: list[int] = []  # numbers of packets, in order
        self.lost: list[range] = []  # frames, in order
        self.faults: list[str] = []
        try:
            with _errors(self._name):
                if not self._stream.seekable():
                    self._stream, self._owned = io.BytesIO(self._stream.read()), True
                self.header, self._head = _read_header(self._stream)
                self._version = _VERSIONS[self.header.version]
                self._size = self._version.packet_bytes(self.header)
                self._body = self._stream.tell()
                self._length = self._stream.seek(0, os.SEEK_END) - self._body
                if recover:
                    self._scan()
                else:
                    self._find_end()
        except BaseException:
            self.close()
            raise

    @property
    def complete(self) -> bool:
        """Whether the file is finished and undamaged; without `recover`, as far as it was read."""
        return not (self.damaged or self.faults)

    @property
    def has_end(self) -> bool:
        """Whether the last packet is intact, so that the length of the recording is known."""
        return UNFINISHED not in self.faults and self.header.num_samples is not None

    @property
    def num_codes(self) -> int:
        """Number of codes in the file, including lost ones."""
        return self.num_frames * self.header.tokens_per_frame

    @property
    def num_bytes(self) -> int:
        """Size of the file."""
        return len(self._head) + self._length

    def _packet(self, index: int) -> Packet:
        self._stream.seek(self._body + index * self._size)
        packet: Packet = self._version.read_packet(self._stream, self.header, index)
        return packet

    def _whole(self, index: int) -> Packet:
        packet = self._packet(index)
        if packet.last and index < self._num_packets - 1:
            raise InputError(f"its packet {index} claims to be the last one")
        return packet

    def _find_end(self) -> None:
        """Find the last packet: at one of the places from which a last packet can reach the end of the file."""
        first = -(-(self._length - self._version.max_end(self.header)) // self._size)
        last = (self._length - self._version.MIN_END) // self._size
        for index in range(max(0, first), last + 1):
            try:
                packet = self._packet(index)
            except InputError:
                continue
            if packet.last and index * self._size + len(packet.raw) == self._length:
                break
        else:
            raise InputError(f"{UNFINISHED}, or its end is damaged")
        if packet.num_samples is None:
            raise InputError(UNFINISHED)
        self._num_packets = index + 1
        self.num_frames = packet.stop_frame
        self.header.check_length(packet.num_samples, self.num_frames)
        self.header = replace(self.header, num_samples=packet.num_samples)

    def _scan(self) -> None:
        """Read every packet, and note what is damaged or missing."""
        hashed, end, index, self.num_frames = hashlib.sha256(self._head), None, 0, 0
        self.frames: list[range] = []  # of each packet; with entropy coding, damaged neighbours have those of all
        num_samples = self.header.num_samples
        damaged = 0  # number of damaged packets just before
        while end is None and index * self._size < self._length:
            position = self.num_frames
            try:
                packet = self._packet(index)
                start = packet.start_frame
                if start != position and (start < position or not damaged):
                    raise InputError("it begins with another frame than it should")
            except InputError:
                self.damaged.append(index)
                damaged += 1
                self.num_frames += self._frames_in(self._length - index * self._size)
                self.frames.append(range(position, self.num_frames))
                self._lose(self.frames[-1])
            else:
                if start > position:
                    self._lose(range(position, start))
                    self.frames[index - damaged :] = [range(position, start)] * damaged
                damaged = 0
                self.frames.append(range(start, packet.stop_frame))
                self.num_frames = packet.stop_frame
                if packet.last:
                    end = packet
                else:
                    hashed.update(packet.raw)
            index += 1
        self._num_packets = index
        if end is not None:
            num_samples = end.num_samples
            if (index - 1) * self._size + len(end.raw) < self._length:
                self.faults.append(MORE)
        if end is None or num_samples is None:
            self.faults.append(UNFINISHED)
        try:
            if end is not None and not self.damaged:
                _check_end(self._version, end, hashed)
            if num_samples is not None and end is not None:
                self.header.check_length(num_samples, self.num_frames)
        except InputError as error:
            self.faults.append(str(error))
            num_samples = num_samples if str(error) == OTHER_DIGEST else None
        self.header = replace(self.header, num_samples=num_samples)

    def _frames_in(self, num_bytes: int) -> int:
        """How many frames a damaged packet held, of which these bytes are left; with entropy coding nobody knows."""
        if self.header.entropy_id:
            return 0
        overhead = self._size - self.header.payload_bytes(self.header.frames_per_packet)
        return self.header.frames_that_fit(num_bytes - overhead)

    def _index_of(self, frame: int) -> int:
        """The number of the packet that holds a frame."""
        if not self.header.entropy_id:
            return frame // self.header.frames_per_packet
        if self.recover:
            return bisect_right(self.frames, frame, key=lambda frames: frames.start) - 1

        def start_of(index: int) -> int:
            """The first frame of a packet; of a damaged one, of the next that is intact, as the last one is."""
            while True:
                try:
                    return self._packet(index).start_frame
                except InputError:
                    index += 1
                    if index == self._num_packets:
                        raise

        found = bisect_right(range(self._num_packets), frame, key=start_of) - 1
        return found if frame < self._packet(found).stop_frame else found + 1  # else that packet is damaged

    def _lose(self, frames: range) -> None:
        if self.lost and self.lost[-1].stop == frames.start:
            frames = range(self.lost.pop().start, frames.stop)
        if frames:
            self.lost.append(frames)

    def read(self, start_frame: int = 0, num_frames: int | None = None) -> np.ndarray:
        """Read the codes of successive frames.

        Args:
            start_frame: number of the first frame.
            num_frames: how many frames; None reads to the end of the file.

        Returns:
            int64 codes `[num_frames * tokens_per_frame]`.

        Raises:
            InputError: some of the frames are not in the file, or a packet that holds some of them is damaged.
        """
        stop = self.num_frames if num_frames is None else start_frame + num_frames
        if not 0 <= start_frame <= stop <= self.num_frames:
            raise InputError(f"{self._name} has frames 0 to {self.num_frames}, not {start_frame} to {stop}")
        tokens, position, pieces = self.header.tokens_per_frame, start_frame, [np.zeros(0, np.int64)]
        with _errors(self._name):
            index = self._index_of(start_frame) if position < stop else 0
            while position < stop:
                packet = self._whole(index)
                if not packet.start_frame <= position < packet.stop_frame:
                    raise InputError(f"its packet {index} begins with another frame than it should")
                codes = packet.codes[(position - packet.start_frame) * tokens :]
                pieces.append(codes[: (stop - position) * tokens])
                position, index = packet.stop_frame, index + 1
        return np.concatenate(pieces)

    def packets(self, start_frame: int, stop_frame: int) -> Iterator[Packet]:
        """Yield the packets that hold the frames from `start_frame` to before `stop_frame`, in order.

        Raises:
            InputError: a packet is damaged; with `recover`, it is skipped.
        """
        if start_frame >= stop_frame:
            return
        with _errors(self._name):
            first = self._index_of(start_frame)
        damaged = set(self.damaged)
        for index in range(first, self._num_packets):
            if index in damaged:
                continue
            with _errors(self._name):
                packet = self._whole(index)
            if packet.start_frame >= stop_frame:
                return
            if packet.num_frames:
                yield _named(packet, self._name)
            if packet.stop_frame >= stop_frame:
                return

    def __iter__(self) -> Iterator[Packet]:
        """Yield all packets that hold codes, in order, and verify the digest of the file.

        Raises:
            InputError: a packet is damaged, or the digest is another one; with `recover`, damaged packets are skipped.
        """
        if self.recover:
            yield from self.packets(0, self.num_frames)
            return
        with _errors(self._name):
            self._stream.seek(self._body)
            for packet in _in_order(self._stream, self.header, self._head):
                if packet.num_frames:
                    yield _named(packet, self._name)

    def close(self) -> None:
        """Close the file; a stream that was passed in stays open."""
        if self._owned:
            self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
