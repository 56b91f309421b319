"""The frequency bottleneck: a frame's Q positions become one vector, and one vector Q positions.

`Compression` folds the positions of a frame into K vectors by a mixer and projects them to the latent; `Expansion` is
the mirror. The mixers are the family: each maps `[N, Q, C]` to `[N, K, C]`, or back, for N frames that do not see one
another, so none has a state. Each keeps loudness: a louder frame gives the same output, louder.

| kind | mixer | source |
|---|---|---|
| query | `QueryAttention`: learnable queries attend to the positions | Spectral Feature Compression, arXiv 2602.08671 |
| mamba | `QueryScan`: queries among the positions of a two-way selective scan | the same |
| band_split | `BandSplit`, `BandMerge`: a linear layer for each band | Band-Split RNN, arXiv 2209.15174 |
| band_conv | `BandConvolution`, `BandTransposed`: a grouped convolution over the bands | |
| flat | none: the positions are laid end to end and projected | SpecTokenizer, whose strides leave but one |
"""

import math

import torch
from torch import Tensor, nn

from spectok.config import BottleneckConfig
from spectok.model.bottleneck.band_mixers import BandConvolution, BandMerge, BandSplit, BandTransposed
from spectok.model.bottleneck.bands import Edges, mel_bands, membership, positional_bias
from spectok.model.bottleneck.mamba import TwoWayMamba
from spectok.model.layers import RMSNorm, linear, rms


class Compression(nn.Module):
    """`[B, F, Q, C]` to one vector per frame, `[B, F, D]`: a mixer leaves K positions, whose channels are projected."""

    def __init__(self, config: BottleneckConfig, channels: int, positions: int, latent_dim: int, sample_rate: int):
        super().__init__()
        self.mixer = _mixer(config, channels, positions, sample_rate, inverse=False)
        self.project = _projection(_count(config, positions) * channels, latent_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Compress every frame on its own."""
        y: Tensor = self.project(self.mixer(x.flatten(0, 1)).reshape(*x.shape[:2], -1))
        return y


class Expansion(nn.Module):
    """`[B, F, D]` to `[B, F, Q, C]`: the mirror of `Compression`, with queries of its own where it has any.

    Queries computed from the encoder, as SFC's adaptive ones are, would bypass the quantizer.
    """

    def __init__(self, config: BottleneckConfig, channels: int, positions: int, latent_dim: int, sample_rate: int):
        super().__init__()
        self.project = _projection(latent_dim, _count(config, positions) * channels)
        self.mixer = _mixer(config, channels, positions, sample_rate, inverse=True)
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """Expand every frame on its own."""
        batch, frames, _ = x.shape
        tokens = self.project(x).reshape(batch * frames, -1, self.channels)
        y: Tensor = self.mixer(tokens)
        return y.reshape(batch, frames, -1, self.channels)


def _count(config: BottleneckConfig, positions: int) -> int:
    return positions if config.kind == "flat" else config.queries


def _projection(inputs: int, outputs: int) -> nn.Module:
    return linear(inputs, outputs) if inputs != outputs else nn.Identity()


def _mixer(config: BottleneckConfig, channels: int, positions: int, sample_rate: int, inverse: bool) -> nn.Module:
    if config.kind == "flat":
        return nn.Identity()
    edges = mel_bands(config.queries, positions, sample_rate)
    if config.kind == "query":
        bias = PositionalBias(config.bias, edges, positions, config.heads, inverse)
        return QueryAttention(bias, channels, config.adaptive)
    if config.kind == "mamba":
        return QueryScan(edges, positions, channels, inverse)
    if config.kind == "band_split":
        return (BandMerge if inverse else BandSplit)(edges, positions, channels)
    return (BandTransposed if inverse else BandConvolution)(edges, positions, channels, config.heads)


class PositionalBias(nn.Module):
    """What each query of each head adds to its scores: `[heads, K, Q]`, or `[heads, Q, K]` if inverse.

    Args:
        kind: "none", zero; "matrix", learnable, which starts from SFC's bias P (bands.py); "mask", 0 inside the query's
            band and minus infinity outside it.
        edges: of the bands, `[K, 2]`.
        positions: Q.
        heads: how many.
        inverse: whether positions ask and bands answer.
    """

    def __init__(self, kind: str, edges: Edges, positions: int, heads: int, inverse: bool) -> None:
        super().__init__()
        self.heads = heads
        start = torch.from_numpy(positional_bias(edges, positions))
        if kind == "none":
            start = torch.zeros_like(start)
        if kind == "mask":
            start = torch.where(torch.from_numpy(membership(edges, positions)), 0.0, -math.inf)
        start = start.T if inverse else start
        self.queries = len(start)
        if kind == "matrix":
            self.matrix = nn.Parameter(start.expand(heads, -1, -1).clone())
        else:
            self.register_buffer("matrix", start.expand(heads, -1, -1).clone(), persistent=False)

    def forward(self) -> Tensor:
        """The bias."""
        return self.matrix


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
        bias: P, and with it the numbers of queries, tokens and heads.
        width: of tokens and queries; a multiple of the heads.
        adaptive: without, the scores are P alone: nothing is left of the queries but their biases.
    """

    def __init__(self, bias: PositionalBias, width: int, adaptive: bool = True) -> None:
        super().__init__()
        self.bias, self.width, self.adaptive = bias, width, adaptive
        if adaptive:
            self.queries = nn.Parameter(torch.randn(bias.queries, width))
            self.query_norm, self.key_norm = RMSNorm(width), RMSNorm(width)
            self.to_query, self.to_key = linear(width, width, bias=False), linear(width, width, bias=False)
        self.to_value, self.to_out = linear(width, width, bias=False), linear(width, width, bias=False)
        self.feed_norm, self.feed = RMSNorm(width), SwiGLU(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """`[N, tokens, width]` to `[N, queries, width]`."""
        attended = self.to_out(self._mixed(tokens))
        y: Tensor = attended + self.feed(self.feed_norm(attended))
        return y

    def _mixed(self, tokens: Tensor) -> Tensor:
        if self.adaptive and torch.onnx.is_in_onnx_export():  # one operator for ten
            query = self.to_query(self.query_norm(self.queries)).expand(tokens.shape[0], -1, -1)
            key, value, heads = self.to_key(self.key_norm(tokens)), self.to_value(tokens), self.bias.heads
            mixed, *_ = torch.onnx.ops.attention(query, key, value, self.bias(), q_num_heads=heads, kv_num_heads=heads)
            return mixed
        return (self.attention(tokens) @ self._split(self.to_value(tokens))).transpose(1, 2).flatten(2)

    def attention(self, tokens: Tensor) -> Tensor:
        """Where each query looks: `[N, tokens, width]` to weights `[N, heads, queries, tokens]` that sum to 1."""
        if not self.adaptive:
            return torch.softmax(self.bias(), dim=-1).expand(tokens.shape[0], -1, -1, -1)
        query = self._split(self.to_query(self.query_norm(self.queries))[None])  # [1, heads, queries, d]
        key = self._split(self.to_key(self.key_norm(tokens)))
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]) + self.bias()
        return torch.softmax(scores, dim=-1)

    def _split(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (self.bias.heads, -1))
        return heads.transpose(1, 2)  # [N, heads, tokens, d]

    def macs(self, rows: int, tokens: int) -> int:
        """Multiply-accumulates of the matrix products of the attention itself, for `rows` frames: scores and mixing."""
        return (1 + self.adaptive) * rows * tokens * self.bias.queries * self.width


