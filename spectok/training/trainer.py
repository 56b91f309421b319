"""The training step and everything it changes: codec, averaged weights, discriminators, optimisers, balancer."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from spectok.errors import require
from spectok.evaluation.erasures import lost_frames
from spectok.evaluation.pitch import PITCH_RATE
from spectok.files import write_text
from spectok.model.codec import Codec
from spectok.model.excitation import Estimate, Excitation
from spectok.model.quantizer import Quantized
from spectok.model.streaming import State
from spectok.training import distributed
from spectok.training.augment import Batch
from spectok.training.balance import Balancer
from spectok.training.batches import Batches
from spectok.training.checkpoint import Part, module_part, optimizer_part, with_prefix
from spectok.training.corpus import Corpus
from spectok.training.discriminators import Discriminators
from spectok.training.losses import Heard, Losses, adversarial_losses, decorrelation, pitch_loss
from spectok.training.recipe import Budget, Compute, TrainConfig
from spectok.training.streams import Streams
from spectok.weights import load_tensors, save_tensors

Network = Callable[[Tensor, tuple[State, ...], Tensor | None], tuple[Estimate, Quantized, tuple[State, State]]]


class Trainer:
    """The state of a training run.

    Args:
        config: the recipe.
        corpus: the training split.
        budget: determines the learning rate, the start of the adversarial losses, and the end.
        compute: what to compute on; by default a CPU.
    """

    def __init__(
        self,
        config: TrainConfig,
        corpus: Corpus,
        budget: Budget,
        compute: Compute | None = None,
    ) -> None:
        require(
            corpus.sample_rate == config.codec.sample_rate,
            f"the corpus was prepared at {corpus.sample_rate} Hz, but the codec runs at {config.codec.sample_rate}",
        )
        require(
            config.codec.tower.norm != "batch" or distributed.world() == 1,
            "a tower with the norm 'batch' must be trained by one process, which sees the whole batch",
        )
        require(
            config.codec.excitation.kind != "pulses" or len(corpus.pitch) > 0,
            f"{corpus.folder} has no pitch of the split {corpus.split}, which pulses need; prepare it again",
        )
        require(
            config.data.batch_size % distributed.world() == 0,
            f"batch_size {config.data.batch_size} is not a multiple of {distributed.world()} ranks",
        )
        torch.manual_seed(config.seed)
        self.config, self.corpus, self.budget = config, corpus, budget
        self.compute = compute or Compute()
        device = self.compute.device
        self.codec = Codec(config.codec).to(device)
        if config.trained != "all":
            self.codec.requires_grad_(False)
            encoder, decoder = self.codec.encoder, self.codec.decoder
            parts: dict[str, nn.Module | None] = {"encoder": encoder, "denoiser": encoder.denoiser}
            parts |= {"decoder": decoder, "concealment": decoder.concealment}
            part = parts[config.trained]
            assert part is not None  # TrainConfig requires it
            part.requires_grad_(True)
        self.network = compiled(self.codec) if self.compute.compile else self.codec.estimate
        self.losses = Losses(config.loss, config.codec.sample_rate, config.codec.excitation.phase_below).to(device)
        self.balancer = Balancer(config.loss)
        self.optimizer = self._optimizer_of(self.codec)
        self.discriminators = Discriminators(config.discriminator).to(device) if config.loss.is_adversarial else None
        self.discriminator_optimizer = self._optimizer_of(self.discriminators) if self.discriminators else None
        self.averaged = AveragedModel(self.codec, multi_avg_fn=self._average_, use_buffers=True)
        self.averaged.n_averaged.fill_(1)  # the initial weights count as one
        self.step, self.seconds, self.seconds_before = 0, 0.0, 0.0  # before: in earlier processes
        self.batches: Batches | None = None
        self.stream: Iterator[Batch] = iter(())
        frame = config.codec.frame_length
        self.crop_samples = round(config.data.crop_seconds * config.codec.sample_rate / frame) * frame
        require(
            self.crop_samples % corpus.hop == 0,
            f"crops of {self.crop_samples} samples are no multiple of the {corpus.hop} samples between pitch values; "
            "choose another data.crop_seconds or hop_length",
        )
        self.streams = self._new_streams()
        windows = config.discriminator.windows + config.discriminator.log_windows if self.discriminators else ()
        longest = max([config.loss.longest, *windows])
        require(
            self.crop_samples >= longest,
            f"crops of {config.data.crop_seconds} s have {self.crop_samples} samples, but the losses' longest window "
            f"has {longest}",
        )

    @property
    def progress(self) -> float:
        """How much of the budget is spent, from 0 to 1."""
        return self.budget.progress(self.step, self.seconds)

    @property
    def waited(self) -> float:
        """Seconds that steps have waited for batches in this process."""
        return self.batches.waited if self.batches else 0.0

    def train_step(self) -> dict[str, float]:
        """One update; returns the unweighted losses, the norms of their gradients, and the learning rate."""
        rate = self._set_learning_rate()
        torch.manual_seed(self.config.seed + self.step)
        audio, heard, tracked = self._next_batch()
        self.streams.reset(self._resets())
        torch.manual_seed(self.config.seed + self.step)  # a reset draws numbers, which not every rank has
        with torch.autocast(self._device_type, torch.bfloat16, enabled=self.compute.bf16):
            estimate, quantized, network_state = self.network(heard, self.streams.network, self._lost())
        estimate = estimate.mapped(Tensor.float)
        pitch, pitch_losses = self._pitch(estimate, tracked)
        output, synthesis_state = self.streams.synthesize(estimate, pitch)
        original = self.streams.delayed(audio)
        decoded = output.detach().requires_grad_()
        features = self.losses.hear(original, decoded)
        losses = self.losses(original, decoded, self.progress, features)
        adversarial, error = self._adversarial_losses(original, decoded[: len(original)], features)
        gradient, gradient_norms = self.balancer.combine(losses | adversarial, decoded)
        internal_losses = self._latent_losses(quantized) | pitch_losses  # of tensors other than the output
        weights = self.config.loss.weights
        internal_total = torch.stack([weights[name] * loss for name, loss in internal_losses.items()]).sum()
        norms = {}
        if error is not None:
            norms["discriminator_norm"] = self._update_discriminators(error)
            adversarial |= {"discriminator": error}
        self.optimizer.zero_grad()
        ((output * gradient).sum() + internal_total).backward()  # the first term has `gradient` at the output
        norms["gradient_norm"] = self._update(self.codec, self.optimizer)
        if math.isfinite(norms["gradient_norm"]):
            self.streams.go_on(audio, network_state, synthesis_state)
            gathered = [distributed.gather(tensor.detach()) for tensor in (quantized.latent, quantized.codes)]
            if self.config.trained == "all":
                self.codec.quantizer.update_(*gathered)
        total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum() + internal_total
        values = losses | internal_losses | adversarial | {"total": total}
        values |= {f"{name}_norm": norm for name, norm in gradient_norms.items()}
        return self._finish(values, norms, rate)

    @property
    def average(self) -> dict[str, Tensor]:
        """The averaged weights by name."""
        return self.averaged.module.state_dict()

    def averaged_codec(self) -> Codec:
        """A copy of the codec with the averaged weights, on the CPU, for evaluation."""
        codec = Codec(self.config.codec)
        codec.load_state_dict(self.average)
        return codec.eval()

    def save(self, folder: Path) -> None:
        """Write the checkpoint and the release form into a run folder; all ranks must call it, and rank 0 writes."""
        tensors = {f"{name}.{key}": t for name, part in self._parts().items() for key, t in part.take().items()}
        if distributed.rank() > 0:
            return
        folder.mkdir(parents=True, exist_ok=True)
        metadata = {"step": str(self.step), "seconds": repr(self.seconds)}
        save_tensors(folder / "checkpoint.safetensors", tensors, metadata)
        release = folder / "release"
        release.mkdir(exist_ok=True)
        write_text(release / "config.json", self.config.codec.to_json())
        save_tensors(release / "model.safetensors", self.average, {"format": "pt"})

    def resume(self, folder: Path) -> None:
        """Continue a run from its checkpoint; with a budget of steps, the result is bit-exact."""
        tensors, metadata = load_tensors(folder / "checkpoint.safetensors")
        for name, part in self._parts().items():
            part.put_back(with_prefix(tensors, f"{name}."))
        self.step, self.seconds = int(metadata["step"]), float(metadata["seconds"])
        self.seconds_before = self.seconds
        self.close()

    def start_from(self, weights: dict[str, Tensor], discriminators: dict[str, Tensor] | None = None) -> None:
        """Start from the weights of a release instead of random ones, and optionally from its discriminators.

        Discriminators whose shapes differ from the recipe's are ignored.
        """
        self.codec.load_state_dict(weights)
        if self.discriminators and discriminators:
            shapes = {name: tensor.shape for name, tensor in self.discriminators.state_dict().items()}
            if shapes == {name: tensor.shape for name, tensor in discriminators.items()}:
                self.discriminators.load_state_dict(discriminators)
        self.averaged.module.load_state_dict(self.codec.state_dict())

    def close(self) -> None:
        """End the processes that prepare batches; the next step starts new ones."""
        if self.batches:
            self.batches.close()
        self.batches = None

    def _new_streams(self) -> Streams:
        """The streams of this rank, at their start."""
        return Streams(self.codec, self.config.data.batch_size // distributed.world(), self.config.loss.draws)

    @property
    def _device_type(self) -> str:
        return self.compute.device.split(":")[0]

    def _finish(self, values: dict[str, Tensor], norms: dict[str, float], rate: float) -> dict[str, float]:
        """Count the step and average the weights; returns what `train_step` does."""
        self.step += 1
        self.averaged.update_parameters(self.codec)
        numbers = torch.stack([value.detach().float() for value in values.values()]).tolist()  # one synchronisation
        return {
            **dict(zip(values, numbers, strict=True)),
            **norms,
            "learning_rate": rate,
            "skipped": 0.0 if math.isfinite(norms["gradient_norm"]) else 1.0,
        }

    def _next_batch(self) -> Batch:
        if self.batches is None:
            self.batches = Batches(
                self.corpus,
                self.config.data,
                self.crop_samples,
                self.config.seed,
                self.step,
                distributed.rank(),
                distributed.world(),
                self.compute.workers,
            )
            self.stream = iter(self.batches)
        return Batch(*(part.to(self.compute.device, non_blocking=True) for part in next(self.stream)))

    def _resets(self) -> Tensor:
        """Which of this rank's streams are reset before this step, bool `[B]`."""
        rng = np.random.default_rng([self.config.seed, self.step])
        return self._own(rng.random(self.config.data.batch_size) < self.config.reset_share)

    def _lost(self) -> Tensor | None:
        """Which frames of this rank's streams are lost in this step, bool `[B, F]`; None if the recipe loses none."""
        config = self.config.erasures
        if not config.share:
            return None
        rng = np.random.default_rng([self.config.seed, self.step, 1])
        frames = self.crop_samples // self.codec.frame_length
        lost = np.zeros((self.config.data.batch_size, frames), bool)
        for row in lost:
            if rng.random() < config.share:
                row[:] = lost_frames(frames, rng.uniform(*config.rate), rng.uniform(*config.burst), rng)
        return self._own(lost)

    def _own(self, rows: NDArray[np.bool_]) -> Tensor:
        """This rank's rows of an array that has a row for each stream of the whole batch."""
        share = len(rows) // distributed.world()
        return torch.from_numpy(rows[distributed.rank() * share :][:share]).to(self.compute.device)

    def _pitch(self, estimate: Estimate, tracked: Tensor) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Grid points for the pulses, `[B, F]`, and the pitch head's loss, if the codec has an `Excitation`.

        At first the pulses follow the tracker's pitch in voiced hops, so that they match the original; later, in more
        and more streams, the codec's own pitch (`TrainConfig.tracked_pitch`).
        """
        excitation, config = self.codec.decoder.excitation, self.config
        if not isinstance(excitation, Excitation) or estimate.pitch is None:
            return None, {}
        hops = estimate.pitch.shape[1]
        middles = (torch.arange(hops, device=tracked.device) + 0.5) * (config.codec.spectrum.hop_length * PITCH_RATE)
        tracked = tracked[:, (middles / config.codec.sample_rate).long()]
        lowest, highest = config.codec.excitation.pitch_range
        voiced = (tracked >= lowest) & (tracked <= highest)
        position = excitation.grid.position(tracked)
        losses = {"pitch": pitch_loss(estimate.pitch, position, voiced)} if config.loss.pitch_weight else {}
        until, beyond = config.tracked_pitch
        share = min(1.0, max(0.0, (beyond - self.progress) / max(beyond - until, 1e-9)))
        follows_tracker = torch.rand(len(tracked), 1, device=tracked.device) < share
        own = excitation.grid.decode(estimate.pitch.detach())
        unvoiced = torch.minimum(own, -1 - own)  # the codec's pitch, as an unvoiced one
        target = torch.where(voiced, excitation.grid.index(tracked), unvoiced)
        return torch.where(follows_tracker, target, own), losses

    def _adversarial_losses(
        self, real: Tensor, fake: Tensor, heard: Heard | None = None
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """The codec's adversarial losses and the discriminators' own loss, from one pass of the discriminators."""
        loss = self.config.loss
        if self.discriminators is None or self.progress < loss.adversarial_start:
            return {}, None
        # The original is normalised to one level. The output has the same gain, so that its level still counts.
        gain = 1 / (real.square().mean(dim=1, keepdim=True).sqrt() + 1e-3)
        with torch.autocast(self._device_type, torch.bfloat16, enabled=self.compute.bf16):
            features = [torch.cat(pair) for pair in zip(*heard, strict=True)] if heard else []
            logits, maps = self.discriminators(torch.cat([real, fake]) * gain.repeat(2, 1), features)
        count = len(real)
        of_real, of_fake = (
            ([x[half].float() for x in logits], [[x[half].float() for x in layers] for layers in maps])
            for half in (slice(count), slice(count, None))
        )
        losses, error = adversarial_losses(of_real, of_fake)
        return {name: value for name, value in losses.items() if loss.weights[name]}, error

    def _latent_losses(self, quantized: Quantized) -> dict[str, Tensor]:
        losses = {"commitment": quantized.commitment_loss}
        if self.config.loss.decorrelation_weight:
            losses["decorrelation"] = decorrelation(quantized.latent)
        return losses

    def _update_discriminators(self, error: Tensor) -> float:
        assert self.discriminators is not None and self.discriminator_optimizer is not None
        self.discriminator_optimizer.zero_grad()
        error.backward(inputs=list(self.discriminators.parameters()))
        return self._update(self.discriminators, self.discriminator_optimizer)

    def _update(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> float:
        """Average the gradients over the ranks, limit their norm, and step if they are finite; returns the norm."""
        gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
        distributed.mean_(gradients)
        norm = float(torch.nn.utils.clip_grad_norm_(module.parameters(), self.config.optim.clip_norm))
        if math.isfinite(norm):
            optimizer.step()
        return norm

    def _optimizer_of(self, module: nn.Module) -> torch.optim.AdamW:
        optim = self.config.optim
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(parameters, lr=optim.learning_rate, betas=optim.betas, weight_decay=optim.weight_decay)

    def _parts(self) -> dict[str, Part]:
        """The parts of a checkpoint, by name."""
        parts = {
            "codec": module_part(self.codec),
            "average": module_part(self.averaged.module),
            "buffer": Part(self._training_buffers, self._restore_buffers),
            "optimizer": optimizer_part(self.optimizer),
            "balance": Part(lambda: self.balancer.squares, self._restore_balance),
            "streams": Part(self.streams.tensors, self._restore_streams),
        }
        if self.discriminators and self.discriminator_optimizer:
            parts["discriminators"] = module_part(self.discriminators)
            parts["discriminator_optimizer"] = optimizer_part(self.discriminator_optimizer)
        return parts

    def _restore_streams(self, tensors: dict[str, Tensor]) -> None:
        self.streams.restore(tensors, distributed.rank(), distributed.world())

    def _restore_balance(self, tensors: dict[str, Tensor]) -> None:
        self.balancer.squares = {name: tensor.to(self.compute.device) for name, tensor in tensors.items()}

    def _restore_buffers(self, tensors: dict[str, Tensor]) -> None:
        for name, buffer in self._training_buffers().items():
            buffer.copy_(tensors[name])

    def _training_buffers(self) -> dict[str, Tensor]:
        """Buffers that only training needs and a release lacks: the quantizer's pool of recent latents."""
        quantizer = self.codec.quantizer
        return {f"quantizer.{name}": getattr(quantizer, name) for name in quantizer.TRAINING_BUFFERS}

    def _set_learning_rate(self) -> float:
        optim = self.config.optim
        warmup = min(1.0, (self.step + 1) / optim.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * self.progress))
        rate = optim.learning_rate * warmup * (optim.final_share + (1 - optim.final_share) * cosine)
        for optimizer, share in ((self.optimizer, 1.0), (self.discriminator_optimizer, optim.discriminator_share)):
            for group in optimizer.param_groups if optimizer else ():
                group["lr"] = share * rate
        return rate

    def _average_(
        self, averages: tuple[Tensor, ...] | list[Tensor], currents: tuple[Tensor, ...] | list[Tensor], _: Tensor | int
    ) -> None:
        """Update the averaged weights; in the first steps the decay is smaller, so that they follow quickly."""
        decay = min(self.config.optim.ema_decay, (1 + self.step) / (10 + self.step))
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, currents, 1 - decay)
        else:
            torch._foreach_copy_(averages, currents)


def compiled(codec: Codec) -> Network:
    """`Codec.estimate` compiled with `torch.compile`; on a CPU it unrolls the GRUs, which takes minutes."""
    torch._dynamo.config.allow_rnn = next(codec.parameters()).device.type == "cpu"
    network: Network = torch.compile(codec.estimate, dynamic=False)
    return network
