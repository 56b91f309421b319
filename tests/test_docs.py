"""README's snippets run as they stand, and what quotes the results is what the results say."""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from recipes.cards import documents
from recipes.quality import RESULTS, pictures_stale

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def texts(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speech: NDArray[np.float32]) -> Path:
    """An empty folder with speech.wav in it."""
    from spectok.audio import write_audio

    write_audio(tmp_path / "speech.wav", speech[:32000], 16000)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_shell_snippets_run(desk: Path) -> None:
    (text,) = texts("bash")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text], env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    # 101 frames of 8 for 2 s and the synthesis delay; in float32 rounding may flip a code.
    assert re.search(r"^difference  [012] of 808 codes from offline", done.stdout, re.MULTILINE)
    sizes = {path.name: path.stat().st_size for path in desk.glob("*.wav")}
    assert sizes == dict.fromkeys(("speech.wav", "decoded.wav", "streamed.wav", "piped.wav"), 64044)
    assert (desk / "decoded.wav").read_bytes() == (desk / "piped.wav").read_bytes()


PRINTED = {
    "tokenizer": "101 codes, each from 0 to 65535, 50 a second\n",
    "streaming": "32160 samples, at most 480 behind the microphone\n",
}


@pytest.mark.parametrize(("text", "printed"), list(zip(texts("python"), PRINTED.values(), strict=True)), ids=PRINTED)
def test_python_snippets_print_what_they_should(desk: Path, text: str, printed: str) -> None:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(text, "README.md", "exec"), {})
    assert out.getvalue() == printed


def test_what_quotes_the_results_is_up_to_date() -> None:
    stale = [
        str(path.relative_to(ROOT))
        for path, text in documents(json.loads(RESULTS.read_text(encoding="utf-8"))).items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    assert stale + pictures_stale(RESULTS.read_bytes()) == [], "run recipes/cards.py"


def test_a_picture_of_other_results_is_stale() -> None:
    assert pictures_stale(RESULTS.read_bytes() + b" ") == ["rate_quality", "quality_cost", "categories", "harmonics"]


def test_links_lead_somewhere() -> None:
    for document in (
        "README.md",
        "CONTRIBUTING.md",
        "recipes/README.md",
        "recipes/streaming/README.md",
        "benchmarks/README.md",
    ):
        text = (ROOT / document).read_text(encoding="utf-8")
        targets = re.findall(r"\]\(([^)#]+)\)", text)
        missing = [t for t in targets if "://" not in t and not (ROOT / document).parent.joinpath(t).exists()]
        assert missing == [], document


def make(folder: Path, python: str, stamp: str = ".ready") -> int:
    """Run make for the environment in `folder`, with a stand-in for python3 that runs a line of shell."""
    if shutil.which("make") is None:
        pytest.skip("needs make")
    (folder / "python3").write_text(f"#!/bin/sh\n{python}\n", encoding="utf-8")
    (folder / "python3").chmod(0o755)
    variables = [f"VENV={folder}/venv", f"PYTHON={folder}/python3"]
    return subprocess.run(
        ["make", "-C", ROOT, *variables, f"{folder}/venv/bin/{stamp}"], capture_output=True
    ).returncode


def test_half_an_environment_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    """Without Debian's python3-venv there is a bin/python, and no pip."""
    for _ in range(2):
        assert make(tmp_path, f"mkdir -p {tmp_path}/venv/bin; touch {tmp_path}/venv/bin/python; exit 1") != 0
        assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize(("stamp", "extra"), [(".ready", "dev"), (".demo", "eval")])
@pytest.mark.parametrize("uv_fails", [False, True])
def test_pip_installs_where_uv_fails(tmp_path: Path, uv_fails: bool, stamp: str, extra: str) -> None:
    bin, log = tmp_path / "venv" / "bin", tmp_path / "log"
    bin.mkdir(parents=True)
    for name, code in {"python": 0, "pip": 0, "uv": int(uv_fails)}.items():
        (bin / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {log}\nexit {code}\n', encoding="utf-8")
        (bin / name).chmod(0o755)
    assert make(tmp_path, "exit 1", stamp) == 0
    lines = log.read_text(encoding="utf-8").splitlines()
    assert [line.split()[0] for line in lines] == ["python", "uv"] + ["python"] * uv_fails
    assert re.fullmatch(rf"(uv pip|python -m pip) install .*-e \.\[{extra}\]", lines[-1])
    assert (bin / stamp).exists()
