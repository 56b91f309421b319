import dataclasses
import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.train import load_recipe
from spectok.config import (
    BottleneckConfig,
    CodecConfig,
    ExcitationConfig,
    QuantizerConfig,
    SpectrumConfig,
    TowerConfig,
)
from spectok.errors import InputError, require
from spectok.schema import from_dict
from spectok.training.augment import DataConfig

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.toml"))


def refuses(sentence: str) -> pytest.RaisesExc[InputError]:
    return pytest.raises(InputError, match=f"^{re.escape(sentence)}$")


def test_require_raises_its_sentence() -> None:
    require(True, "all is well")
    with refuses("nothing is well"):
        require(False, "nothing is well")


@pytest.mark.parametrize("name", ["query_config", "flat_config", "vq_config"])
def test_json_round_trip(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    config = request.getfixturevalue(name)
    path = tmp_path / "config.json"
    path.write_text(config.to_json(), encoding="utf-8")
    assert CodecConfig.load(path) == config
    assert CodecConfig.from_json(json.loads(config.to_json()), "config") == config


def test_missing_keys_keep_their_defaults() -> None:
    config = from_dict(CodecConfig, {"latent_dim": 24, "spectrum": {"power": 3}}, "config")
    assert config == CodecConfig(latent_dim=24, spectrum=SpectrumConfig(power=3.0))
    assert type(config.spectrum.power) is float


def test_tables_of_numbers_are_read_strictly() -> None:
    weights = from_dict(DataConfig, {"source_weights": {"a": 2, "b": 0.5}}, "file").source_weights
    assert weights == {"a": 2.0, "b": 0.5}
    assert [type(value) for value in weights.values()] == [float, float]
    for value, sentence in (
        ({"a": "2"}, "file: source_weights: a is '2', but must be of type float"),
        ({"a": True}, "file: source_weights: a is True, but must be of type float"),
        ({"a": {"b": 1}}, "file: source_weights: a is {'b': 1}, but must be of type float"),
        ([1.0], "file: source_weights must be a table of keys, not [1.0]"),
    ):
        with refuses(sentence):
            from_dict(DataConfig, {"source_weights": value}, "file")


def test_configurations_cannot_be_changed(query_config: CodecConfig) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        query_config.latent_dim = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"hidden": 3}, "file has the unknown key 'hidden'; known are bottleneck, concealment_hidden, "),
        ({"tower": {"stride": [2]}}, "file: tower has the unknown key 'stride'; known are activation, channels"),
        ({"bitrate": 4000}, "file has the unknown key 'bitrate'"),
        ({"sample_rate": 16000.0}, "file: sample_rate is 16000.0, but must be of type int"),
        ({"sample_rate": True}, "file: sample_rate is True, but must be of type int"),
        ({"sample_rate": "16000"}, "file: sample_rate is '16000', but must be of type int"),
        ({"name": 3}, "file: name is 3, but must be of type str"),
        ({"spectrum": {"power": "2"}}, "file: spectrum: power is '2', but must be of type float"),
        ({"spectrum": {"n_fft": None}}, "file: spectrum: n_fft is None, but must be of type int"),
        ({"spectrum": 512}, "file: spectrum must be a table of keys, not 512"),
        ({"tower": {"channels": 8}}, "file: tower: channels is 8, but must be a list"),
        ({"tower": {"channels": [8, 2.5]}}, "file: tower: channels is 2.5, but must be of type int"),
        ({"tower": {"kernel": [3]}}, "file: tower: kernel has 1 values, but must have 2"),
        ({"tower": {"residual": 1}}, "file: tower: residual is 1, but must be of type bool"),
        ({"quantizer": {"kind": "rvq"}}, "file: quantizer: kind is 'rvq', but must be one of 'fsq', 'vq'"),
        ([], "file must be a table of keys, not []"),
    ],
    ids=str,
)
def test_unknown_keys_and_wrong_types_are_named(data: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}"):
        from_dict(CodecConfig, data, "file")


