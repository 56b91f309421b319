"""recipes/train.py and recipes/release.py from the command line: the files they write, and the errors they report."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from runs import ADVERSARIAL_OVERRIDES, OVERRIDES

from recipes import release as release_recipe
from recipes import train as train_recipe
from spectok import pretrained
from spectok.engine import load_codec
from spectok.errors import InputError
from spectok.tokenizer import Tokenizer
from spectok.training.corpus import Corpus
from spectok.weights import load_tensors

RECIPE = "recipes/spectok-16k-4k.toml"
STAGES = sorted((Path(__file__).parent.parent / "recipes" / "stages").glob("*.toml"))


def train(prepared: Path, out: Path, *arguments: str) -> int:
    always = ["--data", str(prepared), "--out", str(out), "--quiet", "--device", "cpu"]
    return train_recipe.main([RECIPE, *always, *OVERRIDES, *arguments])


def test_a_run_writes_its_files_and_can_be_released(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert train(prepared, run, "--steps=2", *ADVERSARIAL_OVERRIDES) == 0
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [(entry["kind"], entry["step"]) for entry in entries] == [("train", 2), ("valid", 2)]
    assert {"complex", "magnitude", "mel", "total", "gradient_norm", "learning_rate", "waiting"} < entries[0].keys()
    assert {"adversarial", "feature", "discriminator", "decorrelation", "reconstruction_norm"} < entries[0].keys()
    assert 1.0 <= entries[1]["pesq"] <= 4.65
    assert {"stoi", "level_db", "codes_used", "code_entropy"} < entries[1].keys()
    assert sorted(path.name for path in (run / "samples").iterdir()) == ["0.png", "0_decoded.wav", "0_original.wav"]
    assert (run / "samples" / "0.png").read_bytes()[:4] == b"\x89PNG"
    assert len(list((run / "tensorboard").iterdir())) == 1
    record = json.loads((run / "run.json").read_text())
    assert record["recipe"]["codec"]["latent_dim"] == 16
    assert record["recipe"]["discriminator"]["windows"] == [512, 256]
    assert record["hours"] == {"unnamed": round((63840 - 32000 + 32000) / 16000 / 3600, 3)}

    assert train(prepared, run, "--steps=2", *ADVERSARIAL_OVERRIDES) == 2  # it does not overwrite a run
    assert "already holds a run" in capsys.readouterr().err
    assert train(prepared, run, "--steps=2", *ADVERSARIAL_OVERRIDES, "--resume") == 0  # nothing left to do
    record = json.loads((run / "run.json").read_text())
    assert [command.split()[-1] for command in record["commands"]] == [
        ADVERSARIAL_OVERRIDES[-1].removeprefix("--set="),
        "--resume",
    ]
    assert str(prepared) not in " ".join(record["commands"])
    assert train(prepared, run, "--steps=2", *ADVERSARIAL_OVERRIDES, "--resume", "--set=optim.learning_rate=1.0") == 2
    assert "was started with another recipe: optim differ" in capsys.readouterr().err
    earlier = json.loads((run / "run.json").read_text())  # as version 0.1 wrote it
    tower = earlier["recipe"]["codec"].pop("tower")
    earlier["recipe"]["codec"] |= {"encoder": tower, "decoder": tower}
    earlier["recipe"]["loss"]["overshoot_weight"] = 0.0
    (run / "run.json").write_text(json.dumps(earlier))
    assert train(prepared, run, "--steps=2", *ADVERSARIAL_OVERRIDES, "--resume") == 0

    assert release_recipe.release(run, Corpus(prepared, "train"), tmp_path / "root") == "tiny"
    released = pretrained.find(tmp_path / "root" / "tiny")
    assert pretrained.read_index(tmp_path / "root")["tiny"]["model.safetensors"] == released.sha256
    facts = json.loads((tmp_path / "root" / "tiny" / "training.json").read_text())
    assert [(run["step"], [point["pesq"] for point in run["curve"]]) for run in facts["runs"]] == [
        (2, [entries[1]["pesq"]])
    ]
    learned, weights = (load_tensors(path)[0] for path in (run / "release" / "model.safetensors", released.weights))
    output = "decoder.tower.layers.2.conv.weight"
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    expected = learned[output] * 10 ** (facts["gain_db"] / 40)
    torch.testing.assert_close(weights[output].float(), expected, rtol=1e-3, atol=1e-7)
    assert release_recipe.centring_gain(load_codec(released), Corpus(prepared, "train")) == pytest.approx(0.0, abs=0.05)
    assert facts["codebook"]["tokens"] == (100 + 101) * 8  # 31,840 and 32,000 samples, 160 more, in frames of 320
    codes = Tokenizer.from_pretrained(tmp_path / "root" / "tiny").encode(np.zeros(1600, np.float32))
    assert codes.shape == (6 * 8,)  # 1,600 samples and the synthesis delay of 160 take six frames of 320

    assert train(prepared, tmp_path / "on", "--steps=1", "--init", str(tmp_path / "root" / "tiny")) == 0
    record = json.loads((tmp_path / "on" / "run.json").read_text())
    assert (record["init"], record["before"]) == ("EARLIER/release", facts["runs"])
    start = load_tensors(released.weights)[0]["decoder.project.weight"].float()
    after = load_tensors(tmp_path / "on" / "checkpoint.safetensors")[0]["codec.decoder.project.weight"]
    # One AdamW step moves a weight by at most the learning rate, 1e-3 / 200 in the first step of the warm-up.
    assert 0 < float((after - start).abs().max()) < 1.1e-5


def test_a_plain_layout_with_a_learned_codebook_can_be_released(
    prepared: Path, speech: NDArray[np.float32], tmp_path: Path
) -> None:
    quantizer = ("pool_size=64", "tokens_per_frame=2", "codebook_size=16", "codebook_dim=3")
    small = ["codec.name=tiny", "codec.tower.channels=[2,4,4,6,8]", "codec.latent_dim=8"]
    small += [f"codec.quantizer.{text}" for text in quantizer]
    small += ["loss.adversarial_weight=0.0", "loss.feature_weight=0.0", "data.batch_size=2", "data.crop_seconds=0.4"]
    arguments = ["--data", str(prepared), "--out", str(tmp_path / "run"), "--quiet", "--device", "cpu", "--steps=8"]
    arguments += [f"--set={override}" for override in small]
    assert train_recipe.main(["recipes/spectokenizer-mini.toml", *arguments]) == 0
    assert release_recipe.release(tmp_path / "run", Corpus(prepared, "train"), tmp_path / "root") == "tiny"
    folder = tmp_path / "root" / "tiny"
    facts = json.loads((folder / "training.json").read_text())
    assert facts["codebook"]["tokens"] == (100 + 101) * 2  # 31,840 and 32,000 samples, 160 more, in frames of 320
    engines = [Tokenizer.from_pretrained(folder, engine=engine) for engine in ("onnx", "torch")]
    codes, others = (engine.encode(speech) for engine in engines)
    assert len(np.unique(codes)) >= 4
    assert np.mean(codes != others) < 0.005  # an entry may be as near as another
    audio, expected = (engine.decode(codes) for engine in engines)
    np.testing.assert_allclose(audio, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--steps=0"], "the budget must be a positive number of --minutes or --steps"),
        (["--steps=1", "--resume"], "holds no run to continue"),
        (["--steps=1", "--init=spectok-16k-4k"], "spectok-16k-4k has another configuration than the recipe"),
        (["--steps=1", "--set=data.noise_share=0.5"], "no files in the split 'noise'"),
        (["--steps=1", "--set=loss.feature_weight=-1"], "feature_weight is -1.0, but must not be negative"),
        (["--steps=1", "--set=trained=decoder"], "trains a part of a model, so it needs that model in --init"),
        (
            [
                "--steps=1",
                "--set=codec.spectrum.hop_length=128",
                "--set=codec.spectrum.synthesis_length=256",
                "--set=data.crop_seconds=0.5",
            ],
            "crops of 7936 samples are no multiple of the 160 samples between pitch values",
        ),
        *(
            (["--steps=1", f"--set={setting}"], sentence)
            for setting, sentence in {
                "optim.clip_norm=0": "clip_norm is 0.0, but must be positive",
                "optim.final_share=-1": "final_share is -1.0, but must not be negative",
                "optim.discriminator_share=-1": "discriminator_share is -1.0, but must not be negative",
                "optim.weight_decay=-1": "weight_decay is -1.0, but must not be negative",
                "reset_share=2": "reset_share is 2.0, but must be from 0 to 1",
                "tracked_pitch=[0.5,0.1]": "tracked_pitch (0.5, 0.1) must rise",
                "validate_minutes=0": "validate_minutes is 0.0, but must be positive",
                "checkpoint_minutes=-1": "checkpoint_minutes is -1.0, but must be positive",
            }.items()
        ),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert train(prepared, tmp_path / "run", *arguments) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.startswith("train: ") and said.count("\n") == 1


def test_values_of_further_files_replace_those_of_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "more.toml").write_text("seed = 3\n[loss]\nmel_weight = 7.0\n[optim]\nlearning_rate = 0.5\n")
    plain = train_recipe.load_recipe(RECIPE, [])
    found = train_recipe.load_recipe(RECIPE, ["seed=4"], [tmp_path / "more.toml"])
    loss = dataclasses.replace(plain.loss, mel_weight=7.0)
    assert found == dataclasses.replace(
        plain, seed=4, loss=loss, optim=dataclasses.replace(plain.optim, learning_rate=0.5)
    )
    (tmp_path / "more.toml").write_text("[loss]\nsmell_weight = 7.0\n")
    with pytest.raises(InputError, match=r"4k\.toml with .*more\.toml: loss has the unknown key 'smell_weight'"):
        train_recipe.load_recipe(RECIPE, [], [tmp_path / "more.toml"])


@pytest.mark.parametrize("name", ["spectok-16k-4k", "spectok-16k-800"])
@pytest.mark.parametrize("stage", STAGES, ids=lambda path: str(path.stem))
def test_the_stages_go_with_the_recipes_of_the_models(name: str, stage: Path) -> None:
    recipe = train_recipe.load_recipe(f"recipes/{name}.toml", [], [stage])
    assert recipe.codec == train_recipe.load_recipe(f"recipes/{name}.toml", []).codec
    assert (recipe.discriminator.recognizer_channels, recipe.loss.feature_weight) == (128, 0.0)


def test_recipes_are_strict(tmp_path: Path) -> None:
    good = "recipes/flat.toml"
    with pytest.raises(InputError, match="unknown key 'nonsense'"):
        train_recipe.load_recipe(good, ["codec.nonsense=1"])
    with pytest.raises(InputError, match="--set takes key=value, not 'codec'"):
        train_recipe.load_recipe(good, ["codec"])
    with pytest.raises(InputError, match="'name' is a value, not a table"):
        train_recipe.load_recipe(good, ["codec.name.first=1"])
    with pytest.raises(InputError, match="cannot read the recipe"):
        train_recipe.load_recipe(tmp_path / "none.toml", [])
    assert train_recipe.load_recipe(good, ["optim.learning_rate=1"]).optim.learning_rate == 1.0
    assert train_recipe.load_recipe(good, ["codec.name=other"]).codec.name == "other"
