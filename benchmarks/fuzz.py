"""Mutate valid inputs, and check that each is read as good or refused with one `InputError`.

    python benchmarks/fuzz.py --mutation 500000 --atheris 300000 --hypothesis 5000 --seed 0
    python benchmarks/fuzz.py --mutation 500000 --seed 1 --add  # keeps the rows of the earlier run

`fuzz_targets.py` has the kinds of inputs. Three tools make inputs of them: random mutation; atheris, which keeps those
that reach new lines of the code and mutates them again; and hypothesis. Half of the inputs that contain checksums get
true ones, so that false fields reach the checks behind.
An input that fails ends the run: the tool, its seed and the number of the execution repeat it. atheris
(`pip install ".[fuzz]"`) runs in a process for each kind of input.
Writes `fuzz.json` beside this file; recipes/cards.py makes the table.
"""

import argparse
import contextlib
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import strategies as st

from benchmarks.fuzz_targets import MAX_SECONDS, Target, execute, targets
from spectok.evaluation.provenance import write_results

MEMORY = Path("/dev/shm")  # a folder in memory, where there is one
RESULTS = Path(__file__).parent / "fuzz.json"
MAX_MB = 512  # that reading an input may reserve


def memory_folder() -> tempfile.TemporaryDirectory[str]:
    """A temporary folder, in memory if possible."""
    return tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None)


def limit_memory() -> None:
    """Let the process reserve at most `MAX_MB` more than now; a failure is then a MemoryError."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + MAX_MB * 1_000_000
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def mutated(content: bytes, draw: random.Random) -> bytes:
    """The content with one to four changes: bytes that are replaced, removed, repeated, inserted, or cut off."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        start = draw.randint(0, len(data))
        stop = min(len(data), start + draw.choice((1, 1, 2, 4, 8, 64)))
        change = draw.randrange(6)
        if change == 0:
            data[start:stop] = draw.randbytes(stop - start)
        elif change == 1:
            data[start:stop] = bytes([draw.choice((0, 1, 127, 128, 255))]) * (stop - start)
        elif change == 2:
            del data[start:stop]
        elif change == 3:
            data[start:start] = data[start:stop] * draw.choice((1, 2, 100))
        elif change == 4:
            data[start:start] = draw.choice((b"[", b"{", b'"', b"-1", b"1e999", b"null", b"\0", b"9" * 20))
        elif draw.randrange(4) == 0:
            del data[start:]
    return bytes(data)


def mutation(name: str, target: Target, seed: int, executions: int) -> int:
    """Read inputs that are mutated at random; returns how many were refused.

    Raises:
        RuntimeError: an input failed; a note has its bytes.
    """
    refused = 0
    for number in range(executions):
        draw = random.Random(f"{seed} {number}")
        content = mutated(draw.choice(target.seeds), draw)
        if target.mend and draw.randrange(2):
            content = target.mend(content)
        try:
            refused += not execute(target, content)
        except Exception as error:
            raise _failure(name, seed, number, content, error) from error
    return refused


def _failure(name: str, seed: int, number: int, content: bytes, error: Exception) -> RuntimeError:
    failure = RuntimeError(f"{name}, seed {seed}, execution {number}: {error!r}")
    failure.add_note(repr(content))
    return failure


def generated(name: str, target: Target, seed: int, executions: int) -> int:
    """Read inputs that hypothesis makes of valid ones by replacing some bytes; otherwise as `mutation`."""
    places = st.tuples(st.integers(0, max(map(len, target.seeds))), st.integers(0, 9), st.binary(max_size=9))
    number = refused = 0
    failures = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=executions,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(st.sampled_from(target.seeds), st.lists(places, min_size=1, max_size=4), st.booleans())
    def run(content: bytes, changes: list[tuple[int, int, bytes]], mend: bool) -> None:
        nonlocal number, refused
        for place, length, inserted in changes:
            content = content[:place] + inserted + content[place + length :]
        if target.mend and mend:
            content = target.mend(content)
        try:
            refused += not execute(target, content)
        except Exception as error:
            failures.append(_failure(name, seed, number, content, error))
            raise
        number += 1

    with contextlib.suppress(Exception):  # hypothesis repeats the execution that failed
        run()
    if failures:
        raise failures[0]
    assert number == executions, f"hypothesis has made {number} inputs"
    return refused


def guided(name: str, target: Target, seed: int, executions: int) -> int:
    """Read inputs that atheris makes, in another process; otherwise as `mutation`."""
    with memory_folder() as folder:
        for number, content in enumerate(target.seeds):
            (Path(folder) / str(number)).write_bytes(content)
        command = [sys.executable, "-m", "benchmarks.fuzz_atheris", name, folder, f"-atheris_runs={executions}"]
        # The time is measured by the target: one of the clock would depend on what else runs.
        limits = [f"-seed={seed + 1}", "-timeout=60", "-rss_limit_mb=0", f"-max_len={64 + max(map(len, target.seeds))}"]
        found = subprocess.run([*command, *limits], capture_output=True, text=True, errors="replace")
    if found.returncode:
        raise RuntimeError(f"{name}, seed {seed}: atheris ended with {found.returncode}\n{found.stderr[-4000:]}")
    counts: dict[str, int] = json.loads(found.stdout.splitlines()[-1])
    assert counts["executions"] == executions, counts
    return counts["refused"]


TOOLS: dict[str, Callable[[str, Target, int, int], int]] = {
    "mutation": mutation,
    "atheris": guided,
    "hypothesis": generated,
}


def fuzz(tool: str, seed: int, executions: int, only: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Run one of `TOOLS` on all kinds of inputs, or on some.

    Args:
        tool: its name.
        seed: of all inputs.
        executions: for each kind of input, times its share.
        only: names of kinds; by default all.

    Yields:
        A row for each kind of "input": the "tool", the "seed", how many "executions", of which how many were
        "refused", and in how many "seconds".

    Raises:
        RuntimeError: an input failed.
    """
    with memory_folder() as folder:
        for name, target in targets(Path(folder)).items():
            if only and name not in only:
                continue
            count, begin = round(target.share * executions), time.monotonic()
            refused = TOOLS[tool](name, target, seed, count)
            row = {"input": name, "tool": tool, "seed": seed, "executions": count, "refused": refused}
            yield row | {"seconds": round(time.monotonic() - begin, 1)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments, run, and print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for tool in TOOLS:
        parser.add_argument(f"--{tool}", type=int, default=0, metavar="N", help="inputs of each kind that it makes")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs (default: %(default)s)")
    parser.add_argument("--only", action="append", default=[], metavar="KIND", help="a kind of input; may be repeated")
    parser.add_argument("--add", action="store_true", help="keep the rows that are in the file")
    args = parser.parse_args(arguments)
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"] if args.add else []
    for tool in sorted(TOOLS):  # atheris first: its processes do not fit the limit of the others
        if tool != "atheris":
            limit_memory()
        for row in fuzz(tool, args.seed, vars(args)[tool], args.only) if vars(args)[tool] else ():
            print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
            rows.append(row)
            write_results(RESULTS, {"limits": {"seconds": MAX_SECONDS, "MB": MAX_MB}, "rows": rows}, {})
    print(f"{sum(row['executions'] for row in rows)} executions, no other exception than InputError")
    return 0


if __name__ == "__main__":
    sys.exit(main())
