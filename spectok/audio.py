"""Reads, writes and resamples audio. No other module opens audio files (libsndfile) or resamples (soxr).

Conventions: audio is float32 in [-1, 1] and mono, `[T]`. Audio with channels is `[T, C]`, samples first, as libsndfile
returns it. Integer samples are divided by 2**(bits - 1), so 16-bit audio is read and written without loss. Floats
beyond 1, from a lossy format that overshoots or a float WAV, pass unchanged; only `write_audio` clips.

    x = resample(audio, rate, 16000)                          # ceil(T * 16000 / rate) samples
    y = restore(x, 16000, rate, len(audio))                   # exactly len(audio) samples
"""

import functools
import io
import logging
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from spectok.errors import InputError
from spectok.files import atomic_write, check_sample_rate, file_name, why

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif"})
WRITE_FORMATS = {".wav": "WAV", ".flac": "FLAC"}
MAX_PEAK = 16.0  # +24 dB: above any recording, and below integers that were cast to float without scaling
MAX_CHANNELS = 1024  # libsndfile's own limit; a larger C means that the array is [C, T]
BLOCK_LENGTH = 1 << 20  # samples read at a time; an allocation never has the size that a header claims

logger = logging.getLogger(__name__)
_mixed_notice_given = False


def check_audio(
    audio: Any, what: str = "the audio", *, dims: tuple[int, ...] = (1,), allow_empty: bool = False
) -> np.ndarray:
    """Check audio and convert it to float32. Integers are scaled to [-1, 1], floats keep their values.

    Args:
        audio: an array, or anything that numpy converts to one, with a number of axes listed in `dims`; of floats,
            int8, int16, int32 or uint8.
        what: what to call the audio in a message, such as the file's name.
        dims: the allowed numbers of axes.
        allow_empty: accept an array without samples.

    Returns:
        Float32 of the same shape; the same array if nothing had to be converted.

    Raises:
        InputError: the type or the number of axes is wrong, there are no samples, a sample is NaN or infinite, or the
            peak is over 16.
    """
    if (
        isinstance(audio, np.ndarray)
        and audio.dtype == np.float32
        and audio.ndim in dims
        and audio.size > 0
        and np.vdot(audio, audio) <= MAX_PEAK**2  # bounds every sample, and is False for NaN
    ):
        return audio  # this quick check keeps the cost of a live stream's chunk low
    try:
        array = np.asarray(audio)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{what} is not an array of samples") from error
    if array.ndim not in dims:
        allowed = " or ".join(str(n) for n in dims)
        raise InputError(
            f"{what} has shape {list(array.shape)}; expected {allowed} {'axis' if allowed == '1' else 'axes'}"
        )
    if array.size == 0:
        if allow_empty:
            return array.astype(np.float32)
        raise InputError(f"{what} holds no samples")
    if array.dtype == np.uint8:  # in an 8-bit WAV silence is 128
        return (array.astype(np.float32) - 128) / 128
    if array.dtype in (np.int8, np.int16, np.int32):
        return (array / 2.0 ** (8 * array.dtype.itemsize - 1)).astype(np.float32)
    if array.dtype.kind != "f":
        raise InputError(f"{what} has samples of type {array.dtype}; expected floats in [-1, 1], int16 or int32")
    peak = float(np.abs(array).max())
    if not np.isfinite(peak):
        raise InputError(f"{what} has samples that are not finite (NaN or infinity)")
    if peak > MAX_PEAK:
        raise InputError(
            f"{what} has a peak of {peak:.6g}; floats must be in [-1, 1] (16-bit integers are divided by 32768)"
        )
    return array.astype(np.float32, copy=False)


