"""The losses of the codec: between waveforms, from the discriminators, on the latent, and on the pitch.

Losses are returned by name and unweighted. `LossConfig` holds all weights; the balancer (balance.py) and the trainer
apply them.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torchaudio
from torch import Tensor, nn

from spectok.errors import require
from spectok.training import distributed
from spectok.training.discriminators import DiscriminatorOutput
from spectok.training.whisper import SAMPLE_RATE, WhisperEncoder, hearing_distance

Heard = tuple[list[Tensor], list[Tensor]]  # of originals and of decoded audio: features `[B, F, D]` of each layer
WAVEFORM_LOSSES = ("complex", "magnitude", "mel", "stft", "level")  # which compare signals; see `LossConfig`
STFT_WINDOWS = (1024, 2048)  # samples; long enough to resolve the harmonics of any voice


@dataclass(frozen=True)
class LossConfig:
    """Weights, forms and resolutions of the losses. Losses of weight 0 are not computed."""

    complex_weight: float = 1.0  # squared error of the power-law spectrum
    magnitude_weight: float = 1.0  # squared error of its magnitude
    mel_weight: float = 1.0  # mean absolute error of the log-mel spectra
    stft_weight: float = 0.0  # mean absolute error of log magnitudes, with windows that resolve harmonics
    level_weight: float = 0.0  # mean absolute error of the logarithm of the rms over windows
    recognizer_weight: float = 0.0  # mean absolute error of the features of a speech recogniser (whisper.py)
    recognizer_bf16: bool = False  # whether the recogniser multiplies in bfloat16, twice as fast where it is supported
    level_start: float = 0.0  # share of the budget after which level is used; used earlier, it slows the others
    adversarial_weight: float = 0.0  # squared error of the discriminators' logits for decoded audio, towards 1
    feature_weight: float = 0.0  # relative error of the discriminators' feature maps
    commitment_weight: float = 0.25  # squared distance of the latent to its codebook entry; 0 for fsq
    latent_weight: float = 0.0  # for a robust encoder: distance to the codes of clean speech (robust.py)
    denoised_weight: float = 0.0  # for a robust encoder: squared error of the denoiser's output (robust.py)
    decorrelation_weight: float = 0.0  # deviation of the latent's second moments from the identity (`decorrelation`)
    adversarial_start: float = 0.0  # share of the budget after which the discriminators are used
    balance: bool = True  # whether the losses of networks are scaled by their gradients' norms (balance.py)
    power: float = 2.0  # p of the power law |s|^(1/p) in complex and magnitude
    pitch_weight: float = 0.0  # cross entropy of the decoder's pitch with a tracker's; for pulses only
    draws: int = 1  # decoded samples of each clip, with different excitations; with 2, losses become energy distances
    spectral_n_fft: int = 512  # samples in the window of complex and magnitude
    mel_n_fft: tuple[int, ...] = (128, 256, 512, 1024, 2048)  # samples in each window of mel
    n_mels: tuple[int, ...] = (16, 20, 40, 64, 80)  # mel bands for each window
    level_windows: tuple[int, ...] = (1024,)  # samples in each window of level; the hop is a half
    floor_db: float = -70.0  # level in dB below which a mel band, a bin or a window counts as silence

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
        """Whether discriminators are used."""
        return self.adversarial_weight > 0 or self.feature_weight > 0

    @property
    def longest(self) -> int:
        """The longest window in samples, which is the least length of audio."""
        windows = [self.spectral_n_fft, *self.mel_n_fft]
        windows += [max(STFT_WINDOWS)] if self.stft_weight else []
        windows += self.level_windows if self.level_weight else []
        return max(windows)


class Losses(nn.Module):
    """Reconstruction losses between original `[B, T]` and decoded `[B, T]` waveforms, or two samples, `[2 * B, T]`.

    A single-sample loss penalises generated detail and favours over-smoothed output. With two decoded samples of each
    clip, each loss is `mean(d(original, sample)) - d(sample, sample) / 2`, half of the energy distance of A. Gritsenko
    et al. (NeurIPS 2020, arXiv 2008.01160), which is smallest if generated detail varies as it does in originals.

    Args:
        config: weights and resolutions.
        sample_rate: in Hz.
        phase_below: Hz; the complex loss ends there, because the codec generates the phases above; None is no limit.
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
        require(
            not config.recognizer_weight or sample_rate == SAMPLE_RATE,
            f"recognizer_weight needs a sample rate of {SAMPLE_RATE} Hz, not {sample_rate}",
        )
        dtype = torch.bfloat16 if config.recognizer_bf16 else torch.float32
        self.recognizer = WhisperEncoder(dtype) if config.recognizer_weight else None

    def forward(
        self, original: Tensor, decoded: Tensor, progress: float = 1.0, heard: Heard | None = None
    ) -> dict[str, Tensor]:
        """The reconstruction losses in use at this share of the budget, by name, as unweighted scalars.

        Args:
            original: `[B, T]`.
            decoded: `[B, T]` or `[2 * B, T]`.
            progress: the share of the budget that is spent.
            heard: what `hear` has returned for them, if that is known already.
        """
        losses = {name: loss for name, loss in self.spectral(original, decoded).items() if self.config.weights[name]}
        losses |= self.log_spectra(original, decoded)
        if self.config.level_weight and progress >= self.config.level_start:
            losses["level"] = self.level(original, decoded)
        heard = heard or self.hear(original, decoded)
        if heard:
            losses["recognizer"] = hearing_distance(*heard)
        return losses

    def hear(self, original: Tensor, decoded: Tensor) -> Heard | None:
        """What the recogniser hears in the originals and in the first draw, or None if no loss asks for it."""
        if self.recognizer is None:
            return None
        with torch.no_grad():
            of_original = self.recognizer(original)
        return of_original, self.recognizer(decoded[: len(original)])

    def spectral(self, original: Tensor, decoded: Tensor) -> dict[str, Tensor]:
        """Squared errors of the power-law complex spectrum and of its magnitude, relative to the original's energy.

        Silence as output gives 1, where all bins are compared. All clips count equally, whatever their loudness.
        """
        original_c, original_m = self._power_law(original)
        decoded_c, decoded_m = self._power_law(decoded)
        energy = original_m.square().sum(dim=(1, 2)) + 1e-4 * original_m[0].numel()

        def error(a: Tensor, b: Tensor) -> Tensor:
            return ((a - b).square().flatten(1).sum(dim=1) / energy).mean()

        original_c, decoded_c = original_c[:, : self.compared], decoded_c[:, : self.compared]
        return {"complex": _between(error, original_c, decoded_c), "magnitude": _between(error, original_m, decoded_m)}

    def log_spectra(self, original: Tensor, decoded: Tensor) -> dict[str, Tensor]:
        """Mean absolute differences of natural-log magnitudes, averaged over resolutions: "mel" and "stft".

        From 1.5 kHz up, mel bands are wider than the distance of two harmonics; the bins of "stft" are not.
        """
        lengths = {"mel": self.config.mel_n_fft, "stft": STFT_WINDOWS}
        lengths = {name: of for name, of in lengths.items() if self.config.weights[name]}
        terms: dict[str, list[Tensor]] = {name: [] for name in lengths}
        for n_fft in sorted({n_fft for of in lengths.values() for n_fft in of}):
            pair = [self._stft(audio, n_fft).abs().transpose(1, 2) for audio in (original, decoded)]
            if n_fft in lengths.get("stft", ()):
                terms["stft"].append(self._log_distance(*pair))
            if n_fft in lengths.get("mel", ()):
                bank = self.get_buffer(f"mel_{n_fft}")
                terms["mel"].append(self._log_distance(*(magnitude @ bank for magnitude in pair)))
        return {name: torch.stack(parts).mean() for name, parts in terms.items()}

    def _log_distance(self, original: Tensor, decoded: Tensor) -> Tensor:
        return _between(nn.functional.l1_loss, torch.log(original + self.floor), torch.log(decoded + self.floor))

    def level(self, original: Tensor, decoded: Tensor) -> Tensor:
        """Mean absolute difference of the natural-log rms over windows.

        The other losses alone leave the output too quiet. Short windows follow the envelope; the rms of a long window
        is dominated by its loudest part.
        """
        terms = []
        for length in self.config.level_windows:
            energies = (audio.unfold(1, length, length // 2).square().mean(dim=2) for audio in (original, decoded))
            terms.append(_between(nn.functional.l1_loss, *(0.5 * torch.log(e + self.floor**2) for e in energies)))
        return torch.stack(terms).mean()

    def _stft(self, audio: Tensor, n_fft: int) -> Tensor:
        # A full-scale sine has magnitude 1 for every window, so that the same floor applies to all.
        window = self.get_buffer(f"window_{n_fft}")
        spectrum = torch.stft(audio, n_fft, n_fft // 4, window=window, center=False, return_complex=True)
        return spectrum * (2 / window.sum())

    def _power_law(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        spectrum = torch.view_as_real(self._stft(audio, self.config.spectral_n_fft))
        energy = spectrum.square().sum(-1) + 1e-9
        magnitude = energy ** (0.5 / self.config.power)
        return spectrum * (energy ** ((1 / self.config.power - 1) / 2)).unsqueeze(-1), magnitude


def _between(distance: Callable[[Tensor, Tensor], Tensor], original: Tensor, decoded: Tensor) -> Tensor:
    """The distance of original and decoded `[B, ...]`; half of the energy distance for two samples `[2 * B, ...]`."""
    first, *others = decoded.split(len(original))
    if not others:
        return distance(first, original)
    (second,) = others
    return (distance(first, original) + distance(second, original) - distance(first, second)) / 2


def _size(feature_map: Tensor) -> Tensor:
    """The mean magnitude of each clip's feature map, `[B]`."""
    return feature_map.reshape(len(feature_map), -1).abs().mean(dim=1)


def adversarial_losses(real: DiscriminatorOutput, fake: DiscriminatorOutput) -> tuple[dict[str, Tensor], Tensor]:
    """The codec's adversarial and feature losses, unweighted, and the discriminators' own loss.

    The least-squares form (LSGAN, arXiv 1611.04076): discriminators are trained to output 1 for original audio, and 0
    for decoded audio. The feature loss is relative to each clip's own features, so that it does not depend on the
    batch.

    Args:
        real: the discriminators' logits and feature maps for the original.
        fake: the same for the decoded audio.
    """
    (real_logits, real_maps), (fake_logits, fake_maps) = real, fake
    codec_errors, errors = [], []
    for r, f in zip(real_logits, fake_logits, strict=True):
        codec_errors.append((1 - f).square().mean())
        errors.append((1 - r).square().mean() + f.square().mean())
    features = [
        (_size(f - r.detach()) / _size(r.detach()).clamp_min(1e-4)).mean()
        for real_list, fake_list in zip(real_maps, fake_maps, strict=True)
        for r, f in zip(real_list, fake_list, strict=True)
    ]
    losses = {"adversarial": torch.stack(codec_errors).mean(), "feature": torch.stack(features).mean()}
    return losses, torch.stack(errors).mean()


def decorrelation(latent: Tensor, deviation: float = 1.2) -> Tensor:
    """Mean square of `M / deviation² - I`, M the second moments `[D, D]` of the latent `[B, F, K, D]`.

    Correlated dimensions, or dimensions that use only the inner levels of the grid, leave entries of the codebook
    unused. The moments are means over batch, frames and K.
    """
    rows = latent.flatten(0, 2).float()
    moments = distributed.mean(rows.T @ rows / len(rows)) / deviation**2
    return (moments - torch.eye(len(moments), device=moments.device)).square().mean()


def pitch_loss(logits: Tensor, position: Tensor, voiced: Tensor) -> Tensor:
    """Mean cross entropy of the pitch head with the pitch of a tracker.

    Args:
        logits: of the pitch classes, then of "unvoiced", `[B, F, classes + 1]`.
        position: the tracker's pitch in units of classes, `[B, F]`; the target is a Gaussian of one class around it.
        voiced: where the tracker found a pitch, bool `[B, F]`.
    """
    places = torch.arange(logits.shape[-1] - 1, device=logits.device)
    near = torch.softmax(-(places - position[..., None]).square() / 2, dim=-1)
    target = torch.cat([near * voiced[..., None], ~voiced[..., None]], dim=-1)
    return -(target * torch.log_softmax(logits.float(), dim=-1)).sum(-1).mean()
