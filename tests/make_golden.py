"""Write tests/data/golden.json: the released models' codes of two seconds of speech, and samples of the decoded audio.

    python tests/make_golden.py

Both are computed in float64. Run it when weights are released. If codes or samples change although the weights did not,
files of earlier versions are no longer decoded to the same audio.
"""

import json
from pathlib import Path

import numpy as np
from models import in_double_precision

from spectok import pretrained
from spectok.audio import read_audio

DATA = Path(__file__).parent / "data"
GOLDEN = DATA / "golden.json"
STEP = 397  # between the decoded samples that are kept, which is no multiple of the hop


def codes(name: str) -> list[int]:
    """The codes of seconds 1 to 3 of the fixture."""
    speech, _ = read_audio(DATA / "librispeech_84_16k.flac", 16000)
    return [int(code) for code in in_double_precision(name).encode(speech[16000:48000])]


def samples(name: str, codes: list[int]) -> list[float]:
    """Every `STEP`-th sample of the audio that codes are decoded to."""
    decoded = in_double_precision(name).decode(np.array(codes))
    return [round(float(sample), 12) for sample in decoded[::STEP]]


if __name__ == "__main__":
    golden = {}
    for model in pretrained.models():
        found = codes(model)
        golden[model] = {"weights": pretrained.find(model).sha256, "codes": found, "samples": samples(model, found)}
    GOLDEN.write_text(json.dumps(golden) + "\n", encoding="utf-8")
