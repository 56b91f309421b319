"""Finds the recordings of folders, manifests, tar files and Parquet files, without reading their audio.

What is found is in a fixed order: that of the sources, and within a source that of its rows or members, or of the
sorted paths. Nothing is unpacked to the disk. A manifest and a tar file may come from anybody: the path of a manifest
must stay within a folder, and the names in a tar file are used as names only.
"""

import csv
import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from spectok.audio import AUDIO_SUFFIXES, list_audio
from spectok.errors import InputError, require
from spectok.files import why

Kind = Literal["files", "manifest", "tar", "parquet"]
SUFFIXES: dict[str, Kind] = {".csv": "manifest", ".tsv": "manifest", ".jsonl": "manifest", ".tar": "tar"}
SUFFIXES[".parquet"] = "parquet"
SUFFIXES.update({suffix: "files" for suffix in AUDIO_SUFFIXES})
PATH_COLUMNS = ("path", "file")  # of a manifest; the first that it has
TAR_ERRORS = (tarfile.TarError, ValueError, OverflowError, EOFError, RecursionError)  # of damaged files
MOST_TEXT = 1 << 20  # bytes of a .txt or .json member of a tar file


class Recording(NamedTuple):
    """A recording as it was found: where it is, and what is known without its audio."""

    id: str
    source: int  # index in the list of sources
    path: bytes  # of a file below the source's root, or the name of a tar member; empty in a Parquet file
    offset: int = 0  # of a tar member's first byte; in a Parquet file or a manifest the row, from 0
    size: int = -1  # bytes, -1 if not known
    speaker: str | None = None
    text: str | None = None
    fault: str | None = None  # why it cannot be read, if that is known already


@dataclass(frozen=True)
class Source:
    """A source of recordings.

    Args:
        kind: what it is.
        path: absolute, of the folder or the file.
        root: absolute, of the folder that contains the files of a folder or a manifest.
    """

    kind: Kind
    path: str
    root: str

    @property
    def name(self) -> str:
        """The name of the file or folder, without the folders above it."""
        return text_of(os.path.basename(self.path))

    def place(self, recording: Recording) -> str:
        """Where a recording is, for a message that must not contain absolute paths."""
        if self.kind == "parquet":
            return f"{self.name}, row {recording.offset}"
        name = text_of(recording.path)
        if self.kind == "manifest" and not name:
            return f"{self.name}, row {recording.offset}"
        return f"{self.name}/{name}" if self.kind == "tar" and name else name or self.name


def find_source(path: str | Path, root: str | Path | None = None) -> Source:
    """Find out what a path is, by its suffix if it is not a folder.

    Args:
        path: of a folder, a manifest, a tar file, a Parquet file or an audio file.
        root: the folder that the paths in a manifest are relative to; by default the manifest's folder.

    Raises:
        InputError: there is no such file or folder, or nothing is known about its suffix.
    """
    absolute = os.path.abspath(path)
    if os.path.isdir(absolute):
        return Source("files", absolute, absolute)
    require(os.path.isfile(absolute), f"there is no file or folder {path}")
    kind = SUFFIXES.get(Path(absolute).suffix.lower())
    if kind is None:
        known = ", ".join(sorted(set(SUFFIXES) - AUDIO_SUFFIXES))
        raise InputError(f"{path} is neither a folder nor an audio file, and does not end in {known}")
    require(root is None or os.path.isdir(root), f"the root {root} is not a folder")
    inside = root if root is not None and kind == "manifest" else os.path.dirname(absolute)
    return Source(kind, absolute, os.path.abspath(inside))


def list_recordings(source: Source, index: int) -> Iterator[Recording]:
    """Yield the recordings of a source. Those that cannot be read for a reason known already have a `fault`.

    Args:
        source: to be searched.
        index: of the source in the list of sources.

    Raises:
        InputError: the source cannot be read, or a manifest or a Parquet file has no column of recordings.
    """
    list_kind = {"files": _of_files, "manifest": _of_manifest, "tar": _of_tar, "parquet": _of_parquet}[source.kind]
    try:
        yield from list_kind(source, index)
    except OSError as error:
        raise InputError(f"cannot read {source.path}: {why(error)}") from error


