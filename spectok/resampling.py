"""Resamples audio: whole, or in chunks as it arrives. No other module uses soxr.

x = resample(audio, rate, 16000)                          # ceil(T * 16000 / rate) samples
y = restore(x, 16000, rate, len(audio))                   # exactly len(audio) samples
"""

import functools
import math
from typing import Any

import numpy as np
import soxr

from spectok.errors import InputError, require
from spectok.samples import check_audio, check_sample_rate

# By the rates of input and output in Hz: after so many input samples soxr is in the same state again, except for the
# samples in its filters. They are measured; tests/test_audio.py checks them.
PERIODS = {
    (8000, 16000): 830,
    (11025, 16000): 361_620,
    (22050, 16000): 109_368,
    (24000, 16000): 2202,
    (32000, 16000): 1660,
    (44100, 16000): 218_736,
    (48000, 16000): 4404,
    (96000, 16000): 20_928,
    (16000, 8000): 1660,
    (16000, 11025): 46_720,
    (16000, 22050): 13_120,
    (16000, 24000): 1468,
    (16000, 32000): 830,
    (16000, 44100): 6560,
    (16000, 48000): 1468,
    (16000, 96000): 401_120,
}
MAX_REPLAY = 24 * 3600  # seconds of a stream that `restore` may resample again: less than a minute of one core


