"""Runs the benchmarks and writes the results to `results.json` beside this file; recipes/cards.py writes the tables.

    python benchmarks/run.py              # some minutes; leave the machine alone meanwhile

Quantiles of wall-clock seconds on one pinned core, all measured in turn in one run: within a process by
pytest-benchmark (`test_speed.py`), cold starts by `spectok.bench.costs`.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spectok import pretrained
from spectok.audio import read_audio, write_audio
from spectok.bench.costs import pinned, run_cold
from spectok.engine import ENGINES
from spectok.evaluation.provenance import weights_of, write_results

HERE = Path(__file__).parent
SPEECH = HERE.parent / "tests" / "data" / "librispeech_84_16k.flac"
COLD_SECONDS, COLD_ROUNDS = 5, 10
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}


def measure() -> list[dict[str, Any]]:
    """Run all benchmarks; returns a row for each."""
    os.environ.update(ONE_THREAD)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "benchmark.json"
        command = [sys.executable, "-m", "pytest", str(HERE), "-q", "--benchmark-json", str(path)]
        subprocess.run([*command, "--benchmark-disable-gc", "--benchmark-columns=median"], check=True)
        report = json.loads(path.read_text(encoding="utf-8"))
    rows = [row(entry["extra_info"], entry["stats"]["data"]) for entry in report["benchmarks"]] + cold_starts()
    rows.sort(key=lambda row: (row.get("engine", ""), row.get("model", "")))
    return rows


def row(facts: dict[str, Any], seconds: Sequence[float]) -> dict[str, Any]:
    """The row of a benchmark: its facts, and mean and quantiles of its rounds."""
    quantiles = {f"p{q}": float(np.percentile(seconds, q)) for q in (50, 95, 99)}
    return facts | {"rounds": len(seconds), "mean": float(np.mean(seconds)), **quantiles}


def cold_starts() -> list[dict[str, Any]]:
    """New processes that encode 5 s of speech, for each model and engine, after one that does not count."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, pinned():
        source = Path(folder) / "in.wav"
        speech, sample_rate = read_audio(SPEECH)
        write_audio(source, np.resize(speech, COLD_SECONDS * sample_rate), sample_rate)
        encode = [sys.executable, "-m", "spectok", "encode", str(source), f"{folder}/out.spt", "--force"]
        for model in pretrained.models():
            for engine in ENGINES:
                command = [*encode, "--model", model, "--engine", engine]
                seconds = [run_cold(command).seconds for _ in range(1 + COLD_ROUNDS)][1:]
                facts = {"what": f"spectok encode of {COLD_SECONDS} s, cold", "audio_seconds": COLD_SECONDS}
                rows.append(row({"model": model, "engine": engine} | facts, seconds))
    return rows


def main() -> None:
    """Measure, and write the results."""
    write_results(HERE / "results.json", {"rows": measure()}, weights_of(pretrained.models()))


if __name__ == "__main__":
    main()
