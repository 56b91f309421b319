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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from spectok.errors import InputError
from spectok.files import atomic_write, check_sample_rate, file_name, open_binary, why
from spectok.schema import require
from spectok.wav import PcmFormat, read_wav_header, wav_header

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif"})
WRITE_FORMATS = {".wav": "WAV", ".flac": "FLAC"}
MAX_PEAK = 16.0  # +24 dB: above any recording, and below integers that were cast to float without scaling
MAX_CHANNELS = 1024  # libsndfile's own limit; a larger C means that the array is [C, T]
BLOCK_LENGTH = 1 << 17  # samples read from a file at a time; an allocation never has the size that a header claims
MP3_FRAME = 1152  # samples; some encoders' headers count silence that decoders leave out
BLOCK_BYTES = 1 << 16  # the most that is read from a stream at a time

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


class AudioReader:
    """Reads a file, or a stream as it arrives, as mono, block by block. Memory does not depend on the length.

    A stream that is a WAV of PCM samples, or raw, is read as it arrives. Any other stream is first read into memory.
    A WAV or an MP3 must hold as many samples as its header claims, unless the header is that of a stream whose length
    its writer did not know.

    Args:
        source: a path, or a binary stream (it need not seek), which stays open.
        raw_rate: None, or the sample rate in Hz of a source without a header: 16-bit little-endian mono samples.

    Raises:
        InputError: the file is missing, a folder, empty, or not audio.
    """

    def __init__(self, source: str | Path | BinaryIO, raw_rate: int | None = None) -> None:
        self.name = file_name(source)
        self.num_samples = 0  # read so far
        self._file: soundfile.SoundFile | None = None
        self._stream, self._owned = open_binary(source, "rb")
        self._format = PcmFormat(raw_rate or 0, 1, "PCM_16", None)
        try:
            if raw_rate is None:
                self._open(source)
            self.sample_rate = check_sample_rate(
                self._file.samplerate if self._file else self._format.sample_rate, self.name
            )
        except BaseException:
            self.close()
            raise

    def _open(self, source: str | Path | BinaryIO) -> None:
        """Find out what the source is: a file for libsndfile, or PCM samples that arrive."""
        if self._owned and os.path.isfile(os.fspath(cast(str, source))):
            if not self._read(1):
                raise InputError(f"{self.name} is empty")
            file = _sound_file(_library_path(cast(str, source)), self.name)
            self._stream.seek(0)
            if file.frames:
                self._file = file
                self._check_wav_length()
                return
            file.close()
        format, head = read_wav_header(self._read)
        if not head:
            raise InputError(f"{self.name} is empty")
        if format is None:
            pieces = [head]
            while piece := self._read(BLOCK_BYTES):
                pieces.append(piece)
            self._file = _sound_file(io.BytesIO(b"".join(pieces)), self.name)
        else:
            self._format = format

    def _check_wav_length(self) -> None:
        """Raise InputError if the file is a WAV that ends before the samples do that its header claims."""
        format, head = read_wav_header(self._read)
        if format is not None:
            held = os.fstat(self._stream.fileno()).st_size - len(head)
            self._check_length(format.claimed_samples, held // format.frame_bytes)

    def _check_length(self, claimed: int | None, held: int, tolerance: int = 0) -> None:
        require(
            claimed is None or held >= claimed - tolerance,
            f"{self.name} is cut off: its header claims {claimed} samples, but it holds {held}",
        )

    def _read(self, count: int) -> bytes:
        """At most `count` bytes, those that are there; none at the end."""
        try:
            data = getattr(self._stream, "read1", self._stream.read)(count)
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read {self.name}: {why(error)}") from error
        if not isinstance(data, bytes):
            raise InputError(f"cannot read {self.name}: it is a stream of text, not of bytes")
        return data

    @property
    def claimed_samples(self) -> int | None:
        """The number of samples that the header claims; None if it does not."""
        return self._file.frames if self._file else None

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield the blocks, float32 `[T]`, T > 0.

        Raises:
            InputError: the file is damaged or cut off, or has no samples or some that are not finite.
        """
        for block in self._file_blocks() if self._file else self._stream_blocks():
            mono = to_mono(block, self.name)
            self.num_samples += len(mono)
            yield mono
        if not self.num_samples:
            raise InputError(f"{self.name} holds no samples")

    def _file_blocks(self) -> Iterator[np.ndarray]:
        assert self._file is not None
        held = 0
        try:
            while len(block := self._file.read(BLOCK_LENGTH, dtype="float32", always_2d=True)):
                held += len(block)
                yield block
        except soundfile.LibsndfileError as error:
            raise InputError(f"{self.name} is damaged or cut off") from error
        if self._file.format == "MP3":  # libsndfile reports other formats' lengths as far as they are there
            self._check_length(self._file.frames, held, MP3_FRAME)

    def _stream_blocks(self) -> Iterator[np.ndarray]:
        rate, channels, subtype, left = self._format
        size, rest, held = self._format.frame_bytes, b"", 0
        while left != 0 and (data := self._read(BLOCK_BYTES if left is None else min(left, BLOCK_BYTES))):
            left = None if left is None else left - len(data)
            rest += data
            whole = len(rest) // size * size
            if whole:
                held += whole // size
                yield soundfile.read(
                    io.BytesIO(rest[:whole]), -1, 0, None, "float32", True, None, None, rate, channels, "RAW", subtype
                )[0]
                rest = rest[whole:]
        self._check_length(self._format.claimed_samples, held)
        while left == 0 and self._read(BLOCK_BYTES):  # chunks after the samples
            pass

    def close(self) -> None:
        """Close the file; a stream that was passed in stays open."""
        if self._file is not None:
            self._file.close()
        if self._owned:
            self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _library_path(path: str | Path) -> str | bytes:
    """A path as soundfile takes it: as bytes, because a name may not be text; on Windows every name is."""
    return os.fspath(path) if os.name == "nt" else os.fsencode(path)


def _sound_file(source: str | bytes | io.BytesIO, name: str) -> soundfile.SoundFile:
    try:
        return soundfile.SoundFile(source)
    except (soundfile.LibsndfileError, TypeError, ValueError) as error:
        raise InputError(f"{name} is not an audio file of a known format") from error


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
    with AudioReader(source) as reader:
        audio, rate = np.concatenate(list(reader)), reader.sample_rate
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


@contextmanager
def writing_audio(
    destination: str | Path | BinaryIO, sample_rate: int, num_samples: int | None = None, *, raw: bool = False
) -> Iterator[Callable[[Any], None]]:
    """Yield a function that writes the next block of 16-bit mono audio.

    The format is WAV or FLAC by the path's suffix, and WAV for a stream, to which each block is flushed. A path keeps
    its earlier content until the block of the `with` statement ends, and for good if that fails.

    Args:
        destination: a path that ends in .wav or .flac, or a binary stream (it need not seek).
        sample_rate: in Hz.
        num_samples: of the whole audio, for the header of a stream; None if it is not known.
        raw: write 16-bit little-endian samples without a header, to a path of any suffix or a stream.

    Raises:
        InputError: the suffix is another one, the destination cannot be written, or the audio or the sample rate cannot
            be stored.
    """
    name, rate = file_name(destination), check_sample_rate(sample_rate)
    if not isinstance(destination, str | os.PathLike):
        if not raw:
            destination.write(wav_header(rate, num_samples))
            destination.flush()

        def write_to_stream(audio: Any) -> None:
            destination.write(_to_int16(audio).astype("<i2").tobytes())
            destination.flush()

        yield write_to_stream
        return
    suffix = Path(destination).suffix.lower()
    if not raw and suffix not in WRITE_FORMATS:
        raise InputError(f"cannot write {name}: its name must end in {' or '.join(WRITE_FORMATS)}")
    format = "RAW" if raw else WRITE_FORMATS[suffix]
    endian = "LITTLE" if raw else None
    try:
        with (
            atomic_write(destination) as temporary,
            soundfile.SoundFile(_library_path(temporary), "w", rate, 1, "PCM_16", endian, format) as file,
        ):
            yield lambda audio: file.write(_to_int16(audio))
    except soundfile.LibsndfileError as error:
        raise InputError(f"cannot write {name}: {error.error_string}") from error


def _to_int16(audio: Any) -> NDArray[np.int16]:
    array = check_audio(audio, allow_empty=True)
    return np.clip(np.rint(array * np.float32(32768)), -32768, 32767).astype(np.int16)


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
    array = check_audio(audio, allow_empty=True)
    with writing_audio(destination, sample_rate, len(array)) as write:
        write(array)


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
