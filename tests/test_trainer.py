"""The training step: what it changes and returns, with and without discriminators."""

import copy
import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import QUERY
from models import write_model
from runs import ADVERSARIAL, DISCRIMINATOR, VQ, bad_batch, differing, recipe, state, trainer_of
from torch import Tensor

from recipes import train as train_recipe
from spectok.config import ExcitationConfig
from spectok.errors import InputError
from spectok.model.codec import Codec
from spectok.training.augment import Batch, DataConfig
from spectok.training.checkpoint import initial_weights
from spectok.training.corpus import Corpus
from spectok.training.loop import fit
from spectok.training.losses import LossConfig, Losses, decorrelation
from spectok.training.recipe import Budget
from spectok.training.trainer import Trainer
from spectok.weights import load_tensors

FROM_THE_START = dataclasses.replace(ADVERSARIAL, adversarial_start=0.0)
ALL_ASKED = dataclasses.replace(DISCRIMINATOR, periods_asked=0)
ADVERSARIAL_VALUES = {"adversarial", "feature", "discriminator", "discriminator_norm"}
ADVERSARIAL_VALUES |= {f"{name}_norm" for name in ("adversarial", "feature", "reconstruction")}


def changes(before: dict[str, Tensor], after: dict[str, Tensor], part: str) -> dict[str, float]:
    """The largest change in each tensor of a part, by name."""
    return {name: float((after[name] - before[name]).abs().max()) for name in before if name.split(".")[0] == part}


def test_losses_fall_in_training(prepared: Path) -> None:
    trainer = trainer_of(prepared, recipe(learning_rate=3e-3), steps=60)
    totals = [trainer.train_step()["total"] for _ in range(60)]
    assert np.mean(totals[-10:]) < 0.85 * np.mean(totals[:10])


def test_the_learning_rates_warm_up_and_fall_as_a_cosine(prepared: Path) -> None:
    optim: dict[str, Any] = {"learning_rate": 1.0, "warmup_steps": 4, "final_share": 0.1, "discriminator_share": 0.25}
    trainer = trainer_of(prepared, recipe(loss=ADVERSARIAL, **optim), steps=8)
    rates = []
    for step in range(9):
        trainer.step = step
        rates.append(trainer._set_learning_rate())
        assert [group["lr"] for group in trainer.optimizer.param_groups] == [rates[-1]]
        assert [group["lr"] for group in trainer.discriminator_optimizer.param_groups] == [0.25 * rates[-1]]
    cosine = [0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(9)]
    warmup = [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1]
    assert rates == pytest.approx([a * b for a, b in zip(cosine, warmup, strict=True)], abs=1e-12)


