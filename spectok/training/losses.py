"""What the codec is trained to minimise, on waveforms: every loss re-analyses the decoder's audio.

Losses are returned by name and unweighted; `LossConfig` holds the weights, and `total` is the one place that applies
them.
"""

import dataclasses
from dataclasses import dataclass

import torch
import torchaudio
from torch import Tensor, nn

from spectok.config import require


@dataclass(frozen=True)
class LossConfig:
    """Weights and resolutions of the losses."""

    complex_weight: float = 1.0  # squared error of the power-law spectrum
    magnitude_weight: float = 1.0  # squared error of its magnitude
    mel_weight: float = 1.0  # mean absolute error of the log-mel spectra
    commitment_weight: float = 0.25  # of the quantizer, where it has one
    power: float = 2.0  # p of |s|^(1/p) in the first two
    spectral_n_fft: int = 512
    mel_n_fft: tuple[int, ...] = (256, 512, 1024, 2048)
    n_mels: tuple[int, ...] = (20, 40, 64, 80)
    floor_db: float = -70.0  # level under which a mel band counts as silence

    def __post_init__(self) -> None:
        require(
            len(self.mel_n_fft) == len(self.n_mels) > 0,
            f"mel_n_fft {self.mel_n_fft} and n_mels {self.n_mels} must be lists of one length",
        )
        for n_fft, n_mels in zip(self.mel_n_fft, self.n_mels, strict=True):
            require(0 < n_mels <= n_fft / 8, f"n_mels {n_mels} must be from 1 to an eighth of its mel_n_fft {n_fft}")
        require(self.power >= 1, f"power is {self.power}, but must be at least 1")

    @property
    def longest(self) -> int:
        """The longest window, in samples: shorter audio cannot be scored."""
        return max(self.spectral_n_fft, *self.mel_n_fft)


class Losses(nn.Module):
    """Reconstruction losses between two batches of waveforms `[B, T]`, real and fake."""

    def __init__(self, config: LossConfig, sample_rate: int) -> None:
        super().__init__()
        self.config = config
        self.mel_floor = 10 ** (config.floor_db / 20)
        for n_fft, n_mels in zip(config.mel_n_fft, config.n_mels, strict=True):
            bank = torchaudio.functional.melscale_fbanks(
                n_fft // 2 + 1, 0.0, sample_rate / 2, n_mels, sample_rate, norm=None, mel_scale="slaney"
            )
            self.register_buffer(f"mel_{n_fft}", bank / bank.sum(0), persistent=False)
        for n_fft in {config.spectral_n_fft, *config.mel_n_fft}:
            self.register_buffer(f"window_{n_fft}", torch.hann_window(n_fft), persistent=False)

    def forward(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """All reconstruction losses by name, unweighted scalars."""
        return {**self.spectral(real, fake), "mel": self.mel(real, fake)}

    def spectral(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """Squared errors of the power-law complex spectrum and of its magnitude, over the energy of the real clip.

        1 means as wrong as silence; the share of every clip is the same however loud it is.
        """
        real_c, real_m = self._power_law(real)
        fake_c, fake_m = self._power_law(fake)
        energy = real_m.square().sum(dim=(1, 2)) + 1e-4 * real_m[0].numel()
        complex_error = (real_c - fake_c).square().sum(dim=(1, 2, 3))
        magnitude_error = (real_m - fake_m).square().sum(dim=(1, 2))
        return {"complex": (complex_error / energy).mean(), "magnitude": (magnitude_error / energy).mean()}

    def mel(self, real: Tensor, fake: Tensor) -> Tensor:
        """Mean absolute difference of natural-log mel magnitudes, averaged over the resolutions."""
        terms = []
        for n_fft in self.config.mel_n_fft:
            bank = self.get_buffer(f"mel_{n_fft}")
            real_mel, fake_mel = (self._stft(audio, n_fft).abs().transpose(1, 2) @ bank for audio in (real, fake))
            terms.append((torch.log(real_mel + self.mel_floor) - torch.log(fake_mel + self.mel_floor)).abs().mean())
        return torch.stack(terms).mean()

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """The weighted sum of the named losses."""
        weights = {
            name.removesuffix("_weight"): value
            for name, value in dataclasses.asdict(self.config).items()
            if name.endswith("_weight")
        }
        return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()

    def _stft(self, audio: Tensor, n_fft: int) -> Tensor:
        # Scaled so that a full-scale sine has magnitude 1 whatever the window, so that one floor serves all.
        window = self.get_buffer(f"window_{n_fft}")
        spectrum = torch.stft(audio, n_fft, n_fft // 4, window=window, center=False, return_complex=True)
        return spectrum * (2 / window.sum())

    def _power_law(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        spectrum = torch.view_as_real(self._stft(audio, self.config.spectral_n_fft))
        energy = spectrum.square().sum(-1) + 1e-9
        magnitude = energy ** (0.5 / self.config.power)
        return spectrum * (energy ** ((1 / self.config.power - 1) / 2)).unsqueeze(-1), magnitude
