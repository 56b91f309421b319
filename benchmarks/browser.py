"""Measure the page of `spectok web` in Chromium: opening, computing, live delay, and the bytes that it needs.

    make web
    python benchmarks/browser.py

Node.js, npm and Chromium must be installed. Times of Python are taken in turn with those of the browser, of the same
recording, in one process with one thread. Writes `browser.json` beside this file.
"""

import argparse
import gzip
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spectok import Tokenizer, pretrained
from spectok.audio import read_audio, write_audio
from spectok.errors import InputError
from spectok.evaluation.provenance import weights_of, write_results
from spectok.web import PageServer, page

ROOT = Path(__file__).parent.parent
SPEECH = ROOT / "tests" / "data" / "librispeech_84_16k.flac"
REPEATS = 5


def page_bytes() -> dict[str, dict[str, int]]:
    """For each model, the bytes of all files that the page needs to encode and decode, as they are and in gzip."""
    files = {name: content if isinstance(content, bytes) else content.read_bytes() for name, content in page().items()}
    sizes = {}
    for name in pretrained.models():
        needed = [
            content
            for path, content in files.items()
            if path != "LICENSES.txt"
            and (not path.startswith("models/") or path.startswith((f"models/{name}/", "models/index")))
        ]
        packed = (content if content[:2] == b"\x1f\x8b" else gzip.compress(content, 9) for content in needed)
        sizes[name] = {"raw": sum(map(len, needed)), "gzip": sum(map(len, packed))}
    return sizes


def in_python(name: str) -> dict[str, float]:
    """Seconds that encoding and decoding of the recording take in this process: the median of several."""
    audio, _ = read_audio(SPEECH)
    tokenizer, times = Tokenizer.from_pretrained(name), []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        codes = tokenizer.encode(audio)
        between = time.perf_counter()
        tokenizer.decode(codes, len(audio))
        times.append((between - began, time.perf_counter() - between))
    encoding, decoding = np.median(times[1:], axis=0).tolist()
    return {"encoding": encoding, "decoding": decoding, "length": len(audio) / 16000}


def in_browser(seconds: float) -> dict[str, Any]:
    """What web/test/browser/measure.js reports."""
    node, chromium = shutil.which("node"), shutil.which("chromium")
    if node is None or chromium is None:
        raise InputError("this benchmark needs the programs node and chromium")
    with tempfile.TemporaryDirectory() as folder, PageServer() as server:
        audio, rate = read_audio(SPEECH)
        speech = Path(folder, "speech.wav")
        write_audio(speech, audio, rate)
        thread = server.start()
        command = [node, "test/browser/measure.js", server.url, str(speech), str(seconds)]
        done = subprocess.run(command, cwd=ROOT / "web", capture_output=True, text=True, check=False)
        server.shutdown()
        thread.join()
    if done.returncode:
        raise InputError(f"the browser failed: {done.stderr[-500:]}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def summary(report: dict[str, Any], python: dict[str, dict[str, float]]) -> dict[str, Any]:
    """The figures of one model a row, and those of opening the page."""
    opened = report["opening"][1:]  # the first fills the cache
    rows = []
    for name, runs in report["computing"].items():
        share = {
            side: float(np.median([run[side] / run["length"] for run in runs])) for side in ("encoding", "decoding")
        }
        own = {side: python[name][side] / python[name]["length"] for side in share}
        delays = report["live"][name]["delays"]
        rows.append(
            {
                "model": name,
                **{side: round(value, 4) for side, value in share.items()},
                "python": {side: round(value, 4) for side, value in own.items()},
                "ratio": round(sum(share.values()) / sum(own.values()), 2),
                "live_delay_ms": {
                    "p50": float(np.percentile(delays, 50)),
                    "p95": float(np.percentile(delays, 95)),
                    "readings": len(delays),
                },
                "underruns": report["live"][name]["underruns"],
                "page": page_bytes()[name],
            }
        )
    first_code = [run["ready"] + run["encoding"] for run in opened]
    return {
        "browser": f"Chromium {report['browser']}",
        "opened": len(opened),
        "ready_s": round(float(np.median([run["ready"] for run in opened])), 2),
        "first_code_s": {"median": round(float(np.median(first_code)), 2), "most": round(max(first_code), 2)},
        "link_s": round(float(np.median(report["links"][1:])), 2),
        "rows": rows,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20, help="of each live stream (default: %(default)g)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "browser.json", help="file to write")
    args = parser.parse_args(arguments)
    before = {name: in_python(name) for name in pretrained.models()}
    report = in_browser(args.seconds)
    after = {name: in_python(name) for name in pretrained.models()}
    python = {name: {key: (before[name][key] + after[name][key]) / 2 for key in before[name]} for name in before}
    found = summary(report, python)
    print(json.dumps(found, indent=1))
    write_results(args.out, found, weights_of(pretrained.models()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
