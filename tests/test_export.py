"""Tests that exported graphs equal the codec, for every kind of model and division of a stream, and of errors."""

import dataclasses
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import FLAT, QUERY, VQ
from models import write_model
from numpy.typing import NDArray

from spectok import InputError, pretrained
from spectok.cli.main import main
from spectok.config import CodecConfig, ExcitationConfig
from spectok.engine import OnnxEngine, TorchEngine, load_codec
from spectok.export.agreement import CUTS, Agreement, Reference, audio_difference, export_verified
from spectok.graphs import read_graph
from spectok.model.codec import Codec
from spectok.pretrained import Model
from spectok.weights import halved, load_tensors, save_tensors

SPEECH = Path(__file__).parent / "data" / "librispeech_84_16k.flac"


def bottleneck(**changes: Any) -> CodecConfig:
    return dataclasses.replace(QUERY, bottleneck=dataclasses.replace(QUERY.bottleneck, **changes))


FRAMEWISE = dataclasses.replace(QUERY.tower, input_kernel=(1, 3), kernel=(2, 4), activation="silu")
FAMILY = {
    "query": QUERY,
    "not adaptive": bottleneck(adaptive=False),
    "mamba": bottleneck(kind="mamba"),
    "band split": bottleneck(kind="band_split"),
    "band convolution": bottleneck(kind="band_conv"),
    "flat": FLAT,
    "vq": VQ,
    "batch norm": dataclasses.replace(QUERY, tower=dataclasses.replace(QUERY.tower, norm="batch", activation="relu")),
    "one scale": dataclasses.replace(FLAT, tower=dataclasses.replace(FLAT.tower, rnn_stages="finest")),
    "no time in the convolutions": dataclasses.replace(QUERY, tower=FRAMEWISE),
    "random signs": dataclasses.replace(QUERY, excitation=ExcitationConfig(kind="signs", above=2000.0)),
    "pulses": dataclasses.replace(QUERY, excitation=ExcitationConfig(kind="pulses", above=2000.0)),
    "postfilter": dataclasses.replace(QUERY, excitation=ExcitationConfig(kind="signs", above=2000.0, contrast=0.3)),
    "one token": dataclasses.replace(QUERY, quantizer=dataclasses.replace(QUERY.quantizer, tokens_per_frame=1)),
}


@pytest.fixture(scope="module")
def clip(speech: NDArray[np.float32]) -> NDArray[np.float32]:
    return speech[16000:24000]


