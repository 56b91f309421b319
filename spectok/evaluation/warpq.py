"""WARP-Q, a distance of decoded speech from its original, made for neural codecs (W. Jassim et al., ICASSP 2021).

Parts of the decoded speech are compared with those parts of the original that fit them best, by dynamic time warping of
cepstra, so that small shifts in time do not count. The settings are the defaults of the authors' package warpq 1.5.2,
whose scores this module reproduces; that package itself does not run with NumPy 2.
"""

import math
import warnings
from typing import Any

import librosa
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d

from spectok.evaluation.metrics import SAMPLE_RATE

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it imports pkg_resources, which is deprecated
    import webrtcvad

WINDOW, HOP, N_FFT = 512, 64, 1024  # samples
COEFFICIENTS, LIFTER, HIGHEST = 13, 3, 5000  # the last in Hz
PATCH, PATCH_HOP = 92, 42  # frames of about 0.4 and 0.2 s
NORMALISED = 201  # frames over which mean and deviation of the cepstra are taken
STEPS = np.array([[1, 0], [0, 3], [1, 3]])  # of the warping, in frames of the decoded and of the original speech
VOICE_FRAME = 480  # samples for each decision about voice activity
SHORTEST = 0.4  # s of speech

Audio = NDArray[np.floating[Any]]


def warpq(original: Audio, decoded: Audio) -> float:
    """The raw score of WARP-Q for a pair of [T] at 16 kHz: lower is better, and a copy has about 0.6.

    NaN if either has less than 0.4 s of speech.
    """
    spoken = [_speech(audio) for audio in (original, decoded)]
    if min(map(len, spoken)) < SHORTEST * SAMPLE_RATE:
        return math.nan
    reference, heard = map(_cepstra, spoken)
    costs = [
        _distance(heard[:, start : start + PATCH], reference)
        for start in range(0, heard.shape[1] - PATCH + 1, PATCH_HOP)
    ]
    return float(np.median(costs)) if costs else math.nan


def _speech(audio: Audio) -> Audio:
    """The samples with voice activity, and those of one frame before and after."""
    whole = np.pad(audio, (0, VOICE_FRAME - len(audio) % VOICE_FRAME))
    samples = (np.clip(whole, -1.0, 32767 / 32768) * 32768).astype("<i2").reshape(-1, VOICE_FRAME)
    detector = webrtcvad.Vad(0)
    active = np.array([detector.is_speech(frame.tobytes(), SAMPLE_RATE) for frame in samples], float)
    near = np.convolve(active, np.ones(3), mode="same") > 0
    return audio[np.repeat(near, VOICE_FRAME)[: len(audio)]]


def _cepstra(audio: Audio) -> NDArray[np.float64]:
    """Mel-frequency cepstra [coefficients, frames], each with local mean 0 and local standard deviation 1."""
    found = librosa.feature.mfcc(
        y=np.asarray(audio, np.float32),
        sr=SAMPLE_RATE,
        n_mfcc=COEFFICIENTS,
        fmax=HIGHEST,
        n_fft=N_FFT,
        win_length=WINDOW,
        hop_length=HOP,
        lifter=LIFTER,
    ).astype(np.float64)
    centred = found - uniform_filter1d(found, NORMALISED, mode="reflect")
    mean, square = (uniform_filter1d(values, NORMALISED, mode="reflect") for values in (centred, centred**2))
    scaled: NDArray[np.float64] = centred / (np.sqrt(np.maximum(square - mean**2, 0.0)) + 2.0**-30)
    return scaled


def _distance(patch: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """The mean distance of a patch from the part of the reference that fits it best."""
    total = librosa.sequence.dtw(
        X=patch, Y=reference, step_sizes_sigma=STEPS, weights_mul=np.ones(3), subseq=True, backtrack=False
    )
    return float(total[-1].min()) / len(total)
