import io
import os
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import Pipe, sine, wav_bytes

from spectok import audio as audio_module
from spectok.audio import read_audio
from spectok.errors import InputError
from spectok.resampling import fit_length, resample
from spectok.wav import wav_header

DATA = Path(__file__).parent / "data"

quick = settings(max_examples=40, deadline=None, derandomize=True, database=None)


@pytest.mark.parametrize(
    ("name", "rate", "length"), [("librispeech_84_16k.flac", 16000, 63840), ("vctk_p259_48k.flac", 48000, 152316)]
)
def test_the_fixtures_are_speech(name: str, rate: int, length: int) -> None:
    audio, sample_rate = read_audio(DATA / name)
    assert audio.dtype == np.float32 and audio.shape == (length,) and sample_rate == rate
    assert 0.3 < np.abs(audio).max() < 0.6
    assert 0.03 < np.sqrt(np.mean(audio**2)) < 0.1
    assert sum(path.stat().st_size for path in DATA.glob("*.flac")) < 600_000


@pytest.mark.parametrize(
    ("suffix", "subtype", "tolerance"),
    [
        ("wav", "PCM_16", 0),
        ("wav", "PCM_24", 0),
        ("wav", "FLOAT", 0),
        ("flac", "PCM_16", 0),
        ("aiff", "PCM_16", 0),
        ("ogg", "VORBIS", 0.05),
        ("ogg", "OPUS", 0.05),
        ("mp3", "MPEG_LAYER_III", 0.05),
    ],
)
def test_every_format_is_read(tmp_path: Path, suffix: str, subtype: str, tolerance: float) -> None:
    samples = np.rint(sine(48000, 48000) * 32768) / 32768
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, samples, 48000, subtype=subtype)
    audio, rate = read_audio(path)
    assert rate == 48000
    assert audio.dtype == np.float32
    if tolerance == 0:
        np.testing.assert_array_equal(audio, samples.astype(np.float32))
    else:
        difference = np.abs(fit_length(audio, 48000) - samples)[4800:-4800]
        assert difference.max() < tolerance


def test_the_block_length_does_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = read_audio(DATA / "librispeech_84_16k.flac")
    monkeypatch.setattr(audio_module, "BLOCK_LENGTH", 1000)
    np.testing.assert_array_equal(read_audio(str(DATA / "librispeech_84_16k.flac"))[0], whole)


def test_reading_at_another_rate() -> None:
    audio, rate = read_audio(DATA / "vctk_p259_48k.flac", 16000)
    assert rate == 16000
    np.testing.assert_array_equal(audio, resample(read_audio(DATA / "vctk_p259_48k.flac")[0], 48000, 16000))
    assert len(audio) == 152316 // 3


def test_streams_and_pipes() -> None:
    samples = np.arange(-300, 300, dtype=np.int16)
    content = wav_bytes(samples)
    for stream in (io.BytesIO(content), Pipe(content)):
        audio, rate = read_audio(stream)
        assert rate == 16000
        np.testing.assert_array_equal(audio, samples.astype(np.float32) / 32768)
    read, write = os.pipe()
    with os.fdopen(read, "rb") as source, os.fdopen(write, "wb") as sink:
        sink.write(content)
        sink.close()
        assert len(read_audio(source)[0]) == 600


def test_a_named_pipe(tmp_path: Path) -> None:
    path = tmp_path / "pipe.wav"
    os.mkfifo(path)
    thread = threading.Thread(target=path.write_bytes, args=(wav_bytes(np.arange(50, dtype=np.int16)),))
    thread.start()
    assert len(read_audio(path)[0]) == 50
    thread.join()