def resample(audio: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """Resample with soxr in high quality, without delay.

    Args:
        audio: `[T]`, as `check_audio` accepts it.
        from_rate: its sample rate in Hz.
        to_rate: the wanted sample rate in Hz.

    Returns:
        Float32 `[ceil(T * to_rate / from_rate)]`. Resampling back never returns fewer than T samples; `restore` cuts
        the extra ones.

    Raises:
        InputError: as for `check_audio`, or a sample rate is out of range.
    """
    array = check_audio(audio)
    from_rate, to_rate = check_sample_rate(from_rate), check_sample_rate(to_rate)
    if from_rate == to_rate:
        return array
    length = -(-len(array) * to_rate // from_rate)
    # soxr rounds the output length; one more output sample of silence at the end makes it at least `length`.
    padded = np.pad(array, (0, -(-from_rate // to_rate)))
    return fit_length(soxr.resample(padded, from_rate, to_rate, quality="HQ"), length)


class StreamResampler:
    """Resamples audio that arrives in chunks. The joined outputs equal those of `resample`, sample for sample.

    At any point before the end it can be copied and pickled, or another one can continue from its `arrays`, with the
    same output, bit for bit. As the state of soxr cannot be read, a new soxr stream is brought into the same state: it
    gets as many input samples as the old one, of which the last are the same, and zeros before them; earlier samples
    have left the filters. That takes about half a millisecond for each second of the stream, and more above 48 kHz.
    Between the rates in `PERIODS` whole periods are left out, so that it takes less than 0.1 s of one core.

    Args:
        from_rate: sample rate of the input in Hz.
        to_rate: sample rate of the output in Hz.
        rows: number of signals that are resampled in parallel.
    """

    def __init__(self, from_rate: int, to_rate: int, rows: int) -> None:
        self.from_rate, self.to_rate, self.rows = from_rate, to_rate, rows
        self._stream = self._new_stream()
        # Three times the largest lag is more than the filters hold: 22 kB for a signal from 48 to 16 kHz, and at most
        # 200 kB from any rate to 16 kHz.
        self._recent = np.zeros((rows, math.ceil(3 * resampling_delay(from_rate, to_rate) * from_rate)), np.float32)
        self._pushed = self._returned = 0  # samples

    def push(self, audio: np.ndarray) -> np.ndarray:
        """Resample a chunk, floats `[rows, T]`; returns float32 `[rows, T']`, where T' is often 0 and then large."""
        audio, size = audio.astype(np.float32, copy=False), self._recent.shape[1]
        self._recent = np.concatenate([self._recent, audio[:, -size:]], axis=1)[:, -size:]
        self._pushed += audio.shape[1]
        return self._step(audio, last=False)

    def flush(self) -> np.ndarray:
        """Return the end of the signals, `[rows, T']`; nothing can be pushed afterwards."""
        length = -(-self._pushed * self.to_rate // self.from_rate) - self._returned
        # Silence of one output sample, as in `resample`.
        end = np.zeros((self.rows, -(-self.from_rate // self.to_rate) if self._pushed else 0), np.float32)
        return fit_length(self._step(end, last=True), length)

    def arrays(self) -> dict[str, np.ndarray]:
        """What another resampler of the same rates and rows needs to continue: the arguments of `continue_from`."""
        return {"recent": self._recent.copy(), "counts": np.array([self._pushed, self._returned], np.int64)}

    def continue_from(self, recent: np.ndarray, counts: np.ndarray) -> None:
        """Continue the signals of the resampler whose `arrays` these are.

        Args:
            recent: the last input samples, float32 `[rows, S]`, zeros before the start of the signals.
            counts: the numbers of samples that were pushed and that were returned, int64 `[2]`.

        Raises:
            InputError: no resampler of these rates has returned so many samples by then, or over 24 hours would have to
                be resampled again. This one is then unchanged.
        """
        pushed, returned = counts.tolist()
        rates = f"{self.from_rate} to {self.to_rate} Hz"
        message = f"of {pushed} samples that are resampled from {rates}, {returned} cannot have been returned"
        lag = pushed / self.from_rate - returned / self.to_rate
        require(returned >= 0 and 0 <= lag < 2 * resampling_delay(self.from_rate, self.to_rate), message)
        size, period = recent.shape[1], PERIODS.get((self.from_rate, self.to_rate), pushed + 1)
        shortest = min(pushed, size + (pushed - size) % period)
        for length in sorted({shortest, pushed}):  # all of it if another version of soxr has another period
            too_long = f"a stream that is resampled from {rates} cannot be continued after over 24 hours"
            require(length <= MAX_REPLAY * self.from_rate, too_long)
            stream, known = self._new_stream(), min(size, length)
            zeros = np.zeros((self.from_rate, self.rows), np.float32)
            parts = [zeros[:left] for left in range(length - known, 0, -self.from_rate)]
            parts.append(np.ascontiguousarray(recent[:, size - known :].T))
            given = sum(len(stream.resample_chunk(part)) for part in parts)
            if given == returned - (pushed - length) * self.to_rate // self.from_rate:
                self._stream, self._recent, self._pushed, self._returned = stream, recent, pushed, returned
                return
        raise InputError(message)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_stream"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.continue_from(**self.arrays())

    def _new_stream(self) -> Any:
        return soxr.ResampleStream(self.from_rate, self.to_rate, self.rows, dtype="float32", quality="HQ")

    def _step(self, audio: np.ndarray, last: bool) -> np.ndarray:
        output = self._stream.resample_chunk(np.ascontiguousarray(audio.T), last)
        self._returned += len(output)
        return np.ascontiguousarray(output.T)


@functools.cache
def resampling_delay(from_rate: int, to_rate: int) -> float:
    """The largest lag of a `StreamResampler`'s output behind its input, in seconds, measured over 1 s of silence.

    soxr works in blocks, so the lag grows until a block is complete.
    """
    stream, step, worst = soxr.ResampleStream(from_rate, to_rate, 1, quality="HQ"), max(1, from_rate // 1000), 0.0
    silence, returned = np.zeros((step, 1), np.float32), 0
    for steps in range(1, 1001):
        returned_before, returned = returned, returned + len(stream.resample_chunk(silence))
        worst = max(worst, steps * step / from_rate - returned_before / to_rate)
    return worst


def fit_length(audio: np.ndarray, length: int) -> np.ndarray:
    """Cut the end of `[..., T]`, or append zeros, so that the result is `[..., length]`."""
    missing = length - audio.shape[-1]
    if missing <= 0:
        return audio[..., :length]
    return np.pad(audio, [(0, 0)] * (audio.ndim - 1) + [(0, missing)])


def restore(audio: np.ndarray, from_rate: int, to_rate: int, length: int) -> np.ndarray:
    """Give decoded audio the sample rate and length of the original.

    Args:
        audio: `[T]`; samples after the original's end are cut off before resampling, so that they do not affect it.
        from_rate: its sample rate in Hz.
        to_rate: the original's sample rate in Hz.
        length: the original's number of samples.

    Returns:
        `[length]`; zeros at its end if `audio` is shorter than the original.

    Raises:
        InputError: as for `resample`.
    """
    audio = audio[: -(-length * from_rate // to_rate)]
    if len(audio) and from_rate != to_rate:
        audio = resample(audio, from_rate, to_rate)
    return fit_length(audio, length)


class StreamRestorer:
    """Gives decoded audio that arrives in blocks the sample rate and length of the original, as `restore` does.

    The length need not be known before the end. The last `held` samples are therefore held back: samples after the
    original's end must not reach the resampler.

    Args:
        from_rate: sample rate of the decoded audio in Hz.
        to_rate: the original's sample rate in Hz.
        held: more samples than follow the original's end, at `from_rate`.
    """

    def __init__(self, from_rate: int, to_rate: int, held: int) -> None:
        self.from_rate, self.to_rate = from_rate, to_rate
        self._held = held
        self._waiting = np.zeros(0, np.float32)
        self._pushed = self._returned = 0
        self._resampler = None if from_rate == to_rate else StreamResampler(from_rate, to_rate, 1)

    def push(self, audio: np.ndarray) -> np.ndarray:
        """Add decoded audio, float32 `[T]`; returns audio at the original's rate, `[T']`, T' often 0."""
        self._waiting = np.concatenate([self._waiting, audio])
        return self._step(max(0, len(self._waiting) - self._held))

    def flush(self, length: int) -> np.ndarray:
        """The rest of the audio, so that all of it has `length` samples; zeros if the decoded audio ended before."""
        before = self._returned
        end = self._step(max(0, -(-length * self.from_rate // self.to_rate) - self._pushed))
        if self._resampler is not None:
            end = np.concatenate([end, self._resampler.flush()[0]])
        return fit_length(end, max(0, length - before))

    def _step(self, count: int) -> np.ndarray:
        audio, self._waiting = self._waiting[:count], self._waiting[count:]
        self._pushed += len(audio)
        if self._resampler is not None:
            audio = self._resampler.push(audio[None])[0]
        self._returned += len(audio)
        return audio
