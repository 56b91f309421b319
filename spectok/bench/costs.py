"""Measures the costs of a coder: time on one core, time and memory of a cold process, latency, and size on disk."""

import contextlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spectok import pretrained
from spectok.audio import write_audio
from spectok.engine import load_codec, model_size
from spectok.errors import InputError
from spectok.evaluation.coders import Audio, Coder, Runnable
from spectok.evaluation.metrics import SAMPLE_RATE
from spectok.pretrained import Model

PACKAGE = Path(__file__).parent.parent
PHASES, PHASE_STEP = 32, 20  # positions of the impulse, and samples between them: a frame of up to 40 ms is covered
CHANGE = 1e-4  # of full scale, about 3 steps of 16 bits: larger than rounding and a resampler's ringing


@contextlib.contextmanager
def pinned() -> Iterator[None]:
    """Run this process and its children on one core, if the system supports it, and PyTorch, if loaded, in one thread.

    The threads that PyTorch has begun before keep their cores, so they must not be used.
    """
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else 1
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    try:
        if torch:
            torch.set_num_threads(1)
        if allowed:
            os.sched_setaffinity(0, {max(allowed)})
        yield
    finally:
        if allowed:
            os.sched_setaffinity(0, allowed)
        if torch:
            torch.set_num_threads(threads)


def timings(coders: Sequence[Coder], audio: Audio, rounds: int = 5) -> dict[str, dict[str, float]]:
    """Real-time factors of "encode" and "decode": medians over rounds in which all coders run in turn on one core."""
    seconds: dict[str, list[tuple[float, float]]] = {coder.name: [] for coder in coders}
    with pinned():
        for coder in coders:
            coder.code(audio[:SAMPLE_RATE])
        for _ in range(rounds):
            for coder in coders:
                coded = coder.code(audio)
                seconds[coder.name].append((coded.encode_seconds, coded.decode_seconds))
    length = len(audio) / SAMPLE_RATE
    return {
        name: {
            side: statistics.median(taken) / length
            for side, taken in zip(("encode", "decode"), zip(*pairs, strict=True), strict=True)
        }
        for name, pairs in seconds.items()
    }


def latency(coder: Coder) -> int:
    """The algorithmic latency in samples at 16 kHz: how long before an impulse the decoded audio begins to change.

    The outputs for noise with and without an impulse are compared, with the impulse at every position within a frame;
    the earliest change counts. The latency includes the wait for the rest of the frame, but not the computing time. It
    is accurate to 20 samples.
    """
    audio = 0.05 * np.random.default_rng(0).standard_normal(2 * SAMPLE_RATE).astype(np.float32)
    before = coder.code(audio).audio
    longest = 0
    for phase in range(PHASES):
        at = SAMPLE_RATE + phase * PHASE_STEP
        changed = audio.copy()
        changed[at] = 0.9
        different = np.flatnonzero(np.abs(coder.code(changed).audio - before) > CHANGE)
        longest = max(longest, at - int(different[0]) if len(different) else 0)
    return longest


class ProcessCost(NamedTuple):
    """Time and memory of a new process."""

    seconds: float  # from its start to its end
    megabytes: float  # peak memory; NaN on Windows, which does not tell it


# A process inherits the recorded peak memory of its parent, so the parent must be a small process.
PARENT = """
import subprocess, sys, time
start = time.perf_counter()
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
seconds, kilobytes = time.perf_counter() - start, "nan"
try:
    import resource
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    kilobytes = peak / 1024 if sys.platform == "darwin" else peak
except ModuleNotFoundError:
    pass
print(code, seconds, kilobytes)
"""


def run_cold(command: Sequence[str]) -> ProcessCost:
    """Run a command in a new process, and measure it.

    Memory below that of an empty Python process, about 10 MB, cannot be measured.

    Raises:
        InputError: the command fails.
    """
    parent = [sys.executable, "-S", "-c", PARENT, *command]
    code, seconds, kilobytes = subprocess.run(parent, capture_output=True, text=True, check=True).stdout.split()
    if code != "0":
        raise InputError(f"{command[0]} failed with exit code {code}")
    return ProcessCost(float(seconds), float(kilobytes) / 1000)