LOOPS = [  # libsndfile 1.2.2 reads each of them forever
    "ff0000fff7ffffff",  # a list of an unknown kind: 8 bytes back, with the length rounded up
    "ff0000fff8ffffff",
    b"INFOabcd".hex() + "f3ffffff",  # 12 bytes back
    b"adtlever".hex() + "f8ffffff",
]


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("content", LOOPS)
def test_chunks_that_libsndfile_would_read_forever_are_refused(tmp_path: Path, content: str, place: str) -> None:
    whole, path = wav_bytes(np.arange(100, dtype=np.int16)), tmp_path / "a.wav"
    chunk = b"LIST" + struct.pack("<I", 28) + bytes.fromhex(content).ljust(28, b"x")
    path.write_bytes(whole + chunk if place == "after" else whole[:36] + chunk + whole[36:])
    with pytest.raises(InputError, match=r"a\.wav is damaged: a chunk in it claims 42949672[0-9]{2} bytes$"):
        read_audio(path)
    compressed = whole[:20] + b"\2" + whole[21:36] + chunk  # of a format that is not read as it arrives
    with pytest.raises(InputError, match=r"^the stream is damaged: a chunk in it claims 42949672[0-9]{2} bytes$"):
        read_audio(io.BytesIO(compressed))


def test_a_wav_of_too_many_chunks_is_refused(tmp_path: Path) -> None:
    whole, path = wav_bytes(np.arange(100, dtype=np.int16)), tmp_path / "a.wav"
    listed = b"INFO" + (b"IART" + struct.pack("<I", 3) + b"abc\0") * 20
    path.write_bytes(whole + b"LIST" + struct.pack("<I", len(listed)) + listed + (b"abcd" + bytes(4)) * 9900)
    assert len(read_audio(path)[0]) == 100
    with open(path, "ab") as file:
        file.write((b"abcd" + bytes(4)) * 200)
    with pytest.raises(InputError, match=r"a\.wav is damaged: it has over 10000 chunks$"):
        read_audio(path)


def wide_wav(channels: int) -> bytes:
    """Two samples of silence in each of many channels."""
    head, samples = wav_header(16000, 2 * channels), bytes(2 * 2 * channels)
    sizes = struct.pack("<H", channels), struct.pack("<H", 2 * channels)  # of a sample of all channels, in bytes
    return head[:22] + sizes[0] + head[24:32] + sizes[1] + head[34:] + samples


def test_a_stream_with_more_channels_than_libsndfile_reads_is_refused() -> None:
    assert read_audio(io.BytesIO(wide_wav(1024)))[0].tolist() == [0, 0]
    with pytest.raises(InputError, match=r"^the stream has 1025 channels; at most 1024 are read$"):
        read_audio(io.BytesIO(wide_wav(1025)))


@pytest.mark.parametrize("riff", ["end of header", 0, 0xFFFFFFFF])
@pytest.mark.parametrize("data", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000])
@pytest.mark.parametrize("listed", [False, True])
def test_a_wav_without_a_length_in_its_header_is_read_to_its_end(
    tmp_path: Path, riff: str | int, data: int, listed: bool
) -> None:
    samples = np.arange(-300, 301, dtype=np.int16)
    info = b"LIST" + struct.pack("<I", 5) + b"INFO\0\0" if listed else b""  # of odd length, so padded
    start = 36 + len(info)
    head = struct.pack("<4sI4s", b"RIFF", start if riff == "end of header" else riff, b"WAVE")
    head += struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 16000, 32000, 2, 16) + info
    content = head + struct.pack("<4sI", b"data", data) + samples.tobytes()
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    for source in (Pipe(content), path):
        np.testing.assert_array_equal(read_audio(source)[0], samples.astype(np.float32) / 32768)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("missing", [1, 300])
def test_a_wav_that_ends_before_its_samples_is_refused(tmp_path: Path, channels: int, missing: int) -> None:
    samples = np.zeros((500, channels), np.int16)
    content = wav_bytes(samples)[: -missing * 2 * channels]
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    sentence = f"is cut off: its header claims 500 samples, but it holds {500 - missing}$"
    for source in (path, Pipe(content), io.BytesIO(content)):
        with pytest.raises(InputError, match=sentence):
            read_audio(source)


