"""Opens recordings where they lie: files, parts of tar files, rows of Parquet files."""

import io
import os
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, Self, cast

import pyarrow as pa
import pyarrow.parquet as pq

from spectok.audio import AudioReader
from spectok.bulk.sources import Recording, Source, audio_column
from spectok.errors import InputError, require
from spectok.files import why

ROWS = 16  # of a Parquet file that are in memory at a time


class Opener:
    """Opens one recording after the other. The tar or Parquet file of the last one stays open.

    Args:
        sources: that the recordings are in.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._current: int | None = None  # the source of what is open
        self._tar: BinaryIO | None = None
        self._rows: _Rows | None = None

    def open(self, recording: Recording) -> AudioReader:
        """A reader of a recording, to be closed before the next one is opened.

        Raises:
            InputError: it cannot be opened, or is not audio. The message contains no absolute path.
        """
        source = self._sources[recording.source]
        place = source.place(recording)
        require(recording.fault is None, f"{place}: {recording.fault}")
        if source.kind in ("files", "manifest"):
            path = os.path.join(source.root, os.fsdecode(recording.path))
            try:
                require(os.path.isfile(path), f"{place} is not a file")
                reader = AudioReader(path)
            except InputError as error:
                raise InputError(str(error).replace(path, place)) from error
            reader.name = place
            return reader
        if self._current != recording.source:
            self.close()
            self._current = recording.source
        if source.kind == "tar":
            return AudioReader(self._member(source, recording, place))
        return AudioReader(self._row(source, recording, place))

    def _member(self, source: Source, recording: Recording, place: str) -> BinaryIO:
        if self._tar is None:
            try:
                self._tar = open(source.path, "rb")  # noqa: SIM115
            except OSError as error:
                raise InputError(f"cannot read {place}: {why(error)}") from error
        return cast(BinaryIO, io.BufferedReader(_Part(self._tar, recording.offset, recording.size, place)))

    def _row(self, source: Source, recording: Recording, place: str) -> BinaryIO:
        try:
            if self._rows is None:
                self._rows = _Rows(source.path)
            content = self._rows.read(recording.offset)
        except (pa.ArrowException, OSError) as error:
            self.close()
            raise InputError(f"cannot read {place}: {' '.join(str(error).replace(source.path, '').split())}") from error
        if content is None:
            raise InputError(f"{place} holds no bytes of audio")
        stream = io.BytesIO(content)
        stream.name = place
        return stream

    def close(self) -> None:
        """Close what is open."""
        if self._tar is not None:
            self._tar.close()
        if self._rows is not None:
            self._rows.close()
        self._tar = self._rows = self._current = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Part(io.RawIOBase):
    """A part of an open file, which ends earlier if the file does.

    Args:
        file: open for reading; it is not closed.
        start: first byte of the part.
        size: of the part in bytes.
        name: for messages.
    """

    def __init__(self, file: BinaryIO, start: int, size: int, name: str) -> None:
        self._file, self._position, self._left, self.name = file, start, size, name

    def readable(self) -> bool:
        """True: it can be read."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Read up to as many bytes as fit into the buffer; returns how many, 0 at the end."""
        self._file.seek(self._position)
        piece = self._file.read(min(len(buffer), self._left))
        buffer[: len(piece)] = piece
        self._position += len(piece)
        self._left -= len(piece)
        return len(piece)


class _Rows:
    """Reads the recordings of a Parquet file in rising order, and in any order more slowly."""

    def __init__(self, path: str) -> None:
        self._file = pq.ParquetFile(path, pre_buffer=False)
        self._column = audio_column(self._file.schema_arrow, path)
        self._batches: Iterator[Any] = iter(())
        self._start = 0  # the row of the first value in the batch
        self._batch: list[bytes | None] = []

    def read(self, row: int) -> bytes | None:
        """The bytes in a row; None if it has none."""
        if row < self._start:
            self._start, self._batch, self._batches = 0, [], iter(())
        while row >= self._start + len(self._batch):
            self._start += len(self._batch)
            batch = next(self._batches, None)
            self._batch = [] if batch is None else self._values(batch)
            if batch is None:
                self._open_group(row)
        return self._batch[row - self._start]

    def _open_group(self, row: int) -> None:
        """Begin to read the row group that contains a row."""
        first = 0
        for group in range(self._file.num_row_groups):
            count = self._file.metadata.row_group(group).num_rows
            if row < first + count:
                self._start = first
                self._batches = self._file.iter_batches(ROWS, [group], [self._column], use_threads=False)
                return
            first += count
        raise pa.ArrowInvalid(f"there is no row {row}")

    def _values(self, batch: pa.RecordBatch) -> list[bytes | None]:
        column = batch.column(0)
        if pa.types.is_struct(column.type):
            column = column.flatten()[0]  # a null struct has null bytes
        values: list[bytes | None] = column.to_pylist()
        return values

    def close(self) -> None:
        """Close the file."""
        self._file.close()
