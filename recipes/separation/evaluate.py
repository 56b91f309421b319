"""Scores a separator on the mixtures of the test."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recipes.separation.config import SeparationConfig
from recipes.separation.metrics import MUSEVAL, magnitude_snr, museval_scores, si_sdr, usdr
from recipes.separation.mixtures import Mixtures
from recipes.separation.separator import Separator, Transform
from recipes.separation.upper import HEURISTICS, double, halve, heuristic

Scores = dict[str, float]


def separated(model: Separator, mixture: Tensor, config: SeparationConfig) -> Tensor:
    """Estimates of all sources of mixtures `[B, T]` at the separator's rate, `[B, S, T]`."""
    return completed(model(mixture), mixture, config)


def completed(estimates: Tensor, mixture: Tensor, config: SeparationConfig) -> Tensor:
    """Estimates `[B, S, T]`; where the network has only that of the first source, the second is what remains."""
    if config.loss.both_sources:
        return estimates
    return torch.cat([estimates, mixture[:, None] - estimates], dim=1)


def upper_bands(
    model: Separator, mixture: Tensor, estimates: Tensor, ways: Sequence[str]
) -> dict[str, tuple[Tensor, Tensor]]:
    """The estimates with an upper octave, made in several ways: audio `[B, S, T]` and complex spectra `[B, S, F, Q]`.

    Args:
        model: whose network of the upper octave is used if there is one.
        mixture: `[B, T]` at the full rate.
        estimates: `[B, S, T]` at the full rate, with nothing in the upper octave.
        ways: some of `HEURISTICS`, and "network" if the model has one.
    """
    transform = full_rate_transform(model)
    whole, own = transform(mixture), transform(estimates)
    middle = whole.shape[-1] // 2
    found = {}
    for name in ways:
        upper = model.upper(whole, own) if name == "network" and model.upper else heuristic(whole, own, name)
        spectrum = torch.cat([own[..., : middle + 1], upper], dim=-1)
        found[name] = (transform.inverse(spectrum, mixture.shape[-1]), spectrum)
    return found


def full_rate_transform(model: Separator) -> Transform:
    """The transform at twice the separator's rate, whose lower half has the positions of the separator's own."""
    return Transform(2 * model.config.n_fft, 2 * model.config.hop_length)


def evaluate(model: Separator, data: Mixtures, config: SeparationConfig) -> dict[str, Any]:
    """Scores on the test's mixtures.

    Returns:
        `si_sdr`, `si_sdri` (its improvement over the mixture), `usdr` and museval's `csdr`, `isr`, `sir` and `sar`,
        means over sources and mixtures, in dB; the same for each source under `sources`; `seconds_per_second` of
        processor time for a second of audio. For a separator at 8 kHz, scores are those at 8 kHz, and `upper` has, for
        each way to make the upper octave, `si_sdr` at 16 kHz and `magnitude_snr` from 4 to 8 kHz.
    """
    by_source: dict[str, list[Scores]] = {name: [] for name in config.sources}
    upper: dict[str, list[Scores]] = {}
    spent = heard = 0.0
    is_half = model.config.sample_rate < data.sample_rate
    model.eval()
    with torch.inference_mode():
        for drawn in data.test():
            full = torch.from_numpy(drawn)
            sources = halve(full) if is_half else full
            mixture = sources.sum(0, keepdim=True)
            start = time.process_time()
            estimates = separated(model, mixture, config)[0]
            spent += time.process_time() - start
            heard += mixture.shape[-1] / model.config.sample_rate
            rows = scores(estimates.numpy(), sources.numpy(), model.config.sample_rate)
            for name, row in zip(config.sources, rows, strict=True):
                by_source[name].append(row)
            if is_half:
                for way, row in upper_scores(model, full, double(estimates)).items():
                    upper.setdefault(way, []).append(row)
    model.train()
    sources_means = {name: means(rows) for name, rows in by_source.items()}
    found: dict[str, Any] = {
        key: float(np.mean([row[key] for row in sources_means.values()])) for key in next(iter(sources_means.values()))
    }
    found |= {"seconds_per_second": spent / heard, "mixtures": len(next(iter(by_source.values())))}
    found["sources"] = sources_means
    if upper:
        found["upper"] = {way: means(rows) for way, rows in upper.items()}
    return found


def scores(estimates: NDArray[np.float32], sources: NDArray[np.float32], sample_rate: int) -> list[Scores]:
    """The scores of each source of one mixture, which is the sum of `sources` `[S, T]`."""
    mixture = sources.sum(0)
    by_museval = museval_scores(estimates, sources, sample_rate)
    rows = []
    for number, (estimate, source) in enumerate(zip(estimates, sources, strict=True)):
        own = si_sdr(estimate, source)
        row = {"si_sdr": own, "si_sdri": own - si_sdr(mixture, source), "usdr": usdr(estimate, source)}
        row |= {"csdr" if name == "sdr" else name: float(by_museval[name][number]) for name in MUSEVAL}
        rows.append(row)
    return rows


def upper_scores(model: Separator, sources: Tensor, estimates: Tensor) -> dict[str, Scores]:
    """Scores at the full rate for each way to make the upper octave.

    Args:
        model: at half of the full rate.
        sources: `[S, T]` at the full rate.
        estimates: `[S, T]` at the full rate, with nothing in the upper octave.
    """
    wanted = full_rate_transform(model)(sources).numpy()
    middle = wanted.shape[-1] // 2
    found = {}
    ways = (*HEURISTICS, "network") if model.upper else HEURISTICS
    for way, (audio, spectrum) in upper_bands(model, sources.sum(0, keepdim=True), estimates[None], ways).items():
        pairs = range(len(sources))
        found[way] = {
            "si_sdr": float(np.mean([si_sdr(audio[0, n].numpy(), sources[n].numpy()) for n in pairs])),
            "magnitude_snr": float(
                np.mean([magnitude_snr(spectrum[0, n].numpy(), wanted[n], middle + 1) for n in pairs])
            ),
        }
    return found


def means(rows: list[Scores]) -> Scores:
    """The mean of each score over mixtures; museval's undefined values are left out."""
    return {key: float(np.nanmean([row[key] for row in rows])) for key in rows[0]}
