"""The one codebook, read K times a frame: `latent` `[B, F, K, D]` to codes `[B, F, K]` and back.

Two kinds with one interface: `encode` and `decode` for inference, `forward` for training, and `update_`, which the
training loop calls after each optimiser step: only there may a codebook change.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from vector_quantize_pytorch import FSQ

from spectok.config import QuantizerConfig


class Quantized(NamedTuple):
    """What a quantizer returns in training."""

    quantized: Tensor  # [B, F, K, D], gradients pass straight through
    latent: Tensor  # [B, F, K, D], what was quantized
    codes: Tensor  # [B, F, K], int64
    commitment_loss: Tensor  # scalar; 0 where the codebook is fixed


class FSQuantizer(nn.Module):
    """Finite scalar quantization (FSQ, arXiv 2309.15505), symmetric about zero (arXiv 2411.19842, section 3.2).

    The codebook is a grid and has no parameters: nothing to collapse, nothing to revive. Latents pass through tanh,
    so an rms of about 1.2 uses four levels evenly.
    """

    PASSING = ()  # buffers that change in training, and that no release needs

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__()
        self.fsq = FSQ(list(config.levels), preserve_symmetry=True)
        self.register_buffer("reach", (torch.tensor(config.levels) - 1) / 2, persistent=False)
        self.reach: Tensor  # half of each dimension's range, in steps of the grid, [D]

    def forward(self, latent: Tensor) -> Quantized:
        """Quantize for training."""
        quantized, codes = self.fsq(latent.flatten(1, 2))
        return Quantized(quantized.view_as(latent), latent, codes.view(latent.shape[:-1]).long(), latent.new_zeros(()))

    def encode(self, latent: Tensor) -> Tensor:
        """Codes `[B, F, K]` of a latent `[B, F, K, D]`."""
        digits = torch.floor(self._scaled(latent, 0.5))  # what the library does, in a fifth of its operations
        codes: Tensor = digits @ self.fsq._basis.to(digits.dtype)
        return codes.long()

    def margin(self, latent: Tensor) -> Tensor:
        """How far each latent is from another code, in steps of the grid: `[B, F, K]`, at most 0.5."""
        scaled = self._scaled(latent, 0.0)
        return (scaled - torch.floor(scaled) - 0.5).abs().amin(-1)

    def _scaled(self, latent: Tensor, offset: float) -> Tensor:
        """In steps of the grid, from `offset` to the number of levels less 1 above it."""
        return torch.tanh(latent) * self.reach + (self.reach + offset)

    def decode(self, codes: Tensor) -> Tensor:
        """Vectors `[B, F, K, D]` of codes `[B, F, K]`."""
        return nn.functional.embedding(codes, self.fsq.implicit_codebook)

    def update_(self, latent: Tensor, codes: Tensor) -> None:
        """The grid never changes."""


class VectorQuantizer(nn.Module):
    """Nearest entry of a learned codebook (SpecTokenizer, section 2.3): moving averages, expiry, and a data pool.

    A batch is far smaller than a large codebook, so k-means initialisation (50 iterations) and the replacement of
    expired entries draw from a pool of the last `pool_size` latents. Replacing an entry resets its moving averages
    too: where only the entry is edited, the next average undoes it and the code stays dead. Until the pool is full
    for the first time, training passes latents through unquantized. The factorised lookup, a few dimensions wide, is
    the projection before and after the quantizer.
    """

    PASSING = ("pool", "pooled")

    def __init__(self, config: QuantizerConfig) -> None:
        from vector_quantize_pytorch.vector_quantize_pytorch import Codebook

        super().__init__()
        size, dim = config.codebook_size, config.codebook_dim
        self.codebook = Codebook(
            dim,
            size,
            kmeans_init=True,
            kmeans_iters=50,
            decay=config.decay,
            threshold_ema_dead_code=config.expiry_threshold,
            reset_cluster_size=1.0,  # a new entry has a few hundred updates to be used before it expires again
        )
        self.register_buffer("pool", torch.zeros(max(config.pool_size, size), dim), persistent=False)
        self.register_buffer("pooled", torch.zeros((), dtype=torch.int64), persistent=False)
        self.pool: Tensor
        self.pooled: Tensor

    @property
    def is_ready(self) -> bool:
        """Whether the codebook has been initialised."""
        return bool(self.codebook.initted)

    def forward(self, latent: Tensor) -> Quantized:
        """Quantize for training, gradients straight through; nothing is updated."""
        codes = self.encode(latent)
        nearest = self.decode(codes) if self.is_ready else latent.detach()
        commitment = nn.functional.mse_loss(latent, nearest)
        return Quantized(latent + (nearest - latent).detach(), latent, codes, commitment)

    def encode(self, latent: Tensor) -> Tensor:
        """Codes `[B, F, K]` of a latent `[B, F, K, D]`: the nearest entry, the lowest code of equally near ones."""
        return self._distances(latent).argmin(1).view(latent.shape[:3])

    def margin(self, latent: Tensor) -> Tensor:
        """How far each latent is from another code: `[B, F, K]`, half of what the second nearest entry is further."""
        nearest = self._distances(latent).topk(2, largest=False).values
        return ((nearest[:, 1] - nearest[:, 0]) / 2).view(latent.shape[:3])

    def _distances(self, latent: Tensor) -> Tensor:
        entries: Tensor = self.codebook.embed[0]
        if torch.onnx.is_in_onnx_export():  # which has no cdist; squared, and without what all entries share
            return entries.square().sum(1) - 2 * latent.flatten(0, 2) @ entries.T
        # Without the matrix product the distances do not depend on how many latents are looked up at once.
        mode = "donot_use_mm_for_euclid_dist"
        return torch.cdist(latent.flatten(0, 2), entries, compute_mode=mode)

    def decode(self, codes: Tensor) -> Tensor:
        """Vectors `[B, F, K, D]` of codes `[B, F, K]`."""
        return nn.functional.embedding(codes, self.codebook.embed[0])

    @torch.no_grad()
    def update_(self, latent: Tensor, codes: Tensor) -> None:
        """Learn from a training batch: fill the pool, then initialise, move or replace entries."""
        rows = latent.detach().flatten(0, 2).float()[-len(self.pool) :]
        self.pool.copy_(torch.cat([self.pool, rows])[len(rows) :])
        self.pooled += len(rows)
        if not self.is_ready:
            if self.pooled >= len(self.pool):
                self.codebook.init_embed_(self.pool[None])
            return
        one_hot = nn.functional.one_hot(codes.flatten()[-len(rows) :], self.codebook.codebook_size).float()
        self.codebook.track_cluster_size_and_embed_avg(rows[None], one_hot[None])
        self.codebook.update_ema()
        expired = self.codebook.cluster_size < self.codebook.threshold_ema_dead_code
        if expired.any() and self.pooled >= len(self.pool):  # after a fresh start from weights it must fill first
            self.codebook.replace(self.pool[None], expired)


class SoftLimit(nn.Module):
    """Keep a frame's latent within the quantizer's reach: `x / sqrt(1 + rms² / limit²)`, rms over the last axis.

    Quiet frames stay quiet, so loudness passes; a plain normalisation would erase it. Without a bound the latent grows
    until the quantizer's tanh saturates and training stands still.
    """

    def __init__(self, width: int, limit: float = 1.5) -> None:
        super().__init__()
        self.register_buffer("limit", torch.full((width,), limit), persistent=False)
        self.limit: Tensor
        self.power = limit**2

    def forward(self, latent: Tensor) -> Tensor:
        """`[..., width]` to the same shape, rms below `limit`: what a normalisation with a large epsilon is."""
        return nn.functional.rms_norm(latent.to(self.limit.dtype), self.limit.shape, self.limit, self.power)
