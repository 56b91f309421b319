import hashlib
import json
import os
import shutil
import tempfile
import tomllib
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from conftest import missed
from hypothesis import given, settings
from hypothesis import strategies as st
from make_golden import GOLDEN, codes, samples
from models import in_double_precision, released, released_codec, use_root, write_root
from numpy.typing import NDArray

from spectok import InputError, Tokenizer, pretrained
from spectok.audio import read_audio
from spectok.engine import load_engine
from spectok.evaluation.metrics import pesq_wb, stoi
from spectok.resampling import resample
from spectok.weights import load_tensors, save_tensors

CLIPS = sorted((Path(__file__).parent / "data").glob("*.flac"))
FLOORS = {  # means over the two clips; `codes` is the number of different codes in both
    "spectok-16k-4k": {"pesq": 1.9, "stoi": 0.86, "codes": 700},
    "spectok-16k-800": {"pesq": 1.25, "stoi": 0.78, "codes": 250},
}
BUDGETS = {
    "spectok-16k-4k": {"bitrate": 4000, "tokens": 8, "codebook": 1024, "macs": 0.25e9, "parameters": 1.6e6},
    "spectok-16k-800": {"bitrate": 800, "tokens": 1, "codebook": 65536, "macs": 0.35e9, "parameters": 3e6},
}
every_model = pytest.mark.parametrize("name", sorted(BUDGETS))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A writable folder with two tiny released models."""
    write_root(tmp_path / "pretrained")
    use_root(monkeypatch, tmp_path / "pretrained")
    return tmp_path / "pretrained"


def refuses(sentence: str) -> pytest.RaisesExc[InputError]:
    return pytest.raises(InputError, match=sentence)


def test_the_released_models_are_these() -> None:
    assert pretrained.models() == sorted(BUDGETS)
    assert pretrained.DEFAULT in BUDGETS


@every_model
def test_the_index_names_the_files(name: str) -> None:
    index = tomllib.loads((pretrained.root() / "index.toml").read_text(encoding="utf-8"))[name]
    model = pretrained.find(name)
    assert model.weights == pretrained.root() / name / "model.safetensors"
    assert tuple(index) == pretrained.FILES
    for file, sha256 in index.items():
        assert hashlib.sha256((model.folder / file).read_bytes()).hexdigest() == sha256, file
    assert model.sha256 == index["model.safetensors"]
    assert released(name).weight_hash == model.weight_hash == model.sha256[:16]
    assert model.config == released(name).config


@every_model
def test_weights_are_exactly_those_of_the_codec(name: str) -> None:
    stored, _ = load_tensors(pretrained.find(name).weights)
    codec = released_codec(name)
    assert stored.keys() == codec.state_dict().keys()
    for key, value in codec.state_dict().items():
        assert torch.equal(value, stored[key]), key
        assert bool(torch.isfinite(stored[key]).all()), key


@every_model
def test_budgets(name: str) -> None:
    config, codec, budget = released(name).config, released_codec(name), BUDGETS[name]
    assert config.name == name
    assert (config.sample_rate, config.frame_rate, config.bitrate) == (16000, 50, budget["bitrate"])
    assert config.quantizer.tokens_per_frame == budget["tokens"]
    assert config.quantizer.codebook_size == budget["codebook"]
    assert config.latency_samples <= 480  # 30 ms
    assert (codec.latency_samples, codec.frame_rate, codec.bitrate) == (config.latency_samples, 50, budget["bitrate"])
    assert codec.token_rate == 50 * budget["tokens"]
    assert codec.num_parameters <= budget["parameters"]
    assert 0 < sum(codec.macs_per_second().values()) <= budget["macs"]


@every_model
def test_quality_and_variety(name: str) -> None:
    tokenizer, floor = released(name), FLOORS[name]
    scores, codes = [], []
    for clip in CLIPS:
        audio, _ = read_audio(clip, 16000)
        codes.append(tokenizer.encode(audio))
        heard = tokenizer.decode(codes[-1], len(audio))
        scores.append((pesq_wb(audio, heard), stoi(audio, heard)))
    pesq, intelligibility = np.mean(scores, axis=0)
    assert len(scores) == 2
    assert pesq > floor["pesq"]
    assert intelligibility > floor["stoi"]
    assert len(np.unique(np.concatenate(codes))) > floor["codes"]


def decibels(audio: NDArray[np.float32]) -> float:
    return float(10 * np.log10(np.mean(np.square(audio, dtype=np.float64)) + 1e-20))


@every_model
def test_the_level_of_speech_is_kept_and_silence_stays_silent(name: str, speech: NDArray[np.float32]) -> None:
    """One second of silence is decoded below -70 dB (-66 dB for spectok-16k-800, which starts with a faint click)."""
    tokenizer = released(name)
    silence = tokenizer.decode(tokenizer.encode(np.zeros(16000, np.float32)))
    assert decibels(silence) < {"spectok-16k-800": -66}.get(name, -70)
    assert decibels(silence[8000:]) < -90
    changes = []
    for gain in (1.0, 0.1):
        heard = tokenizer.decode(tokenizer.encode(gain * speech), len(speech))
        changes.append(decibels(heard) - decibels(gain * speech))
    assert max(np.abs(changes)) < 3
    assert abs(changes[0] - changes[1]) < 1.5
    whisper = speech * 10 ** ((-60 - decibels(speech)) / 20)
    assert decibels(tokenizer.decode(tokenizer.encode(whisper), len(speech))) < -55
    loud = speech / np.abs(speech).max()
    assert np.abs(tokenizer.decode(tokenizer.encode(loud), len(speech))).max() < 1.25  # of full scale


@every_model
def test_the_band_above_3_khz_does_not_repeat_from_frame_to_frame(name: str, speech: NDArray[np.float32]) -> None:
    """The band's autocorrelation at a lag of one frame, and of half a frame, is small.

    At one frame it is -.06 in the original; models without random signs had .49 and .65, heard as a buzz. At half a
    frame it is .01 in the original; a model that learned to fill every other bin had .29.
    """
    tokenizer = released(name)
    spectrum = np.fft.rfft(tokenizer.decode(tokenizer.encode(speech), len(speech)))
    spectrum[: round(3000 * len(speech) / 16000)] = 0
    high, length = np.fft.irfft(spectrum, len(speech)), tokenizer.config.frame_length
    for lag in (length, length // 2):
        assert abs(np.corrcoef(high[lag:], high[:-lag])[0, 1]) < 0.15


@every_model
def test_codes_and_decoded_samples_equal_the_golden_ones(name: str) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))[name]
    assert golden["weights"] == pretrained.find(name).sha256, "new weights need tests/make_golden.py"
    assert codes(name) == golden["codes"]
    assert len(golden["codes"]) == 101 * released(name).tokens_per_frame
    assert np.std(golden["samples"]) > 0.02  # speech
    np.testing.assert_allclose(samples(name, golden["codes"]), golden["samples"], rtol=0, atol=1e-9)


def few(different: NDArray[np.bool_]) -> bool:
    """Whether at most 1 in 500 codes differ, or one in a short stream.

    In float32 the order of additions, and so the last bits, depend on the length of a step and on its number of rows. A
    latent very close to a decision boundary may then get another code. In float64, other tests find no difference.
    """
    return int(different.sum()) <= 1 + different.size // 500


def streamed(
    tokenizer: Tokenizer, audio: NDArray[np.float32], size: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Codes and audio of an encoder and a decoder session that get `size` samples at a time."""
    encoder, decoder = tokenizer.stream_encoder(), tokenizer.stream_decoder()
    codes = [encoder.push(audio[start : start + size]) for start in range(0, len(audio), size)] + [encoder.flush()]
    return np.concatenate(codes), np.concatenate([decoder.push(chunk) for chunk in codes])[: len(audio)]


