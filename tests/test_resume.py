"""A resumed run is bit for bit equal to one that was not stopped."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import ADVERSARIAL, FSQ, PLAIN, VQ, differing, recipe, state, trainer_of

from spectok.config import QuantizerConfig
from spectok.training.losses import LossConfig
from spectok.training.recipe import TrainConfig
from spectok.training.trainer import Trainer
from spectok.weights import load_tensors

QUANTIZERS = pytest.mark.parametrize("quantizer", [FSQ, VQ], ids=["fsq", "vq"])
LOSSES = pytest.mark.parametrize("loss", [PLAIN, ADVERSARIAL], ids=["plain", "adversarial"])


def resumed(prepared: Path, tmp_path: Path, config: TrainConfig, **compute: Any) -> Trainer:
    """A trainer after three steps, and a trainer that resumes from its checkpoint."""
    first = trainer_of(prepared, config)
    for _ in range(3):
        first.train_step()
    first.save(tmp_path)
    torch.manual_seed(1234)  # another process has another state of the generator
    second = trainer_of(prepared, config, **compute)
    second.resume(tmp_path)
    assert differing(state(first), state(second)) == []
    assert (second.step, second.seconds) == (3, 0.0)
    return second


@LOSSES
@QUANTIZERS
def test_six_steps_equal_three_and_three_resumed(
    prepared: Path, tmp_path: Path, quantizer: QuantizerConfig, loss: LossConfig
) -> None:
    config = recipe(quantizer, loss)
    straight = trainer_of(prepared, config)
    logs = [straight.train_step() for _ in range(6)]
    second = resumed(prepared, tmp_path, config)
    assert [second.train_step() for _ in range(3)] == logs[3:]
    assert differing(state(straight), state(second)) == []
    # The run includes everything that could differ: the codebook moves once the pool of 64 is full, in the first step;
    # the discriminators start in the third step, and by the sixth each has been used.
    assert quantizer is FSQ or straight.codec.quantizer.is_ready
    if loss is ADVERSARIAL:
        periods = {name.split(".")[1] for name in state(straight) if name.startswith("discriminator_optimizer.")}
        assert len(periods) == len(list(straight.discriminators.parameters()))
        assert straight.balancer.squares.keys() >= {"adversarial", "feature", "reconstruction"}


def test_the_statistics_of_a_batch_norm_and_a_codebook_without_a_pool_are_resumed(
    prepared: Path, tmp_path: Path
) -> None:
    config = recipe(dataclasses.replace(VQ, pool_size=0, expiry_threshold=0.5))
    codec = dataclasses.replace(config.codec, tower=dataclasses.replace(config.codec.tower, norm="batch"))
    config = dataclasses.replace(config, codec=codec)
    straight = trainer_of(prepared, config)
    logs = [straight.train_step() for _ in range(6)]
    second = resumed(prepared, tmp_path, config)
    assert [second.train_step() for _ in range(3)] == logs[3:]
    assert differing(state(straight), state(second)) == []
    moved = [name for name, tensor in state(straight).items() if name.endswith("running_mean") and tensor.any()]
    assert len(moved) == 4  # encoder and decoder, in the weights and in their averages
    assert straight.codec.quantizer.is_ready


def test_workers_change_nothing(prepared: Path, tmp_path: Path) -> None:
    config = recipe(VQ, ADVERSARIAL)
    straight = trainer_of(prepared, config)
    logs = [straight.train_step() for _ in range(6)]
    second = resumed(prepared, tmp_path, config, workers=1)
    assert [second.train_step() for _ in range(3)] == logs[3:]
    second.close()
    assert differing(state(straight), state(second)) == []


def test_a_checkpoint_without_discriminators_leaves_them_at_their_initial_values(
    prepared: Path, tmp_path: Path
) -> None:
    config = recipe(loss=ADVERSARIAL)
    straight, first = trainer_of(prepared, config), trainer_of(prepared, config)
    logs = [straight.train_step() for _ in range(4)]
    first.train_step()
    first.save(tmp_path)
    second = trainer_of(prepared, config)
    second.resume(tmp_path)
    assert [second.train_step() for _ in range(3)] == logs[1:]
    assert differing(state(straight), state(second)) == []


def test_seconds_are_resumed(prepared: Path, tmp_path: Path) -> None:
    first = trainer_of(prepared)
    first.seconds = 0.1 + 0.2
    first.save(tmp_path)
    second = trainer_of(prepared)
    second.resume(tmp_path)
    assert second.seconds == second.seconds_before == 0.1 + 0.2


@pytest.mark.parametrize(("quantizer", "kept"), [(FSQ, []), (VQ, ["pool", "pooled"])], ids=["fsq", "vq"])
def test_a_checkpoint_holds_no_constants(
    prepared: Path, tmp_path: Path, quantizer: QuantizerConfig, kept: list[str]
) -> None:
    trainer_of(prepared, recipe(quantizer), steps=1).save(tmp_path)
    tensors, _ = load_tensors(tmp_path / "checkpoint.safetensors")
    assert sorted(name for name in tensors if name.startswith("buffer.")) == [f"buffer.quantizer.{n}" for n in kept]
