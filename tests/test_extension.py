"""The extension from 16 to 48 kHz: the layer, its files, engines, sessions and commands."""

import copy
import io
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from conftest import QUERY
from models import write_model
from numpy.typing import NDArray
from streams import Pipe

from recipes import extension as recipe
from spectok import InputError, Tokenizer
from spectok.cli.main import main
from spectok.config import SpectrumConfig
from spectok.export.agreement import export_verified
from spectok.model.contract import verify_streaming
from spectok.model.extension import Extension
from spectok.model.spectrum import STFT, HalvedInverseSTFT, InverseSTFT
from spectok.pretrained import Model
from spectok.resampling import resample
from spectok.weights import halved, save_tensors

SHORT = SpectrumConfig(64, 32, 64)
CODEC = SpectrumConfig()


def test_the_layer_keeps_the_contract() -> None:
    verify_streaming(Extension(SHORT, 16000), torch.randn(2, 2, 6, 32), time_axis=2, output_time_axis=1)


def test_the_halved_transform_is_the_inverse_transform() -> None:
    for config in (SpectrumConfig(960, 480, 960), SpectrumConfig(64, 8, 32)):
        positions = config.n_fft // 2 - 12
        layer = HalvedInverseSTFT(config, positions)
        verify_streaming(layer, torch.randn(2, 2, 8, positions), time_axis=2, output_time_axis=1)
        x = torch.randn(2, 2, 5, positions)
        torch.testing.assert_close(layer(x), InverseSTFT(config, positions)(x), rtol=0, atol=2e-6)


def test_silence_stays_silent() -> None:
    assert not Extension(CODEC, 16000)(torch.zeros(1, 2, 4, 160)).any()


def test_low_frequencies_and_their_delay_are_those_of_the_codec() -> None:
    torch.manual_seed(0)
    audio = torch.nn.functional.pad(torch.randn(1, 1600), (320, 320))
    spectrum = STFT(CODEC, 160)(audio)
    layer = Extension(CODEC, 16000)
    with torch.no_grad():
        layer.output.weight.zero_()
        layer.output.bias[:16] = -20  # gains
    extended = layer(spectrum).detach()[0]
    plain = InverseSTFT(CODEC, 160)(spectrum)[0]
    assert len(extended) == 3 * len(plain)
    bins = torch.fft.rfft(extended), torch.fft.rfft(plain)
    below = len(plain) * 7 // 16  # 7 kHz
    error = bins[0][:below] / 3 - bins[1][:below]
    assert 10 * torch.log10(error.abs().square().sum() / bins[1][:below].abs().square().sum()) < -45
    assert bins[0][len(plain) * 9 // 16 :].abs().max() < 0.03 * bins[1].abs().max()


def test_an_impulse_is_as_late_as_without_the_extension() -> None:
    audio = torch.zeros(1, 3200)
    audio[0, 1600] = 1
    spectrum = STFT(CODEC, 160)(audio)
    plain = InverseSTFT(CODEC, 160)(spectrum)[0].abs().argmax()
    extended = Extension(CODEC, 16000)(spectrum).detach()[0]
    assert plain == 1600 + 160
    assert abs(int(extended.abs().argmax()) - 3 * int(plain)) <= 1
    assert not extended[: 3 * 1600 - 480].any()


def test_the_level_of_the_input_scales_the_output() -> None:
    layer, spectrum = Extension(CODEC, 16000), torch.randn(1, 2, 4, 160)
    with torch.no_grad():
        layer.output.weight.zero_()
    torch.testing.assert_close(layer(0.01 * spectrum), 0.01 * layer(spectrum), rtol=1e-4, atol=1e-6)


def test_the_cost_is_below_40_million_multiplications_a_second() -> None:
    layer = Extension(CODEC, 16000)
    assert 100 * layer.macs_per_frame < 40e6
    assert sum(parameter.numel() for parameter in layer.parameters()) < 55_000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, speech: NDArray[np.float32]) -> Model:
    """A random model with a random extension and all graphs."""
    found = write_model(tmp_path_factory.mktemp("extended") / "tiny", QUERY)
    torch.manual_seed(0)
    extension = Extension(QUERY.spectrum, QUERY.sample_rate)
    save_tensors(found.folder / "extension.safetensors", halved(extension.state_dict()), {})
    export_verified(found, speech[16000:20000], found.folder)
    return found


@pytest.fixture(params=["onnx", "torch"])
def tokenizer(model: Model, request: pytest.FixtureRequest) -> Tokenizer:
    return Tokenizer.from_pretrained(model.folder, engine=request.param)


