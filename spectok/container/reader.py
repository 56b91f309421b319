"""Reads any frames of a `.spt` file that can seek, or the intact part of a damaged one."""

import hashlib
import io
import os
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np

from spectok.container.header import Packet
from spectok.container.parts import UNFINISHED
from spectok.container.stream import (
    MORE,
    OTHER_DIGEST,
    VERSIONS,
    check_end,
    named,
    naming_errors,
    packets_in_order,
    read_header,
)
from spectok.errors import InputError
from spectok.files import file_name, open_binary


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
            with naming_errors(self._name):
                if not self._stream.seekable():
                    self._stream, self._owned = io.BytesIO(self._stream.read()), True
                self.header, self._head = read_header(self._stream)
                self._version = VERSIONS[self.header.version]
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
                check_end(self._version, end, hashed)
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

        found = max(0, bisect_right(range(self._num_packets), frame, key=start_of) - 1)
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
        with naming_errors(self._name):
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
        with naming_errors(self._name):
            first = self._index_of(start_frame)
        damaged = set(self.damaged)
        for index in range(first, self._num_packets):
            if index in damaged:
                continue
            with naming_errors(self._name):
                packet = self._whole(index)
            if packet.start_frame >= stop_frame:
                return
            if packet.num_frames:
                yield named(packet, self._name)
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
        with naming_errors(self._name):
            self._stream.seek(self._body)
            for packet in packets_in_order(self._stream, self.header, self._head):
                if packet.num_frames:
                    yield named(packet, self._name)

    def close(self) -> None:
        """Close the file; a stream that was passed in stays open."""
        if self._owned:
            self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
