"""A small corpus of speech, and what the tests of several modules compare: the bytes of all outputs."""

from pathlib import Path

import numpy as np

from spectok.audio import write_audio

MODEL = "spectok-16k-800"
COUNT = 7


def write_corpus(folder: Path, speech: np.ndarray) -> Path:
    """Write `COUNT` recordings of a quarter of a second up to 1.75 s, one at 8 kHz, and a file that is not audio."""
    folder.mkdir(parents=True)
    for n in range(COUNT):
        length = 4000 * (1 + (5 * n) % COUNT)
        write_audio(folder / f"{n}.wav", speech[1000 * n : 1000 * n + length], 8000 if n == 3 else 16000)
    (folder / "3b.wav").write_text("no audio", encoding="utf-8")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of all files below a folder by their paths, hidden ones included."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*"))}
