r"""Writes the `.spt` file, whose format is specified here.

A file is a header and packets of codes. Each packet has its own CRC, and all packets but the last have the same size,
so that the place of a frame is computed and not searched for.

    +--------+----------+----------+-----+-------------+
    | header | packet 0 | packet 1 | ... | last packet |
    +--------+----------+----------+-----+-------------+
      37 + L     P          P               6 to P bytes

Integers are unsigned and little endian. `tokens_per_frame` codes make a frame; codes are stored frame after frame.

**Header**, 37 + L bytes:

| offset | bytes | content |
|---:|---:|---|
| 0 | 4 | the magic number A5 53 50 54, which is "\xa5SPT" |
| 4 | 1 | version of the format: 1 |
| 5 | 1 | `tokens_per_frame`, 1 to 255 |
| 6 | 2 | `frames_per_packet`, 1 to 32767 |
| 8 | 4 | `codebook_size`, 2 to 2^24 |
| 12 | 4 | sample rate of the original audio in Hz, 1000 to 768000 |
| 16 | 8 | number of samples of the original audio; 2^64 - 1 while the file is being written |
| 24 | 8 | the first 8 bytes of the SHA-256 of the model's weights, the file `model.safetensors` |
| 32 | 1 | L, the length of the model's name, 1 to 64 |
| 33 | L | the model's name in ASCII: letters, digits, and after the first character also `.`, `_` and `-` |
| 33 + L | 4 | CRC-32 (as zlib computes it) of all bytes before |

**Packet**, 6 bytes and the codes:

| offset | bytes | content |
|---:|---:|---|
| 0 | 4 | CRC-32 of the packet's number (4 bytes, modulo 2^32) followed by all bytes of the packet after this field |
| 4 | 2 | bits 0 to 14: number of frames; bit 15: 1 in the last packet, else 0 |
| 6 | | the codes of these frames as one string of bits |

A code has b = ceil(log2(`codebook_size`)) bits, lowest first. Bit i of the string is bit i % 8 of byte i // 8. Bits
after the last code are 0. Codes of 16 bits are therefore little-endian words, and four codes of 10 bits take 5 bytes.

Every packet holds `frames_per_packet` frames, except the last one, which holds fewer, possibly none. There always is a
last packet, and the file ends with it. A full packet has P = 6 + ceil(`frames_per_packet` * `tokens_per_frame` * b / 8)
bytes, so frame f is in the packet that begins at byte 37 + L + f // `frames_per_packet` * P. P is at most 6 + 2^20. The
number of samples is at most the number of frames times the sample rate.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np

from spectok.container.packets import Header, pack_header, pack_packet
from spectok.container.reader import Reader
from spectok.errors import InputError
from spectok.files import atomic_write, file_name, open_binary, why


def write_spt(destination: str | Path | BinaryIO, header: Header, codes: Any) -> None:
    """Write a whole file. If writing fails, a path keeps its earlier content.

    Args:
        destination: a path or a binary stream (it need not seek).
        header: its num_samples must not be None.
        codes: integers `[num_frames * tokens_per_frame]`, from 0 to codebook_size - 1.

    Raises:
        InputError: the codes do not fit the header, or the destination cannot be written.
    """
    if isinstance(destination, str | os.PathLike):
        with atomic_write(destination) as temporary, Writer(temporary, header, name=str(destination)) as writer:
            writer.write(codes)
    else:
        with Writer(destination, header) as writer:
            writer.write(codes)


def read_spt(source: str | Path | BinaryIO) -> tuple[Header, np.ndarray]:
    """Read a whole file and verify all of its checksums.

    Args:
        source: a path or a binary stream.

    Returns:
        The header, and the codes, int64 `[num_frames * tokens_per_frame]`.

    Raises:
        InputError: the file cannot be read, is not a .spt file, has another version, or is damaged or unfinished.
    """
    with Reader(source) as reader:
        return reader.header, reader.read()


class Writer:
    """Writes a `.spt` file in pieces. A packet is written as soon as it is full, and `close` ends the file.

    A file that was not closed, because the `with` block failed or the process died, is unfinished: only
    `Reader(..., recover=True)` reads it. For a stream that cannot seek, the header must have num_samples at the start.

    Args:
        destination: a path, whose file is replaced, or a binary stream, which stays open.
        header: its num_samples may be None if it is passed to `close`.
        name: the file's name in messages; by default that of the destination.

    Raises:
        InputError: the destination cannot be written, or cannot seek and num_samples is None.
    """

    def __init__(self, destination: str | Path | BinaryIO, header: Header, *, name: str | None = None) -> None:
        sink, owned = open_binary(destination, "wb")
        self._begin(sink, owned, name or file_name(destination), header)
        try:
            if header.num_samples is None and not self._seekable:
                raise InputError(
                    f"cannot write {self._name}: it cannot seek, so num_samples must be known at the start"
                )
            self._put(pack_header(header))
        except BaseException:
            self._release()
            raise

    def _begin(self, sink: BinaryIO, owned: bool, name: str, header: Header) -> None:
        self.header = header
        self._sink, self._owned, self._name = sink, owned, name
        self._seekable = sink.seekable()
        self._start = sink.tell() if self._seekable else 0
        self._num_packets = 0
        self._pending = np.zeros(0, np.int64)
        self._stale = False  # True while the file's header still marks the file as finished
        self._closed = self._released = False

    @classmethod
    def append(cls, path: str | Path) -> Self:
        """Continue a finished file. The result equals, byte for byte, a file written by one writer.

        The codes must fit the writer's `header`, which is that of the file with num_samples None: pass the new total to
        `close`. The file is changed in place, first by the first full packet or by `close`.

        Raises:
            InputError: as for `Reader`, or the file cannot be written.
        """
        with Reader(path) as reader:  # checks the file before it is opened for writing
            packets, header = reader.num_frames // reader.header.frames_per_packet, reader.header
            body, tail = reader._body, reader.read(packets * header.frames_per_packet)
        writer = cls.__new__(cls)
        sink, owned = open_binary(path, "r+b")
        writer._begin(sink, owned, file_name(path), replace(header, num_samples=None))
        writer._num_packets, writer._pending, writer._stale = packets, tail, True
        sink.seek(body + packets * header.packet_bytes)
        return writer

    @property
    def num_codes(self) -> int:
        """Number of codes written so far."""
        per_packet = self.header.frames_per_packet * self.header.tokens_per_frame
        return self._num_packets * per_packet + len(self._pending)

    def write(self, codes: Any) -> None:
        """Add codes, integers `[n]` for any n: they need not be whole frames.

        Raises:
            InputError: the codes are not such an array or are out of range, or the file cannot be written.
        """
        self._check_open()
        self._pending = np.concatenate([self._pending, self._valid(codes)])
        full = self.header.frames_per_packet * self.header.tokens_per_frame
        position = 0
        while len(self._pending) - position >= full:
            self._emit(self._pending[position : position + full], last=False)
            position += full
        if position:
            self._pending = self._pending[position:]
            self._flush()

    def close(self, num_samples: int | None = None) -> None:
        """End the file: write the last packet, and num_samples into the header. Closing again does nothing.

        Args:
            num_samples: length of the original audio; None keeps the header's num_samples.

        Raises:
            InputError: num_samples is unknown or more than the frames can hold, or the codes end within a frame.
        """
        if self._closed:
            return
        self._check_open()
        header = self.header if num_samples is None else replace(self.header, num_samples=num_samples)
        frames, rest = divmod(self.num_codes, header.tokens_per_frame)
        try:
            if header.num_samples is None:
                raise InputError("close needs num_samples")
            if header != self.header and not self._seekable:
                raise InputError(f"it cannot seek, and its header says that num_samples is {self.header.num_samples}")
            if rest:
                raise InputError(f"{self.num_codes} codes are not whole frames of {header.tokens_per_frame}")
            header.check_length(frames)
        except InputError as error:
            raise InputError(f"cannot finish {self._name}: {error}") from error
        self._emit(self._pending, last=True)
        if header != self.header:
            self.header = header
            self._put_header()
        self._flush()
        self._closed = True
        self._release()

    def _check_open(self) -> None:
        if self._closed or self._released:
            raise InputError(f"cannot write {self._name}: it is closed")

    def _valid(self, codes: Any) -> np.ndarray:
        array = np.asarray(codes)
        if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
            raise InputError(f"codes have shape {list(array.shape)} and type {array.dtype}; expected integers [N]")
        if array.size and not 0 <= int(array.min()) <= int(array.max()) < self.header.codebook_size:
            wrong = int(array.min()) if array.min() < 0 else int(array.max())
            raise InputError(f"codes must be from 0 to {self.header.codebook_size - 1}, and one is {wrong}")
        return array.astype(np.int64)

    def _emit(self, codes: np.ndarray, last: bool) -> None:
        if self._stale:
            self._put_header()
            self._stale = False
        self._put(pack_packet(self.header, self._num_packets, codes, last))
        self._num_packets += not last

    def _put_header(self) -> None:
        position = self._sink.tell()
        self._sink.seek(self._start)
        self._put(pack_header(self.header))
        self._sink.seek(position)

    def _put(self, data: bytes) -> None:
        with self._errors():
            self._sink.write(data)

    def _flush(self) -> None:
        with self._errors():
            self._sink.flush()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:  # the process that reads the output has ended: not an error of the input
            raise
        except OSError as error:
            raise InputError(f"cannot write {self._name}: {why(error)}") from error

    def _release(self) -> None:
        self._released = True
        if self._owned:
            self._sink.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            self._release()
