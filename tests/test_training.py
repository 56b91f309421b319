"""The loop: it learns, resumes bit-exactly, keeps its schedule and averages, and its products can be released."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from recipes import release as release_recipe
from recipes import train as train_recipe
from recipes.prepare import prepare
from spectok import pretrained
from spectok.audio import read_audio, write_audio
from spectok.config import BottleneckConfig, CodecConfig, QuantizerConfig, TowerConfig
from spectok.errors import InputError
from spectok.model.weights import load_tensors
from spectok.tokenizer import Tokenizer
from spectok.training.data import Corpus, DataConfig
from spectok.training.loop import Budget, OptimConfig, TrainConfig, Trainer

FSQ = QuantizerConfig(tokens_per_frame=4)
VQ = QuantizerConfig(kind="vq", tokens_per_frame=4, codebook_size=32, codebook_dim=4, pool_size=64)


def config(quantizer=FSQ, **optim):
    tower = TowerConfig(channels=(2, 4))
    return TrainConfig(
        codec=CodecConfig(
            name="tiny",
            encoder=tower,
            decoder=tower,
            bottleneck=BottleneckConfig(queries=4, heads=2),
            quantizer=quantizer,
            latent_dim=16,
            gru_hidden=16,
            encoder_dense_rank=16,
            decoder_dense_rank=16,
        ),
        data=DataConfig(batch_size=2, crop_seconds=0.4),
        optim=OptimConfig(**{"warmup_steps": 2, **optim}),
    )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The fixtures' speech: one half of a clip to validate, the rest to train."""
    folder = tmp_path_factory.mktemp("corpus")
    audio, rate = read_audio("tests/data/librispeech_84_16k.flac")
    for name, clip in (("0", audio[:32000]), ("1", audio[32000:]), ("2", audio[16000:48000])):
        write_audio(folder / f"{name}.wav", clip, rate)
    prepare(folder, folder / "prepared", 16000)
    return folder / "prepared"


def state(trainer):
    tensors = {f"codec.{name}": tensor for name, tensor in trainer.codec.state_dict().items()}
    tensors |= {f"buffer.{name}": tensor for name, tensor in trainer.codec.named_buffers()}
    tensors |= {f"average.{name}": tensor for name, tensor in trainer.average.items()}
    for index, entry in trainer.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in entry.items()}
    return {name: tensor.clone() for name, tensor in tensors.items()}


@pytest.mark.parametrize("quantizer", [FSQ, VQ], ids=["fsq", "vq"])
def test_six_steps_are_three_and_three_resumed(prepared, tmp_path, quantizer):
    corpus, budget = Corpus(prepared, "train"), Budget(steps=6)
    straight = Trainer(config(quantizer), corpus, budget)
    first = Trainer(config(quantizer), corpus, budget)
    logs = [straight.train_step() for _ in range(6)]
    for _ in range(3):
        first.train_step()
    first.save(tmp_path)
    second = Trainer(config(quantizer), corpus, budget)
    second.resume(tmp_path)
    assert [second.train_step() for _ in range(3)] == logs[3:]
    expected, found = state(straight), state(second)
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    if quantizer is VQ:  # the pool of 64 was filled by step 3, so the codebook really moved
        assert straight.codec.quantizer.is_ready


def test_it_learns(prepared):
    trainer = Trainer(config(learning_rate=3e-3), Corpus(prepared, "train"), Budget(steps=60))
    totals = [trainer.train_step()["total"] for _ in range(60)]
    assert np.mean(totals[-10:]) < 0.85 * np.mean(totals[:10])


def test_the_learning_rate_warms_up_and_falls_as_a_cosine(prepared):
    trainer = Trainer(config(learning_rate=1.0, warmup_steps=4, final_share=0.1), Corpus(prepared, "train"), Budget(8))
    rates = []
    for step in range(9):
        trainer.step = step
        rates.append(trainer._learning_rate())
    cosine = [0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(9)]
    warmup = [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1]
    assert rates == pytest.approx([a * b for a, b in zip(cosine, warmup, strict=True)], abs=1e-12)


