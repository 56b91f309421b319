"""Bulk tokenisation: what is written, that it is the same however it is computed, and that it goes on after a stop."""

import json
import logging
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from bulk_runs import COUNT, MODEL, contents, write_corpus
from models import random_engine
from numpy.typing import NDArray
from serving import until
from test_bulk_sources import write_tar

from spectok.audio import list_audio, read_audio, write_audio
from spectok.bulk import pool, run, shards
from spectok.bulk.plan import Plan, make_plan
from spectok.bulk.pool import run_here, run_pool
from spectok.bulk.run import tokenize
from spectok.bulk.shards import Counts
from spectok.bulk.sources import find_source
from spectok.bulk.summary import statistics
from spectok.cli.main import main
from spectok.errors import InputError
from spectok.tokenizer import Tokenizer

HASH = "0123456789abcdef"


@pytest.fixture
def corpus(tmp_path: Path, speech: NDArray[np.float32]) -> Path:
    return write_corpus(tmp_path / "corpus", speech)


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> Tokenizer:
    """A random codec in float64, where rounding changes no code, in place of the models that this process loads."""
    tokenizer = Tokenizer(random_engine("query"), HASH)
    monkeypatch.setattr(run, "run_pool", lambda plan, indices, jobs: run_here(plan, indices))
    for module in (shards, run):
        monkeypatch.setattr(module, "load_tokenizer", lambda model, engine, device: tokenizer)
    return tokenizer


def rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of all shards in their order."""
    return [row for path in sorted(folder.glob("tokens-*")) for row in pq.read_table(path).to_pylist()]


def facts(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(pq.read_schema(path).metadata[b"spectok"])
    return found


def test_the_codes_are_those_of_the_tokenizer_in_the_order_of_the_recordings(
    exact: Tokenizer, corpus: Path, tmp_path: Path
) -> None:
    summary = tokenize(corpus, tmp_path / "out", jobs=0, batch=3, shard_recordings=5)
    expected = [path for path in list_audio(corpus) if path.name != "3b.wav"]
    found = rows(tmp_path / "out")
    assert [row["id"] for row in found] == [path.name for path in expected]
    for row, path in zip(found, expected, strict=True):
        audio, rate = read_audio(path)
        assert row["codes"] == exact.encode(audio, rate).tolist()
        assert (row["seconds"], row["weight_hash"]) == (len(audio) / rate, HASH)
        assert (row["speaker"], row["text"]) == (None, None)
    assert summary["recordings"] == COUNT and summary["tokens"] == sum(len(row["codes"]) for row in found)


def test_the_shards_say_what_they_hold(exact: Tokenizer, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = tokenize(corpus, out, jobs=0, shard_recordings=5)
    schema = pq.read_schema(out / "tokens-000000.parquet")
    assert schema.field("codes").type == pa.list_(pa.uint16())
    assert schema.field("weight_hash").type == pa.dictionary(pa.int32(), pa.string())
    reason = "3b.wav is not an audio file of a known format"
    assert facts(out / "tokens-000000.parquet") | {"plan": "", "tokens": 0} == {
        "plan": "",
        "shard": 0,
        "model": "tiny-query",
        "weight_hash": HASH,
        "sample_rate": 16000,
        "tokens_per_frame": 2,
        "codebook_size": 64,
        "recordings": 4,
        "rejected": 1,
        "seconds": (4000 + 24000 + 16000) / 16000 + 8000 / 8000,
        "tokens": 0,
        "rejects": [["3b.wav", "3b.wav", reason]],
    }
    assert pq.read_table(out / "rejected.parquet").to_pylist() == [
        {"id": "3b.wav", "source": "3b.wav", "reason": reason}
    ]
    codes = np.concatenate([row["codes"] for row in rows(out)])
    shares = np.bincount(codes, minlength=64)[np.bincount(codes, minlength=64) > 0] / len(codes)
    assert json.loads((out / "summary.json").read_text()) == summary
    expected = {"entropy_bits": -(shares * np.log2(shares)).sum(), "share": shares.max()}
    assert {name: summary["token_statistics"][name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert summary["token_statistics"]["codes_used"] == len(shares)
    assert summary["hours"] == pytest.approx(sum(row["seconds"] for row in rows(out)) / 3600, abs=1e-6)
    assert summary["bytes"] == sum(path.stat().st_size for path in out.glob("tokens-*"))
    assert (summary["rejected"], summary["shards"]) == (1, 2)


def test_a_codebook_that_needs_more_than_16_bits(
    exact: Tokenizer, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenize(corpus, tmp_path / "narrow", jobs=0)
    monkeypatch.setattr(Tokenizer, "codebook_size", (1 << 16) + 1)
    summary = tokenize(corpus, tmp_path / "wide", jobs=0)
    assert summary["codebook_size"] == 65537
    assert pq.read_schema(tmp_path / "wide" / "tokens-000000.parquet").field("codes").type == pa.list_(pa.uint32())
    assert rows(tmp_path / "wide") == rows(tmp_path / "narrow")


def test_statistics_of_known_tokens() -> None:
    expected = {"entropy_bits": 1.5, "codes_used": 3, "most_frequent": 2, "share": 0.5}
    assert statistics(np.array([1, 0, 2, 1])) == expected
    assert statistics(np.zeros(4, np.int64)) == {
        "entropy_bits": 0.0,
        "codes_used": 0,
        "most_frequent": None,
        "share": 0.0,
    }


@pytest.mark.parametrize("rate", [16000, 44100])
def test_a_long_recording_is_encoded_as_a_stream(
    exact: Tokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    speech: NDArray[np.float32],
    rate: int,
) -> None:
    monkeypatch.setattr(shards, "LONG_SECONDS", 2)
    monkeypatch.setattr(shards, "STREAM_SECONDS", 1)
    audio = np.resize(speech, 10 * rate)  # more than a block of the reader
    (tmp_path / "in").mkdir()
    write_audio(tmp_path / "in" / "long.wav", audio, rate)
    monkeypatch.setattr(shards, "resample", lambda *_: pytest.fail("the recording was read whole"))
    tokenize(tmp_path / "in", tmp_path / "out", jobs=0)
    (row,) = rows(tmp_path / "out")
    assert row["codes"] == exact.encode(tmp_path / "in" / "long.wav").tolist()
    assert row["seconds"] == 10.0


def test_the_windows_change_nothing(
    exact: Tokenizer, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenize(corpus, tmp_path / "whole", jobs=0)
    monkeypatch.setattr(shards, "WINDOW_SECONDS", 1)
    held: list[int] = []
    encode = shards._encoded

    def counted(tokenizer: Tokenizer, window: Any, batch: int) -> Any:
        held.append(len(window))
        return encode(tokenizer, window, batch)

    monkeypatch.setattr(shards, "_encoded", counted)
    tokenize(corpus, tmp_path / "windows", jobs=0)
    assert held == [2, 1, 1, 2, 1, 1]  # in quarters of a second: 1 and 6; 4; 4; not audio, and 7; 5; 3
    assert rows(tmp_path / "windows") == rows(tmp_path / "whole")


def test_very_short_recordings_are_no_channels(exact: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for n in range(12):
        soundfile.write(tmp_path / "in" / f"{n:02}.wav", np.full(n % 3 + 1, 0.1), 16000)
    assert tokenize(tmp_path / "in", tmp_path / "out", jobs=0, batch=12)["recordings"] == 12
    assert {len(row["codes"]) for row in rows(tmp_path / "out")} == {2 * exact.config.num_frames(1)}


def test_the_same_recordings_give_the_same_codes_from_every_kind_of_source(corpus: Path, tmp_path: Path) -> None:
    files = {path.stem: path.read_bytes() for path in list_audio(corpus)}
    write_tar(tmp_path / "all.tar", [(f"{name}.wav", content) for name, content in files.items()])
    pq.write_table(pa.table({"id": list(files), "audio": list(files.values())}), tmp_path / "all.parquet")
    lines = [json.dumps({"id": name, "path": f"corpus/{name}.wav"}) + "\n" for name in files]
    (tmp_path / "all.jsonl").write_text("".join(lines))
    found = {}
    for source in ("corpus", "all.tar", "all.parquet", "all.jsonl"):
        tokenize(tmp_path / source, tmp_path / f"out-{source}", model=MODEL, jobs=0)
        found[source] = [row["codes"] for row in rows(tmp_path / f"out-{source}")]
        assert found[source] == found["corpus"] and len(found[source]) == COUNT
    assert pq.read_table(tmp_path / "out-all.tar" / "rejected.parquet").to_pylist() == [
        {"id": "3b", "source": "all.tar/3b.wav", "reason": "all.tar/3b.wav is not an audio file of a known format"}
    ]
    both = [tmp_path / "all.tar", corpus / "0.wav"]
    assert tokenize(both, tmp_path / "both", model=MODEL, jobs=0)["recordings"] == COUNT + 1


def test_the_output_depends_on_the_recordings_alone_and_names_no_absolute_path(
    exact: Tokenizer, corpus: Path, tmp_path: Path, speech: NDArray[np.float32]
) -> None:
    tokenize(corpus, tmp_path / "out", jobs=0, shard_recordings=3)
    other = write_corpus(tmp_path / "elsewhere" / "corpus", speech)
    time.sleep(0.01)
    tokenize(other, tmp_path / "elsewhere" / "out", jobs=0, shard_recordings=3)
    assert contents(tmp_path / "out") == contents(tmp_path / "elsewhere" / "out")
    for path in (tmp_path / "out").iterdir():
        text = path.read_bytes() if path.suffix == ".json" else repr(pq.read_table(path).to_pylist()).encode()
        assert str(tmp_path).encode() not in text + path.read_bytes()  # whose metadata is not compressed


def test_two_processes_write_the_bytes_that_one_writes(corpus: Path, tmp_path: Path) -> None:
    for jobs in (0, 1, 2):
        tokenize(corpus, tmp_path / f"{jobs}", model=MODEL, jobs=jobs, shard_recordings=2)
    assert contents(tmp_path / "0") == contents(tmp_path / "1") == contents(tmp_path / "2")
    assert len(list((tmp_path / "1").glob("tokens-*"))) == 4


def test_shards_end_at_their_hours(exact: Tokenizer, corpus: Path, tmp_path: Path) -> None:
    hours = 1.5 / 3600
    summary = tokenize(corpus, tmp_path / "out", jobs=0, shard_hours=hours)
    files = sorted((tmp_path / "out").glob("tokens-*"))
    assert [facts(path)["seconds"] for path in files] == [1.75, 2.0, 1.75, 2.0]
    assert [facts(path)["rejected"] for path in files] == [0, 0, 1, 0]
    assert summary["shards"] == 4
    assert len(list((tmp_path / "out").glob("tokens-*"))) == 4
    files_of_wav = sorted(path for path in corpus.rglob("*.wav") if path.is_file())
    write_tar(tmp_path / "all.tar", [(path.name, path.read_bytes()) for path in files_of_wav])
    assert tokenize(tmp_path / "all.tar", tmp_path / "of tar", jobs=0, shard_hours=hours)["shards"] == 4


def test_a_finished_shard_is_kept_and_a_missing_one_made_again(
    exact: Tokenizer, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    tokenize(corpus, out, jobs=0, shard_recordings=2)
    before = contents(out)
    for name in ("tokens-000001.parquet", "summary.json", "rejected.parquet"):
        (out / name).unlink()
    made: list[int] = []

    def counted(plan: Plan, index: int) -> Counts:
        made.append(index)
        return shards.tokenize_shard(plan, index)

    monkeypatch.setattr(pool, "tokenize_shard", counted)
    seen: list[tuple[int, int, Counts, Counts]] = []
    tokenize(corpus, out, jobs=0, shard_recordings=2, report=lambda *given: seen.append(given))
    assert made == [1]
    assert [(finished, total) for finished, total, _, _ in seen] == [(3, 4), (4, 4)]
    assert seen[1][2].recordings == COUNT and seen[1][3] == Counts(2, 0, 2.0, seen[1][3].tokens)
    assert contents(out) == before


@pytest.mark.parametrize("change", ["recording", "order", "shards", "batch", "text", "weights"])
def test_another_plan_is_refused(
    exact: Tokenizer, corpus: Path, tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, manifest = tmp_path / "out", tmp_path / "m.jsonl"
    lines = [{"path": f"corpus/{path.name}", "text": path.name} for path in list_audio(corpus)]
    options: dict[str, Any] = {"jobs": 0, "shard_recordings": 4, "batch": 2}
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    tokenize(manifest, out, **options)
    before = contents(out)
    if change == "recording":
        write_audio(corpus / "0.wav", np.zeros(3000), 16000)
    elif change == "order":
        lines = lines[::-1]
    elif change == "text":
        lines[2]["text"] = "other"
    elif change == "shards":
        options["shard_recordings"] = 3
    elif change == "batch":
        options["batch"] = 3
    else:
        monkeypatch.setattr(exact, "weight_hash", "f" * 16)
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match="contains the tokens of other recordings, another model or other settings"):
        tokenize(manifest, out, **options)
    assert contents(out) == before


def test_shards_without_their_plan_are_not_overwritten(exact: Tokenizer, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    tokenize(corpus, out, jobs=0)
    (out / "plan.json").unlink()
    with pytest.raises(InputError, match="contains the tokens of other recordings"):
        tokenize(corpus, out, jobs=0)


@pytest.mark.parametrize("damage", ["cut", "page", "other"])
def test_a_damaged_shard_is_named(exact: Tokenizer, corpus: Path, tmp_path: Path, damage: str) -> None:
    out = tmp_path / "out"
    tokenize(corpus, out, jobs=0, shard_recordings=4)
    path = out / "tokens-000001.parquet"
    content = path.read_bytes()
    other = (out / "tokens-000000.parquet").read_bytes()
    path.write_bytes({"cut": content[:-30], "page": b"PAR1" + b"\xff" * 400 + content[404:], "other": other}[damage])
    with pytest.raises(InputError, match=r"tokens-000001\.parquet is (damaged; after it is removed|of another run)"):
        tokenize(corpus, out, jobs=0, shard_recordings=4)
    path.unlink()
    tokenize(corpus, out, jobs=0, shard_recordings=4)
    assert path.read_bytes() == content


def test_two_recordings_cannot_have_the_same_id(exact: Tokenizer, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path,id\ncorpus/0.wav,a\ncorpus/1.wav,a\ncorpus/2.wav,b\n")
    with pytest.raises(InputError, match="1 ids stand for several recordings; one is 'a'"):
        tokenize(tmp_path / "m.csv", tmp_path / "out", jobs=0)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_shard_that_cannot_be_written_is_one_sentence(
    exact: Tokenizer, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    out = tmp_path / "out"
    plan = make_plan([find_source(corpus)], out, exact, model=MODEL, batch=2, shard_recordings=9)
    before = contents(out)
    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(InputError, match=r"^cannot write .*tokens-000000\.parquet: No space left on device$"):
        list(run_here(plan, [0]))
    assert contents(out) == before


COMMAND = [sys.executable, "-m", "spectok", "tokenize", "corpus", "--out", "out", "--model", MODEL, "--jobs", "2"]
COMMAND += ["--shard-recordings", "8"]


@pytest.fixture
def start(tmp_path: Path, speech: NDArray[np.float32]) -> Iterator[Callable[[], "subprocess.Popen[bytes]"]]:
    """Start a run of forty recordings in the folder, and wait until its first shard is finished."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for n in range(40):
        write_audio(folder / f"{n:02}.wav", np.roll(speech, 631 * n), 16000)
    started: list[subprocess.Popen[bytes]] = []

    def begin() -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(COMMAND, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        started.append(process)
        while not list((tmp_path / "out").glob("tokens-*")) and process.poll() is None:
            time.sleep(0.005)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


def children(process: int) -> list[int]:
    """The processes that a process has started, where the system tells."""
    path = Path(f"/proc/{process}/task/{process}/children")
    return [int(number) for number in path.read_text().split()] if path.exists() else []


def wait_for_the_end_of(processes: list[int]) -> None:
    until(lambda: not any(Path(f"/proc/{process}").exists() for process in processes), 60)


def test_after_a_kill_the_same_command_writes_what_an_undisturbed_run_writes(
    start: Callable[[], "subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    process = start()
    workers = children(process.pid)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert 0 < len(list((tmp_path / "out").glob("tokens-*"))) < 5
    wait_for_the_end_of(workers)  # they end with the process that started them
    (tmp_path / "out" / ".spectok-0123456789ab.tmp").write_bytes(b"what a killed process leaves")
    options: dict[str, Any] = {"model": MODEL, "jobs": 0, "shard_recordings": 8}
    tokenize(tmp_path / "corpus", tmp_path / "whole", **options)
    assert subprocess.run(COMMAND, cwd=tmp_path, capture_output=True).returncode == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_run_that_is_told_to_end_leaves_no_temporary_file(
    start: Callable[[], "subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    process = start()
    workers = children(process.pid)
    process.terminate()
    assert process.wait() == 128 + signal.SIGTERM
    assert process.stderr is not None and process.stderr.read() == b""
    wait_for_the_end_of(workers)
    assert list((tmp_path / "out").glob(".*")) == []


def test_a_shard_whose_process_dies_is_tried_again(corpus: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_pretrained(MODEL, threads=1)
    plan = make_plan([find_source(corpus)], tmp_path / "out", tokenizer, model=MODEL, batch=2, shard_recordings=2)
    results = run_pool(plan, range(4), 2)
    finished = [next(results)[0]]
    for child in multiprocessing.active_children():
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    finished += [index for index, _ in results]
    assert sorted(finished) == [0, 1, 2, 3]
    assert multiprocessing.active_children() == []


def test_a_shard_whose_processes_always_die_is_given_up(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = Tokenizer.from_pretrained(MODEL, threads=1)
    plan = make_plan([find_source(corpus)], tmp_path / "out", tokenizer, model=MODEL, batch=2, shard_recordings=4)
    started: list[int] = []
    start = pool._start

    def short_lived(plan: Any) -> Any:
        connection, process = start(plan)
        assert process.pid is not None
        process.kill()
        process.join()
        started.append(process.pid)
        return connection, process

    monkeypatch.setattr(pool, "_start", short_lived)
    with pytest.raises(InputError, match=r"the processes of 2 shards ended without an answer, 2 times each"):
        list(run_pool(plan, range(2), 1))
    assert len(started) == 4


def test_the_command_counts_what_it_rejects(
    exact: Tokenizer, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["tokenize", str(corpus), "--out", str(tmp_path / "out"), "--jobs", "1"]
    assert main(command) == 2
    out, err = capsys.readouterr()
    assert re.fullmatch(r"7 recordings, 0\.00 hours, [\d,]+ tokens, \d\.\d\d bits of entropy per token\n", out)
    rejected = tmp_path / "out" / "rejected.parquet"
    assert err == f"spectok: 1 of 8 recordings were rejected; the reasons are in {rejected}\n"
    (corpus / "3b.wav").unlink()
    assert main([*command[:3], str(tmp_path / "good"), "-q"]) == 0
    assert capsys.readouterr() == ("", "")


def test_the_progress_is_in_hours(
    exact: Tokenizer, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda _: True)
    command = ["tokenize", str(corpus), "--out", str(tmp_path / "out"), "--jobs", "1", "--shard-recordings", "4"]
    assert main(command) == 2
    lines = capsys.readouterr().err.split("\r")[1:]
    assert lines[0] == "looking for recordings\033[K"
    pattern = r"(\d/2) shards: (\d) recordings, (\d) rejected, 0\.00 h, 0\.\d{4} h/s\x1b\[K"
    numbers = [re.findall(pattern, line) for line in lines[1:4]]
    assert numbers == [[("0/2", "0", "0")], [("1/2", "4", "0")], [("2/2", "7", "1")]]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--jobs", "0"], "--jobs is 0, but must be positive"),
        (["--batch", "0"], "the batch is 0, but must be positive"),
        (["--shard-recordings", "0"], "a shard has 0 recordings, but must have at least one"),
        (["--shard-hours", "-1"], "a shard has -1.0 hours, but must have more than 0"),
        (["--model", "nobody"], "there is no model 'nobody'; known are "),
        (["--root", "nowhere"], "the root nowhere is not a folder"),
    ],
)
def test_a_wrong_option_is_one_sentence(
    tmp_path: Path,
    options: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.csv").write_text("path\na.wav\n")
    assert main(["tokenize", "m.csv", "--out", "out", *options]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"spectok: {sentence}") and err.count("\n") == 1
    assert not Path("out").exists()


def test_an_empty_folder_holds_no_recordings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    assert main(["tokenize", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == "spectok: the sources hold no recordings\n"


@pytest.mark.parametrize(("package", "extra", "options"), [("pyarrow", "bulk", []), ("ray", "ray", ["--ray"])])
def test_a_missing_package_is_named(
    corpus: Path,
    tmp_path: Path,
    package: str,
    extra: str,
    options: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    if package == "pyarrow":
        for name in [name for name in sys.modules if name.startswith("spectok.bulk.")]:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["tokenize", str(corpus), "--out", str(tmp_path / "out"), "--model", MODEL, *options]) == 2
    err = capsys.readouterr().err
    assert f"pip install 'spectok[{extra}]'" in err and err.count("\n") == 1
    assert logging.getLogger("spectok").handlers == []
