"""The bottlenecks: properties of all kinds, and each kind against its equations."""

import dataclasses
import math
from typing import Final, Literal, TypeVar

import conftest
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spectok.config import BottleneckConfig
from spectok.errors import InputError
from spectok.model.bottleneck.band_mixers import _runs
from spectok.model.bottleneck.bands import mel_bands, membership, positional_bias
from spectok.model.bottleneck.queries import PositionalBias, QueryAttention, QueryCompression, QueryExpansion, SwiGLU
from spectok.model.contract import verify_streaming
from spectok.model.streaming import Serial

CHANNELS, POSITIONS, LATENT, QUERIES, HEADS = 8, 16, 12, 4, 2
QUERY = BottleneckConfig(queries=QUERIES, heads=HEADS)
BIASES: Final = ("none", "matrix", "mask")
MEMBERS = {f"query, {bias}": dataclasses.replace(QUERY, bias=bias) for bias in BIASES}
MEMBERS |= {kind: dataclasses.replace(QUERY, kind=kind) for kind in ("query", "mamba", "band_split", "band_conv")}
MEMBERS["query, not adaptive"] = dataclasses.replace(QUERY, adaptive=False)
MEMBERS["flat"] = BottleneckConfig(kind="flat")
members = pytest.mark.parametrize("config", MEMBERS.values(), ids=MEMBERS.keys())
Layer = TypeVar("Layer", bound=nn.Module)
EDGES = mel_bands(QUERIES, POSITIONS, 16000)


def compression(config: BottleneckConfig = QUERY) -> QueryCompression:
    return QueryCompression(config, CHANNELS, POSITIONS, LATENT, 16000)


def expansion(config: BottleneckConfig = QUERY) -> QueryExpansion:
    return QueryExpansion(config, CHANNELS, POSITIONS, LATENT, 16000)


