"""The tower's layers: causal convolution, upsampling, normalisation, Snake, and the GRU along time.

Tensors are `[B, F, Q, C]`: batch, frames (time), frequency positions, channels. Channels come last, as norms, GRUs and
linear layers need them; a convolution permutes its input and output. Weights are initialised so that a signal of unit
variance keeps its variance, and biases at zero: with PyTorch's defaults the biases exceed the signal after a few
layers.
"""

import math
from fractions import Fraction

import torch
from torch import Tensor, nn

from spectok.model.streaming import Residual, Serial, State, Streaming, Timing


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
    """The rms of `x` over `axes`, which are kept with length 1; at least 1e-6."""
    return x.square().mean(axes, keepdim=True).clamp_min(1e-12).sqrt()


class RMSNorm(nn.RMSNorm):
    """`x / rms(x)` over the last axis times a gain, computed in the gain's precision also under autocast."""

    def forward(self, x: Tensor) -> Tensor:
        """Keeps the shape."""
        return super().forward(x.to(self.weight.dtype))


class GRU(nn.GRU):
    """One layer along time, `[F, N, inputs]` and a state `[1, N, hidden]` to `[F, N, hidden]` and the next state.

    Recurrent weights are initialised as orthogonal matrices, biases as zeros. The layer is exported directly as ONNX's
    GRU operator: PyTorch's own export would fix the number of frames, and supports only the other kind of reset gate.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__(inputs, hidden)
        inward, recurrent, *biases = self.parameters()
        nn.init.normal_(inward, std=1 / math.sqrt(inputs))
        for gate in recurrent.detach().chunk(3):
            nn.init.orthogonal_(gate)
        for bias in biases:
            nn.init.zeros_(bias)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Run along time."""
        if not torch.onnx.is_in_onnx_export():
            y, state = super().forward(x, state)  # type: ignore[has-type]
            return y, state
        gates = [parameter.chunk(3) for parameter in self.parameters()]
        inward, recurrent, *biases = (torch.cat([update, reset, new])[None] for reset, update, new in gates)
        rows, hidden = x.shape[1], self.hidden_size
        y, state = torch.onnx.ops.symbolic_multi_out(
            "GRU",
            (x, inward, recurrent, torch.cat(biases, dim=1), None, state),
            {"hidden_size": hidden, "linear_before_reset": 1},
            dtypes=(x.dtype, x.dtype),
            shapes=((x.shape[0], 1, rows, hidden), (1, rows, hidden)),
        )
        return y.squeeze(1), state


class CausalConv2d(Streaming):
    """Convolution that is causal in time, `[B, F, Q, C]` to `[B, F / time stride, Q / frequency stride, C']`.

    Args:
        in_channels: C.
        out_channels: C'.
        kernel: (time, frequency).
        positions: Q, which the state's shape depends on.
        stride: (time, frequency); chunks hold a multiple of the time stride.
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
        self.timing = Timing(Fraction(stride[0]), receptive_field=kernel[0])

    def init_state(self, batch: int) -> State:
        """The last `kernel - stride` frames of the input; `()` if there are none."""
        return (self.zeros(batch, self.context, self.positions, self.conv.in_channels),) if self.context else ()

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Convolve the stored frames and the chunk; keep the last frames for the next step."""
        if self.context:
            x = torch.cat([state[0], x], dim=1)
            state = (x[:, -self.context :],)
        return self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1), state


class Snake2d(nn.Module):
    """`x + sin²(a x) / a` with one learnable a per channel (BigVGAN's Snake; SpecTokenizer's Snake2D)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((channels,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise; keeps the shape."""
        return torch.addcmul(x, torch.sin(self.alpha * x).square(), 1 / (self.alpha + 1e-9))


def activation(kind: str, channels: int) -> nn.Module:
    """The tower's activation: "snake", or "silu" or "relu", which are one operation instead of five."""
    return Snake2d(channels) if kind == "snake" else nn.SiLU() if kind == "silu" else nn.ReLU()


class FrameNorm(nn.LayerNorm):
    """Normalise each frame over frequency and channels; then a gain and bias for each position and channel.

    SpecTokenizer's FLNorm. Frames are normalised independently, as streaming requires. Through the gains and biases,
    the layers whose weights all positions share can tell the positions apart.
    """

    def __init__(self, channels: int, positions: int) -> None:
        super().__init__([positions, channels])


