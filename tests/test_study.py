"""recipes/study.py: plans, their runs, and their tables."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import pytest
from matplotlib.image import imread
from runs import OVERRIDES

from recipes import study
from recipes import train as train_recipe
from recipes.separation import config as separation
from spectok import pretrained
from spectok.errors import InputError

RECIPES = Path(__file__).parent.parent / "recipes"
STUDIES = sorted(path.parent for path in RECIPES.glob("*/plan.toml"))
PLAN = f"""
[[group]]
title = "Widths"
recipe = "spectok-16k-4k.toml"
steps = 2
seeds = [0, 1]
base = {json.dumps([override.removeprefix("--set=") for override in OVERRIDES])}

[group.probes]
"as it is" = []
"a wider GRU" = ["codec.gru_hidden=20"]
"""


class Inline:
    """A pool without threads: a run sets signal handlers, which only the main thread may."""

    def __init__(self, jobs: int) -> None:
        self.map = map

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands of the probes, run as calls of the recipe's own function."""
    commands, run = [], subprocess.run

    def call(command: list[str], **options: Any) -> Any:
        if command[0] != sys.executable:
            return run(command, **options)
        commands.append(command)
        assert train_recipe.main(command[2:]) == 0

    monkeypatch.setattr(subprocess, "run", call)
    monkeypatch.setattr(study, "ThreadPoolExecutor", Inline)
    return commands


def test_a_study_runs_each_probe_once_and_tells_what_came_out(
    prepared: Path, tmp_path: Path, in_process: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "plan.toml").write_text(PLAN)
    arguments = [str(tmp_path), "--data", str(prepared), "--out", str(tmp_path / "runs")]
    assert study.main(arguments) == 0
    printed = [line.removeprefix("training: ") for line in capsys.readouterr().out.splitlines() if "training" in line]
    assert printed == ["as-it-is", "a-wider-gru", "as-it-is-seed-1", "a-wider-gru-seed-1"]
    results = json.loads((tmp_path / "results.json").read_text())
    assert (results["provenance"]["weights"], results["provenance"]["machine"]["threads"]) == (None, 1)
    (group,) = results["groups"]
    assert (group["title"], group["steps"], group["minutes"], group["seeds"]) == ("Widths", 2, 0.0, [0, 1])
    assert [(row["name"], row["seed"], row["step"]) for row in group["probes"]] == [
        ("as it is", 0, 2),
        ("a wider GRU", 0, 2),
        ("as it is", 1, 2),
        ("a wider GRU", 1, 2),
    ]
    first, wider, again, _ = group["probes"]
    assert wider["parameters"] > first["parameters"] == again["parameters"]
    assert first["init_weights"] is None  # it began with random ones
    assert first["mel"] != again["mel"]  # another seed is another start
    assert {"pesq", "stoi", "level_db", "overshoot_db", "complex", "magnitude", "mel"} < first.keys()
    assert [point["step"] for point in first["curve"]] == [2] and first["curve"][0]["mel"] > 0
    record = json.loads((tmp_path / "runs" / "a-wider-gru-seed-1" / "run.json").read_text())
    assert (record["recipe"]["seed"], record["recipe"]["codec"]["gru_hidden"]) == (1, 20)

    assert imread(tmp_path / "curves.png").shape[:2] == (256, 960)  # one panel of 12 by 3.2 inches

    before = (tmp_path / "results.json").read_bytes()
    in_process.clear()
    assert study.main(arguments) == 0  # nothing is left to do
    assert in_process == [] and (tmp_path / "results.json").read_bytes() == before

    elsewhere = [*arguments[:-1], str(tmp_path / "elsewhere")]
    assert study.main(elsewhere) == 0  # as with another folder of runs
    assert in_process == [] and (tmp_path / "results.json").read_bytes() == before
    (tmp_path / "plan.toml").write_text(PLAN.replace("gru_hidden=20", "gru_hidden=24"))
    assert study.main(elsewhere) == 0  # but for probes that have changed
    assert [Path(command[command.index("--out") + 1]).name for command in in_process] == [
        "a-wider-gru",
        "a-wider-gru-seed-1",
    ]
    (changed,) = study.load_groups(tmp_path)
    assert [row["parameters"] for row in changed["probes"]][::2] == [first["parameters"]] * 2
    assert changed["probes"][1]["parameters"] > wider["parameters"]
    in_process.clear()
    capsys.readouterr()
    assert study.main([*arguments, "--again"]) == 2  # the runs there are of the plan before
    assert "a-wider-gru holds a run with other settings; remove it, or choose another" in capsys.readouterr().err
    assert in_process == []
    (tmp_path / "results.json").write_bytes(before)

    text = study.tables(tmp_path)
    assert "### Widths\n\n`spectok-16k-4k.toml`, 2 steps each.\n" in text
    mean, half = (first["mel"] + again["mel"]) / 2, abs(first["mel"] - again["mel"]) / 2
    assert f"| {mean:.4f} ± {half:.4f} |" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 4 and len({row.count("|") for row in rows}) == 1