def test_initial_weights_may_have_longer_convolutions(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", dataclasses.replace(QUERY, name="tiny"))
    shorter = dataclasses.replace(QUERY.tower, input_kernel=(1, 3), kernel=(2, 4))
    codec = Codec(dataclasses.replace(model.config, tower=shorter))
    before, after = load_tensors(model.weights)[0], initial_weights(model, codec)
    codec.load_state_dict(after)
    changed = {name for name, tensor in after.items() if tensor.shape != before[name].shape}
    assert changed == {
        "encoder.tower.layers.0.conv.weight",  # 1 tap of 3 is kept
        "encoder.tower.layers.1.layers.0.conv.weight",  # 2 of 3
        "decoder.tower.layers.1.layers.0.conv.weight",  # 1 of 2
        "decoder.tower.layers.2.conv.weight",  # 1 of 3
    }
    for name in after:
        if name in changed:  # input that is constant in time gives the same output
            torch.testing.assert_close(after[name].sum(2), before[name].sum(2), rtol=0, atol=1e-6)
            taps = after[name].shape[2]
            assert torch.equal(after[name][:, :, 1:], before[name][:, :, -taps + 1 or before[name].shape[2] :])
        else:
            assert torch.equal(after[name], before[name])
    signs = Codec(dataclasses.replace(model.config, excitation=ExcitationConfig(kind="signs", above=2e3)))
    assert initial_weights(model, signs).keys() == before.keys()
    pulses = Codec(dataclasses.replace(model.config, excitation=ExcitationConfig(kind="pulses", above=2e3)))
    own, begun = pulses.state_dict(), initial_weights(model, pulses)
    pulses.load_state_dict(begun)
    assert all(torch.equal(begun[name], (own if ".excitation." in name else before)[name]) for name in own)
    with_pulses = write_model(tmp_path / "pulses", pulses.config)
    bands = dataclasses.replace(pulses.config.excitation, voicing_bands=7)
    fewer = Codec(dataclasses.replace(model.config, excitation=bands))
    its, own, begun = load_tensors(with_pulses.weights)[0], fewer.state_dict(), initial_weights(with_pulses, fewer)
    changed = {f"decoder.excitation.voicing_head.2.{kind}" for kind in ("weight", "bias")}
    assert all(torch.equal(begun[name], (own if name in changed else its)[name]) for name in own)
    with pytest.raises(InputError, match=r"^the model tiny has another configuration than the recipe in latent_dim$"):
        initial_weights(model, Codec(dataclasses.replace(model.config, latent_dim=13)))
    assert initial_weights(model, Codec(dataclasses.replace(model.config, name="mine"))).keys() == before.keys()
    longer = dataclasses.replace(QUERY.tower, kernel=(4, 4))
    with pytest.raises(InputError, match=r"^the model tiny has another configuration than the recipe$"):
        initial_weights(model, Codec(dataclasses.replace(model.config, tower=longer)))


def test_discriminators_can_be_initialised_too(prepared: Path) -> None:
    earlier = trainer_of(prepared, recipe(loss=FROM_THE_START))
    earlier.train_step()
    known = {name: tensor + 1 for name, tensor in earlier.discriminators.state_dict().items()}
    for widths, taken in ((DISCRIMINATOR, True), (dataclasses.replace(DISCRIMINATOR, band_channels=3), False)):
        later = trainer_of(prepared, recipe(loss=FROM_THE_START, discriminator=widths))
        later.start_from(earlier.average, known)
        weights = later.discriminators.state_dict()
        same = [torch.equal(weights[name], known[name]) for name in known]
        assert (all(same), any(same)) == (taken, taken)
        assert torch.equal(later.average["decoder.project.weight"], earlier.average["decoder.project.weight"])


def test_a_budget_ends_at_whichever_comes_first() -> None:
    assert Budget(steps=10, minutes=1).progress(5, 6.0) == 0.5
    assert Budget(steps=10, minutes=1).progress(1, 45.0) == 0.75
    assert Budget(minutes=2).progress(10**9, 240.0) == 1.0
    assert Budget(steps=4).progress(5, 0.0) == 1.0


def test_the_average_follows_the_weights(prepared: Path) -> None:
    trainer = trainer_of(prepared, recipe(ema_decay=0.5), steps=10)
    name = "decoder.project.weight"
    average = trainer.average[name].clone()
    for step in (1, 2, 3):
        trainer.train_step()
        decay = min(0.5, (1 + step) / (10 + step))  # small at first, so that the random initial weights lose influence
        average = decay * average + (1 - decay) * trainer.codec.state_dict()[name]
        assert torch.allclose(trainer.average[name], average, atol=1e-6)


@pytest.mark.parametrize("loss", [recipe().loss, FROM_THE_START], ids=["plain", "adversarial"])
def test_bf16_trains_too(prepared: Path, loss: LossConfig) -> None:
    config = recipe(loss=loss, weight_decay=0.0)
    trainer = trainer_of(prepared, config, bf16=True)
    before = state(trainer)
    values, expected = trainer.train_step(), trainer_of(prepared, config).train_step()
    assert values.keys() == expected.keys()
    assert values["total"] == pytest.approx(expected["total"], rel=0.03)  # bfloat16 keeps eight bits
    assert values["total"] != pytest.approx(expected["total"], rel=1e-6)
    moved = max(changes(before, state(trainer), "codec").values())
    assert moved == pytest.approx(5e-4, rel=0.01)  # the first step of AdamW is the learning rate, here half warm
    assert values["skipped"] == 0.0


@pytest.mark.parametrize("balance", [False, True])
def test_the_codec_follows_the_gradient_of_the_whole_loss(prepared: Path, balance: bool) -> None:
    loss = dataclasses.replace(FROM_THE_START, balance=balance)
    config = recipe(VQ, loss, discriminator=ALL_ASKED, clip_norm=1e9)
    trainer, other = trainer_of(prepared, config), trainer_of(prepared, config)
    values = trainer.train_step()

    audio, _, _ = other._next_batch()
    decoded, quantized = other.codec(audio)
    original = other.streams.delayed(audio)
    losses = other.losses(original, decoded)
    reconstruction = sum(loss.weights[name] * value for name, value in losses.items())
    adversarial, error = other._adversarial_losses(original, decoded)
    norm = torch.autograd.grad(reconstruction, decoded, retain_graph=True)[0].norm()
    for name, value in adversarial.items():
        own = torch.autograd.grad(value, decoded, retain_graph=True)[0].norm()
        assert values[f"{name}_norm"] == pytest.approx(float(own), rel=1e-5)
        reconstruction = reconstruction + loss.weights[name] * value * (norm / own if balance else 1)
    whole = reconstruction + 0.25 * quantized.commitment_loss + 0.1 * decorrelation(quantized.latent)
    expected = torch.autograd.grad(whole, list(other.codec.parameters()), retain_graph=True, allow_unused=True)
    for parameter, gradient in zip(trainer.codec.parameters(), expected, strict=True):
        if gradient is None:
            assert parameter.grad is None
        else:
            # The same sums in another order, in float32.
            assert float((parameter.grad - gradient).abs().max()) <= 1e-4 * float(gradient.abs().max()) + 1e-7

    assert error is not None
    expected = torch.autograd.grad(error, list(other.discriminators.parameters()))
    for parameter, gradient in zip(trainer.discriminators.parameters(), expected, strict=True):
        assert float((parameter.grad - gradient).abs().max()) <= 1e-4 * float(gradient.abs().max()) + 1e-7


def test_the_values_that_a_step_returns(prepared: Path) -> None:
    trainer = trainer_of(prepared, recipe(loss=FROM_THE_START))
    values = trainer.train_step()
    names = {"complex", "magnitude", "mel", "stft", "level"}
    norms = {f"{name}_norm" for name in names} | {"gradient_norm"}
    inner = {"commitment", "decorrelation"}
    assert values.keys() == names | norms | ADVERSARIAL_VALUES | inner | {"total", "learning_rate", "skipped"}
    weights = FROM_THE_START.weights
    total = sum(weights[name] * values[name] for name in names | inner)
    # The losses from the discriminators have no fixed scale and are not part of the total.
    assert values["total"] == pytest.approx(total, rel=1e-5)


def test_a_step_with_two_draws_uses_half_of_the_energy_distance(prepared: Path) -> None:
    loss = dataclasses.replace(FROM_THE_START, draws=2)
    config = recipe(loss=loss)
    signs = ExcitationConfig(kind="signs", above=2000.0)
    config = dataclasses.replace(config, codec=dataclasses.replace(config.codec, excitation=signs))
    trainer, other = trainer_of(prepared, config), trainer_of(prepared, config)
    values = trainer.train_step()

    audio, _, _ = other._next_batch()
    estimate, _, _ = other.codec.estimate(audio, other.streams.network)
    decoded, _ = other.streams.synthesize(estimate, None)
    assert len(decoded) == 2 * len(audio)
    expected = Losses(loss, 16000, phase_below=2000.0)(other.streams.delayed(audio), decoded.detach())
    assert values.keys() >= expected.keys() | ADVERSARIAL_VALUES
    for name, value in expected.items():
        assert values[name] == pytest.approx(float(value), rel=1e-4), name


@pytest.mark.parametrize("name", ["adversarial", "feature"])
def test_adversarial_losses_of_weight_zero_are_left_out(prepared: Path, name: str) -> None:
    without: dict[str, Any] = {f"{name}_weight": 0.0}
    loss = dataclasses.replace(FROM_THE_START, **without)
    values = trainer_of(prepared, recipe(loss=loss)).train_step()
    assert values.keys() & ADVERSARIAL_VALUES == ADVERSARIAL_VALUES - {name, f"{name}_norm"}


def test_training_the_decoder_keeps_the_codes(prepared: Path) -> None:
    trainer = trainer_of(prepared, dataclasses.replace(recipe(learning_rate=1e-2), trained="decoder"), steps=3)
    before = copy.deepcopy(trainer.codec.state_dict())
    for _ in range(3):
        trainer.train_step()
    after = trainer.codec.state_dict()
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert {name.split(".")[0] for name in changed} == {"decoder"}
    assert len(changed) == len(list(trainer.codec.decoder.parameters()))


def test_discriminators_start_at_their_share_of_the_budget(prepared: Path) -> None:
    trainer = trainer_of(prepared, recipe(loss=dataclasses.replace(ADVERSARIAL, adversarial_start=0.5)), steps=4)
    before = state(trainer)
    for _ in range(2):
        assert trainer.train_step().keys() & ADVERSARIAL_VALUES == set()
        assert set(changes(before, state(trainer), "discriminators").values()) == {0.0}
        assert not trainer.discriminator_optimizer.state_dict()["state"]
    for _ in range(2):
        assert trainer.train_step().keys() >= ADVERSARIAL_VALUES
        after = state(trainer)
        assert max(changes(before, after, "discriminators").values()) > 1e-5
        before = after


def test_only_the_discriminators_in_use_learn(prepared: Path) -> None:
    trainer = trainer_of(prepared, recipe(loss=FROM_THE_START))
    before = state(trainer)
    trainer.train_step()
    moved = changes(before, state(trainer), "discriminators")
    periods = [
        max(value for name, value in moved.items() if name.startswith(f"discriminators.period.discriminators.{n}."))
        for n in range(2)
    ]
    assert min(periods) == 0.0 and max(periods) > 1e-5


def test_discriminators_learn_at_their_share_of_the_learning_rate(prepared: Path) -> None:
    steps = {}
    for share in (1.0, 0.25, 0.0):
        optim: dict[str, Any] = {"discriminator_share": share, "warmup_steps": 1, "weight_decay": 0.0}
        trainer = trainer_of(prepared, recipe(loss=FROM_THE_START, discriminator=ALL_ASKED, **optim))
        before = state(trainer)
        trainer.train_step()
        steps[share] = before, state(trainer)
    whole, quarter, none = (changes(*pair, "discriminators") for pair in steps.values())
    assert max(whole.values()) == pytest.approx(1e-3, rel=1e-3)  # the first step of AdamW is the learning rate
    assert quarter == pytest.approx({name: value / 4 for name, value in whole.items()}, abs=3e-7)
    assert set(none.values()) == {0.0}
    # The codec's losses come from the discriminators before their update.
    codecs = [{name: x for name, x in after.items() if name.startswith("codec.")} for _, after in steps.values()]
    assert [differing(codecs[0], codec) for codec in codecs[1:]] == [[], []]


def test_clips_are_normalised_for_the_discriminators(prepared: Path) -> None:
    trainer = trainer_of(prepared, recipe(loss=FROM_THE_START))
    heard = []
    trainer.discriminators.register_forward_pre_hook(lambda _, arguments: heard.append(arguments[0]))
    noise = torch.randn(2, 4640)
    noise = noise / noise.square().mean(dim=1, keepdim=True).sqrt()
    original = torch.tensor([[0.5], [0.01]]) * noise
    trainer._adversarial_losses(original, 3 * original)
    # The gain is 1 / (rms + 0.001): levels become nearly equal, and silence stays silence.
    levels = torch.tensor([0.5 / 0.501, 0.01 / 0.011])
    torch.testing.assert_close(heard[0][:2].square().mean(dim=1).sqrt(), levels, rtol=1e-5, atol=0)
    torch.testing.assert_close(heard[0][2:], 3 * heard[0][:2], rtol=1e-5, atol=1e-7)  # the output's level counts


def test_discriminators_accept_silence(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(prepared, recipe(loss=FROM_THE_START))
    silence = Batch(*(torch.zeros(2, length) for length in (trainer.crop_samples, trainer.crop_samples, 40)))
    monkeypatch.setattr(trainer, "_next_batch", lambda: silence)
    values = trainer.train_step()
    assert [name for name, value in values.items() if not math.isfinite(value)] == []
    assert values["skipped"] == 0.0


@pytest.mark.parametrize("loss", [recipe().loss, FROM_THE_START], ids=["plain", "adversarial"])
def test_a_bad_batch_is_skipped(prepared: Path, monkeypatch: pytest.MonkeyPatch, loss: LossConfig) -> None:
    trainer = trainer_of(prepared, recipe(VQ, loss), steps=9)
    for _ in range(3):
        trainer.train_step()
    before = state(trainer)
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "_next_batch", lambda: bad_batch(trainer))
        assert trainer.train_step()["skipped"] == 1.0
    assert trainer.step == 4
    moved = differing(before, state(trainer))
    # Only the averaged weights still move, towards the weights.
    assert [name for name in moved if not name.startswith("average.")] == []
    values = trainer.train_step()
    assert [name for name, value in values.items() if not math.isfinite(value)] == []


@pytest.mark.parametrize("name", ["spectok-16k-4k", "spectok-16k-800", "queries", "flat", "spectokenizer-mini"])
def test_every_recipe_takes_a_step(prepared: Path, name: str) -> None:
    small = ["batch_size=1", "crop_seconds=0.7", "silence_share=0.0", "gap_share=0.0", "noise_share=0.0"]
    overrides = [f"data.{text}" for text in small] + ["data.source_weights={}", "loss.adversarial_start=0.0"]
    trainer = trainer_of(prepared, train_recipe.load_recipe(f"recipes/{name}.toml", overrides), steps=1)
    before = trainer.codec.encoder.tower.layers[0].conv.weight.detach().clone()
    values = trainer.train_step()
    assert 0 < values["gradient_norm"] < 1000
    assert ("discriminator_norm" in values) == trainer.config.loss.is_adversarial
    moved = float((trainer.codec.encoder.tower.layers[0].conv.weight.detach() - before).abs().max())
    first = trainer.config.optim.learning_rate / trainer.config.optim.warmup_steps
    assert 0.2 * first < moved < 2 * first


def test_batch_norm_is_refused_in_several_processes(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = train_recipe.load_recipe("recipes/spectokenizer-mini.toml", ["codec.tower.norm=batch"])
    monkeypatch.setattr("spectok.training.distributed.world", lambda: 2)
    with pytest.raises(InputError, match="must be trained by one process, which sees the whole batch"):
        trainer_of(prepared, config)


def test_impossible_runs_are_refused(prepared: Path) -> None:
    corpus = Corpus(prepared, "train")
    for minutes, steps in ((-1.0, None), (None, -1), (None, None)):
        with pytest.raises(InputError, match="the budget must be a positive number"):
            Budget(steps, minutes)
    with pytest.raises(InputError, match="warmup_steps is 0"):
        recipe(warmup_steps=0)
    short = dataclasses.replace(recipe(), data=DataConfig(crop_seconds=0.1))
    with pytest.raises(InputError, match="have 1600 samples, but the losses' longest window has 2048"):
        Trainer(short, corpus, Budget(steps=1))
    for windows in ("windows", "log_windows"):
        replaced: dict[str, Any] = {windows: (8192,)}
        wide = recipe(loss=ADVERSARIAL, discriminator=dataclasses.replace(DISCRIMINATOR, **replaced))
        with pytest.raises(InputError, match="have 6400 samples, but the losses' longest window has 8192"):
            Trainer(wide, corpus, Budget(steps=1))
    # Without adversarial losses, the discriminators' windows do not matter.
    Trainer(dataclasses.replace(wide, loss=recipe().loss), corpus, Budget(steps=1))
    blank = recipe(loss=LossConfig(complex_weight=0.0, magnitude_weight=0.0, mel_weight=1.0, level_weight=0.0))
    with pytest.raises(InputError, match="one of the losses between waveforms must have a positive weight"):
        dataclasses.replace(blank, loss=dataclasses.replace(blank.loss, mel_weight=0.0))
    batch_norm = dataclasses.replace(recipe().codec, tower=dataclasses.replace(recipe().codec.tower, norm="batch"))
    with pytest.raises(InputError, match="the norm 'batch' cannot be kept: its statistics change"):
        dataclasses.replace(recipe(), codec=batch_norm, trained="decoder")
    pulses = dataclasses.replace(recipe().codec, excitation=ExcitationConfig(kind="pulses", above=2e3))
    corpus.pitch = corpus.pitch[:0]
    with pytest.raises(InputError, match=r"has no pitch of the split train, which pulses need; prepare it again$"):
        Trainer(dataclasses.replace(recipe(), codec=pulses), corpus, Budget(steps=1))
    corpus.sample_rate = 24000
    with pytest.raises(InputError, match="prepared at 24000 Hz, but the codec runs at 16000"):
        Trainer(recipe(), corpus, Budget(steps=1))


def test_the_discriminators_in_use_depend_on_seed_and_step_only(prepared: Path) -> None:
    config = recipe(loss=FROM_THE_START)
    draws: dict[int, list[int]] = {}
    for first in (0, 3):
        trainer = trainer_of(prepared, config, steps=100)
        trainer.step, draws[first] = first, []
        for n, discriminator in enumerate(trainer.discriminators.period.discriminators):
            discriminator.register_forward_hook(lambda *_, n=n, drawn=draws[first]: drawn.append(n))
        for _ in range(8 - first):
            trainer.train_step()
    assert draws[0][3:] == draws[3]
    assert set(draws[0]) == {0, 1}


def test_a_codec_of_another_rate_is_refused_before_it_is_trained(tmp_path: Path) -> None:
    codec = dataclasses.replace(recipe().codec, sample_rate=8000)
    trainer: Any = SimpleNamespace(config=dataclasses.replace(recipe(), codec=codec))
    nothing: Any = None
    with pytest.raises(InputError, match=r"^validation is at 16000 Hz, so a codec of 8000 Hz cannot be trained$"):
        fit(trainer, nothing, tmp_path / "run")
    assert not (tmp_path / "run").exists()
