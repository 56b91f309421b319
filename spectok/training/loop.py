"""The training loop: one step, the schedule, validation, and `fit`, which ties them to a time budget."""

import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from spectok.config import CodecConfig, require
from spectok.model.codec import Codec
from spectok.model.weights import load_tensors, save_tensors
from spectok.training.checkpoint import optimizer_tensors, restore_optimizer
from spectok.training.data import Corpus, DataConfig
from spectok.training.losses import LossConfig, Losses
from spectok.training.validation import validate


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with warm-up and a cosine over the budget."""

    learning_rate: float = 1e-3
    final_share: float = 0.02  # of the learning rate, at the end of the cosine
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
    optim: OptimConfig = field(default_factory=OptimConfig)
    seed: int = 0
    warm_state_seconds: float = 0.1  # at the start of a crop, before the states are warm, nothing is scored
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


class Trainer:
    """Everything a run needs to go on: codec, averaged weights, optimiser, step and seconds.

    Args:
        config: the recipe.
        corpus: the training split.
        budget: decides the cosine and the end.
        device: "cpu" or "cuda".
        bf16: compute the network in bfloat16 where autocast deems it safe.
    """

    def __init__(
        self, config: TrainConfig, corpus: Corpus, budget: Budget, device: str = "cpu", bf16: bool = False
    ) -> None:
        require(
            corpus.sample_rate == config.codec.sample_rate,
            f"the corpus was prepared at {corpus.sample_rate} Hz, but the codec runs at {config.codec.sample_rate}",
        )
        torch.manual_seed(config.seed)
        self.config, self.corpus, self.budget, self.device, self.bf16 = config, corpus, budget, device, bf16
        self.codec = Codec(config.codec).to(device)
        self.losses = Losses(config.loss, config.codec.sample_rate).to(device)
        self.optimizer = torch.optim.AdamW(
            self.codec.parameters(),
            lr=config.optim.learning_rate,
            betas=config.optim.betas,
            weight_decay=config.optim.weight_decay,
        )
        self.average = {name: tensor.detach().clone() for name, tensor in self.codec.state_dict().items()}
        self.step, self.seconds = 0, 0.0
        frame = config.codec.frame_length
        self.crop_samples = round(config.data.crop_seconds * config.codec.sample_rate / frame) * frame
        self.first_scored = round(config.warm_state_seconds * config.codec.sample_rate)
        scored = self.crop_samples - self.first_scored - config.codec.synthesis_delay
        require(
            scored >= config.loss.longest,
            f"crops of {config.data.crop_seconds} s leave {scored} samples to score, but the losses' longest window "
            f"has {config.loss.longest}",
        )

    def train_step(self) -> dict[str, float]:
        """One update; returns the unweighted losses, the gradient norm and the learning rate."""
        config = self.config
        rate = self._learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(config.seed + self.step)
        batch = self.corpus.batch(config.data, self.crop_samples, config.seed, self.step)
        audio = torch.from_numpy(batch).to(self.device)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            output, quantized = self.codec(audio)
        losses = self.losses(*self._aligned(audio, output.float()))
        losses["commitment"] = quantized.commitment_loss
        total = self.losses.total(losses)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.codec.parameters(), config.optim.clip_norm)
        usable = bool(torch.isfinite(norm))
        if usable:
            self.optimizer.step()
            self.codec.quantizer.update_(quantized.latent, quantized.codes)
        self.step += 1
        self._update_average()
        return {
            **{name: float(loss.detach()) for name, loss in losses.items()},
            "total": float(total.detach()),
            "gradient_norm": float(norm),
            "learning_rate": rate,
            "skipped": 0.0 if usable else 1.0,
        }

    def averaged_codec(self) -> Codec:
        """A copy of the codec with the averaged weights, on the CPU, for evaluation."""
        codec = Codec(self.config.codec)
        codec.load_state_dict(self.average)
        return codec.eval()

    def save(self, folder: Path) -> None:
        """Write the checkpoint and the release form into a run folder."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"codec.{name}": tensor for name, tensor in self.codec.state_dict().items()}
        tensors |= {f"average.{name}": tensor for name, tensor in self.average.items()}
        tensors |= {f"buffer.{name}": tensor for name, tensor in self._passing_buffers().items()}
        tensors |= optimizer_tensors(self.optimizer)
        metadata = {"step": str(self.step), "seconds": repr(self.seconds)}
        save_tensors(folder / "checkpoint.safetensors", tensors, metadata)
        release = folder / "release"
        release.mkdir(exist_ok=True)
        (release / "config.json").write_text(self.config.codec.to_json(), encoding="utf-8")
        save_tensors(release / "model.safetensors", self.average, {"format": "pt"})

    def resume(self, folder: Path) -> None:
        """Continue a run from its checkpoint, bit-exactly when the budget is counted in steps."""
        tensors, metadata = load_tensors(folder / "checkpoint.safetensors")
        self.codec.load_state_dict(_with_prefix(tensors, "codec."))
        self.average = {name: tensor.to(self.device) for name, tensor in _with_prefix(tensors, "average.").items()}
        restore_optimizer(self.optimizer, tensors)
        saved = _with_prefix(tensors, "buffer.")
        for name, buffer in self._passing_buffers().items():
            buffer.copy_(saved[name])
        self.step, self.seconds = int(metadata["step"]), float(metadata["seconds"])

    def start_from(self, weights: dict[str, Tensor]) -> None:
        """Begin at released weights instead of at random ones."""
        self.codec.load_state_dict(weights)
        self.average = {name: tensor.detach().clone() for name, tensor in self.codec.state_dict().items()}

    def _passing_buffers(self) -> dict[str, Tensor]:
        """What training needs and a release does not: the quantizer's pool of recent latents."""
        kept = self.codec.state_dict()
        return {name: buffer for name, buffer in self.codec.named_buffers() if name not in kept}

    def _learning_rate(self) -> float:
        optim = self.config.optim
        warmup = min(1.0, (self.step + 1) / optim.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * self.budget.progress(self.step, self.seconds)))
        return optim.learning_rate * warmup * (optim.final_share + (1 - optim.final_share) * cosine)

    def _aligned(self, audio: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        delay = self.config.codec.synthesis_delay
        first = self.first_scored
        return audio[:, first : audio.shape[1] - delay], output[:, first + delay :]

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.config.optim.ema_decay, (1 + self.step) / (10 + self.step))
        for name, tensor in self.codec.state_dict().items():
            if tensor.is_floating_point():
                self.average[name].lerp_(tensor, 1 - decay)
            else:
                self.average[name].copy_(tensor)


