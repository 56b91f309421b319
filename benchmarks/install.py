"""Measures the size of codecs on disk, the time to install them, and the time to the first code of 5 s of speech.

    python benchmarks/install.py          # needs an index of packages, some gigabytes of disk, and minutes

Each package is installed by pip, without a cache, in a virtual environment of its own. Then a new process encodes;
this is done three times, and the fastest counts. The other codecs have random weights, because their own would have to
be downloaded; the time is the same. Writes `install.json` beside this file; recipes/cards.py writes the table.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import soundfile

from spectok.audio import read_audio
from spectok.bench.costs import run_cold
from spectok.evaluation.provenance import write_results

ROOT = Path(__file__).parent.parent
SPEECH = ROOT / "tests" / "data" / "librispeech_84_16k.flac"
READ = "import soundfile, torch; x = torch.from_numpy(soundfile.read('{}', dtype='float32')[0])[None, None]; "
COLD_ROUNDS = 3
PAIR = ("torch==2.11.*", "torchaudio==2.11.*")  # which go together; pip alone takes two that may not
CODECS = {  # what pip installs, and what encodes {}
    "spectok": ([str(ROOT)], "from spectok.cli.main import main; main(['encode', '{}', '{}.spt', '-f'])"),
    "encodec": (
        ["encodec", "soundfile", *PAIR],
        READ + "from encodec import EncodecModel; m = EncodecModel.encodec_model_24khz(pretrained=False); m.encode(x)",
    ),
    "descript-audio-codec": (
        ["descript-audio-codec", "soundfile", *PAIR],
        READ + "import dac; dac.DAC(sample_rate=16000).encode(x)",
    ),
}


def measure(name: str, speech: Path, folder: Path) -> dict[str, object]:
    """Install one codec and run it."""
    packages, code = CODECS[name]
    environment = folder / name
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    before = size(environment)
    python = str(environment / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    began = time.perf_counter()
    subprocess.run([*pip, "install", "--quiet", "--no-cache-dir", *packages], check=True)
    seconds = time.perf_counter() - began
    listed = subprocess.run([*pip, "list", "--format=json"], check=True, capture_output=True, text=True).stdout
    command = [python, "-c", code.replace("{}", str(speech))]
    return {
        "name": name,
        "packages": len(json.loads(listed)) - 2,  # pip and setuptools were there
        "megabytes": (size(environment) - before) / 1e6,
        "install_seconds": seconds,
        "first_code_seconds": min(run_cold(command).seconds for _ in range(COLD_ROUNDS)),
    }


def size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def main() -> None:
    """Measure all codecs in turn."""
    with tempfile.TemporaryDirectory() as folder:
        speech = Path(folder) / "speech.wav"
        audio, _ = read_audio(SPEECH, 16000)
        soundfile.write(speech, [*audio, *audio][: 5 * 16000], 16000)
        rows = [measure(name, speech, Path(folder)) for name in CODECS]
    write_results(Path(__file__).parent / "install.json", {"rows": rows}, weights=None, threads=None)


if __name__ == "__main__":
    main()