def test_a_stopped_probe_is_continued_without_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: commands.append(command))
    group = study.Group("T", "spectok-16k-4k.toml", {"a": ()}, init="spectok-16k-4k", steps=2)
    (probe,) = study.probes(group)
    folder = probe.folder(tmp_path)
    folder.mkdir()
    for name, expected in (("none", "--init=spectok-16k-4k"), ("checkpoint.safetensors", "--resume")):
        (folder / name).touch()
        study.train(probe, tmp_path, tmp_path)
        assert [word for word in commands.pop() if word.startswith(("--init", "--resume"))] == [expected]
        (folder / "done").unlink()


def test_a_table_has_no_column_that_nothing_was_measured_for(tmp_path: Path) -> None:
    group = {"title": "T", "recipe": "r.toml", "minutes": 6.0, "steps": 0, "seeds": [0]}
    rows = [{"name": "a", "commit": "c1", "step": 1200, "pesq": 1.5}, {"name": "b", "commit": "c2", "step": 800}]
    groups = [group | {"probes": rows}, group | {"probes": []}]
    (tmp_path / "results.json").write_text(json.dumps({"groups": groups}))
    assert study.tables(tmp_path).splitlines() == [
        "### T",
        "",
        "`r.toml`, 6 minutes of one processor each.",
        "",
        "| probe | runs | steps | PESQ-WB | commit |",
        "|---|---:|---:|---:|---|",
        "| a | 1 | 1,200 | 1.500 | c1 |",
        "| b | 1 | 800 |  | c2 |",
    ]


def test_groups_of_an_earlier_commit_keep_their_results(
    prepared: Path, tmp_path: Path, in_process: list[list[str]]
) -> None:
    title = PLAN.replace('"Widths"', '"Hinge"').replace("steps = 2", 'steps = 2\ncommit = "8e120bb"')
    (tmp_path / "plan.toml").write_text(title)
    probe = {"name": "hinge", "seed": 0, "curve": [{"step": 1, "mel": 0.1}]}
    kept = [{"title": "Hinge", "probes": [probe], "seeds": [0]}]
    (tmp_path / "results.json").write_text(json.dumps({"groups": kept}))
    assert study.main([str(tmp_path), "--data", str(prepared), "--out", str(tmp_path / "runs")]) == 0
    assert in_process == [] and not (tmp_path / "runs").exists()
    assert study.load_groups(tmp_path) == kept


@pytest.mark.parametrize("folder", STUDIES, ids=[folder.name for folder in STUDIES])
def test_plans_fit_their_recipes(folder: Path) -> None:
    for group in study.load_plan(folder):
        assert group.init in ("", *pretrained.models())
        load = train_recipe.load_recipe if group.script == study.CODEC_SCRIPT else separation.load_recipe
        for overrides in () if group.commit else group.probes.values():
            load(RECIPES / group.recipe, [*group.base, *overrides])


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (("steps = 2", "steps = 0"), "give either minutes or steps"),
        (("steps = 2", "steps = 2\nminutes = 1.0"), "give either minutes or steps"),
        (("seeds = [0, 1]", "seeds = []"), "there must be a probe and a seed"),
        (("seeds = [0, 1]", "sids = [0, 1]"), "unknown key 'sids'"),
        (("seeds = [0, 1]", 'columns = ["beauty"]'), "there is no column beauty"),
        (("seeds = [0, 1]", 'script = "paint.py"'), "there is no script paint.py"),
        (('"a wider GRU"', '"As it is?"'), "each under a name of its own"),
        (("[[group]]", "[[group"), "cannot read"),
    ],
)
def test_plans_are_strict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: tuple[str, str], sentence: str
) -> None:
    (tmp_path / "plan.toml").write_text(PLAN.replace(*changed))
    with pytest.raises(InputError, match=sentence):
        study.load_plan(tmp_path)
    assert study.main([str(tmp_path), "--data", "none", "--out", str(tmp_path / "runs")]) == 2
    assert capsys.readouterr().err.startswith("study.py: ")
    assert not (tmp_path / "runs").exists() and not (tmp_path / "results.json").exists()
