import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spectok.audio import read_audio, write_audio
from spectok.errors import InputError
from spectok.evaluation.catalogue import SCORED
from spectok.evaluation.coders import Audio, Coded, Uncoded
from spectok.evaluation.evaluate import assemble, evaluate_coders
from spectok.evaluation.items import Item, load_items
from spectok.evaluation.metrics import score
from spectok.evaluation.provenance import provenance
from spectok.evaluation.report import markdown, write_report

SPEECH = Path(__file__).parent / "data" / "librispeech_84_16k.flac"


class Through(Uncoded):
    """Returns its input, with the bytes of 16-bit audio and a known time."""

    name = "through"

    def code(self, audio: Audio) -> Coded:
        return Coded(audio, 16 * len(audio), 100 + 2 * len(audio), 0.5, 0.25)

    def facts(self) -> dict[str, Any]:
        return {"bitrate": 256000, "sample_rate": np.int64(16000)}


class FourBits(Uncoded):
    """Quantizes to sixteen equal steps, two samples in a byte."""

    name = "four-bits"

    def code(self, audio: Audio) -> Coded:
        codes = np.clip(np.floor((audio + 1) * 8), 0, 15).astype(np.int64)
        return Coded(
            ((codes + 0.5) / 8 - 1).astype(np.float32), 4 * len(audio), math.ceil(len(audio) / 2), 0.1, 0.2, codes
        )

    def facts(self) -> dict[str, Any]:
        return {"codebook_size": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clean files of 2 s and 1.5 s, and 1 s of silence."""
    folder = tmp_path_factory.mktemp("speech")
    speech = read_audio(SPEECH, 16000)[0]
    write_audio(folder / "000_clean_en_a.wav", speech[:32000], 16000)
    write_audio(folder / "001_clean_de_b.wav", speech[32000:56000], 16000)
    write_audio(folder / "002_hard_quiet.wav", np.zeros(16000, np.float32), 16000)
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, Any]:
    return evaluate_coders(load_items(folder), [Through(), FourBits()])


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_categories_come_from_names_then_subfolders(tmp_path: Path) -> None:
    touch(tmp_path / "000_clean_en_librispeech_test-other.flac", tmp_path / "german" / "deep" / "x.wav")
    touch(tmp_path / "german" / "12_hard_noise.wav", tmp_path / "clean_speech.wav", tmp_path / "7.wav")
    found = {item.path.name: item.category for item in load_items(tmp_path)}
    assert found == {
        "000_clean_en_librispeech_test-other.flac": "clean_en_librispeech_test-other",
        "x.wav": "german",
        "12_hard_noise.wav": "hard_noise",
        "clean_speech.wav": "all",
        "7.wav": "all",
    }


def test_a_manifest_gives_its_test_split_by_default(tmp_path: Path) -> None:
    touch(tmp_path / "t" / "a.wav", tmp_path / "t" / "001_hard_b.wav", tmp_path / "c.wav")
    lines = ["file,split,category,seconds", "t/a.wav,test,clean_x,1", "t/001_hard_b.wav,test,,1", "c.wav,train,other,1"]
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
    chosen = [Item(tmp_path / "t" / "a.wav", "clean_x"), Item(tmp_path / "t" / "001_hard_b.wav", "hard_b")]
    assert load_items(tmp_path / "manifest.csv") == chosen
    assert load_items(tmp_path) == chosen
    assert load_items(tmp_path, "train") == [Item(tmp_path / "c.wav", "other")]
    (tmp_path / "manifest.csv").write_text("file\nc.wav\n")
    assert load_items(tmp_path) == [Item(tmp_path / "c.wav", "all")]
    (tmp_path / "manifest.csv").write_text("file,speaker\nc.wav,someone\nt/a.wav,\n")
    assert load_items(tmp_path) == [Item(tmp_path / "c.wav", "all", "someone"), Item(tmp_path / "t" / "a.wav", "t")]
    (tmp_path / "manifest.csv").write_text("file\nc.wav\n", encoding="utf-8-sig")  # as Excel writes it
    assert load_items(tmp_path) == [Item(tmp_path / "c.wav", "all")]


@pytest.mark.parametrize(
    ("manifest", "split", "sentence"),
    [
        ("file,split\nc.wav,train\n", "valid", "no rows of the split valid"),
        ("path,split\nc.wav,train\n", None, "no rows with a column named file"),
        ("", None, "no rows with a column named file"),
        ("file\nc.wav\nd.wav\n", None, "names d.wav, but there is no such file"),
        ("file,category\nc.wav,x\n,y\n", None, "names , but there is no such file"),
        (b"file\n\xff\xfe\n", None, "cannot read .* as a CSV file"),
    ],
)
def test_a_bad_manifest_raises_one_sentence(tmp_path: Path, manifest: str, split: str | None, sentence: str) -> None:
    touch(tmp_path / "c.wav")
    (tmp_path / "manifest.csv").write_bytes(manifest if isinstance(manifest, bytes) else manifest.encode())
    with pytest.raises(InputError, match=sentence):
        load_items(tmp_path, split)


def test_a_bad_folder_raises_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no audio files"):
        load_items(tmp_path)
    with pytest.raises(InputError, match="no split test to choose"):
        load_items(tmp_path, "test")
    with pytest.raises(InputError, match="neither a folder nor a manifest"):
        load_items(tmp_path / "nowhere")


def test_rows_contain_the_values_of_the_metrics(folder: Path, results: dict[str, Any]) -> None:
    assert results["files"] == [
        {"file": "000_clean_en_a.wav", "category": "clean_en_a", "seconds": 2.0},
        {"file": "001_clean_de_b.wav", "category": "clean_de_b", "seconds": 1.5},
        {"file": "002_hard_quiet.wav", "category": "hard_quiet", "seconds": 1.0},
    ]
    rows = results["coders"]["four-bits"]["rows"]
    assert len(rows) == 3 and not rows[0].keys() & results["files"][0].keys()
    original = read_audio(folder / "000_clean_en_a.wav", 16000)[0]
    assert {metric: rows[0][metric] for metric in SCORED} == score(original, FourBits().code(original).audio)
    assert [rows[2][metric] for metric in ("pesq", "stoi", "estoi", "si_sdr", "level_db", "overshoot_db")] == [None] * 6
    assert rows[2]["mel_distance"] > 0


def test_groups_contain_means_with_intervals_and_n(results: dict[str, Any]) -> None:
    coder = results["coders"]["four-bits"]
    assert list(coder["groups"]) == ["clean_*", "hard_*", "*", "clean_de_b", "clean_en_a", "hard_quiet"]
    clean, everything, (first, second, _) = coder["groups"]["clean_*"], coder["groups"]["*"], coder["rows"]
    assert (clean["files"], clean["seconds"]) == (2, 3.5)
    for metric in SCORED:
        assert clean[metric]["mean"] == pytest.approx((first[metric] + second[metric]) / 2, abs=1e-12)
        half_width = 12.7062047 * abs(first[metric] - second[metric]) / 2
        assert clean[metric]["half_width_95"] == pytest.approx(half_width, rel=1e-7)
        assert clean[metric]["n"] == 2
    assert (everything["files"], everything["pesq"]["n"], everything["mel_distance"]["n"]) == (3, 2, 3)
    assert coder["groups"]["hard_*"]["pesq"] == {"mean": None, "half_width_95": None, "n": 0}
    assert coder["groups"]["clean_en_a"]["pesq"] == {"mean": first["pesq"], "half_width_95": None, "n": 1}


def test_the_reference_condition_is_perfect(results: dict[str, Any]) -> None:
    clean = results["coders"]["through"]["groups"]["clean_*"]
    assert clean["pesq"]["mean"] == pytest.approx(4.643888, abs=1e-5)
    assert clean["pesq"]["half_width_95"] == pytest.approx(0.0, abs=1e-5)
    assert clean["mel_distance"] == {"mean": 0.0, "half_width_95": 0.0, "n": 2}


def test_bits_per_second_and_rtf_are_ratios_of_totals(results: dict[str, Any]) -> None:
    through, four_bits = results["coders"]["through"], results["coders"]["four-bits"]
    assert through["groups"]["clean_*"]["payload_bits_per_second"] == 256000.0
    assert through["groups"]["clean_*"]["disk_bits_per_second"] == 256000.0 + 2 * 8 * 100 / 3.5  # headers of two files
    assert four_bits["groups"]["*"]["payload_bits_per_second"] == 64000.0
    assert four_bits["groups"]["*"]["disk_bits_per_second"] == 64000.0
    assert through["rtf"] == {"encode": pytest.approx(1.5 / 4.5), "decode": pytest.approx(0.75 / 4.5)}
    assert four_bits["rtf"] == {"encode": pytest.approx(0.3 / 4.5), "decode": pytest.approx(0.6 / 4.5)}


def test_bits_and_rtf_of_files_have_their_intervals(results: dict[str, Any]) -> None:
    group = results["coders"]["through"]["groups"]["clean_*"]
    headers = (8 * 100 / 2.0, 8 * 100 / 1.5)  # bits per second of two files
    assert group["file_disk_bits_per_second"]["mean"] == pytest.approx(256000 + sum(headers) / 2, rel=1e-9)
    half_width = 12.7062047 * (headers[1] - headers[0]) / 2
    assert group["file_disk_bits_per_second"]["half_width_95"] == pytest.approx(half_width, rel=1e-7)
    # 0.5 s for 2 s and 1.5 s of audio; t with one degree of freedom is 12.706
    assert group["file_rtf_encode"]["mean"] == pytest.approx((0.25 + 1 / 3) / 2, rel=1e-9)
    assert group["file_rtf_encode"]["half_width_95"] == pytest.approx(12.7062047 * (1 / 3 - 0.25) / 2, rel=1e-7)
    assert group["file_rtf_decode"]["mean"] == pytest.approx((0.125 + 1 / 6) / 2, rel=1e-9)


def test_codebook_use_counts_the_codes_of_all_files(folder: Path, results: dict[str, Any]) -> None:
    coded = [FourBits().code(read_audio(path, 16000)[0]) for path in sorted(folder.glob("*.wav"))]
    shares = np.bincount(np.concatenate([each.codes for each in coded if each.codes is not None]), minlength=16) / 72000
    entropy = -sum(share * math.log2(share) for share in shares if share) / 4
    codebook = results["coders"]["four-bits"]["codebook"]
    assert (codebook["size"], codebook["tokens"]) == (16, 72000)
    assert codebook["used"]["mean"] == np.count_nonzero(shares) / 16
    assert codebook["entropy"]["mean"] == pytest.approx(entropy, abs=1e-12)
    assert codebook["entropy"]["n"] == 3
    assert results["coders"]["through"]["codebook"] is None


def test_paired_differences_are_taken_file_by_file(results: dict[str, Any]) -> None:
    through, four_bits = (results["coders"][name]["rows"] for name in ("through", "four-bits"))
    pairs = {pair["group"]: pair for pair in results["paired"]}
    assert list(pairs) == ["clean_*", "hard_*", "*"]
    assert (pairs["clean_*"]["first"], pairs["clean_*"]["second"]) == ("through", "four-bits")
    one, two = (through[index]["stoi"] - four_bits[index]["stoi"] for index in (0, 1))
    difference = pairs["clean_*"]["stoi"]
    assert difference["mean"] == pytest.approx((one + two) / 2, abs=1e-12)
    assert difference["half_width_95"] == pytest.approx(12.7062047 * abs(one - two) / 2, rel=1e-7)
    assert (pairs["*"]["files"], pairs["*"]["stoi"]["n"], pairs["hard_*"]["stoi"]["n"]) == (3, 2, 0)


def test_results_tell_which_weights_and_machine_they_are_of(folder: Path) -> None:
    class Weighed(Through):
        def facts(self) -> dict[str, Any]:
            return {"weights": "ab" * 32}

    found = evaluate_coders(load_items(folder)[:1], [Weighed()])["provenance"]
    assert found == provenance({"through": "ab" * 32}, threads=None)


def test_rows_of_other_files_are_refused() -> None:
    row = {"file": "a.wav", "category": "all", "seconds": 1.0}
    with pytest.raises(ValueError, match=r"^the rows of every coder must be of the same files in the same order$"):
        assemble({"a": [row], "b": [row | {"file": "b.wav"}]}, {"a": {}, "b": {}}, {"a": [], "b": []}, [])


def test_workers_and_progress_do_not_change_results(folder: Path, results: dict[str, Any]) -> None:
    seen = []
    again = evaluate_coders(load_items(folder), [Through(), FourBits()], lambda *counts: seen.append(counts), jobs=2)
    assert again == results
    assert seen == [(done, 6) for done in range(1, 7)]


class Wrong(Through):
    def __init__(self, change: Callable[[Audio], Coded]) -> None:
        self.change = change

    def code(self, audio: Audio) -> Coded:
        return self.change(audio)

    def facts(self) -> dict[str, Any]:
        return {"codebook_size": 4}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda audio: Coded(audio[1:], 8, 1, 0.0, 0.0), "31999"),
        (lambda audio: Coded(audio * np.float32("inf"), 8, 1, 0.0, 0.0), "not finite"),
        (lambda audio: Coded(audio, 8, 1, 0.0, 0.0, np.array([0, 4])), "codes from 0 to 4 for a codebook of 4"),
        (lambda audio: Coded(audio, 8, 1, 0.0, 0.0, np.array([-1, 3])), "codes from -1 to 3 for a codebook of 4"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered in multiply")
def test_a_wrong_coder_is_detected(folder: Path, change: Callable[[Audio], Coded], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        evaluate_coders(load_items(folder)[:1], [Wrong(change)])


def test_no_files_and_equal_names_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="nothing to evaluate"):
        evaluate_coders([], [Through()])
    with pytest.raises(InputError, match="its own name, but they are through, through"):
        evaluate_coders(load_items(folder), [Through(), Through()])


def test_the_report_shows_the_numbers(results: dict[str, Any]) -> None:
    text = markdown(results)
    clean = results["coders"]["four-bits"]["groups"]["clean_*"]
    pesq = f"{clean['pesq']['mean']:.2f} ± {clean['pesq']['half_width_95']:.2f}"
    assert "## `clean_*`: n = 2 files, 0.1 minutes" in text
    assert "## `hard_*`: n = 1 files, 0.0 minutes" in text
    assert f"| four-bits | 64,000 | 64,000 | {pesq} | " in text
    perfect = "4.64 ± 0.00 | 1.000 ± 0.000 | 1.000 ± 0.000 | 100.0 ± 0.0 | 0.0 ± 0.0 | 0.00 ± 0.00 | 0.000 ± 0.000"
    assert f"| through | 256,000 | 256,457 | {perfect} |" in text
    assert "| through | 256,000 | 256,800 | - | - | - | - | - | - | 0.000 |" in text
    assert "| through | 256,578 ± 506 | 0.3611 ± 0.3162 | 0.1806 ± 0.1581 | - | - | - |" in text
    assert "| clean_en_a | 1 | 4.64 | " in text
    assert "| through minus four-bits | 2 | " in text
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("| ")]
    widths = [{line.count("|") for line in table} for table in tables]
    # The groups; the cost; PESQ and STOI of both coders by category; the differences.
    assert widths == [{11}, {11}, {8}, {5}, {5}, {10}]


def test_times_are_either_those_of_files_or_those_on_one_core(results: dict[str, Any]) -> None:
    timed = json.loads(json.dumps(results))
    for coder in timed["coders"].values():
        coder["costs"] = {"rtf": {"encode": 0.1, "decode": 0.2}}
    for found, of_files in ((results, True), (timed, False)):
        assert ("rtf encode of a file" in markdown(found)) == of_files
        assert ("| through | 0.1000 |" in markdown(found)) != of_files


def test_the_report_gives_n_where_values_are_missing(folder: Path) -> None:
    items = [Item(item.path, "all") for item in load_items(folder)]
    text = markdown(evaluate_coders(items, [Through()]))
    assert "## All files: n = 3 files" in text
    assert "| through | 256,000 | 256,533 | 4.64 ± 0.00 (n = 2) |" in text
    assert "by category" not in text and "minus" not in text


def test_the_report_is_written(tmp_path: Path, results: dict[str, Any]) -> None:
    out = tmp_path / "deep" / "out"
    write_report(results, out)
    assert sorted(path.name for path in out.iterdir()) == ["results.json", "results.md"]
    assert json.loads((out / "results.json").read_text()) == results
    assert (out / "results.md").read_text() == markdown(results)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot make the folder"):
        write_report(results, tmp_path / "file")


def test_results_that_json_cannot_hold_leave_no_file(tmp_path: Path, results: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_report({**results, "more": math.nan}, tmp_path / "out")
    assert not (tmp_path / "out").exists()
