"""The recipe that measures everything again: what it measures, when, and what happens if a measurement fails."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from recipes import measure
from spectok.evaluation.items import load_items
from spectok.evaluation.provenance import write_results

TRAINED = {  # results that need training, an index of packages, or invented inputs
    "benchmarks/fuzz.json",
    "benchmarks/install.json",
    "recipes/speed.json",
    "recipes/speech_lm/results.json",
}
COLUMNS = ("file", "split", "language", "category", "speaker", "source")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    rows = [(f"test/a{number}.opus", "test", "en", "clean_en", "a", "vctk") for number in range(3)]
    rows += [(f"test/b{number}.opus", "test", "en", "clean_en", "b", "vctk") for number in range(2)]
    rows += [(f"test/c{number}.opus", "test", "en", "hard_noise", "c", "vctk") for number in range(3)]
    rows += [(f"test/d{number}.opus", "test", "de", "clean_de", "d", "emodb") for number in range(3)]
    rows += [(f"train/e{number}.opus", "train", "en", "", "e", "librispeech") for number in range(3)]
    rows += [(f"train/f{number}.opus", "train", "en", "", "f", "ljspeech") for number in range(2)]
    for folder, speaker in (("test", "a"), ("train", "e")):
        (tmp_path / folder).mkdir()
        for number in range(3):
            (tmp_path / folder / f"{speaker}{number}.opus").write_bytes(bytes([number]))
    with open(tmp_path / "manifest.csv", "w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return tmp_path


def test_every_file_of_results_is_measured_or_known_to_need_more() -> None:
    folders = ("pretrained/results", "benchmarks", "recipes")
    found = {str(path.relative_to(measure.ROOT)) for name in folders for path in (measure.ROOT / name).rglob("*.json")}
    studies = {name for name in found if (measure.ROOT / name).with_name("plan.toml").exists()}
    assert found - studies == set(measure.COMMANDS) | TRAINED
    for name in measure.COMMANDS:
        first, *_ = measure.command(name, Path("C"), Path("W"))[1:]
        assert first == "-m" or (measure.ROOT / first).is_file()


def test_results_of_other_weights_are_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    current = {"m": "0" * 64, "m/robust": "1" * 64}
    monkeypatch.setattr(measure, "ROOT", tmp_path)
    monkeypatch.setattr(measure, "weights_of", lambda names, encoders: current)
    assert measure.stale("none.json")
    for weights, is_stale in ((current, False), ({"m": "0" * 64}, False), (None, False), ({"m": "2" * 64}, True)):
        write_results(tmp_path / "some.json", {}, weights)
        assert measure.stale("some.json") == is_stale


def test_tokens_are_of_named_speakers_and_bulk_has_some_recordings(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "BULK_RECORDINGS", 2)
    for _ in range(2):  # what an earlier run left is removed
        measure.write_inputs(corpus, tmp_path / "work")
        listed = {
            name: [(item.path, item.speaker) for item in load_items(tmp_path / "work" / f"{name}.csv", split)]
            for name, split in (("tokens", None), ("tokens-train", "train"))
        }
        assert listed["tokens"] == [(corpus / f"test/a{number}.opus", "a") for number in range(3)]
        assert listed["tokens-train"] == [(corpus / f"train/e{number}.opus", "e") for number in range(3)]
        copied = sorted((tmp_path / "work" / "bulk").iterdir())
        assert [(path.name, path.read_bytes()) for path in copied] == [("e0.opus", b"\0"), ("e1.opus", b"\1")]
        (tmp_path / "work" / "bulk" / "old.opus").touch()


def test_the_committed_results_are_of_the_inputs_that_are_written_here() -> None:
    def of(name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((measure.ROOT / name).read_text(encoding="utf-8"))
        return found

    assert of("pretrained/results/tokens-train.json")["speakers"] > 200
    assert [row["recordings"] for row in of("benchmarks/bulk.json")["rows"]] == [measure.BULK_RECORDINGS] * 2
    assert (
        f"--seconds {of('benchmarks/serve.json')['rows'][0]['seconds']:g}" in measure.COMMANDS["benchmarks/serve.json"]
    )


def test_what_fails_is_named_and_the_others_are_measured(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    scripts = {"fail.py": "raise SystemExit(2)", "cards.py": "print('cards')"}
    scripts["bench.py"] = "import shutil, sys; shutil.copy(sys.argv[1] + '/measured.json', sys.argv[1] + '/new.json')"
    (tmp_path / "recipes").mkdir()
    (tmp_path / "work").mkdir()
    write_results(tmp_path / "work" / "measured.json", {"rows": 5}, {})
    for name, text in scripts.items():
        (tmp_path / "recipes" / name).write_text(text)
    monkeypatch.setattr(measure, "ROOT", tmp_path)
    monkeypatch.setattr(measure, "COMMANDS", {"a.json": "recipes/fail.py", "b.json": "recipes/bench.py {work}"})
    monkeypatch.setattr(measure, "MOVED", {"b.json": "new.json"})
    arguments = [str(corpus), "--work", str(tmp_path / "work")]
    assert measure.main([*arguments, "--list"]) == 0
    assert "stale  a.json: recipes/fail.py\n" in capfd.readouterr().out
    assert measure.main(arguments) == 1
    told = capfd.readouterr()
    assert told.out.splitlines()[-1] == "cards"
    assert told.err == "measure: a.json was not measured\n"
    assert json.loads((tmp_path / "b.json").read_text())["rows"] == 5
    assert measure.main(["nowhere", "--work", str(tmp_path / "work")]) == 2
    assert capfd.readouterr().err.startswith("measure: cannot read ")


def test_results_without_times_are_measured_together_and_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    meet = """
import pathlib, sys, time
own, other = (pathlib.Path(sys.argv[1]) / name for name in sys.argv[2:])
own.touch()
end = time.monotonic() + 60
while not other.exists() and time.monotonic() < end:
    time.sleep(0.01)
raise SystemExit(not other.exists())
"""
    for name, text in {"meet.py": meet, "last.py": "import sys; raise SystemExit(len(sys.argv) - 1)"}.items():
        (tmp_path / name).write_text(text)
    commands = {"last.json": "last.py", "a.json": "meet.py {work} a b", "b.json": "meet.py {work} b a"}
    monkeypatch.setattr(measure, "ROOT", tmp_path)
    monkeypatch.setattr(measure, "COMMANDS", commands)
    monkeypatch.setattr(measure, "TOGETHER", {"a.json", "b.json"})
    assert measure.measure(list(commands), tmp_path, tmp_path, jobs=2) == []
    assert capfd.readouterr().out.splitlines()[-1] == "last.json: last.py"


def test_only_known_results_are_measured_together() -> None:
    assert set(measure.COMMANDS) > measure.TOGETHER


def test_a_command_runs_with_this_python() -> None:
    words = measure.command(measure.QUALITY, Path("C"), Path("W"))
    assert words == [sys.executable, "-m", "spectok", "bench", "C/test", "--out", "W/bench", "--jobs", "2"]
