"""The learning curves of the released models, from what `recipes/release.py` recorded of their runs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.figures import CODECS, plain
from spectok import pretrained
from spectok.evaluation.catalogue import METRICS
from spectok.plotting import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURE = Path(__file__).parent / "learning.svg"
DRAWN = ("pesq", "stoi")


def training(name: str) -> dict[str, Any]:
    """What `recipes/release.py` recorded of a released model: its runs and its use of the codebook."""
    path = pretrained.find(name).weights.parent / "training.json"
    facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return facts


def heard(run: dict[str, Any]) -> float:
    """Hours of audio that a run trained on, repetitions counted."""
    data = run["recipe"]["data"]
    return float(run["step"] * data["batch_size"] * data["crop_seconds"] / 3600)


def curves() -> bytes:
    """For each model and run the validations, as lists of hours heard since the first run and metrics; in JSON."""
    found: dict[str, list[list[list[float]]]] = {}
    for name in pretrained.models():
        hours, found[name] = 0.0, []
        for run in training(name)["runs"]:
            share = heard(run) / run["step"]
            found[name].append([[hours + share * at["step"], *(at[key] for key in DRAWN)] for at in run["curve"]])
            hours += heard(run)
    return json.dumps(found).encode()


def learning_curves(found: dict[str, Any]) -> "Figure":
    """Draw the metrics of the validations against the hours heard; the number of a run stands at its end.

    Args:
        found: as `curves` makes it.
    """
    figure = canvas((8.0, 6.0))
    axes = figure.subplots(len(DRAWN), 1, sharex=True)
    for column, (metric, axis) in enumerate(zip(DRAWN, axes, strict=True), 1):
        for name, runs in found.items():
            marker, colour = CODECS[name]
            for number, points in enumerate(runs, 1):
                hours, values = [at[0] for at in points], [at[column] for at in points]
                label = name if number == 1 else None
                axis.plot(hours, values, color=colour, marker=marker, markersize=3, linewidth=1, label=label)
                if points:
                    axis.annotate(str(number), (hours[-1], values[-1]), (2, 4), textcoords="offset points", fontsize=8)
        axis.set_ylabel(f"{METRICS[metric].heading}, validation")
        plain(axis)
    axes[-1].set_xlabel("hours of speech heard in training, repetitions counted")
    axes[0].legend(frameon=False, loc="center right")
    return figure
