"""Linear probes: what a linear model reads from the codes of a frame, and what it reads from a log-mel spectrum.

A probe is a logistic or a ridge regression of standardised features. The features of a frame are the quantizer's
vectors of its K codes, K * D numbers, or as a comparison the 40 natural-log mel magnitudes of the 32 ms around the same
moment. The labels are those of the moment in the middle of the frame's part of the decoded audio: the pitch that
SwiftF0 finds, and the phones that PocketSphinx aligns with the transcript of Whisper, in English speech only. Neither
is free of errors, and the errors are the same for both kinds of features.
"""

import functools
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pocketsphinx import Decoder
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from spectok.audio import read_audio
from spectok.evaluation.items import Item
from spectok.evaluation.judges import transcript
from spectok.evaluation.metrics import MEL_FLOOR, SAMPLE_RATE, mel_filters
from spectok.evaluation.pitch import PITCH_RATE, track_pitch
from spectok.samples import to_int16
from spectok.tokenizer import Tokenizer

MEL_WINDOW, MELS = 512, 40  # samples at 16 kHz, bands
PARTS = 5  # of the files: each is measured with probes that were learned on the others
MOST_FRAMES = 4000  # of each part, for phones and for pitch
FOLDS = 3  # files of a speaker that are needed: the speaker's probes are learned on two thirds of the files
# Of the regressions: `C` of the logistic ones of files and of frames, `alpha` of the ridge regression.
FILE_C, FRAME_C, ALPHA = 1.0, 0.01, 100.0
KINDS = ("codes", "mels")  # of features
SILENCE = ("SIL", "+SPN+", "+NSN+")  # names of PocketSphinx for no phone

Features = NDArray[np.float32]
Parts = Sequence[Sequence[int]]


class Frames(NamedTuple):
    """Features and labels of the frames of a file."""

    codes: Features  # [F, K * D]
    mels: Features  # [F, MELS]
    hops: NDArray[np.int64]  # [F]: the hundredth of a second in which the middle of each frame lies


