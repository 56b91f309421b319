"""Helpers for all file formats: names for messages, lists of files, and atomic writes."""

import functools
import io
import os
import secrets
import shutil
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from spectok.errors import InputError

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

_PREFIX, _SUFFIX = ".spectok-", ".tmp"  # of temporary files


def file_name(source: str | Path | BinaryIO) -> str:
    """The name of a path or stream in messages."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source) or "the empty path"
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else "the stream"


def why(error: OSError | ValueError) -> str:
    """The text of an error, without its number and path."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def open_binary(target: str | Path | BinaryIO, mode: str) -> tuple[BinaryIO, bool]:
    """A binary stream for a path or stream, and whether it was opened here, so that the caller must close it.

    Raises:
        InputError: the path cannot be opened, or the stream is closed, or one of text.
    """
    verb = "read" if mode == "rb" else "write"
    if not isinstance(target, str | os.PathLike):
        wrong = "it is a stream of text, not of bytes" if isinstance(target, io.TextIOBase) else ""
        wrong = wrong or ("it is closed" if getattr(target, "closed", False) else "")
        if wrong:
            raise InputError(f"cannot {verb} {file_name(target)}: {wrong}")
        return target, False
    try:
        return cast(BinaryIO, open(target, mode)), True
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        raise InputError(f"cannot {verb} {target}: {why(error)}") from error


def read_regular(path: str | Path, most: int) -> bytes:
    """The content of a regular file of at most `most` bytes.

    Nothing is read from a pipe or a device, which could wait or go on forever.

    Raises:
        InputError: it cannot be read, is not a regular file, or is larger.
    """
    try:
        flags = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # opening a pipe must not wait for its writer
        with open(os.open(path, os.O_RDONLY | flags), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"cannot read {path}: it is not a regular file")
            if status.st_size > most:
                raise InputError(f"cannot read {path}: it has {status.st_size} bytes, but may have at most {most}")
            return file.read(status.st_size)
    except InputError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        raise InputError(f"cannot read {path}: {why(error)}") from error


def list_files(folder: str | Path, suffixes: Collection[str]) -> list[Path]:
    """The files in a folder and its subfolders with one of the suffixes, in lower case, sorted, without hidden files.

    Raises:
        InputError: the path is not a folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{folder} is not a folder")
    found = (path for path in root.rglob("*") if path.suffix.lower() in suffixes)
    return sorted(path for path in found if path.is_file() and not path.name.startswith("."))


class Replacement:
    """An empty temporary file beside a path. `commit` makes it the file at the path, `discard` removes it.

    Other processes see either the old file or the whole new one. Links are followed, and the mode of an existing file
    is kept. The first temporary file that a process makes in a folder removes those there that dead processes have
    left; a lock tells the living ones.

    Args:
        path: where the file will be.

    Raises:
        InputError: the folder is missing or cannot be written, or `path` exists and is not a regular file.
    """

    def __init__(self, path: str | Path) -> None:
        self._name = path
        try:
            self._target = Path(os.path.realpath(path))
            is_folder, is_other = self._target.is_dir(), self._target.exists() and not self._target.is_file()
        except (OSError, ValueError) as error:
            raise InputError(f"cannot write {path}: {why(error)}") from error
        if is_folder:
            raise InputError(f"cannot write {path}: it is a folder")
        if is_other:
            raise InputError(f"cannot write {path}: it is not a regular file")
        self.path = self._target.parent / f"{_PREFIX}{secrets.token_hex(6)}{_SUFFIX}"
        self._lock: int | None = None
        try:
            _remove_leftovers_once(self._target.parent)
            self._lock = _locked(self.path)
            if self._target.exists():
                shutil.copymode(self._target, self.path)
        except OSError as error:
            self.discard()
            raise InputError(f"cannot write {path}: {why(error)}") from error
        except BaseException:
            self.discard()
            raise

    def commit(self) -> None:
        """Put the file, with all its bytes on the disk, in its place.

        Raises:
            InputError: it cannot be written.
        """
        try:
            with open(self.path, "r+b") as written:
                os.fsync(written.fileno())
            if os.name == "nt":  # an open file cannot be renamed there
                self._unlock()
            os.replace(self.path, self._target)
        except OSError as error:
            raise InputError(f"cannot write {self._name}: {why(error)}") from error
        if os.name == "posix":
            with suppress(OSError):  # not every file system can
                folder = os.open(self._target.parent, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)

    def discard(self) -> None:
        """Remove the file if it is still there."""
        self._unlock()
        with suppress(OSError):
            self.path.unlink()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _locked(path: Path) -> int:
    """Create a file and lock it until its descriptor is closed: the mark of a living process, which dies with it."""
    while True:
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags, 0o666)  # unlike tempfile, this honours the umask
        if fcntl is not None:
            with suppress(OSError):  # some file systems have no locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        if path.exists():
            return descriptor
        os.close(descriptor)  # another process took it for a leftover before it was locked


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files in a folder that no living process has locked."""
    for path in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
        with suppress(OSError), open(path, "r+b") as handle:
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # an OSError if it is locked
                path.unlink()
        if fcntl is None:
            with suppress(OSError):  # Windows: an open file cannot be removed
                path.unlink()


_remove_leftovers_once = functools.cache(remove_leftovers)


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield an empty temporary file beside `path`. It replaces `path` when the block ends; if it fails, it is removed.

    Raises:
        InputError: as for `Replacement`, or the block raised an OSError, for example because the disk is full.
    """
    replacement = Replacement(path)
    try:
        yield replacement.path
        replacement.commit()
    except BrokenPipeError:  # of another output
        raise
    except OSError as error:
        raise InputError(f"cannot write {path}: {why(error)}") from error
    finally:  # also after an interrupt
        replacement.discard()


def write_text(path: str | Path, text: str) -> None:
    """Write a text in UTF-8 with `atomic_write`, whose errors it raises."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
