"""The tower's layers: causal convolution, upsampling, normalisation, Snake, and the GRU along time.

Tensors are `[B, C, F, Q]`: batch, channels, frames (time), frequency positions. Weights start so that a signal of unit
variance keeps it, biases start at zero: with PyTorch's defaults the constants drown the signal within a few layers.
"""

import math

import torch
from torch import Tensor, nn

from spectok.model.streaming import Residual, Serial, State, Streaming


def unit_gain_(layer: nn.Conv1d | nn.Conv2d | nn.Linear, gain: float = 1.0) -> None:
    """Initialise so that unit-variance input gives outputs of standard deviation `gain`; zero bias."""
    fan_in = layer.weight[0].numel()
    nn.init.normal_(layer.weight, std=gain / math.sqrt(fan_in))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def linear(inputs: int, outputs: int, gain: float = 1.0, bias: bool = True) -> nn.Linear:
    """A linear layer with `unit_gain_` initialisation."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    unit_gain_(layer, gain)
    return layer


def rms(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The level of `x` over axes that are kept with length 1; at least 1e-6."""
    return x.square().mean(axes, keepdim=True).clamp_min(1e-12).sqrt()


class RMSNorm(nn.RMSNorm):
    """`x / rms(x)` over the last axis times a gain, computed in the gain's precision also under autocast."""

    def forward(self, x: Tensor) -> Tensor:
        """Keeps the shape."""
        return super().forward(x.to(self.weight.dtype))


def gru(inputs: int, hidden: int) -> nn.GRU:
    """A one-layer GRU along time with orthogonal recurrence and zero biases."""
    layer = nn.GRU(inputs, hidden, batch_first=True)
    inward, recurrent, *biases = layer.parameters()
    nn.init.normal_(inward, std=1 / math.sqrt(inputs))
    for gate in recurrent.detach().chunk(3):
        nn.init.orthogonal_(gate)
    for bias in biases:
        nn.init.zeros_(bias)
    return layer


class CausalConv2d(Streaming):
    """Convolution that never looks ahead in time, `[B, C, F, Q]` to `[B, C', F / time stride, Q / frequency stride]`.

    Args:
        in_channels: C.
        out_channels: C'.
        kernel: (time, frequency).
        stride: (time, frequency); chunks hold a multiple of the time stride.
        positions: Q, which the state's shape depends on.
        groups: as in `nn.Conv2d`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, int],
        positions: int,
        stride: tuple[int, int] = (1, 1),
        groups: int = 1,
    ) -> None:
        super().__init__()
        padding = (0, (kernel[1] - stride[1]) // 2)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups)
        unit_gain_(self.conv)
        self.context = kernel[0] - stride[0]
        self.positions = positions

    def init_state(self, batch: int) -> State:
        """The last `kernel - stride` frames of the input; `()` if there are none."""
        return (self.zeros(batch, self.conv.in_channels, self.context, self.positions),) if self.context else ()

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Convolve the past and the chunk; keep the tail of both."""
        if self.context:
            x = torch.cat([state[0], x], dim=2)
            state = (x[:, :, x.shape[2] - self.context :],)
        return self.conv(x), state


class Snake2d(nn.Module):
    """`x + sin²(a x) / a` with one learnable a per channel (BigVGAN's Snake; SpecTokenizer's Snake2D)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((channels, 1, 1), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise; keeps the shape."""
        return torch.addcmul(x, torch.sin(self.alpha * x).square(), 1 / (self.alpha + 1e-9))