@pytest.fixture(scope="module")
def exported(clip: NDArray[np.float32], tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A random model with exported graphs."""
    model = write_model(tmp_path_factory.mktemp("exported") / "tiny", QUERY)
    export_verified(model, clip, model.folder)
    return model


@pytest.fixture
def copied(exported: Model, tmp_path: Path) -> Model:
    """A copy of the exported model that a test may change."""
    shutil.copytree(exported.folder, tmp_path / "tiny")
    return pretrained.find(tmp_path / "tiny")


def reference_of(model: Model) -> Reference:
    return Reference(load_codec(model))


@pytest.mark.parametrize("config", FAMILY.values(), ids=FAMILY.keys())
def test_the_graphs_equal_the_codec(config: CodecConfig, clip: NDArray[np.float32], tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", config)
    export_verified(model, clip, model.folder)
    engine, reference = OnnxEngine(model), reference_of(model)
    expected, margins = reference.encode(clip)
    assert len(np.unique(expected)) >= 6
    for encode in CUTS.values():
        agreement = Agreement()
        agreement.add(encode(engine, clip), expected, margins)
        assert agreement.codes == len(expected)
        assert max(agreement.margins, default=0.0) < 1e-5
    found = audio_difference(engine, reference, expected)
    assert found.audio < 1e-5
    assert found.astray <= (0.02 * found.frames if config.excitation.kind == "pulses" else 0)


def test_both_engines_take_the_same_steps(exported: Model, clip: NDArray[np.float32]) -> None:
    frame, rows = QUERY.frame_length, clip[:7936].reshape(2, -1)
    results = []
    for engine in (OnnxEngine(exported), TorchEngine(exported)):
        encoder, decoder = engine.init_state(2)
        for start, end in ((0, 1), (1, 60), (60, 124)):
            codes, encoder = engine.encode_step(rows[:, start * frame : end * frame], encoder)
            audio, decoder = engine.decode_step(codes, decoder)
            results.append((codes, audio))
            assert codes.dtype == np.int64 and audio.dtype == np.float32
    for (codes, audio), (expected_codes, expected_audio) in zip(results[:3], results[3:], strict=True):
        np.testing.assert_array_equal(codes, expected_codes)
        np.testing.assert_allclose(audio, expected_audio, rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_inputs_have_names_and_any_number_of_rows_and_frames(exported: Model, side: str) -> None:
    graph = onnx.load(exported.folder / f"{side}.onnx").graph
    shapes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    before = {name: shape for name, shape in shapes.items() if name.startswith("state.")}
    after = {name: shape for name, shape in shapes.items() if name.startswith("next.")}
    assert {name.replace("next.", "state."): shape for name, shape in after.items()} == before
    streams = {name: shape for name, shape in shapes.items() if name not in before | after}
    spectrum = {"spectrum": ["batch", 2, "2*frames", 32]} if side == "decoder" else {}
    assert streams == {"audio": ["batch", "32*frames"], "codes": ["batch", "2*frames"]} | spectrum
    expected = {
        "encoder": {
            "state.stft.0": ["batch", 48],
            "state.tower.0.0": ["batch", 2, 32, 2],
            "state.tower.1.0.0": ["batch", 1, 32, 4],
            "state.tower.2.2.0": ["batch", 16, 8],
            "state.context.0.0": ["batch", 9],
        },
        "decoder": {
            "state.context.0.0": ["batch", 9],
            "state.tower.0.2.0": ["batch", 16, 8],
            "state.tower.1.0.0": ["batch", 1, 16, 8],
            "state.tower.2.0": ["batch", 2, 32, 4],
            "state.inverse_stft.0": ["batch", 1, 32],
        },
    }
    assert before == expected[side]


def test_compact_constants_are_restored_exactly(tmp_path: Path, clip: NDArray[np.float32]) -> None:
    quantizer = dataclasses.replace(QUERY.quantizer, levels=(4, 3, 5), codebook_size=60)
    model = write_model(tmp_path / "tiny", dataclasses.replace(QUERY, quantizer=quantizer))
    export_verified(model, clip, model.folder)
    codec = Codec(model.config)
    for side, names in (
        ("encoder", ["encoder.stft.matrix"]),
        ("decoder", ["decoder.inverse_stft.matrix", "quantizer.fsq.implicit_codebook"]),
    ):
        graph = onnx.load(model.folder / f"{side}.onnx")
        asked = [f"codec.{name}" for name in names]
        assert not set(asked) & {tensor.name for tensor in graph.graph.initializer}
        kind = onnx.TensorProto.FLOAT
        graph.graph.output.extend(onnx.helper.make_tensor_value_info(name, kind, None) for name in asked)
        session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
        frame, *states = session.get_inputs()
        length = model.config.frame_length if side == "encoder" else quantizer.tokens_per_frame
        zeros = {item.name: np.zeros((1, *item.shape[1:]), np.float32) for item in states}
        zeros[frame.name] = np.zeros((1, length), np.float32 if side == "encoder" else np.int64)
        for name, found in zip(names, session.run(asked, zeros), strict=True):
            np.testing.assert_array_equal(found, codec.get_buffer(name).numpy(), strict=True)


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_a_graph_computes_few_shapes(exported: Model, side: str) -> None:
    graph = onnx.load(exported.folder / f"{side}.onnx").graph
    counts = Counter(node.op_type for node in graph.node)
    assert (counts["Attention"], counts["Softmax"]) == (1, 0)
    assert (
        counts["Shape"] == counts["Expand"] + 1 == 2
    )  # for the queries of each frame, and one where two axes are inferred
    constants = {item.name for item in graph.initializer}
    computed = [node for node in graph.node if node.op_type == "Reshape" and node.input[1] not in constants]
    assert len(computed) == 1
    assert counts["Unsqueeze"] + counts["Squeeze"] <= 6  # of the GRUs' states and outputs, none of shapes


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_values_between_operators_are_numbered_and_others_keep_their_names(exported: Model, side: str) -> None:
    graph = onnx.load(exported.folder / f"{side}.onnx").graph
    named = {value.name for value in (*graph.input, *graph.output)} | {item.name for item in graph.initializer}
    assert {"audio", "codes", "codec.quantizer.fsq.implicit_codebook.numbers"} & named
    between = [name for node in graph.node for name in node.output if name not in named]
    numbered = [name for name in between if re.fullmatch(r"v\d+", name)]
    assert numbered == [f"v{number}" for number in range(len(numbered))] and len(numbered) > 50
    restored = [name for name in between if name not in numbered]  # constants, and what they are computed from
    assert {"encoder": "codec.encoder.stft.matrix", "decoder": "codec.decoder.inverse_stft.matrix"}[side] in restored


def test_a_graph_has_metadata_and_no_paths(exported: Model) -> None:
    codec = Codec(QUERY)
    for side in ("encoder", "decoder"):
        content = (exported.folder / f"{side}.onnx").read_bytes()
        for word in (str(Path(__file__).parent.parent), "site-packages", "File ", ".py"):
            assert word.encode() not in content
        assert OnnxEngine(exported).facts(side) == {
            "weights": exported.sha256,
            "config": QUERY.fingerprint,
            "parameters": str(codec.num_parameters),
            "macs_per_second": str(round(codec.macs_per_second()[side])),
        }


def test_an_export_that_differs_from_the_codec_is_refused(
    clip: NDArray[np.float32], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, other = write_model(tmp_path / "a", QUERY), write_model(tmp_path / "b", bottleneck(queries=5))
    monkeypatch.setattr("spectok.export.agreement.Reference", lambda _: reference_of(other))
    with pytest.raises(
        InputError, match=r"^the export differs from the codec: \d+ of 514 codes differ, encoded at once$"
    ):
        export_verified(model, clip, model.folder)
    assert sorted(path.name for path in model.folder.iterdir()) == ["config.json", "model.safetensors"]


def test_agreement_stores_the_margins_of_codes_that_differ() -> None:
    agreement = Agreement()
    agreement.add(np.array([1, 2, 3]), np.array([1, 5, 3]), np.array([0.1, 0.2, 0.3]))
    agreement.add(np.array([7, 8]), np.array([7, 9]), np.array([0.4, 0.5]))
    assert (agreement.codes, agreement.margins) == (5, [0.2, 0.5])


def test_export_on_the_command_line(
    clip: NDArray[np.float32], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "tiny", QUERY)
    Path("out").mkdir()
    assert main(["export", "tiny", str(SPEECH), "--out", "out"]) == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["decoder.onnx", "encoder.onnx", "model.safetensors"]
    assert Path("out/model.safetensors").read_bytes() == Path("tiny/model.safetensors").read_bytes()
    assert main(["export", "tiny", str(SPEECH), "--out", "out"]) == 2
    assert main(["export", "tiny", str(SPEECH), "--out", "nowhere"]) == 2
    assert main(["export", "tiny", "no.wav"]) == 2
    assert main(["export", pretrained.DEFAULT, str(SPEECH)]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "spectok: out/encoder.onnx exists already; --force overwrites it",
        "spectok: cannot write into nowhere: it is not a folder",
        "spectok: cannot read no.wav: No such file or directory",
        f"spectok: {pretrained.DEFAULT} is released with its graphs; --out writes them into another folder",
    ]
    assert sorted(path.name for path in Path("tiny").iterdir()) == ["config.json", "model.safetensors"]


def test_graphs_of_other_weights_are_refused(copied: Model) -> None:
    weights = copied.weights.read_bytes()
    for content in (weights[:-4] + b"\0\0\0\0", weights[:100], b""):
        copied.weights.write_bytes(content)
        engine = OnnxEngine(pretrained.find(copied.folder))
        with pytest.raises(
            InputError, match=r"^[^\n]*encoder\.onnx was made from other weights than model\.safetensors "
        ):
            engine.facts("encoder")


def test_graphs_of_another_configuration_are_refused(copied: Model) -> None:
    """Neither the sample rate nor the size of the codebook follows from the sizes in a graph."""
    path = copied.folder / "config.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(dict(reversed(data.items()))), encoding="utf-8")  # the same in another order
    for side in ("encoder", "decoder"):
        assert OnnxEngine(pretrained.find(copied.folder)).facts(side)["config"] == QUERY.fingerprint
    quantizer = data["quantizer"] | {"levels": [4, 4, 2], "codebook_size": 32}
    for changed in ({"sample_rate": 48000}, {"quantizer": quantizer}, {"name": "other"}):
        path.write_text(json.dumps(data | changed), encoding="utf-8")
        engine = OnnxEngine(pretrained.find(copied.folder))
        for side in ("encoder", "decoder"):
            sentence = (
                rf"^[^\n]*{side}\.onnx was made with another configuration than config\.json beside it; spectok export "
            )
            with pytest.raises(InputError, match=sentence):
                engine.facts(side)


def test_graphs_that_name_no_configuration_are_refused(copied: Model) -> None:
    """Version 0.1 exported such graphs."""
    path = copied.folder / "encoder.onnx"
    model = onnx.load(path, load_external_data=False)
    kept = {item.key: item.value for item in model.metadata_props if item.key != "config"}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, kept)
    path.write_bytes(model.SerializeToString())
    OnnxEngine(copied).facts("decoder")
    with pytest.raises(InputError, match="was made with another configuration"):
        OnnxEngine(copied).facts("encoder")


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
def test_the_graphs_refer_to_the_weights_and_contain_no_matrix_of_them(
    half: bool, clip: NDArray[np.float32], tmp_path: Path
) -> None:
    model = write_model(tmp_path / "tiny", QUERY)
    if half:
        tensors, _ = load_tensors(model.weights)
        save_tensors(model.weights, halved(tensors), {})
        model = pretrained.find(model.folder)
    export_verified(model, clip, model.folder)
    tensors, referred = load_tensors(model.weights)[0], set()
    for side in ("encoder", "decoder"):
        graph = onnx.load(model.folder / f"{side}.onnx", load_external_data=False).graph
        for tensor in (item for item in graph.initializer if item.data_location == onnx.TensorProto.EXTERNAL):
            place = {entry.key: entry.value for entry in tensor.external_data}
            assert (sorted(place), place["location"]) == (["length", "location", "offset"], "model.safetensors")
            found = model.weights.read_bytes()[int(place["offset"]) :][: int(place["length"])]
            expected = tensors[tensor.name].numpy()
            assert (tuple(tensor.dims), found) == (expected.shape, expected.tobytes())
            assert tensor.data_type == (onnx.TensorProto.FLOAT16 if half else onnx.TensorProto.FLOAT)
            referred.add(tensor.name)
    # The queries and the matrix that they are multiplied with are one constant in the graphs.
    large = {name for name, tensor in tensors.items() if tensor.dim() > 1 and tensor.numel() >= 64}
    assert sorted(large - referred) == [
        "decoder.bottleneck.mixer.queries",
        "decoder.bottleneck.mixer.to_query.weight",
        "encoder.bottleneck.mixer.to_query.weight",
    ]


def test_onnx_runtime_reads_the_weights_from_the_file_itself(exported: Model, clip: NDArray[np.float32]) -> None:
    """Like any other runtime of ONNX: the graph by its path, and the external data from its folder."""
    chunks: dict[str, NDArray[Any]] = {"encoder": clip[None, :64], "decoder": np.array([[1, 2, 3, 4]])}
    for side, chunk in chunks.items():
        session = onnxruntime.InferenceSession(exported.folder / f"{side}.onnx", providers=["CPUExecutionProvider"])
        stream, *states = session.get_inputs()
        zeros = {item.name: np.zeros((1, *item.shape[1:]), np.float32) for item in states}
        output = session.run(None, {stream.name: chunk, **zeros})[0]
        engine = OnnxEngine(exported)
        expected, _ = (engine.encode_step if side == "encoder" else engine.decode_step)(chunk, {})
        np.testing.assert_allclose(output, expected, rtol=0, atol=1e-6)


Edit = Callable[[Any, Any], None]  # of an onnx.GraphProto and one of its TensorProto


def edited(copied: Model, edit: Edit) -> OnnxEngine:
    """An engine whose encoder was changed by `edit`, a function of the graph and its first external tensor."""
    path = copied.folder / "encoder.onnx"
    model = onnx.load(path, load_external_data=False)
    edit(model.graph, next(item for item in model.graph.initializer if item.external_data))
    path.write_bytes(model.SerializeToString())
    return OnnxEngine(copied)


def put(key: str, value: str) -> Edit:
    """An edit that changes the location, offset or length of the external tensor."""

    def edit(graph: Any, tensor: Any) -> None:
        next(entry for entry in tensor.external_data if entry.key == key).value = value

    return edit


def put_into_a_node(graph: Any, tensor: Any) -> None:
    graph.node.append(onnx.helper.make_node("Constant", [], ["more"], value=tensor))


def put_into_an_inner_graph(graph: Any, tensor: Any) -> None:
    inner = onnx.helper.make_graph([], "inner", [], [], [tensor])
    graph.node.append(onnx.helper.make_node("If", ["condition"], ["more"], then_branch=inner, else_branch=inner))


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (put("location", "config.json"), "it refers to the file 'config.json'; only its weights may be in a file, {}"),
        (put("location", "../b"), r"it refers to the file '\.\./b'; only its weights may be in a file, {}"),
        (put("location", "/etc/a"), "it refers to the file '/etc/a'; only its weights may be in a file, {}"),
        (put("location", ""), "it refers to the file ''; only its weights may be in a file, {}"),
        (put_into_a_node, "it refers to the file '{0}'; only its weights may be in a file, {0}"),
        (put_into_an_inner_graph, "it refers to the file '{0}'; only its weights may be in a file, {0}"),
        (put("offset", "1000000"), "its tensor '[a-z_.0-9]+' is not within {}"),
        (put("offset", "-4"), "its tensor '[a-z_.0-9]+' is not within {}"),
        (put("length", "4"), "its tensor '[a-z_.0-9]+' is not within {}"),
        (put("length", "four"), "invalid literal for int.*"),
        (lambda graph, tensor: tensor.dims.append(2), "its tensor '[a-z_.0-9]+' is not within {}"),
        (lambda graph, tensor: setattr(tensor, "data_type", 11), "its tensor '[a-z_.0-9]+' is not within {}"),
    ],
)
def test_a_graph_that_refers_to_another_file_is_refused(copied: Model, edit: Edit, sentence: str) -> None:
    engine = edited(copied, edit)
    sentence = sentence.format(r"model\.safetensors")
    with pytest.raises(InputError, match=rf"^cannot read [^\n]*encoder\.onnx: {sentence}$"):
        engine.facts("encoder")


def test_a_graph_that_is_cut_off_or_random_is_refused(exported: Model) -> None:
    content, random = (exported.folder / "encoder.onnx").read_bytes(), np.random.default_rng(0)
    assert len(read_graph(content)[1]) == len({tensor.name for tensor in read_graph(content)[1]}) > 10
    for length in (*range(0, len(content), 97), len(content) - 1):
        with pytest.raises(ValueError, match=r"^it is (cut off|not an ONNX file)$"):
            read_graph(content[:length])
    for length in range(1, 500):
        with pytest.raises(ValueError):
            read_graph(b"\xff" + random.bytes(length))
    with pytest.raises(ValueError, match=r"^it is not an ONNX file$"):
        read_graph(b"\x80" * 11)


@pytest.mark.parametrize("keep", [0, 100, -1])
def test_a_graph_file_that_is_cut_off_is_refused(copied: Model, keep: int) -> None:
    path = copied.folder / "decoder.onnx"
    path.write_bytes(path.read_bytes()[:keep])
    engine = OnnxEngine(copied)
    codes, _ = engine.encode_step(np.zeros((1, 32), np.float32), engine.init_state(1).encoder)
    with pytest.raises(InputError, match=r"^cannot read [^\n]*decoder\.onnx: [^\n]+$"):
        engine.decode_step(codes, engine.init_state(1).decoder)