IMPOSSIBLE = [
    (SpectrumConfig, {"n_fft": 321}, "n_fft is 321, but must be a positive even number"),
    (SpectrumConfig, {"n_fft": 0}, "n_fft is 0, but must be a positive even number"),
    (SpectrumConfig, {"hop_length": 0}, "hop_length is 0, but must be positive"),
    (SpectrumConfig, {"synthesis_length": 160}, "synthesis_length is 160, but must be a multiple of twice"),
    (SpectrumConfig, {"synthesis_length": 640}, "synthesis_length is 640, but must be a multiple of twice"),
    (
        SpectrumConfig,
        {"n_fft": 512, "synthesis_length": 480},
        "synthesis_length is 480, but must be a multiple of twice",
    ),
    (ExcitationConfig, {"above": -1.0}, "above is -1.0, but must not be negative"),
    (
        ExcitationConfig,
        {"pitch_range": (300.0, 200.0)},
        r"pitch_range (300.0, 200.0) must rise, from above 0 to at most the band_limit 7800.0",
    ),
    (ExcitationConfig, {"contrast": 1.1}, "contrast is 1.1, but must be from 0 to 1"),
    (ExcitationConfig, {"voicing_bands": 0}, "voicing_bands is 0, but must be at least 1"),
    (ExcitationConfig, {"pitch_classes": 1}, "pitch_classes is 1, but must be at least 2"),
    (ExcitationConfig, {"voicing_hidden": 0}, "voicing_hidden is 0, but must be at least 1"),
    (SpectrumConfig, {"power": 0.5}, "power is 0.5, but must be at least 1"),
    (SpectrumConfig, {"power": math.nan}, "power is nan, but must be at least 1"),
    (SpectrumConfig, {"power": math.inf}, "power is inf, but must be at least 1, and finite"),
    (TowerConfig, {"channels": (8,)}, "channels (8,) describe 0 stages, but there are 1 frequency_strides and 1 time_"),
    (TowerConfig, {"channels": (8, 16, 32)}, "channels (8, 16, 32) describe 2 stages"),
    (
        TowerConfig,
        {"time_strides": (2, 1)},
        "channels (16, 32) describe 1 stages, but there are 1 frequency_strides and 2",
    ),
    (
        TowerConfig,
        {"channels": (8, 0)},
        "channels (8, 0), frequency_strides (2,) and time_strides (2,) must all be positive",
    ),
    (TowerConfig, {"time_strides": (4,)}, "kernel (3, 4) spans less time than time stride 4"),
    (TowerConfig, {"frequency_strides": (3,)}, "kernel (3, 4) and frequency stride 3 must differ by an even number"),
    (TowerConfig, {"frequency_strides": (6,)}, "kernel (3, 4) and frequency stride 6 must differ by an even number"),
    (TowerConfig, {"input_kernel": (3, 4)}, "input_kernel is (3, 4), but must be positive, and odd in frequency"),
    (TowerConfig, {"input_kernel": (0, 3)}, "input_kernel is (0, 3), but must be positive, and odd in frequency"),
    (BottleneckConfig, {"queries": 0}, "queries 0 and heads 4 must be positive"),
    (BottleneckConfig, {"heads": -1}, "queries 16 and heads -1 must be positive"),
    (QuantizerConfig, {"tokens_per_frame": 0}, "tokens_per_frame is 0, but must be positive"),
    (QuantizerConfig, {"codebook_size": 1}, "codebook_size is 1, but must be from 2 to 16777216"),
    (QuantizerConfig, {"codebook_size": 2**24 + 1}, "codebook_size is 16777217, but must be from 2 to 16777216"),
    (QuantizerConfig, {"codebook_dim": 0}, "codebook_dim is 0, but must be positive"),
    (QuantizerConfig, {"decay": 1.0}, "decay is 1.0, but must be at least 0 and less than 1"),
    (QuantizerConfig, {"expiry_threshold": -0.1}, "expiry_threshold is -0.1, but must not be negative"),
    (QuantizerConfig, {"pool_size": -1}, "pool_size is -1, but must not be negative"),
    (QuantizerConfig, {"levels": ()}, "levels () must each be at least 2"),
    (QuantizerConfig, {"levels": (4, 4, 4, 16, 1)}, "levels (4, 4, 4, 16, 1) must each be at least 2"),
    (QuantizerConfig, {"levels": (8, 8)}, "levels (8, 8) make 64 entries, but codebook_size is 1024"),
    (QuantizerConfig, {"levels": (32, 32)}, "levels (32, 32) have 2 dimensions, but codebook_dim is 5"),
    (QuantizerConfig, {"levels": [2**62] * 300}, "levels have 300 dimensions, but may have at most 24"),
    (CodecConfig, {"sample_rate": 0}, "sample_rate is 0, but must be positive"),
    (CodecConfig, {"latent_dim": 0}, "latent_dim is 0, but must be positive"),
    (CodecConfig, {"gru_hidden": -2}, "gru_hidden is -2, but must be positive"),
    (CodecConfig, {"encoder_dense_rank": -1}, "encoder_dense_rank is -1, but must not be negative"),
    (CodecConfig, {"decoder_gru_layers": -1}, "decoder_gru_layers is -1, but must not be negative"),
    (
        CodecConfig,
        {"spectrum": {"n_fft": 322}},
        "the frequency strides (2,) do not divide the 161 positions of n_fft 322",
    ),
    (
        CodecConfig,
        {"excitation": {"kind": "signs", "above": 8000}},
        "excitation: above 8000.0 Hz and band_limit 7800.0 Hz must be less than half of the sample rate 16000",
    ),
    (CodecConfig, {"bottleneck": {"heads": 5}}, "the tower's last width 32 is not a multiple of 5 heads"),
    (CodecConfig, {"bottleneck": {"queries": 81}}, "81 queries are more than the 80 positions that the tower leaves"),
]


