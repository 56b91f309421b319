"""The benchmark's figures: quality against bits and against cost, and by category. Readable in black and white."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from spectok.evaluation.catalogue import JUDGED, METRICS, SCORED, in_order
from spectok.plotting import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DRAWN = set(JUDGED | SCORED) - {"level_db", "overshoot_db"}  # metrics that have a panel in "rate_quality"
BELOW_BEST = {"distillmos", "dnsmos", "visqol", "warpq"}  # that depend on the speech even for the original itself
CAPTIONS = {  # of each figure, by the name of its file
    "rate_quality": "Every metric against bits per second, without containers",
    "quality_cost": "Quality against time and operations",
    "categories": "Quality by category",
}
MARKERS = "os^Dv<>Ph*"
GREYS = ("0.25", "0.45", "0.6")
Results = dict[str, Any]


def families(names: Sequence[str]) -> dict[str, list[str]]:
    """Group the names of coders by codec: "opus-6" and "opus-8" belong to "opus"."""
    found: dict[str, list[str]] = {}
    for name in names:
        family = "spectok" if name.startswith("spectok") else name.split("-")[0]
        found.setdefault(family, []).append(name)
    return found


def title(name: str) -> str:
    """The title of a metric's panel, which marks metrics of which lower values are better."""
    metric = METRICS[name]
    return metric.heading + " (lower is better)" * (metric.better == "lower")


def shown_group(results: Results) -> str:
    """The group of files that the figures show: clean speech, or all files if no category is clean."""
    groups = next(iter(results["coders"].values()))["groups"]
    return "clean_*" if "clean_*" in groups else "*"


def leading(results: Results) -> str:
    """The first metric in the order of the catalogue that every group of files has a value of."""
    measured = [metric.name for metric in in_order(results["conventions"]["metrics"])]
    groups = [group for coder in results["coders"].values() for group in coder["groups"].values()]
    whole = [name for name in measured if all(group[name]["mean"] is not None for group in groups)]
    return (whole or measured)[0]


def draw_figures(results: Results) -> dict[str, "Figure"]:
    """All figures of the results, by the names of their files; `CAPTIONS` describes them."""
    names = list(results["coders"])
    ours = [name for name in names if name.startswith("spectok")]
    shown = {
        "rate_quality": rate_quality(results),
        "quality_cost": quality_cost(results, leading(results)),
    }
    if sum(not kind.endswith("*") for kind in results["coders"][names[0]]["groups"]) > 1:
        chosen = [*ours, *[name for name in names if name not in (*ours, "original")][:2]]
        shown["categories"] = categories(results, chosen, leading(results))
    return shown


