"""recipes/ablations: its plan, its page from invented results, and the verdicts that it shares with other studies."""

import json
from pathlib import Path
from typing import Any

import pytest

from recipes import study
from recipes.ablations import tables
from recipes.claims import Claim, judge, spread, value, verdict
from recipes.train import load_recipe
from spectok.model.codec import Codec

RECIPES = Path(__file__).parent.parent / "recipes"


def run(name: str, seed: int, pesq: float, used: float) -> dict[str, Any]:
    return {"name": name, "seed": seed, "commit": "c", "step": 9, "pesq": pesq, "codes_used": used, "curve": []}


def group(title: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    facts = {"title": title, "recipe": "spectokenizer-mini.toml", "minutes": 11.0, "steps": 0, "seeds": [0, 1]}
    return facts | {"columns": ["step", "pesq", "codes_used", "code_entropy"], "probes": rows}


def cells_of(text: str) -> dict[tuple[str, str], list[str]]:
    """The cells of each row of the table of claims after the paper's figures, by claim and score."""
    rows = [line[2:-2].split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {(row[0], row[1]): row[3:] for row in rows if len(row) == 8}


def test_the_page_judges_each_claim_by_the_spread_of_its_groups(tmp_path: Path) -> None:
    assert tables.page(tmp_path) == "The study has not been run.\n"
    parts = [run("mini", 0, 1.30, 0.9), run("no power law", 0, 1.15, 0.9), run("ReLU in place of Snake", 0, 1.31, 0.9)]
    parts += [run("mini", 1, 1.34, 0.9), run("no power law", 1, 1.17, 0.9), run("ReLU in place of Snake", 1, 1.35, 0.9)]
    parts += [run("no norm", 0, 1.45, 0.9), run("no norm", 1, 1.49, 0.9)]
    parts += [run("BatchNorm in place of FrameNorm", 0, 1.0, 0.9)]  # its second seed is missing
    books = [run(tables.POOL, 0, 1.10, 0.80), run(tables.NO_POOL, 0, 1.08, 0.79), run(tables.PLAIN, 0, 1.02, 0.20)]
    books += [run(tables.POOL, 1, 1.10, 0.82), run(tables.NO_POOL, 1, 1.09, 0.80), run(tables.PLAIN, 1, 1.03, 0.21)]
    results = {"groups": [group("Parts", parts), group("Codebook", books), group("Queries", [])]}
    (tmp_path / "results.json").write_text(json.dumps(results))
    text = tables.page(tmp_path)
    cells, pesq, used = cells_of(text), "PESQ-WB", "share of the codebook used, %"
    # Means of two seeds; the largest range of PESQ is .04 in the first group and .01 in the second.
    assert cells["The power law helps", pesq] == ["1.320", "1.160", "0.160", "0.040", "agrees"]
    assert cells["Snake is better than ReLU", pesq] == ["1.320", "1.330", "-0.010", "0.040", "undecided"]
    assert cells["FLNorm is better than no norm", pesq] == ["1.320", "1.470", "-0.150", "0.040", "disagrees"]
    assert cells["FLNorm is better than BatchNorm", pesq] == ["1.320", "-", "-", "0.040", "not measured"]
    queries = "Queries are better than strides down to one position"
    assert cells[queries, pesq] == ["-", "1.320", "-", "0.040", "not measured"]
    assert cells["Expiry improves a single codebook", pesq] == ["1.085", "1.025", "0.060", "0.010", "agrees"]
    assert cells["With expiry more of the codebook is used", used] == ["79.5", "20.5", "59.0", "2.0", "agrees"]
    assert cells["With the data pool even more", used] == ["81.0", "79.5", "1.5", "2.0", "undecided"]
    assert "## The claims\n" in text and "![" not in text  # there are no curves
    probes = text.partition("## All probes\n")[2]
    assert "`spectokenizer-mini.toml`, 11 minutes of one processor each." in probes
    assert "| probe | runs | steps | PESQ-WB | codes used, % | commit |" in probes
    assert "| neither expiry nor pool | 2 | 9 | 1.025 ± 0.005 | 20.5 ± 0.5 | c |" in probes
    (tmp_path / "curves.png").touch()
    assert "](curves.png)\n\n## All probes\n" in tables.page(tmp_path)


def test_what_the_study_of_bottlenecks_says_of_queries_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps({"groups": []}))
    cells = cells_of(tables.page(tmp_path))
    (quoted,) = (row for (claim, _), row in cells.items() if "../bottlenecks/README.md" in claim)
    rows = [row for each in study.load_groups(tables.BOTTLENECKS) for row in each["probes"]]
    means = [sum(row["pesq"] for row in rows if row["name"] == name) / 2 for name in ("query", "flat, GRUs of 280")]
    assert quoted[:2] == [f"{mean:.3f}" for mean in means] == ["1.404", "1.227"]
    assert quoted[4] == "agrees"
    assert [row[-1] for row in cells.values() if row is not quoted] == ["verdict", *["not measured"] * 10]


def test_the_claims_are_about_probes_of_the_plan() -> None:
    plan = study.load_plan(tables.STUDY)
    claimed = set().union(*(claim.probes for score in (tables.PESQ, tables.USED) for claim in score.claims))
    assert claimed == {probe.name for each in plan for probe in study.probes(each)}
    elsewhere = {probe.name for each in study.load_plan(tables.BOTTLENECKS) for probe in study.probes(each)}
    assert tables.ELSEWHERE.probes <= elsewhere
    assert all({"pesq", "codes_used", "code_entropy"} <= set(each.columns) for each in plan)


def test_the_plan_has_equal_time_two_seeds_and_a_budget_of_four_hours() -> None:
    plan = study.load_plan(tables.STUDY)
    assert all(each.seeds == (0, 1) and each.minutes > 0 for each in plan)
    assert sum(each.minutes * len(study.probes(each)) for each in plan) / 60 <= 4
    macs = {
        name: sum(Codec(load_recipe(RECIPES / each.recipe, [*each.base, *changed]).codec).macs_per_second().values())
        for each in (plan[0], plan[-1])
        for name, changed in each.probes.items()
    }
    assert macs[tables.QUERIES] == pytest.approx(macs[tables.MINI], rel=0.1)  # "nearly equal operations"


@pytest.mark.parametrize(
    ("difference", "width", "expected"),
    [
        (0.3, 0.2, "better"),
        (-0.3, 0.2, "worse"),
        (0.2, 0.2, "undecided"),
        (-0.1, 0.2, "undecided"),
        (None, 0.2, "not measured"),
        (0.3, None, "not measured"),
    ],
)
def test_verdicts(difference: float | None, width: float | None, expected: str) -> None:
    assert verdict(difference, width, ("better", "worse")) == expected


def test_a_claim_may_compare_falls() -> None:
    rows = [{"name": name, "score": score} for name, score in (("a", 5.0), ("b", 3.0), ("c", 4.0), ("d", 1.0))]
    claim = Claim("a loses less than c", "in words", better=("b", "a"), worse=("d", "c"))
    assert judge(claim, rows, "score", 0.5) == (-2.0, -3.0, 1.0, "yes")
    assert claim.probes == {"a", "b", "c", "d"}
    assert value(rows, ("a", "missing"), "score") is None


def test_the_spread_is_the_largest_range_over_seeds_of_one_probe() -> None:
    first = [{"name": "a", "of": {"x": 1.0}}, {"name": "a", "of": {"x": 1.5}}, {"name": "b", "of": {"x": 9.0}}]
    second = [{"name": "c", "of": {"x": 2.0}}, {"name": "c", "of": {"x": 2.75}}, {"name": "c"}]
    groups = [{"probes": first, "seeds": [0, 1]}, {"probes": second, "seeds": [0, 1]}]
    assert spread(groups, ["of", "x"]) == 0.75
    assert spread(groups[:1], ["of", "x"]) == 0.5
    assert spread([{"probes": first[2:], "seeds": [0, 1]}], ["of", "x"]) is None
