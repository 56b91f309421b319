"""Tests of the measures of tokens, with results by hand."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from models import echo_engine, listing, use_root, write_root
from numpy.typing import NDArray

from spectok.audio import write_audio
from spectok.cli.main import main
from spectok.errors import InputError
from spectok.evaluation import tokens
from spectok.evaluation.metrics import codebook_use
from spectok.evaluation.token_report import markdown
from spectok.evaluation.tokens import Encoded
from spectok.tokenizer import Tokenizer


def codes(*numbers: int) -> NDArray[np.int64]:
    return np.array(numbers, np.int64)


def bits(*probabilities: float) -> float:
    return float(-np.log2(probabilities).mean())


def test_parts_share_no_speaker_and_are_about_equal() -> None:
    assert tokens.divide(["a", "b", "a", "c", "", ""], [3, 5, 3, 2, 2, 2]) == [[0, 2, 4], [1, 3, 5]]
    assert tokens.divide(["", "", ""], [1, 1, 1]) == [[0, 2], [1]]
    assert tokens.divide(["a", "b", "a", "c"], [1, 1, 1, 1], 5) == [[0, 2], [1], [3]]


def test_one_speaker_is_in_all_parts() -> None:
    assert tokens.divide(["a", "a", "a", "a"], [1, 1, 1, 1]) == [[0, 2], [1, 3]]


def test_one_file_cannot_be_divided() -> None:
    with pytest.raises(InputError, match=r"^there must be at least two files: what is learned on one half is measured"):
        tokens.divide(["a"], [1])


def test_cross_entropies_by_hand() -> None:
    found = tokens.cross_entropies([codes(0, 0, 1)], [codes(0, 1)], size=2)
    # One token: of two kinds one was seen once and one twice, so that d = 2 / (2 + 2 * 2) = 1 / 3. 0 has
    # (2 - 1 / 3) / 3 + (1 / 3 * 2 / 3) / 2 = 2 / 3. Longer contexts: three kinds were seen once, d = 4 / (4 + 2 * 1).
    one = [2 / 3, 1 / 3]
    # Two tokens: 0 after the start has (1 - d) + d * 2 / 3, and 1 after 0 has (1 - d) / 2 + (d * 2 / 2) * 1 / 3.
    two = [7 / 9, 7 / 18]
    # Three: 0 after two starts has (1 - d) + d * 7 / 9; 1 never followed the start and 0, and has d * 7 / 18.
    three = [23 / 27, 7 / 27]
    assert found == pytest.approx([bits(*one), bits(*two), bits(*three)], abs=1e-12)
    # Four: 0 after three starts has (1 - d) + d * 23 / 27; 1 never followed two starts and 0, and has d * 7 / 27.
    longer = tokens.cross_entropies([codes(0, 0, 1)], [codes(0, 1)], size=2, longest=4)
    assert longer == pytest.approx([*found, bits(73 / 81, 14 / 81)], abs=1e-12)


def test_a_context_that_was_not_learned_gives_what_the_shorter_one_gives() -> None:
    found = tokens.cross_entropies([codes(0, 0)], [codes(0, 1, 0)], size=2)
    # One token: d = 1 / (1 + 2 * 2), and 0 has (2 - d) / 2 + d / 2 / 2. Two: d = 3 / (3 + 2 * 1); 1 was never learned.
    assert found[:2] == pytest.approx([bits(0.95, 0.05, 0.95), bits(0.97, 0.03, 0.95)], abs=1e-12)


def test_the_place_in_the_frame_is_part_of_the_context() -> None:
    learned = [codes(0, 1, 0, 1)]  # d = 1 / (1 + 2 * 3)
    assert tokens.cross_entropies(learned, learned, size=4, places=2)[0] == pytest.approx(bits(53 / 56), abs=1e-12)
    assert tokens.cross_entropies(learned, learned, size=4, places=1)[0] == pytest.approx(bits(27 / 56), abs=1e-12)


def test_few_random_tokens_do_not_look_predictable() -> None:
    random = np.random.default_rng(0).integers(0, 4096, (2, 1000))
    assert codebook_use(np.bincount(random[0], minlength=4096)).entropy < 0.83  # what counts without a second half say
    assert min(tokens.cross_entropies([random[0]], [random[1]], size=4096)) > 12.0


def test_bpe_by_hand() -> None:
    learned, measured = [codes(0, 1, 0, 1, 0, 1, 0, 1, 2)], [codes(0, 1, 0, 1, 3), codes(2)]
    # 01 becomes A, and AA becomes B; after that no pair occurs twice.
    assert tokens.bpe_lengths(learned, measured, (0, 1, 2, 9)) == [(0, 6), (1, 4), (2, 3), (2, 3)]


def test_the_largest_codes_can_be_merged() -> None:
    most = 0xFFFFF
    assert tokens.bpe_lengths([codes(most, 0, most, 0)], [codes(most, 0)], (1,)) == [(1, 1)]


def test_same_tokens_and_frames_are_counted() -> None:
    first = np.array([[1, 2], [3, 4], [5, 6], [7, 8]])
    assert tokens.same(first, first) == (1.0, 1.0)
    assert tokens.same(first, np.array([[3, 4], [5, 0], [0, 0], [9, 9]]), skipped=1) == (0.5, 1 / 3)
    assert all(math.isnan(share) for share in tokens.same(first, first[:0]))


def test_pink_noise_has_equal_power_in_every_octave() -> None:
    noise = tokens.pink_noise(1 << 16)
    assert float(np.mean(noise.astype(np.float64) ** 2)) == pytest.approx(1.0, abs=1e-5)
    power = np.abs(np.fft.rfft(noise)) ** 2
    octaves = [power[low : 2 * low].sum() for low in (1 << 8, 1 << 10, 1 << 12, 1 << 14)]
    assert max(octaves) / min(octaves) < 1.2


def test_a_codec_without_memory_that_is_perfect_repeats_itself(speech: NDArray[np.float32]) -> None:
    """Its codes are samples: equal where the samples are, and else different."""
    tokenizer, audio = Tokenizer(echo_engine("20 ms"), "0" * 16), speech[8000:40000]
    original = tokenizer.encode(audio, layout="frames")
    again = tokens.encodings(tokenizer, audio, original)
    found = {name: tokens.same(original, other, skipped) for name, other, skipped in again}
    assert list(found) == list(tokens.CONDITIONS)
    ones = {name for name, shares in found.items() if shares == (1.0, 1.0)}
    assert ones == {"cut at a frame", "1 round trips", "2 round trips", "5 round trips", "10 round trips"}
    others = [shares for name, shares in found.items() if name not in ones]
    assert max(share for share, _ in others) < 0.25 and max(frames for _, frames in others) < 0.03
    short = dict.fromkeys(name for name, *_ in tokens.encodings(tokenizer, audio[:31999], original))
    assert list(short) == list(tokens.CONDITIONS[2:])


def test_a_codec_without_memory_has_one_frame_of_silence() -> None:
    assert tokens.frames_of_silence(Tokenizer(echo_engine("20 ms"), "0" * 16)) == 1


def test_both_halves_are_measured() -> None:
    files = [Encoded(codes(0, 0, 1).reshape(3, 1), 0.3), Encoded(codes(0, 1).reshape(2, 1), 0.2)]
    codebook, entropies, pairs = tokens.statistics(files, [[0], [1]], size=2)
    assert codebook == {"used": 1.0, "entropy": pytest.approx(bits(*3 * [0.6], *2 * [0.4]), abs=1e-12), "tokens": 5}
    # The first file, learned on the second: both tokens have probability 1 / 2.
    one_token = 2 * bits(2 / 3, 1 / 3) + 3 * bits(0.5)
    assert entropies[0]["bits_per_token"] == pytest.approx(one_token / 5, abs=1e-12)
    assert entropies[0]["bits_per_second"] == pytest.approx(one_token / 0.5, abs=1e-12)
    assert pairs[0] == {"merges": 0, "learned": 0.0, "tokens_per_second": pytest.approx(10.0)}
    assert [row["learned"] for row in pairs] == [0.0] * 4


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speech: NDArray[np.float32]) -> Path:
    """Two tiny released models, and a manifest of three files."""
    write_root(tmp_path / "root")
    use_root(monkeypatch, tmp_path / "root")
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    for number in range(3):
        write_audio(f"in/{number}.wav", speech[9000 * number : 9000 * number + 33000], 16000)
    (tmp_path / "in" / "manifest.csv").write_text("file,speaker\n0.wav,a\n1.wav,b\n2.wav,a\n", encoding="utf-8")
    return tmp_path


def test_tokens_writes_and_prints_its_results(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tokens", "in", "--model", "tiny-query", "--out", "results"]) == 0
    assert listing("results") == ["tokens.json", "tokens.md"]
    results = json.loads(Path("results/tokens.json").read_text(encoding="utf-8"))
    page = Path("results/tokens.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out == page + "\n" and page == markdown(results)
    assert (results["files"], results["speakers"], results["repeated"]) == (3, 2, 3)
    assert results["seconds"] == pytest.approx(3 * 33000 / 16000, abs=0.01)
    assert list(results["provenance"]["weights"]) == ["tiny-query"]
    model = results["models"]["tiny-query"]
    assert model["facts"]["codebook_size"] == 64
    assert model["codebook"]["tokens"] == pytest.approx(results["seconds"] * 1000, abs=1)
    assert model["bpe"][0] == {"merges": 0, "learned": 0.0, "tokens_per_second": pytest.approx(1000.0)}
    rates = [row["tokens_per_second"] for row in model["bpe"]]
    assert rates == sorted(rates, reverse=True) and rates[-1] < 900
    assert all(0 < row["bits_per_token"] <= 6.01 for row in model["entropies"])
    assert list(model["same"]) == list(tokens.CONDITIONS)
    for shares in model["same"].values():
        assert shares["tokens"]["n"] == 3 and 0 <= shares["frames"]["mean"] <= shares["tokens"]["mean"] <= 1
    assert "probes" not in model
    tables = [block.splitlines() for block in page.split("\n\n") if block.startswith("| ")]
    assert [len(table) for table in tables] == [3, 3, 2 + len(tokens.CONDITIONS) + 1]
    assert all(len({line.count("|") for line in table}) == 1 for table in tables)


def test_files_are_taken_evenly_and_all_models_by_default(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tokens", "in", "--files", "2", "--out", "results"]) == 0
    results = json.loads(Path("results/tokens.json").read_text(encoding="utf-8"))
    assert (results["files"], results["speakers"]) == (2, 2)  # the first two of three
    assert list(results["models"]) == ["tiny-flat", "tiny-query"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--files", "1"], "--files is 1, but must be at least 2"),
        (["--model", "nobody"], "there is no model 'nobody'; known are tiny-flat, tiny-query"),
        (["--model", "tiny-query", "--model", "tiny-query"], "each model must have its own name, but they are "),
        (["--split", "none"], "in/manifest.csv has no rows of the split none"),
    ],
)
def test_wrong_options_are_one_sentence(
    desk: Path, options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tokens", "in", "--out", "results", *options]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"spectok: {sentence}") and err.count("\n") == 1
    assert not Path("results").exists()


@pytest.mark.parametrize("package", ["tokenizers", "pocketsphinx"])
def test_missing_packages_are_named_before_the_run(
    desk: Path, package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "spectok.evaluation.probes", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["tokens", "in", "--probe"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("spectok: spectok tokens needs more packages: pip install 'spectok[tokens]' (")
    assert package in err.partition("[tokens]")[2]
