"""The separator: Compression -> TF-Locoformer -> Expansion on a spectrum, with the codec's own bottlenecks.

`spectok.model.bottleneck` is used as it is. The latent between Compression and the blocks is K tokens of C channels,
as many numbers as the mixer puts out, so that the projections of Compression and Expansion are the identity.
"""

import math

import torch
from torch import Tensor, nn

from recipes.separation.config import SeparatorConfig
from recipes.separation.locoformer import LocoformerBlock, RMSGroupNorm
from recipes.separation.upper import UpperNetwork
from spectok.model import macs
from spectok.model.bottleneck.queries import PositionalBias, QueryAttention, QueryCompression, QueryExpansion
from spectok.model.layers import linear, rms, unit_gain_

TINY = 1e-8  # added to powers, at an rms of the mixture of 1
COUNTED_SECONDS = 2.0  # length of the audio whose operations are counted; the attention along time depends on it


class Transform(nn.Module):
    """Short-time Fourier transform with a Hann window, and its inverse; white noise of variance 1 has variance 1 in it.

    Args:
        n_fft: length of the window in samples.
        hop_length: samples between windows.
    """

    def __init__(self, n_fft: int, hop_length: int) -> None:
        super().__init__()
        self.n_fft, self.hop_length = n_fft, hop_length
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.window: Tensor
        self.scale = math.sqrt(float(self.window.square().sum()))

    def forward(self, audio: Tensor) -> Tensor:
        """`[..., T]` to a complex spectrum `[..., frames, positions]`, with a frame at each end of the audio."""
        rows = audio.reshape(-1, audio.shape[-1])
        spectrum = torch.stft(
            rows, self.n_fft, self.hop_length, window=self.window, pad_mode="constant", return_complex=True
        )
        shaped: Tensor = (spectrum.transpose(1, 2) / self.scale).unflatten(0, audio.shape[:-1])
        return shaped

    def inverse(self, spectrum: Tensor, samples: int, halvings: int = 0) -> Tensor:
        """A complex spectrum `[..., frames, positions]` to audio `[..., samples]`.

        Args:
            spectrum: at least the positions that are used.
            samples: T, of the audio at the rate that comes out.
            halvings: how often the rate is halved; only the lowest positions are used then, with a shorter transform.
        """
        n_fft, hop = self.n_fft >> halvings, self.hop_length >> halvings
        rows = spectrum[..., : n_fft // 2 + 1].flatten(0, -3).transpose(1, 2) * (self.scale / 2**halvings)
        audio: Tensor = torch.istft(rows, n_fft, hop, window=self.window[:: 2**halvings], length=samples)
        shaped: Tensor = audio.unflatten(0, spectrum.shape[:-2])
        return shaped


class Encoder(nn.Module):
    """A convolution over time and frequency, then Compression: `[B, 2, F, Q]` to `[B, F, K, C]`."""

    def __init__(self, config: SeparatorConfig, positions: int) -> None:
        super().__init__()
        # Without a mixer ("flat"), the projection of Compression makes as many tokens as the others have.
        self.tokens, self.channels = config.bottleneck.queries, config.channels
        self.conv = nn.Conv2d(2, config.channels, 3, padding=1)
        unit_gain_(self.conv)
        latent_dim = self.tokens * config.channels
        self.bottleneck = QueryCompression(
            config.bottleneck, config.channels, positions, latent_dim, config.sample_rate
        )

    def forward(self, x: Tensor) -> Tensor:
        """Convolve and compress."""
        latent: Tensor = self.bottleneck(self.conv(x).permute(0, 2, 3, 1)).unflatten(2, (self.tokens, self.channels))
        return latent


class Decoder(nn.Module):
    """Expansion, then a convolution over time and frequency: `[B, F, K, C]` to `[B, S, 2, F, Q]` for S sources.

    Masks start near 1 / S, so that the sources start as equal shares of the mixture. Mapped magnitudes, the squares of
    the output, start near a quarter of the mixture's rms.
    """

    def __init__(self, config: SeparatorConfig, positions: int, sources: int) -> None:
        super().__init__()
        latent_dim = config.bottleneck.queries * config.channels
        self.bottleneck = QueryExpansion(config.bottleneck, config.channels, positions, latent_dim, config.sample_rate)
        self.conv = nn.Conv2d(config.channels, 2 * sources, 3, padding=1)
        unit_gain_(self.conv, gain=0.1)
        assert self.conv.bias is not None
        with torch.no_grad():
            self.conv.bias[::2] = 1 / max(sources, 2) if config.output == "mask" else 0.5  # the real parts

    def forward(self, x: Tensor) -> Tensor:
        """Expand and convolve."""
        y: Tensor = self.conv(self.bottleneck(x.flatten(2)).permute(0, 3, 1, 2))
        split: Tensor = y.unflatten(1, (-1, 2))
        return split


class Separator(nn.Module):
    """Mixture to sources, at one sample rate.

    Args:
        config: sizes.
        sources: S, how many sources are estimated.

    Raises:
        InputError: the channels cannot be divided among heads or groups.
    """

    def __init__(self, config: SeparatorConfig, sources: int) -> None:
        super().__init__()
        self.config, self.sources = config, sources
        self.transform = Transform(config.n_fft, config.hop_length)
        positions = config.n_fft // 2 + 1
        self.encoder = Encoder(config, positions)
        change = config.channels != config.width
        self.inward = linear(config.channels, config.width) if change else nn.Identity()
        sizes = (config.width, config.hidden, config.kernel, config.heads, config.groups)
        self.blocks = nn.ModuleList(LocoformerBlock(*sizes) for _ in range(config.blocks))
        self.norm = RMSGroupNorm(config.width, config.groups)
        self.outward = linear(config.width, config.channels) if change else nn.Identity()
        self.decoder = Decoder(config, positions, sources)
        self.upper = UpperNetwork(sources) if config.upper else None
        if not config.learn_bias:
            for bias in self.biases():
                bias.requires_grad_(False)

    def biases(self) -> list[Tensor]:
        """The learnable biases of the attention of Compression and Expansion."""
        modules = [module for module in self.modules() if isinstance(module, PositionalBias)]
        return [parameter for module in modules for parameter in module.parameters()]

    @property
    def num_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)

    def forward(self, mixture: Tensor) -> Tensor:
        """Separate `[B, T]` into `[B, S, T]`."""
        estimate: Tensor = self.transform.inverse(self.spectra(mixture)[-1], mixture.shape[-1])
        return estimate

    def spectra(self, mixture: Tensor, after_all_blocks: bool = False) -> list[Tensor]:
        """Complex spectra `[B, S, F, Q]` of the sources of a mixture `[B, T]`.

        Args:
            mixture: any level; it is divided by its rms first.
            after_all_blocks: whether there is an estimate after each block; otherwise only after the last one.
        """
        level = rms(mixture, (1,))[..., None]
        spectrum = self.transform(mixture) / level
        compressed = power_law(spectrum)
        x = self.inward(self.encoder(torch.view_as_real(compressed).permute(0, 3, 1, 2)))
        estimates = []
        for number, block in enumerate(self.blocks, 1):
            x = block(x)
            if after_all_blocks or number == len(self.blocks):
                y = self.decoder(self.outward(self.norm(x))).movedim(2, -1).contiguous()
                if self.config.output == "mask":
                    found = torch.view_as_complex(y) * spectrum[:, None]
                else:
                    found = y.square().sum(-1) * (spectrum / (spectrum.abs() + TINY))[:, None]
                estimates.append(found * level[:, None])
        return estimates

    def macs_per_second(self) -> float:
        """Multiply-accumulates per second of audio, of layers with weights and of attention, without the transforms.

        They are counted over two seconds, because attention along time costs more in longer recordings.
        """
        config = self.config
        rate = config.sample_rate / config.hop_length
        frames = math.ceil(COUNTED_SECONDS * rate)
        blocks = sum(
            block.macs(frames, config.bottleneck.queries) for block in self.blocks if isinstance(block, LocoformerBlock)
        )
        sides = macs.macs_per_second(self, config.hop_length, rate)
        change = 0.0
        for layer in (self.inward, self.outward):
            if isinstance(layer, nn.Linear):
                change += rate * config.bottleneck.queries * layer.weight.numel()
        upper = self.upper.macs_per_second(rate, config.n_fft // 2) if self.upper else 0.0
        return sum(sides.values()) + blocks / COUNTED_SECONDS + change + upper

    def attention(self, mixture: Tensor) -> tuple[Tensor, Tensor]:
        """What the queries of Compression look at in mixtures `[B, T]`.

        Returns:
            The mean over the heads `[B, F, K, Q]`, and the bias `[heads, K, Q]`.
        """
        mixer = self.encoder.bottleneck.mixer
        assert isinstance(mixer, QueryAttention)
        spectrum = power_law(self.transform(mixture) / rms(mixture, (1,))[..., None])
        tokens = self.encoder.conv(torch.view_as_real(spectrum).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        weights = mixer.attention(tokens.flatten(0, 1)).mean(1)
        return weights.unflatten(0, tokens.shape[:2]), mixer.bias()


def power_law(spectrum: Tensor) -> Tensor:
    """A complex spectrum with the square root of its magnitude, as the codec has it (SpecTokenizer's DRC, p = 2)."""
    power = torch.view_as_real(spectrum).square().sum(-1)
    return spectrum * (power + TINY) ** -0.25
