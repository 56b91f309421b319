"""The frequency bottleneck: compresses the Q positions of a frame to one vector, and expands it again.

`QueryCompression` reduces the positions of a frame to `num_queries` vectors by a mixer and projects them to the latent;
`QueryExpansion` is the mirror. There are several mixers, for comparison. Each maps `[N, Q, C]` to
`[N, num_queries, C]`, or back, for N independent frames, so that none has a state. Each preserves loudness: scaling its
input scales its output.

| kind | mixer | source |
|---|---|---|
| query | `QueryAttention`: learnable queries attend to the positions | Spectral Feature Compression, arXiv 2602.08671 |
| mamba | `QueryScan`: a two-way selective scan over positions and queries | the same |
| band_split | `BandSplit`, `BandMerge`: a linear layer for each band | Band-Split RNN, arXiv 2209.15174 |
| band_conv | `BandConvolution`, `BandTransposed`: a grouped convolution over the bands | |
| flat | none: all positions are concatenated and projected | SpecTokenizer, whose strides leave one position |
"""

import math

import torch
from torch import Tensor, nn

from spectok.config import BottleneckConfig
from spectok.model.bottleneck.band_mixers import BandConvolution, BandMerge, BandSplit, BandTransposed
from spectok.model.bottleneck.bands import Edges, mel_bands, membership, positional_bias
from spectok.model.bottleneck.mamba import TwoWayMamba
from spectok.model.layers import RMSNorm, linear, rms


class QueryCompression(nn.Module):
    """`[B, F, Q, C]` to one vector per frame, `[B, F, D]`: a mixer to `num_queries` positions, then a projection."""

    def __init__(self, config: BottleneckConfig, channels: int, positions: int, latent_dim: int, sample_rate: int):
        super().__init__()
        self.mixer = _mixer(config, channels, positions, sample_rate, inverse=False)
        self.project = _projection(_num_queries(config, positions) * channels, latent_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Compress each frame independently."""
        y: Tensor = self.project(self.mixer(x.flatten(0, 1)).reshape(*x.shape[:2], -1))
        return y


class QueryExpansion(nn.Module):
    """`[B, F, D]` to `[B, F, Q, C]`: the mirror of `QueryCompression`, with separate queries.

    Queries computed from the encoder's input, as in SFC's adaptive variant, would bypass the quantizer.
    """

    def __init__(self, config: BottleneckConfig, channels: int, positions: int, latent_dim: int, sample_rate: int):
        super().__init__()
        self.project = _projection(latent_dim, _num_queries(config, positions) * channels)
        self.mixer = _mixer(config, channels, positions, sample_rate, inverse=True)
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """Expand each frame independently."""
        batch, frames, _ = x.shape
        tokens = self.project(x).reshape(batch * frames, -1, self.channels)
        y: Tensor = self.mixer(tokens)
        return y.reshape(batch, frames, -1, self.channels)


def _num_queries(config: BottleneckConfig, positions: int) -> int:
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
    """Bias added to the attention scores: `[heads, num_bands, Q]`, or `[heads, Q, num_bands]` if inverse.

    Args:
        kind: "none": zero; "matrix": learnable, initialised to SFC's bias P (bands.py); "mask": 0 inside the query's
            band and minus infinity outside it.
        edges: the edges of the bands, `[num_bands, 2]`.
        positions: Q.
        heads: the number of attention heads.
        inverse: False if the bands attend to the positions, True if the positions attend to the bands.
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
        self.num_queries = len(start)
        if kind == "matrix":
            self.matrix = nn.Parameter(start.expand(heads, -1, -1).clone())
        else:
            self.register_buffer("matrix", start.expand(heads, -1, -1).clone(), persistent=False)

    def forward(self) -> Tensor:
        """Return the bias."""
        return self.matrix


class SwiGLU(nn.Module):
    """`W_out (silu(W_gate x) * W_in x)` on the last axis; its output starts at zero, for use in a residual path."""

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
        bias: P; it defines the numbers of queries, tokens and heads.
        width: channels of tokens and queries; a multiple of the number of heads.
        adaptive: whether the scores depend on queries and tokens; if not, they are P alone.
    """

    def __init__(self, bias: PositionalBias, width: int, adaptive: bool = True) -> None:
        super().__init__()
        self.bias, self.width, self.adaptive = bias, width, adaptive
        if adaptive:
            self.queries = nn.Parameter(torch.randn(bias.num_queries, width))
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
        if self.adaptive and torch.onnx.is_in_onnx_export():  # one operator instead of ten
            query = self.to_query(self.query_norm(self.queries)).expand(tokens.shape[0], -1, -1)
            key, value, heads = self.to_key(self.key_norm(tokens)), self.to_value(tokens), self.bias.heads
            mixed, *_ = torch.onnx.ops.attention(query, key, value, self.bias(), q_num_heads=heads, kv_num_heads=heads)
            return mixed
        return (self.attention(tokens) @ self._split(self.to_value(tokens))).transpose(1, 2).flatten(2)

    def attention(self, tokens: Tensor) -> Tensor:
        """The attention of each query: `[N, tokens, width]` to weights `[N, heads, queries, tokens]` that sum to 1."""
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
        """Multiply-accumulates of the attention's matrix products (scores and mixing) for `rows` frames."""
        return (1 + self.adaptive) * rows * tokens * self.bias.num_queries * self.width


class QueryScan(nn.Module):
    """A two-way scan along frequency over the tokens of a frame and learnable queries; the outputs are at the queries.

    SFC-Mamba (arXiv 2602.08671, section III-C): `num_bands` queries are placed at the middles of their bands among Q
    positions, or, inverse, Q queries among `num_bands` tokens in the same order. The frame is divided by its rms before
    the scan and multiplied by it afterwards. The output for silence, a constant larger than the signal, is subtracted.
    """

    def __init__(self, edges: Edges, positions: int, width: int, inverse: bool) -> None:
        super().__init__()
        num_bands = len(edges)
        of_bands = torch.from_numpy(edges.sum(axis=1) // 2) + torch.arange(num_bands)
        is_band = torch.zeros(num_bands + positions, dtype=torch.bool)
        is_band[of_bands] = True
        queries, tokens = (~is_band, is_band) if inverse else (is_band, ~is_band)
        places = torch.cat([tokens.nonzero(), queries.nonzero()])[:, 0]
        self.register_buffer("order", places.argsort(), persistent=False)  # sorts [tokens, queries] by frequency
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
