"""A codec small enough to train in a test: its recipe, a trainer, and the tensors that a step may change."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spectok.config import BottleneckConfig, CodecConfig, QuantizerConfig, TowerConfig
from spectok.evaluation.pitch import PITCH_RATE
from spectok.training.augment import Batch, DataConfig
from spectok.training.corpus import Corpus
from spectok.training.discriminators import DiscriminatorConfig
from spectok.training.losses import LossConfig
from spectok.training.recipe import Budget, Compute, OptimConfig, TrainConfig
from spectok.training.trainer import Trainer

FSQ = QuantizerConfig(tokens_per_frame=4)
VQ = QuantizerConfig(kind="vq", tokens_per_frame=4, codebook_size=32, codebook_dim=4, pool_size=64)
PLAIN = LossConfig()
# Every loss, from the third of six steps on.
ADVERSARIAL = LossConfig(
    stft_weight=0.3,
    level_weight=0.2,
    adversarial_weight=0.5,
    feature_weight=0.5,
    decorrelation_weight=0.1,
    adversarial_start=0.3,
)
DISCRIMINATOR = DiscriminatorConfig(
    periods=(2, 3), period_channels=(2, 4), windows=(512, 256), band_channels=2, periods_asked=1
)
OVERRIDES = [  # the same codec and discriminators, for recipes/train.py
    "--set=codec.tower.channels=[2,4]",
    *(f"--set=codec.{key}=16" for key in ("latent_dim", "gru_hidden", "encoder_dense_rank", "decoder_dense_rank")),
    *(f"--set=codec.bottleneck.{text}" for text in ("kind=query", "queries=4", "heads=2")),
    '--set=codec.name="tiny"',
    "--set=discriminator.periods=[2,3]",
    "--set=discriminator.period_channels=[2,4]",
    "--set=discriminator.windows=[512,256]",
    "--set=discriminator.band_channels=2",
    "--set=data.crop_seconds=0.4",
    "--set=loss.level_windows=[1024]",
    "--set=data.batch_size=2",
]
WEIGHTS = ("adversarial_weight=0.5", "feature_weight=0.5", "decorrelation_weight=0.1", "adversarial_start=0.0")
ADVERSARIAL_OVERRIDES = [f"--set=loss.{text}" for text in WEIGHTS]


def recipe(
    quantizer: QuantizerConfig = FSQ,
    loss: LossConfig = PLAIN,
    batch_size: int = 2,
    discriminator: DiscriminatorConfig = DISCRIMINATOR,
    **optim: Any,
) -> TrainConfig:
    tower = TowerConfig(channels=(2, 4))
    return TrainConfig(
        codec=CodecConfig(
            name="tiny",
            tower=tower,
            bottleneck=BottleneckConfig(queries=4, heads=2),
            quantizer=quantizer,
            latent_dim=16,
            gru_hidden=16,
            encoder_dense_rank=16,
            decoder_dense_rank=16,
        ),
        data=DataConfig(batch_size=batch_size, crop_seconds=0.4, silence_share=0.0, gap_share=0.0),
        loss=loss,
        discriminator=discriminator,
        optim=OptimConfig(**{"warmup_steps": 2, **optim}),
    )


def trainer_of(prepared: Path, config: TrainConfig | None = None, steps: int = 6, **compute: Any) -> Trainer:
    return Trainer(config or recipe(), Corpus(prepared, "train"), Budget(steps), Compute(**compute))


def state(trainer: Trainer) -> dict[str, Tensor]:
    """Copies of all tensors that a step may change, by name."""
    parts = {
        "codec": dict(trainer.codec.named_parameters()) | dict(trainer.codec.named_buffers()),
        "average": trainer.average,
        "optimizer": _entries(trainer.optimizer),
        "balance": trainer.balancer.squares,
    }
    parts["streams"] = trainer.streams.tensors()
    if trainer.discriminators and trainer.discriminator_optimizer:
        parts["discriminators"] = trainer.discriminators.state_dict()
        parts["discriminator_optimizer"] = _entries(trainer.discriminator_optimizer)
    return {f"{part}.{name}": x.detach().clone() for part, entries in parts.items() for name, x in entries.items()}


def _entries(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{index}.{key}": value for index, entry in state.items() for key, value in entry.items()}


def differing(first: dict[str, Tensor], second: dict[str, Tensor]) -> list[str]:
    """Names of the tensors that are not bit for bit equal."""
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])]


def distances(first: dict[str, Tensor], second: dict[str, Tensor]) -> dict[str, float]:
    """The largest difference in each tensor, relative to its largest value or to 1e-6 if that is greater."""
    assert first.keys() == second.keys()
    pairs = {name: (tensor.double(), second[name].double()) for name, tensor in first.items()}
    return {name: float((a - b).abs().max() / b.abs().max().clamp_min(1e-6)) for name, (a, b) in pairs.items()}


def bad_batch(trainer: Trainer) -> Batch:
    rows, samples = trainer.config.data.batch_size, trainer.crop_samples
    nan = torch.full((rows, samples), math.nan)
    return Batch(nan, nan, torch.zeros(rows, samples * PITCH_RATE // 16000))
