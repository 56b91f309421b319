"""Run the benchmarks and write what they gave to `results.json` beside this file; recipes/cards.py makes the tables.

    python benchmarks/run.py              # some minutes; leave the machine alone meanwhile

Quantiles of wall-clock seconds on one pinned core, all measured in turn in one run.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent


def measure() -> dict[str, Any]:
    """Run pytest-benchmark; returns the facts of the machine and a row for every benchmark."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "benchmark.json"
        command = [sys.executable, "-m", "pytest", str(HERE), "-q", "--benchmark-json", str(path)]
        one_thread = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
        command += ["--benchmark-disable-gc", "--benchmark-columns=median"]
        subprocess.run(command, check=True, env=os.environ | one_thread)
        report = json.loads(path.read_text(encoding="utf-8"))
    rows = []
    for entry in report["benchmarks"]:
        seconds = np.array(entry["stats"]["data"])
        quantiles = {f"p{q}": float(np.percentile(seconds, q)) for q in (50, 95, 99)}
        rows.append(entry["extra_info"] | {"rounds": len(seconds), "mean": float(seconds.mean()), **quantiles})
    rows.sort(key=lambda row: (row.get("engine", ""), row.get("model", "")))
    processor = report["machine_info"]["cpu"].get("brand_raw", platform.machine())
    versions = {name: version(name) for name in ("onnxruntime", "torch", "numpy")}
    return {"processor": processor, "python": platform.python_version(), "versions": versions, "rows": rows}


def main() -> None:
    """Measure, and write the results."""
    (HERE / "results.json").write_text(json.dumps(measure(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
