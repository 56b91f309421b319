"""The settings of a run of the study of separation; its TOML files have the same keys."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from spectok.config import BottleneckConfig
from spectok.errors import require
from spectok.schema import from_dict, read_recipe

SOURCES = {"cinematic": ("speech", "music", "effects"), "speech": ("speech", "rest")}  # of each task, in their order


@dataclass(frozen=True)
class SeparatorConfig:
    """Compression -> TF-Locoformer -> Expansion, on a short-time Fourier transform."""

    sample_rate: int = 16000  # in Hz; mixtures of 16 kHz are resampled to it
    n_fft: int = 512  # length of the Hann window
    hop_length: int = 256
    channels: int = 32  # C, of each frequency position on both sides of the bottleneck
    bottleneck: BottleneckConfig = field(default_factory=BottleneckConfig)
    learn_bias: bool = True  # query: False fixes the bias to SFC's P
    blocks: int = 2
    width: int = 32  # D, of each token in the blocks
    heads: int = 4
    hidden: int = 48  # H, of the convolutional SwiGLUs
    kernel: int = 4
    groups: int = 4  # of the norms
    output: Literal["mask", "map"] = "mask"  # complex masks; or magnitudes, with the mixture's phases
    scales: bool = False  # an estimate after every block, each scored at twice the rate of the one before (SFSRNet)
    upper: bool = False  # a network that refines the heuristic for the upper octave (SFSRNet)

    def __post_init__(self) -> None:
        require(self.sample_rate in (8000, 16000), f"sample_rate is {self.sample_rate}, but must be 8000 or 16000")
        require(
            0 < 2 * self.hop_length <= self.n_fft and self.n_fft % self.hop_length == 0,
            f"hop_length {self.hop_length} must divide n_fft {self.n_fft} at least twice",
        )
        require(self.blocks > 0, f"blocks is {self.blocks}, but must be at least 1")
        require(not self.upper or self.sample_rate == 8000, "upper needs sample_rate = 8000: there is nothing above")
        require(
            not self.scales or self.n_fft % 2**self.blocks == 0, "scales needs an n_fft that can be halved so often"
        )


@dataclass(frozen=True)
class MixConfig:
    """Mixtures, made at random."""

    task: Literal["cinematic", "speech"] = "cinematic"
    batch_size: int = 4
    seconds: float = 2.0
    level_db: tuple[float, float, float] = (-17.0, -24.0, -21.0)  # rms of speech, music, effects, dB of full scale
    spread_db: float = 3.0  # levels are uniformly distributed up to this far from `level_db`
    test_mixtures: int = 40
    test_seconds: float = 4.0

    def __post_init__(self) -> None:
        require(self.batch_size > 0 and self.test_mixtures > 0, "batch_size and test_mixtures must be at least 1")
        require(self.seconds > 0 and self.test_seconds >= 1, "seconds must be positive, and test_seconds at least 1")


@dataclass(frozen=True)
class LossConfig:
    """Negative SNR of each source, and a penalty."""

    limit_db: float = 30.0  # the SNR above which an estimate brings little more
    overshoot_weight: float = 0.0  # of the penalty on energy beyond the mixture's
    both_sources: bool = True  # False: only the first source is estimated, and the second is the rest of the mixture

    def __post_init__(self) -> None:
        require(self.overshoot_weight >= 0, f"overshoot_weight is {self.overshoot_weight}, but must not be negative")


@dataclass(frozen=True)
class SeparationConfig:
    """A recipe: everything that determines a run except its budget."""

    separator: SeparatorConfig = field(default_factory=SeparatorConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    learning_rate: float = 1e-3  # of AdamW
    warmup_steps: int = 50
    final_share: float = 0.05  # learning rate at the end of the cosine, as a share of `learning_rate`
    weight_decay: float = 0.01
    clip_norm: float = 5.0
    seed: int = 0
    log_steps: int = 20
    checkpoint_steps: int = 100

    def __post_init__(self) -> None:
        require(self.learning_rate > 0, f"learning_rate is {self.learning_rate}, but must be positive")
        require(
            min(self.warmup_steps, self.log_steps, self.checkpoint_steps) > 0,
            "warmup_steps, log_steps and checkpoint_steps must be at least 1",
        )
        two = len(self.sources) == 2
        require(self.loss.both_sources or two, "both_sources = false needs the task 'speech', which has two sources")

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of the sources in their order."""
        return SOURCES[self.mix.task]

    @property
    def outputs(self) -> int:
        """How many sources the network estimates."""
        return len(self.sources) if self.loss.both_sources else 1


def load_recipe(path: str | Path, overrides: list[str]) -> SeparationConfig:
    """Read a recipe and apply `key.path=value` overrides, strictly.

    Raises:
        InputError: the file cannot be read, or a key or value is wrong.
    """
    return from_dict(SeparationConfig, read_recipe(path, overrides), str(path))
