"""Formats numbers and Markdown tables, for all documents."""

from collections.abc import Iterable, Sequence
from typing import Any

ALIGNMENTS = {"l": "---", "r": "---:"}


def number(value: float | None, digits: int) -> str:
    """A number with `digits` digits after the decimal point and grouped thousands; "-" for None."""
    return "-" if value is None else f"{value:,.{digits}f}"


def mean(summary: dict[str, Any], digits: int, files: int | None = None) -> str:
    """A mean ± half the width of its interval, from the dict that `Summary.as_dict` of metrics.py returns.

    Args:
        summary: `mean` and `half_width_95`, each possibly None, and `n`.
        digits: after the decimal point.
        files: the number of files; if `n` is another number, the text contains it.
    """
    if summary["mean"] is None:
        return "-"
    text = number(summary["mean"], digits)
    if summary["half_width_95"] is not None:
        text += f" ± {number(summary['half_width_95'], digits)}"
    return text if files in (None, summary["n"]) else f"{text} (n = {summary['n']})"


def markdown_table(titles: Sequence[str], rows: Iterable[Sequence[str]], align: str = "") -> str:
    """A Markdown table without a newline at its end.

    Args:
        titles: of the columns.
        rows: cells, as many in each row as there are titles.
        align: "l" or "r" for each column; by default the first is aligned left and the others right.

    Raises:
        ValueError: a row or `align` has another length than the titles.
    """
    align = align or "l" + "r" * (len(titles) - 1)
    lines = [titles, *rows]
    if {len(line) for line in lines} | {len(align)} != {len(titles)}:
        raise ValueError(f"every row must have {len(titles)} cells: {', '.join(titles)}")
    texts = [f"| {' | '.join(line)} |" for line in lines]
    rule = f"|{'|'.join(ALIGNMENTS[side] for side in align)}|"
    return "\n".join([texts[0], rule, *texts[1:]])
