"""Reading a `.spt` file, whole, at a frame, or what is left of it; `writer.py` has the specification."""

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
    """Reads a `.spt` file at any frame; strict, unless `recover` asks for what is intact in a damaged one.

    Opening checks the header and the last packet, and reading checks the packets it needs. With `recover`, opening
    scans the file, `lost` tells which frames are damaged, `complete` says that nothing is wrong, and iteration yields
    the intact packets. Of a torn end, `lost` holds the frames that its bytes have room for; what was cut away behind
    them cannot be known. A header that claims more samples than the frames can hold then has num_samples None.

    Streams are read from where they stand, to their end; one that cannot seek is read into memory.

    Raises:
        InputError: the file cannot be read or is not what its header says; in `recover`, the header itself is damaged.
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
        # The last packet may be as long as a full one (its bits are padded), but it is never missing.
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
        """Codes in the file, lost ones included."""
        return self.num_frames * self.header.tokens_per_frame

    def read(self, start_frame: int = 0, num_frames: int | None = None) -> np.ndarray:
        """The codes of some frames, int64 `[num_frames * tokens_per_frame]`; None means all to the end.

        Raises:
            InputError: the frames are not all in the file, or a packet that holds some of them is damaged.
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
        """The packets in order; with `recover` the intact ones only, else InputError at the first damaged one."""
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
        """Close the file, if it was opened here."""
        if self._owned:
            self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
