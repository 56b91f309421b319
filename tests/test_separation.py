"""recipes/separation: the separator, its losses and metrics by hand and against museval, mixtures, and a run."""

import csv
import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from recipes import study
from recipes.separation import listen, looks, tables
from recipes.separation import prepare as prepare_recipe
from recipes.separation import train as train_recipe
from recipes.separation.config import MixConfig, SeparationConfig, SeparatorConfig, load_recipe
from recipes.separation.evaluate import completed
from recipes.separation.locoformer import ConvSwiGLU, LocoformerBlock, RMSGroupNorm
from recipes.separation.losses import negative_snr, overshoot
from recipes.separation.metrics import magnitude_snr, museval_metrics, museval_scores, si_sdr, usdr
from recipes.separation.mixtures import Mixtures, combined
from recipes.separation.separator import Separator, Transform, power_law
from recipes.separation.upper import UpperNetwork, double, halve, heuristic
from spectok.audio import read_audio, write_audio
from spectok.bench.macs import count_macs
from spectok.config import BottleneckConfig
from spectok.errors import InputError
from spectok.training.recipe import Budget

RECIPES = Path(__file__).parent.parent / "recipes"
SPEECH = sorted((Path(__file__).parent / "data").rglob("*.flac"))[0]
MEMBERS = {
    "query": BottleneckConfig(queries=4, heads=2),
    "not adaptive": BottleneckConfig(queries=4, heads=2, adaptive=False),
    "mamba": BottleneckConfig(kind="mamba", queries=4),
    "band split": BottleneckConfig(kind="band_split", queries=4),
    "band convolution": BottleneckConfig(kind="band_conv", queries=4, heads=2),
    "flat": BottleneckConfig(kind="flat", queries=4),
}
TINY = [
    "separator.channels=8",
    "separator.width=8",
    "separator.hidden=6",
    "separator.heads=2",
    "separator.bottleneck.queries=4",
    "separator.bottleneck.heads=2",
    "mix.seconds=0.25",
    "mix.batch_size=2",
    "mix.test_mixtures=1",
    "mix.test_seconds=1.0",
    "checkpoint_steps=2",
    "log_steps=2",
]


def tiny(bottleneck: BottleneckConfig = MEMBERS["query"], **changed: object) -> SeparatorConfig:
    sizes = {"n_fft": 64, "hop_length": 32, "channels": 8, "width": 8, "hidden": 6, "heads": 2} | changed
    return SeparatorConfig(bottleneck=bottleneck, **sizes)  # type: ignore[arg-type]


