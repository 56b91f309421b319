"""Metrics that compare decoded speech with its original.

Conventions: every metric takes `original` and `decoded`, both mono [T] at 16 kHz in [-1, 1], of equal length and
aligned. A metric is NaN if it is undefined for the original (silent, or too short), which does not depend on the codec.
If it is undefined only for the decoded audio, the result is the bottom of the scale, so that a codec gains nothing by
returning silence. `interval` ignores NaN and returns the number of other values.
"""

import contextlib
import functools
import logging
import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pystoi import stoi as pystoi_stoi
from scipy.special import stdtrit

try:
    from pesq import PesqError, pesq
except ModuleNotFoundError:
    pesq = None  # the package is C code, and installing it needs a compiler

SAMPLE_RATE = 16000
NO_PESQ = "PESQ is left out: pip install 'spectok[pesq]', which needs a C compiler"

# The C code of `pesq` has room for 50 utterances and writes beyond its arrays if there are more. An utterance and the
# pause after it take at least 0.2 s each, so 20 s cannot contain more than 50.
PESQ_PIECE_SECONDS = 20
PESQ_FLOOR = 1.0
STOI_MIN_SAMPLES = 6349  # 30 frames of 256 samples every 128, at 10 kHz
SI_SDR_LIMIT_DB = 100.0
LEVEL_LIMIT_DB = 100.0
OVERSHOOT_N_FFT, OVERSHOOT_RANGE_DB = 512, 60.0
MEL_SCALES = ((128, 10), (256, 20), (512, 40), (1024, 80), (2048, 160))  # (n_fft, n_mels)
MEL_FLOOR = 1e-5

Audio = npt.NDArray[np.floating[Any]]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Summary:
    """A mean, half the width of its 95 % confidence interval, and the number of values behind both."""

    mean: float
    half_width_95: float
    n: int

    def as_dict(self) -> dict[str, Any]:
        """The three numbers by their names."""
        return asdict(self)


@dataclass(frozen=True)
class CodebookUse:
    """Share of the entries that are used at least once, and entropy divided by log2(size); both from 0 to 1."""

    used: float
    entropy: float


def _checked(original: Audio, decoded: Audio) -> tuple[Audio, Audio]:
    original, decoded = np.asarray(original, np.float64), np.asarray(decoded, np.float64)
    if original.ndim != 1 or original.shape != decoded.shape:
        raise ValueError(
            f"original and decoded must be [T] of one length, not {list(original.shape)} and {list(decoded.shape)}"
        )
    if not (np.isfinite(original).all() and np.isfinite(decoded).all()):
        raise ValueError("audio to be scored has values that are not finite")
    return original, decoded


def pesq_wb(original: Audio, decoded: Audio) -> float:
    """Wide-band PESQ: ITU-T P.862.2 MOS-LQO (Rix et al., ICASSP 2001), as computed by the `pesq` package.

    PESQ aligns level and time itself. It was made for 8 to 30 s of speech; audio over 20 s is scored as the mean over
    equal pieces of at most 20 s. NaN if the original contains no utterance or is shorter than 0.25 s; 1.0, the bottom
    of the scale, if PESQ fails only because of the decoded audio. NaN if the package `pesq` is not installed.

    Raises:
        ValueError: the arrays are not one-dimensional, finite and of equal length.
    """
    original, decoded = _checked(original, decoded)
    if pesq is None:
        return math.nan
    pieces = max(1, math.ceil(len(original) / (PESQ_PIECE_SECONDS * SAMPLE_RATE)))
    pairs = zip(np.array_split(original, pieces), np.array_split(decoded, pieces), strict=True)
    scores = [score for score in (_pesq_piece(*pair) for pair in pairs) if not math.isnan(score)]
    return float(np.mean(scores)) if scores else math.nan


def _pesq_piece(original: Audio, decoded: Audio) -> float:
    if not original.any():
        return math.nan
    if decoded.any():
        with contextlib.suppress(PesqError, ValueError):
            return float(pesq(SAMPLE_RATE, original, decoded, "wb"))
    try:
        pesq(SAMPLE_RATE, original, original, "wb")
    except (PesqError, ValueError):
        return math.nan
    return PESQ_FLOOR


