"""Counters, gauges and a histogram of one worker or several, as text for Prometheus.

The values are a row of float64 for each worker, in memory that the workers may share: any worker then reports the sums.
"""

from bisect import bisect_left
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Metric(NamedTuple):
    """What a value is called and means."""

    name: str
    kind: str  # "counter", "gauge" or "histogram"
    text: str
    labels: str = ""


METRICS = {
    "workers": Metric("spectok_workers", "gauge", "Processes that serve."),
    "connections": Metric("spectok_connections", "gauge", "Connections that are open."),
    "streams": Metric("spectok_streams", "gauge", "Clients that were accepted and are connected."),
    "accepted": Metric("spectok_accepted_total", "counter", "Clients that were accepted."),
    "refused": Metric("spectok_refused_total", "counter", "Clients that were refused, or sent a bad message."),
    "encoded": Metric("spectok_frames_total", "counter", "Frames that were computed.", '{side="encoder"}'),
    "decoded": Metric("spectok_frames_total", "counter", "Frames that were computed.", '{side="decoder"}'),
    "relayed": Metric("spectok_relayed_bytes_total", "counter", "Bytes of codes that were forwarded in rooms."),
    "waiting": Metric("spectok_waiting_bytes", "gauge", "Bytes of input that wait to be computed."),
    "batches": Metric("spectok_batches_total", "counter", "Turns in which waiting streams ran together."),
    "batched": Metric("spectok_batched_streams_total", "counter", "Streams in these turns, each counted in each turn."),
    "busy": Metric("spectok_busy_seconds_total", "counter", "Seconds in which turns were computed."),
}
TURN = Metric("spectok_turn_seconds", "histogram", "Time from the arrival of a message until its output is ready.")
BOUNDS = (0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.1, 0.2, 0.5, 1.0, 5.0)  # of the histogram, in seconds
PLACES = {name: place for place, name in enumerate(METRICS)}
GAUGES = [PLACES[name] for name, metric in METRICS.items() if metric.kind == "gauge"]
FIRST = len(METRICS)  # place of the histogram: a count for each bound, one for all that is longer, and the sum
VALUES = FIRST + len(BOUNDS) + 2


class Metrics:
    """The values of one worker, among those of all.

    Args:
        values: float64 `[workers, VALUES]`; by default those of one worker alone.
        worker: the number of this worker.
    """

    def __init__(self, values: NDArray[np.float64] | None = None, worker: int = 0) -> None:
        self.values = np.zeros((1, VALUES)) if values is None else values
        self._own = self.values[worker]

    def add(self, name: str, amount: float = 1) -> None:
        """Add to a counter or a gauge of `METRICS`. Each is changed by one thread, or behind one lock."""
        self._own[PLACES[name]] += amount

    def get(self, name: str) -> float:
        """The sum of a value of `METRICS` over all workers."""
        return float(self.values[:, PLACES[name]].sum())

    def observe(self, seconds: float) -> None:
        """Count a time in the histogram."""
        self._own[FIRST + bisect_left(BOUNDS, seconds)] += 1
        self._own[-1] += seconds

    def clear_gauges(self) -> None:
        """Set the gauges of this worker to zero, after it has ended; counters never fall."""
        self._own[GAUGES] = 0

    def text(self) -> str:
        """The sums over all workers, in the text format of Prometheus."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        sums, described = self.values.sum(axis=0), ""
        for name, metric in METRICS.items():
            if metric.name != described:
                yield from _header(metric)
                described = metric.name
            yield f"{metric.name}{metric.labels} {sums[PLACES[name]]:.10g}"
        yield from _header(TURN)
        counts = np.cumsum(sums[FIRST:-1])
        for bound, count in zip((*BOUNDS, "+Inf"), counts, strict=True):
            yield f'{TURN.name}_bucket{{le="{bound}"}} {count:.10g}'
        yield f"{TURN.name}_sum {sums[-1]:.10g}"
        yield f"{TURN.name}_count {counts[-1]:.10g}"


def _header(metric: Metric) -> Iterator[str]:
    yield f"# HELP {metric.name} {metric.text}"
    yield f"# TYPE {metric.name} {metric.kind}"