def test_a_budget_ends_at_whichever_comes_first():
    assert Budget(steps=10, minutes=1).progress(5, 6.0) == 0.5
    assert Budget(steps=10, minutes=1).progress(1, 45.0) == 0.75
    assert Budget(minutes=2).progress(10**9, 240.0) == 1.0
    assert Budget(steps=4).progress(5, 0.0) == 1.0


def test_the_average_follows_the_weights(prepared):
    trainer = Trainer(config(ema_decay=0.5), Corpus(prepared, "train"), Budget(steps=10))
    name = "decoder.project.weight"
    average = trainer.average[name].clone()
    for step in (1, 2, 3):
        trainer.train_step()
        decay = min(0.5, (1 + step) / (10 + step))  # short at first, so that the random start is forgotten
        average = decay * average + (1 - decay) * trainer.codec.state_dict()[name]
        assert torch.allclose(trainer.average[name], average, atol=1e-6)


def test_bf16_trains_too(prepared):
    trainer = Trainer(config(), Corpus(prepared, "train"), Budget(steps=2), bf16=True)
    values = [trainer.train_step() for _ in range(2)][-1]
    assert all(math.isfinite(value) for value in values.values())
    assert values["gradient_norm"] > 0


def test_what_was_scored_is_aligned(prepared):
    trainer = Trainer(config(), Corpus(prepared, "train"), Budget(steps=1))
    delay = trainer.config.codec.synthesis_delay
    audio = torch.arange(6400.0)[None]
    real, fake = trainer._aligned(audio, torch.nn.functional.pad(audio, (delay, 0))[:, :6400])
    assert torch.equal(real, fake)
    assert real.shape[1] == 6400 - delay - 1600  # nothing of the first 0.1 s is scored


def test_a_run_leaves_what_it_promises_and_can_be_released(prepared, tmp_path, capsys):
    run, recipe = tmp_path / "run", "recipes/spectok-16k-4k.toml"
    small = ["encoder.channels=[2,4]", "decoder.channels=[2,4]", "latent_dim=16", "gru_hidden=16", 'name="tiny"']
    arguments = [recipe, "--data", str(prepared), "--out", str(run), "--steps", "2", "--quiet", "--device", "cpu"]
    overrides = [f"--set=codec.{text}" for text in small] + ["--set=data.crop_seconds=0.4"]
    assert train_recipe.main([*arguments, *overrides]) == 0
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [(entry["kind"], entry["step"]) for entry in entries] == [("train", 2), ("valid", 2)]
    assert {"complex", "magnitude", "mel", "total", "gradient_norm", "learning_rate"} < entries[0].keys()
    assert 1.0 <= entries[1]["pesq"] <= 4.65
    assert sorted(path.name for path in (run / "samples").iterdir()) == ["0.png", "0_fake.wav", "0_real.wav"]
    assert (run / "samples" / "0.png").read_bytes()[:4] == b"\x89PNG"
    record = json.loads((run / "run.json").read_text())
    assert record["recipe"]["codec"]["latent_dim"] == 16
    assert record["hours"] == {"unnamed": round((63840 - 32000 + 32000) / 16000 / 3600, 3)}

    assert train_recipe.main([*arguments, *overrides]) == 2  # it does not overwrite a run
    assert "already holds a run" in capsys.readouterr().err
    assert train_recipe.main([*arguments, *overrides, "--resume"]) == 0  # nothing left to do
    record = json.loads((run / "run.json").read_text())
    assert [command.split()[-1] for command in record["commands"]] == ["data.crop_seconds=0.4", "--resume"]
    assert str(prepared) not in " ".join(record["commands"])
    assert train_recipe.main([*arguments, *overrides, "--resume", "--set=optim.learning_rate=1.0"]) == 2
    assert "was begun with another recipe: optim differ" in capsys.readouterr().err

    assert release_recipe.release(run, tmp_path / "root") == "tiny"
    released = pretrained.find(tmp_path / "root" / "tiny")
    assert f'["tiny"]\nsha256 = "{released.sha256}"' in (tmp_path / "root" / "index.toml").read_text()
    codes = Tokenizer.from_pretrained(tmp_path / "root" / "tiny").encode(np.zeros(1600, np.float32))
    assert codes.shape == (6 * 8,)  # 1,600 samples and the synthesis delay of 160 take six frames of 320

    again = [recipe, "--data", str(prepared), "--out", str(tmp_path / "again"), "--steps", "0"]
    assert train_recipe.main([*again, *overrides]) == 2
    assert "the budget must be a positive number of --minutes or --steps" in capsys.readouterr().err
    init = ["--init", str(tmp_path / "root" / "tiny"), "--steps=1", "--quiet", "--device", "cpu"]
    assert train_recipe.main([recipe, "--data", str(prepared), "--out", str(tmp_path / "on"), *overrides, *init]) == 0
    start = load_tensors(released.weights)[0]["decoder.project.weight"]
    after = load_tensors(tmp_path / "on" / "checkpoint.safetensors")[0]["codec.decoder.project.weight"]
    # One AdamW step moves a weight by at most the learning rate, 1e-3 / 200 in the first step of the warm-up.
    assert 0 < float((after - start).abs().max()) < 1.1e-5


