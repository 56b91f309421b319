import math

import numpy as np
import pytest
import torch
from contract import verify_streaming
from torch import nn

from spectok.model.bands import bands, positional_bias
from spectok.model.bottleneck import (
    FlatCompression,
    FlatExpansion,
    QueryAttention,
    QueryCompression,
    QueryExpansion,
    SwiGLU,
)
from spectok.model.streaming import Serial

CHANNELS, POSITIONS, LATENT, QUERIES, HEADS = 8, 16, 12, 4, 2


def compression(layout="mel"):
    return QueryCompression(CHANNELS, POSITIONS, LATENT, QUERIES, HEADS, layout, 16000)


def expansion(layout="mel"):
    return QueryExpansion(CHANNELS, POSITIONS, LATENT, QUERIES, HEADS, layout, 16000)


def wake_(module):
    """Leave no parameter at its start, where the feed-forward path is zero."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return module


def spectrum_frames(frames=5):
    return torch.randn(2, CHANNELS, frames, POSITIONS)


def test_bottlenecks_keep_the_contract():
    verify_streaming(Serial(compression()), spectrum_frames(), output_time_axis=1)
    verify_streaming(Serial(expansion()), torch.randn(2, 5, LATENT), time_axis=1, output_time_axis=2)
    verify_streaming(Serial(FlatCompression(8, 12)), torch.randn(2, 8, 5, 1), output_time_axis=1)
    verify_streaming(Serial(FlatExpansion(8, 12)), torch.randn(2, 5, 12), time_axis=1, output_time_axis=2)


def test_shapes():
    assert compression()(spectrum_frames()).shape == (2, 5, LATENT)
    assert expansion()(torch.randn(2, 5, LATENT)).shape == (2, CHANNELS, 5, POSITIONS)


def test_flat_bottlenecks_drop_and_restore_the_frequency_axis():
    x = torch.randn(2, 8, 5, 1)
    assert torch.equal(FlatCompression(8, 8)(x), x[..., 0].transpose(1, 2))
    assert torch.equal(FlatExpansion(8, 8)(FlatCompression(8, 8)(x)), x)
    assert FlatCompression(8, 12)(x).shape == (2, 5, 12)
    assert FlatExpansion(8, 12)(torch.randn(2, 5, 12)).shape == (2, 8, 5, 1)


def test_changing_one_frame_changes_only_it():
    layer, x = wake_(compression()), spectrum_frames()
    changed = x.clone()
    changed[1, :, 3] += 1
    differs = (layer(changed) != layer(x)).any(2)
    assert differs.nonzero().tolist() == [[1, 3]]

    layer, x = wake_(expansion()), torch.randn(2, 5, LATENT)
    changed = x.clone()
    changed[0, 2] += 1
    differs = (layer(changed) != layer(x)).transpose(1, 2).flatten(2).any(2)
    assert differs.nonzero().tolist() == [[0, 2]]


@pytest.mark.parametrize("gain", [0.01, 0.5, 20.0])
def test_loudness_passes(gain):
    x = spectrum_frames().double()
    layer = compression().double()
    torch.testing.assert_close(layer(gain * x), gain * layer(x), rtol=1e-10, atol=1e-10 * gain)
    layer, x = expansion().double(), torch.randn(2, 5, LATENT, dtype=torch.float64)
    torch.testing.assert_close(layer(gain * x), gain * layer(x), rtol=1e-10, atol=1e-10 * gain)


@pytest.mark.parametrize("layout", ["musical", "mel", "erb"])
def test_every_head_starts_from_the_bias_of_the_layout(layout):
    bias = torch.from_numpy(positional_bias(bands(layout, QUERIES, POSITIONS, 16000), POSITIONS))
    for head in compression(layout).attention.bias:
        assert torch.equal(head, bias)
    for head in expansion(layout).attention.bias:
        assert torch.equal(head, bias.T)


def test_heads_learn_biases_of_their_own():
    layer = compression()
    layer(spectrum_frames()).square().sum().backward()
    first, second = layer.attention.bias.grad
    assert float((first - second).abs().max()) > 0.1 * float(first.abs().max())
    with torch.no_grad():
        layer.attention.bias -= layer.attention.bias.grad
    assert not torch.equal(layer.attention.bias[0], layer.attention.bias[1])


def test_attention_is_its_equations():
    """SFC, equations 3 to 5, one frame, one head and one query at a time."""
    tokens, width = 5, 6
    attention = wake_(QueryAttention(torch.randn(3, tokens), width, heads=2)).double()
    frames = torch.randn(4, tokens, width, dtype=torch.float64)

    def normalised(norm: nn.RMSNorm, x: torch.Tensor) -> torch.Tensor:
        return x / torch.sqrt(x.square().mean(-1, keepdim=True) + torch.finfo(torch.float64).eps) * norm.weight

    query = normalised(attention.query_norm, attention.queries) @ attention.to_query.weight.T
    rows = []
    for frame in frames:
        key = normalised(attention.key_norm, frame) @ attention.to_key.weight.T
        value = frame @ attention.to_value.weight.T
        heads = []
        for head, part in enumerate((slice(0, 3), slice(3, 6))):
            scores = query[:, part] @ key[:, part].T / math.sqrt(3) + attention.bias[head]
            weights = scores.exp() / scores.exp().sum(1, keepdim=True)
            heads.append(weights @ value[:, part])
        attended = torch.cat(heads, dim=1) @ attention.to_out.weight.T
        gate, inner = (normalised(attention.feed_norm, attended) @ attention.feed.gate_and_in.weight.T).split(12, dim=1)
        rows.append(attended + (gate * torch.sigmoid(gate) * inner) @ attention.feed.out.weight.T)
    torch.testing.assert_close(attention(frames), torch.stack(rows), rtol=0, atol=1e-10)


def test_the_feed_forward_path_starts_at_zero():
    assert torch.equal(SwiGLU(6)(torch.randn(3, 6)), torch.zeros(3, 6))


def test_macs_of_the_attention():
    attention = QueryAttention(torch.zeros(3, 5), 6, heads=2)
    scores = 7 * 2 * 3 * 5 * 3  # 7 frames, 2 heads, 3 queries by 5 tokens, 3 channels a head
    mixing = 7 * 2 * 3 * 3 * 5
    assert attention.macs(7) == scores + mixing


def test_a_query_looks_at_its_band_first():
    """With keys that say nothing the bias alone decides: most of the weight of each query is in and around its band."""
    layer = compression()
    nn.init.zeros_(layer.attention.to_key.weight)
    weights = torch.softmax(layer.attention.bias[0], dim=1).detach().numpy()
    for (start, end), row in zip(bands("mel", QUERIES, POSITIONS, 16000), weights, strict=True):
        inside = np.zeros(POSITIONS, bool)
        inside[max(0, start - 1) : end + 1] = True
        assert row[inside].sum() > 0.75
