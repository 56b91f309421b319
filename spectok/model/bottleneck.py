"""The frequency bottleneck: a frame's Q positions become one vector, and one vector Q positions.

`QueryCompression` and `QueryExpansion` are the cross-attention of Spectral Feature Compression (SFC-CA, arXiv
2602.08671, section III): learnable queries look at the positions of one frame, so the layer is frame-wise and has no
state. Queries and keys are normalised, values are not: loudness must pass. The decoder's queries are learnable too,
for queries computed from the encoder would bypass the quantizer.
"""

import math

import torch
from torch import Tensor, nn

from spectok.model.bands import bands, positional_bias
from spectok.model.layers import RMSNorm, linear


class SwiGLU(nn.Module):
    """`W_out (silu(W_gate x) * W_in x)` on the last axis; starts at zero, to be used beside a direct path."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate_and_in = linear(width, 4 * width, bias=False)
        self.out = linear(2 * width, width, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., width]` to the same shape."""
        gate, value = self.gate_and_in(x).chunk(2, dim=-1)
        y: Tensor = self.out(nn.functional.silu(gate) * value)
        return y


class QueryAttention(nn.Module):
    """Learnable queries attend to the tokens of one frame: `[N, tokens, width]` to `[N, queries, width]`.

    Z = A + SwiGLU(RMSNorm(A)), A = W_o softmax(RMSNorm(Q) W_q (RMSNorm(E) W_k)^T / sqrt(d) + P) E W_v (SFC, equations
    3-5, with E in place of RMSNorm(E) in the values); no residual path around the attention.

    Args:
        bias: P, `[queries, tokens]`; every head starts from it and learns its own.
        width: of tokens and queries.
        heads: how many; divides the width.
    """

    def __init__(self, bias: Tensor, width: int, heads: int) -> None:
        super().__init__()
        count = bias.shape[0]
        self.heads = heads
        self.queries = nn.Parameter(torch.randn(count, width))
        self.bias = nn.Parameter(bias.expand(heads, -1, -1).clone())
        self.query_norm, self.key_norm = RMSNorm(width), RMSNorm(width)
        self.to_query, self.to_key = linear(width, width, bias=False), linear(width, width, bias=False)
        self.to_value, self.to_out = linear(width, width, bias=False), linear(width, width, bias=False)
        self.feed_norm, self.feed = RMSNorm(width), SwiGLU(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """`[N, tokens, width]` to `[N, queries, width]`."""
        query = self._split(self.to_query(self.query_norm(self.queries))[None])  # [1, heads, queries, d]
        key, value = self._split(self.to_key(self.key_norm(tokens))), self._split(self.to_value(tokens))
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]) + self.bias
        mixed = (torch.softmax(scores, dim=-1) @ value).transpose(1, 2).flatten(2)
        attended = self.to_out(mixed)
        y: Tensor = attended + self.feed(self.feed_norm(attended))
        return y

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [N, heads, tokens, d]

    def macs(self, rows: int) -> int:
        """Multiply-accumulates of the two matrix products of the attention itself, for `rows` frames."""
        count, tokens = self.bias.shape[1:]
        return 2 * rows * count * tokens * self.queries.shape[1]


class QueryCompression(nn.Module):
    """`[B, C, F, Q]` to one vector per frame, `[B, F, D]`, through `queries` looks at the frequency axis."""

    def __init__(
        self, channels: int, positions: int, latent_dim: int, queries: int, heads: int, layout: str, sample_rate: int
    ) -> None:
        super().__init__()
        bias = positional_bias(bands(layout, queries, positions, sample_rate), positions)
        self.attention = QueryAttention(torch.from_numpy(bias), channels, heads)
        self.project = linear(queries * channels, latent_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Compress every frame on its own."""
        batch, channels, frames, positions = x.shape
        tokens = x.permute(0, 2, 3, 1).reshape(batch * frames, positions, channels)
        y: Tensor = self.project(self.attention(tokens).reshape(batch, frames, -1))
        return y


class QueryExpansion(nn.Module):
    """`[B, F, D]` to `[B, C, F, Q]`: the mirror, with one learnable query per position and the transposed bias."""

    def __init__(
        self, channels: int, positions: int, latent_dim: int, queries: int, heads: int, layout: str, sample_rate: int
    ) -> None:
        super().__init__()
        bias = positional_bias(bands(layout, queries, positions, sample_rate), positions).T
        self.project = linear(latent_dim, queries * channels)
        self.attention = QueryAttention(torch.from_numpy(bias), channels, heads)
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """Expand every frame on its own."""
        batch, frames, _ = x.shape
        tokens = self.project(x).reshape(batch * frames, -1, self.channels)
        return self.attention(tokens).reshape(batch, frames, -1, self.channels).permute(0, 3, 1, 2)


class FlatCompression(nn.Module):
    """SpecTokenizer's own: strides leave one position, whose channels are the frame, `[B, C, F, 1]` to `[B, F, D]`."""

    def __init__(self, channels: int, latent_dim: int) -> None:
        super().__init__()
        self.project = linear(channels, latent_dim) if channels != latent_dim else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Drop the frequency axis."""
        y: Tensor = self.project(x.squeeze(3).transpose(1, 2))
        return y


class FlatExpansion(nn.Module):
    """The mirror of `FlatCompression`: `[B, F, D]` to `[B, C, F, 1]`."""

    def __init__(self, channels: int, latent_dim: int) -> None:
        super().__init__()
        self.project = linear(latent_dim, channels) if channels != latent_dim else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Give the frame a frequency axis of one position."""
        y: Tensor = self.project(x).transpose(1, 2).unsqueeze(3)
        return y
