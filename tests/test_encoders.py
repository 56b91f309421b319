"""Further encoders of a model: finding, loading, exporting and releasing them, and encoding with them."""

import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FLAT, QUERY
from models import random_codec, use_root, write_model, write_root
from numpy.typing import NDArray

from recipes.release import check_encoder, release_encoder, renew_encoder
from spectok import InputError, Tokenizer, pretrained
from spectok.cli.main import main
from spectok.config import CodecConfig
from spectok.engine import load_codec
from spectok.export.agreement import export_verified
from spectok.model.codec import Codec, Encoder
from spectok.pretrained import Model
from spectok.weights import halved, load_tensors, save_tensors

LEVELLED = dataclasses.replace(QUERY, leveller=True)


def encoder_of(config: CodecConfig = LEVELLED) -> Encoder:
    """An encoder with other random weights than those of the model."""
    torch.manual_seed(1)
    encoder = random_codec(config).encoder
    with torch.no_grad():
        encoder.project.weight.mul_(-1)
    return encoder


def write_encoder(model: Path, name: str = "robust", config: CodecConfig = LEVELLED) -> Path:
    """Write a random encoder into the folder of a model."""
    folder = model / name
    folder.mkdir()
    (folder / "config.json").write_text(config.to_json(), encoding="utf-8")
    save_tensors(folder / "model.safetensors", encoder_of(config).state_dict(), {})
    return folder


def expected_codes(model: Model, audio: NDArray[np.float32]) -> NDArray[np.int64]:
    codec = Codec(LEVELLED).eval()
    codec.load_state_dict(load_codec(model).state_dict())
    codec.encoder.load_state_dict(encoder_of().state_dict())
    padded = np.pad(audio, (0, model.config.padded_length(len(audio)) - len(audio)))
    with torch.inference_mode():
        return codec.encode_step(torch.from_numpy(padded)[None], codec.encoder.init_state(1))[0][0].numpy()


def test_a_tokenizer_encodes_with_the_encoder_and_decodes_as_ever(tmp_path: Path, speech: NDArray[np.float32]) -> None:
    model = write_model(tmp_path / "tiny", QUERY)
    write_encoder(model.folder)
    audio = speech[:8000]
    plain, robust = (Tokenizer.from_pretrained(model.folder, encoder=name) for name in (None, "robust"))
    codes = robust.encode(audio)
    assert np.array_equal(codes, expected_codes(model, audio))
    assert (codes != plain.encode(audio)).mean() > 0.5
    assert np.array_equal(robust.decode(codes), plain.decode(codes))
    assert robust.weight_hash == plain.weight_hash and robust.config == plain.config
    stream = robust.stream_encoder()
    chunks = [stream.push(chunk) for chunk in np.array_split(audio, 7)]
    assert np.array_equal(np.concatenate([*chunks, stream.flush()]), codes)
    with pytest.raises(InputError, match=r"^the state is of another engine or codec: "):
        plain.stream_encoder().load_state_dict(stream.state_dict())


def test_both_engines_give_the_same_codes(tmp_path: Path, speech: NDArray[np.float32]) -> None:
    model = write_model(tmp_path / "tiny", QUERY)
    folder = write_encoder(model.folder)
    export_verified(model, speech[:8000], model.folder)
    before = (model.folder / "encoder.onnx").read_bytes()
    export_verified(model, speech[:8000], folder, pretrained.find_encoder(model, "robust"))
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "encoder.onnx", "model.safetensors"]
    assert (model.folder / "encoder.onnx").read_bytes() == before
    onnx = Tokenizer.from_pretrained(model.folder, encoder="robust")
    assert onnx.engine.name == "onnx on 1 thread"
    copied = pickle.loads(pickle.dumps(onnx))
    for tokenizer in (onnx, copied, Tokenizer.from_pretrained(model.folder, engine="torch", encoder="robust")):
        assert np.array_equal(tokenizer.encode(speech[:8000]), expected_codes(model, speech[:8000]))
    (folder / "encoder.onnx").write_bytes(before)  # the graph of the model's own encoder
    with pytest.raises(InputError, match=r"encoder.onnx was made from other weights than "):
        Tokenizer.from_pretrained(model.folder, encoder="robust").encode(speech[:8000])


def test_encoders_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    model = write_model(tmp_path / "tiny", QUERY)
    with pytest.raises(InputError, match=r"^the model tiny-query has no encoder 'robust'; it has none but its own$"):
        pretrained.find_encoder(model, "robust")
    write_encoder(model.folder, "other", dataclasses.replace(FLAT, leveller=True))
    with pytest.raises(InputError, match=r"^the model tiny-query has no encoder '\.\./x'; it has 'other'$"):
        pretrained.find_encoder(model, "../x")
    with pytest.raises(InputError, match=r"^the encoder .*other is of another codec than .*tiny$"):
        pretrained.find_encoder(model, "other")


def test_the_index_names_encoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speech: NDArray[np.float32]) -> None:
    root = tmp_path / "pretrained"
    write_root(root)
    use_root(monkeypatch, root)
    folder = write_encoder(root / "tiny-query")
    model = pretrained.find("tiny-query")
    assert pretrained.encoders(model) == []  # it is not in the index
    pretrained.write_index(root, "tiny-query/robust")
    assert pretrained.encoders(model) == ["robust"]
    assert pretrained.models() == ["tiny-flat", "tiny-query"]
    encoder = pretrained.find_encoder(model, "robust")
    assert pretrained.named(encoder.sha256[:16]) is None and pretrained.named(model.weight_hash) == "tiny-query"
    assert len(Tokenizer.from_pretrained("tiny-query", encoder="robust").encode(speech[:3200]))
    with pytest.raises(InputError, match=r"^there is no model 'tiny-query/robust'; known are tiny-flat, tiny-query, "):
        pretrained.find("tiny-query/robust")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(InputError, match=r"model.safetensors is damaged: its SHA-256 is not the one that index.toml "):
        Tokenizer.from_pretrained("tiny-query", encoder="robust")


