"""The settings of a run: its recipe, its budget, and what it is computed on."""

from dataclasses import dataclass, field
from typing import Literal

from spectok.config import CodecConfig
from spectok.errors import require
from spectok.training.augment import DataConfig
from spectok.training.discriminators import DiscriminatorConfig
from spectok.training.losses import WAVEFORM_LOSSES, LossConfig


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with a linear warm-up and a cosine schedule over the budget."""

    learning_rate: float = 1e-3
    final_share: float = 0.02  # learning rate at the end of the cosine, as a share of `learning_rate`
    discriminator_share: float = 1.0  # learning rate of the discriminators, as a share of the codec's
    betas: tuple[float, float] = (0.8, 0.99)
    weight_decay: float = 0.01
    warmup_steps: int = 200  # over which the learning rate rises
    clip_norm: float = 1.0  # gradients with a larger norm are scaled down to it
    ema_decay: float = 0.999  # decay of the averaged weights, which are released; 0 disables averaging

    def __post_init__(self) -> None:
        require(self.learning_rate > 0, f"learning_rate is {self.learning_rate}, but must be positive")
        require(self.warmup_steps > 0, f"warmup_steps is {self.warmup_steps}, but must be at least 1")
        require(0 <= self.ema_decay < 1, f"ema_decay is {self.ema_decay}, but must be at least 0 and less than 1")
        require(self.clip_norm > 0, f"clip_norm is {self.clip_norm}, but must be positive")
        for name in ("final_share", "discriminator_share", "weight_decay"):
            require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}, but must not be negative")


@dataclass(frozen=True)
class ErasureConfig:
    """Frames that are lost between encoder and decoder (evaluation/erasures.py); the decoder learns to conceal them."""

    share: float = 0.0  # of the streams of a step
    rate: tuple[float, float] = (0.03, 0.4)  # range of the share of lost frames
    burst: tuple[float, float] = (1.0, 4.0)  # range of the mean number of frames that are lost in a row

    def __post_init__(self) -> None:
        require(0 <= self.share <= 1, f"share is {self.share}, but must be from 0 to 1")
        require(0 <= self.rate[0] <= self.rate[1] < 1, f"rate {self.rate} must rise, from at least 0 to less than 1")
        require(1 <= self.burst[0] <= self.burst[1], f"burst {self.burst} must rise, from at least 1")


@dataclass(frozen=True)
class TrainConfig:
    """A recipe: everything that determines a run except its budget and `Compute`."""

    codec: CodecConfig = field(default_factory=CodecConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    erasures: ErasureConfig = field(default_factory=ErasureConfig)
    trained: Literal["all", "decoder", "concealment", "encoder", "denoiser"] = "all"  # the part that is trained
    seed: int = 0
    reset_share: float = 0.025  # probability that a stream's states are reset before a step; else they are carried over
    # Shares of the budget: until the first, the pulses follow the tracker's pitch in all streams; after the second, the
    # codec's own; in between, each stream follows one or the other at random.
    tracked_pitch: tuple[float, float] = (0.15, 0.5)
    validate_minutes: float = 10.0  # training time between validations
    checkpoint_minutes: float = 3.0  # training time between checkpoints

    @property
    def is_robust(self) -> bool:
        """Whether an encoder that is robust to noise is trained, all of it or its denoiser."""
        return self.trained in ("encoder", "denoiser")

    def __post_init__(self) -> None:
        require(0 <= self.reset_share <= 1, f"reset_share is {self.reset_share}, but must be from 0 to 1")
        until, beyond = self.tracked_pitch
        require(
            0 <= until <= beyond <= 1, f"tracked_pitch {self.tracked_pitch} must rise, from at least 0 to at most 1"
        )
        for name in ("validate_minutes", "checkpoint_minutes"):
            require(getattr(self, name) > 0, f"{name} is {getattr(self, name)}, but must be positive")
        require(
            self.trained == "all" or self.codec.tower.norm != "batch",
            "a tower with the norm 'batch' cannot be kept: its statistics change even where its weights do not",
        )
        conceals = self.codec.concealment_hidden > 0 and self.erasures.share > 0
        require(
            conceals or self.trained != "concealment",
            "to train the concealment, codec.concealment_hidden and erasures.share must be positive",
        )
        require(
            self.trained != "denoiser" or self.codec.denoiser_hidden > 0,
            "to train the denoiser, codec.denoiser_hidden must be positive",
        )
        require(
            self.is_robust or not self.data.denoise,
            "data.denoise needs trained = 'encoder' or 'denoiser', which keep the decoder and train a robust encoder",
        )
        require(
            not self.is_robust
            or (max(self.loss.latent_weight, self.loss.denoised_weight) > 0 and not self.loss.is_adversarial),
            "to train an encoder, latent_weight or denoised_weight must be positive, and the adversarial losses off",
        )
        compared = [name for name in (*WAVEFORM_LOSSES, "recognizer") if self.loss.weights[name]]
        require(self.is_robust or bool(compared), "one of the losses between waveforms must have a positive weight")
        require(
            not self.is_robust or self.loss.latent_weight > 0 or not compared,
            "the losses between waveforms need a positive latent_weight",
        )
        require(
            not self.loss.denoised_weight or self.codec.denoiser_hidden > 0,
            "loss.denoised_weight needs a positive codec.denoiser_hidden",
        )
        unused = [name for name in ("pitch", "decorrelation", "recognizer") if self.loss.weights[name]]
        unused = [f"loss.{name}_weight" for name in unused] + ["erasures.share"] * (self.erasures.share > 0)
        require(not self.is_robust or not unused, f"to train an encoder, {' and '.join(unused)} must be 0")
        require(
            not self.discriminator.recognizer_channels or self.loss.recognizer_weight > 0,
            "discriminator.recognizer_channels needs a positive loss.recognizer_weight",
        )


@dataclass
class Budget:
    """How long to train: until `steps` steps or `minutes` of training time, whichever comes first; None is no limit."""

    steps: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.steps, self.minutes) if value is not None]
        require(bool(given) and min(given) > 0, "the budget must be a positive number of --minutes or --steps")

    def progress(self, step: int, seconds: float) -> float:
        """How much of the budget is spent, from 0 to 1."""
        by_steps = step / self.steps if self.steps else 0.0
        by_time = seconds / (60 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(by_steps, by_time))


@dataclass(frozen=True)
class Compute:
    """What a run is computed on and how; it affects the speed, and only the last bits of the result."""

    device: str = "cpu"  # or "cuda"
    bf16: bool = False  # compute the network in bfloat16, by autocast
    compile: bool = False  # compile the codec with torch.compile
    workers: int = 0  # processes that prepare batches; 0 prepares them in the loop