def close(found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    """Equal up to rounding; the random codec is loud."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * max(1.0, float(np.abs(expected).max())))


def test_streams_are_offline_decoding(tokenizer: Tokenizer, speech: NDArray[np.float32]) -> None:
    codes = tokenizer.encode(speech[16000:24000])
    whole = tokenizer.decode(codes, 24000, extend=True)
    assert len(whole) == 24000 and np.abs(whole).max() > 1e-3
    for size in (1, 7, 64):
        session = tokenizer.stream_decoder(extend=True)
        assert session.sample_rate == 48000
        pieces = [session.push(codes[start : start + size]) for start in range(0, len(codes), size)]
        joined = np.concatenate([*pieces, session.flush()])
        close(joined[:24000], whole)


def test_streams_of_a_group_are_sessions(tokenizer: Tokenizer, speech: NDArray[np.float32]) -> None:
    """Of other lengths, joined at other times, one of them at a rate of its own."""
    rows = [tokenizer.encode(speech[start:stop]) for start, stop in ((16000, 20000), (20000, 23000), (24000, 28000))]
    rates = (48000, 48000, 24000)
    sessions = [tokenizer.stream_decoder(rate, extend=True) for rate in rates]
    expected = [np.concatenate([each.push(row), each.flush()]) for each, row in zip(sessions, rows, strict=True)]
    group, half = tokenizer.decoder_group(extend=True), len(rows[0]) // 2
    keys = [group.join()]
    heard = [group.push({keys[0]: rows[0][:half]})[keys[0]]]
    keys += [group.join(rate) for rate in rates[1:]]
    found = group.push(dict(zip(keys, [rows[0][half:], *rows[1:]], strict=True)))
    found[keys[0]] = np.concatenate([*heard, found[keys[0]]])
    for key, audio in zip(keys, expected, strict=True):
        close(np.concatenate([found[key], group.leave(key)]), audio)
    with pytest.raises(InputError, match="an extension needs a sample rate of the output above 16000 Hz, not 8000"):
        tokenizer.decoder_group(8000, extend=True)


def test_rows_of_a_batch_are_decoded_alone(tokenizer: Tokenizer, speech: NDArray[np.float32]) -> None:
    codes = tokenizer.encode(np.stack([speech[16000:20000], speech[20000:24000]]))
    rows = tokenizer.decode(codes, extend=True)
    close(tokenizer.decode(codes[1], extend=True), rows[1])


def test_other_rates_are_resampled_from_48_khz(tokenizer: Tokenizer, speech: NDArray[np.float32]) -> None:
    codes = tokenizer.encode(speech[16000:20000])
    high = tokenizer.decode(codes, 12000, extend=True)
    lower = tokenizer.decode(codes, 6000, 24000, extend=True)
    close(lower, resample(high, 48000, 24000))


def test_the_context_of_a_part_has_no_audio(tokenizer: Tokenizer, speech: NDArray[np.float32]) -> None:
    codes = tokenizer.encode(speech[16000:20000], layout="frames")
    whole = tokenizer.decode(codes.reshape(-1), extend=True)
    part = tokenizer.decode(codes, layout="frames", context=20, extend=True)
    close(part, whole[-len(part) :])


@pytest.mark.parametrize("place", [0, 5, 40])
def test_a_session_continues_bit_for_bit(tokenizer: Tokenizer, speech: NDArray[np.float32], place: int) -> None:
    codes = tokenizer.encode(speech[16000:20000])
    session = tokenizer.stream_decoder(extend=True)
    session.push(codes[:place])
    kept, others = session.state_dict(), [copy.copy(session), pickle.loads(pickle.dumps(session))]
    others.append(tokenizer.stream_decoder(extend=True))
    others[-1].load_state_dict(kept)
    rest = session.push(codes[place:])
    for other in others:
        np.testing.assert_array_equal(other.push(codes[place:]), rest)
    with pytest.raises(InputError, match="the kept session has the side extended, not decoder"):
        tokenizer.stream_decoder().load_state_dict(kept)


def test_lost_frames_fade(tokenizer: Tokenizer, speech: NDArray[np.float32]) -> None:
    session = tokenizer.stream_decoder(extend=True)
    session.push(tokenizer.encode(speech[16000:20000]))
    heard = [session.push(None) for _ in range(12)]
    assert {len(piece) for piece in heard} == {3 * tokenizer.frame_length}
    assert np.abs(heard[0]).max() > 0 and not heard[-1].any()


def test_latency(tokenizer: Tokenizer) -> None:
    session = tokenizer.stream_decoder(extend=True)
    plain = tokenizer.stream_decoder(48000)
    assert 3 * tokenizer.config.latency_samples <= session.latency_samples < plain.latency_samples


def test_the_same_audio_at_the_codecs_rate(model: Model, tokenizer: Tokenizer, speech: NDArray[np.float32]) -> None:
    """The further output of the decoder's graph changes nothing."""
    codes = tokenizer.encode(speech[16000:20000])
    plain = Tokenizer.from_pretrained(model.folder, engine="torch").decode(codes, 4000)
    close(tokenizer.decode(codes, 4000), plain)


def test_what_cannot_be_extended_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert tokenizer.can_extend
    for call in (tokenizer.stream_decoder, lambda rate, extend: tokenizer.decode([0, 0], None, rate, extend=extend)):
        with pytest.raises(InputError, match=r"needs a sample rate of the output above 16000 Hz, not 16000$"):
            call(16000, extend=True)
    other = Tokenizer.from_pretrained(write_model(tmp_path / "other", QUERY).folder)
    assert not other.can_extend
    with pytest.raises(InputError, match=r"^the model tiny-query has no extension to higher frequencies$"):
        other.decode(np.zeros(0, np.int64), extend=True)


def test_a_damaged_extension_is_an_error(model: Model, tmp_path: Path) -> None:
    shutil.copytree(model.folder, tmp_path / "copy")
    (tmp_path / "copy" / "extension.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InputError, match=r"extension\.safetensors"):
        Tokenizer.from_pretrained(tmp_path / "copy", engine="torch")
    damaged = Tokenizer.from_pretrained(tmp_path / "copy", engine="onnx")
    with pytest.raises(InputError, match=r"extension\.onnx was made from other weights than extension\.safetensors"):
        damaged.decode(np.zeros(2, np.int64), extend=True)


def test_the_command_line(model: Model, speech: NDArray[np.float32], tmp_path: Path) -> None:
    soundfile.write(tmp_path / "in.wav", speech[16000:24000], 16000)
    spt, out, folder = (str(tmp_path / name) for name in ("a.spt", "out.wav", ""))
    assert main(["encode", f"{folder}/in.wav", spt, "--model", str(model.folder)]) == 0
    decode = ["decode", spt, out, "-f", "--model", str(model.folder)]
    tokenizer = Tokenizer.from_pretrained(model.folder)
    codes = tokenizer.load(spt).codes
    for options, rate, expected in (
        (["--sample-rate", "48000", "--extend"], 48000, tokenizer.decode(codes, 24000, extend=True)),
        (["--sample-rate", "24000", "--extend"], 24000, tokenizer.decode(codes, 12000, 24000, extend=True)),
        (["--sample-rate", "48000"], 48000, tokenizer.decode(codes, 24000, 48000)),
        (["--sample-rate", "48000", "--extend", "--start", "0.1", "--end", "0.3"], 48000, None),
    ):
        assert main([*decode, *options]) == 0
        audio, found = soundfile.read(out, dtype="float32")
        assert found == rate
        if expected is None:
            expected = tokenizer.decode(codes, 24000, extend=True)[4800:14400]
        np.testing.assert_allclose(audio, expected.clip(-1, 1), rtol=0, atol=1e-4)


def test_the_command_line_on_a_pipe(
    model: Model, speech: NDArray[np.float32], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = Tokenizer.from_pretrained(model.folder)
    codes = tokenizer.encode(speech[16000:20000])
    tokenizer.save(tmp_path / "a.spt", codes, 4000)
    content = (tmp_path / "a.spt").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Pipe(content))))
    out = str(tmp_path / "out.wav")
    options = ["--model", str(model.folder), "--sample-rate", "48000", "--extend"]
    assert main(["decode", "-", out, *options]) == 0
    audio, rate = soundfile.read(out, dtype="float32")
    assert rate == 48000
    np.testing.assert_allclose(audio, tokenizer.decode(codes, 12000, extend=True).clip(-1, 1), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--extend"], "an extension needs a sample rate of the output above 16000 Hz, not 16000"),
        (["--extend", "--sample-rate", "8000"], "above 16000 Hz, not 8000"),
        (["--sample-rate", "7"], "--sample-rate has a sample rate of 7 Hz"),
    ],
)
def test_options_that_are_refused(
    options: list[str],
    sentence: str,
    model: Model,
    speech: NDArray[np.float32],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tokenizer = Tokenizer.from_pretrained(model.folder)
    tokenizer.save(tmp_path / "a.spt", tokenizer.encode(speech[16000:20000]))
    command = ["decode", str(tmp_path / "a.spt"), str(tmp_path / "out.wav"), "--model", str(model.folder), *options]
    assert main(command) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out.wav").exists()


def test_a_recording_that_is_played_slower_has_less_bandwidth() -> None:
    def clip(source: str, speed: float) -> recipe.Clip:
        empty: Any = np.zeros(0)
        return recipe.Clip(recipe.SOURCES.index(source), speed, empty, empty, empty, empty)

    layer = Extension(SpectrumConfig(), 16000)
    clips = [clip("rhasspy_kathleen", 1.0), clip("rhasspy_kerstin", 1.0), clip("rhasspy_kerstin", 0.88)]
    assert [each.bandwidth for each in clips] == [20000, 16500, 14520]
    known = recipe.known_bands(layer, clips, 50.0)[:, 0]
    assert known.sum(dim=1).tolist() == [16, 11, 9]  # from 8 to 19.95 kHz there are 16 bands
    assert known.tolist() == known.sort(dim=1, descending=True).values.tolist()  # from the lowest one up