def text_of(value: Any) -> str:
    """A value from outside as a string that UTF-8 can encode. Bytes and surrogates that it cannot become escapes."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")


def _optional(value: Any) -> str | None:
    """A speaker or a text; None if it is missing or empty."""
    return None if value is None or value == "" else text_of(value)


def _of_files(source: Source, index: int) -> Iterator[Recording]:
    paths = list_audio(source.path) if os.path.isdir(source.path) else [Path(source.path)]
    for path in paths:
        below = os.fsencode(path.relative_to(source.root).as_posix())
        yield Recording(text_of(below), index, below, size=path.stat().st_size)


def _of_manifest(source: Source, index: int) -> Iterator[Recording]:
    column: str | None = None
    for number, row in enumerate(_rows(source.path)):
        column = column or next((name for name in PATH_COLUMNS if name in row), None)
        require(column is not None, f"{source.path} has no column named {' or '.join(PATH_COLUMNS)}")
        given = row.get(str(column))
        below = _below(source.root, given) if isinstance(given, str) and given else None
        speaker, text = _optional(row.get("speaker")), _optional(row.get("text"))
        if below is None:
            fault = "lies outside of the manifest's folder; --root names another" if given else "the row has no path"
            name = _optional(row.get("id")) or f"{source.name}/{number}"
            yield Recording(name, index, b"", number, -1, speaker, text, fault)
            continue
        path = os.fsencode(below)
        try:
            size = os.path.getsize(os.path.join(source.root, below))
        except (OSError, ValueError):  # reading it says what is wrong
            size = -1
        yield Recording(_optional(row.get("id")) or text_of(path), index, path, number, size, speaker, text)


def _rows(path: str) -> Iterator[dict[str, Any]]:
    """The rows of a manifest."""
    suffix, number = Path(path).suffix.lower(), 0
    try:
        with open(path, newline="", encoding="utf-8-sig") as lines:
            if suffix != ".jsonl":
                yield from csv.DictReader(lines, delimiter="\t" if suffix == ".tsv" else ",", strict=True)
                return
            for number, line in enumerate(lines, 1):
                if line.strip():
                    row = json.loads(line)
                    require(isinstance(row, dict), f"line {number} of {path} is not a JSON object")
                    yield row
    except csv.Error as error:
        raise InputError(f"cannot read {path} as a table: {error}") from error
    except (UnicodeDecodeError, RecursionError, json.JSONDecodeError) as error:
        where = f"line {number + isinstance(error, UnicodeDecodeError)} of {path}" if suffix == ".jsonl" else path
        raise InputError(f"cannot read {where}: {error}") from error


def _below(root: str, path: str) -> str | None:
    """A path relative to the root, with slashes; None if it does not lie below it."""
    try:
        below = os.path.relpath(os.path.normpath(os.path.join(root, path)), root)
    except ValueError:  # another drive of Windows
        return None
    return None if below == os.pardir or below.startswith(os.pardir + os.sep) else Path(below).as_posix()


def _of_tar(source: Source, index: int) -> Iterator[Recording]:
    """The samples of a tar file in the layout of WebDataset: adjacent members whose names differ after the first dot.

    A file that is cut off or damaged gives the samples before the damage, and one recording with a fault.
    """
    members: list[tarfile.TarInfo] = []
    fault, position = None, 0
    try:
        with tarfile.open(source.path, "r:") as archive:
            try:
                for member in archive:
                    if member.size < 0 or member.offset < position:
                        raise tarfile.ReadError("its members overlap")
                    position = member.offset_data
                    if members and _key(member) != _key(members[0]):
                        yield from _of_sample(index, archive, members)
                        members = []
                    members.append(member)
            except TAR_ERRORS as error:
                fault = f"the tar file is damaged or cut off: {error}"
            yield from _of_sample(index, archive, members)
    except TAR_ERRORS as error:
        raise InputError(f"cannot read {source.path} as an uncompressed tar file: {error}") from error
    if fault is not None:
        yield Recording(source.name, index, b"", fault=fault)


def _key(member: tarfile.TarInfo) -> str:
    """The part of a member's name that its sample has in common: up to the first dot of the last part."""
    folder, slash, name = member.name.rpartition("/")
    return folder + slash + name.partition(".")[0]


