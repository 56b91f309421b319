"""Reads a `.spt` file: all of it, any frames, or the intact part of a damaged file. `writer.py` specifies it."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np

from spectok.container.packets import Packet, read_header, unpack_packet
from spectok.errors import InputError
from spectok.files import file_name, open_binary, why


class Reader:
    """Reads a `.spt` file from any frame on. A damaged file is an error, unless `recover` is set.

    Opening checks the header and the last packet; reading checks the packets that it reads.

    With `recover`, opening scans the whole file. `complete` is True if the file is finished and undamaged, `lost` lists
    the damaged frames, and iteration yields the intact packets. If the end was cut off, `lost` includes as many frames
    as the remaining bytes of the cut packet can hold; the number of frames after them is unknown. If the header claims
    more samples than the frames can hold, its num_samples becomes None.

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
        self.lost: list[range] = []  # frames, in order
        try:
            with self._errors():
                if not self._stream.seekable():
                    self._stream, self._owned = io.BytesIO(self._stream.read()), True
                self.header = read_header(self._stream)
                self._body = self._stream.tell()
                self._length = self._stream.seek(0, io.SEEK_END) - self._body
                self.complete = self._scan() if recover else self._check()
        except BaseException:
            self.close()
            raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except InputError as error:
            raise InputError(f"cannot read {self._name}: {error}") from error
        except OSError as error:
            raise InputError(f"cannot read {self._name}: {why(error)}") from error

    def _packet(self, index: int) -> Packet:
        self._stream.seek(self._body + index * self.header.packet_bytes)
        return unpack_packet(self.header, index, self._stream.read(self.header.packet_bytes))

    def _whole(self, index: int) -> Packet:
        packet = self._packet(index)
        if packet.last and index < self._num_packets - 1:
            raise InputError(f"its packet {index} claims to be the last one")
        return packet

    def _check(self) -> bool:
        if self.header.num_samples is None:
            raise InputError("it was never finished; its packets can be recovered")
        # There is always a last packet. It may have as many bytes as a full one, because its bits are padded.
        self._num_packets = max(0, self._length - 1) // self.header.packet_bytes + 1
        packet = self._packet(self._num_packets - 1)
        if not packet.last or (self._num_packets - 1) * self.header.packet_bytes + packet.size != self._length:
            raise InputError("it is cut off, or other bytes follow its end")
        self.num_frames = packet.start_frame + len(packet.codes) // self.header.tokens_per_frame
        self.header.check_length(self.num_frames)
        return True

    def _scan(self) -> bool:
        ended, index, self.num_frames, size = False, 0, 0, self.header.packet_bytes
        while not ended and index * size < self._length:
            try:
                packet = self._packet(index)
                ended, frames = packet.last, len(packet.codes) // self.header.tokens_per_frame
            except InputError:
                frames = self.header.frames_that_fit(self._length - index * size)
                self._lose(range(self.num_frames, self.num_frames + frames))
            self.num_frames += frames
            index += 1
        self._num_packets = index
        finished = ended and self.header.num_samples is not None
        try:
            self.header.check_length(self.num_frames)
        except InputError:
            self.header = replace(self.header, num_samples=None)
        return finished and not self.lost

    def _lose(self, frames: range) -> None:
        if self.lost and self.lost[-1].stop == frames.start:
            frames = range(self.lost.pop().start, frames.stop)
        if frames:
            self.lost.append(frames)

    @property
    def num_codes(self) -> int:
        """Number of codes in the file, including lost ones."""
        return self.num_frames * self.header.tokens_per_frame

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
        per_packet, tokens = self.header.frames_per_packet, self.header.tokens_per_frame
        first = start_frame // per_packet
        with self._errors():
            pieces = [self._whole(index).codes for index in range(first, -(-stop // per_packet))]
        codes = np.concatenate([np.zeros(0, np.int64), *pieces])
        return codes[(start_frame - first * per_packet) * tokens :][: (stop - start_frame) * tokens]

    def __iter__(self) -> Iterator[Packet]:
        """Yield the packets in order. A damaged packet is skipped with `recover`, and raises InputError without."""
        for index in range(self._num_packets):
            try:
                with self._errors():
                    packet = self._whole(index)
            except InputError:
                if not self.recover:
                    raise
                continue
            if len(packet.codes):
                yield packet

    def close(self) -> None:
        """Close the file; a stream that was passed in stays open."""
        if self._owned:
            self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