def measure_probes(
    items: Sequence[Item], model: str | Path, codes: Sequence[NDArray[np.int64]], parts: Parts
) -> dict[str, Any]:
    """Train and measure the probes of a model.

    Args:
        items: the files.
        model: name or folder.
        codes: of each file, `[F, K]`.
        parts: the indices of the files of at least two parts: each is measured with probes that were learned on the
            others.

    Returns:
        By probe: `codes` and `mels`, what each kind of features reaches; `chance`, what the most frequent class (or the
        median pitch) of the other parts reaches; and `n`, the number of files or frames. "speaker" (mean features of a
        file), "phone" and "voicing" are shares of right answers, and "pitch" is the mean absolute error in cents.
        Probes are missing for which there are no labels. And `dimensions`, K * D.
    """
    tokenizer = Tokenizer.from_pretrained(model)
    vectors = [tokenizer.code_vectors(file).reshape(len(file), -1) for file in codes]
    config = tokenizer.config
    files = []
    for item, features in zip(items, vectors, strict=True):
        audio = read_audio(item.path, SAMPLE_RATE)[0]
        seconds = frame_times(len(features), config.frame_length, config.synthesis_delay) / config.sample_rate
        last = max(0, -(-len(audio) * PITCH_RATE // SAMPLE_RATE) - 1)
        hops = np.clip(np.floor(seconds * PITCH_RATE), 0, last).astype(np.int64)
        files.append(Frames(features, log_mels(audio, np.round(seconds * SAMPLE_RATE).astype(np.int64)), hops))
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = {
            "speaker": speaker_probe([item.speaker for item in items], files),
            "phone": _phone_probe(items, files, parts),
            **_pitch_probes(items, files, parts),
        }
    probes = {name: result for name, result in found.items() if result is not None}
    return {"dimensions": vectors[0].shape[1]} | probes


def frame_times(frames: int, frame_length: int, synthesis_delay: int) -> NDArray[np.float64]:
    """The middle of each frame's part of the decoded audio, in samples, `[frames]`."""
    return np.asarray((np.arange(frames) + 0.5) * frame_length - synthesis_delay, np.float64)


def log_mels(audio: NDArray[np.float32], centres: NDArray[np.int64]) -> Features:
    """Natural-log mel magnitudes of the 32 ms around samples, with zeros before and after the audio.

    Args:
        audio: `[T]` at 16 kHz.
        centres: samples, `[F]`.

    Returns:
        Float32 `[F, MELS]`, in Hann windows of sum 1.
    """
    window = np.hanning(MEL_WINDOW + 1)[:-1]
    padded = np.pad(audio, MEL_WINDOW)
    starts = np.clip(centres + MEL_WINDOW // 2, 0, len(padded) - MEL_WINDOW)
    pieces = padded[starts[:, None] + np.arange(MEL_WINDOW)]
    magnitudes = np.abs(np.fft.rfft(pieces * window)) / window.sum()
    return np.asarray(np.log(np.maximum(magnitudes @ mel_filters(MEL_WINDOW, MELS).T, MEL_FLOOR)), np.float32)


def speaker_probe(speakers: Sequence[str], files: Sequence[Frames]) -> dict[str, Any] | None:
    """Recognise the speaker of a file from its mean features; None if fewer than two speakers have `FOLDS` files."""
    counts = {name: speakers.count(name) for name in speakers if name}
    chosen = [index for index, name in enumerate(speakers) if counts.get(name, 0) >= FOLDS]
    names = np.array([speakers[index] for index in chosen])
    if len(set(names)) < 2:
        return None
    found: dict[str, Any] = {
        "chance": max(counts.values()) / len(chosen),
        "n": len(chosen),
        "speakers": len(set(names)),
    }
    for kind in KINDS:
        means = np.stack([getattr(files[index], kind).mean(axis=0) for index in chosen])
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(means, names)
        found[kind] = sum(_right(means[a], names[a], means[b], names[b], FILE_C) for a, b in folds) / len(chosen)
    return found


def _right(learned: Features, labels: NDArray[Any], measured: Features, wanted: NDArray[Any], c: float) -> int:
    """The number of right answers of a logistic regression with the parameter `C`."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=200, tol=1e-3))
    return int((probe.fit(learned, labels).predict(measured) == wanted).sum())


def classify(files: Sequence[Frames], labels: Sequence[NDArray[Any] | None], parts: Parts) -> dict[str, Any] | None:
    """Recognise a label of each frame.

    Args:
        files: features.
        labels: of each file, one for each frame, `[F]`; None for a file without labels.
        parts: as for `measure_probes`; those without labels are left out.

    Returns:
        As `measure_probes`, for one probe; None if fewer than two parts have labels, or the others of a part have only
        one label.
    """
    found: dict[str, Any] = {"n": 0, "codes": 0, "mels": 0, "chance": 0}
    for learned, measured in _others(labels, parts):
        known, wanted = (_joined(labels, part) for part in (learned, measured))
        values, counts = np.unique(known, return_counts=True)
        if len(values) < 2:
            return None
        found["n"] += len(wanted)
        found["chance"] += int((wanted == values[counts.argmax()]).sum())
        for kind in KINDS:
            features = [_joined([getattr(file, kind) for file in files], part) for part in (learned, measured)]
            found[kind] += _right(features[0], known, features[1], wanted, FRAME_C)
    return {name: value if name == "n" else value / found["n"] for name, value in found.items()} if found["n"] else None


def pitch_error(files: Sequence[Frames], pitch: Sequence[NDArray[Any] | None], parts: Parts) -> dict[str, Any] | None:
    """Estimate the logarithm of the pitch of voiced frames, of which the learned and the measured parts have some.

    Args and result are those of `classify`, with the pitch in Hz as labels, 0 where there is none.
    """
    voiced = [values if values is not None and (values > 0).any() else None for values in pitch]
    found: dict[str, Any] = {"n": 0, "codes": 0.0, "mels": 0.0, "chance": 0.0}
    for learned, measured in _others(voiced, parts):
        hertz = [_joined(voiced, part) for part in (learned, measured)]
        known, wanted = (1200 * np.log2(each[each > 0]) for each in hertz)
        found["n"] += len(wanted)
        found["chance"] += float(np.abs(wanted - np.median(known)).sum())
        for kind in KINDS:
            features = [_joined([getattr(file, kind) for file in files], part) for part in (learned, measured)]
            first, second = (each[pitched > 0] for each, pitched in zip(features, hertz, strict=True))
            probe = make_pipeline(StandardScaler(), Ridge(ALPHA)).fit(first, known)
            found[kind] += float(np.abs(probe.predict(second) - wanted).sum())
    return {name: value if name == "n" else value / found["n"] for name, value in found.items()} if found["n"] else None


def _others(labels: Sequence[Any], parts: Parts) -> Iterable[tuple[list[int], list[int]]]:
    """For each part, the labelled files of the other parts and its own; nothing if only one part has any."""
    labelled = [[index for index in part if labels[index] is not None] for part in parts]
    labelled = [part for part in labelled if part]
    for measured in labelled if len(labelled) > 1 else []:
        yield [index for part in labelled if part is not measured for index in part], measured


def _joined(arrays: Sequence[Any], indices: Sequence[int]) -> NDArray[Any]:
    return np.concatenate([arrays[index] for index in indices])


def _pitch_probes(items: Sequence[Item], files: Sequence[Frames], parts: Parts) -> dict[str, dict[str, Any] | None]:
    pitch: list[NDArray[Any] | None] = [None] * len(items)
    for part in parts:
        for index in _enough(part, files, pitch):
            pitch[index] = _pitch(items[index].path)[files[index].hops]
    voicing = [None if values is None else values > 0 for values in pitch]
    return {"voicing": classify(files, voicing, parts), "pitch": pitch_error(files, pitch, parts)}


def _phone_probe(items: Sequence[Item], files: Sequence[Frames], parts: Parts) -> dict[str, Any] | None:
    labels: list[NDArray[Any] | None] = [None] * len(items)
    for part in parts:
        for index in _enough(part, files, labels):
            names = _phones(items[index].path)
            if names is not None:
                labels[index] = np.array(names)[np.minimum(files[index].hops, len(names) - 1)]
    found = classify(files, labels, parts)
    if found is not None:
        found["phones"] = len(set(np.concatenate([each for each in labels if each is not None])))
    return found


def _enough(part: Sequence[int], files: Sequence[Frames], labels: Sequence[Any]) -> Iterable[int]:
    """Files of a part, in their order, until there are labels for `MOST_FRAMES` frames."""
    for index in part:
        if sum(len(files[other].hops) for other in part if labels[other] is not None) >= MOST_FRAMES:
            return
        yield index


@functools.cache  # the labels are the same for every model
def _pitch(path: Path) -> NDArray[np.float32]:
    return track_pitch(read_audio(path, SAMPLE_RATE)[0], SAMPLE_RATE)


@functools.cache
def _phones(path: Path) -> list[str] | None:
    audio = read_audio(path, SAMPLE_RATE)[0]
    words = transcript(audio)
    return align_phones(audio, words) if words.language == "en" else None


def align_phones(audio: NDArray[np.float32], words: str) -> list[str] | None:
    """The phone in each hundredth of a second of English speech, by PocketSphinx with its own model.

    Args:
        audio: `[T]` at 16 kHz.
        words: the transcript, in lower case, separated by spaces.

    Returns:
        Names of ARPABET without stress, "SIL" where nothing is spoken; None if a word is not in PocketSphinx's
        dictionary, which numerals are not, or the words cannot be aligned.
    """
    aligner = _aligner()
    if not words or any(aligner.lookup_word(word) is None for word in words.split()):
        return None
    samples = to_int16(audio).astype("<i2").tobytes()
    try:
        aligner.set_align_text(words)
        _run(aligner, samples)
        aligner.set_alignment()  # the words are aligned; now their phones are
        _run(aligner, samples)
    except RuntimeError:
        return None
    names: list[str] = []
    for phone in aligner.get_alignment().phones():
        names += ["SIL" if phone.name in SILENCE else phone.name] * (phone.start + phone.duration - len(names))
    return names or None


def _run(aligner: Decoder, samples: bytes) -> None:
    aligner.start_utt()
    aligner.process_raw(samples, no_search=False, full_utt=True)
    aligner.end_utt()


@functools.cache
def _aligner() -> Decoder:
    return Decoder(lm=None, loglevel="FATAL")
