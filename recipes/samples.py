"""Write docs/samples: a sentence from tests/data, and what each released model makes of it.

    python recipes/samples.py

The comment in a decoded file is the hash of the weights that made it, so that a test can tell that it is out of date.
"""

import shutil
from pathlib import Path

import soundfile

from spectok import pretrained
from spectok.audio import read_audio
from spectok.tokenizer import Tokenizer

ROOT = Path(__file__).parent.parent
SPEECH = ROOT / "tests" / "data" / "librispeech_84_16k.flac"
SAMPLES = ROOT / "docs" / "samples"


def stale() -> list[str]:
    """The released models whose sample is missing or was made with other weights."""
    return [name for name in pretrained.models() if _weights(_path(name)) != pretrained.find(name).weight_hash]


def _path(name: str) -> Path:
    return SAMPLES / f"{name}.flac"


def _weights(path: Path) -> str | None:
    if not path.exists():
        return None
    with soundfile.SoundFile(path) as file:
        return str(file.comment)


def main() -> None:
    """Write the original and one file for each released model."""
    SAMPLES.mkdir(exist_ok=True)
    shutil.copy(SPEECH, SAMPLES / "original.flac")
    audio, sample_rate = read_audio(SPEECH)
    for name in pretrained.models():
        tokenizer = Tokenizer.from_pretrained(name)
        decoded = tokenizer.decode(tokenizer.encode(audio, sample_rate), length=len(audio), sample_rate=sample_rate)
        with soundfile.SoundFile(_path(name), "w", sample_rate, 1, subtype="PCM_16", format="FLAC") as file:
            file.comment = tokenizer.weight_hash
            file.write(decoded)


if __name__ == "__main__":
    main()
