import math

import pytest
import torch
from torch import nn

from spectok.model.contract import verify_streaming
from spectok.model.layers import (
    GRU,
    BatchNorm,
    CausalConv2d,
    DepthToSpace,
    FrameNorm,
    FrequencyDown,
    FrequencyGRU,
    FrequencyUp,
    RNN2d,
    Snake2d,
    activation,
    linear,
)
from spectok.model.streaming import Serial, Streaming

KERNELS = [
    # kernel, stride
    ((1, 1), (1, 1)),
    ((3, 3), (1, 1)),
    ((2, 5), (1, 1)),
    ((3, 4), (2, 2)),
    ((4, 4), (2, 4)),
    ((2, 4), (2, 2)),  # strided, without context
    ((3, 4), (3, 4)),
    ((3, 4), (1, 4)),
    ((5, 3), (2, 1)),
]
kernels = pytest.mark.parametrize(("kernel", "stride"), KERNELS)


@kernels
@pytest.mark.parametrize("groups", [1, 2])
def test_causal_convolution_keeps_the_contract(kernel: tuple[int, int], stride: tuple[int, int], groups: int) -> None:
    layer = CausalConv2d(4, 6, kernel, 8, stride, groups)
    verify_streaming(layer, torch.randn(2, 6 * stride[0], 8, 4))