def to_mono(audio: Any, what: str = "the audio") -> np.ndarray:
    """Average the channels. The first call of a process that has channels to mix logs one warning.

    Args:
        audio: `[T]` or `[T, C]`, samples first, as soundfile reads it.
        what: what to call the audio in a message.

    Returns:
        Float32 `[T]`.

    Raises:
        InputError: as for `check_audio`; or there are over 1024 channels, as in an array that is `[C, T]` by mistake.
    """
    global _mixed_notice_given
    array = check_audio(audio, what, dims=(1, 2))
    if array.ndim == 1:
        return array
    channels = array.shape[1]
    if channels > MAX_CHANNELS:
        raise InputError(f"{what} has {channels} channels; expected the shape [samples, channels]")
    if channels == 1:
        return np.ascontiguousarray(array[:, 0])
    if not _mixed_notice_given:
        _mixed_notice_given = True
        logger.warning("mixed %d channels to mono", channels)
    mono: NDArray[np.float32] = array.mean(axis=1, dtype=np.float32)
    return mono


def _mend_wav(content: bytes) -> bytes:
    """Correct the header of a WAV whose writer left the data length 0: let the data extend to the end of the file."""
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        return content
    start = 12
    while start + 8 <= len(content):
        length = int.from_bytes(content[start + 4 : start + 8], "little")
        if content[start : start + 4] == b"data":
            riff_end = int.from_bytes(content[4:8], "little") + 8
            unfilled = riff_end in (8, 0xFFFFFFFF + 8) or riff_end <= start + 8
            if length == 0 and unfilled:
                return content[: start + 4] + b"\xff\xff\xff\xff" + content[start + 8 :]
            break
        start += 8 + length + length % 2
    return content


def _content(source: str | Path | BinaryIO, name: str) -> bytes:
    """All the bytes of a file or stream."""
    try:
        content = Path(source).read_bytes() if isinstance(source, str | os.PathLike) else source.read()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {name}: {why(error)}") from error
    if not isinstance(content, bytes):
        raise InputError(f"cannot read {name}: it is a stream of text, not of bytes")
    if not content:
        raise InputError(f"{name} is empty")
    return content


def _sound_file(source: str | io.BytesIO, name: str) -> soundfile.SoundFile:
    try:
        return soundfile.SoundFile(source)
    except (soundfile.LibsndfileError, TypeError, ValueError) as error:
        raise InputError(f"{name} is not an audio file of a known format") from error


def _open(source: str | Path | BinaryIO, name: str) -> soundfile.SoundFile:
    """Open a regular file by its path, and anything else (a stream, a pipe, a WAV with length 0) from memory."""
    if isinstance(source, str | os.PathLike) and os.path.isfile(source):
        try:
            with open(source, "rb") as stream:
                empty = not stream.read(1)
        except OSError as error:
            raise InputError(f"cannot read {name}: {why(error)}") from error
        if empty:
            raise InputError(f"{name} is empty")
        file = _sound_file(os.fspath(source), name)
        if file.frames:
            return file
        file.close()
    return _sound_file(io.BytesIO(_mend_wav(_content(source, name))), name)