@every_model
@pytest.mark.parametrize(("size", "length"), [(1, 3333), (320, 32000), (592, 32000), (32000, 32000)])
def test_streaming_equals_offline_on_speech(name: str, size: int, length: int, speech: NDArray[np.float32]) -> None:
    tokenizer, audio = in_double_precision(name), speech[8000 : 8000 + length]
    codes, heard = streamed(tokenizer, audio, size)
    np.testing.assert_array_equal(codes, tokenizer.encode(audio))
    np.testing.assert_allclose(heard, tokenizer.decode(codes, length), rtol=0, atol=1e-9)
    codes, heard = streamed(released(name), audio, size)
    assert few(codes != released(name).encode(audio))
    np.testing.assert_allclose(heard, released(name).decode(codes, length), rtol=0, atol=1e-5)


@every_model
def test_a_batch_of_speech_equals_its_rows(name: str, speech: NDArray[np.float32]) -> None:
    audio = np.stack([speech[start : start + 8000] for start in (8000, 20000, 40000)])
    for tokenizer, tolerance in ((in_double_precision(name), 1e-9), (released(name), 1e-5)):
        codes = tokenizer.encode(audio)
        heard = tokenizer.decode(codes, 8000)
        single = np.stack([tokenizer.encode(row) for row in audio])
        assert np.array_equal(single, codes) if tolerance == 1e-9 else few(single != codes)
        for row in range(3):
            np.testing.assert_allclose(tokenizer.decode(codes[row], 8000), heard[row], rtol=0, atol=tolerance)


