"""TF-Locoformer on the compressed spectrum: attention and convolutional SwiGLU, along frequency and then along time.

The source is "TF-Locoformer: Transformer with Local Modeling by Convolution for Speech Separation and Enhancement"
(K. Saijo et al., arXiv 2408.03440). As in SFC (arXiv 2602.08671) there are no rotary positions.
"""

import torch
from torch import Tensor, nn

from spectok.errors import require
from spectok.model.layers import linear, unit_gain_

EPSILON = 1e-5  # added to mean squares


class RMSGroupNorm(nn.Module):
    """Divide each group of channels by its rms, then multiply by a gain for each channel (TF-Locoformer, section II-C).

    Args:
        width: the number of channels.
        groups: a divisor of the number of channels.

    Raises:
        InputError: the channels cannot be divided into that many groups.
    """

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        require(width % groups == 0, f"{width} channels cannot be divided into {groups} groups")
        self.groups, self.gain = groups, nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """`[..., width]` to the same shape."""
        grouped = x.unflatten(-1, (self.groups, -1))
        level = torch.rsqrt(grouped.square().mean(-1, keepdim=True) + EPSILON)
        y: Tensor = (grouped * level).flatten(-2) * self.gain
        return y


class ConvSwiGLU(nn.Module):
    """Convolution to two halves, one gated by SiLU of the other, then a transposed convolution (section II-B).

    Each end of the sequence is padded with `kernel - 1` zeros before the convolution, and the transposed convolution's
    output is cut to the sequence again. At a stride of 1 a transposed convolution with this cut equals a convolution
    without padding, which is what is computed. It starts at zero, for use in a residual path.

    Args:
        width: channels of input and output.
        hidden: channels of each half.
        kernel: taps of both convolutions.
    """

    def __init__(self, width: int, hidden: int, kernel: int) -> None:
        super().__init__()
        self.inward = nn.Conv1d(width, 2 * hidden, kernel, padding=kernel - 1)
        self.outward = nn.Conv1d(hidden, width, kernel)
        unit_gain_(self.inward)
        unit_gain_(self.outward)
        nn.init.zeros_(self.outward.weight)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, L, width]` to the same shape."""
        value, gate = self.inward(x.transpose(1, 2)).chunk(2, dim=1)
        y: Tensor = self.outward(value * nn.functional.silu(gate))
        return y.transpose(1, 2)

    def macs(self, length: int) -> int:
        """Multiply-accumulates for a sequence, the places in the padding counted."""
        padded = length + self.inward.kernel_size[0] - 1
        return padded * self.inward.weight.numel() + length * self.outward.weight.numel()


class SelfAttention(nn.Module):
    """Attention of all places of a sequence to all, `[N, L, width]` to the same shape; it starts at zero.

    Args:
        width: the number of channels.
        heads: a divisor of the number of channels.

    Raises:
        InputError: the channels cannot be divided among that many heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        require(width % heads == 0, f"{width} channels cannot be divided among {heads} heads")
        self.heads = heads
        self.inward, self.outward = linear(width, 3 * width, bias=False), linear(width, width, bias=False)
        nn.init.zeros_(self.outward.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Attend."""
        query, key, value = self.inward(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(query, key, value)
        y: Tensor = self.outward(attended.transpose(1, 2).flatten(2))
        return y

    def macs(self, length: int) -> int:
        """Multiply-accumulates for a sequence: the projections, the scores, and the weighted sums."""
        width = self.outward.in_features
        return length * (4 * width * width + 2 * length * width)


class Path(nn.Module):
    """One direction of a block: half of the SwiGLUs before the attention and half after it, each in a residual path."""

    def __init__(self, width: int, hidden: int, kernel: int, heads: int, groups: int) -> None:
        super().__init__()
        layers = [ConvSwiGLU(width, hidden, kernel), SelfAttention(width, heads), ConvSwiGLU(width, hidden, kernel)]
        self.layers = nn.ModuleList(layers)
        self.norms = nn.ModuleList(RMSGroupNorm(width, groups) for _ in layers)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, L, width]` to the same shape."""
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = x + layer(norm(x))
        return x

    def macs(self, length: int) -> int:
        """Multiply-accumulates for a sequence."""
        first, attention, last = self.layers
        assert isinstance(first, ConvSwiGLU) and isinstance(attention, SelfAttention) and isinstance(last, ConvSwiGLU)
        return first.macs(length) + attention.macs(length) + last.macs(length)


class LocoformerBlock(nn.Module):
    """A path along frequency and then a path along time, `[B, F, K, width]` to the same shape (section II-A).

    Args:
        width: D, channels of each token.
        hidden: H, channels in the SwiGLUs.
        kernel: taps of the SwiGLUs' convolutions.
        heads: of the attention.
        groups: of the norms.
    """

    def __init__(self, width: int, hidden: int, kernel: int, heads: int, groups: int) -> None:
        super().__init__()
        self.frequency, self.time = (Path(width, hidden, kernel, heads, groups) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Run both paths."""
        batch = x.shape[0]
        x = self.frequency(x.flatten(0, 1)).unflatten(0, (batch, -1))
        y: Tensor = self.time(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (batch, -1)).transpose(1, 2)
        return y

    def macs(self, frames: int, tokens: int) -> int:
        """Multiply-accumulates for `frames` frames of `tokens` tokens."""
        return frames * self.frequency.macs(tokens) + tokens * self.time.macs(frames)
