"""Reads and writes audio. No other module opens audio files (libsndfile).

Conventions: audio is float32 in [-1, 1] and mono, `[T]`. Audio with channels is `[T, C]`, samples first, as libsndfile
returns it. Integer samples are divided by 2**(bits - 1), so 16-bit audio is read and written without loss. Floats
beyond 1, from a lossy format that overshoots or a float WAV, pass unchanged; only `write_audio` clips.
"""

import io
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

import numpy as np
import soundfile
from numpy.typing import NDArray

from spectok.errors import InputError, require
from spectok.files import atomic_write, file_name, list_files, open_binary, why
from spectok.resampling import resample
from spectok.samples import check_audio, check_sample_rate, to_int16
from spectok.truncation import check_end, check_lists
from spectok.wav import PcmFormat, read_wav_header, wav_header

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif"})
WRITE_FORMATS = {".wav": "WAV", ".flac": "FLAC"}
MAX_CHANNELS = 1024  # libsndfile's own limit; a larger C means that the array is [C, T]
BLOCK_LENGTH = 1 << 17  # samples read from a file at a time; an allocation never has the size that a header claims
MP3_FRAME = 1152  # samples; some encoders' headers count silence that decoders leave out
UNKNOWN_LENGTH = (1 << 63) - 1  # samples, as libsndfile reports; it does not read to the end of such a file
BLOCK_BYTES = 1 << 16  # the most that is read from a stream at a time

logger = logging.getLogger(__name__)
_mixed_notice_given = False


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
    A file must reach the end that its header or its container promises (`spectok.truncation`), unless its header is
    that of a stream whose length its writer did not know.

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
            self._check_end()
            file = _sound_file(_library_path(cast(str, source)), self.name)
            if file.frames:
                self._file = file
                return
            file.close()
        format, head = read_wav_header(self._read)
        if not head:
            raise InputError(f"{self.name} is empty")
        if format is None:
            pieces = [head]
            while piece := self._read(BLOCK_BYTES):
                pieces.append(piece)
            content = _Content(b"".join(pieces))
            check_lists(content, self.name)
            check_end(content, self.name)
            content.seek(0)
            self._file = _sound_file(content, self.name)
        else:
            channels = format.channels
            require(channels <= MAX_CHANNELS, f"{self.name} has {channels} channels; at most {MAX_CHANNELS} are read")
            self._format = format

    def _check_end(self) -> None:
        """Raise InputError if the file, which can seek, is cut off. Afterwards it is at its start."""
        try:
            check_lists(self._stream, self.name)
            self._stream.seek(0)
            format, head = read_wav_header(self._read)
            if format is None:
                check_end(self._stream, self.name)
            else:
                held = os.fstat(self._stream.fileno()).st_size - len(head)
                self._check_length(format.claimed_samples, held // format.frame_bytes)
            self._stream.seek(0)
        except OSError as error:
            raise InputError(f"cannot read {self.name}: {why(error)}") from error

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
        return self._file.frames if self._file else self._format.claimed_samples

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


class _Content(io.BytesIO):
    """Bytes for libsndfile. In some damaged files it moves to before the start, which here is the start."""

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        try:
            return super().seek(offset, whence)
        except ValueError:
            return super().seek(0)


def _library_path(path: str | Path) -> str | bytes:
    """A path as soundfile takes it: as bytes, because a name may not be text; on Windows every name is."""
    return os.fspath(path) if os.name == "nt" else os.fsencode(path)


def _sound_file(source: str | bytes | io.BytesIO, name: str) -> soundfile.SoundFile:
    try:
        file = soundfile.SoundFile(source)
    except (soundfile.LibsndfileError, TypeError, ValueError) as error:
        raise InputError(f"{name} is not an audio file of a known format") from error
    require(
        file.frames < UNKNOWN_LENGTH,
        f"{name} does not say how many samples it holds, as FLAC that was written to a pipe; "
        "ffmpeg -i IN OUT.flac makes a file that does",
    )
    return file


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
        stream, _ = open_binary(destination, "wb")
        if not raw:
            stream.write(wav_header(rate, num_samples))
            stream.flush()

        def write_to_stream(audio: Any) -> None:
            stream.write(_to_int16(audio).astype("<i2").tobytes())
            stream.flush()

        yield write_to_stream
        return
    suffix = Path(destination).suffix.lower()
    if not raw and suffix not in WRITE_FORMATS:
        raise InputError(f"cannot write {name}: its name must end in {' or '.join(WRITE_FORMATS)}")
    format = "RAW" if raw else WRITE_FORMATS[suffix]
    endian = "LITTLE" if raw else None
    try:
        with atomic_write(destination) as temporary, open(temporary, "r+b", buffering=0) as file:
            output = _Output(file)

            def write_to_file(audio: Any) -> None:
                with suppress(AssertionError):  # of soundfile, if less is written
                    sound.write(_to_int16(audio))
                output.check()

            with soundfile.SoundFile(output, "w", rate, 1, "PCM_16", endian, format) as sound:
                yield write_to_file
            output.check()
    except soundfile.LibsndfileError as error:
        raise InputError(f"cannot write {name}: {error.error_string}") from error


class _Output:
    """A file for libsndfile, which writes the last block of a FLAC file when it closes it, and reports no error then.

    Args:
        file: open for writing, without a buffer, whose errors would come when it is left.
    """

    def __init__(self, file: io.FileIO) -> None:
        self._file, self.seek, self.tell = file, file.seek, file.tell
        self._error: OSError | None = None

    def write(self, data: bytes) -> int:
        """Write the data, as much as the disk takes; returns the number of bytes."""
        done = 0
        try:
            while done < len(data):
                done += self._file.write(data[done:])
        except OSError as error:
            self._error = error
        return done

    def check(self) -> None:
        """Raise the error of a write that has failed."""
        if self._error:
            raise self._error


def _to_int16(audio: Any) -> NDArray[np.int16]:
    return to_int16(check_audio(audio, allow_empty=True))


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
    return list_files(folder, AUDIO_SUFFIXES)