def awake(model: torch.nn.Module) -> None:
    """Give the weights that start at zero, as last layers of residual paths do, other values."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape))


@pytest.mark.parametrize("kind", MEMBERS)
@pytest.mark.parametrize("output", ["mask", "map"])
def test_every_member_separates_and_all_its_weights_learn(kind: str, output: str) -> None:
    model = Separator(tiny(MEMBERS[kind], output=output), sources=3)
    awake(model)
    estimates = model(torch.randn(2, 331))
    assert estimates.shape == (2, 3, 331)
    estimates.square().sum().backward()
    still = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert still == []


@pytest.mark.parametrize("kind", MEMBERS)
def test_a_louder_mixture_gives_louder_sources(kind: str) -> None:
    model = Separator(tiny(MEMBERS[kind]), sources=2)
    awake(model)
    mixture = torch.randn(1, 640)
    torch.testing.assert_close(model(100 * mixture), 100 * model(mixture), rtol=1e-3, atol=0.02)


def test_masks_start_as_equal_shares_of_the_mixture() -> None:
    mixture = torch.randn(1, 6400)
    for estimate in Separator(tiny(), sources=4)(mixture)[0]:
        assert si_sdr(estimate.detach().numpy(), mixture[0].numpy()) > 6


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [("query", 62_304), ("mamba", 25_504), ("band_split", 1_576_832), ("band_conv", 591_872), ("flat", 8_430_112)],
)
def test_the_family_is_used_as_it_is(kind: str, parameters: int) -> None:
    config = SeparatorConfig(bottleneck=BottleneckConfig(kind=kind))  # type: ignore[arg-type]
    model = Separator(config, sources=3)
    sides = [model.encoder.bottleneck, model.decoder.bottleneck]
    assert sum(weight.numel() for side in sides for weight in side.parameters()) == parameters
    if kind != "flat":
        assert all(isinstance(side.project, torch.nn.Identity) for side in sides)
    assert sum(weight.numel() for weight in model.blocks.parameters()) == 165_248


def test_a_fixed_bias_does_not_learn() -> None:
    learned, fixed = (Separator(tiny(learn_bias=learn), sources=2) for learn in (True, False))
    sizes = [bias.numel() for bias in learned.biases()]
    assert sizes == [2 * 4 * 33, 2 * 33 * 4]
    assert learned.num_parameters - fixed.num_parameters == sum(sizes)
    for bias, start in zip(fixed.biases(), learned.biases(), strict=True):
        assert torch.equal(bias, start) and not bias.requires_grad


def test_the_convolution_equals_the_transposed_one_of_the_paper() -> None:
    layer = ConvSwiGLU(width=3, hidden=5, kernel=4)
    awake(layer)
    x = torch.randn(2, 9, 3)
    padded = torch.nn.functional.pad(x.transpose(1, 2), (3, 3))
    value, gate = layer.inward._conv_forward(padded, layer.inward.weight, layer.inward.bias)[..., 3:-3].chunk(2, 1)
    transposed = layer.outward.weight.flip(2).transpose(0, 1)
    whole = torch.nn.functional.conv_transpose1d(value * torch.nn.functional.silu(gate), transposed, layer.outward.bias)
    torch.testing.assert_close(layer(x), whole[..., 3:-3].transpose(1, 2), rtol=1e-5, atol=1e-6)


def test_a_group_norm_divides_each_group_by_its_rms() -> None:
    x = torch.tensor([3.0, 4.0, 0.0, 10.0])
    expected = torch.tensor([3 / math.sqrt(12.5), 4 / math.sqrt(12.5), 0.0, math.sqrt(2)])
    torch.testing.assert_close(RMSGroupNorm(4, 2)(x), expected, rtol=1e-5, atol=0)
    with pytest.raises(InputError, match="4 channels cannot be divided into 3 groups"):
        RMSGroupNorm(4, 3)


def test_operations_of_a_block_are_those_that_are_counted() -> None:
    block = LocoformerBlock(width=8, hidden=6, kernel=4, heads=2, groups=4)
    frames, tokens = 10, 4
    products = 2 * 8 * (frames * tokens * tokens + tokens * frames * frames)  # scores and sums of the attention
    counted = count_macs(lambda: block(torch.randn(1, frames, tokens, 8)))
    assert block.macs(frames, tokens) - counted in (0, products)  # PyTorch may leave out those of a fused attention


def test_operations_per_second_grow_with_the_channels() -> None:
    config = SeparatorConfig()
    small, wide = Separator(config, 3), Separator(SeparatorConfig(channels=64), 3)
    assert small.macs_per_second() == pytest.approx(423.0e6, rel=0.002)
    assert wide.macs_per_second() > 2 * small.macs_per_second()


def test_the_transform_is_inverted_also_at_half_of_the_rate() -> None:
    transform = Transform(64, 16)
    audio = torch.randn(2, 3, 500)
    spectrum = transform(audio)
    assert spectrum.shape == (2, 3, 32, 33)
    torch.testing.assert_close(transform.inverse(spectrum, 500), audio, rtol=1e-4, atol=1e-5)
    time = torch.arange(640)
    tone = torch.sin(2 * math.pi * time / 40)[None, None]
    halved = transform.inverse(transform(tone), 320, halvings=1)
    torch.testing.assert_close(halved[..., 40:-40], tone[..., ::2][..., 40:-40], rtol=0, atol=0.01)
    noise = transform(torch.randn(1, 1, 64_000))
    assert float(noise.abs().square().mean()) == pytest.approx(1.0, abs=0.02)


def test_the_power_law_takes_the_root_of_magnitudes() -> None:
    compressed = power_law(torch.tensor([4j, -9 + 0j, 0j]))
    torch.testing.assert_close(compressed, torch.tensor([2j, -3 + 0j, 0j]), rtol=1e-5, atol=1e-6)


def test_the_loss_by_hand() -> None:
    first, second = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])
    sources = torch.stack([first, second])
    # errors of half of the amplitude: a quarter of the power, and the thousandth of the limit
    assert float(negative_snr(sources / 2, sources)) == pytest.approx(10 * math.log10(0.251), abs=1e-5)
    assert float(negative_snr(sources, sources)) == pytest.approx(-30.0, abs=1e-3)
    # exchanged outputs are wrong, because every output has its source: 5 / 1 and 5 / 4 of the power
    expected = (10 * math.log10(5.001) + 10 * math.log10(1.251)) / 2
    assert float(negative_snr(sources.flip(0), sources)) == pytest.approx(expected, abs=1e-5)


def test_the_penalty_by_hand() -> None:
    mixture = torch.tensor([[[1.0 + 0j, 2j, 1e-4 + 0j]]])  # the last bin is 86 dB below the loudest
    estimates = torch.tensor([[[[math.e + 0j, 1j, 5.0 + 0j]], [[0j, 2 * math.e**3 + 0j, 0j]]]])
    assert float(overshoot(estimates, mixture)) == pytest.approx((1 + 3) / 4, abs=1e-4)
    gradient_of_nothing = torch.zeros(1, 1, 2, 3, dtype=torch.complex64, requires_grad=True)
    overshoot(gradient_of_nothing, mixture.expand(1, 2, 3)).backward()
    assert gradient_of_nothing.grad is not None and not gradient_of_nothing.grad.isnan().any()


def test_sdr_by_hand() -> None:
    source, other = np.array([3, 4, 0, 0], np.float32), np.array([0, 0, 1, 0], np.float32)
    estimate = 2 * source + other  # 100 of target power, 1 of error
    assert si_sdr(estimate, source) == pytest.approx(20.0, abs=1e-5)
    assert si_sdr(7 * estimate, source) == pytest.approx(20.0, abs=1e-5)
    assert usdr(estimate, source) == pytest.approx(10 * math.log10(25 / 26), abs=1e-5)


def test_magnitudes_are_compared_from_a_position_on() -> None:
    source = np.array([[9, 3j, 4]])
    assert magnitude_snr(np.array([[0, -3, 2]]), source, first=1) == pytest.approx(10 * math.log10(25 / 4), abs=1e-5)
    assert magnitude_snr(0 * source, source, first=1) == pytest.approx(0.0, abs=1e-5)


def speech(seconds: int) -> NDArray[np.float32]:
    audio, _ = read_audio(SPEECH, 16000)
    return np.resize(audio, seconds * 16000).astype(np.float32)


def test_the_medians_are_those_of_museval() -> None:
    rng = np.random.default_rng(0)
    sources = np.stack([speech(2), 0.05 * rng.standard_normal(32_000).astype(np.float32)])
    estimates = (sources + 0.3 * sources[::-1] + 0.01 * rng.standard_normal(sources.shape)).astype(np.float32)
    found = museval_scores(estimates, sources, 16000)
    sdr, isr, sir, sar, _ = museval_metrics().bss_eval(
        sources[..., None], estimates[..., None], window=16000, hop=16000, compute_permutation=False
    )
    for name, frames in {"sdr": sdr, "isr": isr, "sir": sir, "sar": sar}.items():
        np.testing.assert_allclose(found[name], np.median(frames, axis=1), rtol=0, atol=0.01)
    # museval's SDR has no filters in it: it is that of each second by itself
    seconds = [
        [usdr(e, s) for e, s in zip(np.split(est, 2), np.split(src, 2), strict=True)]
        for est, src in zip(estimates, sources, strict=True)
    ]
    np.testing.assert_allclose(found["sdr"], np.median(seconds, axis=1), rtol=0, atol=0.01)


def test_the_heuristic_and_its_printed_form_by_hand() -> None:
    mixture = torch.tensor([[1.0, 3.0, 4.0, 10.0, 20.0]]).to(torch.complex64)  # [F, Q]: 8 below, two positions above
    estimates = torch.tensor([[[1.0, 1.0, 0, 0, 0]], [[2.0, 2.0, 2.0, 0, 0]]]).to(torch.complex64)  # 2 and 6
    for kind, gains in {
        "nothing": (0, 0),
        "printed": (8 / 2, 8 / 6),
        "corrected": (2 / 8, 6 / 8),
        "shared": (2 / 8, 6 / 8),
    }.items():
        upper = heuristic(mixture, estimates, kind)
        expected = torch.tensor([[[10.0 * gain, 20.0 * gain]] for gain in gains])
        torch.testing.assert_close(upper.real, expected, rtol=1e-5, atol=1e-5)
    network = UpperNetwork(sources=2, width=4)  # starts as the corrected heuristic
    started = network(mixture[None], estimates[None])[0]
    torch.testing.assert_close(started, heuristic(mixture, estimates, "corrected"), rtol=1e-4, atol=1e-4)


def test_halving_and_doubling_the_rate() -> None:
    time = torch.arange(640)
    low, high = torch.sin(2 * math.pi * time / 32), torch.sin(2 * math.pi * time / 3.2)
    torch.testing.assert_close(halve(low + high), low[::2], rtol=0, atol=1e-4)
    torch.testing.assert_close(double(low[::2]), low, rtol=0, atol=1e-4)


def test_what_the_network_does_not_estimate_is_the_rest() -> None:
    config = load_recipe(RECIPES / "separation" / "speech.toml", ["loss.both_sources=false"])
    assert (config.sources, config.outputs) == (("speech", "rest"), 1)
    estimates, mixture = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[5.0, 5.0]])
    torch.testing.assert_close(completed(estimates, mixture, config), torch.tensor([[[1.0, 2.0], [4.0, 3.0]]]))


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of recipes/separation/prepare.py, from a small corpus, seven tracks, and effects of three classes."""
    folder = tmp_path_factory.mktemp("separation")
    rng, columns = np.random.default_rng(1), ("file", "split", "category", "kind")
    for name in ("corpus", "music", "effects"):
        (folder / name).mkdir()
    rows = [("a.wav", "train", "", "speech"), ("b.wav", "test", "clean_en", "speech")]
    rows += [("c.wav", "test", "hard_quiet", "speech"), ("d.wav", "noise", "", "")]
    for name, *_ in rows[:3]:
        write_audio(folder / "corpus" / name, speech(2), 16000)
    with open(folder / "corpus" / "manifest.csv", "w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    for number in range(7):
        write_audio(folder / "music" / f"{number}.wav", rng.standard_normal(8000).astype(np.float32) / 9, 8000)
    for name in ("elec_a", "elec_b", "esc10-5-1-A", "esc10-4-1-A", "loop_a", "rain"):
        write_audio(folder / "effects" / f"{name}.wav", rng.standard_normal(8000).astype(np.float32) / 9, 16000)
    arguments = [str(folder / "corpus"), "--music", str(folder / "music"), "--effects", str(folder / "effects")]
    assert prepare_recipe.main([*arguments, "--out", str(folder / "out")]) == 0
    return folder / "out"


def test_tracks_and_classes_are_held_out(sources: Path) -> None:
    with open(sources / "manifest.csv", newline="") as file:
        rows = [(row["split"], row["file"]) for row in csv.DictReader(file)]
    files = {split: [name for found, name in rows if found == split] for split, _ in rows}
    assert files == {
        "speech-train": ["a.wav"],
        "speech-test": ["b.wav"],
        "music-train": ["0.wav", "1.wav", "2.wav", "3.wav", "5.wav", "6.wav"],
        "music-test": ["4.wav"],
        "effects-train": ["esc10-4-1-A.wav", "rain.wav"],
        "effects-test": ["elec_a.wav", "elec_b.wav", "esc10-5-1-A.wav"],
    }


def test_mixtures_have_their_levels_and_the_test_stays_the_same(sources: Path) -> None:
    config = MixConfig(test_mixtures=3, test_seconds=1.0, seconds=0.5, batch_size=2)
    test = Mixtures(sources, "test", config)
    first, again = test.test(), test.test()
    assert len(first) == 3 and all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    batch = Mixtures(sources, "train", config).batch(np.random.default_rng(0))
    assert batch.shape == (2, 3, 8000) and batch.dtype == np.float32
    decibels = 10 * np.log10(np.square(np.stack([*first])).mean(2))
    assert (np.abs(decibels - config.level_db) <= config.spread_db + 1e-3).all()
    two = combined(batch[0], "speech")
    np.testing.assert_allclose(two, [batch[0][0], batch[0][1] + batch[0][2]])


def test_recipes_are_strict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = RECIPES / "separation" / "cinematic.toml"
    for override, sentence in {
        "separator.colour=red": "unknown key 'colour'",
        "separator.sample_rate=44100": "must be 8000 or 16000",
        "separator.hop_length=200": "must divide n_fft",
        "separator.upper=true": "upper needs sample_rate = 8000",
        "loss.both_sources=false": "needs the task 'speech'",
        "warmup_steps=0": "must be at least 1",
        "seed": "takes key=value",
    }.items():
        with pytest.raises(InputError, match=sentence):
            load_recipe(recipe, [override])
    arguments = [str(recipe), "--data", str(tmp_path), "--out", str(tmp_path / "run"), "--steps=1"]
    assert train_recipe.main(arguments) == 2
    assert "is not a folder made by" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def run_of(config: SeparationConfig, data: Path, out: Path, steps: int) -> train_recipe.Run:
    out.mkdir(exist_ok=True)
    return train_recipe.Run(config, Mixtures(data, "train", config.mix), Budget(steps), out)


def test_a_run_that_was_stopped_continues_as_if_it_had_not_been(sources: Path, tmp_path: Path) -> None:
    config = load_recipe(RECIPES / "separation" / "speech.toml", TINY)
    clock = iter(range(100)).__next__
    whole = run_of(config, sources, tmp_path / "whole", 4)
    assert train_recipe.fit(whole, [], clock) == 0
    stopped = run_of(config, sources, tmp_path / "stopped", 4)
    assert train_recipe.fit(stopped, [15], clock) == 15 and stopped.step == 1
    resumed = run_of(config, sources, tmp_path / "stopped", 4)
    resumed.restore()
    assert train_recipe.fit(resumed, [], clock) == 0
    for name, weight in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], weight, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize(
    ("recipe", "more"),
    [
        ("cinematic", []),
        ("speech", ["separator.output=map", "loss.overshoot_weight=0.1", "loss.both_sources=false"]),
        ("half", ["separator.scales=true", "separator.upper=true"]),
    ],
)
def test_a_run_scores_itself_for_the_study(sources: Path, tmp_path: Path, recipe: str, more: list[str]) -> None:
    options = [f"--set={override}" for override in (*TINY, *more)]
    arguments = [str(RECIPES / "separation" / f"{recipe}.toml"), "--data", str(sources), "--steps=3", "--quiet"]
    assert train_recipe.main([*arguments, *options, "--out", str(tmp_path / "probe")]) == 0
    assert train_recipe.main([*arguments, *options, "--out", str(tmp_path / "probe")]) == 2  # it holds a run
    group = study.Group(
        title="T",
        recipe=f"separation/{recipe}.toml",
        script="separation/train.py",
        curve="loss",
        columns=("si_sdri", "csdr", "parameters"),
        steps=3,
        probes={"probe": tuple(more)},
    )
    found = study.outcome(study.probes(group)[0], tmp_path)
    assert (found["name"], found["step"], found["mixtures"]) == ("probe", 3, 1)
    assert [point["step"] for point in found["curve"]] == [2, 3]
    names = ["speech", "music", "effects"] if recipe == "cinematic" else ["speech", "rest"]
    assert list(found["sources"]) == names
    assert found["usdr"] == pytest.approx(np.mean([found["sources"][name]["usdr"] for name in names]), abs=1e-3)
    ways = {"nothing", "printed", "corrected", "shared", "network"}
    assert set(found.get("upper", {})) == (ways if recipe == "half" else set())
    (tmp_path / "results.json").write_text(json.dumps({"groups": [study.described(group) | {"probes": [found]}]}))
    text = study.tables(tmp_path)
    assert "| probe | runs | SI-SDR improvement | cSDR | parameters, M | commit |" in text
    study.draw(tmp_path / "curves.png", study.load_groups(tmp_path))
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_studies_of_the_codec_keep_the_settings_that_they_had() -> None:
    group = study.load_plan(RECIPES / "bottlenecks")[0]
    keys = {"title", "recipe", "base", "init", "minutes", "steps", "seeds", "commit"}
    assert study.described(group).keys() == keys