@pytest.mark.parametrize(("cls", "data", "sentence"), IMPOSSIBLE, ids=[sentence for _, _, sentence in IMPOSSIBLE])
def test_impossible_numbers_are_named(cls: type, data: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}"):
        from_dict(cls, data, "file")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"NaN,"], ids=repr)
def test_files_that_are_not_json_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"^cannot read {re.escape(str(path))}: "):
        CodecConfig.load(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^cannot read .*none\.json: "):
        CodecConfig.load(tmp_path / "none.json")


def test_errors_in_a_file_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"latent": 3}')
    with pytest.raises(InputError, match=f"^{re.escape(str(path))} has the unknown key 'latent'"):
        CodecConfig.load(path)


def test_files_of_the_first_format_are_read(tmp_path: Path) -> None:
    """Format 1 has no format number, a tower for each direction, and a choice of bands."""
    tower = {"channels": [8, 32], "frequency_strides": [2], "time_strides": [2]}
    first = {"name": "old", "encoder": tower, "decoder": tower, "bottleneck": {"queries": 8, "bands": "mel"}}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(first))
    expected = CodecConfig(name="old", tower=TowerConfig(channels=(8, 32)), bottleneck=BottleneckConfig(queries=8))
    assert CodecConfig.load(path) == expected
    assert json.loads(expected.to_json())["format"] == 2
    for changed, sentence in (
        ({"decoder": tower | {"residual": False}}, "file has an encoder and a decoder that differ, which only version"),
        ({"bottleneck": {"bands": "erb"}}, "file: bottleneck has the unknown key 'bands'"),
        ({"format": 3}, "file has the format 3; this version of spectok reads formats 1 to 2"),
        ({"format": "2"}, "file has the format '2'; this version of spectok reads formats 1 to 2"),
        ({"format": 2}, "file has the unknown key 'encoder'"),
    ):
        with pytest.raises(InputError, match=f"^{re.escape(sentence)}"):
            CodecConfig.from_json(first | changed, "file")
    with pytest.raises(InputError, match=r"^file must be a table of keys, not \[\]$"):
        CodecConfig.from_json([], "file")


def test_rates_are_derived(query_config: CodecConfig) -> None:
    assert query_config.spectrum.positions == 32
    assert query_config.frame_length == 16 * 2
    assert query_config.synthesis_delay == 32 - 16
    assert query_config.latency_samples == 32 + 16
    assert query_config.frame_rate == 16000 / 32
    assert query_config.token_rate == 500 * 2
    assert query_config.bitrate == 1000 * 6  # 64 entries are 6 bits


def test_a_codebook_size_that_is_no_power_of_two_gives_a_fractional_bitrate(flat_config: CodecConfig) -> None:
    assert flat_config.bitrate == pytest.approx(500 * 3 * math.log2(15), rel=1e-12)