def read_audio(source: str | Path | BinaryIO, sample_rate: int | None = None) -> tuple[np.ndarray, int]:
    """Read a file, or a stream to its end, as mono.

    Args:
        source: a path, or a binary stream (it need not seek, and a WAV's header may lack the length).
        sample_rate: in Hz; the audio is resampled to it. None keeps the file's own rate.

    Returns:
        Audio, float32 `[T]` with T > 0, and its sample rate in Hz.

    Raises:
        InputError: the file is missing, a folder, empty, not audio, cut off, or has no samples or some that are not
            finite.
    """
    name = file_name(source)
    blocks = []
    with _open(source, name) as file:
        rate = check_sample_rate(file.samplerate, name)
        try:
            while len(block := file.read(BLOCK_LENGTH, dtype="float32", always_2d=True)):
                blocks.append(to_mono(block, name))
        except soundfile.LibsndfileError as error:
            raise InputError(f"{name} is damaged or cut off") from error
    if not blocks:
        raise InputError(f"{name} holds no samples")
    audio = np.concatenate(blocks)
    if sample_rate is None:
        return audio, rate
    return resample(audio, rate, sample_rate), sample_rate


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

    Args:
        from_rate: sample rate of the input in Hz.
        to_rate: sample rate of the output in Hz.
        rows: number of signals that are resampled in parallel.
    """

    def __init__(self, from_rate: int, to_rate: int, rows: int) -> None:
        self.from_rate, self.to_rate, self.rows = from_rate, to_rate, rows
        self._stream = soxr.ResampleStream(from_rate, to_rate, rows, dtype="float32", quality="HQ")
        self._pushed = self._returned = 0  # samples

    def push(self, audio: np.ndarray) -> np.ndarray:
        """Resample a chunk, float32 `[rows, T]`; returns `[rows, T']`, where T' is often 0 and then large."""
        self._pushed += audio.shape[1]
        return self._step(audio, last=False)

    def flush(self) -> np.ndarray:
        """Return the end of the signals, `[rows, T']`; nothing can be pushed afterwards."""
        length = -(-self._pushed * self.to_rate // self.from_rate) - self._returned
        # Silence of one output sample, as in `resample`.
        end = np.zeros((self.rows, -(-self.from_rate // self.to_rate) if self._pushed else 0), np.float32)
        return fit_length(self._step(end, last=True), length)

    def _step(self, audio: np.ndarray, last: bool) -> np.ndarray:
        output = self._stream.resample_chunk(np.ascontiguousarray(audio.T, np.float32), last)
        self._returned += len(output)
        return np.ascontiguousarray(output.T)


@functools.cache
def resampling_delay(from_rate: int, to_rate: int) -> float:
    """The largest lag of a `StreamResampler`'s output behind its input, in seconds, measured over 1 s of silence.

    soxr works in blocks, so the lag grows until a block is complete.
    """
    resampler, step, worst = StreamResampler(from_rate, to_rate, 1), max(1, from_rate // 1000), 0.0
    silence, returned = np.zeros((1, step), np.float32), 0
    for steps in range(1, 1001):
        returned_before, returned = returned, returned + resampler.push(silence).shape[1]
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


def write_audio(destination: str | Path | BinaryIO, audio: Any, sample_rate: int) -> None:
    """Write 16-bit audio: WAV or FLAC by the path's suffix, WAV to a stream.

    If writing fails, the path keeps its earlier content.

    Args:
        destination: a path that ends in .wav or .flac, or a binary stream (it need not seek).
        audio: `[T]`, as `check_audio` accepts it; T may be 0. Samples over full scale are clipped.
        sample_rate: in Hz.

    Raises:
        InputError: the suffix is another one, the destination cannot be written, or the audio or the sample rate cannot
            be stored.
    """
    name = file_name(destination)
    array = check_audio(audio, allow_empty=True)
    rate = check_sample_rate(sample_rate)
    samples = np.clip(np.rint(array * np.float32(32768)), -32768, 32767).astype(np.int16)
    try:
        if not isinstance(destination, str | os.PathLike):
            buffer = io.BytesIO()
            soundfile.write(buffer, samples, rate, format="WAV", subtype="PCM_16")
            destination.write(buffer.getbuffer())
            return
        suffix = Path(destination).suffix.lower()
        if suffix not in WRITE_FORMATS:
            raise InputError(f"cannot write {name}: its name must end in {' or '.join(WRITE_FORMATS)}")
        with atomic_write(destination) as temporary:
            soundfile.write(os.fspath(temporary), samples, rate, format=WRITE_FORMATS[suffix], subtype="PCM_16")
    except soundfile.LibsndfileError as error:
        raise InputError(f"cannot write {name}: {error.error_string}") from error


def list_audio(folder: str | Path) -> list[Path]:
    """The audio files in a folder and its subfolders, recognised by suffix, sorted, without hidden files.

    Raises:
        InputError: the path is not a folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{folder} is not a folder")
    found = (path for path in root.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
    return sorted(path for path in found if path.is_file() and not path.name.startswith("."))
