"""Tests of the choice of the engine, and of the package without PyTorch."""

import copy
import os
import pickle
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import QUERY
from models import released, released_codec, write_model
from numpy.typing import NDArray
from safetensors.torch import load_file

from spectok import InputError, Tokenizer, pretrained
from spectok.engine import OnnxEngine, TorchEngine, load_codec, load_engine, model_size

ROOT = Path(__file__).parent.parent
SPEECH = Path(__file__).parent / "data" / "librispeech_84_16k.flac"
NOT_IN_THE_CORE = ("torch", "safetensors", "vector_quantize_pytorch", "onnx", "scipy", "matplotlib", "tqdm", "pesq")


def refuses(sentence: str) -> pytest.RaisesExc[InputError]:
    return pytest.raises(InputError, match=sentence)


def test_onnx_runs_models_with_graphs_and_torch_the_others(tmp_path: Path) -> None:
    model, bare = pretrained.find(), write_model(tmp_path / "tiny", QUERY)
    assert isinstance(load_engine(model), OnnxEngine)
    assert isinstance(load_engine(model, "torch"), TorchEngine)
    assert isinstance(load_engine(bare), TorchEngine)
    with refuses("^the device 'nonsense' cannot be used here: "):  # raised by torch
        load_engine(model, device="nonsense")


def test_a_codec_is_loaded_by_name_folder_or_model_in_evaluation_mode(tmp_path: Path) -> None:
    model = write_model(tmp_path / "tiny", QUERY)
    by_model, by_folder = load_codec(model), load_codec(tmp_path / "tiny")
    tensors = load_file(model.weights)
    for codec in (by_model, by_folder):
        assert not any(module.training for module in codec.modules())
        for name, tensor in codec.state_dict().items():
            assert torch.equal(tensor, tensors[name])
    assert load_codec(pretrained.DEFAULT).config == pretrained.find().config
    with refuses("^there is no model 'nothing'"):
        load_codec("nothing")
    (tmp_path / "tiny" / "config.json").write_text(replace(QUERY, gru_hidden=2 * QUERY.gru_hidden).to_json())
    with refuses("^the weights .*model.safetensors do not fit the configuration beside them$"):
        load_codec(tmp_path / "tiny")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"name": "jax"}, "^there is no engine 'jax'; known are onnx, torch$"),
        ({"name": "onnx", "device": "cuda"}, "^the engine onnx runs on the device cpu, not on 'cuda'; torch does$"),
        ({"threads": 0}, "^the number of threads is 0, but must be positive$"),
    ],
)
def test_engines_that_do_not_exist(options: dict[str, Any], sentence: str) -> None:
    with refuses(sentence):
        load_engine(pretrained.find(), **options)


def test_onnx_needs_graphs(tmp_path: Path) -> None:
    bare = write_model(tmp_path / "tiny", QUERY)
    with refuses(r"tiny has no encoder\.onnx and decoder\.onnx; spectok export makes them$"):
        load_engine(bare, "onnx")


def test_engines_have_names() -> None:
    assert load_engine(pretrained.find()).name == "onnx on 1 thread"
    assert load_engine(pretrained.find(), threads=2).name == "onnx on 2 threads"
    assert load_engine(pretrained.find(), "torch").name == "torch on 1 thread"


@pytest.mark.parametrize("name", pretrained.models())
def test_engines_agree_on_speech(name: str, speech: NDArray[np.float32]) -> None:
    """No code differs, and the audio differs by at most 1e-5 of full scale: pulses have peaks far above their rms."""
    onnx, torch = released(name), released(name, "torch")
    codes = onnx.encode(speech)
    np.testing.assert_array_equal(codes, torch.encode(speech))
    np.testing.assert_allclose(onnx.decode(codes), torch.decode(codes), rtol=0, atol=1e-5)


def test_a_used_tokenizer_can_be_pickled_and_copied(speech: NDArray[np.float32]) -> None:
    tokenizer = Tokenizer.from_pretrained("spectok-16k-800")
    codes = tokenizer.encode(speech)
    content = pickle.dumps(tokenizer)
    assert len(content) < 4000  # bytes, so without graphs
    for other in (pickle.loads(content), copy.deepcopy(tokenizer), copy.copy(tokenizer)):
        assert np.array_equal(other.encode(speech), codes)


