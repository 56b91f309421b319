"""Validation: a few clips through the averaged codec, as figures, audio and a picture."""

import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pesq import PesqError, pesq
from pystoi import stoi

from spectok.audio import write_audio
from spectok.model.codec import Codec
from spectok.training.data import Corpus

MAX_CLIPS = 24
MAX_SECONDS = 4.0


def reconstruct(codec: Codec, audio: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """One clip `[T]` through the codec: audio of the same length, and its codes `[N]`."""
    config = codec.config
    padded = np.pad(audio, (0, config.num_frames(len(audio)) * config.frame_length - len(audio)))
    with torch.inference_mode():
        output, quantized = codec(torch.from_numpy(padded)[None])
    return output[0, config.synthesis_delay :][: len(audio)].numpy(), quantized.codes.flatten().numpy()


def validate(codec: Codec, corpus: Corpus, folder: Path | None = None) -> dict[str, float]:
    """PESQ-WB, STOI and codebook use over the first seconds of some clips of the validation split.

    Args:
        codec: on the CPU, in evaluation mode.
        corpus: the validation split.
        folder: gets the first clips as wav files and one picture; None writes nothing.
    """
    rate = codec.config.sample_rate
    scores: dict[str, list[float]] = {"pesq": [], "stoi": []}
    every_code = []
    for n, index in enumerate(np.linspace(0, len(corpus) - 1, min(MAX_CLIPS, len(corpus))).astype(int)):
        real = corpus.clip(index, samples=min(int(corpus.samples[index]), int(MAX_SECONDS * rate)))
        fake, codes = reconstruct(codec, real)
        every_code.append(codes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scores["stoi"].append(stoi(real, fake, rate))
            try:
                scores["pesq"].append(pesq(rate, real, fake, "wb"))
            except PesqError:
                scores["pesq"].append(np.nan)
        if folder is not None and n < 3:
            folder.mkdir(parents=True, exist_ok=True)
            write_audio(folder / f"{n}_real.wav", real, rate)
            write_audio(folder / f"{n}_fake.wav", fake, rate)
    codes = np.concatenate(every_code)
    used = len(np.unique(codes))
    figures = {name: float(np.nanmean(values)) for name, values in scores.items()}
    return {**figures, "codes_used": used, "codes_share": used / codec.config.quantizer.codebook_size}
