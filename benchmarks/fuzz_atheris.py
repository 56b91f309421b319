"""Run one of the targets of `fuzz_targets.py` in atheris; `fuzz.py` starts this as a process.

    python -m benchmarks.fuzz_atheris NAME FOLDER -atheris_runs=100000 -seed=1

The folder has the valid inputs, and gets those that reach new lines. The last line printed is a JSON object with the
numbers of "executions" and of those that were "refused". Further arguments are those of libFuzzer.
"""

import atexit
import json
import random
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["spectok", "tomllib"]):
    from benchmarks.fuzz import limit_memory, memory_folder
    from benchmarks.fuzz_targets import execute, targets


def main() -> None:
    """Read the arguments and run; atheris ends the process."""
    name, corpus, *options = sys.argv[1:]
    folder = memory_folder()
    target = targets(Path(folder.name))[name]
    counts = {"executions": 0, "refused": 0}

    def read(content: bytes) -> None:
        counts["executions"] += 1
        counts["refused"] += not execute(target, content)

    def mutate(content: bytes, most: int, seed: int) -> bytes:
        content = atheris.Mutate(content, most)
        if target.mend and random.Random(seed).randrange(2):
            content = target.mend(content)
        return content[:most]

    def end() -> None:
        print(json.dumps(counts), flush=True)
        folder.cleanup()

    atexit.register(end)
    limit_memory()
    atheris.Setup([sys.argv[0], *options, corpus], read, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
