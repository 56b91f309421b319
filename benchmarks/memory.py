"""Measure the memory of `spectok encode` and `spectok decode` of long recordings.

    python benchmarks/memory.py

The recordings are the speech of the tests, repeated. Measured is the peak of the resident memory of each process.
Writes `memory.json` beside this file; recipes/cards.py makes the table.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import soundfile

from spectok.audio import read_audio
from spectok.evaluation.provenance import weights_of, write_results

SPEECH = Path(__file__).parent.parent / "tests" / "data" / "librispeech_84_16k.flac"
MODEL = "spectok-16k-800"
PROGRAM = """
import sys
from pathlib import Path
from spectok.cli.main import main
code = main(sys.argv[1:])
print(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))
sys.exit(code)
"""


def write_recording(path: Path, minutes: float) -> None:
    """Write speech, repeated, as FLAC at 16 kHz; the memory for it does not grow either."""
    speech, rate = read_audio(SPEECH)
    left = round(60 * rate * minutes)
    with soundfile.SoundFile(path, "w", rate, 1, "PCM_16") as file:
        while left:
            file.write(speech[:left])
            left -= min(left, len(speech))


def peak(*arguments: str) -> float:
    """Run the command line in a process of its own; returns the peak of its resident memory in MB (10^6 bytes)."""
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-2]) * 1024 / 1e6


def measure(minutes: float, folder: Path) -> dict[str, tuple[float, float]]:
    """The peak in MB and the seconds of computing of encoding and of decoding a recording of so many minutes."""
    write_recording(folder / "in.flac", minutes)
    found = {}
    for command in (
        ["encode", f"{folder}/in.flac", f"{folder}/codes.spt", "-f", "--model", MODEL],
        ["decode", f"{folder}/codes.spt", f"{folder}/out.wav", "-f"],
    ):
        began = time.perf_counter()
        found[command[0]] = (peak(*command), time.perf_counter() - began)
    if soundfile.info(folder / "out.wav").frames != soundfile.info(folder / "in.flac").frames:
        raise SystemExit("the decoded recording has another length")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments, measure, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="+", default=[30, 180], help="of the recordings")
    args = parser.parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for minutes in args.minutes:
            rows += [
                {"minutes": minutes, "command": command, "megabytes": megabytes, "seconds": seconds}
                for command, (megabytes, seconds) in measure(minutes, Path(folder)).items()
            ]
            print(*rows[-2:], sep="\n", flush=True)
    write_results(Path(__file__).parent / "memory.json", {"model": MODEL, "rows": rows}, weights_of([MODEL]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
