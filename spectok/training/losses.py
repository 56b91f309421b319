"""What the codec is trained to minimise: losses between waveforms, on discriminators' judgements and on the latent.

Losses are returned by name and unweighted; `LossConfig` holds all weights, and `balance.py` is the one place that
applies them.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torchaudio
from torch import Tensor, nn

from spectok.schema import require
from spectok.training import distributed
from spectok.training.discriminators import Judgement

STFT_WINDOWS = (1024, 2048)  # long enough to tell the harmonics of any voice from one another


@dataclass(frozen=True)
class LossConfig:
    """Weights, forms and resolutions of the losses. What weighs nothing is not computed."""

    complex_weight: float = 1.0  # squared error of the power-law spectrum
    magnitude_weight: float = 1.0  # squared error of its magnitude
    mel_weight: float = 1.0  # mean absolute error of the log-mel spectra
    stft_weight: float = 0.0  # mean absolute error of the log magnitudes of windows that resolve harmonics
    level_weight: float = 0.0  # mean absolute error of the logarithm of the rms over short windows
    level_start: float = 0.0  # share of the budget after which it counts: until then it slows the others
    adversarial_weight: float = 0.0  # of the discriminators' verdict
    feature_weight: float = 0.0  # of what the discriminators see on the way
    commitment_weight: float = 0.25  # of the quantizer, where it has one
    decorrelation_weight: float = 0.0  # of the latent's second moments
    adversarial_start: float = 0.0  # share of the budget after which the discriminators come in
    balance: bool = True  # whether adversarial and feature are weighed by their gradients at the output
    power: float = 2.0  # p of |s|^(1/p) in complex and magnitude
    pitch_weight: float = 0.0  # cross entropy of the decoder's pitch and a tracker's, where something is voiced
    draws: int = (
        1  # outputs for each clip, each with an excitation of its own; 2 makes an energy distance of the losses
    )
    spectral_n_fft: int = 512
    mel_n_fft: tuple[int, ...] = (128, 256, 512, 1024, 2048)
    n_mels: tuple[int, ...] = (16, 20, 40, 64, 80)
    level_windows: tuple[int, ...] = (1024,)  # samples of the windows whose levels are compared; hops of a half
    floor_db: float = -70.0  # level under which a mel band, or a window, counts as silence

    def __post_init__(self) -> None:
        require(
            len(self.mel_n_fft) == len(self.n_mels) > 0,
            f"mel_n_fft {self.mel_n_fft} and n_mels {self.n_mels} must be lists of one length",
        )
        for n_fft, n_mels in zip(self.mel_n_fft, self.n_mels, strict=True):
            require(0 < n_mels <= n_fft / 8, f"n_mels {n_mels} must be from 1 to an eighth of its mel_n_fft {n_fft}")
        require(self.power >= 1, f"power is {self.power}, but must be at least 1")
        for name, share in (("adversarial_start", self.adversarial_start), ("level_start", self.level_start)):
            require(0 <= share <= 1, f"{name} is {share}, but must be from 0 to 1")
        require(
            bool(self.level_windows) and min(self.level_windows) >= 2,
            f"level_windows are {self.level_windows}, but must be windows of at least 2 samples",
        )
        require(self.draws in (1, 2), f"draws is {self.draws}, but must be 1 or 2")
        for name, weight in self.weights.items():
            require(weight >= 0, f"{name}_weight is {weight}, but must not be negative")

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each loss by its name."""
        values = dataclasses.asdict(self)
        return {name.removesuffix("_weight"): value for name, value in values.items() if name.endswith("_weight")}

    @property
    def is_adversarial(self) -> bool:
        """Whether discriminators take part."""
        return self.adversarial_weight > 0 or self.feature_weight > 0

    @property
    def longest(self) -> int:
        """The longest window, in samples: shorter audio cannot be scored."""
        windows = [self.spectral_n_fft, *self.mel_n_fft]
        windows += [max(STFT_WINDOWS)] if self.stft_weight else []
        windows += self.level_windows if self.level_weight else []
        return max(windows)


