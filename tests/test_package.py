"""What `pip install` gets: the weights are in the wheel, and the version is one."""

import tomllib
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

import spectok
from spectok import pretrained
from spectok.cli.main import main

ROOT = Path(__file__).parent.parent


def test_the_wheel_holds_every_released_model(tmp_path: Path) -> None:
    wheel = next(WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"]))
    with zipfile.ZipFile(wheel) as archive:
        held = {name: archive.read(name) for name in archive.namelist() if name.startswith("spectok/_pretrained/")}
        assert {"spectok/cli/main.py", "spectok/py.typed"} <= set(archive.namelist())
    assert held["spectok/_pretrained/index.toml"] == (ROOT / "pretrained" / "index.toml").read_bytes()
    for name in pretrained.models():
        for file in ("config.json", *pretrained.FILES, "README.md"):
            assert held[f"spectok/_pretrained/{name}/{file}"] == (ROOT / "pretrained" / name / file).read_bytes()
    assert [name for name in held if name.endswith((".pt", ".pkl", ".bin"))] == []


def test_the_version_is_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert spectok.__version__ == project["version"]


def test_the_command_line_tells_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"spectok {spectok.__version__}\n"


def test_what_is_public_is_documented() -> None:
    assert [name for name in spectok.__all__ if not (getattr(spectok, name).__doc__ or "").strip()] == []
