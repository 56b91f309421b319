"""The one codebook, used K times per frame: latent `[B, F, K, D]` to codes `[B, F, K]` and back.

Both kinds have the same interface: `encode` and `decode` for inference, `forward` for training, and `update_`, which
the training loop calls after each optimiser step. Only `update_` changes the codebook.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from vector_quantize_pytorch import FSQ

from spectok.config import QuantizerConfig


class Quantized(NamedTuple):
    """The output of a quantizer in training."""

    quantized: Tensor  # [B, F, K, D], with straight-through gradients
    latent: Tensor  # [B, F, K, D], the input of the quantizer
    codes: Tensor  # [B, F, K], int64
    commitment_loss: Tensor  # scalar; 0 for a fixed codebook


class FSQuantizer(nn.Module):
    """Finite scalar quantization (FSQ, arXiv 2309.15505), symmetric about zero (arXiv 2411.19842, section 3.2).

    The codebook is a fixed grid without parameters, so no entries fall out of use or need to be replaced. Latents pass
    through tanh; four levels are used evenly at an rms of about 1.2.
    """

    TRAINING_BUFFERS = ()  # names of the buffers that only training needs; they are not part of a release

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__()
        self.fsq = FSQ(list(config.levels), preserve_symmetry=True)
        self.register_buffer("reach", (torch.tensor(config.levels) - 1) / 2, persistent=False)
        self.reach: Tensor  # half of each dimension's range, in grid steps, [D]

    def forward(self, latent: Tensor) -> Quantized:
        """Quantize for training."""
        quantized, codes = self.fsq(latent.flatten(1, 2))
        return Quantized(quantized.view_as(latent), latent, codes.view(latent.shape[:-1]).long(), latent.new_zeros(()))

    def encode(self, latent: Tensor) -> Tensor:
        """Codes `[B, F, K]` of a latent `[B, F, K, D]`."""
        digits = torch.floor(self._scaled(latent, 0.5))  # as the library does, with a fifth of the operations
        codes: Tensor = digits @ self.fsq._basis.to(digits.dtype)
        return codes.long()

    def margin(self, latent: Tensor) -> Tensor:
        """Distance of each latent to the nearest boundary between codes, in grid steps: `[B, F, K]`, at most 0.5."""
        scaled = self._scaled(latent, 0.0)
        return (scaled - torch.floor(scaled) - 0.5).abs().amin(-1)

    def _scaled(self, latent: Tensor, offset: float) -> Tensor:
        """The latent in grid steps, from `offset` to `offset` plus the number of levels minus 1."""
        return torch.tanh(latent) * self.reach + (self.reach + offset)

    def decode(self, codes: Tensor) -> Tensor:
        """Vectors `[B, F, K, D]` of codes `[B, F, K]`."""
        return nn.functional.embedding(codes, self.fsq.implicit_codebook)

    def update_(self, latent: Tensor, codes: Tensor) -> None:
        """Do nothing: the grid is fixed."""


class VectorQuantizer(nn.Module):
    """Nearest entry of a learned codebook (SpecTokenizer, section 2.3): moving averages, expiry, and a pool of latents.

    A batch is far smaller than a large codebook, so k-means initialisation (50 iterations) and the replacement of
    expired entries draw from a pool of the last `pool_size` latents. Replacing an entry also resets its moving
    averages; otherwise the next update would restore the unused entry. Until the pool is full for the first time,
    training passes latents through unquantized. Without a pool (a size of 0) new entries are latents of the batch, and
    the first batch initialises the codebook. The lookup has few dimensions (factorised codes): the encoder and the
    decoder project to and from them.
    """

    TRAINING_BUFFERS = ("pool", "pooled")

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
        rows = max(config.pool_size, size) if config.pool_size else 0
        self.register_buffer("pool", torch.zeros(rows, dim), persistent=False)
        self.register_buffer("pooled", torch.zeros((), dtype=torch.int64), persistent=False)
        self.pool: Tensor
        self.pooled: Tensor

    @property
    def is_ready(self) -> bool:
        """Whether the codebook has been initialised."""
        return bool(self.codebook.initted)

    def forward(self, latent: Tensor) -> Quantized:
        """Quantize for training, with straight-through gradients; the codebook is not updated."""
        codes = self.encode(latent)
        nearest = self.decode(codes) if self.is_ready else latent.detach()
        commitment = nn.functional.mse_loss(latent, nearest)
        return Quantized(latent + (nearest - latent).detach(), latent, codes, commitment)

    def encode(self, latent: Tensor) -> Tensor:
        """Codes `[B, F, K]` of a latent `[B, F, K, D]`: the nearest entry; of equally near ones, the first."""
        return self._distances(latent).argmin(1).view(latent.shape[:3])

    def margin(self, latent: Tensor) -> Tensor:
        """Half of the difference between the distances to the second nearest and the nearest entry, `[B, F, K]`."""
        nearest = self._distances(latent).topk(2, largest=False).values
        return ((nearest[:, 1] - nearest[:, 0]) / 2).view(latent.shape[:3])

    def _distances(self, latent: Tensor) -> Tensor:
        entries: Tensor = self.codebook.embed[0]
        if torch.onnx.is_in_onnx_export():
            # ONNX has no cdist: squared distances, without the term that is the same for all entries.
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
        rows = latent.detach().flatten(0, 2).float()[-len(self.pool) :]  # all of them without a pool
        source = rows
        if len(self.pool):
            self.pool.copy_(torch.cat([self.pool, rows])[len(rows) :])
            source = self.pool
        self.pooled += len(rows)
        if not self.is_ready:
            if self.pooled >= len(self.pool):
                self.codebook.init_embed_(source[None])
            return
        one_hot = nn.functional.one_hot(codes.flatten()[-len(rows) :], self.codebook.codebook_size).float()
        self.codebook.track_cluster_size_and_embed_avg(rows[None], one_hot[None])
        self.codebook.update_ema()
        expired = self.codebook.cluster_size < self.codebook.threshold_ema_dead_code
        if expired.any() and self.pooled >= len(self.pool):  # not yet when training starts from weights
            self.codebook.replace(source[None], expired)


class SoftLimit(nn.Module):
    """Limit a frame's latent to the range of the quantizer: `x / sqrt(1 + rms² / limit²)`, rms over the last axis.

    Quiet frames stay quiet, so that loudness is preserved; a plain normalisation would remove it. Without a limit the
    latent grows until the quantizer's tanh saturates and training makes no progress.
    """

    def __init__(self, width: int, limit: float = 1.5) -> None:
        super().__init__()
        self.register_buffer("limit", torch.full((width,), limit), persistent=False)
        self.limit: Tensor
        self.power = limit**2

    def forward(self, latent: Tensor) -> Tensor:
        """`[..., width]` to the same shape, rms below `limit`; equal to an RMS normalisation with a large epsilon."""
        return nn.functional.rms_norm(latent.to(self.limit.dtype), self.limit.shape, self.limit, self.power)
