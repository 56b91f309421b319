"""Measure how much audio `spectok tokenize` encodes per hour of a core, with one and two workers, in a pool and on Ray.

    python benchmarks/bulk.py CORPUS

The corpus is tokenised by each model in each way, in turn in one run. Counted are the seconds of the clock and those of
the processors in all processes that belong to the run, from its start to the finished summary: loading of packages,
planning and Ray's own services included. Only the latter can be compared on a machine with other work. All ways must
write the same bytes. The size of the files and the seconds without the start of a process are those of a further run in
this process, with shards of the usual size. Writes `bulk.json` beside this file; recipes/cards.py makes the tables.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spectok import InputError, pretrained
from spectok.bulk.run import tokenize
from spectok.evaluation.provenance import weights_of, write_results

WAYS = (("pool", 1), ("pool", 2), ("ray", 1), ("ray", 2))
SHARD_RECORDINGS = 10  # so that the workers have enough shards to share
WHOLE_SHARD = 1000  # recordings of a shard of the usual size
EVERY = 0.2  # seconds between looks at the processes


def cpu_seconds(root: int) -> dict[tuple[int, str], float]:
    """User and system seconds of a process and all that descend from it, by number and start time."""
    facts = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        used = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        facts[int(path.parent.name)] = (int(fields[1]), fields[19], used)
    found, wanted = {}, [root]
    while wanted:
        number = wanted.pop()
        if number in facts:
            found[(number, facts[number][1])] = facts[number][2]
        wanted += [child for child, (parent, _, _) in facts.items() if parent == number]
    return found


def run(command: list[str]) -> dict[str, float]:
    """Run a command; returns its seconds of the clock and of the processors.

    Raises:
        InputError: it fails.
    """
    used: dict[tuple[int, str], float] = {}
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            used |= cpu_seconds(process.pid)
            time.sleep(EVERY)
    if process.returncode:
        raise InputError(f"the command ended with {process.returncode}")
    return {"seconds": round(time.monotonic() - began, 2), "cpu_seconds": round(sum(used.values()), 2)}


def digest(folder: Path) -> str:
    """A digest of the names and the bytes of all files in a folder."""
    whole = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        whole.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()


def measure(corpus: Path, model: str, folder: Path, ways: Sequence[tuple[str, int]] = WAYS) -> dict[str, Any]:
    """Tokenise a corpus by one model in each way.

    Args:
        corpus: a folder, a manifest or another source; every recording must be good.
        model: name of a released model.
        folder: empty, for the outputs.
        ways: pairs of "pool" or "ray", and the number of workers.

    Raises:
        InputError: a run fails, or writes other bytes than the first one.
    """
    rows, digests = [], set()
    for number, (kind, workers) in enumerate(ways):
        out = folder / str(number)
        command = [sys.executable, "-m", "spectok", "tokenize", str(corpus), "--out", str(out), "--model", model]
        command += ["--jobs", str(workers), "--shard-recordings", str(SHARD_RECORDINGS)]
        rows.append({"kind": kind, "workers": workers} | run(command + ["--ray"] * (kind == "ray")))
        digests.add(digest(out))
        print(model, rows[-1], flush=True)
    if len(digests) != 1:
        raise InputError("the ways wrote different bytes")
    began = time.process_time()
    whole = tokenize(corpus, folder / "whole", model=model, jobs=0, shard_recordings=WHOLE_SHARD)
    steady = round(time.process_time() - began, 2)
    facts = {name: whole[name] for name in ("recordings", "hours", "tokens", "bytes")}
    facts |= {"entropy_bits": whole["token_statistics"]["entropy_bits"]}
    plan = (folder / "whole" / "plan.parquet").stat().st_size
    return {"model": model, **facts, "plan_bytes": plan, "steady_cpu_seconds": steady, "ways": rows}


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    args = parser.parse_args(arguments)
    rows = []
    for model in pretrained.models():
        with tempfile.TemporaryDirectory() as folder:
            try:
                rows.append(measure(args.corpus, model, Path(folder)))
            except InputError as error:
                print(f"bulk: {error}", file=sys.stderr)
                return 2
    found = {"shard_recordings": SHARD_RECORDINGS, "rows": rows}
    write_results(Path(__file__).parent / "bulk.json", found, weights_of(pretrained.models()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