class BatchNorm(nn.BatchNorm1d):
    """Normalise each channel over batch, time and frequency; then a gain and bias for each channel.

    What SpecTokenizer compares FLNorm with. In training mode the statistics are those of the batch, so that chunks and
    rows depend on each other, and moving averages are stored. Streaming needs evaluation mode, in which the moving
    averages are constants.
    """

    def forward(self, x: Tensor) -> Tensor:
        """`[B, F, Q, C]` to the same shape."""
        return super().forward(x.flatten(0, 2)).view_as(x)


def norm(kind: str, channels: int, positions: int) -> nn.Module:
    """The normalisation of an RNN2d: "frame", "batch" or "none"."""
    if kind == "frame":
        return FrameNorm(channels, positions)
    return BatchNorm(channels) if kind == "batch" else nn.Identity()


class FrequencyGRU(Streaming):
    """A GRU along time with weights shared by all frequency positions, `[B, F, Q, C]` to the same shape."""

    timing = Timing(receptive_field=math.inf)

    def __init__(self, channels: int, positions: int) -> None:
        super().__init__()
        self.gru = GRU(channels, channels)
        self.positions = positions

    def init_state(self, batch: int) -> State:
        """The hidden state of every position, `[B, Q, C]`."""
        return (self.zeros(batch, self.positions, self.gru.hidden_size),)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Run every position's sequence from its own hidden state."""
        batch, frames, positions, channels = x.shape
        rows = x.transpose(0, 1).reshape(frames, batch * positions, channels)
        rows, hidden = self.gru(rows, state[0].reshape(1, batch * positions, channels))
        y = rows.reshape(frames, batch, positions, channels).transpose(0, 1)
        return y, (hidden.reshape(batch, positions, channels),)


class RNN2d(Serial):
    """Norm -> tanh -> GRU along time -> 1x1 convolution -> activation (SpecTokenizer's RNN2D)."""

    def __init__(self, channels: int, positions: int, kind: str = "snake", normalisation: str = "frame") -> None:
        super().__init__(
            norm(normalisation, channels, positions),
            nn.Tanh(),
            FrequencyGRU(channels, positions),
            linear(channels, channels),  # equal to a 1x1 convolution with channels last
            activation(kind, channels),
        )

    def as_residual(self) -> Residual:
        """Wrap in a residual path and start as the identity: the 1x1 convolution is initialised to zero."""
        mix = self.layers[3]
        assert isinstance(mix, nn.Linear)
        nn.init.zeros_(mix.weight)
        return Residual(self)


class FrequencyDown(Serial):
    """Strided causal convolution -> activation (SpecTokenizer's F_down)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, int],
        positions: int,
        stride: tuple[int, int],
        kind: str = "snake",
    ) -> None:
        conv = CausalConv2d(in_channels, out_channels, kernel, positions, stride)
        super().__init__(conv, activation(kind, out_channels))


class DepthToSpace(Streaming):
    """`[B, F, Q, st * sq * C]` to `[B, F * st, Q * sq, C]`: channels become finer steps of time and frequency."""

    def __init__(self, stride: tuple[int, int]) -> None:
        super().__init__()
        self.stride = stride
        self.timing = Timing(Fraction(1, stride[0]))

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Rearrange the values."""
        batch, frames, positions, channels = x.shape
        st, sq = self.stride
        x = x.reshape(batch, frames, positions, st, channels // st).transpose(2, 3)
        return x.reshape(batch, frames * st, positions * sq, channels // (st * sq)), state


class FrequencyUp(Serial):
    """Causal convolution -> depth to space -> activation (SpecTokenizer's F_up, sub-pixel form).

    With 2 taps along an axis this equals a transposed convolution of kernel `2 * stride`, but needs no overlap-add: the
    causal convolution is its only layer with a state. If the frequency kernel is wider than the stride, a depthwise
    convolution over the fine positions is added, which starts as the identity; it costs a tenth of what more taps at
    the coarse positions would.

    Args:
        in_channels: C.
        out_channels: C'.
        kernel: (time, frequency) of the equivalent transposed convolution.
        positions: Q of the input.
        stride: (time, frequency).
        kind: of the activation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, int],
        positions: int,
        stride: tuple[int, int],
        kind: str = "snake",
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
        super().__init__(*layers, activation(kind, out_channels))


def nearness(centres: Tensor, bins: Tensor) -> Tensor:
    """Weights `[bins, bands]` that interpolate between the centres of bands; each row adds up to 1."""
    above = torch.searchsorted(centres, bins).clamp(1, len(centres) - 1)
    share = ((bins - centres[above - 1]) / (centres[above] - centres[above - 1])).clamp(0, 1)
    weights = torch.zeros(len(bins), len(centres))
    weights.scatter_(1, above[:, None], share[:, None])
    return weights.scatter_add_(1, above[:, None] - 1, 1 - share[:, None])