def probe(name: str, improvement: float, seed: int = 0, **more: object) -> dict[str, object]:
    scores = {"si_sdri": improvement, "parameters": 2_000_000 if "split" in name else 1_000_000}
    return {"name": name, "seed": seed, "commit": "c", **scores, **more}


def test_claims_are_judged_by_the_spread_of_seeds(tmp_path: Path) -> None:
    assert tables.page(tmp_path) == "The study has not been run.\n"
    rows = [probe(tables.QUERY, 5.0), probe(tables.QUERY, 5.5, seed=1), probe(tables.BAND_SPLIT, 4.0)]
    rows += [probe(tables.NOT_ADAPTIVE, 5.5), probe("bias: none", 7.0)]
    speech = {"csdr": 1.0, "sir": 2.0, "isr": 3.0, "sar": 4.0}
    rows[0]["sources"] = {"speech": speech}
    rows[1]["sources"] = {"speech": {key: value + 0.5 for key, value in speech.items()}}
    for name, gain in ((tables.FULLY_CONNECTED, 0.0), (tables.CONVOLUTION, 1.0), (tables.CONVOLUTION_AND_PENALTY, 2.0)):
        moved = {key: value + gain for key, value in speech.items()}
        rows.append(probe(name, 0.0, sources={"speech": moved, "rest": {**moved, "sar": 4.1}}))
    scores = {"nothing": 0.5, "printed": -9.0, "corrected": 2.5, "shared": 2.0}
    upper = {way: {"magnitude_snr": snr, "si_sdr": 7.0} for way, snr in scores.items()}
    other = {**upper, "shared": {"magnitude_snr": 3.5, "si_sdr": 7.0}}
    rows += [probe(tables.HALF, 1.0, upper=upper), probe(tables.BY_BLOCK, 2.0, upper=other)]
    group = {"title": "T", "recipe": "r", "minutes": 0, "steps": 8, "seeds": [0, 1], "columns": ["si_sdri"]}
    (tmp_path / "results.json").write_text(json.dumps({"groups": [group | {"probes": rows}]}))
    text = tables.page(tmp_path)
    assert "the seeds of one probe, 0.50 dB," in text
    cells = {line.split(" | ")[0][2:]: line.split(" | ")[2:] for line in text.splitlines() if line.startswith("| ")}
    assert cells["Queries (SFC-CA) separate better than band split"] == ["5.25", "4.00", "1.25", "yes |"]
    assert cells["Adapting to the input helps"] == ["5.25", "5.50", "-0.25", "undecided |"]
    assert cells["A bias towards bands is needed"] == ["5.25", "7.00", "-1.75", "no |"]
    assert cells["SFC-Mamba separates better than band split"] == ["-", "-", "-", "not measured |"]
    assert cells["Queries need far fewer parameters"] == ["1.00 M", "2.00 M", "", "yes |"]
    assert "| vocals / speech | SDR | -0.100 | +1.000 | +2.000 | no |" in text
    assert "| vocals / speech | SIR | +2.538 | +1.000 | +2.000 | yes |" in text
    assert "| accompaniment / rest | SAR | +0.106 | +0.000 | +0.000 | undecided |" in text
    assert (
        "| band convolution in place of fully connected | - | +1.000 | +1.000 | +1.000 | +1.000 | not measured |"
        in text
    )
    assert "| mapping in place of masks | - | - | - | - | - | not measured |" in text
    assert "| 8 kHz | corrected heuristic | 2.50 | 7.00 |" in text
    assert cells["Scoring the estimates after each block at a rising rate helps"] == ["2.00", "1.00", "1.00", "yes |"]
    by_way = [cells[says] for says, _, _ in tables.UPPER_CLAIMS]
    assert by_way == [
        ["-9.00", "0.50", "-9.50", "no |"],
        ["2.50", "0.50", "2.00", "yes |"],
        ["2.75", "2.50", "0.25", "undecided |"],
        ["-", "-", "-", "not measured |"],
    ]


