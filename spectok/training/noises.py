"""Noises that are computed, for training where recordings are few: coloured noise, bursts of it, and simple music."""

import numpy as np
from numpy.typing import NDArray

OVERTONES = 12  # of a note, at most
SCALE = (0, 2, 4, 5, 7, 9, 11)  # semitones of the notes of a key above its root


def coloured(samples: int, slope: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Noise whose power is proportional to frequency to the power of `slope`, `[samples]`: 0 is white, -1 is pink."""
    length = fast_length(samples)
    spectrum = np.fft.rfft(rng.standard_normal(length))
    spectrum *= np.maximum(np.arange(len(spectrum)), 1) ** (slope / 2)
    return _at_unit_level(np.fft.irfft(spectrum, n=length)[:samples])


def bursts(samples: int, sample_rate: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Noise in a random band whose level changes at random, `[samples]`: rustling, traffic, engines, footsteps.

    The band has smooth edges and is between an octave and all of the spectrum wide. The level in decibels is linear
    between random points, which are from 30 ms to a second apart.
    """
    length = fast_length(samples)
    frequencies = np.maximum(np.fft.rfftfreq(length, 1 / sample_rate), 1.0)
    low, octaves = 60.0 * 2 ** rng.uniform(0, 5), rng.uniform(1, 7)
    beyond = np.maximum(np.log2(low / frequencies), np.log2(frequencies / low) - octaves)  # octaves outside of the band
    gain = 10 ** (-rng.uniform(6, 24) * np.maximum(beyond, 0) / 20) * frequencies ** (rng.uniform(-1, 1) / 2)
    noise = np.fft.irfft(np.fft.rfft(rng.standard_normal(length)) * gain, n=length)[:samples]
    spacing = sample_rate * 0.03 * 33 ** rng.random()
    points = np.arange(0, samples + spacing, spacing)
    decibels = np.interp(np.arange(samples), points, rng.uniform(-rng.uniform(3, 40), 0, len(points)))
    return _at_unit_level(noise * 10 ** (decibels / 20))


def music(samples: int, sample_rate: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Chords and drums at a random tempo, `[samples]`: one to four notes of a key on every beat, with overtones."""
    mix = np.zeros(samples)
    beat = int(sample_rate * rng.uniform(0.15, 0.8))
    root = 55.0 * 2 ** rng.uniform(0, 2)
    voices, sustain = int(rng.integers(1, 5)), rng.uniform(0.5, 3)
    slope, drums = rng.uniform(-2, -0.5), rng.uniform(0, 1) * (rng.random() < 0.6)
    attack = sample_rate * 0.002 * 40 ** rng.random()
    for start in range(-int(rng.integers(beat)), samples, beat):
        length = min(samples - max(start, 0), int(beat * sustain))
        if length < 2:
            continue
        time = np.arange(length)
        envelope = np.minimum(time / attack, 1) * np.exp(-time / (length * rng.uniform(0.2, 2)))
        for _ in range(voices):
            semitones = 12 * int(rng.integers(0, 4)) + SCALE[int(rng.integers(len(SCALE)))]
            pitch = root * 2 ** (semitones / 12)
            number = np.arange(1, max(2, min(OVERTONES + 1, int(sample_rate / 2 / pitch))))
            weights = number**slope * rng.uniform(0.3, 1, len(number))
            phases = rng.uniform(0, 2 * np.pi, len(number))
            turns = np.exp(2j * np.pi * pitch / sample_rate * time)  # overtones are powers of this
            tone, power = np.zeros(length), np.ones(length, complex)
            for weight, phase in zip(weights, phases, strict=True):
                power = power * turns
                tone += (weight * np.exp(1j * phase) * power).real
            mix[max(start, 0) : max(start, 0) + length] += envelope * tone
        if drums:
            stroke = min(length, beat // 2)
            mix[max(start, 0) : max(start, 0) + stroke] += (
                drums * coloured(stroke, rng.uniform(-2, 1), rng) * np.exp(-np.arange(stroke) / (beat * 0.05))
            )
    return _at_unit_level(mix)


def fast_length(samples: int) -> int:
    """The next power of two, for which the transform is fast."""
    return 1 << (samples - 1).bit_length()


def _at_unit_level(audio: NDArray[np.float64]) -> NDArray[np.float32]:
    scaled: NDArray[np.float32] = (audio / max(float(np.sqrt(np.square(audio).mean())), 1e-9)).astype(np.float32)
    return scaled