class FrameNorm(nn.Module):
    """Mean and variance over channels and frequency of one frame, then a gain and bias per channel and position.

    SpecTokenizer's FLNorm: no frame sees another, so it streams. The gains and biases tell the layers that all
    positions share where on the frequency axis they are.
    """

    def __init__(self, channels: int, positions: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels, 1, positions))
        self.bias = nn.Parameter(torch.zeros(channels, 1, positions))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, F, Q]`, keeps the shape."""
        variance, mean = torch.var_mean(x, dim=(1, 3), keepdim=True, correction=0)
        return torch.addcmul(self.bias, (x - mean) * torch.rsqrt(variance + 1e-5), self.gain)


class FrequencyGRU(Streaming):
    """A GRU along time whose weights all frequency positions share, `[B, C, F, Q]` to the same shape."""

    def __init__(self, channels: int, positions: int) -> None:
        super().__init__()
        self.gru = gru(channels, channels)
        self.positions = positions

    def init_state(self, batch: int) -> State:
        """The hidden state of every position, `[B, Q, C]`."""
        return (self.zeros(batch, self.positions, self.gru.hidden_size),)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Run every position's sequence from its own hidden state."""
        batch, channels, frames, positions = x.shape
        rows = x.permute(0, 3, 2, 1).reshape(batch * positions, frames, channels)
        rows, hidden = self.gru(rows, state[0].reshape(1, batch * positions, channels))
        y = rows.reshape(batch, positions, frames, channels).permute(0, 3, 2, 1)
        return y, (hidden.reshape(batch, positions, channels),)


class RNN2d(Serial):
    """FrameNorm -> tanh -> GRU along time -> 1x1 convolution -> Snake2d (SpecTokenizer's RNN2D)."""

    def __init__(self, channels: int, positions: int) -> None:
        self_mix = CausalConv2d(channels, channels, (1, 1), positions)
        super().__init__(
            FrameNorm(channels, positions), nn.Tanh(), FrequencyGRU(channels, positions), self_mix, Snake2d(channels)
        )

    def as_residual(self) -> Residual:
        """Wrap in a residual path and start as the identity: the 1x1 convolution begins at zero."""
        mix = self.layers[3]
        assert isinstance(mix, CausalConv2d)
        nn.init.zeros_(mix.conv.weight)
        return Residual(self)


class FrequencyDown(Serial):
    """Strided causal convolution -> Snake2d (SpecTokenizer's F_down)."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: tuple[int, int], positions: int, stride: tuple[int, int]
    ) -> None:
        super().__init__(CausalConv2d(in_channels, out_channels, kernel, positions, stride), Snake2d(out_channels))


class DepthToSpace(nn.Module):
    """`[B, C * st * sq, F, Q]` to `[B, C, F * st, Q * sq]`: channels become finer steps of time and frequency."""

    def __init__(self, stride: tuple[int, int]) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Rearrange; nothing is computed."""
        batch, channels, frames, positions = x.shape
        st, sq = self.stride
        x = x.reshape(batch, channels // (st * sq), st, sq, frames, positions).permute(0, 1, 4, 2, 5, 3)
        return x.reshape(batch, channels // (st * sq), frames * st, positions * sq)


class FrequencyUp(Serial):
    """Causal convolution -> depth to space -> Snake2d (SpecTokenizer's F_up, sub-pixel form).

    With 2 taps along an axis this is the transposed convolution of kernel `2 * stride`, with one stateful primitive and
    no overlap-add. A frequency kernel wider than the stride reaches its neighbours by a depthwise convolution over the
    fine positions, which costs a tenth of more taps at the coarse ones; it starts as the identity.

    Args:
        in_channels: C.
        out_channels: C'.
        kernel: (time, frequency) of the transposed convolution that this stands for.
        positions: Q of the input.
        stride: (time, frequency).
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: tuple[int, int], positions: int, stride: tuple[int, int]
    ) -> None:
        taps = math.ceil(kernel[0] / stride[0])
        layers: list[nn.Module] = [
            CausalConv2d(in_channels, out_channels * stride[0] * stride[1], (taps, 1), positions),
            DepthToSpace(stride),
        ]
        if kernel[1] > stride[1]:
            width = 2 * (kernel[1] - stride[1]) + 1
            smooth = CausalConv2d(out_channels, out_channels, (1, width), positions * stride[1], groups=out_channels)
            nn.init.dirac_(smooth.conv.weight, groups=out_channels)
            layers.append(smooth)
        super().__init__(*layers, Snake2d(out_channels))
