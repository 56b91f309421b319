"""Inputs and outputs of the command line: files, folders, standard input and output, and the progress line."""

import argparse
import logging
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from numpy.typing import NDArray

from spectok.errors import InputError, require, shown
from spectok.files import why

PROGRESS_SECONDS = 30  # the shortest audio whose progress is shown
PROGRESS_FILES = 8  # the smallest number of files whose progress is shown

logger = logging.getLogger(__name__)

PathOrStream = str | BinaryIO


class Stopped(BaseException):
    """The process was told to end by a signal. As for a KeyboardInterrupt, temporary files are removed on the way."""

    def __init__(self, signal: int) -> None:
        self.signal = signal


def standard(path: str, mode: str) -> PathOrStream:
    """The path itself, or for `-` the stream of standard input (mode "rb") or standard output (mode "wb").

    Raises:
        InputError: the stream was closed before the program began.
    """
    if path != "-":
        return path
    stream, name = (sys.stdin, "input") if mode == "rb" else (sys.stdout, "output")
    require(hasattr(stream, "buffer"), f"the standard {name} is closed")
    return stream.buffer


class Output(NamedTuple):
    """Where a result goes."""

    path: str  # or `-`
    in_folder: bool = False  # whether its folder is made, if it does not exist

    def open(self) -> PathOrStream:
        """The path, whose folder exists now, or the stream of standard output."""
        if self.in_folder:
            Path(self.path).parent.mkdir(parents=True, exist_ok=True)
        return standard(self.path, "wb")


@contextmanager
def status_line(hidden: bool = False) -> Iterator[Callable[[str], None]]:
    """Yield a function that shows a text. A terminal shows the last one on one line, removed at the end."""
    visible = sys.stderr.isatty() and not hidden and logger.isEnabledFor(logging.WARNING)  # not with --quiet

    def show(text: str) -> None:
        if visible:
            print(f"\r{text}\033[K", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        show("")


@contextmanager
def progress(what: str, unit: str, hidden: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Yield a progress callback `(done, total)`, which shows the numbers with `status_line`."""
    with status_line(hidden) as show:
        yield lambda done, total: show(f"{shown(what, 60)}: {done}/{total} {unit}")


def counted(pieces: Iterable[NDArray[Any]], per_second: float, total: int | None, name: str) -> Iterator[NDArray[Any]]:
    """Pass pieces on, and show how many of `total` seconds are done if these are 30 or more. None: not known."""
    is_alone = threading.current_thread() is threading.main_thread()
    seconds, done = 0 if total is None else total, 0
    with progress(name, "s", hidden=seconds < PROGRESS_SECONDS or not is_alone) as show:
        for piece in pieces:
            if _stopping.is_set():
                raise KeyboardInterrupt
            show(int(done / per_second), seconds)
            yield piece
            done += len(piece)


def check_output(path: str, force: bool, source: str = "-") -> None:
    """Raise InputError if the path is the input's, or if it exists and `force` does not allow to overwrite it."""
    same = False
    with suppress(OSError, ValueError):  # there is no such file
        same = "-" not in (path, source) and os.path.samefile(path, source)
    require(not same, f"{path} is both the input and the output")
    require(force or path == "-" or not os.path.exists(path), f"{path} exists already; --force overwrites it")


_stopping = threading.Event()  # whether the threads of `for_each` shall end


def for_each(
    suffix: str,
    find: Callable[[str], list[Path]],
    convert: Callable[[PathOrStream, Output], None],
    args: argparse.Namespace,
) -> None:
    """Convert every input. An input that fails does not stop the others.

    Args:
        suffix: ending of the outputs' names, such as ".spt".
        find: lists the inputs in a folder.
        convert: reads one input and writes its output, which it opens when the input has turned out to be good.
        args: the parsed command line:
            `inputs`: paths of files and folders, or `-`.
            `output`: a file if the input is one file; otherwise, or if it ends in a slash, a folder, which is created
            with its first file.
            `force`: overwrite existing outputs.
            `skip_existing`: skip inputs whose outputs exist.
            `jobs`: number of files converted at a time.

    Raises:
        InputError: inputs failed; the message has one sentence for each.
    """
    inputs, output, jobs = args.inputs, args.output, args.jobs
    require(jobs > 0, f"--jobs is {jobs}, but must be positive")
    found = pairs(inputs, output, suffix, find)
    several = len(inputs) > 1 or os.path.isdir(inputs[0]) or _is_folder(output)

    def failure_of(pair: tuple[str, str]) -> str | None:
        source, destination = pair
        try:
            if args.skip_existing and destination != "-" and os.path.exists(destination):
                logger.info("%s exists already", destination)
                return None
            check_output(destination, args.force, source)
            convert(standard(source, "rb"), Output(destination, several))
            logger.info("%s -> %s", source, destination)
        except InputError as error:
            return str(error)
        except BrokenPipeError:  # the process that reads the output has ended: not an error of this input
            raise
        except OSError as error:
            return f"cannot write {destination}: {why(error)}"
        return None

    failures = []
    _stopping.clear()
    with progress("files", "done", hidden=len(found) < PROGRESS_FILES) as show, ThreadPoolExecutor(jobs) as pool:
        try:
            show(0, len(found))
            for number, failure in enumerate((map if jobs == 1 else pool.map)(failure_of, found), 1):
                show(number, len(found))
                failures += [failure] if failure else []
        except BaseException:  # an interrupt, or a closed pipe
            _stopping.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if failures:
        raise InputError(*failures)


def _is_folder(output: str) -> bool:
    """Whether a path ends in a slash."""
    return output.endswith((os.sep, os.altsep or os.sep))


def pairs(inputs: list[str], output: str, suffix: str, find: Callable[[str], list[Path]]) -> list[tuple[str, str]]:
    """Pairs of input and output paths: `output` itself for one file, paths inside it for several files or a folder.

    Raises:
        InputError: a folder has no inputs, `-` is one of several inputs, or two outputs would have the same path.
    """
    if len(inputs) == 1 and not os.path.isdir(inputs[0]):
        has_folder = os.path.isdir(output) or _is_folder(output)
        return [(inputs[0], os.path.join(output, Path(inputs[0]).stem + suffix) if has_folder else output)]
    require(output != "-" and "-" not in inputs, "several inputs cannot be mixed with standard input or output")
    require(not os.path.isfile(output), f"{output} is a file, but several inputs need a folder")
    require("" not in inputs, "one of the inputs is the empty path")
    found: list[tuple[str, Path]] = []  # inputs, and their paths below the output folder
    for name in inputs:
        if os.path.isdir(name):
            inside = [path.relative_to(name) for path in find(name)]
            require(len(inside) > 0, f"the folder {name} holds nothing to convert")
            found += [(os.path.join(name, path), path) for path in inside]
        else:
            found.append((name, Path(Path(name).name)))
    count = Counter(path.with_suffix(suffix) for _, path in found)
    taken: dict[str, str] = {}
    for source, path in found:
        # a.mp3 and a.aiff of one folder become a.mp3.spt and a.aiff.spt.
        short = path.with_suffix(suffix)
        destination = os.path.join(output, short if count[short] == 1 else path.with_name(path.name + suffix))
        require(destination not in taken, f"{taken.get(destination)} and {source} would both become {destination}")
        taken[destination] = source
    return [(source, destination) for destination, source in taken.items()]
