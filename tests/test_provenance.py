"""Where results come from."""

import json
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from spectok import pretrained
from spectok.evaluation import provenance

CPU_FACTS = "processor\t: 0\nmodel name\t: Made Up 9000\nprocessor\t: 1\nmodel name\t: Made Up 9000\n"


def test_weights_version_commit_and_machine_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text(CPU_FACTS)
    monkeypatch.setattr(provenance, "CPU_FACTS", tmp_path / "cpuinfo")
    weights = provenance.weights_of(["spectok-16k-800"])
    assert weights == {"spectok-16k-800": pretrained.find("spectok-16k-800").sha256}
    found = provenance.provenance(weights, threads=2, gpu="GPU 1")
    assert (found["version"], found["weights"]) == (version("spectok"), weights)
    machine = found["machine"]
    assert (machine["processor"], machine["threads"], machine["gpu"]) == ("Made Up 9000", 2, "GPU 1")
    assert machine["versions"] == {name: version(name) for name in ("pesq", "pystoi", "numpy", "onnxruntime", "torch")}
    assert re.fullmatch(r"3\.\d+\.\d+", machine["python"]) and machine["cores"] > 0


def test_a_processor_without_a_name_is_told_by_its_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "CPU_FACTS", tmp_path / "none")
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert provenance.provenance(None)["machine"]["processor"] == "riscv64"


def test_a_package_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "PACKAGES", ("numpy", "no-such-package"))
    assert provenance.provenance(None)["machine"]["versions"].keys() == {"numpy"}


def test_the_commit_is_that_of_the_checkout_and_marked_where_files_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "CHECKOUT", tmp_path / "pretrained")
    assert provenance.commit() is None  # as in an installed package
    (tmp_path / "pretrained").mkdir()
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.commit() is None  # a source tree without its history
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "recipes" / "search").mkdir(parents=True)
    for name in ("pretrained/index.toml", "benchmarks/noise.json", "README.md", "recipes/search/curves.png"):
        (tmp_path / name).write_text("")
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message=a"]):
        subprocess.run([*git, *words], check=True)
    commit = provenance.commit()
    assert commit is not None and re.fullmatch("[0-9a-f]{7,}", commit)
    (tmp_path / "benchmarks" / "noise.json").write_text("measured anew")
    (tmp_path / "README.md").write_text("written anew")
    (tmp_path / "recipes" / "search" / "curves.png").write_text("drawn anew")
    assert provenance.commit() == commit
    (tmp_path / "pretrained" / "index.toml").write_text("changed")
    assert provenance.commit() == f"{commit}-dirty"


def test_results_are_written_with_their_provenance(tmp_path: Path) -> None:
    provenance.write_results(tmp_path / "a.json", {"rows": [1]}, weights=None, threads=None)
    assert json.loads((tmp_path / "a.json").read_text()) == {
        "provenance": provenance.provenance(None, threads=None),
        "rows": [1],
    }
