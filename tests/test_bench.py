"""Tests of `spectok bench`: its cache, the measured costs, and the pages."""

import base64
import json
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from spectok.audio import write_audio
from spectok.bench import costs
from spectok.bench.figures import leading
from spectok.bench.page import _drawing, _pitches, write_pages
from spectok.bench.rivals import RIVALS
from spectok.bench.run import clips_of, run_benchmark
from spectok.cli.main import main
from spectok.errors import InputError
from spectok.evaluation.catalogue import JUDGED, SCORED
from spectok.evaluation.coders import Audio, Coded, Uncoded
from spectok.evaluation.items import Item


class Coarse(Uncoded):
    """Rounds samples, and counts calls; a frame of 320 samples also depends on the `wait` samples after it."""

    def __init__(self, name: str, steps: int, bitrate: float = 8000.0, wait: int = 0) -> None:
        self.name, self.steps, self.bitrate, self.wait, self.coded = name, steps, bitrate, wait, 0

    def code(self, audio: Audio) -> Coded:
        self.coded += 1
        peaks = [audio[start : start + 320 + self.wait].max() for start in range(0, len(audio), 320)]
        loud = np.repeat(np.array(peaks) > 0.8, 320)[: len(audio)]  # a frame depends on `wait` samples after it
        heard = np.round(audio * self.steps) / self.steps + 0.01 * loud
        seconds = 0.9 / self.steps, 1.8 / self.steps
        return Coded(heard.astype(np.float32), len(audio) // 2, len(audio) // 16, *seconds, np.full(3, self.steps))

    def facts(self) -> dict[str, Any]:
        return {"bitrate": self.bitrate, "codebook_size": 100, "macs": 1e6 * self.steps}


@pytest.fixture
def items(speech: NDArray[np.float32], tmp_path: Path) -> list[Item]:
    made = [Item(tmp_path / f"{number}.wav", kind) for number, kind in enumerate(("clean_a", "clean_b", "hard_c"))]
    for number, item in enumerate(made):
        write_audio(item.path, speech[8000 * number : 8000 * (number + 2)], 16000)
    return made


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace measurements of costs that take long."""
    monkeypatch.setattr("spectok.bench.run.latency", lambda coder: 480)


def coders() -> tuple[Coarse, Coarse, Uncoded]:
    return Coarse("spectok-fine", 90), Coarse("opus-rough", 10), Uncoded()


def quality(results: dict[str, Any]) -> dict[str, list[list[float]]]:
    return {
        name: [[row[metric] for metric in SCORED] for row in coder["rows"]] for name, coder in results["coders"].items()
    }


def test_cached_results_are_not_measured_again(items: list[Item], tmp_path: Path, quick: None) -> None:
    first, again = coders(), coders()
    results = run_benchmark(items, first, tmp_path / "out", [])
    assert [coder.coded for coder in first[:2]] == [3 + 6, 3 + 6]  # each file, then the timings
    told = []
    repeated = run_benchmark(items, again, tmp_path / "out", [], progress=lambda *step: told.append(step))
    assert [coder.coded for coder in again[:2]] == [0, 0]
    assert repeated == results
    assert told == [("coded", number, 3) for number in (1, 2, 3)]
    np.testing.assert_array_equal(results["coders"]["original"]["groups"]["*"]["si_sdr"]["mean"], 100.0)


def test_a_killed_run_is_continued(
    items: list[Item], tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_benchmark(items, coders(), tmp_path / "whole", [])
    killed = coders()
    code = killed[1].code
    monkeypatch.setattr(killed[1], "code", lambda audio: code(audio) if killed[1].coded < 2 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_benchmark(items, killed, tmp_path / "out", [])
    resumed = coders()
    results = run_benchmark(items, resumed, tmp_path / "out", [])
    assert [coder.coded for coder in resumed[:2]] == [0 + 6, 1 + 6]
    assert quality(results) == quality(whole)


def test_another_codec_of_the_same_name_is_measured_again(items: list[Item], tmp_path: Path, quick: None) -> None:
    run_benchmark(items, coders(), tmp_path, [])
    changed = Coarse("spectok-fine", 90), Coarse("opus-rough", 12, bitrate=9000.0), Uncoded()
    run_benchmark(items, changed, tmp_path, [])
    assert [coder.coded for coder in changed[:2]] == [
        0 + 6,
        3 + 6,
    ]  # timings are in turn, so all are repeated


def test_a_changed_file_is_measured_again(
    items: list[Item], tmp_path: Path, quick: None, speech: NDArray[np.float32]
) -> None:
    run_benchmark(items, coders(), tmp_path / "out", [])
    write_audio(items[0].path, speech[4000:20000], 16000)
    changed = coders()
    run_benchmark(items, changed, tmp_path / "out", [])
    assert [coder.coded for coder in changed[:2]] == [1, 1]


def test_a_codec_without_weights_has_costs_and_no_quality(items: list[Item], tmp_path: Path, quick: None) -> None:
    measured, bare = coders(), Coarse("mimi-1.1", 30, bitrate=1100.0)
    results = run_benchmark(items, measured, tmp_path, [], weightless=[bare])
    assert bare.coded == 4  # a warm-up and three rounds
    assert list(results["coders"]) == ["spectok-fine", "opus-rough", "original"]
    assert list(results["weightless"]) == ["mimi-1.1"]
    found = results["weightless"]["mimi-1.1"]
    assert (found["facts"]["macs"], found["costs"]["rtf_decode_ratio"]) == (3e7, pytest.approx(3.0))
    write_pages(results, clips_of(items, measured, tmp_path, 1), tmp_path)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.rows == {"quality-table": 3, "cost-table": 4, "difference-table": 1}
    repeated = run_benchmark(items, coders(), tmp_path, [], weightless=[bare])
    assert (bare.coded, repeated) == (4, results)


def test_judges_can_score_a_part_of_the_files(
    items: list[Item], tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = []

    def judge(original: Audio, decoded: list[Audio], metrics: set[str]) -> list[dict[str, float]]:
        heard.append(metrics)
        return [dict.fromkeys(metrics, 0.25)] * len(decoded)

    monkeypatch.setattr("spectok.evaluation.judges.judge", judge)
    results = run_benchmark(items, coders(), tmp_path, ["wer"], judge_files=2)
    assert len(heard) == 2  # the first and the last of three
    assert [row["wer"] for row in results["coders"]["opus-rough"]["rows"]] == [0.25, None, 0.25]
    whole = run_benchmark(items, coders(), tmp_path, ["wer"])
    assert len(heard) == 3
    assert whole["coders"]["opus-rough"]["groups"]["*"]["wer"]["n"] == 3
    monkeypatch.setattr("spectok.bench.run.score", None)  # has no metric to compute
    more = run_benchmark(items, coders(), tmp_path, ["visqol", "wer"])
    assert heard == [{"wer"}] * 3 + [{"visqol"}] * 3
    assert more["conventions"]["metrics"] == ["visqol", "wer", *SCORED]


def test_the_installed_size_includes_dependencies() -> None:
    sizes = costs._python("soundfile")
    assert {"soundfile", "numpy", "cffi", "pycparser"} <= set(sizes)
    assert all(size > 1e4 for size in sizes.values())
    assert costs.installed({"package": "soundfile 0.13"}) == {
        "megabytes": sum(sizes.values()) / 1e6,
        "packages": len(sizes),
    }
    ours = costs._python("spectok")
    assert "torch" not in ours and {"onnxruntime", "soxr", "soundfile", "numpy"} <= set(ours)
    assert ours["spectok"] > 8e6  # its weights
    assert costs.installed({"weights": "0" * 64}) == {"megabytes": sum(ours.values()) / 1e6, "packages": len(ours)}
    assert costs.installed(Uncoded().facts()) == {}


def test_ratios_of_costs_are_relative_to_the_first_coder(items: list[Item], tmp_path: Path, quick: None) -> None:
    results = run_benchmark(items, coders(), tmp_path, [])
    found = results["coders"]["opus-rough"]["costs"]
    length = 3 * 16000 / 16000
    assert found["rtf"] == pytest.approx({"encode": 0.09 / length, "decode": 0.18 / length})
    assert (found["rtf_encode_ratio"], found["rtf_decode_ratio"]) == pytest.approx((9.0, 9.0))
    assert found["latency"] == 480
    for side in ("encode", "decode"):
        assert found["cold"][side]["seconds"] > 0
        assert 5 < found["cold"][side]["megabytes"] < 60


def test_costs_are_measured_on_one_core_and_in_one_thread() -> None:
    allowed, threads = os.sched_getaffinity(0), torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with costs.pinned():
            assert (len(os.sched_getaffinity(0)), torch.get_num_threads()) == (1, 1)
        assert (os.sched_getaffinity(0), torch.get_num_threads()) == (allowed, 3)
    finally:
        torch.set_num_threads(threads)


def test_a_new_process_is_measured_with_its_own_memory() -> None:
    small, large = (costs.run_cold([sys.executable, "-S", "-c", f"bytearray({size})"]) for size in (1, 200_000_000))
    assert 5 < small.megabytes < 60
    assert large.megabytes - small.megabytes == pytest.approx(200, abs=10)
    assert small.seconds > 0
    with pytest.raises(InputError, match=f"^{sys.executable} failed with exit code 3$"):
        costs.run_cold([sys.executable, "-c", "raise SystemExit(3)"])


@pytest.mark.parametrize("wait", [0, 160])
def test_the_latency_is_a_frame_and_the_look_ahead(wait: int) -> None:
    assert costs.latency(Coarse("frames", 90, wait=wait)) == pytest.approx(319 + wait, abs=20)


def test_a_coder_that_changes_nothing_has_no_latency() -> None:
    assert costs.latency(Uncoded()) == 0


class Page(HTMLParser):
    """The content of a page: rows by table, figures, buttons that play a clip, and the choices of the player."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: dict[str, int] = {}
        self.figures: list[dict[str, str]] = []
        self.buttons: list[tuple[str, str]] = []
        self.choices: list[str] = []
        self._table = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attributes}
        if tag == "table":
            self._table = found["id"]
            self.rows[self._table] = -1  # the head
        elif tag == "tr":
            self.rows[self._table] += 1
        elif tag == "img":
            self.figures.append(found)
        elif tag == "button" and "data-codec" in found:
            self.buttons.append((found["data-clip"], found["data-codec"]))
        elif tag in ("option", "input") and "value" in found:
            self.choices.append(found["value"])


