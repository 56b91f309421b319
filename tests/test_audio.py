import copy
import io
import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from streams import Pipe, sine, wav_bytes

from spectok import audio as audio_module
from spectok import resampling
from spectok.audio import AudioReader, list_audio, read_audio, to_mono, write_audio, writing_audio
from spectok.errors import InputError
from spectok.resampling import PERIODS, StreamResampler, StreamRestorer, fit_length, resample, restore
from spectok.samples import check_audio

DATA = Path(__file__).parent / "data"
RATES = [8000, 11025, 16000, 22050, 24000, 44100, 48000]

quick = settings(max_examples=40, deadline=None, derandomize=True, database=None)


# Levels, types and channels.


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.array([-32768, 0, 16384, 32767], np.int16), [-1, 0, 0.5, 32767 / 32768]),
        (np.array([-(2**31), 0, 2**30], np.int32), [-1, 0, 0.5]),
        (np.array([-128, 0, 64], np.int8), [-1, 0, 0.5]),
        (np.array([0, 128, 192], np.uint8), [-1, 0, 0.5]),
        (np.array([-1, 0.25, 1.5], np.float64), [-1, 0.25, 1.5]),
        (np.array([-1, 0.25], np.float16), [-1, 0.25]),
        (np.array([-1, 0.25], ">f4"), [-1, 0.25]),
        ([0.5, -0.5], [0.5, -0.5]),
    ],
)
def test_samples_become_float32(samples: NDArray[Any], expected: list[float]) -> None:
    audio = check_audio(samples)
    assert audio.dtype == np.dtype("=f4")
    np.testing.assert_array_equal(audio, np.array(expected, np.float32))


