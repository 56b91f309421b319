"""Training of an encoder that is robust to noise and loudness, for the decoder and codebook of a finished codec.

The new encoder hears noisy, reverberant, quieter or louder speech. It is the finished one, the teacher, with a leveller
and a denoiser in front. The denoiser learns to give the spectrum of the clean speech (`loss.denoised_weight`), and it,
or all of the encoder (`trained`), to give the codes that the teacher gives for the clean speech (`loss.latent_weight`).
Decoder and quantizer do not change, so that they decode the codes of both.
"""

import dataclasses
import math

import torch
from torch import Tensor, nn

from spectok.errors import require
from spectok.model.codec import Encoder
from spectok.model.quantizer import FSQuantizer, VectorQuantizer
from spectok.training import distributed
from spectok.training.checkpoint import Part, module_part
from spectok.training.corpus import Corpus
from spectok.training.losses import WAVEFORM_LOSSES
from spectok.training.recipe import Budget, Compute, TrainConfig
from spectok.training.streams import Streams
from spectok.training.trainer import Trainer

CLEAN_WEIGHT = 4.0  # of the code errors of rows without noise; those with noise have the larger errors
MARGIN = 0.4  # in steps of the grid: latents nearer to a boundary between two codes than this count as errors


def code_errors(quantizer: FSQuantizer | VectorQuantizer, latent: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared distance of a latent to the region of the wanted codes, in steps of the grid (fsq).

    The result is that of each row, `[B]`. It is 0 if each number of the latent is at least `MARGIN` steps from the next
    boundary between codes. For a learned codebook (vq), it is the mean squared distance to the wanted entry.

    Args:
        quantizer: of both latents.
        latent: `[B, F, K, D]`.
        wanted: codes, `[B, F, K]`.
    """
    entries = quantizer.decode(wanted)
    if isinstance(quantizer, VectorQuantizer):
        return (latent - entries).square().flatten(1).mean(dim=1)
    distance = (torch.tanh(latent) - entries) * quantizer.reach  # from the middle of the region, in steps
    outermost = entries.abs() > 1 - 1e-3  # these regions have no boundary on their far side
    beyond = torch.where(outermost, -distance * entries.sign(), distance.abs())
    return nn.functional.relu(beyond - (0.5 - MARGIN)).square().flatten(1).mean(dim=1)


def denoised_error(denoised: Tensor, clean: Tensor, heard: Tensor) -> Tensor:
    """Squared error of a power-law spectrum, relative to that of the spectrum without denoising.

    Rows of clean speech, on which doing nothing is right, thereby count as much as noisy ones: their error is relative
    to a fiftieth of their energy.

    Args:
        denoised: `[B, 2, F, Q]`.
        clean: the target.
        heard: the input of the denoiser.
    """
    before, after = _error(heard, clean), _error(denoised, clean)
    return (after / (before + 0.02 * clean.square().mean(dim=(1, 2, 3)) + 1e-3)).mean()


def _error(spectrum: Tensor, clean: Tensor) -> Tensor:
    """Squared error, complex and of magnitudes, of each row."""
    magnitude, wanted = ((x.square().sum(1) + 1e-8).sqrt() for x in (spectrum, clean))
    of_magnitudes = (magnitude - wanted).square().mean(dim=(1, 2))
    return 0.5 * (spectrum - clean).square().mean(dim=(1, 2, 3)) + 0.25 * of_magnitudes


class EncoderTrainer(Trainer):
    """The state of a run with `trained = "encoder"` or "denoiser"; the arguments are those of `Trainer`.

    The losses between waveforms are used beside that of the latent if their weights are positive. Their target is the
    clean speech at the level of the leveller.

    Attributes:
        teacher: the encoder with the weights that the run starts from.
    """

    def __init__(self, config: TrainConfig, corpus: Corpus, budget: Budget, compute: Compute | None = None) -> None:
        require(
            compute is None or not (compute.bf16 or compute.compile),
            "a recipe for an encoder runs in float32 and is not compiled: leave out --bf16 and --compile",
        )
        super().__init__(config, corpus, budget, compute)

    def start_from(self, weights: dict[str, Tensor], discriminators: dict[str, Tensor] | None = None) -> None:
        """Start from the weights of a release, which are the teacher's as well."""
        super().start_from(weights, discriminators)
        own = self.codec.encoder.state_dict()
        self.teacher.load_state_dict({name: own[name] for name in self.teacher.state_dict()})

    def start_encoder_from(self, weights: dict[str, Tensor]) -> None:
        """Start the encoder, but not the teacher, from an earlier run's weights; of another codec the denoiser only."""
        own = self.codec.state_dict()
        found = {name: weights[name].float() for name in own if name.startswith("encoder.") and name in weights}
        is_same = {name: t.shape for name, t in found.items()} == {
            name: t.shape for name, t in own.items() if name.startswith("encoder.")
        }
        kept = found if is_same else {name: t for name, t in found.items() if name.startswith("encoder.denoiser.")}
        fits = all(tensor.shape == own[name].shape for name, tensor in kept.items())
        require(bool(kept) and fits, "the model in --encoder has no denoiser of the width of this recipe's")
        self.codec.load_state_dict(own | kept)
        self.averaged.module.load_state_dict(self.codec.state_dict())

    def train_step(self) -> dict[str, float]:
        """One update; returns the unweighted losses, the share of wrong codes and the norm of the gradient."""
        rate = self._set_learning_rate()
        torch.manual_seed(self.config.seed + self.step)
        batch = self._next_batch()
        self.streams.reset(self._resets())
        encoder_state, decoder_state, teacher_state = self.streams.network
        synthesis_state = self.streams.synthesis
        weights = self.config.loss.weights
        losses: dict[str, Tensor] = {}
        values: dict[str, Tensor] = {}
        with torch.no_grad():
            audio = batch.audio
            if self.teacher.leveller is not None:
                audio, _ = self.teacher.leveller.step(audio, teacher_state[0])
            clean, teacher_fronts = self.teacher.analyse(batch.audio, teacher_state)
        denoised, fronts = self.codec.encoder.analyse(batch.heard, encoder_state)
        if weights["denoised"]:
            with torch.no_grad():
                heard, _ = self.teacher.analyse(batch.heard, encoder_state)
            losses["denoised"] = denoised_error(denoised, clean, heard)
        rest, teacher_rest = encoder_state[3:], teacher_state[3:]
        if weights["latent"]:
            with torch.no_grad():
                wanted_latent, teacher_rest = self.teacher.latent(clean, batch.audio, teacher_state)
                wanted = self.codec.quantizer.encode(wanted_latent)
            latent, rest = self.codec.encoder.latent(denoised, batch.heard, encoder_state)
            quantized = self.codec.quantizer(latent)
            is_clean = (batch.heard == batch.audio).all(dim=1)
            shares = torch.where(is_clean, CLEAN_WEIGHT, 1.0)
            losses["latent"] = (code_errors(self.codec.quantizer, latent, wanted) * shares).sum() / shares.sum()
            values["wrong_codes"] = (quantized.codes != wanted).float().mean()
            if any(weights[name] for name in WAVEFORM_LOSSES):
                estimate, decoder_state = self.codec.decoder.estimate(quantized.quantized, decoder_state)
                pitch, _ = self._pitch(estimate, batch.pitch)
                output, synthesis_state = self.streams.synthesize(estimate, pitch)
                losses |= self.losses(self.streams.delayed(audio), output, self.progress)
        states = (*fronts, *rest), decoder_state, (*teacher_fronts, *teacher_rest)
        total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
        self.optimizer.zero_grad()
        total.backward()
        norm = self._update(self.codec, self.optimizer)
        if math.isfinite(norm):
            self.streams.go_on(audio, states, synthesis_state)
        return self._finish(values | losses | {"total": total}, {"gradient_norm": norm}, rate)

    def _new_streams(self) -> Streams:
        """The streams of this rank, also for the teacher, which is made here."""
        self.teacher = Encoder(dataclasses.replace(self.config.codec, denoiser_hidden=0)).requires_grad_(False)
        self.teacher.to(self.compute.device)
        rows = self.config.data.batch_size // distributed.world()
        return Streams(self.codec, rows, self.config.loss.draws, self.teacher)

    def _parts(self) -> dict[str, Part]:
        return super()._parts() | {"teacher": module_part(self.teacher)}