@every_model
def test_latency_is_the_reported_one(name: str, speech: NDArray[np.float32]) -> None:
    tokenizer = released(name)
    encoder, decoder = tokenizer.stream_encoder(), tokenizer.stream_decoder()
    heard, worst = 0, 0
    for pushed in range(1, 1601):
        out = decoder.push(encoder.push(speech[pushed - 1 : pushed]))
        if len(out):
            worst = max(worst, pushed - heard)
        heard += len(out)
    assert worst == encoder.latency_samples == decoder.latency_samples


@every_model
def test_a_stereo_file_at_44100_hz(name: str, speech: NDArray[np.float32], tmp_path: Path) -> None:
    tokenizer = released(name)
    left = resample(speech[8000:24000], 16000, 44100)
    path = tmp_path / "stereo.wav"
    soundfile.write(path, np.stack([left, 0.5 * np.roll(left, 30)], axis=1), 44100, subtype="FLOAT")
    mono, rate = read_audio(path)
    codes = tokenizer.encode(path)
    np.testing.assert_array_equal(codes, tokenizer.encode(mono, 44100))
    assert len(codes) == tokenizer.tokens_per_frame * 51  # 16,000 samples and 160 of overlap
    heard = tokenizer.decode(codes, len(mono), rate)
    assert heard.shape == mono.shape == (44100,)
    np.testing.assert_array_equal(heard, resample(tokenizer.decode(codes, 16000), 16000, 44100))


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("position", [8, 5000, -1])
def test_a_changed_byte_is_detected(root: Path, position: int) -> None:
    assert pretrained.find("tiny-query").config.name == "tiny-query"
    flip(root / "tiny-query" / "model.safetensors", position)
    with refuses(
        r"^the file .*tiny-query.*model.safetensors is damaged: its SHA-256 is not the one that index\.toml names$"
    ):
        Tokenizer.from_pretrained("tiny-query")
    assert pretrained.find("tiny-flat").config.name == "tiny-flat"