def stoi(original: Audio, decoded: Audio, extended: bool = False) -> float:
    """Short-time objective intelligibility (Taal et al., TASLP 2011), or ESTOI (Jensen and Taal, TASLP 2016).

    Computed by `pystoi` at 10 kHz on the frames of the original within 40 dB of its loudest frame. It does not align
    time: a codec's delay must be removed before. NaN if the original is silent or has fewer than 30 such frames (0.4
    s); 0 if only the decoded audio is silent.

    Raises:
        ValueError: the arrays are not one-dimensional, finite and of equal length.
    """
    original, decoded = _checked(original, decoded)
    if len(original) < STOI_MIN_SAMPLES or not original.any():
        return math.nan
    if not decoded.any():
        return 0.0
    state = np.random.get_state()  # ESTOI adds noise of 1e-16 from numpy's global generator
    np.random.seed(0)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Not enough STFT frames", category=RuntimeWarning)
            return float(pystoi_stoi(original, decoded, SAMPLE_RATE, extended=extended))
    except RuntimeWarning:
        return math.nan
    finally:
        np.random.set_state(state)


def si_sdr(original: Audio, decoded: Audio) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al., ICASSP 2019); means are removed first.

    The ratio of the energies of the decoded audio's projection on the original and of the rest, limited to +-100 dB. It
    is -100 if the decoded audio is silent, and NaN if the original is silent.

    Raises:
        ValueError: the arrays are not one-dimensional, finite and of equal length.
    """
    original, decoded = _checked(original, decoded)
    if not original.size or not (original - original.mean()).any():
        return math.nan
    original, decoded = original - original.mean(), decoded - decoded.mean()
    target = (decoded @ original) / (original @ original) * original
    signal, distortion = float(target @ target), float((decoded - target) @ (decoded - target))
    if signal == 0.0:
        return -SI_SDR_LIMIT_DB
    if distortion == 0.0:
        return SI_SDR_LIMIT_DB
    return float(np.clip(10.0 * math.log10(signal / distortion), -SI_SDR_LIMIT_DB, SI_SDR_LIMIT_DB))


def level_db(original: Audio, decoded: Audio) -> float:
    """The level of the decoded audio relative to the original in dB, within +-100; NaN if the original is silent.

    Raises:
        ValueError: the arrays are not one-dimensional, finite and of equal length.
    """
    original, decoded = _checked(original, decoded)
    if not original.any():
        return math.nan
    ratio = max(float(decoded @ decoded) / float(original @ original), 10 ** (-LEVEL_LIMIT_DB / 10))
    return min(LEVEL_LIMIT_DB, 10 * math.log10(ratio))


def overshoot_db(original: Audio, decoded: Audio) -> float:
    """Excess of the decoded magnitude spectrum |D| over the original's |O|: mean of max(0, 20 log10 |D| / |O|) in dB.

    The mean is over the original's bins within 60 dB of its loudest, in Hann windows of 512 samples every 128. A
    spectrum that is too quiet everywhere has no overshoot, so compare the level too. NaN if the original is silent.

    Raises:
        ValueError: the arrays are not one-dimensional, finite and of equal length.
    """
    original, decoded = _checked(original, decoded)
    magnitudes = [_magnitudes(audio, OVERSHOOT_N_FFT) for audio in (original, decoded)]
    heard = magnitudes[0] > magnitudes[0].max(initial=0.0) * 10 ** (-OVERSHOOT_RANGE_DB / 20)
    if not heard.any():
        return math.nan
    ratio = magnitudes[1][heard] / magnitudes[0][heard]
    return float(20 * np.log10(np.maximum(ratio, 1.0)).mean())


def _magnitudes(audio: Audio, n_fft: int) -> Audio:
    """[frames, n_fft // 2 + 1], with n_fft / 2 zeros on both sides, a Hann window of sum 1 and a hop of n_fft / 4."""
    window = np.hanning(n_fft + 1)[:-1]
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(audio, n_fft // 2), n_fft)[:: n_fft // 4]
    magnitudes: Audio = np.abs(np.fft.rfft(frames * window, axis=-1)) / window.sum()
    return magnitudes


@functools.cache
def mel_filters(n_fft: int, n_mels: int) -> Audio:
    """[n_mels, n_fft // 2 + 1] triangles of peak 1, evenly spaced from 0 to 8 kHz on the HTK mel scale."""
    top = 2595.0 * math.log10(1.0 + SAMPLE_RATE / 2 / 700.0)
    edges = 700.0 * (10.0 ** (np.linspace(0.0, top, n_mels + 2) / 2595.0) - 1.0)
    bins = np.arange(n_fft // 2 + 1) * SAMPLE_RATE / n_fft
    lower, centre, upper = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (bins - lower) / (centre - lower), (upper - bins) / (upper - centre)
    return np.maximum(0.0, np.minimum(rising, falling))


def _log_mel(audio: Audio, n_fft: int, n_mels: int) -> Audio:
    return np.log(np.maximum(_magnitudes(audio, n_fft) @ mel_filters(n_fft, n_mels).T, MEL_FLOOR))


def mel_distance(original: Audio, decoded: Audio) -> float:
    """Mean absolute difference of natural-log mel magnitude spectra, averaged over five scales; 0 is best.

    A scale is (n_fft, n_mels) = (128, 10), (256, 20), (512, 40), (1024, 80) or (2048, 160): zero padding of n_fft / 2
    on both sides, a periodic Hann window divided by its sum, a hop of n_fft / 4, triangular HTK mel filters of peak 1
    from 0 to 8 kHz, mel magnitudes of at least 1e-5. After the multi-scale mel loss of Kumar et al. (NeurIPS 2023). A
    gain of two is a distance of 0.69. It is defined for silence, and NaN only without samples.

    Raises:
        ValueError: the arrays are not one-dimensional, finite and of equal length.
    """
    original, decoded = _checked(original, decoded)
    if not original.size:
        return math.nan
    return float(
        np.mean([np.abs(_log_mel(original, *scale) - _log_mel(decoded, *scale)).mean() for scale in MEL_SCALES])
    )


def has_pesq() -> bool:
    """Whether PESQ can be computed; if not, this logs what is missing."""
    if pesq is None:
        logger.warning(NO_PESQ)
    return pesq is not None


def score(original: Audio, decoded: Audio) -> dict[str, float]:
    """Every metric of `SCORED` (catalogue.py) by its name, for one pair of [T] at 16 kHz.

    Raises:
        ValueError: the arrays are not one-dimensional, finite and of equal length.
    """
    return {
        "pesq": pesq_wb(original, decoded),
        "stoi": stoi(original, decoded),
        "estoi": stoi(original, decoded, extended=True),
        "si_sdr": si_sdr(original, decoded),
        "level_db": level_db(original, decoded),
        "overshoot_db": overshoot_db(original, decoded),
        "mel_distance": mel_distance(original, decoded),
    }


def interval(values: npt.ArrayLike) -> Summary:
    """Mean of the values that are not NaN and its 95 % interval by Student's t with n - 1 degrees of freedom.

    The mean is NaN for n = 0, the half width for n < 2.
    """
    kept = np.asarray(values, np.float64).ravel()
    kept = kept[~np.isnan(kept)]
    n = len(kept)
    if n < 2:
        return Summary(float(kept[0]) if n else math.nan, math.nan, n)
    half_width = float(stdtrit(n - 1, 0.975)) * float(kept.std(ddof=1)) / math.sqrt(n)
    return Summary(float(kept.mean()), half_width, n)


def jackknife(whole: float, left_out: Sequence[float]) -> Summary:
    """A statistic of all n files with its 95 % interval, from its values with each file left out in turn.

    The jackknife's standard error, sqrt((n - 1) / n * sum of squares of the left-out values about their mean), times
    Student's t with n - 1 degrees of freedom (Efron and Stein, 1981). The half width is NaN for n < 2.
    """
    values, n = np.asarray(left_out, np.float64), len(left_out)
    if n < 2:
        return Summary(whole, math.nan, n)
    error = math.sqrt((n - 1) / n * float(np.square(values - values.mean()).sum()))
    return Summary(whole, float(stdtrit(n - 1, 0.975)) * error, n)


def codebook_use(histogram: npt.ArrayLike) -> CodebookUse:
    """Share of used entries and normalised entropy, H / log2(size), from the counts [size] of a codebook's entries.

    The entropy is that of the relative frequencies; with few tokens per entry this estimate is too low. Both are NaN if
    all counts are 0.

    Raises:
        ValueError: the histogram is not [size] with a size of at least 2, or a count is negative.
    """
    counts = np.asarray(histogram, np.float64)
    if counts.ndim != 1 or len(counts) < 2 or (counts < 0).any():
        raise ValueError(f"a histogram must be [size] of counts, size at least 2, not {list(counts.shape)}")
    if not counts.any():
        return CodebookUse(math.nan, math.nan)
    shares = counts[counts > 0] / counts.sum()
    return CodebookUse(len(shares) / len(counts), abs(float((shares * np.log2(shares)).sum())) / math.log2(len(counts)))
