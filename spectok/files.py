"""Helpers for all file formats: names for messages, the allowed sample rates, and atomic writes."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from spectok.errors import InputError

MIN_SAMPLE_RATE = 1_000  # Hz
MAX_SAMPLE_RATE = 768_000  # Hz; limits the memory that a hostile header can make a resampler allocate


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
        InputError: the path cannot be opened.
    """
    if not isinstance(target, str | os.PathLike):
        return target, False
    try:
        return cast(BinaryIO, open(target, mode)), True
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        verb = "read" if mode == "rb" else "write"
        raise InputError(f"cannot {verb} {target}: {why(error)}") from error


def check_sample_rate(sample_rate: Any, what: str = "the audio") -> int:
    """The sample rate in Hz as an int.

    Raises:
        InputError: it is not a whole number from 1 kHz to 768 kHz.
    """
    if isinstance(sample_rate, str):
        raise InputError(f"{what} has a sample rate of {sample_rate!r}, a text; it must be a whole number of Hz")
    try:
        whole = int(sample_rate) if int(sample_rate) == sample_rate else -1
    except (TypeError, ValueError, OverflowError):
        whole = -1
    if not MIN_SAMPLE_RATE <= whole <= MAX_SAMPLE_RATE:
        raise InputError(
            f"{what} has a sample rate of {sample_rate} Hz; it must be {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE}"
        )
    return whole


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield an empty temporary file beside `path`. It replaces `path` when the block ends; if it fails, it is removed.

    Other processes see either the old file or the whole new one. Links are followed, and the mode of an existing file
    is kept.

    Raises:
        InputError: the folder is missing or cannot be written, or `path` exists and is not a regular file.
    """
    try:
        target = Path(os.path.realpath(path))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write {path}: {why(error)}") from error
    if target.is_dir():
        raise InputError(f"cannot write {path}: it is a folder")
    if target.exists() and not target.is_file():
        raise InputError(f"cannot write {path}: it is not a regular file")
    temporary = target.parent / f".spectok-{secrets.token_hex(6)}"
    try:
        with open(temporary, "xb"):  # unlike tempfile, this honours the umask
            pass
        if target.exists():
            shutil.copymode(target, temporary)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise InputError(f"cannot write {path}: {why(error)}") from error
    try:
        yield temporary
        try:
            os.replace(temporary, target)
        except OSError as error:
            raise InputError(f"cannot write {path}: {why(error)}") from error
    except BaseException:  # also after an interrupt
        with suppress(OSError):
            temporary.unlink()
        raise


def write_text(path: str | Path, text: str) -> None:
    """Write a text in UTF-8 with `atomic_write`."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