@pytest.mark.parametrize("claimed", [0x7FFFF024, 0x80000000, 0xFFFFFFDC])
def test_a_wav_whose_writer_did_not_know_its_length_is_not_cut_off(tmp_path: Path, claimed: int) -> None:
    content = bytearray(wav_bytes(np.zeros(500, np.int16)))
    content[40:44] = struct.pack("<I", claimed)
    (tmp_path / "a.wav").write_bytes(content)
    for source in (tmp_path / "a.wav", Pipe(bytes(content))):
        assert len(read_audio(source)[0]) == 500


def test_an_mp3_that_ends_before_its_samples_is_refused(tmp_path: Path) -> None:
    """Its tag of 2,000 bytes is longer than what is missing, so that the number of bytes does not tell."""
    path, tag = tmp_path / "a.mp3", b"ID3\4\0\0" + bytes([0, 0, 15, 80]) + bytes(2000)
    soundfile.write(path, sine(48000, 48000), 48000)
    whole = tag + path.read_bytes()
    path.write_bytes(whole)
    assert len(read_audio(path)[0]) == 48000
    path.write_bytes(whole[:-1700])
    for source in (path, io.BytesIO(path.read_bytes())):
        with pytest.raises(InputError, match=r"is cut off: its header claims 48000 samples, but it holds 2\d{4}$"):
            read_audio(source)


def test_a_wav_without_samples_stays_empty() -> None:
    empty = wav_bytes(np.zeros(0, np.int16))
    tagged = bytearray(empty + b"LIST\4\0\0\0INFO")
    tagged[4:8] = struct.pack("<I", len(tagged) - 8)
    for content in (empty, bytes(tagged)):
        with pytest.raises(InputError, match="holds no samples"):
            read_audio(Pipe(content))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.wav", b"", "is empty"),
        ("text.wav", b"This is not audio.\n" * 50, "is not an audio file of a known format"),
        ("headless.raw", bytes(1000), "is not an audio file of a known format"),
        ("silent.wav", wav_bytes(np.zeros(0, np.int16)), "holds no samples"),
        ("nan.wav", wav_bytes(np.array([0.0, np.nan]), subtype="FLOAT"), "not finite"),
        ("inf.wav", wav_bytes(np.array([[0, np.inf], [0, -np.inf]]), subtype="FLOAT"), "not finite"),
        ("huge.wav", wav_bytes(np.array([0.0, 1e300]), subtype="DOUBLE"), "not finite"),
        ("loud.wav", wav_bytes(np.array([0.0, -20000.0]), subtype="FLOAT"), "peak of 20000"),
        ("slow.wav", wav_bytes(np.zeros(9), 10), "sample rate of 10 Hz; it must be 1000 to 192000"),
        ("fast.wav", wav_bytes(np.zeros(9), 384000), "sample rate of 384000 Hz; it must be 1000 to 192000"),
        ("cut.flac", (DATA / "vctk_p259_48k.flac").read_bytes()[:60_000], "is damaged or cut off"),
    ],
    ids=["empty", "text", "raw", "no-samples", "nan", "inf", "huge", "loud", "slow", "fast", "cut"],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"{path} .*{message}"):
        read_audio(path)
    with pytest.raises(InputError, match=f"the stream .*{message}"):
        read_audio(io.BytesIO(content))


def test_paths_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*none\.wav: No such file or directory"):
        read_audio(tmp_path / "none.wav")
    with pytest.raises(InputError, match="Is a directory"):
        read_audio(tmp_path)
    with pytest.raises(InputError, match="a stream of text"):
        read_audio(io.StringIO("text"))


@quick
@given(st.binary(max_size=300), st.sampled_from([0, 4, 12, 20, 36, 44]))
def test_random_bytes_raise_only_input_error(noise: bytes, kept: int) -> None:
    content = wav_bytes(np.zeros(20, np.int16))[:kept] + noise
    try:
        audio, rate = read_audio(io.BytesIO(content))
        assert np.abs(audio).max() <= 16
        assert rate >= 1000
    except InputError as error:
        assert str(error).startswith("the stream")
