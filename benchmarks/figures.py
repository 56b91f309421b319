"""The figure of `loss.json`, and what it shares with others; recipes/cards.py puts them into the documents."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.tables import KINDS
from spectok.evaluation.catalogue import METRICS
from spectok.files import atomic_write
from spectok.plotting import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DRAWN = ("distillmos", "pesq")
CODECS = {  # a marker, and a colour that people with any kind of colour vision tell from the others
    "spectok-16k-4k": ("o", "#0072B2"),
    "spectok-16k-800": ("s", "#D55E00"),
    "opus-6": ("^", "black"),
}


def is_stale(path: Path, content: bytes) -> bool:
    """Whether the figure does not show the results with this content, or does not exist."""
    return not path.exists() or hashlib.sha256(content).hexdigest() not in path.read_text(encoding="utf-8")


def draw(path: Path, content: bytes, drawing: Callable[[dict[str, Any]], "Figure"]) -> None:
    """Draw the results with this content, in JSON, as an SVG file that contains their SHA-256."""
    from matplotlib import rc_context

    metadata = {"Description": f"Results: {hashlib.sha256(content).hexdigest()}", "Date": None}
    options: Any = {"svg.fonttype": "none", "svg.hashsalt": "spectok"}  # texts as texts; a second file is the same
    with atomic_write(path) as temporary, rc_context(options):
        drawing(json.loads(content)).savefig(temporary, format="svg", metadata=metadata)


def loss_curves(found: dict[str, Any]) -> "Figure":
    """Draw metrics against the share of lost packets, for each kind of losses.

    Args:
        found: the content of `loss.json`. Codecs that it does not have are left out.
    """
    figure = canvas((8.0, 6.4))
    axes = figure.subplots(len(DRAWN), len(KINDS), sharex=True, sharey="row")
    for metric, beside in zip(DRAWN, axes, strict=True):
        beside[0].set_ylabel(METRICS[metric].heading)
        for kind, axis in zip(KINDS, beside, strict=True):
            _curves(axis, [row for row in found["rows"] if row["kind"] == kind or not row["rate"]], metric)
    for axis, title in zip(axes[0], ("random losses", f"bursts of {found['burst']:g} packets on average"), strict=True):
        axis.set_title(title)
    for axis in axes[-1]:
        axis.set_xlabel("packets lost, %")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels) // 2, frameon=False)
    return figure


def _curves(axis: "Axes", rows: list[dict[str, Any]], metric: str) -> None:
    """Draw a dashed line without, and a solid one with redundancy for each codec."""
    for name, (marker, colour) in CODECS.items():
        for redundancy, prefix in enumerate((name, "with redundancy")):
            points = [row for row in rows if (row["model"], row["redundancy"]) == (name, redundancy)]
            if points:
                kilobits = sum(row["bits_per_second"] for row in points) / len(points) / 1000
                axis.plot(
                    [100 * row["rate"] for row in points],
                    [row[metric] for row in points],
                    color=colour,
                    marker=marker,
                    linestyle="-" if redundancy else "--",
                    fillstyle="full" if redundancy else "none",
                    markersize=5,
                    label=f"{prefix}, {kilobits:.1f} kbit/s",
                )
    plain(axis)


def plain(axis: "Axes") -> None:
    """Give axes a light grid and no frame."""
    axis.grid(color="0.9", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