def test_threads_that_need_a_graph_at_once_load_it_once(
    speech: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, loaded = Tokenizer.from_pretrained("spectok-16k-800"), []
    load = OnnxEngine._load

    def slowly(self: OnnxEngine, side: str) -> Any:
        loaded.append(side)
        time.sleep(0.05)
        return load(self, side)

    monkeypatch.setattr(OnnxEngine, "_load", slowly)
    with ThreadPoolExecutor(8) as pool:
        first, *others = pool.map(tokenizer.encode, [speech[:3200]] * 8)
    assert loaded == ["encoder"]
    assert all(np.array_equal(first, codes) for codes in others)


@pytest.mark.parametrize("name", pretrained.models())
def test_the_graphs_contain_the_size_of_the_codec(name: str) -> None:
    codec = released_codec(name)
    parameters, macs = model_size(pretrained.find(name))
    assert parameters == codec.num_parameters
    assert macs == {side: round(count) for side, count in codec.macs_per_second().items()}


def test_an_engine_stores_no_state(speech: NDArray[np.float32]) -> None:
    engine = Tokenizer.from_pretrained().engine
    audio, zero = speech[None, :6400], engine.init_state(1).encoder
    codes, after = engine.encode_step(audio, zero)
    kept = {name: value.copy() for name, value in after.items()}
    engine.encode_step(speech[None, 6400:12800], after)
    assert zero == {}
    np.testing.assert_array_equal(engine.encode_step(audio, zero)[0], codes)
    for name, value in after.items():
        np.testing.assert_array_equal(value, kept[name])


def without(modules: Iterable[str], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process where some modules cannot be imported."""
    code = f"import sys; sys.modules.update(dict.fromkeys({list(modules)})); from spectok.cli.main import main; "
    return subprocess.run(
        [sys.executable, "-c", code + f"sys.exit(main({[str(a) for a in arguments]}))"], capture_output=True, text=True
    )


def test_the_core_needs_no_torch(tmp_path: Path) -> None:
    codes, heard = tmp_path / "a.spt", tmp_path / "a.wav"
    for arguments in (
        ("encode", SPEECH, codes),
        ("decode", codes, heard),
        ("stream", SPEECH, tmp_path / "b.wav"),
        ("info", codes),
        ("info", pretrained.DEFAULT),
    ):
        done = without(NOT_IN_THE_CORE, *arguments)
        assert (done.returncode, done.stderr) == (0, ""), arguments
    np.testing.assert_array_equal(Tokenizer.from_pretrained().encode(SPEECH), released_codes(codes))


def released_codes(path: Path) -> NDArray[np.int64]:
    from spectok.container import read_spt

    return read_spt(path)[1]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("encode", SPEECH, "{}/a.spt", "--engine=torch"),
            r"the engine torch needs PyTorch: pip install 'spectok\[torch\]' .*",
        ),
        (("eval", SPEECH.parent), r"spectok eval needs more packages: pip install 'spectok\[eval\]' .*"),
        (
            ("inspect", SPEECH, "{}/a.png"),
            r"spectok inspect needs more packages: pip install 'spectok\[eval,torch\]' .*",
        ),
        (("export", "{}", SPEECH), r"spectok export needs more packages: pip install 'spectok\[export\]' .*"),
    ],
    ids=["torch", "eval", "inspect", "export"],
)
def test_missing_packages_are_named(arguments: tuple[str | Path, ...], sentence: str, tmp_path: Path) -> None:
    done = without(NOT_IN_THE_CORE, *(str(argument).format(tmp_path) for argument in arguments))
    assert done.returncode == 2
    assert re.fullmatch(f"spectok: {sentence}\n", done.stderr)
    assert list(tmp_path.iterdir()) == []


def test_the_core_needs_four_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {re.split(r"[^a-z-]", requirement)[0] for requirement in project["dependencies"]}
    assert names == {"numpy", "soundfile", "soxr", "onnxruntime"}


def test_onnx_runtime_writes_nothing_to_the_home_directory(tmp_path: Path) -> None:
    """Since version 1.32 its telemetry writes a device number and events there."""
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    code = "import numpy, spectok; spectok.Tokenizer.from_pretrained().encode(numpy.zeros(4000, numpy.float32))"
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, check=True)
    assert list(tmp_path.iterdir()) == []
