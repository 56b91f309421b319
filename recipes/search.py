"""Compare choices by short runs of equal processor time, one thread each.

    python recipes/search.py --data PREPARED --out runs/search --jobs 2

Runs every probe of recipes/search.toml that `--out` does not hold yet, and writes what all of them gave to
recipes/search.json, from which recipes/cards.py makes the tables in RESULTS.md. Stop it at any time and start it again.
"""

import argparse
import json
import re
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from spectok.config import CodecConfig
from spectok.files import atomic_write
from spectok.model.codec import Codec

HERE = Path(__file__).parent
FIGURES = ("pesq", "stoi", "level_db", "codes_used", "code_entropy")


def folder_of(name: str, out: Path) -> Path:
    """Where a probe runs."""
    return out / re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def run(group: dict[str, Any], name: str, data: Path, out: Path) -> None:
    """Train one probe, unless it has been."""
    folder = folder_of(name, out)
    if (folder / "done").exists():
        return
    options = [f"--set={override}" for override in group["probes"][name]] + ["--set=validate_minutes=1000.0"]
    options += [f"--init={group['init']}"] if "init" in group else []
    options += ["--resume"] if (folder / "checkpoint.safetensors").exists() else []
    command = [sys.executable, str(HERE / "train.py"), str(HERE / group["recipe"]), "--data", str(data)]
    command += ["--out", str(folder), "--minutes", str(group["minutes"]), "--cpu-clock", "--device=cpu", "--quiet"]
    print(f"training: {name}", flush=True)
    subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)
    (folder / "done").touch()


def collect(group: dict[str, Any], out: Path) -> list[dict[str, Any]]:
    """What the finished probes of a group gave."""
    rows = []
    for name, overrides in group["probes"].items():
        folder = folder_of(name, out)
        if not (folder / "done").exists():
            continue
        entries = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        valid = next(entry for entry in reversed(entries) if entry["kind"] == "valid")
        facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        codec = Codec(CodecConfig.load(folder / "release" / "config.json"))
        rows.append(
            {
                "name": name,
                "overrides": overrides,
                "commit": facts["commit"],
                "hardware": facts["hardware"],
                "seconds": valid["seconds"],
                "steps": valid["step"],
                "parameters": codec.num_parameters,
                "macs_per_second": sum(codec.macs_per_second().values()),
                "latency_samples": codec.latency_samples,
                **{figure: valid[figure] for figure in FIGURES},
            }
        )
    return rows


def main() -> int:
    """Parse the arguments, train what is missing, write what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder made by recipes/prepare.py")
    parser.add_argument("--out", type=Path, required=True, help="folder for the probes' runs")
    parser.add_argument("--jobs", type=int, default=1, help="probes at a time (default: %(default)s)")
    args = parser.parse_args()
    groups = tomllib.loads((HERE / "search.toml").read_text(encoding="utf-8"))["group"]
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda pair: run(*pair, args.data, args.out), [(g, n) for g in groups for n in g["probes"]]))
    results = [{key: value for key, value in group.items() if key != "probes"} for group in groups]
    for result, group in zip(results, groups, strict=True):
        result["probes"] = collect(group, args.out)
    with atomic_write(HERE / "search.json") as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
