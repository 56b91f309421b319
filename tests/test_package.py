"""The installed package: the wheel contains the weights, and the version is the same everywhere."""

import email
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import downstream
import numpy as np
import pytest
import torch
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder
from models import released
from numpy.typing import NDArray

import spectok
from spectok import pretrained
from spectok.audio import write_audio
from spectok.cli.main import main

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of the wheel."""
    return next(WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"]))


def test_the_wheel_says_whose_it_is_and_holds_both_licences(wheel: str) -> None:
    with zipfile.ZipFile(wheel) as archive:
        licences = {
            name.split("/licenses/")[1]: archive.read(name) for name in archive.namelist() if "/licenses/" in name
        }
        metadata = next(archive.read(name).decode() for name in archive.namelist() if name.endswith("/METADATA"))
    assert licences == {name: (ROOT / name).read_bytes() for name in ("LICENSE", "pretrained/LICENSE")}
    assert licences["pretrained/LICENSE"].startswith(b"Attribution 4.0 International\n")
    fields = email.message_from_string(metadata)
    assert (fields["License-Expression"], fields["Author"]) == ("Apache-2.0 AND CC-BY-4.0", "The spectok authors")
    addresses = dict(str(field).split(", ", 1) for field in fields.get_all("Project-URL", []))
    assert list(addresses) == ["Homepage", "Documentation", "Source", "Issues", "Changelog"]
    assert {address.startswith("https://github.com/spectok/spectok") for address in addresses.values()} == {True}


def test_the_wheel_holds_every_released_model(wheel: str) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name: archive.read(name) for name in archive.namelist() if name.startswith("spectok/_pretrained/")}
        assert {"spectok/cli/main.py", "spectok/py.typed"} <= set(archive.namelist())
        sizes = {  # of what was added to the codecs since their first release
            name: sum(
                entry.compress_size for entry in archive.infolist() if any(part in entry.filename for part in parts)
            )
            for name, parts in {
                "encoders": ["/robust/"],
                "models": ["/extension.", "/entropy.dat"],
                "page and server": ["spectok/_web/", "spectok/serve/", "spectok/web.py", "spectok/client.py"],
            }.items()
        }
    assert held["spectok/_pretrained/index.toml"] == (ROOT / "pretrained" / "index.toml").read_bytes()
    for name, hashes in pretrained.read_index(ROOT / "pretrained").items():
        for file in (*hashes, *(["README.md"] if name in pretrained.models() else [])):
            assert held[f"spectok/_pretrained/{name}/{file}"] == (ROOT / "pretrained" / name / file).read_bytes()
    assert [name for name in held if name.endswith((".pt", ".pkl", ".bin"))] == []
    assert Path(wheel).stat().st_size - sum(sizes.values()) <= 8e6
    assert sizes["encoders"] <= 1.1e6
    assert sizes["models"] <= 0.3e6
    assert sizes["page and server"] <= 5e6


@pytest.mark.skipif(not shutil.which("npm"), reason="the program npm is missing")
def test_the_wheel_holds_the_page(wheel: str) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name.removeprefix("spectok/_web/") for name in archive.namelist() if name.startswith("spectok/_web/")}
        runtime = gzip.decompress(archive.read("spectok/_web/ort-wasm-simd-threaded.wasm.gz"))
        licences = archive.read("spectok/_web/LICENSES.txt").decode()
    scripts = {"main.js", "worker.js", "worklet.js"}
    assert held == {"index.html", "style.css", "icon.svg", "LICENSES.txt", "ort-wasm-simd-threaded.wasm.gz", *scripts}
    assert runtime[:4] == b"\0asm"
    assert "Copyright (c) Microsoft Corporation" in licences and "Paul Miller" in licences


def test_the_source_distribution_holds_the_sources_of_the_page_and_nothing_built(tmp_path: Path) -> None:
    path = next(SdistBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"]))
    with tarfile.open(path) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {"hatch_build.py", "web/package-lock.json", "web/src/index.ts", "web/page/index.html"} <= held
    assert [name for name in held if name.startswith(("web/node_modules", "web/dist", ".venv"))] == []
    assert Path(path).stat().st_size <= 15e6


def test_an_installation_can_be_checked(wheel: str, tmp_path: Path) -> None:
    """The snippet in SECURITY.md names each file that was changed, and `spectok info` finds a changed model."""
    document = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"^```python\n(.*?)^```", document, re.MULTILINE | re.DOTALL)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    assert run("-c", snippet).stdout == ""
    assert run("-m", "spectok", "info").returncode == 0
    names = ["spectok/_pretrained/spectok-16k-4k/model.safetensors", "spectok/wav.py"]
    for name in names:
        content = bytearray((tmp_path / name).read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / name).write_bytes(content)
    assert sorted(run("-c", snippet).stdout.splitlines()) == [f"{name} has changed" for name in names]
    (tmp_path / names[1]).write_bytes((ROOT / names[1]).read_bytes())
    done = run("-m", "spectok", "info")
    assert done.returncode == 2 and f"{names[0]} is damaged: its SHA-256 is not the one" in done.stderr


def test_the_version_is_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert spectok.__version__ == project["version"]
    assert json.loads((ROOT / "web" / "package.json").read_text(encoding="utf-8"))["version"] == project["version"]
    assert f"\nversion: {project['version']}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_the_command_line_prints_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"spectok {spectok.__version__}\n"


def test_what_is_public_is_documented() -> None:
    assert [name for name in spectok.__all__ if not (getattr(spectok, name).__doc__ or "").strip()] == []


def test_results_have_the_types_that_type_checkers_see(speech: NDArray[np.float32], tmp_path: Path) -> None:
    tokenizer, audio = released(pretrained.DEFAULT), speech[:16000]
    write_audio(tmp_path / "a.wav", audio, 16000)
    heard = downstream.offline(tokenizer, audio, tmp_path / "a.wav")
    assert heard.dtype == np.float32 and heard.shape == (16000,)
    assert downstream.in_torch(tokenizer, torch.from_numpy(audio)).dtype == torch.float32
    streamed = downstream.streaming(tokenizer, [audio[:8000], audio[8000:]])
    assert streamed.dtype == np.float32 and streamed.shape == (
        16160,
    )  # 51 frames of 320 samples, less the synthesis delay of 160
    assert downstream.refusal("nobody").startswith("there is no model 'nobody'")


def test_the_dockerfile_copies_what_the_package_is_built_from(tmp_path: Path) -> None:
    copied = re.findall(r"^COPY (.*) /spectok/\S*$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    sources = [source for line in copied for source in line.split()]
    for source in sources:
        path = ROOT / source
        (shutil.copytree if path.is_dir() else shutil.copy)(path, tmp_path / source)
    wheel = next(WheelBuilder(str(tmp_path)).build(directory=str(tmp_path / "dist"), versions=["standard"]))
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    assert {"spectok/cli/main.py", "spectok/_pretrained/index.toml"} <= held
    assert {f"spectok/_pretrained/{name}/decoder.onnx" for name in pretrained.models()} <= held