@pytest.mark.parametrize("recipe", ["spectok-16k-4k", "spectok-16k-800", "flat", "spectokenizer-mini"])
def test_every_recipe_takes_a_step(prepared, recipe):
    small = ["batch_size=1", "crop_seconds=0.4", "silence_share=0.0", "gap_share=0.0"]
    recipe = train_recipe.load_recipe(f"recipes/{recipe}.toml", [f"data.{text}" for text in small])
    trainer = Trainer(recipe, Corpus(prepared, "train"), Budget(steps=1))
    before = trainer.codec.encoder.tower.layers[0].conv.weight.detach().clone()
    assert 0 < trainer.train_step()["gradient_norm"] < 1000
    moved = float((trainer.codec.encoder.tower.layers[0].conv.weight.detach() - before).abs().max())
    assert 1e-6 < moved < 1e-5  # the first step of the warm-up: 1e-3 / 200


def test_what_cannot_be_trained_is_refused(prepared):
    corpus = Corpus(prepared, "train")
    for minutes, steps in ((-1.0, None), (None, -1), (None, None)):
        with pytest.raises(InputError, match="the budget must be a positive number"):
            Budget(steps, minutes)
    with pytest.raises(InputError, match="warmup_steps is 0"):
        config(warmup_steps=0)
    short = dataclasses.replace(config(), data=DataConfig(crop_seconds=0.2))
    with pytest.raises(InputError, match="leave 1440 samples to score, but the losses' longest window has 2048"):
        Trainer(short, corpus, Budget(steps=1))
    corpus.sample_rate = 24000
    with pytest.raises(InputError, match="prepared at 24000 Hz, but the codec runs at 16000"):
        Trainer(config(), corpus, Budget(steps=1))


def test_a_bad_batch_is_skipped(prepared, monkeypatch):
    trainer = Trainer(config(VQ), Corpus(prepared, "train"), Budget(steps=9))
    for _ in range(3):
        trainer.train_step()
    before = state(trainer)
    bad = np.full((2, trainer.crop_samples), np.nan, np.float32)
    monkeypatch.setattr(trainer.corpus, "batch", lambda *_: bad)
    assert trainer.train_step()["skipped"] == 1
    after = state(trainer)
    kept = [name for name in before if not name.startswith("average.")]
    assert [name for name in kept if not torch.equal(before[name], after[name])] == []


def test_recipes_are_strict(tmp_path, prepared):
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
