"""Records the origin of results: the weights, the version of the code, and the machine."""

import contextlib
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from spectok import pretrained
from spectok.files import write_text

PACKAGES = ("pesq", "pystoi", "numpy", "onnxruntime", "torch")  # their versions may affect results
WRITTEN = (  # results, figures and documents; * also stands for folders
    "*.md",
    "docs/*",
    "benchmarks/*.json",
    "recipes/*.json",
    "recipes/*.png",
    "recipes/*.svg",
    "pretrained/results/*",
)
CPU_FACTS = Path("/proc/cpuinfo")


def provenance(weights: Mapping[str, str] | None, threads: int | None = 1, gpu: str | None = None) -> dict[str, Any]:
    """The value of the key "provenance" in every file of results.

    Args:
        weights: SHA-256 of `model.safetensors`, 64 hexadecimal digits, by the model's name; None if the results do not
            depend on released weights, such as the speed of training from random ones.
        threads: number of CPU threads; None if each codec chooses its own.
        gpu: its name, if one was used.

    Returns:
        `version` of the package, `commit` (None outside of a checkout), `weights`, and `machine`: `processor`,
        `cores`, `threads`, `gpu`, `python`, and the `versions` of the packages that compute.
    """
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    machine = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "gpu": gpu,
        "python": platform.python_version(),
        "versions": versions,
    }
    hashes = None if weights is None else dict(weights)
    return {"version": version("spectok"), "commit": commit(), "weights": hashes, "machine": machine}


def weights_of(names: Iterable[str], encoders: bool = False) -> dict[str, str]:
    """SHA-256 of the weights of models, by name, for `provenance`; with `encoders` also of their further encoders."""
    found = {name: pretrained.find(name) for name in names}
    weights = {name: model.sha256 for name, model in found.items()}
    for name, model in found.items() if encoders else ():
        weights |= {
            f"{name}/{other}": pretrained.find_encoder(model, other).sha256 for other in pretrained.encoders(model)
        }
    return weights


def write_results(
    path: Path,
    results: dict[str, Any],
    weights: Mapping[str, str] | None,
    threads: int | None = 1,
    gpu: str | None = None,
) -> None:
    """Write results with their `provenance` as JSON, with `atomic_write`."""
    written = {"provenance": provenance(weights, threads, gpu)} | results
    write_text(path, json.dumps(written, indent=1) + "\n")


def commit() -> str | None:
    """The commit of this checkout, with "-dirty" if files were changed; None outside of a checkout.

    Changed results and documents do not count, so that one measurement can follow another.
    """
    if not pretrained.CHECKOUT.is_dir():
        return None
    git, exceptions = ["git", "-C", str(pretrained.CHECKOUT.parent)], [f":(exclude){pattern}" for pattern in WRITTEN]
    try:
        name, changed = (
            subprocess.run([*git, *words], capture_output=True, text=True, check=True).stdout.strip()
            for words in (
                ["describe", "--always", "--exclude=*"],
                ["diff", "--name-only", "HEAD", "--", ".", *exceptions],
            )
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{name}-dirty" if changed else name


def _processor() -> str:
    """The processor's model name, or else its architecture."""
    lines = CPU_FACTS.read_text(encoding="utf-8").splitlines() if CPU_FACTS.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
