"""What a run is: its recipe, its budget, its machine."""

from dataclasses import dataclass, field

from spectok.config import CodecConfig
from spectok.schema import require
from spectok.training.augment import DataConfig
from spectok.training.discriminators import DiscriminatorConfig
from spectok.training.losses import LossConfig


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with warm-up and a cosine over the budget."""

    learning_rate: float = 1e-3
    final_share: float = 0.02  # of the learning rate, at the end of the cosine
    discriminator_share: float = 1.0  # of the learning rate, for the discriminators
    betas: tuple[float, float] = (0.8, 0.99)
    weight_decay: float = 0.01
    warmup_steps: int = 200
    clip_norm: float = 1.0  # gradients longer than this are scaled down to it
    ema_decay: float = 0.999  # of the averaged weights, which are the released ones

    def __post_init__(self) -> None:
        require(self.learning_rate > 0, f"learning_rate is {self.learning_rate}, but must be positive")
        require(self.warmup_steps > 0, f"warmup_steps is {self.warmup_steps}, but must be at least 1")
        require(0 <= self.ema_decay < 1, f"ema_decay is {self.ema_decay}, but must be at least 0 and less than 1")


@dataclass(frozen=True)
class TrainConfig:
    """A recipe: everything that decides a run but its budget and its machine."""

    codec: CodecConfig = field(default_factory=CodecConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    seed: int = 0
    reset_share: float = 0.025  # of steps at which a stream's states begin anew at zero; else they go on
    tracked_pitch: tuple[float, float] = (0.15, 0.5)  # shares of the budget until which the tracker's pitch drives the
    # pulses of all streams, and from which the codec's own does
    validate_minutes: float = 10.0
    checkpoint_minutes: float = 3.0


@dataclass
class Budget:
    """How long to train: until `steps`, or `minutes` of training time have passed since step 0, whichever is first."""

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
class Machine:
    """What a run is computed on; it decides the speed, and of the result only the last bits."""

    device: str = "cpu"
    bf16: bool = False  # compute the network in bfloat16 where autocast deems it safe
    compile: bool = False  # compile the codec with torch.compile
    workers: int = 0  # processes that prepare batches; 0 prepares them in the loop
