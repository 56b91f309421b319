"""The npm package in web/ computes the codes and the audio of the Python package."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from web_build import needs_build, node

from spectok import Tokenizer, models, pretrained
from spectok.audio import read_audio
from spectok.resampling import resample

pytestmark = needs_build
DATA = Path(__file__).parent / "data"
GOLDEN = json.loads((DATA / "golden.json").read_text(encoding="utf-8"))
RATES = (8000, 16000, 22050, 44100, 48000)
CHUNKS = (0, 777)  # 0: all at once


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[dict[str, Any], NDArray[np.int64]]]:
    """Jobs, and the codes that Node.js gives for them: both recordings at several rates, and two seconds of one."""
    folder = tmp_path_factory.mktemp("converted")
    speech = [read_audio(DATA / name) for name in ("librispeech_84_16k.flac", "vctk_p259_48k.flac")]
    clips = [(resample(audio, rate, wanted), wanted) for audio, rate in speech for wanted in RATES]
    clips.append((speech[0][0][16000:48000], 16000))  # as in tests/make_golden.py
    jobs = []
    for number, (audio, rate) in enumerate(clips):
        path = folder / f"{number}.f32"
        for name in models():
            for chunk in CHUNKS:
                copy = path.with_name(f"{number}-{name}-{chunk}.f32")
                copy.write_bytes(audio.astype("<f4").tobytes())
                model = str(pretrained.find(name).folder)
                jobs.append({"model": model, "audio": str(copy), "sampleRate": rate, "chunk": chunk})
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    codes = json.loads(node("test/tools/convert.js", folder / "jobs.json"))
    return [(job, np.array(of_job, np.int64)) for job, of_job in zip(jobs, codes, strict=True)]


def test_codes_are_those_of_python(converted: list[tuple[dict[str, Any], NDArray[np.int64]]]) -> None:
    """Not one differs, at any rate, in one piece or in chunks, although the resampler is another one."""
    tokenizers = {str(pretrained.find(name).folder): Tokenizer.from_pretrained(name) for name in models()}
    assert len(converted) == 44
    for job, codes in converted:
        audio = np.fromfile(job["audio"], "<f4")
        np.testing.assert_array_equal(codes, tokenizers[job["model"]].encode(audio, job["sampleRate"]))


def test_golden_codes(converted: list[tuple[dict[str, Any], NDArray[np.int64]]]) -> None:
    for job, codes in converted[-4:]:
        assert codes.tolist() == GOLDEN[Path(job["model"]).name]["codes"]


def test_decoded_audio_is_that_of_python(converted: list[tuple[dict[str, Any], NDArray[np.int64]]]) -> None:
    """At the codec's rate to -105 dB; at other rates to -85 dB, because the resampler is another one."""
    tokenizers = {str(pretrained.find(name).folder): Tokenizer.from_pretrained(name) for name in models()}
    for job, codes in converted:
        decoded, rate = np.fromfile(job["audio"] + ".decoded", "<f4"), job["sampleRate"]
        whole = np.fromfile(job["audio"], "<f4")
        length = len(whole) if job["chunk"] == 0 else None
        expected = tokenizers[job["model"]].decode(codes, length, sample_rate=rate)
        assert len(decoded) == len(expected)
        error = 10 * np.log10(np.square(decoded - expected).mean() / np.square(expected).mean())
        assert error < (-105 if rate == 16000 else -85)
