"""The examples and the notebook run, and do what they say."""

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

import spectok
from spectok.audio import read_audio, write_audio
from spectok.bulk.run import tokenize

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "notebooks" / "tour.ipynb"


@pytest.fixture
def corpus(tmp_path: Path, speech: NDArray[np.float32]) -> Path:
    """A folder of three recordings, one of them at 48 kHz and in a folder of its own."""
    folder = tmp_path / "corpus"
    (folder / "more").mkdir(parents=True)
    write_audio(folder / "a.wav", speech[:16000], 16000)
    write_audio(folder / "b.wav", speech[:24000], 16000)
    write_audio(folder / "more" / "c.wav", read_audio(ROOT / "tests/data/vctk_p259_48k.flac")[0][:48000], 48000)
    return folder


def run(name: str, *arguments: object) -> None:
    importlib.import_module(f"examples.{name}").main([str(argument) for argument in arguments])


def test_there_is_a_test_of_each_example() -> None:
    names = {path.stem for path in (ROOT / "examples").glob("*.py")}
    assert names == {"call", "encode_folder", "language_model_tokens", "microphone_loop", "read_tokens"}


def test_language_model_tokens(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("language_model_tokens", corpus, tmp_path / "tokens.npz", "--jobs", 2)
    tokenizer = spectok.Tokenizer.from_pretrained("spectok-16k-800")
    with np.load(tmp_path / "tokens.npz") as tokens:
        assert sorted(tokens) == ["a.wav", "b.wav", "more/c.wav"]
        assert (tokens["a.wav"][[0, -1]] - 32000 - 65536).tolist() == [0, 1]
        codes = tokenizer.vocabulary(offset=32000).decode(tokens["a.wav"])
        np.testing.assert_array_equal(codes, tokenizer.encode(corpus / "a.wav"))
    assert capsys.readouterr().out == "184 tokens of 3 recordings\nvocabulary: 97,541\n"


def test_encode_folder(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "codes"
    run("encode_folder", corpus, out, "--batch", 2)
    tokenizer = spectok.Tokenizer.from_pretrained("spectok-16k-4k")
    for name, length in {"a": 16000, "b": 24000, "more/c": 16000}.items():
        recording = tokenizer.load(out / f"{name}.spt")
        assert (recording.length, recording.sample_rate) == (length, 16000)
        alone = tokenizer.encode(corpus / f"{name}.wav")
        assert len(recording.codes) == len(alone)
        assert np.count_nonzero(recording.codes != alone) <= 1  # float32: a batch may round elsewhere
    assert capsys.readouterr().out == f"3 recordings in {out}\n"


def test_read_tokens(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenize(corpus, tmp_path / "tokens", model="spectok-16k-800", jobs=0, shard_recordings=1)
    tokenizer = spectok.Tokenizer.from_pretrained("spectok-16k-800")
    codes = {name: tokenizer.encode(corpus / name).tolist() for name in ("a.wav", "b.wav", "more/c.wav")}
    sequences, orders = importlib.import_module("examples.read_tokens").Sequences(tmp_path / "tokens", 1), set()
    for sequences.epoch in range(8):
        read = [token for sequence in sequences for token in sequence.tolist()]
        ends = [place for place, token in enumerate(read) if token == 65536]
        pieces = [read[start:end] for start, end in zip([0, *(end + 1 for end in ends)], ends, strict=False)]
        assert sorted(pieces) == sorted(codes.values())
        orders.add(tuple(map(len, pieces)))
    assert len(orders) > 1
    for workers in (0, 2):
        run("read_tokens", tmp_path / "tokens", "--length", 10, "--batch", 4, "--workers", workers)
        # 51, 76 and 51 codes and three ends: 18 sequences of ten, or at least 17 if two processes drop their ends
        printed = capsys.readouterr().out
        assert (
            printed
            in {
                0: ("5 batches, 180 tokens, vocabulary 65,537\n",),
                2: ("5 batches, 170 tokens, vocabulary 65,537\n", "5 batches, 180 tokens, vocabulary 65,537\n"),
            }[workers]
        )


@pytest.mark.parametrize(("name", "rate", "delay"), [("a", 16000, 30), ("more/c", 48000, 105)])
def test_microphone_loop(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, rate: int, delay: int
) -> None:
    run("microphone_loop", corpus / f"{name}.wav", tmp_path / "heard.wav")
    heard, source = soundfile.info(tmp_path / "heard.wav"), soundfile.info(corpus / f"{name}.wav")
    assert (heard.samplerate, heard.frames) == (rate, source.frames)
    # 51 frames of 80 bits for a second
    assert capsys.readouterr().out.startswith(f"at most {delay} ms of algorithmic delay\n4.1 kbit/s, slowest chunk ")


def test_call(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("call", corpus / "a.wav", tmp_path / "heard.wav")
    tokenizer = spectok.Tokenizer.from_pretrained("spectok-16k-4k")
    whole = tokenizer.decode(tokenizer.encode(corpus / "a.wav"))
    heard, _ = soundfile.read(tmp_path / "heard.wav", dtype="float32")
    assert np.sqrt(np.mean((heard - whole) ** 2)) < 1e-3  # 16 bits, and the rounding of float32
    assert capsys.readouterr().out == "510 bytes for 1.0 s: 4.1 kbit/s\n"


def test_the_notebook_is_short_and_stored_without_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert len(cells) <= 20
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["outputs"] or cell["execution_count"] for cell in code] == [None] * len(code)


def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    plt.switch_backend("Agg")
    shown: list[tuple[int, int]] = []
    display = SimpleNamespace(Audio=lambda samples, rate: (len(samples), rate), display=shown.append)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.chdir(NOTEBOOK.parent)
    names: dict[str, Any] = {}
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    plt.close("all")
    assert shown == [(63840, 16000)] * 3
    printed = capsys.readouterr().out
    assert "(200, 8) int64" in printed
    assert "spectok-16k-800: 800 bit/s of codes" in printed
    assert names["different"] <= 2
