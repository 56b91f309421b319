"""Training of an encoder that is robust to noise and loudness, for the decoder and codebook of a finished codec.

The new encoder hears noisy, reverberant, quieter or louder speech and learns to give the codes that the finished one,
the teacher, gives for the clean speech. Decoder and quantizer do not change, so that they decode the codes of both.
"""

import copy
import math

import torch
from torch import Tensor, nn

from spectok.model.quantizer import FSQuantizer, VectorQuantizer
from spectok.training.checkpoint import Part, module_part
from spectok.training.corpus import Corpus
from spectok.training.recipe import Budget, Compute, TrainConfig
from spectok.training.streams import Streams
from spectok.training.trainer import Trainer

MARGIN = 0.4  # in steps of the grid: latents nearer to a boundary between two codes than this count as errors


def code_errors(quantizer: FSQuantizer | VectorQuantizer, latent: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared distance of a latent to the region of the wanted codes, in steps of the grid (fsq).

    It is 0 if each number of the latent is at least `MARGIN` steps from the next boundary between codes. For a learned
    codebook (vq), it is the mean squared distance to the wanted entry.

    Args:
        quantizer: of both latents.
        latent: `[B, F, K, D]`.
        wanted: codes, `[B, F, K]`.
    """
    entries = quantizer.decode(wanted)
    if isinstance(quantizer, VectorQuantizer):
        return nn.functional.mse_loss(latent, entries)
    distance = (torch.tanh(latent) - entries) * quantizer.reach  # from the middle of the region, in steps
    outermost = entries.abs() > 1 - 1e-3  # these regions have no boundary on their far side
    beyond = torch.where(outermost, -distance * entries.sign(), distance.abs())
    return nn.functional.relu(beyond - (0.5 - MARGIN)).square().mean()


class EncoderTrainer(Trainer):
    """The state of a run with `trained = "encoder"`; the arguments are those of `Trainer`.

    The losses between waveforms are used if their weights are positive. Their target is the clean speech at the level
    of the leveller.

    Attributes:
        teacher: the encoder with the weights that the run starts from.
    """

    def __init__(
        self,
        config: TrainConfig,
        corpus: Corpus,
        budget: Budget,
        compute: Compute | None = None,
        noise: Corpus | None = None,
    ) -> None:
        super().__init__(config, corpus, budget, compute, noise)
        self.teacher = copy.deepcopy(self.codec.encoder).requires_grad_(False)
        self.streams = Streams(self.codec, self.streams.rows, config.loss.draws, self.teacher)
        self.hears_output = any(
            config.loss.weights[name] > 0 for name in ("complex", "magnitude", "mel", "stft", "level")
        )

    def start_from(self, weights: dict[str, Tensor], discriminators: dict[str, Tensor] | None = None) -> None:
        """Start from the weights of a release, which are the teacher's as well."""
        super().start_from(weights, discriminators)
        self.teacher.load_state_dict(self.codec.encoder.state_dict())

    def train_step(self) -> dict[str, float]:
        """One update; returns the unweighted losses, the share of wrong codes and the norm of the gradient."""
        rate = self._set_learning_rate()
        torch.manual_seed(self.config.seed + self.step)
        batch = self._next_batch()
        self.streams.reset(self._resets())
        encoder_state, decoder_state, teacher_state = self.streams.network
        latent, encoder_state = self.codec.encoder.step(batch.heard, encoder_state)
        with torch.no_grad():
            audio = batch.audio
            if self.teacher.leveller is not None:
                audio, _ = self.teacher.leveller.step(audio, teacher_state[0])
            clean, teacher_state = self.teacher.step(batch.audio, teacher_state)
            wanted = self.codec.quantizer.encode(clean)
        quantized = self.codec.quantizer(latent)
        losses = {"latent": code_errors(self.codec.quantizer, latent, wanted)}
        synthesis_state = self.streams.synthesis
        if self.hears_output:
            estimate, decoder_state = self.codec.decoder.estimate(quantized.quantized, decoder_state)
            pitch, _ = self._pitch(estimate, batch.pitch)
            output, synthesis_state = self.streams.synthesize(estimate, pitch)
            losses |= self.losses(self.streams.delayed(audio), output, self.progress)
        weights = self.config.loss.weights
        total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
        self.optimizer.zero_grad()
        total.backward()
        norm = self._update(self.codec, self.optimizer)
        usable = math.isfinite(norm)
        if usable:
            self.streams.go_on(audio, (encoder_state, decoder_state, teacher_state), synthesis_state)
        self.step += 1
        self.averaged.update_parameters(self.codec)
        values = losses | {"total": total, "wrong_codes": (quantized.codes != wanted).float().mean()}
        numbers = torch.stack([value.detach().float() for value in values.values()]).tolist()  # one synchronisation
        return {
            **dict(zip(values, numbers, strict=True)),
            "gradient_norm": norm,
            "learning_rate": rate,
            "skipped": 0.0 if usable else 1.0,
        }

    def _parts(self) -> dict[str, Part]:
        return super()._parts() | {"teacher": module_part(self.teacher)}