def _of_sample(index: int, archive: tarfile.TarFile, members: list[tarfile.TarInfo]) -> Iterator[Recording]:
    """The recording of a sample. A second one has a fault; a sample without audio gives nothing."""
    known: dict[str, str | None] = {}
    sounds, fault = [], None
    for member in members:
        name = PurePosixPath(member.name)
        if name.name.startswith(".") or member.isdir():
            continue
        if name.suffix.lower() in AUDIO_SUFFIXES:
            sounds.append(member)
        elif name.suffix.lower() in (".txt", ".json") and member.isfile():
            try:
                known |= _described(archive, member)
            except (ValueError, RecursionError, tarfile.TarError) as error:
                fault = f"cannot read {text_of(name.name)}: {error}"
    for number, member in enumerate(sounds):
        sample_fault = fault
        if number:
            sample_fault = "the sample has another recording before this one"
        elif not member.isreg() or member.issparse():
            sample_fault = "the member is a link or another special file"
        elif member.name.startswith(("/", "\\")) or ".." in PurePosixPath(member.name.replace("\\", "/")).parts:
            sample_fault = "the name of the member leads out of the tar file"
        path = member.name.encode("utf-8", "surrogateescape")
        found = Recording(text_of(_key(member)), index, path, member.offset_data, member.size)
        yield found._replace(speaker=known.get("speaker"), text=known.get("text"), fault=sample_fault)


def _described(archive: tarfile.TarFile, member: tarfile.TarInfo) -> dict[str, str | None]:
    """The speaker and the text in a member of a tar file, .txt or .json; the text of a .txt is not overridden."""
    if member.size > MOST_TEXT:
        raise ValueError(f"it has {member.size} bytes, over {MOST_TEXT}")
    file = archive.extractfile(member)
    content = b"" if file is None else file.read()
    if member.name.lower().endswith(".txt"):
        return {"text": _optional(content.decode("utf-8").strip())}
    facts = json.loads(content)
    if not isinstance(facts, dict):
        raise ValueError("it is not a JSON object")
    return {name: found for name in ("speaker", "text") if (found := _optional(facts.get(name))) is not None}


def _of_parquet(source: Source, index: int) -> Iterator[Recording]:
    try:
        file = pq.ParquetFile(source.path)
    except pa.ArrowException as error:
        raise InputError(f"cannot read {source.path} as a Parquet file: {error}") from error
    with file:
        audio_column(file.schema_arrow, source.path)
        columns = [name for name in ("id", "speaker", "text") if name in file.schema_arrow.names]
        number, stem = 0, text_of(Path(source.path).stem)
        try:
            for group in range(file.num_row_groups):
                rows: list[dict[str, Any]] = [{}] * file.metadata.row_group(group).num_rows
                if columns:
                    rows = file.read_row_group(group, columns=columns).to_pylist()
                for row in rows:
                    speaker, text = (_optional(row.get(name)) for name in ("speaker", "text"))
                    name = _optional(row.get("id")) or f"{stem}/{number}"
                    yield Recording(name, index, b"", number, speaker=speaker, text=text)
                    number += 1
        except pa.ArrowException as error:
            fault = f"the Parquet file is damaged: {error}"
            yield Recording(source.name, index, b"", number, fault=" ".join(fault.split()))


def audio_column(schema: pa.Schema, path: str) -> str:
    """The column that holds the recordings, as pyarrow selects it: that named `audio`, or else the only one of bytes.

    It has the type binary, or is a struct with a field `bytes` of that type, whose other fields are not read.

    Raises:
        InputError: there is none, or several and none of them is named `audio`.
    """

    def is_bytes(kind: pa.DataType) -> bool:
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    found: dict[str, str] = {}
    for field in schema:
        if is_bytes(field.type):
            found[field.name] = field.name
        elif pa.types.is_struct(field.type):
            inner = field.type.get_field_index("bytes")
            if inner >= 0 and is_bytes(field.type.field(inner).type):
                found[field.name] = f"{field.name}.bytes"
    require("audio" in found or len(found) == 1, f"{path} has no column named audio that holds bytes, but {len(found)}")
    return found.get("audio") or next(iter(found.values()))
