"""Inputs that are mutated at random are read or refused; and tests of the scripts that do it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import fuzz, fuzz_targets, tables

ROOT = Path(__file__).parent.parent
EXECUTIONS = 12_000  # of each kind of input, times its share
INPUTS = [
    *(".spt", ".spt, recovered", ".spt, repaired", "entropy.dat", "network packets", "bits", "WAV stream", "WAV file"),
    *("config.json", "index.toml", "ONNX", "WebSocket", "kept encoder", "kept decoder", "kept resampler"),
]
inputs = pytest.mark.parametrize("name", INPUTS)


def test_the_committed_run_has_mutated_every_kind_of_input(tmp_path: Path) -> None:
    found = tables.load("fuzz.json")
    assert list(fuzz_targets.targets(tmp_path)) == INPUTS
    made = {(row["tool"], row["input"]) for row in found["rows"] if row["executions"]}
    assert made == {(tool, name) for tool in fuzz.TOOLS for name in INPUTS}
    assert executions() == 11_038_331


def executions() -> int:
    """The number of inputs that the committed runs have tried."""
    return sum(row["executions"] for row in tables.load("fuzz.json")["rows"])


def test_the_committed_runs_tried_ten_million_inputs() -> None:
    assert executions() >= 10_000_000


@inputs
def test_mutated_inputs_are_read_or_refused(name: str) -> None:
    with fuzz.memory_folder() as folder:
        target = fuzz_targets.targets(Path(folder))[name]
        count = round(target.share * EXECUTIONS)
        assert 0.1 < fuzz.mutation(name, target, 1, count) / count < 0.99


@inputs
def test_valid_inputs_are_read_and_have_true_checksums(name: str, tmp_path: Path) -> None:
    target = fuzz_targets.targets(tmp_path)[name]
    for content in target.seeds:
        assert fuzz_targets.execute(target, content)
        assert target.mend is None or target.mend(content) == content


@pytest.mark.parametrize("name", [".spt", "kept encoder", "kept decoder"])
def test_true_checksums_make_a_changed_input_good_again(name: str, tmp_path: Path) -> None:
    """A bit is changed where a file has codes, and a kept session the lowest bits of a number."""
    target = fuzz_targets.targets(tmp_path)[name]
    assert target.mend is not None
    for content in target.seeds if name == ".spt" else target.seeds[1:]:
        changed = bytearray(content)
        changed[-40 if name == ".spt" else 9000] ^= 1
        assert not fuzz_targets.execute(target, bytes(changed))
        assert fuzz_targets.execute(target, target.mend(bytes(changed)))


@pytest.mark.parametrize("tool", ["mutation", "hypothesis"])
def test_a_seed_makes_the_same_inputs_each_time(tool: str) -> None:
    seen: list[bytes] = []
    target = fuzz_targets.Target([bytes(range(20))], seen.append)
    for seed in (3, 3, 4):
        assert fuzz.TOOLS[tool]("bytes", target, seed, 50) == 0
    assert seen[:50] == seen[50:100] != seen[100:]
    assert len(set(seen[:50])) > 25


def test_atheris_runs_a_target_in_its_own_process(tmp_path: Path) -> None:
    pytest.importorskip("atheris")
    assert 0 < fuzz.guided("bits", fuzz_targets.targets(tmp_path)["bits"], 0, 500) < 500


@pytest.mark.parametrize(("code", "executions"), [(1, 500), (0, 499)])
def test_what_atheris_tells_is_checked(
    code: int, executions: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = json.dumps({"executions": executions, "refused": 3})
    done = subprocess.CompletedProcess([], code, out, "why")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    with pytest.raises(RuntimeError if code else AssertionError):
        fuzz.guided("bits", fuzz_targets.targets(tmp_path)["bits"], 0, 500)


def test_an_input_that_fails_ends_the_run_with_its_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = fuzz_targets.targets(tmp_path)["bits"]
    monkeypatch.setattr(fuzz_targets, "unpack_codes", lambda *_: [][0])
    for tool in ("mutation", "hypothesis"):
        with pytest.raises(
            RuntimeError, match=r"^bits, seed 5, execution 0: IndexError\('list index out of range'\)\n"
        ):
            fuzz.TOOLS[tool]("bits", target, 5, 10)


def test_an_input_that_takes_too_much_memory_fails() -> None:
    assert tables.load("fuzz.json")["limits"] == {"seconds": 1.0, "MB": 512}
    code = "from benchmarks import fuzz, fuzz_targets; fuzz.limit_memory(); "
    code += "fuzz.mutation('x', fuzz_targets.Target([b'x'], lambda _: [bytearray(600_000_000)].clear()), 0, 1)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "x, seed 0, execution 0: MemoryError()" in done.stderr


def test_an_input_that_takes_too_long_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(_: bytes) -> None:
        while True:
            pass

    monkeypatch.setattr(fuzz_targets, "MAX_SECONDS", 0.05)
    with pytest.raises(
        RuntimeError, match=r"^x, seed 0, execution 0: TimeoutError\('over 0\.05 s of processor time'\)\n"
    ):
        fuzz.mutation("x", fuzz_targets.Target([b"x"], hang), 0, 1)
