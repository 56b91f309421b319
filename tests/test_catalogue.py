"""Tests of the catalogue of metrics, and of the tables that all documents use."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from spectok.evaluation.catalogue import JUDGED, METRICS, SCORED, Metric, in_order, legend
from spectok.evaluation.tables import markdown_table, mean, number

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for folder in ("spectok", "recipes", "benchmarks") for path in (ROOT / folder).rglob("*.py"))


def strings(path: Path) -> Iterator[str]:
    """Every string in a file that is not a docstring."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


@pytest.mark.parametrize(
    ("text", "home"),
    [
        *((metric.title, "catalogue.py") for metric in (SCORED | JUDGED).values() if not metric.title.islower()),
        *((metric.title, "catalogue.py") for metric in METRICS.values() if " " in metric.title),
        ("---:", "tables.py"),
    ],
)
def test_titles_and_alignments_are_written_in_one_place(text: str, home: str) -> None:
    assert {path.name for path in SOURCES if any(text in string for string in strings(path))} == {home}


def test_names_are_keys_and_every_metric_is_complete() -> None:
    assert [metric.name for metric in METRICS.values()] == list(METRICS)
    assert all(metric.title and metric.meaning and metric.digits >= 0 for metric in METRICS.values())


def test_a_description_has_the_unit_and_which_values_are_better() -> None:
    level = Metric("level_db", "level", "dB", 1, "zero", "of the output")
    assert (level.heading, level.description) == ("level, dB", "level, dB: of the output; 0 is best")
    assert METRICS["pesq"].heading == "PESQ-WB"
    assert legend([level, METRICS["estoi"]]) == "level, dB: of the output; ESTOI: extended STOI, up to 1."
    assert METRICS["wer"].description.endswith("at most 1; lower is better")
    assert (level.text(-0.25), level.text(None)) == ("-0.2", "-")
    assert level.mean({"mean": 1.0, "half_width_95": 0.25, "n": 3}, 4) == "1.0 ± 0.2 (n = 3)"


def test_metrics_that_follow_listeners_come_first() -> None:
    names = ["pesq", "disk_bits_per_second", "wer", "stoi", "warpq", "visqol", "distillmos"]
    assert [metric.name for metric in in_order(names)] == [
        "distillmos",
        "visqol",
        "warpq",
        "wer",
        "pesq",
        "stoi",
        "disk_bits_per_second",
    ]


@pytest.mark.parametrize(
    ("summary", "files", "text"),
    [
        ((1234.5678, 0.25, 7), 7, "1,234.57 ± 0.25"),
        ((1.0, 0.25, 6), 7, "1.00 ± 0.25 (n = 6)"),
        ((1.0, 0.25, 6), None, "1.00 ± 0.25"),
        ((1.0, None, 1), 1, "1.00"),
        ((None, None, 0), 7, "-"),
    ],
)
def test_a_mean_has_its_interval_and_n_where_values_are_missing(
    summary: tuple[float | None, float | None, int], files: int | None, text: str
) -> None:
    assert mean(dict(zip(("mean", "half_width_95", "n"), summary, strict=True)), 2, files) == text


def test_numbers_have_their_digits_and_grouped_thousands() -> None:
    assert [number(value, 0) for value in (None, 0.4, 999.6, 40096.55)] == ["-", "0", "1,000", "40,097"]


def test_a_table_aligns_its_columns() -> None:
    rows = [["a", "1"], ["b", "2"]]
    assert markdown_table(["x", "y"], rows) == "| x | y |\n|---|---:|\n| a | 1 |\n| b | 2 |"
    assert markdown_table(["x", "y"], rows, align="rl").splitlines()[1] == "|---:|---|"
    assert markdown_table(["x", "y"], []) == "| x | y |\n|---|---:|"


@pytest.mark.parametrize(("rows", "align"), [([["a"]], ""), ([["a", "b", "c"]], ""), ([["a", "b"]], "lrr")])
def test_a_table_with_cells_missing_is_refused(rows: list[list[str]], align: str) -> None:
    with pytest.raises(ValueError, match=r"every row must have 2 cells: x, y"):
        markdown_table(["x", "y"], rows, align)