@pytest.mark.parametrize(
    ("samples", "frames"),
    [(0, 0), (1, 1), (16, 1), (17, 2), (48, 2), (49, 3), (32 * 100 - 16, 100), (32 * 100, 101)],
)
def test_num_frames_covers_every_sample_and_the_synthesis_delay(
    query_config: CodecConfig, samples: int, frames: int
) -> None:
    assert query_config.num_frames(samples) == frames
    if frames:  # no more samples than these frames hold, and more than one frame less does
        assert query_config.num_samples(frames - 1) < samples <= query_config.num_samples(frames)
    assert query_config.padded_length(samples) == 32 * frames


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_loads_and_survives_json(path: Path) -> None:
    recipe = load_recipe(path, [])
    config = recipe.codec
    assert config.name == ("spectok" if recipe.is_robust else path.stem)  # that encoder's codec is in --init
    assert CodecConfig.from_json(json.loads(config.to_json()), "config") == config


def test_recipes_take_overrides_strictly() -> None:
    path = RECIPES[0]
    assert load_recipe(path, ["codec.gru_hidden=31", "seed=7"]).codec.gru_hidden == 31
    assert load_recipe(path, ["seed=7"]).seed == 7
    weights = load_recipe(path, ["data.source_weights.ljspeech=2", "data.source_weights.vctk=0.5"]).data.source_weights
    assert weights == {"ljspeech": 2.0, "vctk": 0.5}
    with pytest.raises(InputError, match="has the unknown key 'hidden'"):
        load_recipe(path, ["codec.hidden=31"])
    with pytest.raises(InputError, match="gru_hidden is 'many', but must be of type int"):
        load_recipe(path, ["codec.gru_hidden=many"])
    with pytest.raises(InputError, match="--set takes key=value, not 'seed'"):
        load_recipe(path, ["seed"])


def test_the_fingerprint_is_of_the_values_that_are_not_the_defaults() -> None:
    """So that it stays as it is when a later version adds a field. It is stored in graphs, and must never change."""
    assert CodecConfig().fingerprint == hashlib.sha256(b"{}").hexdigest()
    other = CodecConfig(sample_rate=24000, excitation=ExcitationConfig(kind="signs", above=2000))  # an int, by mistake
    expected = b'{"excitation":{"above":2000.0,"kind":"signs"},"sample_rate":24000}'
    assert other.fingerprint == hashlib.sha256(expected).hexdigest()
    assert CodecConfig.from_json(json.loads(other.to_json()), "file").fingerprint == other.fingerprint
    assert (
        CodecConfig.from_json({"sample_rate": 24000}, "file").fingerprint == CodecConfig(sample_rate=24000).fingerprint
    )


def test_lists_nested_as_deep_as_python_can_recurse_are_refused(tmp_path: Path) -> None:
    """The parser still reads some of them that are too deep to be shown in a message."""
    path = tmp_path / "config.json"
    for depth in range(900, 1000):
        path.write_text('{"spectrum": {"n_fft": ' + "[" * depth + "]" * depth + "}}")
        with pytest.raises(InputError, match=r"config\.json: (spectrum: n_fft is \[|maximum recursion depth exceeded)"):
            CodecConfig.load(path)


@pytest.mark.parametrize("value", [2**63, -(10**400)])
def test_integers_of_more_than_64_bits_are_refused(value: int) -> None:
    with pytest.raises(InputError, match=r"^file: sample_rate is too large a number$"):
        CodecConfig.from_json({"format": 2, "sample_rate": value, "excitation": {"kind": "signs"}}, "file")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 3) | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.sampled_from(["spectrum", "tower", "bottleneck", "quantizer", "excitation", None]), st.data())
def test_any_value_is_accepted_or_refused_in_one_sentence(section: str | None, data: st.DataObject) -> None:
    content = json.loads(CodecConfig().to_json())
    table = content if section is None else content[section]
    table[data.draw(st.sampled_from(sorted(table)))] = data.draw(VALUES)
    try:
        config = CodecConfig.from_json(content, "file")
    except InputError:
        return
    assert 0 < config.frame_length <= config.latency_samples
    assert CodecConfig.from_json(json.loads(config.to_json()), "file") == config