@pytest.mark.parametrize("file", pretrained.FILES)
def test_a_changed_byte_in_a_copy_of_the_release_is_detected(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(pretrained.root(), tmp_path / "pretrained")
    use_root(monkeypatch, tmp_path / "pretrained")
    path = tmp_path / "pretrained" / pretrained.DEFAULT / file
    monkeypatch.setattr(pretrained, "_entropy_models", {})  # otherwise it is not read again
    flip(path, path.read_bytes().index(b"16k") if file == "config.json" else -1)  # which leaves the JSON valid
    with refuses(rf"^the file .*{file} is damaged: its SHA-256 is not the one that index\.toml names$"):
        tokenizer = Tokenizer.from_pretrained()
        tokenizer.decode(tokenizer.encode(np.zeros(1000, np.float32)))
        tokenizer.decode([0] * tokenizer.tokens_per_frame, extend=True)
        tokenizer.save(tmp_path / "a.spt", [])


def test_an_unknown_model_is_refused_by_name(root: Path) -> None:
    with refuses("^there is no model 'spectok-8k'; known are tiny-flat, tiny-query, or give a folder$"):
        pretrained.find("spectok-8k")


def test_a_folder_without_index_has_no_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_root(monkeypatch, tmp_path)
    assert pretrained.models() == []


def test_the_package_comes_before_the_source_tree(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_root(tmp_path / "packaged")
    monkeypatch.setattr(pretrained, "PACKAGED", tmp_path / "packaged")
    assert pretrained.find("tiny-flat").weights == tmp_path / "packaged" / "tiny-flat" / "model.safetensors"


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (lambda data: data.update(window=3), r"config\.json has the unknown key 'window'; known are bottleneck, "),
        (lambda data: data["tower"].update(depth=3), r"config\.json: tower has the unknown key 'depth'; "),
        (lambda data: data.update(latent_dim="12"), r"config\.json: latent_dim is '12', but must be of type int$"),
    ],
)
def test_a_configuration_is_read_strictly(root: Path, edit: Callable[[dict[str, Any]], object], sentence: str) -> None:
    path = root / "tiny-query" / "config.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    edit(data)
    path.write_text(json.dumps(data), encoding="utf-8")
    for name in ("tiny-query", root / "tiny-query"):
        with refuses(sentence):
            Tokenizer.from_pretrained(name)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(root: Path, file: str) -> None:
    (root / "tiny-query" / file).unlink()
    for name in ("tiny-query", root / "tiny-query"):
        with refuses(f"^cannot read [^\n]*{file}: [^\n]*No such file or directory[^\n]*$"):
            Tokenizer.from_pretrained(name)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_weights_cut_off_are_refused_in_a_folder(root: Path, keep: int) -> None:
    path = root / "tiny-query" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with refuses("^cannot read [^\n]*model.safetensors: [^\n]+$"):
        Tokenizer.from_pretrained(root / "tiny-query")


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_weights_are_loaded_strictly(root: Path, change: str) -> None:
    path = root / "tiny-query" / "model.safetensors"
    tensors, _ = load_tensors(path)
    first = next(iter(tensors))
    if change == "missing":
        del tensors[first]
    else:
        tensors["more" if change == "extra" else first] = torch.zeros(3, 1, 4, 1, 5)
    save_tensors(path, tensors, {})
    with refuses("^the weights [^\n]*model.safetensors do not fit the configuration beside them$"):
        Tokenizer.from_pretrained(root / "tiny-query")


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_weights_of_a_folder_that_change_after_it_was_found_are_refused(engine: str, tmp_path: Path) -> None:
    shutil.copytree(pretrained.find().folder, tmp_path / "copy")
    model = pretrained.find(tmp_path / "copy")
    flip(model.weights, -1)
    with refuses(r"^the file [^\n]*copy.model\.safetensors has changed since the model was found$"):
        load_engine(model, engine)


def test_the_releases_take_at_most_9_megabytes() -> None:
    """Each holds its weights once: the graphs, which refer to them, take a tenth of it."""
    folders = [pretrained.find(name).folder for name in pretrained.models()]
    paths = [path for folder in folders for path in folder.iterdir()]
    extensions = [path for path in paths if path.stem == "extension"]
    assert sum(path.stat().st_size for path in paths if path.stem != "extension") <= 9e6
    assert sum(len(zlib.compress(path.read_bytes())) for path in extensions) <= len(folders) * 150e3  # as in the wheel
    for folder in folders:
        assert (folder / "encoder.onnx").stat().st_size <= 52e3
        assert (folder / "decoder.onnx").stat().st_size <= 300e3
        robust = [path for path in (folder / "robust").iterdir() if path.name != "training.json"]  # without its record
        assert sum(path.stat().st_size for path in robust) <= 0.6e6


@missed("51,111 bytes at 0.8 kbit/s, since the encoder has the codes of silence")
def test_the_graphs_of_encoders_take_at_most_50_kilobytes() -> None:
    assert all((pretrained.find(name).folder / "encoder.onnx").stat().st_size <= 50e3 for name in pretrained.models())


def test_a_released_model_is_found_by_the_hash_of_its_weights() -> None:
    for name in pretrained.models():
        assert pretrained.named(pretrained.find(name).weight_hash) == name
    assert pretrained.named("0123456789abcdef") is None


