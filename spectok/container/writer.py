"""Writes `.spt` files, whole or packet by packet."""

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, BinaryIO, Self

import numpy as np

from spectok.codes import check_codes
from spectok.container import version2, version3
from spectok.container.header import CODED, PLAIN, Header
from spectok.container.reader import Reader
from spectok.errors import InputError, require
from spectok.files import Replacement, atomic_write, file_name, open_binary, why

_VERSIONS: dict[int, ModuleType] = {PLAIN: version2, CODED: version3}


class Writer:
    """Writes a `.spt` file in pieces. A packet is written and flushed as soon as it is full, and `close` ends the file.

    A file that was not closed, because the `with` block failed or the process died, lacks the packet that was not yet
    full and the last one; `Reader(..., recover=True)` reads the others. The destination need not seek.

    Args:
        destination: a path, whose file is replaced, or a binary stream, which stays open.
        header: its num_samples may be None if it is passed to `close`; its stream_id is drawn if it is None.
        name: the file's name in messages; by default that of the destination.

    Raises:
        InputError: the destination cannot be written, or the entropy model that the header names is not known.
    """

    def __init__(self, destination: str | Path | BinaryIO, header: Header, *, name: str | None = None) -> None:
        stream_id = header.stream_id or secrets.token_hex(4)
        self.header = replace(header, stream_id=stream_id, version=max(PLAIN, header.version))
        version = _VERSIONS[self.header.version]
        self._packer: version2.Packer | version3.Packer = version.Packer(self.header)
        self._sink, self._owned = open_binary(destination, "wb")
        self._name = name or file_name(destination)
        self._replacement: Replacement | None = None
        self._rest = np.zeros(0, np.int64)  # codes at the end that are no whole frame
        self._hashed = hashlib.sha256()
        self._closed = self._released = False
        try:
            self._put(version.pack_header(self.header))
            self._flush()
        except BaseException:
            self._release()
            raise

    @classmethod
    def append(cls, path: str | Path) -> Self:
        """Continue a finished file. The result equals, byte for byte, a file written by one writer.

        The codes must fit the writer's `header`, which is that of the file with num_samples None: pass the new total to
        `close`. The file is copied first, and the copy replaces it when it is closed: until then, and if the process
        dies, the file stays as it was. A file of version 1 becomes one of version 2.

        Raises:
            InputError: as for `Reader`, or the file cannot be written.
        """
        with Reader(path) as reader:
            replacement = Replacement(path)
            try:
                writer = cls(replacement.path, replace(reader.header, num_samples=None), name=file_name(path))
            except BaseException:
                replacement.discard()
                raise
            writer._replacement = replacement
            try:
                for packet in reader:
                    writer.write(packet.codes)
            except BaseException:
                writer._release()
                raise
        return writer

    @property
    def num_codes(self) -> int:
        """Number of codes written so far."""
        return self._packer.num_frames * self.header.tokens_per_frame + len(self._rest)

    def write(self, codes: Any) -> None:
        """Add codes, integers `[n]` for any n: they need not be whole frames.

        Raises:
            InputError: the codes are not such an array or are out of range, or the file cannot be written.
        """
        self._check_open()
        added = np.concatenate([self._rest, self._valid(codes)])
        whole = len(added) - len(added) % self.header.tokens_per_frame
        self._rest = added[whole:]
        is_full = False
        for packet in self._packer.add(added[:whole]):
            self._put(packet)
            is_full = True
        if is_full:
            self._flush()

    def close(self, num_samples: int | None = None) -> None:
        """End the file with the last packet. Closing again does nothing.

        Args:
            num_samples: length of the original audio; None takes the header's num_samples.

        Raises:
            InputError: num_samples is unknown or more than the frames can hold, or the codes end within a frame.
        """
        if self._closed:
            return
        self._check_open()
        frames, rest = divmod(self.num_codes, self.header.tokens_per_frame)
        try:
            header = self.header if num_samples is None else replace(self.header, num_samples=num_samples)
            if header.num_samples is None:
                raise InputError("close needs num_samples")
            if rest:
                raise InputError(f"{self.num_codes} codes are not whole frames of {header.tokens_per_frame}")
            header.check_length(header.num_samples, frames)
        except InputError as error:
            raise InputError(f"cannot finish {self._name}: {error}") from error
        self.header = header
        assert header.num_samples is not None
        self._put(self._packer.last(header.num_samples))
        self._put(version2.digest_of(self._hashed))
        self._flush()
        self._closed = True
        self._release()

    def _check_open(self) -> None:
        if self._closed or self._released:
            raise InputError(f"cannot write {self._name}: it is closed")

    def _valid(self, codes: Any) -> np.ndarray:
        array = np.asarray(codes)
        require(array.ndim == 1, f"codes must be integers [N], not {list(array.shape)}")
        return check_codes(array, self.header.codebook_size)

    def _put(self, data: bytes) -> None:
        with self._errors():
            self._sink.write(data)
        self._hashed.update(data)

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
        replacement, self._replacement = self._replacement, None
        if replacement is not None:
            try:
                if self._closed:
                    replacement.commit()
            finally:
                replacement.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            self._release()


@contextmanager
def writing_spt(destination: str | Path | BinaryIO, header: Header) -> Iterator[Writer]:
    """Yield a `Writer`, and close it when the block ends.

    A path keeps its earlier content until then, and for good if the block fails. Packets reach a stream as they fill.

    Args:
        destination: a path or a binary stream (it need not seek).
        header: as for `Writer`.

    Raises:
        InputError: as for `Writer`.
    """
    if isinstance(destination, str | os.PathLike):
        with atomic_write(destination) as temporary, Writer(temporary, header, name=str(destination)) as writer:
            yield writer
    else:
        with Writer(destination, header) as writer:
            yield writer


def write_spt(destination: str | Path | BinaryIO, header: Header, codes: Any) -> None:
    """Write a whole file. If writing fails, a path keeps its earlier content.

    Args:
        destination: a path or a binary stream (it need not seek).
        header: its num_samples must not be None.
        codes: integers `[num_frames * tokens_per_frame]`, from 0 to codebook_size - 1.

    Raises:
        InputError: the codes do not fit the header, or the destination cannot be written.
    """
    with writing_spt(destination, header) as writer:
        writer.write(codes)