def rate_quality(results: Results) -> "Figure":
    """Every metric against bits per second of the payload, with 95 % intervals; the original is a dashed line."""
    metrics = [metric.name for metric in in_order(DRAWN & set(results["conventions"]["metrics"]))]
    columns = min(3, len(metrics))
    rows = -(-len(metrics) // columns)
    figure = canvas((4.2 * columns, 3.1 * rows))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    group = shown_group(results)
    for axis, metric in zip(axes, metrics, strict=False):
        values = {name: coder["groups"][group] for name, coder in results["coders"].items()}
        original = values.pop("original", None)
        if original and original[metric]["mean"] is not None and metric in BELOW_BEST:
            axis.axhline(original[metric]["mean"], color="0.5", linestyle="--", linewidth=1)
        points = {name: (each["payload_bits_per_second"] / 1000, each[metric]) for name, each in values.items()}
        _curves(axis, points)
        axis.set_title(title(metric))
        _log_scale(axis, "kbit/s", [0.5 * 2**n for n in range(6)])
    for axis in axes[len(metrics) :]:
        axis.set_axis_off()
    _legend(figure, axes[0])
    return figure


def quality_cost(results: Results, metric: str) -> "Figure":
    """A metric against the real-time factor on one core, and against multiply-accumulates if they are known."""
    figure = canvas((9, 3.6))
    left, right = figure.subplots(1, 2)
    group = shown_group(results)
    coders = {name: coder for name, coder in results["coders"].items() if name != "original" and coder["costs"]}
    rtf = {name: sum(coder["costs"]["rtf"].values()) for name, coder in coders.items()}
    macs = {name: coder["facts"]["macs"] / 1e6 for name, coder in coders.items() if "macs" in coder["facts"]}
    labels = "rtf, encode + decode, one core", f"{METRICS['macs'].heading}, encode + decode"
    for axis, found, label in zip((left, right), (rtf, macs), labels, strict=True):
        points = {name: (value, coders[name]["groups"][group][metric]) for name, value in found.items()}
        _curves(axis, points, lines=False)
        axis.set_ylabel(title(metric))
        _log_scale(axis, label, [value * 10.0**power for power in range(-4, 6) for value in (1, 2, 5)])
    _legend(figure, left)
    return figure


def categories(results: Results, names: Sequence[str], metric: str) -> "Figure":
    """A metric of some codecs by category, with intervals."""
    groups = next(iter(results["coders"].values()))["groups"]
    kinds = [group for group in groups if not group.endswith("*")]
    figure = canvas((max(6.0, 0.55 * len(kinds) * max(2, len(names)) / 2), 3.6))
    axis = figure.subplots()
    width = 0.8 / len(names)
    hatches = itertools.cycle(("", "///", "...", "xx", "\\\\\\"))
    for number, (name, hatch) in enumerate(zip(names, hatches, strict=False)):
        values = [results["coders"][name]["groups"][kind][metric] for kind in kinds]
        axis.bar(
            [place + (number - (len(names) - 1) / 2) * width for place in range(len(kinds))],
            [value["mean"] or 0.0 for value in values],
            width,
            yerr=[value["half_width_95"] or 0.0 for value in values],
            label=name,
            hatch=hatch,
            color="black" if number == 0 else str(0.4 + 0.5 * number / len(names)),
            edgecolor="black",
            error_kw={"linewidth": 0.8, "ecolor": "0.3"},
        )
    axis.set_xticks(range(len(kinds)), kinds, rotation=35, ha="right", fontsize="small")
    axis.set_ylabel(title(metric))
    axis.legend(fontsize="small")
    return figure


def _curves(axis: "Axes", points: dict[str, tuple[float, dict[str, Any]]], lines: bool = True) -> None:
    """Draw each codec's operating points, joined by lines: spectok in black, rivals in grey, with different markers."""
    for number, (family, names) in enumerate(families(list(points)).items()):
        ours = family == "spectok"
        known = sorted(
            (points[name] for name in names if points[name][1]["mean"] is not None), key=lambda point: point[0]
        )
        axis.errorbar(
            [x for x, _ in known],
            [value["mean"] for _, value in known],
            yerr=[value["half_width_95"] or 0.0 for _, value in known],
            marker=MARKERS[number % len(MARKERS)],
            linestyle="-" if lines else "none",
            color="black" if ours else GREYS[number % len(GREYS)],
            markerfacecolor="black" if ours else "white",
            linewidth=2 if ours else 1,
            markersize=7 if ours else 5,
            capsize=2,
            label=family,
        )
    axis.grid(color="0.9", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)


def _log_scale(axis: "Axes", label: str, ticks: Sequence[float]) -> None:
    """Make the x axis logarithmic, with the ticks that are within its limits."""
    axis.set(xscale="log", xlabel=label)
    low, high = axis.get_xlim()
    inside = [tick for tick in ticks if low <= tick <= high]
    axis.set_xticks(inside, [f"{tick:g}" for tick in inside])
    axis.minorticks_off()


def _legend(figure: "Figure", axis: "Axes") -> None:
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(8, len(labels)), fontsize="small", frameon=False
    )