@pytest.mark.parametrize(
    ("section", "key", "value", "sentence"),
    [
        ("quantizer", "tokens_per_frame", 4, "a frame of its codes has the size 8, but config.json says 4"),
        ("spectrum", "hop_length", 80, "a frame of its audio has the size 320, but config.json says 160"),
    ],
)
@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_graphs_must_fit_the_configuration(
    tmp_path: Path, side: str, section: str, key: str, value: int, sentence: str
) -> None:
    shutil.copytree(pretrained.find().folder, tmp_path / "copy")
    data = json.loads((tmp_path / "copy" / "config.json").read_text(encoding="utf-8"))
    data[section][key] = value
    data["silence_codes"] = []  # they fit the model's own number of tokens
    (tmp_path / "copy" / "entropy.dat").unlink()  # it does so too
    (tmp_path / "copy" / "config.json").write_text(json.dumps(data), encoding="utf-8")
    tokenizer = Tokenizer.from_pretrained(tmp_path / "copy")
    with refuses(f"^cannot read [^\n]*{side}.onnx: {sentence}$"):
        if side == "encoder":
            tokenizer.encode(np.zeros(1000, np.float32))
        else:
            tokenizer.decode(np.zeros(16, np.int64))


def test_an_entropy_model_must_fit_the_configuration(tmp_path: Path) -> None:
    shutil.copytree(pretrained.find().folder, tmp_path / "copy")
    path = tmp_path / "copy" / "entropy.dat"
    path.write_bytes(path.read_bytes()[:-1])
    with refuses("^cannot read [^\n]*entropy.dat: an entropy model is damaged, or has another number of tokens"):
        Tokenizer.from_pretrained(tmp_path / "copy")


def test_a_model_file_must_be_regular_and_of_limited_size(tmp_path: Path) -> None:
    """A pipe without a writer would wait forever, a device never ends, and a sparse file claims any size."""
    shutil.copytree(pretrained.find().folder, tmp_path / "copy")
    for file, most in (("config.json", 100_000), ("model.safetensors", 1_000_000_000)):
        path, content = tmp_path / "copy" / file, (tmp_path / "copy" / file).read_bytes()
        path.unlink()
        os.mkfifo(path)
        with refuses(f"^cannot read [^\n]*{file}: it is not a regular file$"):
            pretrained.find(tmp_path / "copy")
        path.unlink()
        path.symlink_to("/dev/zero")
        with refuses(f"^cannot read [^\n]*{file}: it is not a regular file$"):
            pretrained.find(tmp_path / "copy")
        path.unlink()
        path.touch()
        os.truncate(path, most + 1)
        with refuses(f"^cannot read [^\n]*{file}: it has {most + 1} bytes, but may have at most {most}$"):
            pretrained.find(tmp_path / "copy")
        path.write_bytes(content)
    assert pretrained.find(tmp_path / "copy").weight_hash == pretrained.find().weight_hash


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"[tiny-query", "cannot read [^\n]*index.toml: Expected [^\n]*"),
        (b"\xff", "cannot read [^\n]*index.toml: 'utf-8' codec can't decode [^\n]*"),
        (b"a = " + b"[\n" * 20_000, "cannot read [^\n]*index.toml: maximum recursion depth exceeded[^\n]*"),
        (b"a." * 8000 + b"a = 1", "[^\n]*index.toml has a line of 16005 bytes, over 200"),
        (b"tiny = 3", "[^\n]*index.toml has no SHA-256 of files for 'tiny'"),
        (b'["tiny"]\n"config.json" = "0123"', "[^\n]*index.toml has no SHA-256 of files for 'tiny'"),
        (b'["../other"]', r"[^\n]*index.toml has no SHA-256 of files for '\.\./other'"),
        (b"\n" * 50_001, "cannot read [^\n]*index.toml: it has 50001 bytes, but may have at most 50000"),
    ],
    ids=["open", "bytes", "deep", "dots", "number", "short", "path", "large"],
)
def test_a_malformed_index_is_one_sentence(root: Path, content: bytes, sentence: str) -> None:
    (root / "index.toml").write_bytes(content)
    for function in (pretrained.models, pretrained.find):
        with refuses(f"^{sentence}$"):
            function()


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.binary(max_size=40) | st.text('[]="a.\\n0', max_size=40).map(str.encode))
def test_any_index_is_read_or_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "index.toml").write_bytes(content)
        try:
            index = pretrained.read_index(Path(folder))
        except InputError as error:
            assert "index.toml" in str(error)
        else:
            assert all(hashes == {} for hashes in index.values())