class QueryScan(nn.Module):
    """Learnable queries among the tokens of one frame, all scanned both ways along frequency; the queries are kept.

    SFC-Mamba: K queries at the middles of their bands among Q positions (arXiv 2602.08671, section III-C), or, inverse,
    Q queries among K tokens in the same order. The frame's rms is taken out before and put back after, and what the
    queries answer to silence is taken away: a constant that would drown the signal.
    """

    def __init__(self, edges: Edges, positions: int, width: int, inverse: bool) -> None:
        super().__init__()
        count = len(edges)
        of_bands = torch.from_numpy(edges.sum(axis=1) // 2) + torch.arange(count)
        is_band = torch.zeros(count + positions, dtype=torch.bool)
        is_band[of_bands] = True
        queries, tokens = (~is_band, is_band) if inverse else (is_band, ~is_band)
        places = torch.cat([tokens.nonzero(), queries.nonzero()])[:, 0]
        self.register_buffer("order", places.argsort(), persistent=False)  # of tokens, then queries, along frequency
        self.register_buffer("kept", queries.nonzero()[:, 0], persistent=False)
        self.order: Tensor
        self.kept: Tensor
        self.queries = nn.Parameter(torch.randn(len(self.kept), width))
        self.scan = TwoWayMamba(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """`[N, tokens, width]` to `[N, queries, width]`."""
        level = rms(tokens, (1, 2))
        with_silence = nn.functional.pad(tokens / level, (0, 0, 0, 0, 0, 1))
        sequence = torch.cat([with_silence, self.queries.expand(with_silence.shape[0], -1, -1)], dim=1)[:, self.order]
        answers: Tensor = self.scan(sequence)[:, self.kept]
        return (answers[:-1] - answers[-1:]) * level