@kernels
def test_causal_convolution_is_a_convolution_after_zeros(kernel: tuple[int, int], stride: tuple[int, int]) -> None:
    layer = CausalConv2d(3, 5, kernel, 8, stride)
    nn.init.normal_(layer.conv.get_parameter("bias"))
    x = torch.randn(2, 4 * stride[0], 8, 3)
    side = (kernel[1] - stride[1]) // 2
    padded = nn.functional.pad(x.permute(0, 3, 1, 2), (side, side, kernel[0] - stride[0], 0))
    expected = nn.functional.conv2d(padded, layer.conv.weight, layer.conv.bias, stride)
    assert expected.shape == (2, 5, 4, 8 // stride[1])
    torch.testing.assert_close(layer(x), expected.permute(0, 2, 3, 1), rtol=0, atol=1e-5)


def test_a_convolution_without_context_has_no_state() -> None:
    assert CausalConv2d(2, 2, (1, 3), 4).init_state(3) == ()
    assert CausalConv2d(2, 2, (2, 2), 4, (2, 2)).init_state(3) == ()
    assert CausalConv2d(2, 3, (4, 3), 4).init_state(3)[0].shape == (3, 3, 4, 2)


@kernels
def test_frequency_down_keeps_the_contract_and_divides_the_axes(
    kernel: tuple[int, int], stride: tuple[int, int]
) -> None:
    layer = FrequencyDown(3, 4, kernel, 8, stride)
    x = torch.randn(2, 6 * stride[0], 8, 3)
    verify_streaming(layer, x)
    assert layer(x).shape == (2, 6, 8 // stride[1], 4)


@kernels
def test_frequency_up_keeps_the_contract_and_multiplies_the_axes(
    kernel: tuple[int, int], stride: tuple[int, int]
) -> None:
    layer = FrequencyUp(4, 3, kernel, 5, stride)
    x = torch.randn(2, 6, 5, 4)
    verify_streaming(layer, x)
    assert layer(x).shape == (2, 6 * stride[0], 5 * stride[1], 3)


@pytest.mark.parametrize(
    "layer",
    [
        RNN2d(4, 6),
        RNN2d(4, 6, "silu").as_residual(),
        RNN2d(4, 6, normalisation="batch").eval(),
        RNN2d(4, 6, "relu", normalisation="none"),
        FrequencyGRU(4, 6),
        Serial(FrameNorm(4, 6)),
        Serial(Snake2d(4)),
    ],
    ids=["RNN2d", "residual", "BatchNorm", "without norm", "FrequencyGRU", "FrameNorm", "Snake2d"],
)
def test_layers_that_preserve_the_shape_keep_the_contract(layer: Streaming) -> None:
    x = torch.randn(3, 7, 6, 4)
    verify_streaming(layer, x)
    assert layer(x).shape == x.shape


def test_depth_to_space_keeps_the_contract_and_its_order() -> None:
    verify_streaming(Serial(DepthToSpace((2, 3))), torch.randn(2, 5, 4, 12))
    x = torch.arange(2 * 6 * 2 * 2).reshape(1, 2, 2, 12)
    y = DepthToSpace((2, 3))(x)
    assert y.shape == (1, 4, 6, 2)
    for c in range(2):
        for time in range(4):
            for position in range(6):
                channel = ((time % 2) * 3 + position % 3) * 2 + c
                assert y[0, time, position, c] == x[0, time // 2, position // 3, channel]


@pytest.mark.parametrize("stride", [(2, 2), (1, 4), (3, 1), (2, 4)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_frequency_up_is_a_transposed_convolution(
    stride: tuple[int, int], dtype: torch.dtype, tolerance: float
) -> None:
    st, sq = stride
    up = FrequencyUp(4, 3, (2 * st, sq), 5, stride).to(dtype)
    convolution, rearrange, snake = up.layers
    assert isinstance(rearrange, DepthToSpace) and isinstance(snake, Snake2d)
    transposed = nn.ConvTranspose2d(4, 3, (2 * st, sq), stride).to(dtype)
    with torch.no_grad():
        transposed.weight.normal_(std=1 / math.sqrt(8))
        # [in, out, (tap, phase), position] to [(phase, position, out), in, past tap before present tap]
        taps = transposed.weight.reshape(4, 3, 2, st, sq).flip(2)
        convolution.conv.weight.copy_(taps.permute(3, 4, 1, 0, 2).reshape(3 * st * sq, 4, 2, 1))
        convolution.conv.bias.copy_(transposed.bias.repeat(st * sq))
        x = torch.randn(2, 6, 5, 4, dtype=dtype)
        complete = transposed(x.permute(0, 3, 1, 2))[:, :, : 6 * st]  # the rest would be completed by frame 6
        expected = snake(complete.permute(0, 2, 3, 1))
        torch.testing.assert_close(up(x), expected, rtol=0, atol=tolerance)


def test_the_smoothing_of_frequency_up_starts_as_the_identity_and_covers_neighbours() -> None:
    up = FrequencyUp(4, 3, (3, 4), 5, (2, 2))
    convolution, rearrange, smooth, snake = up.layers
    x = torch.randn(2, 6, 5, 4)
    expected = snake(rearrange(convolution(x)))
    torch.testing.assert_close(up(x), expected, rtol=0, atol=1e-6)
    assert smooth.conv.weight.shape == (3, 1, 1, 5)  # 2 * (4 - 2) + 1 fine positions, depthwise


def test_frame_norm_by_hand() -> None:
    norm = FrameNorm(2, 2)
    x = torch.tensor([[1.0, 2.0], [3.0, 6.0]]).reshape(1, 1, 2, 2)  # mean 3, variance (4 + 1 + 0 + 9) / 4
    expected = torch.tensor([[-2.0, -1.0], [0.0, 3.0]]).reshape(1, 1, 2, 2) / math.sqrt(3.5 + 1e-5)
    torch.testing.assert_close(norm(x), expected, rtol=0, atol=1e-6)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        norm.bias.copy_(torch.tensor([[0.1, 0.2], [0.3, 0.4]]))
    torch.testing.assert_close(norm(x), expected * norm.weight + norm.bias, rtol=0, atol=1e-6)


def test_frame_norm_gives_every_frame_mean_zero_and_variance_one() -> None:
    scale = torch.tensor([0.1, 1.0, 30.0]).reshape(1, 3, 1, 1)
    y = FrameNorm(8, 16)(scale * torch.randn(2, 3, 16, 8) + 5 * scale)
    torch.testing.assert_close(y.mean(dim=(2, 3)), torch.zeros(2, 3), rtol=0, atol=1e-5)
    # The epsilon of 1e-5 is a thousandth of a variance of 0.01.
    torch.testing.assert_close(y.var(dim=(2, 3), correction=0), torch.ones(2, 3), rtol=0, atol=2e-3)
    assert torch.equal(FrameNorm(8, 16)(torch.zeros(1, 1, 16, 8)), torch.zeros(1, 1, 16, 8))


def test_batch_norm_by_hand() -> None:
    norm = BatchNorm(2)
    x = torch.tensor([[[1.0, 8.0], [3.0, 8.0]], [[5.0, 8.0], [7.0, 4.0]]])[:, None]  # two rows of a frame
    # Channel 0 has mean 4 and variance (9 + 1 + 1 + 9) / 4 = 5, channel 1 has mean 7 and variance (1 + 1 + 1 + 9) / 4.
    expected = (x - torch.tensor([4.0, 7.0])) / torch.tensor([5.0, 3.0]).add(1e-5).sqrt()
    torch.testing.assert_close(norm(x), expected, rtol=0, atol=1e-6)
    # The averages move by a tenth from mean 0 and variance 1; the variance counts n - 1 values.
    mean, variance = torch.tensor([0.4, 0.7]), 0.9 + 0.1 * torch.tensor([20 / 3, 4.0])
    torch.testing.assert_close(norm.running_mean, mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(norm.running_var, variance, rtol=0, atol=1e-6)
    torch.testing.assert_close(norm.eval()(x), (x - mean) / variance.add(1e-5).sqrt(), rtol=0, atol=1e-6)
    torch.testing.assert_close(norm.running_mean, mean, rtol=0, atol=0)


def test_batch_norm_streams_in_evaluation_mode_only() -> None:
    layer = Serial(BatchNorm(4))
    layer(3 * torch.randn(2, 7, 6, 4) + 1)  # averages other than 0 and 1
    x = torch.randn(3, 7, 6, 4)
    verify_streaming(layer.eval(), x)
    with pytest.raises(AssertionError, match=r"do not give the offline output"):
        verify_streaming(layer.train(), x)


def test_snake_is_its_formula_per_channel_and_linear_as_alpha_vanishes() -> None:
    snake, x = Snake2d(3).double(), torch.randn(2, 4, 5, 3, dtype=torch.float64)
    with torch.no_grad():
        snake.alpha.copy_(torch.tensor([0.3, 1.0, 4.0], dtype=torch.float64))
    for channel, alpha in enumerate([0.3, 1.0, 4.0]):
        expected = x[..., channel] + torch.sin(alpha * x[..., channel]) ** 2 / alpha
        # The 1e-9 that guards the division moves sin²/alpha by at most 1e-9 / 0.3 of itself, which is below 1 / 0.3.
        torch.testing.assert_close(snake(x)[..., channel], expected, rtol=0, atol=1.2e-8)
    nn.init.constant_(snake.alpha, 1e-4)
    torch.testing.assert_close(snake(x), x + 1e-4 * x**2, rtol=0, atol=1e-8)
    nn.init.zeros_(snake.alpha)
    assert torch.equal(snake(x), x)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # x + sin²(x / 2) / (1 / 2); x / (1 + exp(-x)); max(x, 0), all at -1 and 2
        ("snake", [-1 + 2 * math.sin(0.5) ** 2, 2 + 2 * math.sin(1) ** 2]),
        ("silu", [-1 / (1 + math.e), 2 / (1 + math.exp(-2))]),
        ("relu", [0.0, 2.0]),
    ],
)
def test_activations_by_hand(kind: str, expected: list[float]) -> None:
    x = torch.tensor([-1.0, 2.0]).reshape(1, 1, 2, 1)
    torch.testing.assert_close(activation(kind, 1)(x).flatten(), torch.tensor(expected), rtol=0, atol=1e-6)


def test_rnn2d_is_its_five_layers() -> None:
    layer, x = RNN2d(4, 6), torch.randn(2, 7, 6, 4)
    norm, tanh, recurrent, mix, snake = layer.layers
    hidden = recurrent.gru(tanh(norm(x)).transpose(0, 1).reshape(7, 12, 4), torch.zeros(1, 12, 4))[0]
    expected = snake(mix(hidden.reshape(7, 2, 6, 4).transpose(0, 1)))
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-6)


def test_residual_rnn2d_starts_as_the_identity_and_learns() -> None:
    layer, x = RNN2d(4, 6).as_residual(), torch.randn(2, 7, 6, 4)
    assert torch.equal(layer(x), x)
    layer(x).square().sum().backward()
    assert float(layer.layer.layers[3].weight.grad.abs().min()) > 0


def test_positions_share_the_weights_of_the_gru_but_not_its_state() -> None:
    layer, x = FrequencyGRU(4, 6), torch.randn(1, 7, 6, 4)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(layer(x[:, :, order]), layer(x)[:, :, order], rtol=0, atol=1e-6)
    changed = x.clone()
    changed[:, :, 2] += 1
    differs = (layer(changed) != layer(x)).any(3).flatten(0, 1).any(0)
    assert differs.tolist() == [False, False, True, False, False, False]


@pytest.mark.parametrize(
    "layer",
    [
        CausalConv2d(8, 16, (3, 3), 64),
        FrequencyDown(8, 16, (3, 4), 64, (2, 2)),
        RNN2d(8, 64),
        FrequencyUp(8, 4, (3, 4), 64, (2, 2)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_are_causal(layer: Streaming) -> None:
    x = torch.randn(1, 8, 64, 8)
    future = x.clone()
    future[:, 4:] += 1
    before, after = layer(x), layer(future)
    frames = before.shape[1] // 2
    assert torch.equal(before[:, :frames], after[:, :frames])
    assert bool((before[:, frames:] != after[:, frames:]).any(2).all())


@pytest.mark.parametrize("gain", [1.0, 0.5, 2.0])
def test_linear_starts_with_its_gain_and_no_bias(gain: float) -> None:
    layer = linear(512, 400, gain)
    assert torch.equal(layer.bias, torch.zeros(400))
    assert float(layer(torch.randn(500, 512)).detach().std()) == pytest.approx(gain, rel=0.02)
    assert linear(4, 4, bias=False).bias is None


@pytest.mark.parametrize(("kernel", "stride"), [((3, 3), (1, 1)), ((3, 4), (2, 2)), ((1, 1), (1, 1))])
def test_convolutions_start_with_unit_gain_and_no_bias(kernel: tuple[int, int], stride: tuple[int, int]) -> None:
    layer = CausalConv2d(64, 128, kernel, 64, stride)
    assert torch.equal(layer.conv.get_parameter("bias"), torch.zeros(128))
    inner = layer(torch.randn(2, 20, 64, 64)).detach()[:, 2:, 1:-1]  # away from the zero padding
    assert float(inner.std()) == pytest.approx(1, rel=0.03)


def test_gru_starts_orthogonal_with_unit_gain_and_no_bias() -> None:
    layer = GRU(256, 64)
    assert float(layer.weight_ih_l0.detach().std()) == pytest.approx(1 / 16, rel=0.03)
    for gate in layer.weight_hh_l0.chunk(3):
        torch.testing.assert_close(gate @ gate.T, torch.eye(64), rtol=0, atol=1e-5)
    for name in ("bias_ih_l0", "bias_hh_l0"):
        assert torch.equal(layer.get_parameter(name), torch.zeros(192))
