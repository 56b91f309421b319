"""Inputs and outputs of the command line: files, folders, the standard streams, and the line that shows progress."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from spectok.errors import InputError
from spectok.files import why
from spectok.schema import require

PROGRESS_SECONDS = 30  # shorter audio needs no line of its own
PROGRESS_FILES = 8  # neither do fewer files

Place = str | BinaryIO  # a path or a standard stream
Write = Callable[[Place], None]  # puts a result where it is told


def standard(path: str, mode: str) -> Place:
    """The path itself, or for `-` the standard input (mode "rb") or output ("wb")."""
    if path != "-":
        return path
    return sys.stdin.buffer if mode == "rb" else sys.stdout.buffer


@contextmanager
def progress(what: str, unit: str, hidden: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Yield what is told how many of how many are done: a terminal shows it on one line, which vanishes at the end."""
    shown = sys.stderr.isatty() and not hidden

    def show(done: int, total: int) -> None:
        if shown:
            print(f"\r{what}: {done}/{total} {unit}\033[K", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        if shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def blocks(values: Any, per_second: int, name: str, seconds: int = 10) -> Iterator[Any]:
    """Blocks of some seconds, whose progress is shown if there are many."""
    total = len(values) // per_second
    with progress(name, "s", hidden=total < PROGRESS_SECONDS) as show:
        for start in range(0, len(values), seconds * per_second):
            show(start // per_second, total)
            yield values[start : start + seconds * per_second]


def check_output(path: str, force: bool) -> None:
    """Raise InputError if something is there already and may not be overwritten."""
    require(force or path == "-" or not os.path.exists(path), f"{path} exists already; --force overwrites it")


def for_each(
    inputs: list[str],
    output: str,
    suffix: str,
    find: Callable[[str], list[Path]],
    convert: Callable[[Place], Write],
    force: bool = False,
) -> None:
    """Convert every input; what fails is reported, and the rest is done all the same.

    Args:
        inputs: paths of files and folders, or `-`.
        output: a file for one input file, else a folder, which is made when there is something to put into it.
        suffix: of the outputs, where they are not named.
        find: lists the inputs in a folder.
        convert: reads one input, and returns what writes its output.
        force: overwrite what is there.

    Raises:
        InputError: one sentence for each input that failed.
    """
    found = pairs(inputs, output, suffix, find)
    several = len(inputs) > 1 or os.path.isdir(inputs[0])
    failures = []
    with progress("files", "done", hidden=len(found) < PROGRESS_FILES) as show:
        for number, (source, destination) in enumerate(found):
            show(number, len(found))
            try:
                check_output(destination, force)
                write = convert(standard(source, "rb"))
                if several:
                    Path(destination).parent.mkdir(parents=True, exist_ok=True)
                write(standard(destination, "wb"))
            except InputError as error:
                failures.append(str(error))
            except BrokenPipeError:  # who reads has gone: no fault of the input
                raise
            except OSError as error:
                failures.append(f"cannot write {destination}: {why(error)}")
    if failures:
        raise InputError("\nspectok: ".join(failures))


def pairs(inputs: list[str], output: str, suffix: str, find: Callable[[str], list[Path]]) -> list[tuple[str, str]]:
    """Inputs and their outputs: `output` itself for one file, names inside it for several files or a folder.

    Raises:
        InputError: nothing to convert, standard streams among several, or two outputs of one name.
    """
    if len(inputs) == 1 and not os.path.isdir(inputs[0]):
        inside = os.path.isdir(output)
        return [(inputs[0], os.path.join(output, Path(inputs[0]).stem + suffix) if inside else output)]
    require(output != "-" and "-" not in inputs, "several inputs cannot be mixed with standard input or output")
    require(not os.path.isfile(output), f"{output} is a file, but several inputs need a folder")
    listed = []
    for name in inputs:
        found = [path.relative_to(name) for path in find(name)] if os.path.isdir(name) else None
        require(found is None or bool(found), f"the folder {name} holds nothing to convert")
        if found is None:
            listed.append((name, os.path.join(output, Path(name).stem + suffix)))
        else:
            listed += [(os.path.join(name, path), os.path.join(output, path.with_suffix(suffix))) for path in found]
    taken: dict[str, str] = {}
    for source, destination in listed:
        require(destination not in taken, f"{taken.get(destination)} and {source} would both become {destination}")
        taken[destination] = source
    return listed