def test_good_audio_is_not_copied() -> None:
    audio = sine(100, 16000)
    assert check_audio(audio) is audio
    assert to_mono(audio) is audio


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (np.zeros(0, np.float32), "clip holds no samples"),
        (np.float32(1), r"clip has shape \[\]; expected 1 axis"),
        (np.zeros((2, 3), np.float32), r"clip has shape \[2, 3\]; expected 1 axis"),
        (np.array([0, np.nan]), "clip has samples that are not finite"),
        (np.array([0, -np.inf]), "clip has samples that are not finite"),
        (np.array([0.0, 32767.0]), r"clip has a peak of 32767; floats must be in \[-1, 1\]"),
        (np.zeros(3, np.int64), "clip has samples of type int64"),
        (np.zeros(3, np.complex64), "clip has samples of type complex64"),
        (np.zeros(3, bool), "clip has samples of type bool"),
        (["a", "b"], "clip has samples of type"),
        ([[1.0], [1.0, 2.0]], "clip is not an array of samples"),
    ],
)
def test_bad_audio_is_refused(audio: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_audio(audio, "clip")


def test_more_axes_and_empty_audio_are_allowed_on_request() -> None:
    assert check_audio(np.zeros((2, 3)), dims=(1, 2)).shape == (2, 3)
    with pytest.raises(InputError, match="expected 1 or 2 axes"):
        check_audio(np.zeros((1, 2, 3)), dims=(1, 2))
    assert check_audio([], allow_empty=True).dtype == np.float32


def test_channels_are_averaged() -> None:
    stereo = np.stack([sine(100, 16000), np.full(100, 0.25, np.float32)], axis=1)  # [T, C]
    np.testing.assert_allclose(to_mono(stereo), (stereo[:, 0] + stereo[:, 1]) / 2, rtol=0, atol=1e-7)
    np.testing.assert_array_equal(to_mono(stereo[:, :1]), stereo[:, 0])
    np.testing.assert_array_equal(to_mono(np.array([[16384, 0]], np.int16)), np.array([0.25], np.float32))
    np.testing.assert_allclose(read_audio(Pipe(wav_bytes(stereo)))[0], to_mono(stereo), rtol=0, atol=1 / 32768)
    with pytest.raises(InputError, match=r"has 2000 channels; expected the shape \[samples, channels\]"):
        to_mono(np.zeros((2, 2000)))


def test_mixing_is_logged_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(audio_module, "_mixed_notice_given", False)
    with caplog.at_level(logging.INFO, logger="spectok.audio"):
        to_mono(np.zeros((5, 1)))
        assert caplog.messages == []
        to_mono(np.zeros((5, 6)))
        to_mono(np.zeros((5, 2)))
    assert caplog.messages == ["mixed 6 channels to mono"]


# Resampling and length.


@quick
@given(st.integers(1, 3000), st.sampled_from(RATES), st.sampled_from(RATES))
def test_resampling_there_and_back_is_never_shorter(length: int, rate: int, other: int) -> None:
    audio = sine(length, rate)
    there = resample(audio, rate, other)
    assert len(there) == -(-length * other // rate)
    assert there.dtype == np.float32
    back = resample(there, other, rate)
    assert len(back) >= length
    assert fit_length(back, length).shape == (length,)


@pytest.mark.parametrize("rate", [r for r in RATES if r >= 16000])
def test_resampling_keeps_a_sine_and_adds_no_delay(rate: int) -> None:
    audio = sine(rate, rate)
    inside = slice(200, -200)
    there = resample(audio, rate, 16000)
    np.testing.assert_allclose(there[inside], sine(16000, 16000)[inside], rtol=0, atol=1e-4)
    np.testing.assert_allclose(resample(there, 16000, rate)[:rate][inside], audio[inside], rtol=0, atol=2e-4)


def test_the_last_sample_is_resampled_audio_and_not_padding() -> None:
    last = resample(np.full(100, 0.5, np.float32), 48000, 16000)  # 34 samples, where soxr alone gives 33
    assert last.shape == (34,)
    assert 0.2 < last[33] < 0.5


def test_resampling_removes_frequencies_that_would_alias() -> None:
    assert np.abs(resample(sine(48000, 48000, 12000.0), 48000, 16000)[200:-200]).max() < 1e-4


def test_resampling_to_the_same_rate_returns_the_same_array() -> None:
    audio = sine(100, 16000)
    assert resample(audio, 16000, 16000) is audio


@pytest.mark.parametrize("rate", [0, -16000, 999, 192_001, 16000.5, float("nan"), float("inf"), None])
def test_bad_sample_rates_are_refused(rate: Any) -> None:
    with pytest.raises(InputError, match=r"sample rate of .* Hz; it must be 1000 to 192000"):
        resample(sine(10, 16000), 16000, rate)


@pytest.fixture
def streams_of_soxr(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The streams of soxr that resamplers begin from now on."""
    streams, begin = list[Any](), StreamResampler._new_stream

    def new_stream(self: StreamResampler) -> Any:
        streams.append(begin(self))
        return streams[-1]

    monkeypatch.setattr(StreamResampler, "_new_stream", new_stream)
    return streams


def restored(resampler: StreamResampler) -> StreamResampler:
    """A used resampler that continues another one."""
    other = StreamResampler(resampler.from_rate, resampler.to_rate, resampler.rows)
    other.push(np.full((resampler.rows, 999), 0.5, np.float32))
    other.continue_from(**resampler.arrays())
    return other


@pytest.mark.parametrize("rates", [*PERIODS, (12000, 16000), (16000, 11127), (192_000, 16000)], ids=str)
def test_a_resampler_continues_another_bit_for_bit(rates: tuple[int, int], streams_of_soxr: list[Any]) -> None:
    """Within its first block, within its first kept samples, and after more than a period; without a second attempt."""
    first = StreamResampler(*rates, 2)
    size, step = first.arrays()["recent"].shape[1], rates[0] // 50
    assert 4 * size < 200_000  # bytes
    places = [step // 3, size // 2 + 11, size + PERIODS.get(rates, 2 * size) + 12345]
    rng = np.random.default_rng(0)
    audio = rng.uniform(-0.5, 0.5, (2, places[-1] + 2 * size)).astype(np.float32)
    for place in places:
        resampler = StreamResampler(*rates, 2)
        for start in range(0, place, rates[0]):
            resampler.push(audio[:, start : min(place, start + rates[0])])
        del streams_of_soxr[:]
        others = [restored(resampler), copy.copy(resampler), pickle.loads(pickle.dumps(resampler))]
        assert len(streams_of_soxr) == 4  # one of them before `restored` restores
        for start in range(place, place + 2 * size, step):
            expected = resampler.push(audio[:, start : start + step])
            for other in others:
                np.testing.assert_array_equal(other.push(audio[:, start : start + step]), expected)
        expected = resampler.flush()
        for other in others:
            np.testing.assert_array_equal(other.flush(), expected)


def test_a_resampler_is_restored_even_if_soxr_had_another_period(
    streams_of_soxr: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(resampling.PERIODS, (48000, 16000), 4404 + 600)
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 90_000)).astype(np.float32)
    resampler = StreamResampler(48000, 16000, 1)
    resampler.push(audio[:, :50_000])
    other = copy.copy(resampler)
    assert len(streams_of_soxr) == 3  # the second attempt has been made with all of the input
    np.testing.assert_array_equal(other.push(audio[:, 50_000:]), resampler.push(audio[:, 50_000:]))


@pytest.mark.parametrize("counts", [[-3, 0], [300, -1], [3000, 1001], [48_000, 15_000], [2**60, 0]], ids=str)
def test_a_resampler_refuses_counts_that_soxr_cannot_have_returned(counts: list[int]) -> None:
    resampler, expected = StreamResampler(48000, 16000, 1), StreamResampler(48000, 16000, 1)
    recent = resampler.arrays()["recent"]
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 5000)).astype(np.float32)
    np.testing.assert_array_equal(resampler.push(audio), expected.push(audio))
    with pytest.raises(InputError) as caught:
        resampler.continue_from(recent, np.array(counts))
    pushed, returned = counts
    sentence = f"of {pushed} samples that are resampled from 48000 to 16000 Hz, {returned} cannot have been returned"
    assert str(caught.value) == sentence
    np.testing.assert_array_equal(resampler.push(audio), expected.push(audio))


@pytest.mark.parametrize(("rate", "off"), [(12000, 0), (48000, 1)], ids=["no period", "counts that do not fit"])
def test_what_would_take_more_than_a_day_of_audio_to_restore_is_refused(rate: int, off: int) -> None:
    """Damaged counts of samples would otherwise take hours."""
    resampler = StreamResampler(rate, 16000, 1)
    counts = np.array([24 * 3600 * rate + rate, 24 * 3600 * 16000 + 15_700 + off])
    with pytest.raises(InputError) as caught:
        resampler.continue_from(resampler.arrays()["recent"], counts)
    sentence = f"a stream that is resampled from {rate} to 16000 Hz cannot be continued after over 24 hours"
    assert str(caught.value) == sentence


def test_between_rates_with_a_period_a_stream_of_more_than_a_day_is_restored() -> None:
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 20_000)).astype(np.float32)
    resampler, other = StreamResampler(48000, 16000, 1), StreamResampler(48000, 16000, 1)
    resampler.push(audio[:, :15_000])
    state = resampler.arrays()
    other.continue_from(state["recent"], state["counts"] + 10**6 * np.array([4404, 1468]))  # 25.5 hours later
    np.testing.assert_array_equal(other.push(audio[:, 15_000:]), resampler.push(audio[:, 15_000:]))


def test_fit_length() -> None:
    audio = np.arange(3, dtype=np.float32)
    assert fit_length(audio, 2).tolist() == [0, 1]
    assert fit_length(audio, 3).tolist() == [0, 1, 2]
    assert fit_length(audio, 5).tolist() == [0, 1, 2, 0, 0]
    assert fit_length(audio, 0).tolist() == []
    assert fit_length(audio[None, None], 4).tolist() == [[[0, 1, 2, 0]]]


# Writing.


@pytest.mark.parametrize("suffix", ["wav", "flac", "WAV"])
def test_sixteen_bits_survive_a_round_trip(tmp_path: Path, suffix: str) -> None:
    samples = np.arange(-32768, 32768, dtype=np.int32).astype(np.float32) / 32768
    path = tmp_path / f"a.{suffix}"
    write_audio(path, samples, 22050)
    audio, rate = read_audio(path)
    assert rate == 22050
    np.testing.assert_array_equal(audio, samples)
    assert soundfile.info(path).subtype == "PCM_16"
    assert os.listdir(tmp_path) == [path.name]


def test_samples_over_full_scale_are_clipped_and_others_rounded(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    write_audio(path, [1.0, 1.5, -1.0, -1.5, 15.0, 0.6 / 32768, -0.6 / 32768, 0.4 / 32768], 16000)
    assert soundfile.read(path, dtype="int16")[0].tolist() == [32767, 32767, -32768, -32768, 32767, 1, -1, 0]


def test_writing_to_streams_and_writing_empty_audio(tmp_path: Path) -> None:
    samples = np.arange(-300, 300, dtype=np.int16)
    for sink in (io.BytesIO(), Pipe()):
        write_audio(sink, samples, 16000)
        content = sink.getvalue() if isinstance(sink, io.BytesIO) else bytes(sink.written)
        assert content == wav_bytes(samples)
    write_audio(tmp_path / "none.wav", np.zeros(0, np.float32), 16000)
    assert soundfile.info(tmp_path / "none.wav").frames == 0


def test_a_failed_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audio = sine(100, 16000)
    (tmp_path / "there.wav").write_bytes(b"before")
    for name in ("a.mp3", "a", "a.txt", "none/a.wav", "there.wav/a.wav"):
        with pytest.raises(InputError, match=f"cannot write .*{name}"):
            write_audio(tmp_path / name, audio, 16000)
    with pytest.raises(InputError, match="not finite"):
        write_audio(tmp_path / "a.wav", np.array([np.nan]), 16000)
    with pytest.raises(InputError, match=r"cannot write .*a\.flac"):
        write_audio(tmp_path / "a.flac", audio, 191_999)  # FLAC cannot store it

    def fail(*_: Any, **__: Any) -> NoReturn:
        raise soundfile.LibsndfileError(2)

    monkeypatch.setattr(soundfile.SoundFile, "write", fail)
    with pytest.raises(InputError, match=r"cannot write .*there\.wav: "):
        write_audio(tmp_path / "there.wav", audio, 16000)
    assert os.listdir(tmp_path) == ["there.wav"]
    assert (tmp_path / "there.wav").read_bytes() == b"before"


FULL_DISK = """
import os, resource, sys
import numpy as np
from spectok.audio import write_audio
from spectok.errors import InputError
from spectok.files import write_text

resource.setrlimit(resource.RLIMIT_FSIZE, (2048, resource.RLIM_INFINITY))
noise = np.random.default_rng(0).integers(-3000, 3000, 16000, np.int16)
writing = {"long.flac": noise, "one block.flac": noise[:3000], "a.wav": noise}
for name, audio in writing.items():
    try:
        write_audio(name, audio, 16000)
    except InputError as error:
        print(error)
try:
    write_text("a.txt", "x" * 5000)
except InputError as error:
    print(error)
print(os.listdir())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of the size of files")
def test_a_file_that_does_not_fit_on_the_disk_is_refused_and_removed(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL_DISK], cwd=tmp_path, capture_output=True, text=True, check=True)
    names = ("long.flac", "one block.flac", "a.wav", "a.txt")
    assert done.stdout.splitlines() == [*(f"cannot write {name}: File too large" for name in names), "[]"]
    assert done.stderr == ""


# Blocks.


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ALAW", "ULAW"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_wav_is_read_as_it_arrives(subtype: str, channels: int) -> None:
    """The same samples as libsndfile reads from the whole file, from pieces that end anywhere."""
    content = wav_bytes(np.stack([sine(5000, 16000, 300 + 50 * n) for n in range(channels)], 1), subtype=subtype)
    whole = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)[0].mean(1, dtype=np.float32)
    stream = Dripping(content + b"LIST\4\0\0\0INFO")
    with AudioReader(stream) as reader:
        assert (reader.sample_rate, reader.claimed_samples) == (16000, 5000)
        first = next(iter(reader))
        assert stream.position < len(content) // 2
    np.testing.assert_array_equal(first, whole[: len(first)])
    with AudioReader(Dripping(content + b"LIST\4\0\0\0INFO")) as reader:
        np.testing.assert_array_equal(np.concatenate(list(reader)), whole)
        assert reader.num_samples == 5000


class Dripping(io.RawIOBase):
    """A pipe that gives 1,001 bytes at a time."""

    def __init__(self, content: bytes) -> None:
        self.content, self.position = content, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self.content[self.position : self.position + min(1001, len(buffer))]
        buffer[: len(piece)] = piece
        self.position += len(piece)
        return len(piece)


def test_other_formats_are_read_from_pipes_too(tmp_path: Path) -> None:
    for name, subtype in (("a.flac", "PCM_16"), ("a.wav", "MS_ADPCM"), ("a.aiff", "PCM_16")):
        soundfile.write(tmp_path / name, sine(5000, 16000), 16000, subtype=subtype)
        expected = soundfile.read(tmp_path / name, dtype="float32")[0]
        np.testing.assert_array_equal(read_audio(Dripping((tmp_path / name).read_bytes()))[0], expected)


def test_raw_samples() -> None:
    samples = np.arange(-300, 300, dtype="<i2")
    with AudioReader(Dripping(samples.tobytes() + b"\1"), raw_rate=8000) as reader:
        np.testing.assert_array_equal(np.concatenate(list(reader)), samples.astype(np.float32) / 32768)
        assert reader.sample_rate == 8000
    with AudioReader(io.BytesIO(b""), raw_rate=8000) as reader, pytest.raises(InputError, match="holds no samples"):
        list(reader)
    with pytest.raises(InputError, match="sample rate of 10 Hz"):
        AudioReader(io.BytesIO(b""), raw_rate=10)


@pytest.mark.parametrize(("from_rate", "to_rate"), [(16000, 16000), (16000, 44100), (16000, 8000), (16000, 11025)])
@pytest.mark.parametrize("length", [0, 1, 999, 4000, 4100, 9000])
def test_restoring_block_by_block_equals_restoring_at_once(from_rate: int, to_rate: int, length: int) -> None:
    """The original ends up to 320 samples before the decoded audio does; where it is longer, zeros follow."""
    wanted = length * to_rate // 16000
    audio = sine(min(length, 8000) + 200, from_rate)
    restorer = StreamRestorer(from_rate, to_rate, 320)
    pieces = [restorer.push(piece) for piece in np.split(audio, [0, 100, 101, 700, 4000][: 1 + len(audio) // 1000])]
    joined = np.concatenate([*pieces, restorer.flush(wanted)])
    np.testing.assert_array_equal(joined, restore(audio, from_rate, to_rate, wanted))


def test_writing_block_by_block(tmp_path: Path) -> None:
    audio = sine(3000, 16000)
    write_audio(tmp_path / "whole.wav", audio, 16000)
    write_audio(tmp_path / "whole.flac", audio, 16000)
    for name in ("blocks.wav", "blocks.flac"):
        with writing_audio(tmp_path / name, 16000) as write:
            for piece in np.split(audio, [1, 500, 500, 2999]):
                write(piece)
        assert (tmp_path / name).read_bytes() == (tmp_path / name.replace("blocks", "whole")).read_bytes()
    sinks = {length: Pipe() for length in (None, 3000)}
    for length, sink in sinks.items():
        with writing_audio(sink, 16000, length) as write:
            write(audio[:1000])
            assert len(sink.written) == 44 + 2000
            write(audio[1000:])
    known, unknown = bytes(sinks[3000].written), bytes(sinks[None].written)
    assert known == (tmp_path / "whole.wav").read_bytes()
    assert unknown == known[:4] + b"\xff" * 4 + known[8:40] + b"\xff" * 4 + known[44:]
    for source in (io.BytesIO(unknown), Pipe(unknown)):
        np.testing.assert_array_equal(read_audio(source)[0], read_audio(tmp_path / "whole.wav")[0])
    with writing_audio(tmp_path / "samples.any", 16000, raw=True) as write:
        write(audio)
    assert (tmp_path / "samples.any").read_bytes() == known[44:]


# Folders and the import.


def test_list_audio(tmp_path: Path) -> None:
    names = ["b.wav", "a.FLAC", "sub/c.opus", "sub/d.mp3", "e.ogg", "f.aiff", ".hidden.wav", "notes.txt", "g.spt"]
    (tmp_path / "sub").mkdir()
    (tmp_path / "folder.wav").mkdir()
    for name in names:
        (tmp_path / name).touch()
    found = [str(path.relative_to(tmp_path)) for path in list_audio(tmp_path)]
    assert found == ["a.FLAC", "b.wav", "e.ogg", "f.aiff", "sub/c.opus", "sub/d.mp3"]
    with pytest.raises(InputError, match="is not a folder"):
        list_audio(tmp_path / "b.wav")


def test_audio_and_container_do_not_import_torch() -> None:
    code = "import sys, spectok.audio, spectok.container; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=DATA.parents[1], check=False).returncode == 0
