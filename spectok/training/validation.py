"""Validation: reconstructs a few clips with the averaged codec, and computes metrics and losses."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from spectok.evaluation.metrics import SAMPLE_RATE, codebook_use, level_db, overshoot_db, pesq_wb, stoi
from spectok.model.codec import Codec
from spectok.resampling import fit_length
from spectok.training.corpus import Corpus
from spectok.training.losses import Losses

MAX_CLIPS = 24
MAX_SECONDS = 4.0
SAVED_CLIPS = 3  # as WAV files and spectrograms


def reconstruct(codec: Codec, audio: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Reconstruct a clip `[T]`: decoded audio `[T]`, and codes `[F, K]`."""
    config = codec.config
    padded = fit_length(audio, config.padded_length(len(audio)))
    with torch.inference_mode():
        output, quantized = codec(torch.from_numpy(padded)[None])
    return output[0, config.synthesis_delay :][: len(audio)].numpy(), quantized.codes[0].numpy()


class Clip(NamedTuple):
    """A validation clip that is saved."""

    original: NDArray[np.float32]  # [T]
    decoded: NDArray[np.float32]  # [T]
    codes: NDArray[np.int64]  # [F, K]


@dataclass(frozen=True)
class Validation:
    """The result of a validation."""

    metrics: dict[str, float]  # means over the clips, by name
    clips: list[Clip]  # the first `SAVED_CLIPS`
    histogram: NDArray[np.int64]  # how often each code was used, [codebook_size]


def validate(codec: Codec, corpus: Corpus, losses: Losses) -> Validation:
    """PESQ-WB, STOI, level, overshoot, losses and codebook use for the first seconds of some clips.

    Args:
        codec: on the CPU, in evaluation mode; its sample rate is 16 kHz.
        corpus: the validation split.
        losses: the recipe's losses, on the CPU; clips shorter than their longest window are left out of their means.
    """
    config = codec.config
    metrics = {"pesq": pesq_wb, "stoi": stoi, "level_db": level_db, "overshoot_db": overshoot_db}
    scores: dict[str, list[float]] = {name: [] for name in metrics}
    histogram = np.zeros(config.quantizer.codebook_size, np.int64)
    clips = []
    for n, index in enumerate(np.linspace(0, len(corpus) - 1, min(MAX_CLIPS, len(corpus))).astype(int)):
        original = corpus.clip(index, samples=min(int(corpus.samples[index]), int(MAX_SECONDS * SAMPLE_RATE)))
        decoded, codes = reconstruct(codec, original)
        histogram += np.bincount(codes.ravel(), minlength=len(histogram))
        for name, metric in metrics.items():
            scores[name].append(metric(original, decoded))
        if len(original) >= losses.config.longest:
            for name, loss in losses(torch.from_numpy(original)[None], torch.from_numpy(decoded)[None]).items():
                scores.setdefault(name, []).append(float(loss))
        if n < SAVED_CLIPS:
            clips.append(Clip(original, decoded, codes))
    use = codebook_use(histogram)
    means = {name: float(np.nanmean(values)) for name, values in scores.items()}
    return Validation(means | {"codes_used": use.used, "code_entropy": use.entropy}, clips, histogram)