def fit(trainer: Trainer, valid: Corpus, folder: Path, quiet: bool = False) -> None:
    """Train until the budget is spent; log, validate and checkpoint on the way and at the end.

    Args:
        trainer: fresh, resumed, or started from released weights.
        valid: the validation split.
        folder: the run folder; gets log.jsonl, checkpoint.safetensors, release/ and samples/.
        quiet: no progress bar.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = trainer.config
    next_save = trainer.seconds + 60 * config.checkpoint_minutes
    next_validation = trainer.seconds + 60 * config.validate_minutes
    recent: dict[str, float] = {}
    done = trainer.budget.progress(trainer.step, trainer.seconds)
    bar = tqdm(total=100.0, initial=100 * done, disable=quiet, unit="%", bar_format="{l_bar}{bar}| {elapsed}{postfix}")
    with open(folder / "log.jsonl", "a", encoding="utf-8") as log, bar:
        while done < 1:
            began = time.monotonic()
            values = trainer.train_step()
            for name, value in values.items():
                if math.isfinite(value):  # one bad batch must not hide all later ones
                    recent[name] = 0.98 * recent.get(name, value) + 0.02 * value
            recent["learning_rate"] = values["learning_rate"]
            trainer.seconds += time.monotonic() - began
            done = trainer.budget.progress(trainer.step, trainer.seconds)
            if trainer.step % 100 == 0 or done >= 1:
                _log(log, trainer, "train", recent)
                bar.set_postfix_str(f"step {trainer.step}, loss {recent['total']:.3f}")
            bar.update(100 * done - bar.n)
            if trainer.seconds >= next_save or done >= 1:
                trainer.save(folder)
                next_save += 60 * config.checkpoint_minutes
            if trainer.seconds >= next_validation or done >= 1:
                _log(log, trainer, "valid", validate(trainer.averaged_codec(), valid, folder / "samples"))
                next_validation += 60 * config.validate_minutes


def _log(log: Any, trainer: Trainer, kind: str, values: dict[str, float]) -> None:
    rounded = {name: float(f"{value:.5g}") if math.isfinite(value) else None for name, value in values.items()}
    entry = {"kind": kind, "step": trainer.step, "seconds": round(trainer.seconds, 1), **rounded}
    log.write(json.dumps(entry, allow_nan=False) + "\n")
    log.flush()


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
