"""Tests of `spectok bench --decoded`: what another codec decoded is measured, and what does not fit is refused."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from spectok import pretrained
from spectok.audio import write_audio
from spectok.bench.decoded import decoded_files, offset_of
from spectok.bench.run import run_benchmark
from spectok.cli.main import main
from spectok.errors import InputError
from spectok.evaluation.coders import Audio, Coder, Runnable, Uncoded
from spectok.evaluation.items import Item, load_items, read_item
from spectok.resampling import resample


@pytest.fixture
def corpus(speech: NDArray[np.float32], tmp_path: Path) -> Path:
    """Two files of 1 s with the same name in two sub-folders, and one of 2 s in none."""
    for name, start, seconds in (("a/1", 0, 1), ("b/1", 1, 1), ("2", 2, 2)):
        path = tmp_path / "corpus" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_audio(path, speech[16000 * start : 16000 * (start + seconds)], 16000)
    return tmp_path / "corpus"


def write(folder: Path, items: list[Item], change: Any = lambda audio: audio, rate: int = 16000) -> Path:
    """Write every item of `corpus` as FLAC at a sample rate, in its sub-folder, after a change."""
    for item in items:
        path = (folder / item.path.relative_to(folder.parent / "corpus")).with_suffix(".flac")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_audio(path, change(resample(read_item(item), 16000, rate)), rate)
    return folder


def shifted(samples: int) -> Any:
    def shift(audio: Audio) -> Audio:
        return np.pad(audio, (max(samples, 0), 0))[max(-samples, 0) :][: len(audio)]

    return shift


def test_decoded_files_are_measured_beside_the_others(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(pretrained, "models", lambda: ["spectok-16k-800"])
    cold = {side: {"seconds": 1.0, "megabytes": 1.0} for side in ("encode", "decode")}
    monkeypatch.setattr("spectok.bench.run.cold", lambda coder, audio: cold)
    monkeypatch.setattr("spectok.bench.run.latency", lambda coder: 480)
    items, out = load_items(corpus), tmp_path / "out"
    copies = write(tmp_path / "copies", items)
    rough = write(tmp_path / "rough", items, lambda audio: np.round(20 * audio) / np.float32(20), rate=24000)
    options = ["--no-judges", "--rival", "opus-6", "--clips", "1"]
    options += ["--decoded", f"mine-1={copies}@1.5", "--decoded", f"mine-2={rough}@0.75"]
    assert main(["bench", str(corpus), "--out", str(out), *options]) == 0
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert list(results["coders"]) == ["spectok-16k-800", "mine-1", "mine-2", "original"]
    same, worse = (results["coders"][name]["groups"]["*"] for name in ("mine-1", "mine-2"))
    assert same["pesq"]["mean"] == pytest.approx(4.64, abs=0.01)
    assert same["stoi"]["mean"] == pytest.approx(1.0, abs=1e-6)
    assert worse["pesq"]["mean"] < 2.5
    assert same["payload_bits_per_second"] == pytest.approx(1500.0, abs=0.5)
    assert worse["payload_bits_per_second"] == pytest.approx(750.0, abs=0.5)
    assert same["disk_bits_per_second"] is None
    assert results["coders"]["mine-1"]["costs"] == {} != results["coders"]["original"]["costs"]
    tables = (out / "results.md").read_text(encoding="utf-8")
    (cost,) = (line for line in tables.partition("## Costs, one core")[2].splitlines() if line.startswith("| mine-1 |"))
    assert set(cost.replace("mine-1", "").split()) == {"|", "-"}
    assert "| mine-1 | 1,500 | - |" in tables
    assert "nan" not in tables.lower() and "mine-1" in (out / "report.html").read_text(encoding="utf-8")
    assert "ms later" not in capsys.readouterr().err


def test_files_are_measured_again_only_if_they_change(corpus: Path, tmp_path: Path) -> None:
    items = load_items(corpus)
    folder = write(tmp_path / "decoded", items)
    before = decoded_files(f"mine={folder}@2", items).facts()
    assert decoded_files(f"mine={folder}@2", items[:1]).facts() == before
    write(folder, items[:1], lambda audio: audio / 2)
    after = decoded_files(f"mine={folder}@2", items)
    assert after.facts()["decoded_sha256"] != before["decoded_sha256"]
    np.testing.assert_allclose(after.code(read_item(items[0])).audio, read_item(items[0]) / 2, atol=1e-4)


def test_only_coders_that_can_be_run_have_costs(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spectok.bench.run.timings", lambda coders, audio: {c.name: {"encode": 1.0} for c in coders})
    items = load_items(corpus)
    decoded = decoded_files(f"mine={write(tmp_path / 'decoded', items)}@2", items)
    assert isinstance(Uncoded(), Runnable) and not isinstance(decoded, Runnable)
    coders: list[Coder] = [decoded, Uncoded()]
    told: list[tuple[str, int, int]] = []
    results = run_benchmark(items, coders, tmp_path / "out", [], progress=lambda *step: told.append(step))
    assert {name: bool(coder["costs"]) for name, coder in results["coders"].items()} == {
        "mine": False,
        "original": True,
    }
    assert told[-1] == ("timed", 1, 1)
    assert math.isnan(decoded.code(read_item(items[0])).encode_seconds)


def test_files_of_other_rates_and_nearly_the_same_length_are_fitted(corpus: Path, tmp_path: Path) -> None:
    items = load_items(corpus)
    for number, samples in enumerate((4800, -4800)):  # 0.1 s at 48 kHz
        folder = write(
            tmp_path / f"decoded{number}",
            items,
            lambda audio, more=samples: np.pad(audio, (0, max(more, 0)))[: len(audio) + more],
            rate=48000,
        )
        coder = decoded_files(f"mine={folder}@2", items)
        original = read_item(items[0])
        heard = coder.code(original).audio
        assert heard.shape == original.shape
        np.testing.assert_allclose(heard[100:12000], original[100:12000], atol=0.01)
        assert np.abs(heard[-1500:]).max() > 0.001 if samples > 0 else not heard[-1500:].any()


@pytest.mark.parametrize(("samples", "text"), [(200, "12.5 ms later"), (-40, "2.5 ms earlier"), (16, None)])
def test_files_that_are_not_aligned_are_told(corpus: Path, tmp_path: Path, samples: int, text: str | None) -> None:
    items = load_items(corpus)
    folder = write(tmp_path / "decoded", items, shifted(samples))
    notice = decoded_files(f"mine={folder}@2", items).notice
    assert notice is None if text is None else notice and notice.startswith(f"mine: its files are {text} than the orig")
    original = read_item(items[0])
    assert offset_of(original, -shifted(samples)(original)) == samples


def test_files_without_a_common_offset_are_not_told(corpus: Path, tmp_path: Path) -> None:
    items = load_items(corpus)
    for number, item in enumerate(items):
        write(tmp_path / "decoded", [item], shifted(100 * number))
    assert decoded_files(f"mine={tmp_path / 'decoded'}@2", items).notice is None


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("mine", "--decoded is mine, but must be NAME=FOLDER@KBPS, such as mine=decoded/@1.5"),
        ("mine=decoded", "--decoded is mine=decoded, but must be NAME=FOLDER@KBPS, such as mine=decoded/@1.5"),
        ("../x=decoded@1", "--decoded ../x=decoded@1: the name must begin with a letter or digit and consist of th"),
        (
            "=decoded@1",
            "--decoded =decoded@1: the name must begin with a letter or digit and consist of these and . _ -",
        ),
        ("mine=decoded@0", "--decoded mine=decoded@0: after the @ must be a number of kbit/s above 0"),
        ("mine=decoded@inf", "--decoded mine=decoded@inf: after the @ must be a number of kbit/s above 0"),
        ("mine=decoded@fast", "--decoded mine=decoded@fast: after the @ must be a number of kbit/s above 0"),
        ("mine=nowhere@1", "nowhere is not a folder"),
        ("mine=empty@1", "empty holds no audio files"),
        ("Opus-6=decoded@1", "--decoded Opus-6: another codec has that name"),
        ("original=decoded@1", "--decoded original: another codec has that name"),
        (
            "mine=missing@1",
            "missing has no file for corpus/2.wav: it must have the same name, in the same sub-folder or no",
        ),
        ("mine=twice@1", "twice has two files for corpus/2.wav: twice/2.flac, twice/2.wav"),
        ("mine=flat@1", "flat/1.wav fits two originals, corpus/a/1.wav and corpus/b/1.wav: use their sub-folders"),
        ("mine=long@1", "long/2.flac is 0.50 s longer than its original, corpus/2.wav; at most 0.1 s are allowed"),
        ("mine=short@1", "short/2.flac is 0.25 s shorter than its original, corpus/2.wav; at most 0.1 s are allowed"),
        ("mine=broken@1", "broken/2.flac"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_measured(
    corpus: Path,
    tmp_path: Path,
    argument: str,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    items = load_items(corpus)
    speech = read_item(items[0])
    assert items[0].path.name == "2.wav"
    for name in ("decoded", "missing", "twice", "flat", "broken"):
        write(tmp_path / name, items)
    write(tmp_path / "long", items, lambda audio: np.pad(audio, (0, 8000)))
    write(tmp_path / "short", items, lambda audio: audio[:-4000])
    (tmp_path / "empty").mkdir()
    (tmp_path / "missing" / "2.flac").unlink()
    write_audio(tmp_path / "twice" / "2.wav", speech, 16000)
    for name in "ab":
        (tmp_path / "flat" / name / "1.flac").unlink()
    write_audio(tmp_path / "flat" / "1.wav", speech[:16000], 16000)
    (tmp_path / "broken" / "2.flac").write_bytes(b"no audio")
    assert main(["bench", "corpus", "--out", "out", "--decoded", argument]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(f"spectok: {sentence}")
    assert not (tmp_path / "out").exists()


def test_two_codecs_of_one_name_are_refused(corpus: Path, tmp_path: Path) -> None:
    items = load_items(corpus)
    folder = write(tmp_path / "decoded", items)
    decoded = [decoded_files(f"{name}={folder}@2", items) for name in ("mine", "Mine")]
    from spectok.bench.lineup import lineup

    with pytest.raises(InputError, match=r"^--decoded Mine: another codec has that name$"):
        lineup(["opus-6"], decoded)