def test_a_run_is_released_as_an_encoder_of_the_model_that_it_started_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speech: NDArray[np.float32]
) -> None:
    root = tmp_path / "pretrained"
    codec = dataclasses.replace(QUERY, name="tiny")
    weights = halved(load_tensors(write_model(root / "tiny", codec).weights)[0])
    save_tensors(root / "tiny" / "model.safetensors", weights, {})
    model = pretrained.find(root / "tiny")
    export_verified(model, speech[:8000], model.folder)
    pretrained.write_index(root, "tiny")
    use_root(monkeypatch, root)
    robust = dataclasses.replace(codec, leveller=True, denoiser_hidden=6)
    run = write_model(tmp_path / "run" / "release", robust).folder.parent
    path = run / "release" / "model.safetensors"
    tensors = {name: tensor.float() for name, tensor in weights.items()} | {
        name: 0.3 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(3))
        for name, tensor in load_tensors(path)[0].items()
        if "denoiser" in name
    }
    save_tensors(path, tensors, {})
    (run / "run.json").write_text(json.dumps({"commands": ["train"], "recipe": {"trained": "encoder"}, "before": [{}]}))
    (run / "log.jsonl").write_text(json.dumps({"kind": "valid", "step": 3, "seconds": 1.0, "pesq": 1.5}) + "\n")
    assert release_encoder(run, root) == "tiny/robust"
    assert pretrained.encoders(pretrained.find("tiny")) == ["robust"]
    record = json.loads((root / "tiny" / "robust" / "training.json").read_text())
    assert [entry["commands"] for entry in record["runs"]] == [["train"]]
    kept, _ = load_tensors(root / "tiny" / "robust" / "model.safetensors")
    assert all(name.startswith("denoiser.") for name in kept)
    assert len(kept) == len(tensors) - len(weights)
    codes = [
        Tokenizer.from_pretrained("tiny", engine=engine, encoder="robust").encode(speech[:8000])
        for engine in ("onnx", "torch")
    ]
    np.testing.assert_array_equal(codes[0], codes[1])
    assert (codes[0] != Tokenizer.from_pretrained("tiny").encode(speech[:8000])).mean() > 0.1
    noisy = Tokenizer.from_pretrained("tiny", encoder="robust").encode(speech[:8000])
    codec_of_new = random_codec(codec)
    with torch.no_grad():
        codec_of_new.encoder.project.weight.mul_(-1)
    save_tensors(root / "tiny" / "model.safetensors", codec_of_new.state_dict(), {})
    export_verified(pretrained.find(root / "tiny"), speech[:8000], root / "tiny")
    pretrained.write_index(root, "tiny")
    with pytest.raises(InputError, match=r"robust/encoder\.onnx was made for another model than .*/tiny; "):
        Tokenizer.from_pretrained("tiny", encoder="robust").encode(speech[:8000])
    renew_encoder(root, "tiny")
    renewed = [
        Tokenizer.from_pretrained("tiny", engine=engine, encoder="robust").encode(speech[:8000])
        for engine in ("onnx", "torch")
    ]
    np.testing.assert_array_equal(renewed[0], renewed[1])
    assert (renewed[0] != noisy).mean() > 0.5
    assert load_tensors(root / "tiny" / "robust" / "model.safetensors")[0].keys() == kept.keys()
    other = write_model(tmp_path / "other" / "release", dataclasses.replace(codec, leveller=True, latent_dim=14))
    with pytest.raises(InputError, match=r" was trained for another decoder than that of "):
        release_encoder(other.folder.parent, root)


def test_denoise_encodes_with_the_robust_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "pretrained"
    write_root(root)
    use_root(monkeypatch, root)
    source, out = Path(__file__).parent / "data" / "librispeech_84_16k.flac", tmp_path / "out.spt"
    command = ["encode", str(source), str(out), "--model", "tiny-query", "--denoise", "-q"]
    assert main(command) == 2
    assert capsys.readouterr().err == "spectok: the model tiny-query has no encoder 'robust'; it has none but its own\n"
    assert not out.exists()
    write_encoder(root / "tiny-query")
    pretrained.write_index(root, "tiny-query/robust")
    assert main(command) == 0
    tokenizer = Tokenizer.from_pretrained("tiny-query", encoder="robust")
    assert np.array_equal(tokenizer.load(out).codes, tokenizer.encode(source))


def test_a_robust_encoder_that_was_trained_whole_cannot_follow_new_weights(tmp_path: Path) -> None:
    check_encoder(tmp_path / "none")
    folder = tmp_path / "robust"
    folder.mkdir()
    save_tensors(folder / "model.safetensors", {"denoiser.a": torch.zeros(1)}, {})
    check_encoder(folder)
    save_tensors(folder / "model.safetensors", {"denoiser.a": torch.zeros(1), "tower.b": torch.zeros(1)}, {})
    with pytest.raises(InputError, match=r"robust is of the weights before; remove it, or train it again$"):
        check_encoder(folder)