def wake_(module: Layer) -> Layer:
    """Change all parameters: at initialisation, the feed-forward path is zero."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def spectrum_frames(config: BottleneckConfig = QUERY, frames: int = 5) -> Tensor:
    return torch.randn(2, frames, POSITIONS, CHANNELS)


@members
def test_all_kinds_keep_the_contract(config: BottleneckConfig) -> None:
    verify_streaming(Serial(compression(config)), spectrum_frames(config))
    verify_streaming(Serial(expansion(config)), torch.randn(2, 5, LATENT))


@members
def test_shapes_of_compression_and_expansion(config: BottleneckConfig) -> None:
    assert compression(config)(spectrum_frames(config)).shape == (2, 5, LATENT)
    assert expansion(config)(torch.randn(2, 5, LATENT)).shape == (2, 5, POSITIONS, CHANNELS)


@members
def test_frames_are_independent(config: BottleneckConfig) -> None:
    layer, x = wake_(compression(config)), spectrum_frames(config)
    changed = x.clone()
    changed[1, 3] += 1
    differs = (layer(changed) != layer(x)).any(2)
    assert differs.nonzero().tolist() == [[1, 3]]

    inverse, x = wake_(expansion(config)), torch.randn(2, 5, LATENT)
    changed = x.clone()
    changed[0, 2] += 1
    differs = (inverse(changed) != inverse(x)).flatten(2).any(2)
    assert differs.nonzero().tolist() == [[0, 2]]


@members
@pytest.mark.parametrize("gain", [0.01, 0.5, 20.0])
def test_loudness_is_preserved(config: BottleneckConfig, gain: float) -> None:
    for layer, x in ((compression(config), spectrum_frames(config)), (expansion(config), torch.randn(2, 5, LATENT))):
        layer, x = layer.double(), x.double()
        torch.testing.assert_close(layer(gain * x), gain * layer(x), rtol=1e-9, atol=1e-9 * gain)
        assert not layer(0 * x).any()  # silence stays silence


@pytest.mark.parametrize("config", [config for config in MEMBERS.values() if config.bias != "none"])
@torch.no_grad()
def test_after_initialisation_the_output_varies_with_the_signal(config: BottleneckConfig) -> None:
    """At a width of the presets, most of the energy varies from frame to frame: constant offsets are smaller.

    Queries without a bias start with an average over all positions, which leaves half of it.
    """
    config = dataclasses.replace(config, queries=16)
    outputs = (
        QueryCompression(config, 32, 80, 192, 16000)(torch.randn(2, 100, 80, 32)).flatten(0, 1),
        QueryExpansion(config, 32, 80, 192, 16000)(torch.randn(2, 100, 192)).flatten(0, 1).flatten(1),
    )
    for rows in outputs:
        assert float(rows.var(0).mean() / rows.square().mean()) > 0.85
        assert 0.2 < float(rows.square().mean().sqrt()) < 2.0


@members
def test_every_parameter_learns(config: BottleneckConfig) -> None:
    for layer, x in ((compression(config), spectrum_frames(config)), (expansion(config), torch.randn(2, 5, LATENT))):
        wake_(layer)(x).square().sum().backward()
        assert [name for name, p in layer.named_parameters() if not p.grad.any() or not p.grad.isfinite().all()] == []


@members
def test_the_latent_depends_on_all_positions_and_all_positions_on_the_latent(config: BottleneckConfig) -> None:
    layer, x = compression(config), spectrum_frames(config).requires_grad_()
    layer(x)[0, 2].square().sum().backward()
    assert bool((x.grad[0, 2].abs().amax(1) > 0).all())
    assert not x.grad[1].any()
    inverse, x = expansion(config), torch.randn(2, 5, LATENT, requires_grad=True)
    inverse(x)[0, 2].square().sum().backward()
    assert bool((x.grad[0, 2] != 0).all())


def test_flat_removes_and_restores_a_frequency_axis_of_one_position() -> None:
    flat, x = MEMBERS["flat"], torch.randn(2, 5, 1, 8)
    down, up = QueryCompression(flat, 8, 1, 8, 16000), QueryExpansion(flat, 8, 1, 8, 16000)
    assert torch.equal(down(x), x[:, :, 0])
    assert torch.equal(up(down(x)), x)
    assert list(down.parameters()) == list(up.parameters()) == []


def bias_of(kind: str, inverse: bool = False) -> PositionalBias:
    return PositionalBias(kind, EDGES, POSITIONS, HEADS, inverse)


def test_every_head_starts_from_the_bias_of_the_bands() -> None:
    start = torch.from_numpy(positional_bias(EDGES, POSITIONS))
    assert torch.equal(bias_of("matrix")(), start.expand(HEADS, -1, -1))
    assert torch.equal(bias_of("matrix", True)(), start.T.expand(HEADS, -1, -1))


def test_only_a_matrix_bias_is_learned() -> None:
    learned = {kind: sum(p.numel() for p in bias_of(kind).parameters()) for kind in BIASES}
    assert learned == {"none": 0, "matrix": HEADS * QUERIES * POSITIONS, "mask": 0}
    assert not bias_of("none")().any()


def test_a_mask_excludes_positions_outside_the_band() -> None:
    inside = torch.from_numpy(membership(EDGES, POSITIONS))
    for inverse, expected in ((False, inside), (True, inside.T)):
        attention = wake_(QueryAttention(bias_of("mask", inverse), CHANNELS))
        weights = attention.attention(torch.randn(3, expected.shape[1], CHANNELS))
        assert torch.equal(weights > 0, expected.expand(3, HEADS, -1, -1))
        assert torch.allclose(weights.sum(-1), torch.ones(()), atol=1e-6)


def test_heads_learn_separate_biases() -> None:
    layer = compression()
    layer(spectrum_frames()).square().sum().backward()
    matrix = layer.get_parameter("mixer.bias.matrix")
    assert matrix.grad is not None
    first, second = matrix.grad[0], matrix.grad[1]
    assert float((first - second).abs().max()) > 0.1 * float(first.abs().max())
    with torch.no_grad():
        matrix.sub_(matrix.grad)
    assert not torch.equal(matrix[0], matrix[1])


def test_attention_is_its_equations() -> None:
    """SFC, equations 3 to 5, one frame, one head and one query at a time."""
    width = 6
    attention = wake_(QueryAttention(bias_of("matrix"), width)).double()
    frames = torch.randn(4, POSITIONS, width, dtype=torch.float64)

    def normalised(norm: nn.RMSNorm, x: torch.Tensor) -> torch.Tensor:
        return x / torch.sqrt(x.square().mean(-1, keepdim=True) + torch.finfo(torch.float64).eps) * norm.weight

    query = normalised(attention.query_norm, attention.queries) @ attention.to_query.weight.T
    rows = []
    for frame in frames:
        key = normalised(attention.key_norm, frame) @ attention.to_key.weight.T
        value = frame @ attention.to_value.weight.T
        heads = []
        for head, part in enumerate((slice(0, 3), slice(3, 6))):
            scores = query[:, part] @ key[:, part].T / math.sqrt(3) + attention.bias.matrix[head]
            weights = scores.exp() / scores.exp().sum(1, keepdim=True)
            heads.append(weights @ value[:, part])
        attended = torch.cat(heads, dim=1) @ attention.to_out.weight.T
        gate, inner = (normalised(attention.feed_norm, attended) @ attention.feed.gate_and_in.weight.T).split(12, dim=1)
        rows.append(attended + (gate * torch.sigmoid(gate) * inner) @ attention.feed.out.weight.T)
    torch.testing.assert_close(attention(frames), torch.stack(rows), rtol=0, atol=1e-10)


def test_without_adaptivity_attention_depends_on_the_bias_only() -> None:
    attention = wake_(QueryAttention(bias_of("matrix"), CHANNELS, adaptive=False))
    weights = attention.attention(torch.randn(3, POSITIONS, CHANNELS))
    torch.testing.assert_close(weights, torch.softmax(attention.bias.matrix, 2).expand(3, -1, -1, -1), rtol=0, atol=0)
    learned = {name.split(".")[0] for name, _ in attention.named_parameters()}
    assert learned == {"bias", "to_value", "to_out", "feed_norm", "feed"}


def test_the_feed_forward_path_starts_at_zero() -> None:
    assert torch.equal(SwiGLU(6)(torch.randn(3, 6)), torch.zeros(3, 6))


def test_macs_of_the_attention() -> None:
    attention = QueryAttention(bias_of("matrix"), 6)
    scores = 7 * 2 * QUERIES * POSITIONS * 3  # 7 frames, 2 heads, every query by every token, 3 channels a head
    mixing = 7 * 2 * QUERIES * 3 * POSITIONS
    assert attention.macs(7, POSITIONS) == scores + mixing
    assert QueryAttention(bias_of("matrix"), 6, adaptive=False).macs(7, POSITIONS) == mixing


def test_queries_attend_mostly_to_their_bands() -> None:
    """If keys do not matter, the bias determines the weights: those of a query are mostly in and around its band."""
    attention = compression().mixer
    nn.init.zeros_(attention.get_parameter("to_key.weight"))
    weights = attention.attention(torch.randn(1, POSITIONS, CHANNELS))[0, 0].detach().numpy()
    for (start, end), row in zip(EDGES, weights, strict=True):
        inside = np.zeros(POSITIONS, bool)
        inside[max(0, start - 1) : end + 1] = True
        assert row[inside].sum() > 0.75


def test_queries_are_scanned_at_the_middles_of_their_bands() -> None:
    config = MEMBERS["mamba"]
    down, up = compression(config).mixer, expansion(config).mixer
    middles = [(start + end) // 2 + k for k, (start, end) in enumerate(EDGES.tolist())]
    assert down.kept.tolist() == middles
    assert sorted(up.kept.tolist() + middles) == list(range(POSITIONS + QUERIES))
    # A sequence in which each token is its index: tokens in order, queries at their places.
    tokens = torch.arange(float(POSITIONS)).repeat(CHANNELS, 1).T[None]
    sequence = torch.cat([tokens, torch.full((1, QUERIES, CHANNELS), -1.0)], dim=1)[:, down.order]
    assert (sequence[0, :, 0] == -1).nonzero()[:, 0].tolist() == middles
    assert sequence[0, :, 0][sequence[0, :, 0] >= 0].tolist() == list(range(POSITIONS))


def test_band_split_by_hand() -> None:
    layer = wake_(compression(MEMBERS["band_split"]).mixer).double()
    x = torch.randn(3, POSITIONS, CHANNELS, dtype=torch.float64)
    sizes = [(end - start) * CHANNELS for start, end in EDGES.tolist()]
    gains, biases, weights = (
        torch.cat([getattr(run, name) for run in layer.runs]).split(sizes) for name in ("gain", "bias", "weight")
    )
    offsets = torch.cat([run.offset for run in layer.runs])
    for k, (start, end) in enumerate(EDGES.tolist()):
        gain, bias, weight, offset = gains[k], biases[k], weights[k], offsets[k]
        band = x[:, start:end].reshape(3, -1)
        scaled = band / band.square().mean(1, keepdim=True).sqrt()
        centred = scaled - scaled.mean(1, keepdim=True)
        normed = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt() * gain + bias
        expected = (normed @ weight + offset) * band.square().mean(1, keepdim=True).sqrt()
        torch.testing.assert_close(layer(x)[:, k], expected, rtol=0, atol=1e-10)


def test_band_merge_by_hand() -> None:
    layer = wake_(expansion(MEMBERS["band_split"]).mixer).double()
    z = torch.randn(3, QUERIES, CHANNELS, dtype=torch.float64)
    sizes = [(end - start) * CHANNELS for start, end in EDGES.tolist()]
    of_rows = {
        name: torch.cat([getattr(run, name) for run in layer.runs]).split(sizes)
        for name in ("value", "value_bias", "gate", "gate_bias")
    }
    of_bands = {
        name: torch.cat([getattr(run, name) for run in layer.runs])
        for name in ("gain", "bias", "hidden", "hidden_bias")
    }
    expected = torch.zeros(3, POSITIONS, CHANNELS, dtype=torch.float64)
    for k, (start, end) in enumerate(EDGES.tolist()):
        gain, bias, hidden, hidden_bias = (tensors[k] for tensors in of_bands.values())
        value, value_bias, gate, gate_bias = (tensors[k] for tensors in of_rows.values())
        level = z[:, k].square().mean(1, keepdim=True).sqrt()
        normed = nn.functional.layer_norm(z[:, k] / level, (CHANNELS,)) * gain + bias
        h = torch.tanh(normed @ hidden + hidden_bias)
        out = (h @ value.T + value_bias) * torch.sigmoid(h @ gate.T + gate_bias) * level
        expected[:, start:end] += out.reshape(3, -1, CHANNELS)
    share = membership(EDGES, POSITIONS).sum(0) ** -0.5
    torch.testing.assert_close(layer(z), expected * torch.from_numpy(share)[:, None], rtol=0, atol=1e-6)


def test_bands_of_similar_width_are_grouped() -> None:
    runs = _runs(mel_bands(16, 80, 16000))
    assert [(run[:, 1] - run[:, 0]).tolist() for run in runs] == [
        [3, 3, 4, 5, 6, 6, 6],
        [8, 9, 10, 12, 14, 15],
        [17, 21, 23],
    ]


@pytest.mark.parametrize("kind", ["band_split", "band_conv"])
def test_bands_depend_on_their_own_positions_only(kind: str) -> None:
    config = MEMBERS[f"{kind}"]
    inside = torch.from_numpy(membership(EDGES, POSITIONS))
    layer, x = compression(config).mixer, torch.randn(1, POSITIONS, CHANNELS, requires_grad=True)
    reached = torch.stack([torch.autograd.grad(layer(x)[0, k].sum(), x)[0][0].any(1) for k in range(QUERIES)])
    assert torch.equal(reached, inside)
    layer, x = expansion(config).mixer, torch.randn(1, QUERIES, CHANNELS, requires_grad=True)
    reached = torch.stack([torch.autograd.grad(layer(x)[0, q].sum(), x)[0][0].any(1) for q in range(POSITIONS)])
    assert torch.equal(reached, inside.T)


def test_a_grouped_convolution_is_a_linear_layer_for_each_band_and_group() -> None:
    layer = compression(MEMBERS["band_conv"]).mixer.double()
    x = torch.randn(3, POSITIONS, CHANNELS, dtype=torch.float64)
    weight = layer.conv.weight.reshape(QUERIES, HEADS, CHANNELS // HEADS, CHANNELS // HEADS, -1)
    rows = []
    for k, (start, end) in enumerate(EDGES.tolist()):
        groups = x[:, start:end].unflatten(2, (HEADS, -1))  # [N, width, groups, C / groups]
        rows.append(torch.einsum("nwgi,goiw->ngo", groups, weight[k, ..., : end - start]).flatten(1))
    torch.testing.assert_close(layer(x), torch.stack(rows, dim=1) @ layer.mix.weight.T, rtol=0, atol=1e-12)


@torch.no_grad()
def test_the_transposed_convolution_is_the_transpose() -> None:
    config = MEMBERS["band_conv"]
    down, up = compression(config).mixer.double(), expansion(config).mixer.double()
    down.mix.weight.copy_(torch.eye(CHANNELS))
    up.mix.weight.copy_(torch.eye(CHANNELS))
    up.share.fill_(1.0)
    # [num_bands, groups, out, in, width] of one becomes [num_bands, groups, in, width, out] of the other.
    weight = down.conv.weight.reshape(QUERIES, HEADS, CHANNELS // HEADS, CHANNELS // HEADS, -1)
    up.conv.weight.copy_(weight.permute(0, 1, 3, 4, 2).reshape_as(up.get_parameter("conv.weight")))
    x, z = torch.randn(2, POSITIONS, CHANNELS).double(), torch.randn(2, QUERIES, CHANNELS).double()
    assert float((down(x) * z).sum()) == pytest.approx(float((x * up(z)).sum()), rel=1e-10)


@pytest.mark.parametrize("kind", ["query", "band_conv"])
def test_heads_must_divide_the_width(kind: Literal["query", "band_conv"]) -> None:
    with pytest.raises(InputError, match="the tower's last width 8 is not a multiple of 3 heads"):
        dataclasses.replace(conftest.QUERY, bottleneck=BottleneckConfig(kind=kind, queries=4, heads=3))
    for free in ("mamba", "band_split"):
        bottleneck = BottleneckConfig(kind=free, queries=4, heads=3)
        assert dataclasses.replace(conftest.QUERY, bottleneck=bottleneck).bottleneck.heads == 3


@members
def test_buffers_can_be_overwritten_when_a_run_is_resumed(config: BottleneckConfig) -> None:
    for layer in (compression(config), expansion(config)):
        for buffer in layer.buffers():
            buffer.copy_(buffer.clone())  # this fails if elements share memory
