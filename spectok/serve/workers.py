"""Several processes that serve on one port. The system gives each connection to one of them; one that dies is replaced.

The processes share the port (SO_REUSEPORT) and the memory of their metrics, and nothing else.
"""

import asyncio
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import connection, get_context, parent_process
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

import numpy as np

from spectok.errors import InputError, require, shown
from spectok.serve import server
from spectok.serve.metrics import VALUES, Metrics
from spectok.serve.server import Options, bound

RESTART_SECONDS = 1.0  # from the start of a worker to that of the next in its place, at least
END_SECONDS = 15.0  # for a worker to end, until it is killed
POLL_SECONDS = 0.1
logger = logging.getLogger(__name__)


class Workers:
    """The processes, and the memory of their metrics.

    Args:
        options: of the command line.
        port: that all of them listen on.
    """

    def __init__(self, options: Options, port: int) -> None:
        self._options, self._port, self._context = options, port, get_context("spawn")
        self._memory = self._context.RawArray("d", options.workers * VALUES)
        self.metrics = [Metrics(_values(self._memory), worker) for worker in range(options.workers)]
        self._processes: list[BaseProcess | None] = [None] * options.workers
        self._started = [-RESTART_SECONDS] * options.workers  # time.monotonic()

    def keep(self) -> None:
        """Start what does not run, and wait a while for one that ends.

        Raises:
            InputError: a worker cannot start; it has printed the reason.
        """
        for worker, process in enumerate(self._processes):
            if process is not None and process.exitcode is None:
                continue
            if process is not None:
                self.metrics[worker].clear_gauges()
                self._processes[worker] = None
                require(process.exitcode != 2, "a worker could not start")
                logger.warning("a worker has ended with %s and is replaced", process.exitcode)
            if time.monotonic() >= self._started[worker] + RESTART_SECONDS:
                self._start(worker)
        running = [process.sentinel for process in self._processes if process is not None]
        connection.wait(running, POLL_SECONDS)

    def end(self) -> None:
        """End all processes: first as SIGTERM does, and those that take too long at once."""
        processes = [process for process in self._processes if process is not None]
        for process in processes:
            process.terminate()
        ends = time.monotonic() + END_SECONDS
        for process in processes:
            process.join(max(0.0, ends - time.monotonic()))
            process.kill()
            process.join()

    def _start(self, worker: int) -> None:
        arguments = (self._options, self._port, self._memory, worker)
        process = self._context.Process(target=_work, args=arguments, name=f"spectok-worker-{worker}", daemon=True)
        process.start()
        self._processes[worker], self._started[worker] = process, time.monotonic()


def run(options: Options, listening: Callable[[int], None]) -> None:
    """Serve in several processes until SIGTERM or Ctrl-C.

    Args:
        options: of the command line.
        listening: called with the port when all workers serve.

    Raises:
        InputError: the system cannot share a port, it is in use, or a worker cannot start.
    """
    require(hasattr(socket, "SO_REUSEPORT"), "several workers need a system with SO_REUSEPORT; this one has none")
    options.found()
    bound(options).close()  # fails if any other process listens, also one that would share the port
    with bound(options, shared=True) as reserved, _stopping() as stopped:  # never listens, so it gets no connection
        workers = Workers(options, reserved.getsockname()[1])
        announced = False
        try:
            while not stopped:
                workers.keep()
                if not announced and workers.metrics[0].get("workers") == options.workers:
                    listening(reserved.getsockname()[1])
                    announced = True
        finally:
            workers.end()


@contextmanager
def _stopping() -> Iterator[list[int]]:
    """A list that gets the signals SIGTERM and SIGINT."""
    stopped: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        stopped.append(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _values(memory: Any) -> Any:
    return np.frombuffer(memory, np.float64).reshape(-1, VALUES)


def _work(options: Options, port: int, memory: Any, worker: int) -> None:
    """What a worker runs. It ends when its parent does, also if that is killed."""
    parent = parent_process()
    assert parent is not None
    metrics = Metrics(_values(memory), worker)
    try:
        listener = bound(options, port, shared=True)
        asyncio.run(server.until_signal(options, listener, metrics, lambda _: None, parent.sentinel))
    except InputError as error:
        print(f"spectok: {shown(str(error))}", file=sys.stderr)
        sys.exit(2)