def cold(coder: Runnable, audio: Audio) -> dict[str, dict[str, float]]:
    """Seconds and peak memory in MB of a new process that encodes audio [T] at 16 kHz, and of one that decodes it.

    Both run on one core.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, coded, heard = (Path(folder, name) for name in ("in.wav", "coded", "out.wav"))
        write_audio(source, audio, SAMPLE_RATE)
        commands = zip(("encode", "decode"), coder.commands(source, coded, heard), strict=True)
        with pinned():
            return {side: run_cold(command)._asdict() for side, command in commands}


def sizes(model: Model) -> dict[str, float]:
    """The size of a model, as facts of its coder.

    Returns:
        `parameters`, `macs` per second of audio in layers with weights, `macs_with_transforms` in all matrix products
        (only if PyTorch is installed), and `weight_megabytes`, the size of the codec's weights and graphs on disk.
    """
    parameters, macs = model_size(model)
    graphs = (model.folder / f"{side}.onnx" for side in ("encoder", "decoder") if model.has_graph(side))
    stored = [model.weights, *graphs]
    megabytes = sum(path.stat().st_size for path in stored) / 1e6
    facts = {"parameters": parameters, "macs": sum(macs.values())}
    if importlib.util.find_spec("torch") is not None:
        from spectok.bench.macs import macs_with_transforms

        facts["macs_with_transforms"] = sum(macs_with_transforms(load_codec(model)).values())
    return facts | {"weight_megabytes": megabytes}


def installed(facts: dict[str, Any]) -> dict[str, float]:
    """Number of packages that a coder consists of and depends on, and their size on this disk in megabytes.

    The coder's fact `package` names its package, of Debian or of PyPI, and `needs` lists dependencies that this package
    does not declare. spectok is counted without its extras. The sizes include the C library for a package of Debian,
    but not Python for one of PyPI. Empty if the package is not found.
    """
    package = facts.get("package", "spectok" if "weights" in facts else "").split(" ")[0]
    sizes = _debian(package) or _python(package)
    for name in facts.get("needs", ()):
        sizes |= _python(name)
    return {"megabytes": sum(sizes.values()) / 1e6, "packages": len(sizes)} if sizes else {}


def _debian(package: str) -> dict[str, float]:
    """Bytes of a package of Debian and of all its dependencies, by name; empty if it is not installed."""
    if shutil.which("dpkg-query") is None:
        return {}
    form = "${Package}\t${Installed-Size}\t${Pre-Depends}, ${Depends}\t${db:Status-Status}\n"
    lines = subprocess.run(["dpkg-query", "-W", f"-f={form}"], capture_output=True, text=True, check=True).stdout
    fields = [line.split("\t") for line in lines.splitlines()]
    known = {name: (1024.0 * float(size or 0), needs) for name, size, needs, status in fields if status == "installed"}
    found: dict[str, float] = {}
    waiting = [package] if package else []
    while waiting:
        name = waiting.pop()
        if name in known and name not in found:
            found[name], needs = known[name]
            waiting += re.findall(r"(?:^|[,|])\s*([a-z0-9][a-z0-9.+-]*)", needs)
    return found


def _python(package: str) -> dict[str, float]:
    """Bytes of a package of PyPI and of all its dependencies, by name; empty if it is not installed."""
    from packaging.requirements import Requirement

    found: dict[str, float] = {}
    waiting = [package] if package else []
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if name in found:
            continue
        paths = [Path(str(file.locate())) for file in distribution.files or ()]
        if name == "spectok":  # its metadata lists no files if it is installed in editable mode
            paths = [path for folder in (PACKAGE, pretrained.root()) for path in folder.rglob("*")]
        found[name] = sum(path.stat().st_size for path in set(paths) if path.is_file() and path.suffix != ".pyc")
        for line in distribution.requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return found
