"""Runs shards on Ray: on a cluster, or on a local one that is started for it."""

import logging
import os
import secrets
import tempfile
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from typing import Any

from spectok.bulk.plan import Plan
from spectok.bulk.shards import Counts, tokenize_shard
from spectok.errors import InputError

STARTS = 5  # attempts to start a local Ray, which gives up by itself on a machine with much other work


def run_ray(plan: Plan, indices: Sequence[int], jobs: int) -> Generator[tuple[int, Counts]]:
    """Run shards as tasks of Ray Data, each on one CPU; yields each index when its shard is finished.

    If Ray runs already, in this process or as the cluster that the environment names (`RAY_ADDRESS`) or this machine
    belongs to, it is used; otherwise a local one with `jobs` CPUs, whose files are in a temporary folder, runs until
    the generator ends. Every machine must see the sources, the model and the output under the same paths. Tasks that
    are lost with a machine are repeated by Ray.

    Args:
        plan: of the shards.
        indices: of the shards to run.
        jobs: number of CPUs of a local Ray.

    Raises:
        InputError: Ray is not installed, or a shard could not be written.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no reports to its authors
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise InputError(f"--ray needs Ray: pip install 'spectok[ray]' ({error})") from error

    def run(row: dict[str, Any]) -> dict[str, Any]:
        index = int(row["item"])
        try:
            return {"index": index, "error": None} | tokenize_shard(plan, index)._asdict()
        except InputError as error:  # as a value: Ray would repeat the task, and print its stack
            return {"index": index, "error": str(error)} | Counts(0, 0, 0.0, 0)._asdict()

    with ExitStack() as stack:
        if not ray.is_initialized():
            _connect(ray, jobs, stack)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        gpus = 1 if plan.device.startswith("cuda") else 0
        shards = ray.data.from_items([int(index) for index in indices], override_num_blocks=len(indices))
        for row in shards.map(run, num_cpus=1, num_gpus=gpus).iter_rows():
            if row["error"] is not None:
                raise InputError(row["error"])
            yield int(row["index"]), Counts(*(row[name] for name in Counts._fields))


def _connect(ray: Any, jobs: int, stack: ExitStack) -> None:
    """Connect to a running cluster, or start a local one; the end of the stack undoes it."""
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    stack.callback(ray.shutdown)
    try:
        ray.init("auto", **quiet)
        return
    except ConnectionError:  # there is none
        pass
    if not any(os.environ.get(f"RAY_AUTH_{name}") for name in ("MODE", "TOKEN", "TOKEN_PATH")):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # otherwise Ray writes one into the home directory
    for left in reversed(range(STARTS)):
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="spectok-ray-", ignore_cleanup_errors=True))
        stack.callback(ray.shutdown)  # before the folder is removed
        try:
            ray.init("local", num_cpus=jobs, include_dashboard=False, _temp_dir=folder, **quiet)
            return
        except Exception as error:  # Ray raises no class of its own; it gives up after 30 s
            ray.shutdown()
            if not left:
                raise InputError(f"Ray could not be started on this machine: {error}") from error
