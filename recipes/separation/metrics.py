"""Metrics of separation: SI-SDR, uSDR, museval's SDR, SIR, ISR and SAR by second, and the SNR of magnitudes."""

import functools
import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from spectok.errors import InputError

Audio = NDArray[np.float32]
MUSEVAL = ("sdr", "isr", "sir", "sar")  # in the order in which museval returns them
TINY = 1e-8  # added to energies, as in MDX 2021's definition of uSDR


def si_sdr(estimate: Audio, source: Audio) -> float:
    """Scale-invariant SDR of audio `[T]` in dB (J. Le Roux et al., arXiv 1811.02508, equation 3, without a mean)."""
    estimate, source = estimate.astype(np.float64), source.astype(np.float64)
    target = source * (estimate @ source) / (source @ source + TINY)
    error = estimate - target
    return float(10 * np.log10((target @ target + TINY) / (error @ error + TINY)))


def usdr(estimate: Audio, source: Audio) -> float:
    """SDR of audio `[T]` in dB, the whole at once: `10 log10(|s|^2 / |s - e|^2)`.

    The SFC paper's uSDR is the mean of it over the songs (Y. Mitsufuji et al., "Music Demixing Challenge 2021",
    equation 1).
    """
    source = source.astype(np.float64)
    error = source - estimate
    return float(10 * np.log10((source @ source + TINY) / (error @ error + TINY)))


def museval_scores(estimates: Audio, sources: Audio, sample_rate: int) -> dict[str, NDArray[np.float64]]:
    """BSS Eval version 4 by museval: medians over the seconds of a recording, as in the SFC paper's cSDR.

    Args:
        estimates: audio `[S, T]`; no row may be all zeros.
        sources: audio `[S, T]`; no row may be all zeros.
        sample_rate: in Hz; a second is a frame.

    Returns:
        "sdr", "isr", "sir" and "sar" in dB, `[S]` each. NaN where no second has a value.

    Raises:
        InputError: museval is not installed.
    """
    values = museval_metrics().bss_eval(
        sources[..., None].astype(np.float64),
        estimates[..., None].astype(np.float64),
        window=sample_rate,
        hop=sample_rate,
        compute_permutation=False,
        filters_len=512,
        framewise_filters=False,
        bsseval_sources_version=False,
    )
    medians = {}
    for name, frames in zip(MUSEVAL, values, strict=False):
        kept = np.where(np.isfinite(frames), frames, np.nan)
        medians[name] = np.array([np.nanmedian(row) if np.isfinite(row).any() else np.nan for row in kept])
    return medians


@functools.cache
def museval_metrics() -> ModuleType:
    """The module `museval.metrics`, without the rest of the package, whose import needs ffmpeg to read stems.

    Raises:
        InputError: museval is not installed.
    """
    found = importlib.util.find_spec("museval")
    if found is None or not found.submodule_search_locations:
        raise InputError('cSDR needs museval: pip install -e ".[separation]"')
    path = Path(found.submodule_search_locations[0]) / "metrics.py"
    spec = importlib.util.spec_from_file_location("spectok_museval_metrics", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def magnitude_snr(estimate: NDArray[np.complexfloating], source: NDArray[np.complexfloating], first: int = 0) -> float:
    """SNR of the magnitudes of complex spectra `[F, Q]` from position `first` on, in dB; 0 for an estimate of zero."""
    wanted = np.abs(source[:, first:]).astype(np.float64)
    error = wanted - np.abs(estimate[:, first:])
    return float(10 * np.log10((np.square(wanted).sum() + TINY) / (np.square(error).sum() + TINY)))
