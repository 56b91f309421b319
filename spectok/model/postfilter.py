"""The postfilter: raises the contrast of the part of the spectrum whose phases the codes do not carry."""

import math

import torch
from torch import Tensor, nn

from spectok.config import ExcitationConfig, SpectrumConfig


class Postfilter(nn.Module):
    """Raise the peaks of a decoded spectrum above a frequency and lower its valleys.

    A codec at a low bitrate is trained to output the spectrum that is nearest to the original on average, and an
    average is smoother than any original. Each bin above `config.above` is multiplied by `(|S| / m)^contrast`, where m
    is the geometric mean of |S| over the bins that are at most `REACH` away. A second factor, computed from the same
    bins, restores their mean power. Other codecs filter the decoded audio for the same purpose (J.-H. Chen and A.
    Gersho, "Adaptive postfiltering for quality enhancement of coded speech", IEEE Transactions on Speech and Audio
    Processing 3 (1), 1995).

    Training does not use it, because the network would learn to undo it.

    Args:
        config: the excitation's configuration; `contrast` is the exponent.
        spectrum: the configuration of the codec's spectrum.
        sample_rate: in Hz.
    """

    REACH = 3000.0  # Hz
    FLOOR = 1e-14  # added to the power of each bin: a ten-thousandth of the power of 16-bit rounding noise

    def __init__(self, config: ExcitationConfig, spectrum: SpectrumConfig, sample_rate: int) -> None:
        super().__init__()
        self.contrast = config.contrast
        self.first = config.first_bin(spectrum.n_fft, sample_rate)
        places = torch.arange(spectrum.positions)
        near = ((places - places[:, None]).abs() * (sample_rate / spectrum.n_fft) <= self.REACH).float()
        mean = (near / near.sum(0)).half().float()  # averages the bins around each bin, [Q, Q]
        self.register_buffer("mean", mean, persistent=False)
        self.mean: Tensor

    def forward(self, spectrum: Tensor) -> Tensor:
        """Filter each frame independently, `[B, 2, F, Q]` to the same shape."""
        # Powers in units of the floor: ONNX Runtime takes the addition of a number below 1e-8 for one of zero.
        power = spectrum.square().sum(1) / self.FLOOR + 1  # [B, F, Q]
        level = torch.log(power) + math.log(self.FLOOR)  # near 0, because the rows of `mean` only nearly add up to 1
        factor = torch.exp(self.contrast / 2 * (level - level @ self.mean))
        before, after = power @ self.mean, (power * factor.square()) @ self.mean
        above = slice(self.first, None)
        gain = (factor * torch.sqrt(before / after))[:, None, :, above]
        return torch.cat([spectrum[..., : self.first], spectrum[..., above] * gain], dim=3)