class Losses(nn.Module):
    """Reconstruction losses between waveforms, real `[B, T]` and fake `[B, T]`, or two draws of fake, `[2 * B, T]`.

    What a codec makes up pays, against one original, for every difference from it, and least if it is dull: the same
    in every frame. With two draws, each loss is `mean(d(real, draw)) - d(draw, draw) / 2`, half of the energy distance
    of A. Gritsenko et al. (NeurIPS 2020, arXiv 2008.01160), least where what is made up varies as the originals do.

    Args:
        config: weights and resolutions.
        sample_rate: in Hz.
        phase_below: Hz from which the codec makes up its phases, where the complex loss ends; None: nowhere.
    """

    def __init__(self, config: LossConfig, sample_rate: int, phase_below: float | None = None) -> None:
        super().__init__()
        self.config, self.sample_rate = config, sample_rate
        bins = config.spectral_n_fft // 2 + 1
        self.compared = (
            bins if phase_below is None else math.ceil(phase_below * config.spectral_n_fft / sample_rate)
        )  # bins of the complex loss
        self.floor = 10 ** (config.floor_db / 20)
        for n_fft, n_mels in zip(config.mel_n_fft, config.n_mels, strict=True):
            bank = torchaudio.functional.melscale_fbanks(
                n_fft // 2 + 1, 0.0, sample_rate / 2, n_mels, sample_rate, norm=None, mel_scale="slaney"
            )
            self.register_buffer(f"mel_{n_fft}", bank / bank.sum(0), persistent=False)
        for n_fft in {config.spectral_n_fft, *config.mel_n_fft, *STFT_WINDOWS}:
            self.register_buffer(f"window_{n_fft}", torch.hann_window(n_fft), persistent=False)

    def forward(self, real: Tensor, fake: Tensor, progress: float = 1.0) -> dict[str, Tensor]:
        """All reconstruction losses that weigh something at this share of the budget, by name, unweighted scalars."""
        losses = {name: loss for name, loss in self.spectral(real, fake).items() if self.config.weights[name]}
        losses |= self.log_spectra(real, fake)
        if self.config.level_weight and progress >= self.config.level_start:
            losses["level"] = self.level(real, fake)
        return losses

    def spectral(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """Squared errors of the power-law complex spectrum and of its magnitude, over the energy of the real clip.

        1 means as wrong as silence; the share of every clip is the same however loud it is.
        """
        real_c, real_m = self._power_law(real)
        fake_c, fake_m = self._power_law(fake)
        energy = real_m.square().sum(dim=(1, 2)) + 1e-4 * real_m[0].numel()

        def error(a: Tensor, b: Tensor) -> Tensor:
            return ((a - b).square().flatten(1).sum(dim=1) / energy).mean()

        real_c, fake_c = real_c[:, : self.compared], fake_c[:, : self.compared]
        return {"complex": _between(error, real_c, fake_c), "magnitude": _between(error, real_m, fake_m)}

    def log_spectra(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """Mean absolute differences of natural-log magnitudes, averaged over resolutions: those of "mel" and "stft".

        Mel bands are wider than the distance of two harmonics from 1.5 kHz up; the bins of "stft" are not.
        """
        lengths = {"mel": self.config.mel_n_fft, "stft": STFT_WINDOWS}
        lengths = {name: of for name, of in lengths.items() if self.config.weights[name]}
        terms: dict[str, list[Tensor]] = {name: [] for name in lengths}
        for n_fft in sorted({n_fft for of in lengths.values() for n_fft in of}):
            pair = [self._stft(audio, n_fft).abs().transpose(1, 2) for audio in (real, fake)]
            if n_fft in lengths.get("stft", ()):
                terms["stft"].append(self._log_distance(*pair))
            if n_fft in lengths.get("mel", ()):
                bank = self.get_buffer(f"mel_{n_fft}")
                terms["mel"].append(self._log_distance(*(magnitude @ bank for magnitude in pair)))
        return {name: torch.stack(parts).mean() for name, parts in terms.items()}

    def _log_distance(self, real: Tensor, fake: Tensor) -> Tensor:
        return _between(nn.functional.l1_loss, torch.log(real + self.floor), torch.log(fake + self.floor))

    def level(self, real: Tensor, fake: Tensor) -> Tensor:
        """Mean absolute difference of the natural-log rms over windows; regression leaves the output too quiet.

        Short windows follow the envelope; the level of long ones is that of their loudest part.
        """
        terms = []
        for length in self.config.level_windows:
            energies = (audio.unfold(1, length, length // 2).square().mean(dim=2) for audio in (real, fake))
            terms.append(_between(nn.functional.l1_loss, *(0.5 * torch.log(e + self.floor**2) for e in energies)))
        return torch.stack(terms).mean()

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


def _between(distance: Callable[[Tensor, Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
    """The distance of real `[B, ...]` and fake `[B, ...]`; half of the energy distance where fake is two draws."""
    first, *others = fake.split(len(real))
    if not others:
        return distance(first, real)
    (second,) = others
    return (distance(first, real) + distance(second, real) - distance(first, second)) / 2


def _size(feature_map: Tensor) -> Tensor:
    """The mean magnitude of each clip's feature map, `[B]`: a ratio per clip does not depend on the batch."""
    return feature_map.reshape(len(feature_map), -1).abs().mean(dim=1)


def judge(real: Judgement, fake: Judgement) -> tuple[dict[str, Tensor], Tensor]:
    """The codec's adversarial and feature losses, unweighted, and the discriminators' own loss.

    The least-squares form (LSGAN, arXiv 1611.04076): real audio should score 1, and decoded audio 0.

    Args:
        real: the discriminators' logits and feature maps of the original.
        fake: the same of the decoded audio.
    """
    (real_logits, real_maps), (fake_logits, fake_maps) = real, fake
    verdicts, errors = [], []
    for r, f in zip(real_logits, fake_logits, strict=True):
        verdicts.append((1 - f).square().mean())
        errors.append((1 - r).square().mean() + f.square().mean())
    features = [
        (_size(f - r.detach()) / _size(r.detach()).clamp_min(1e-4)).mean()
        for real_list, fake_list in zip(real_maps, fake_maps, strict=True)
        for r, f in zip(real_list, fake_list, strict=True)
    ]
    losses = {"adversarial": torch.stack(verdicts).mean(), "feature": torch.stack(features).mean()}
    return losses, torch.stack(errors).mean()


def decorrelation(latent: Tensor, deviation: float = 1.2) -> Tensor:
    """How far the second moments of the latent `[B, F, K, D]` are from independent dimensions that fill their levels.

    The mean square of `M / deviation² - 1`, M the `[D, D]` moments over batch, frames and slots: dimensions that tell
    the same, or keep to the inner levels of the grid, leave entries of the codebook unused.
    """
    rows = latent.flatten(0, 2).float()
    moments = distributed.mean(rows.T @ rows / len(rows)) / deviation**2
    return (moments - torch.eye(len(moments), device=moments.device)).square().mean()


def pitch_loss(logits: Tensor, position: Tensor, voiced: Tensor) -> Tensor:
    """Mean cross entropy of the pitch head and a tracker.

    Args:
        logits: of the classes and of nothing being voiced, `[B, F, classes + 1]`.
        position: the tracker's pitch in units of classes, `[B, F]`; the target is a Gaussian of one class around it.
        voiced: where there is a pitch, bool `[B, F]`.
    """
    places = torch.arange(logits.shape[-1] - 1, device=logits.device)
    near = torch.softmax(-(places - position[..., None]).square() / 2, dim=-1)
    target = torch.cat([near * voiced[..., None], ~voiced[..., None]], dim=-1)
    return -(target * torch.log_softmax(logits.float(), dim=-1)).sum(-1).mean()
