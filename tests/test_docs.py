"""Documents: snippets run and print what they say, links lead somewhere, the site builds, figures are up to date."""

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

import spectok
from benchmarks.figures import is_stale
from recipes import reliability
from recipes.cards import documents, drawings
from recipes.commands import command_tables
from recipes.quality import RESULTS, stale_figures
from spectok import pretrained
from spectok.model.codec import Codec

ROOT = Path(__file__).parent.parent
REPOSITORY = "https://github.com/spectok/spectok"
PAGES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))
DOCUMENTS = [
    "README.md",
    *PAGES,
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "benchmarks/README.md",
    "recipes/README.md",
    "recipes/RESULTS.md",
    "recipes/ablations/README.md",
    "recipes/bottlenecks/README.md",
    "recipes/separation/README.md",
    "recipes/speech_lm/README.md",
    "recipes/streaming/README.md",
    "pretrained/spectok-16k-4k/README.md",
    "pretrained/spectok-16k-800/README.md",
]


def read(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def python_snippets(document: str) -> list[tuple[str, str]]:
    """The code of each snippet and what it prints, which is in the block of text that follows."""
    return re.findall(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", read(document), re.MULTILINE | re.DOTALL)


def shell_snippets(document: str) -> str:
    """Lines to run; what is to be read but not run is in blocks of sh."""
    return "".join(re.findall(r"^```bash\n(.*?)^```", read(document), re.MULTILINE | re.DOTALL))


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speech: NDArray[np.float32]) -> Path:
    """An empty folder with speech.wav in it."""
    from spectok.audio import write_audio

    write_audio(tmp_path / "speech.wav", speech[:32000], 16000)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("document", [document for document in DOCUMENTS if shell_snippets(document)])
def test_shell_snippets_run(desk: Path, document: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", shell_snippets(document)],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    sizes = {path.name: path.stat().st_size for path in desk.glob("*.wav")}
    assert set(sizes.values()) == {64044}
    if "streamed.wav" in sizes:
        # 101 frames of 8 for 2 s and the synthesis delay; in float32 rounding may flip a code.
        assert re.search(r"^difference  [012] of 808 codes from offline", done.stdout, re.MULTILINE)
    if "piped.wav" in sizes:
        whole, piped = ((desk / name).read_bytes() for name in ("decoded.wav", "piped.wav"))
        assert whole[44:] == piped[44:]  # the header of a pipe's WAV does not know the length


@pytest.mark.filterwarnings("ignore:.*name='tokens.tar':pytest.PytestUnraisableExceptionWarning")  # webdataset's
@pytest.mark.parametrize("document", [document for document in DOCUMENTS if python_snippets(document)])
def test_python_snippets_print_what_they_say(desk: Path, document: str) -> None:
    names: dict[str, object] = {}
    for code, printed in python_snippets(document):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(code, document, "exec"), names)
        assert out.getvalue() == printed


def test_the_readme_is_short() -> None:
    assert len(read("README.md").split()) <= 900


def test_what_quotes_the_results_is_up_to_date() -> None:
    stale = [
        str(path.relative_to(ROOT))
        for path, text in documents(json.loads(RESULTS.read_text(encoding="utf-8"))).items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    assert stale + stale_figures(RESULTS.read_bytes()) == [], "run recipes/cards.py"
    assert not any(is_stale(path, shown) for path, (shown, _) in drawings().items()), "run recipes/cards.py"


def test_a_figure_of_other_results_is_stale() -> None:
    assert stale_figures(RESULTS.read_bytes() + b" ") == ["rate_quality", "quality_cost", "categories", "harmonics"]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    targets = re.findall(r"(?:\]\(|src=\")([^)#\"]+)", read(document))
    missing = [t for t in targets if "://" not in t and not (ROOT / document).parent.joinpath(t).exists()]
    assert missing == []


@pytest.mark.parametrize("document", [*DOCUMENTS, "CITATION.cff", "pyproject.toml"])
def test_addresses_in_the_repository_lead_to_files(document: str) -> None:
    paths = re.findall(rf"{REPOSITORY}/(?:blob|raw|tree)/main/([^)#\"\s]+)", read(document))
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_readme_knows_the_size_of_the_models() -> None:
    codecs = [Codec(pretrained.find(name).config) for name in pretrained.models()]
    parameters = " or ".join(f"{codec.num_parameters / 1e6:.1f}" for codec in codecs)
    macs = " or ".join(f"{sum(codec.macs_per_second().values()) / 1e9:.2f}" for codec in codecs)
    assert f"{parameters} million parameters; {macs} billion multiply-accumulates" in read("README.md")


def test_where_to_change_what_names_what_is_in_the_files() -> None:
    section = read("CONTRIBUTING.md").split("## Where to change what")[1].split("\n## ")[0]
    pairs = re.findall(r"((?:`\w+`(?: and | of )?)+) in \[`([^`]+)`\]", section)
    assert len(pairs) == 18
    missing = [
        (name, path) for names, path in pairs for name in re.findall(r"`(\w+)`", names) if name not in read(path)
    ]
    assert missing == []


def test_the_figure_of_the_architecture_shows_the_code() -> None:
    figure = read("docs/architecture.svg")
    modules = {name.rsplit("/")[-1] for name in re.findall(r"[\w/]+\.py", figure)}
    assert modules <= {path.name for path in (ROOT / "spectok" / "model").rglob("*.py")}
    for name in pretrained.models():
        config = pretrained.find(name).config
        quantizer, tower, positions = config.quantizer, config.tower, config.spectrum.positions
        shapes = {
            f"[B, 2, {tower.time_strides[0]}F, {positions}]",
            f"[B, F, {positions // tower.frequency_strides[0]}, {tower.channels[-1]}]",
        }
        assert [shape for shape in shapes if shape not in figure] == []
        facts = f"K = {quantizer.tokens_per_frame} codes? of {quantizer.codebook_size:,}, d = {quantizer.codebook_dim}"
        assert re.search(f"{name}: {facts}, D = {config.latent_dim}", figure)


def test_every_command_and_argument_is_explained() -> None:
    page = command_tables()
    files, models = ["encode", "decode", "tokenize", "verify", "repair"], ["info", "inspect", "eval", "tokens"]
    commands = [*files, "stream", "live", "web", "serve", *models, "bench", "export"]
    assert re.findall(r"^### (\w+)$", page, re.MULTILINE) == commands
    assert re.findall(r"^\|.*\|\s*\|$", page, re.MULTILINE) == []
    assert "\n    spectok encode [options] IN ... OUT\n" in page
    assert "\n    spectok info [options] [FILE|MODEL]\n" in page
    assert "\n    spectok bench --out OUT [options] FOLDER|MANIFEST\n" in page
    assert "\n    spectok decode codes/ decoded/ --jobs 4\n" in page
    assert page.count("| `-q`, `--quiet` | show errors only: no progress, no notices |\n") == 1
    assert "\n| `FOLDER` or `MANIFEST` | audio files, or a manifest.csv that names them |\n" in page
    assert "\n| `--engine {onnx,torch}` | what runs the network (default: onnx on the CPU) |\n" in page


def test_the_readme_stands_alone() -> None:
    """A package's page shows the README without the files beside it."""
    assert re.findall(r"\]\((?!https://)[^)]*\)", read("README.md")) == []


def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    pages = {path: path.read_text(encoding="utf-8") for path in (tmp_path / "site").rglob("*.html")}
    assert len(pages) > len(PAGES)
    loads = r"<(?:script|img|audio|source|iframe)\b[^>]*\bsrc=\"?https?:|<link\b[^>]*\bhref=\"?https?:"
    assert {path.name: found for path, text in pages.items() if (found := re.findall(loads, text))} == {}
    reference = (tmp_path / "site" / "reference" / "index.html").read_text(encoding="utf-8")
    assert [name for name in spectok.__all__ if f'id="spectok.{name}"' not in reference] == []


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


@pytest.mark.parametrize(("stamp", "extra"), [(".ready", "dev"), (".demo", "pesq")])
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


def test_the_demo_does_without_what_needs_a_compiler(tmp_path: Path) -> None:
    bin, log = tmp_path / "venv" / "bin", tmp_path / "log"
    bin.mkdir(parents=True)
    for name in ("python", "pip", "uv"):
        script = f'#!/bin/sh\necho {name} "$@" >> {log}\ncase "$*" in *pesq*) exit 1;; esac\n'
        (bin / name).write_text(script, encoding="utf-8")
        (bin / name).chmod(0o755)
    assert make(tmp_path, "exit 1", ".ready") == 0
    log.unlink()
    assert make(tmp_path, "exit 1", ".demo") == 0
    extras = [line[line.index("-e") :] for line in log.read_text(encoding="utf-8").splitlines() if "-e" in line]
    assert extras == ["-e .[pesq]", "-e .[pesq]", "-e .[eval]"]


def test_the_tests_that_the_page_on_reliability_names_exist() -> None:
    named = reliability.named_tests()
    assert len(named) > 40
    for test in named:
        file, name = test.split("::")
        assert f"\ndef {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), test
