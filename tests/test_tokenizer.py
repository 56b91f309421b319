from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from models import echo_engine, random_engine, use_root, write_model, write_root
from numpy.typing import NDArray

import spectok
from spectok import InputError, StreamDecoder, StreamEncoder, Tokenizer, pretrained, read_spt, sessions, write_spt
from spectok.audio import read_audio
from spectok.codes import Codes
from spectok.config import CodecConfig
from spectok.resampling import resample

HASH = "0123456789abcdef"
FRAME = 32  # samples per frame of the tiny codecs
tiny = pytest.mark.parametrize("name", ["query", "flat", "vq"])


def refuses(sentence: str) -> pytest.RaisesExc[InputError]:
    return pytest.raises(InputError, match=sentence)


def noise(*shape: int) -> NDArray[np.float32]:
    return (0.2 * np.random.default_rng(sum(shape)).standard_normal(shape)).astype(np.float32)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(random_engine("query"), HASH)


@pytest.fixture(scope="module")
def echo() -> Tokenizer:
    """A perfect codec at 16 kHz."""
    return Tokenizer(echo_engine("20 ms"), HASH)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A writable folder with two released models."""
    write_root(tmp_path / "pretrained")
    use_root(monkeypatch, tmp_path / "pretrained")
    return tmp_path / "pretrained"


def test_properties_are_those_of_the_configuration(tokenizer: Tokenizer, query_config: CodecConfig) -> None:
    assert tokenizer.config == query_config
    assert (tokenizer.sample_rate, tokenizer.codebook_size, tokenizer.tokens_per_frame) == (16000, 64, 2)
    assert (tokenizer.frame_length, tokenizer.frame_rate) == (FRAME, 500)
    assert (tokenizer.token_rate, tokenizer.bitrate) == (1000, 6000)


@tiny
@pytest.mark.parametrize("length", [1, FRAME - 1, FRAME, FRAME + 1, 2 * FRAME, 7 * FRAME + 5])
def test_offline_equals_streaming(name: str, length: int) -> None:
    tokenizer = Tokenizer(random_engine(name), HASH)
    audio = noise(length)
    encoder, decoder = tokenizer.stream_encoder(), tokenizer.stream_decoder()
    assert type(encoder) is StreamEncoder and type(decoder) is StreamDecoder
    streamed = np.concatenate([*(encoder.push(audio[i : i + 1]) for i in range(length)), encoder.flush()])
    codes = tokenizer.encode(audio)
    np.testing.assert_array_equal(codes, streamed)
    heard = tokenizer.decode(codes)
    pieces = [decoder.push(codes[:1]), decoder.push(codes[1:])]
    np.testing.assert_allclose(np.concatenate(pieces), heard, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(tokenizer.decode(codes, length), heard[:length])
    assert tokenizer.decode(codes, length).shape == (length,)


def test_long_audio_runs_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = random_engine("query")
    tokenizer = Tokenizer(engine, HASH)
    audio = noise(2, 2000)
    codes = tokenizer.encode(audio)
    heard = tokenizer.decode(codes)
    monkeypatch.setattr(sessions, "BLOCK_SECONDS", 0.014)
    engine.longest = 0
    np.testing.assert_array_equal(tokenizer.encode(audio), codes)
    np.testing.assert_allclose(tokenizer.decode(codes), heard, rtol=0, atol=1e-12)
    assert engine.longest == 7


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("length", [1, 319, 320, 321, 960, 961, 4801])
def test_length_is_exact_at_every_rate(echo: Tokenizer, rate: int, length: int) -> None:
    codes = echo.encode(noise(length), rate)
    assert len(codes) == 320 * echo.config.num_frames(-(-length * 16000 // rate))
    assert echo.decode(codes, length, rate).shape == (length,)
    rows = min(2, length)  # two rows of one sample look like [T, C]
    batch = echo.encode(noise(rows, length), rate)
    assert echo.decode(batch, length, rate, "flat").shape == (rows, length)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
def test_audio_is_not_shifted_at_any_rate(echo: Tokenizer, rate: int) -> None:
    audio = (0.5 * np.sin(2 * np.pi * 440 * np.arange(rate // 2) / rate)).astype(np.float32)
    heard = echo.decode(echo.encode(audio, rate), len(audio), rate)
    inner = slice(rate // 50, -rate // 50)
    # One sample of shift would be 0.02 at 48 kHz and 0.17 at 8 kHz.
    np.testing.assert_allclose(heard[inner], audio[inner], rtol=0, atol=5e-4)


@tiny
def test_a_batch_equals_its_rows(name: str) -> None:
    tokenizer = Tokenizer(random_engine(name), HASH)
    audio = noise(4, 333)
    codes = tokenizer.encode(audio)
    heard = tokenizer.decode(codes, 333)
    assert codes.shape == (4, tokenizer.tokens_per_frame * tokenizer.config.num_frames(333))
    for row in range(4):
        np.testing.assert_array_equal(tokenizer.encode(audio[row]), codes[row])
        np.testing.assert_allclose(tokenizer.decode(codes[row], 333), heard[row], rtol=0, atol=1e-12)


def test_a_resampled_batch_equals_its_rows(tokenizer: Tokenizer) -> None:
    audio = noise(3, 1234)
    codes = tokenizer.encode(audio, 44100)
    np.testing.assert_array_equal(codes, np.stack([tokenizer.encode(row, 44100) for row in audio]))
    np.testing.assert_array_equal(codes[0], tokenizer.encode(resample(audio[0], 44100, 16000)))


def test_a_list_equals_its_items(tokenizer: Tokenizer, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(500), 16000)
    members: list[Any] = [noise(1), noise(77), torch.from_numpy(noise(2, 50)), str(tmp_path / "a.wav")]
    codes: list[Any] = tokenizer.encode(members)
    assert [type(item) for item in codes] == [Codes, Codes, torch.Tensor, Codes]
    for item, member in zip(codes, members, strict=True):
        np.testing.assert_array_equal(np.asarray(item), np.asarray(tokenizer.encode(member)))
    lengths = [1, 77, 50, 500]
    heard = tokenizer.decode(codes, lengths)
    assert [item.shape[-1] for item in heard] == lengths
    kinds: tuple[Any, ...] = (tuple(lengths), np.array(lengths), torch.tensor(lengths))
    for others in kinds:
        assert [item.shape for item in tokenizer.decode(codes, others)] == [item.shape for item in heard]
    for sound, item, length in zip(heard, codes, lengths, strict=True):
        np.testing.assert_array_equal(np.asarray(sound), np.asarray(tokenizer.decode(item, length)))
    assert [item.shape for item in tokenizer.decode(codes[:2], 1)] == [(1,), (1,)]
    assert tokenizer.encode([]) == tokenizer.decode([]) == []


def test_a_list_has_one_sample_rate(tokenizer: Tokenizer) -> None:
    members = [noise(500), noise(2, 777)]
    codes = tokenizer.encode(members, 44100)
    heard = tokenizer.decode(codes, [500, 777], 44100)
    for item, sound, member in zip(codes, heard, members, strict=True):
        np.testing.assert_array_equal(item, tokenizer.encode(member, 44100))
        np.testing.assert_array_equal(sound, tokenizer.decode(item, member.shape[-1], 44100))
        assert sound.shape == member.shape


def test_arrays_give_arrays_and_tensors_give_tensors() -> None:
    tokenizer = Tokenizer(random_engine("query", torch.float32), HASH)
    audio = noise(2, 400)
    codes, tensor = tokenizer.encode(audio), tokenizer.encode(torch.from_numpy(audio).requires_grad_())
    assert codes.dtype == np.int64 and tensor.dtype == torch.int64
    np.testing.assert_array_equal(codes, tensor.numpy())
    heard, heard_tensor = tokenizer.decode(codes), tokenizer.decode(tensor)
    assert heard.dtype == np.float32 and heard_tensor.dtype == torch.float32
    np.testing.assert_array_equal(heard, heard_tensor.numpy())
    np.testing.assert_array_equal(tokenizer.decode(codes.astype(np.uint16)), heard)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_tensors_of_other_precisions(dtype: torch.dtype) -> None:
    tokenizer = Tokenizer(random_engine("query", torch.float32), HASH)
    audio = torch.from_numpy(noise(400)).to(dtype)
    assert torch.equal(tokenizer.encode(audio), tokenizer.encode(audio.float()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_device_of_a_tensor_is_kept(tokenizer: Tokenizer) -> None:
    audio = torch.from_numpy(noise(400))
    codes = tokenizer.encode(audio.cuda())
    assert codes.is_cuda and torch.equal(codes.cpu(), tokenizer.encode(audio))
    assert tokenizer.decode(codes).is_cuda


def test_files_are_read_mixed_and_resampled(tokenizer: Tokenizer, tmp_path: Path) -> None:
    stereo = noise(4410, 2)
    path = tmp_path / "stereo.wav"
    soundfile.write(path, stereo, 44100, subtype="FLOAT")
    expected = tokenizer.encode(stereo.mean(axis=1), 44100)
    assert len(expected) == 2 * tokenizer.config.num_frames(1600)
    for source in (path, str(path)):
        np.testing.assert_array_equal(tokenizer.encode(source), expected)


def test_a_fixture_file_by_its_path(echo: Tokenizer) -> None:
    path = Path(__file__).parent / "data" / "vctk_p259_48k.flac"
    audio, rate = read_audio(path)
    assert rate == 48000
    heard = echo.decode(echo.encode(path), len(audio), rate)
    assert heard.shape == audio.shape
    audible = resample(resample(audio, 48000, 16000), 16000, 48000)[: len(audio)]
    np.testing.assert_allclose(heard, audible, rtol=0, atol=2e-4)


@pytest.mark.parametrize(
    ("audio", "sentence"),
    [
        (noise(1, 2, 3), r"shape \[1, 2, 3\]"),
        (0.5, r"shape \[\]"),
        ([0.1, 0.2], r"^the audio is a list of numbers; make an array of it$"),
        (
            {"array": np.zeros(5), "sampling_rate": 16000},
            r"^the audio is a dict; pass its array and its sample rate one",
        ),
        (None, r"^the audio is None; it must be an array, a tensor, a path, or a list of those$"),
        (b"RIFF", r"^the audio is bytes; make an array of them, or pass a file that is open for reading$"),
        (bytearray(8), r"^the audio is bytes; make an array of them"),
        pytest.param(memoryview(bytes(8)), r"^the audio is bytes; make an array of them", id="a memoryview"),
        (np.zeros(0, np.float32), "holds no samples"),
        (np.zeros((0, 100), np.float32), "holds no samples"),
        (np.zeros((2000, 2)), r"^the audio has shape \[2000, 2\]; a batch is \[B, T\], and .*spectok\.audio\.to_mono$"),
        (torch.zeros(9, 8), r"^the audio has shape \[9, 8\]; a batch is"),
        (torch.zeros(2, 0), "holds no samples"),
        (np.array([0, np.nan, 0]), "not finite"),
        (torch.tensor([0, torch.inf]), "not finite"),
        (np.array([0.0, 32767.0]), "peak of 32767"),
        (np.zeros(9, complex), "complex"),
        ([[[0.1], [0.2, 0.3]]], "^the audio is a list of numbers"),
        (((0.1,), (0.2, 0.3)), "neither audio nor codes"),
        ("no such file.wav", "No such file"),
        (Path("no such file.wav"), "No such file"),
    ],
    ids=str,
)
def test_bad_audio_is_refused(tokenizer: Tokenizer, audio: Any, sentence: str) -> None:
    with refuses(sentence):
        tokenizer.encode(audio)


@pytest.mark.parametrize("rate", [0, -16000, 44100.5, 10**9, "16000"])
def test_bad_sample_rates_are_refused(tokenizer: Tokenizer, rate: Any) -> None:
    shown = "'16000', a text; it must be a whole number of Hz" if rate == "16000" else f"{rate} Hz"
    calls: dict[str, Callable[[], object]] = {
        "the stream": lambda: tokenizer.stream_encoder(rate),
        "the audio": lambda: tokenizer.decode(np.zeros(10, np.int64), None, rate),
    }
    for what, call in calls.items():
        with refuses(f"^{what} has a sample rate of {shown}"):
            call()
    for encode in (tokenizer.encode, tokenizer.encode_batch):
        with refuses(f"has a sample rate of {shown}"):
            encode([noise(100)], rate)
    with refuses(f"has a sample rate of {shown}"):
        tokenizer.encode(noise(100), rate)


@pytest.mark.parametrize(
    ("codes", "length", "sentence"),
    [
        (np.array([0, 64]), None, "^codes must be from 0 to 63, but code 1 is 64$"),
        (np.array([-1, 0]), None, "^codes must be from 0 to 63, but code 0 is -1$"),
        (torch.tensor([0, 64]), None, "^codes must be from 0 to 63, but code 1 is 64$"),
        (np.array([1, 2, 3]), None, "^the codes end within a frame: 1 are left over, a frame has 2$"),
        (np.zeros((2, 5), np.int64), None, "^the codes end within a frame"),
        (np.array([0.0, 1.0]), None, "^codes must be integers, not float64$"),
        (torch.tensor([0.0, 1.0]), None, "^codes must be integers, not float32$"),
        (
            np.zeros((1, 2, 3), np.int64),
            None,
            r"^codes must be \[N\] or \[B, N\], or by frames \[F, 2\] or .*, not \[1, 2",
        ),
        (np.zeros((1, 1, 2, 2), np.int64), None, r"^codes must be .*, not \[1, 1, 2, 2\]$"),
        (np.int64(3), None, r"^codes must be .*, not \[\]$"),
        (np.zeros((0, 2), np.int64), None, "^the batch has no rows$"),
        (np.zeros((0, 5, 2), np.int64), None, "^the batch has no rows$"),
        (
            np.zeros((3, 2), np.int64),
            None,
            r"^codes of shape \[3, 2\] can be 3 recordings of one frame, or one recording ",
        ),
        ([1, 2, 3], None, "^the codes end within a frame: 1 are left over, a frame has 2$"),
        (np.zeros(10, np.int64), 5 * FRAME - 15, "^the codes hold 144 samples, not 145$"),
        (np.zeros(10, np.int64), -1, "^the codes hold 144 samples, not -1$"),
        ([np.zeros(2, np.int64)] * 2, [1], "^there are 1 lengths for 2 lists of codes$"),
        (np.zeros((2, 10), np.int64), [1, 2], r"^the length must be one whole number .*, not \[1, 2\]$"),
        (np.zeros((2, 10), np.int64), np.array([1, 2]), r"^the length must be one whole .*, not \[1 2\]$"),
        (np.zeros(10, np.int64), 2.5, r"^the length must be one whole number of samples, not 2\.5$"),
        ([np.zeros(2, np.int64)] * 2, [1, "2.5"], r"^the length must be one whole .*, not 2\.5$"),
    ],
    ids=str,
)
def test_bad_codes_are_refused(tokenizer: Tokenizer, codes: Any, length: int | None, sentence: str) -> None:
    with refuses(sentence):
        tokenizer.decode(codes, length)


@tiny
def test_codes_by_frames_equal_the_flat_codes(name: str) -> None:
    tokenizer = Tokenizer(random_engine(name), HASH)
    audio, tokens = noise(3, 333), tokenizer.tokens_per_frame
    flat, frames = tokenizer.encode(audio), tokenizer.encode(audio, layout="frames")
    assert frames.shape == (3, tokenizer.config.num_frames(333), tokens)
    np.testing.assert_array_equal(frames.reshape(3, -1), flat)
    np.testing.assert_array_equal(tokenizer.encode(audio[0], layout="frames"), frames[0])
    heard = tokenizer.decode(flat, 333)
    np.testing.assert_array_equal(tokenizer.decode(frames, 333), heard)
    np.testing.assert_array_equal(tokenizer.decode(frames, 333, layout="frames"), heard)
    alone = tokenizer.decode(flat[0])
    assert tokenizer.decode(frames[0], layout="frames").shape == alone.shape  # [F, K]: one recording
    np.testing.assert_array_equal(tokenizer.decode(frames[0], layout="frames"), alone)
    np.testing.assert_array_equal(tokenizer.decode(frames[0][None])[0], alone)
    rows = frames[0][:3]  # [3, K]: three recordings of one frame
    assert tokenizer.decode(rows, layout="flat").shape == (3, FRAME - tokenizer.config.synthesis_delay)
    np.testing.assert_array_equal(tokenizer.decode(flat[0].tolist()), alone)
    assert [item.shape for item in tokenizer.decode([flat[0].tolist()], 7)] == [(7,)]
    session = tokenizer.stream_decoder()
    pieces = [session.push(frames[0][:1]), session.push(frames[0][1:])]
    np.testing.assert_allclose(np.concatenate(pieces), alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "layout", "sentence"),
    [
        ((4,), "frames", r"^codes must be \[F, 2\] or \[B, F, 2\], not \[4\]$"),
        ((4, 3), "frames", r"^codes must be \[F, 2\] or \[B, F, 2\], not \[4, 3\]$"),
        ((1, 4, 2), "flat", r"^codes must be \[N\] or \[B, N\], not \[1, 4, 2\]$"),
        ((4,), "rows", r"^the layout is 'rows', but must be 'flat', 'frames' or 'codebooks_first'$"),
    ],
)
def test_codes_of_another_layout_are_refused(
    tokenizer: Tokenizer, shape: tuple[int, ...], layout: Any, sentence: str
) -> None:
    with refuses(sentence):
        tokenizer.decode(np.zeros(shape, np.int64), layout=layout)
    if layout == "rows":
        with refuses(sentence):
            tokenizer.encode(noise(100), layout=layout)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_saved_codes_are_loaded(tokenizer: Tokenizer, tmp_path: Path, rate: int) -> None:
    audio, path = noise(1234), tmp_path / "a.spt"
    codes = tokenizer.encode(audio, rate)
    tokenizer.save(path, codes, len(audio), rate)
    recording = tokenizer.load(path)
    np.testing.assert_array_equal(recording.codes, codes)
    assert (recording.length, recording.sample_rate) == (1234, rate)
    np.testing.assert_array_equal(tokenizer.decode(*recording), tokenizer.decode(codes, 1234, rate))
    with open(path, "wb") as stream:
        tokenizer.save(stream, torch.from_numpy(codes.reshape(-1, 2)), 1234, rate)
    np.testing.assert_array_equal(tokenizer.load(path).codes, codes)
    with open(path, "rb") as stream:
        assert tokenizer.load(stream).length == 1234
    tokenizer.save(path, codes)  # without a length: all samples of the codes, at the codec's own rate
    held = len(codes) // 2 * FRAME - 16
    assert tokenizer.load(path)[1:] == (held, 16000)
    assert tokenizer.decode(*tokenizer.load(path)).shape == (held,)
    header, read = read_spt(path)
    write_spt(tmp_path / "b.spt", header, read)
    assert (tmp_path / "b.spt").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("codes", "length", "sentence"),
    [
        (np.zeros(10, np.int64), 145, "^the recording holds 5 frames, but its 145 samples need 6$"),
        (np.zeros(10, np.int64), 100, "^the recording holds 5 frames, but its 100 samples need 4$"),
        (np.zeros(9, np.int64), None, "^the codes end within a frame: 1 are left over, a frame has 2$"),
        (
            np.zeros((2, 10), np.int64),
            None,
            r"^a file holds the codes of one recording, \[N\] or \[F, 2\], not \[2, 10\]$",
        ),
        (np.full(10, 64), None, "^codes must be from 0 to 63, but code 0 is 64$"),
        (np.zeros(10, np.int64), 1.5, r"^the length must be one whole number of samples, not 1\.5$"),
    ],
    ids=str,
)
def test_codes_that_cannot_be_saved_leave_no_file(
    tokenizer: Tokenizer, tmp_path: Path, codes: NDArray[np.int64], length: Any, sentence: str
) -> None:
    with refuses(sentence):
        tokenizer.save(tmp_path / "a.spt", codes, length)
    assert list(tmp_path.iterdir()) == []


def test_codes_of_another_codec_are_not_loaded(tokenizer: Tokenizer, echo: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "a.spt", np.zeros(10, np.int64))
    with refuses("^the codes were made by tiny-query with .*, not by tiny-query with weights f{16}$"):
        Tokenizer(tokenizer.engine, "f" * 16).load(tmp_path / "a.spt")
    header, codes = read_spt(tmp_path / "a.spt")
    write_spt(tmp_path / "b.spt", replace(header, num_samples=100), codes)
    with refuses("b.spt holds 5 frames, but its 100 samples need 4$"):
        tokenizer.load(tmp_path / "b.spt")


def test_an_open_file_is_encoded_like_its_path(tokenizer: Tokenizer, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(500), 16000)
    with open(tmp_path / "a.wav", "rb") as stream:
        np.testing.assert_array_equal(tokenizer.encode(stream), tokenizer.encode(tmp_path / "a.wav"))


def test_the_package_exports_what_users_need() -> None:
    streams = {"StreamDecoder", "StreamEncoder", "StreamGroup"}
    assert set(spectok.__all__) == {"InputError", "Tokenizer", "models", "read_spt", "write_spt"} | streams
    assert spectok.models() == ["spectok-16k-4k", "spectok-16k-800"]


def test_no_codes_give_no_audio(tokenizer: Tokenizer) -> None:
    for rate in (None, 48000):
        assert tokenizer.decode(np.zeros(0, np.int64), 0, rate).shape == (0,)


def test_the_header_names_the_codec_and_its_weights(tokenizer: Tokenizer) -> None:
    header = tokenizer.header(44100, 1000)  # 363 samples at 16 kHz, and 16 for the synthesis delay
    assert (header.model, header.weight_hash) == ("tiny-query", HASH)
    assert (header.sample_rate, header.num_samples) == (44100, 1000)
    assert (header.codebook_size, header.tokens_per_frame, header.frames_per_packet) == (64, 2, 800)
    tokenizer.check_header(header, 12)
    with refuses(f"^the codes were made by tiny-query with weights {HASH}, not by tiny-query with weights {'f' * 16}$"):
        Tokenizer(tokenizer.engine, "f" * 16).check_header(header, 12)
    with refuses("^the codes were made by tiny-query with .*, not by tiny-flat with "):
        Tokenizer(random_engine("flat"), HASH).check_header(header, 12)
    for damaged in (replace(header, codebook_size=65), replace(header, tokens_per_frame=65)):
        with refuses("^the codes are .* 65.*, but those of tiny-query are 2 from one of 64$|^the codes are 65 a frame"):
            tokenizer.check_header(damaged, 12)


def test_from_pretrained_by_name_and_by_folder(root: Path, tmp_path: Path) -> None:
    by_name, by_folder = Tokenizer.from_pretrained("tiny-query"), Tokenizer.from_pretrained(root / "tiny-query")
    audio = noise(500)
    expected = Tokenizer(random_engine("query", torch.float32), HASH).encode(audio)
    np.testing.assert_array_equal(by_name.encode(audio), expected)
    np.testing.assert_array_equal(by_folder.encode(audio), expected)
    assert by_name.weight_hash == by_folder.weight_hash == pretrained.find("tiny-query").sha256[:16]


@pytest.mark.parametrize("device", ["nonsense", "", "cuda:99", "meta"])
def test_devices_that_cannot_be_used_are_refused(root: Path, device: str) -> None:
    with refuses(f"^the device '{device}' cannot be used here: [^\n]+$"):
        Tokenizer.from_pretrained("tiny-query", device)


def test_weights_of_another_codec_are_refused(
    tmp_path: Path, query_config: CodecConfig, flat_config: CodecConfig
) -> None:
    write_model(tmp_path / "a", query_config)
    (tmp_path / "a" / "config.json").write_text(flat_config.to_json(), encoding="utf-8")
    with refuses("do not fit the configuration beside them$"):
        Tokenizer.from_pretrained(tmp_path / "a")
    assert CodecConfig.load(tmp_path / "a" / "config.json") == flat_config
