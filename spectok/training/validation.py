"""Validation: a few clips through the averaged codec, as figures, audio and a picture."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from spectok.audio import write_audio
from spectok.config import require
from spectok.evaluation.metrics import SAMPLE_RATE, codebook_use, pesq_wb, stoi
from spectok.evaluation.picture import draw
from spectok.model.codec import Codec
from spectok.training.data import Corpus

MAX_CLIPS = 24
MAX_SECONDS = 4.0
SAVED_CLIPS = 3  # as wav files and a picture


def reconstruct(codec: Codec, audio: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """One clip `[T]` through the codec: audio `[T]`, and its codes `[F, K]`."""
    config = codec.config
    padded = np.pad(audio, (0, config.num_frames(len(audio)) * config.frame_length - len(audio)))
    with torch.inference_mode():
        output, quantized = codec(torch.from_numpy(padded)[None])
    return output[0, config.synthesis_delay :][: len(audio)].numpy(), quantized.codes[0].numpy()


def validate(codec: Codec, corpus: Corpus, folder: Path | None = None) -> dict[str, float]:
    """PESQ-WB, STOI and codebook use over the first seconds of some clips of the validation split.

    Args:
        codec: on the CPU, in evaluation mode; its sample rate is 16 kHz.
        corpus: the validation split.
        folder: gets the first clips as wav files and pictures; None writes nothing.
    """
    config = codec.config
    require(config.sample_rate == SAMPLE_RATE, f"validation is at {SAMPLE_RATE} Hz, not at {config.sample_rate}")
    pesq_scores, stoi_scores = [], []
    histogram = np.zeros(config.quantizer.codebook_size, np.int64)
    for n, index in enumerate(np.linspace(0, len(corpus) - 1, min(MAX_CLIPS, len(corpus))).astype(int)):
        real = corpus.clip(index, samples=min(int(corpus.samples[index]), int(MAX_SECONDS * SAMPLE_RATE)))
        fake, codes = reconstruct(codec, real)
        histogram += np.bincount(codes.ravel(), minlength=len(histogram))
        pesq_scores.append(pesq_wb(real, fake))
        stoi_scores.append(stoi(real, fake))
        if folder is not None and n < SAVED_CLIPS:
            folder.mkdir(parents=True, exist_ok=True)
            write_audio(folder / f"{n}_real.wav", real, config.sample_rate)
            write_audio(folder / f"{n}_fake.wav", fake, config.sample_rate)
            draw(folder / f"{n}.png", real, fake, codes, config.sample_rate, config.frame_rate)
    use = codebook_use(histogram)
    return {
        "pesq": float(np.nanmean(pesq_scores)),
        "stoi": float(np.nanmean(stoi_scores)),
        "codes_used": use.used,
        "code_entropy": use.entropy,
    }
