"""Runs shards in processes of this machine."""

import logging
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Generator, Sequence
from contextlib import suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from spectok.bulk.plan import Plan
from spectok.bulk.shards import Counts, tokenize_shard
from spectok.errors import InputError
from spectok.files import remove_leftovers

TRIES = 2  # how often a shard is begun whose process ends without an answer


def run_here(plan: Plan, indices: Sequence[int]) -> Generator[tuple[int, Counts]]:
    """Run shards one after the other in this process; yields each index with what `tokenize_shard` returned.

    A signal that arrives while libsndfile reads from a tar or a Parquet file can be taken for damage of the recording,
    because its callbacks lose exceptions. Processes of a pool get no signals but the one that ends them.
    """
    for index in indices:
        yield index, tokenize_shard(plan, index)


def run_pool(plan: Plan, indices: Sequence[int], jobs: int) -> Generator[tuple[int, Counts]]:
    """Run shards in other processes, each on one thread; yields each index when its shard is finished.

    A shard whose process ends without an answer, for example because the system has no memory left, is tried once more
    in a new process; then it is given up, and the others go on. The processes end with this generator or this process.

    Args:
        plan: of the shards.
        indices: of the shards to run.
        jobs: number of processes.

    Raises:
        InputError: a shard could not be written; or shards were given up, after all others.
    """
    waiting, tries = deque(indices), Counter[int]()
    given_up: list[int] = []
    workers: dict[Connection, tuple[BaseProcess, int]] = {}  # by the connection: the process and the shard it works on

    def give(connection: Connection, process: BaseProcess, index: int) -> None:
        workers[connection] = (process, index)
        with suppress(OSError):  # it has ended; `wait` reports that too
            connection.send(index)

    try:
        while waiting or workers:
            while waiting and len(workers) < jobs:
                connection, process = _start(plan)
                give(connection, process, waiting.popleft())
            for ready in wait(list(workers)):
                assert isinstance(ready, Connection)
                process, index = workers.pop(ready)
                try:
                    answer = ready.recv()
                except (EOFError, OSError):
                    ready.close()
                    process.join()
                    tries[index] += 1
                    (given_up if tries[index] == TRIES else waiting).append(index)
                    continue
                if isinstance(answer, InputError):
                    _stop(ready, process)
                    raise answer
                if waiting:
                    give(ready, process, waiting.popleft())
                else:
                    _stop(ready, process)
                yield index, answer
    finally:
        for connection, (process, _) in workers.items():
            _stop(connection, process)
        remove_leftovers(Path(plan.folder))
    if given_up:
        raise InputError(
            f"the processes of {len(given_up)} shards ended without an answer, {TRIES} times each, such as shard "
            f"{given_up[0]}; the other shards are finished, and the same command tries these again"
        )


def _start(plan: Plan) -> tuple[Connection, BaseProcess]:
    """Start a process that works for the other end of a connection."""
    context = get_context("spawn")  # a fork would copy the locks of threads
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, plan), daemon=True)
    process.start()
    theirs.close()  # so that ours ends when the process does
    return ours, process


def _stop(connection: Connection, process: BaseProcess) -> None:
    """End a process at once. Its temporary file stays."""
    process.kill()
    process.join()
    connection.close()


def _work(connection: Connection, plan: Plan) -> None:
    """The main function of a process: runs each shard whose index arrives, and answers with its counts or an error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C reaches every process; the first one ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.getLogger("spectok").addHandler(logging.NullHandler())
    while True:
        try:
            index = connection.recv()
        except EOFError:
            return
        try:
            answer: Counts | InputError = tokenize_shard(plan, index)
        except InputError as error:
            answer = error
        connection.send(answer)


def _end_with_parent() -> None:
    """End this process when the one that started it has ended, however it ended."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
