"""Write tests/data/golden.json: the released models' codes of two seconds of speech, computed in float64.

    python tests/make_golden.py

Run it when weights are released. If codes change although the weights did not, the bitstream is broken.
"""

import json
from pathlib import Path

from models import in_double_precision

from spectok import pretrained
from spectok.audio import read_audio

DATA = Path(__file__).parent / "data"
GOLDEN = DATA / "golden.json"


def codes(name: str) -> list[int]:
    """The codes of seconds 1 to 3 of the fixture."""
    speech, _ = read_audio(DATA / "librispeech_84_16k.flac", 16000)
    return [int(code) for code in in_double_precision(name).encode(speech[16000:48000])]


if __name__ == "__main__":
    golden = {name: {"weights": pretrained.find(name).sha256, "codes": codes(name)} for name in pretrained.models()}
    GOLDEN.write_text(json.dumps(golden) + "\n", encoding="utf-8")
