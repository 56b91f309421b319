"""The speech that several benchmarks measure."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spectok.audio import list_audio, read_audio
from spectok.evaluation.metrics import SAMPLE_RATE


def clean_speech(corpus: str | Path, every: int = 1) -> list[NDArray[np.float32]]:
    """Every n-th file of a folder with `clean` in its name, or of all files if no name has it, `[T]` each at 16 kHz."""
    paths = list_audio(corpus)
    paths = [path for path in paths if "clean" in path.name] or paths
    return [read_audio(path, SAMPLE_RATE)[0] for path in paths[::every]]
