"""Judges claims by the results of a study: mean scores of its probes, and how much they differ between seeds.

A row is a probe of `results.json` (recipes/study.py) that was trained with one seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

Rows = list[dict[str, Any]]
Group = dict[str, Any]  # of `results.json`, with `probes` and `seeds`


@dataclass(frozen=True)
class Claim:
    """A statement of a paper: the first probe, or the fall between two, is better than the second."""

    says: str
    paper: str  # the paper's own figures
    better: tuple[str, ...]  # a probe; or two, whose difference is meant
    worse: tuple[str, ...]

    @property
    def probes(self) -> set[str]:
        """The names of all probes that it is about."""
        return {*self.better, *self.worse}


class Judgement(NamedTuple):
    """The scores of what a claim names first and second, and whether it holds; None where a run is missing."""

    first: float | None
    second: float | None
    difference: float | None
    verdict: str


def rows_of(groups: Sequence[Group]) -> Rows:
    """The rows of all groups."""
    return [row for group in groups for row in group["probes"]]


def runs(rows: Rows, name: str) -> Rows:
    """The runs of a probe, one for each seed."""
    return [row for row in rows if row["name"] == name]


def value(rows: Rows, names: Sequence[str], key: str) -> float | None:
    """The mean score of a probe, or of one minus that of another; None if one of them was not run."""
    found = [[row[key] for row in runs(rows, name) if row.get(key) is not None] for name in names]
    if not all(found):
        return None
    first, *others = [float(sum(values)) / len(values) for values in found]
    return first - float(sum(others))


def spread(groups: Sequence[Group], keys: Sequence[str]) -> float | None:
    """The largest range of a score over the seeds of a probe; None if no probe was run with two seeds.

    Args:
        groups: of the study.
        keys: of the score, one inside the other.
    """
    ranges: list[float] = []
    for group in groups:
        for name in {row["name"] for row in group["probes"]}:
            found = [value for row in runs(group["probes"], name) if (value := nested(row, keys)) is not None]
            ranges += [max(found) - min(found)] if len(found) > 1 else []
    return max(ranges, default=None)


def nested(row: dict[str, Any], keys: Sequence[str]) -> float | None:
    """A value in nested tables, or None."""
    found: Any = row
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return None if found is None else float(found)


def verdict(difference: float | None, width: float | None, words: tuple[str, str] = ("yes", "no")) -> str:
    """Whether a difference is one.

    Args:
        difference: None if it was not measured.
        width: the spread of seeds; None if it was not measured.
        words: for a difference above 0 and one below, each by more than the spread.

    Returns:
        One of the words, "undecided" within the spread, or "not measured".
    """
    if difference is None or width is None:
        return "not measured"
    return "undecided" if abs(difference) <= width else words[0] if difference > 0 else words[1]


def judge(claim: Claim, rows: Rows, key: str, width: float | None, words: tuple[str, str] = ("yes", "no")) -> Judgement:
    """Judge a claim by a score of which more is better; `width` and `words` as in `verdict`."""
    first, second = (value(rows, names, key) for names in (claim.better, claim.worse))
    difference = None if first is None or second is None else first - second
    return Judgement(first, second, difference, verdict(difference, width, words))
