"""Compare choices by short runs of equal processor time, one thread each.

    python recipes/search.py --data PREPARED --out runs/search --jobs 2

Runs every probe of GROUPS that `--out` does not hold yet, and writes what all of them gave to
recipes/search.json, from which recipes/cards.py makes the tables in RESULTS.md. Stop it at any time and start it again.
"""

import argparse
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from spectok.config import CodecConfig
from spectok.files import atomic_write
from spectok.model.codec import Codec

HERE = Path(__file__).parent
WINDOW_512 = ["codec.spectrum.n_fft=512", "codec.spectrum.synthesis_length=320"]
WINDOW_512 += ["codec.encoder.frequency_strides=[4]", "codec.decoder.frequency_strides=[4]"]
WINDOW_640 = ["codec.spectrum.n_fft=640", "codec.spectrum.hop_length=320", "codec.spectrum.synthesis_length=640"]
WINDOW_640 += [
    f"codec.{side}.{key}" for side in ("encoder", "decoder") for key in ("time_strides=[1]", "frequency_strides=[4]")
]
PLAIN = ["loss.adversarial_weight=0.0", "loss.feature_weight=0.0", "loss.level_weight=0.0"]
ADVERSARIAL = ["loss.adversarial_weight=0.5", "loss.feature_weight=0.5", "loss.adversarial_start=0.0"]
DRAWN = ["discriminator.periods_asked=2", "discriminator.windows_asked=1"]
PAPERS = ["discriminator.period_channels=[32,128,512,1024,1024]", "discriminator.band_channels=32"]

# A group shares its recipe, its base, its start and its budget; the others are compared with its first probe.
GROUPS: list[dict[str, Any]] = [
    {
        "title": "The preset at 4 kbit/s and what else it could be, from random weights",
        "recipe": "spectok-16k-4k.toml",
        "minutes": 6.0,
        "base": PLAIN,
        "probes": {
            "as it is (320/160, FSQ, p = 2, queries)": [],
            "window 512, hop 160": WINDOW_512,
            "window 640, hop 320": WINDOW_640,
            "VQ, 1,024 entries of 8 dimensions, pool and expiry": [
                "codec.quantizer.kind=vq",
                "codec.quantizer.codebook_dim=8",
            ],
            "magnitudes to the power 0.3 in place of 1/2": ["codec.spectrum.power=3.3333"],
            "complex : magnitude : mel of 0.3 : 1.5 : 2": ["loss.mel_weight=2.0"],
        },
    },
    {
        "title": "SpecTokenizer's own bottleneck in place of the queries, from random weights",
        "recipe": "flat.toml",
        "minutes": 6.0,
        "base": PLAIN,
        "probes": {"flat, window 512": ["loss.complex_weight=0.3", "loss.magnitude_weight=1.5"]},
    },
    {
        "title": "The adversarial stage, from the released spectok-16k-4k",
        "recipe": "spectok-16k-4k.toml",
        "init": "spectok-16k-4k",
        "minutes": 6.0,
        "base": PLAIN,
        "probes": {
            "no discriminators": [],
            "small discriminators, 2 periods and 1 window drawn a step": [*ADVERSARIAL, *DRAWN],
            "the papers' discriminators, 2 periods and 1 window drawn a step": [*ADVERSARIAL, *DRAWN, *PAPERS],
        },
    },
]
FIGURES = ("pesq", "stoi", "level_db", "codes_used", "code_entropy")


def folder_of(name: str, out: Path) -> Path:
    """Where a probe runs."""
    return out / re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def run(group: dict[str, Any], name: str, data: Path, out: Path) -> None:
    """Train one probe, unless it has been."""
    folder = folder_of(name, out)
    if (folder / "done").exists():
        return
    overrides = [*group["base"], *group["probes"][name], "validate_minutes=1000.0"]
    options = [f"--set={override}" for override in overrides]
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


def write(out: Path) -> None:
    """Write what there is to search.json."""
    results = []
    for group in GROUPS:
        facts = {key: value for key, value in group.items() if key != "probes"}
        results.append(facts | {"probes": collect(group, out)})
    with atomic_write(HERE / "search.json") as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    """Parse the arguments, train what is missing, write what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder made by recipes/prepare.py")
    parser.add_argument("--out", type=Path, required=True, help="folder for the probes' runs")
    parser.add_argument("--jobs", type=int, default=1, help="probes at a time (default: %(default)s)")
    args = parser.parse_args()
    pairs = [(group, name) for group in GROUPS for name in group["probes"]]
    with ThreadPoolExecutor(args.jobs) as pool:
        for _ in pool.map(lambda pair: run(pair[0], pair[1], args.data, args.out), pairs):
            write(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