def test_the_pages_have_every_row_figure_and_player(items: list[Item], tmp_path: Path, quick: None) -> None:
    measured = coders()
    results = run_benchmark(items, measured, tmp_path, [])
    write_pages(results, clips_of(items, measured, tmp_path, 2), tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.rows == {"quality-table": 3, "cost-table": 3, "difference-table": 1}
    names = ["original", "spectok-fine", "opus-rough"]
    assert page.buttons == [(clip, name) for clip in ("0", "1") for name in names]
    assert page.choices == ["0", "1", "original", "spectok-fine", "opus-rough", "0"]  # the last is the position
    assert len(page.figures) == 3 + 2 * 3  # rate and quality, cost, categories; one for every clip and codec
    assert all(figure["alt"] and figure["src"].startswith("data:image/png;base64,") for figure in page.figures)
    (sounds,) = map(json.loads, re.findall(r'id="sounds">(.*?)</script>', text))
    assert {clip: list(coded) for clip, coded in sounds.items()} == {"0": names, "1": names}
    assert base64.b64decode(sounds["1"]["opus-rough"]).startswith(b"fLaC")
    assert not re.search(r'(?:src|href)="(?:https?:|/)', text)
    abx = (tmp_path / "abx.html").read_text(encoding="utf-8")
    (clips,) = map(json.loads, re.findall(r"const CLIPS = (.*);", abx))
    assert [clip["clip"] for clip in clips] == ["0", "1"]
    assert all(set(clip["sounds"]) == {coder.name for coder in measured} for clip in clips)


def test_figures_show_the_first_metric_that_all_groups_have() -> None:
    def group(**means: float | None) -> dict[str, dict[str, float | None]]:
        return {name: {"mean": value} for name, value in means.items()}

    whole, part = group(pesq=1.0, distillmos=3.0), group(pesq=2.0, distillmos=None)
    results = {"conventions": {"metrics": ["pesq", "distillmos"]}, "coders": {"a": {"groups": {"x": whole}}}}
    assert leading(results) == "distillmos"
    assert leading(results | {"coders": {"a": {"groups": {"x": whole, "y": part}}}}) == "pesq"


def test_the_pitch_is_drawn_where_it_is_voiced(speech: NDArray[np.float32]) -> None:
    time = np.arange(16000) / 16000
    voice = np.asarray(sum(0.2 * 0.5**k * np.sin(2 * np.pi * 200 * k * time) for k in range(1, 6)), np.float32)
    half = np.where(time < 0.5, voice, np.float32(0.0))
    pitches = _pitches({"mine": half, "original": voice})
    _, axis = _drawing(half, pitches, "mine").axes
    original, mine = (np.asarray(line.get_ydata(), float) for line in axis.lines)
    assert np.nanmedian(original) == pytest.approx(200, rel=0.01)
    assert np.isnan(original).mean() < 0.1
    assert np.isnan(mine).mean() == pytest.approx(0.5, abs=0.1)
    assert len(_drawing(half, {}, "mine").axes) == 1  # without the tracker


def test_names_of_clips_cannot_end_a_script(items: list[Item], tmp_path: Path, quick: None) -> None:
    measured = coders()
    results = run_benchmark(items, measured, tmp_path, [])
    clips = {"</script>": clips_of(items, measured, tmp_path, 1)["0"]}
    write_pages(results, clips, tmp_path)
    for page in ("report.html", "abx.html"):
        text = (tmp_path / page).read_text(encoding="utf-8")
        assert text.count("<script") == text.count("</script>")


def test_clips_come_from_all_categories_in_turn(items: list[Item], tmp_path: Path, quick: None) -> None:
    doubled = [items[0], Item(items[1].path, "clean_a"), items[2]]
    measured = coders()
    run_benchmark(doubled, measured, tmp_path, [])
    assert list(clips_of(doubled, measured, tmp_path, 2, seconds=0.5)) == ["0", "2"]
    assert len(clips_of(doubled, measured, tmp_path, 1, seconds=0.5)["0"]["original"]) == 8000


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--files", "0"], "--files is 0, but must be positive"),
        (["--files=-1"], "--files is -1, but must be positive"),
        (["--judge-files", "0"], "--judge-files is 0, but must be positive"),
        (["--clips=-1"], "--clips is -1, but must not be negative"),
        (["--jobs", "0"], "--jobs is 0, but must be positive"),
    ],
)
def test_bad_counts_are_refused_before_anything_is_coded(
    options: list[str], sentence: str, items: list[Item], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(Path(items[0].path).parent)
    assert main(["bench", folder, "--out", str(tmp_path / "out"), "--no-judges", *options]) == 2
    assert capsys.readouterr().err == f"spectok: {sentence}\n"
    assert not (tmp_path / "out").exists()
    if options[0] == "--jobs":
        assert main(["eval", folder, *options]) == 2
        assert capsys.readouterr().err == f"spectok: {sentence}\n"


def test_missing_rivals_are_named_and_left_out(
    items: list[Item], tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setitem(sys.modules, "spectok.bench.neural", None)  # as without PyTorch
    monkeypatch.setattr(
        "spectok.bench.run.cold",
        lambda coder, audio: {side: {"seconds": 1.0, "megabytes": 1.0} for side in ("encode", "decode")},
    )
    folder = Path(items[0].path).parent
    assert main(["bench", str(folder), "--out", str(tmp_path / "out"), "--files", "1", "--no-judges"]) == 0
    printed = capsys.readouterr()
    assert "left out: neural rivals need more packages: pip install 'spectok[neural]' (" in printed.err
    for name, rival in RIVALS.items():
        assert f"left out: {name} needs the program" in printed.err, rival
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert list(results["coders"]) == ["spectok-16k-4k", "spectok-16k-800", "original"]
    assert printed.out.strip() == str(tmp_path / "out" / "report.html")


def test_a_judge_whose_package_is_missing_is_named_and_left_out(
    items: list[Item], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[list[str]] = []

    def stop(items: Any, coders: Any, out: Any, judged: list[str], *others: Any) -> None:
        asked.append(judged)
        raise InputError("stopped")

    monkeypatch.setattr("spectok.evaluation.judges.missing", lambda: {"visqol": "ai_edge_litert"})
    monkeypatch.setattr("spectok.bench.run.run_benchmark", stop)
    command = ["bench", str(items[0].path.parent), "--out", str(tmp_path / "out"), "--rival", "opus-6"]
    assert main(command) == 2
    notice = f"left out: {JUDGED['visqol'].title} needs the package ai_edge_litert: pip install 'spectok[bench]'"
    assert notice in capsys.readouterr().err.splitlines()
    assert main([*command, "--no-judges"]) == 2
    assert notice not in capsys.readouterr().err
    assert asked == [[name for name in JUDGED if name != "visqol"], []]


def test_an_unknown_rival_is_refused(items: list[Item], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(items[0].path).parent
    assert main(["bench", str(folder), "--out", str(tmp_path / "out"), "--rival", "opus-7"]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith("spectok: there is no rival opus-7; there are codec2-3200, ")
    assert sentence.endswith(", mimi-1.1, snac-1")
    assert not (tmp_path / "out").exists()