def test_the_claims_are_about_probes_of_the_plan() -> None:
    names = {probe.name for group in study.load_plan(tables.STUDY) for probe in study.probes(group)}
    claimed = {name for claim in tables.CLAIMS for name in claim.probes}
    claimed |= {tables.FULLY_CONNECTED, tables.CONVOLUTION, tables.CONVOLUTION_AND_PENALTY}
    claimed |= {name for pair in tables.CHOICES.values() for name in pair} | {tables.HALF, tables.BY_BLOCK}
    assert claimed <= names


def test_what_queries_look_at_is_drawn_beside_the_codec(
    sources: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("query", "band_split"):
        changed = [*TINY, f"separator.bottleneck.kind={kind}"]
        run = run_of(load_recipe(RECIPES / "separation" / "cinematic.toml", changed), sources, tmp_path / kind, 1)
        (tmp_path / kind / "run.json").write_text(json.dumps({"recipe": dataclasses.asdict(run.config)}))
        run.save()
    model, config = looks.load_separator(tmp_path / "query")
    attention = looks.attention_of(model, Mixtures(sources, "test", config.mix).test()[0].sum(0))
    assert attention.weights.shape == (63, 4, 257)
    np.testing.assert_allclose(attention.weights.sum(2), 1, rtol=0, atol=1e-4)
    picture = str(tmp_path / "looks.png")
    assert looks.main([str(tmp_path / "query"), "--data", str(sources), "--out", picture]) == 0
    assert Path(picture).read_bytes()[:4] == b"\x89PNG"
    assert looks.main([str(tmp_path / "band_split"), "--data", str(sources), "--out", picture]) == 2
    assert "which has no queries to look at" in capsys.readouterr().err

    arguments = [str(tmp_path / "query"), "--data", str(sources), "--out", str(tmp_path / "audio"), "--without-music"]
    assert listen.main(arguments) == 0
    written = [Path(line).name for line in capsys.readouterr().out.splitlines()]
    names = ["speech", "music", "effects"]
    assert written == [f"{name}.flac" for name in ("mixture", *names, *(f"{name}-estimate" for name in names))]
    parts = {name: read_audio(tmp_path / "audio" / f"{name}.flac", 16000)[0] for name in ("mixture", *names)}
    np.testing.assert_allclose(parts["mixture"], parts["speech"] + parts["effects"], rtol=0, atol=1e-4)
    assert not parts["music"].any()
    assert listen.main([*arguments, "--mixture=1"]) == 2
    assert "the test has the mixtures 0 to 0" in capsys.readouterr().err


def test_a_study_starts_the_script_of_its_group(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = f"""
        [[group]]
        title = "T"
        script = "separation/train.py"
        recipe = "separation/speech.toml"
        curve = "loss"
        columns = ["si_sdri"]
        steps = 1
        base = {json.dumps(TINY)}
        [group.probes]
        "masks" = []
    """
    (tmp_path / "plan.toml").write_text(plan)
    (group,) = study.load_plan(tmp_path)
    run, commands = subprocess.run, []

    def call(command: list[str], **options: Any) -> Any:
        if command[0] != sys.executable:
            return run(command, **options)
        commands.append(command)
        assert Path(command[1]).resolve() == RECIPES / "separation" / "train.py"
        assert train_recipe.main(command[2:]) == 0

    monkeypatch.setattr(subprocess, "run", call)
    (probe,) = study.probes(group)
    study.train(probe, sources, tmp_path / "runs")
    study.train(probe, sources, tmp_path / "runs")  # nothing is left to do
    study.write(tmp_path, [group], tmp_path / "runs", {})
    assert len(commands) == 1
    (written,) = study.load_groups(tmp_path)
    assert (written["script"], written["columns"]) == ("separation/train.py", ["si_sdri"])
    assert written["probes"][0]["mixtures"] == 1
