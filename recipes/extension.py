"""Train the extension of the released models: `pretrained/<name>/extension.safetensors`.

    python recipes/extension.py CORPUS spectok-16k-4k spectok-16k-800 --out runs/extension

CORPUS is a folder of recordings with a `manifest.csv`, of which the voices in `SOURCES` have 48 kHz and the bandwidth.
One head is trained for all models, on the spectrum of the original speech and on the spectra that each model decodes.

The first stage fits the gains of the bands. It needs energies only, which are computed once and kept in the folder OUT:
a step of it costs next to nothing. The second stage fits everything, also the mix of mirrored speech and noise, to
magnitudes of short-time spectra of the audio. In both, random filters and noise are applied to what the head hears and
to what it shall add.
"""

import argparse
import csv
import math
import sys
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from spectok import pretrained
from spectok.audio import read_audio
from spectok.config import EXTENSION_FACTOR, SpectrumConfig
from spectok.engine import load_codec
from spectok.errors import InputError, require
from spectok.export.agreement import exported_extension
from spectok.files import atomic_write
from spectok.graphs import EXTENSION_WEIGHTS
from spectok.model.extension import BANDS, LOUDEST, Extension
from spectok.model.layers import nearness
from spectok.model.spectrum import STFT
from spectok.resampling import resample
from spectok.samples import to_int16
from spectok.weights import halved, load_tensors, round_to_half_, save_tensors

SOURCES = ("rhasspy_kathleen", "rhasspy_kerstin", "rhasspy_nathalie")
BANDWIDTHS = (20000.0, 16500.0, 20000.0)  # of their recordings, Hz, up to the extension's highest frequency
SPEEDS = (0.88, 1.0, 1.13)  # at which the recordings are played, as if by voices of other sizes
HELD_OUT = 0.05  # share of the files of each source that choose the weights
EULER = 0.5772  # minus the mean natural logarithm of the power of noise of variance 1
QUIETEST = 1.3e-11  # power of a bin that counts as silence, as in the log-spectral distance (benchmarks/extension.py)
KNOTS = (0.0, 1000.0, 2000.0, 4000.0, 6000.0, 8000.0, 11000.0, 14000.0, 17000.0, 20000.0)  # Hz, of random filters
STEPS_DB = (0.0, 0.7, 0.7, 1.5, 3.0, 3.0, 2.0, 2.0, 2.0, 2.0)  # of a filter from one knot to the next, rms
FILTERED, NOISY = 0.4, 0.5  # shares of the rows
GAINS_DB = (-20.0, 10.0)
NOISE_DB = (-95.0, -55.0)  # power of a bin at 1 kHz; a full-scale sine has 22 dB
NOISE_SLOPES_DB = (-6.0, 1.0)  # per octave
OCTAVES = tuple(math.log2(max(knot, 500.0) / 1000) for knot in KNOTS)
RAYLEIGH = 0.62  # mean square of the difference of log10 powers of two noises of the same spectrum
ROWS, FRAMES, WHOLE_FRAMES = 48, 300, 150
LEARNING_RATE, WHOLE_LEARNING_RATE = 3e-3, 1e-3


class Clip(NamedTuple):
    """What the training needs of one file; F frames of 10 ms."""

    source: int
    speed: float
    audio: NDArray[np.int16]  # [F * 480], at 48 kHz
    spectra: NDArray[np.float16]  # [versions, 2, F, Q]: the original at 16 kHz, and what each model decodes
    energies: NDArray[np.float32]  # [versions, F, FEATURES + 1], as `Extension.energies`
    levels: NDArray[np.float32]  # [F, BANDS]: natural logarithms of the power above 8 kHz

    @property
    def bandwidth(self) -> float:
        """Up to which frequency the recording goes, in Hz."""
        return self.speed * BANDWIDTHS[self.source]


def files(corpus: Path) -> list[tuple[int, Path]]:
    """Number of the source and path of each file of `SOURCES`, those of a source one after another."""
    with open(corpus / "manifest.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] in SOURCES and row["split"] == "train"]
    require(len(rows) > 0, f"{corpus} has no files of {', '.join(SOURCES)}")
    return sorted((SOURCES.index(row["source"]), corpus / row["file"]) for row in rows)


@torch.inference_mode()
def analyse(corpus: Path, models: Sequence[str], folder: Path) -> list[Clip]:
    """The clips of a corpus; they are kept in a folder, and read from there the next time with the same weights."""
    hashes = "-".join(pretrained.find(model).weight_hash[:8] for model in models)
    codecs = [load_codec(model) for model in models]
    config = codecs[0].config
    layer = Extension(config.spectrum, config.sample_rate)
    low, high = STFT(config.spectrum, layer.positions), _high_stft(layer, config.spectrum)
    around = layer.spread.T / layer.spread.sum(1)
    clips = []
    played = [(source, path, speed) for source, path in files(corpus) for speed in SPEEDS]
    for source, path, speed in tqdm(played, desc="analysing", unit="clip"):
        kept = folder / "clips" / hashes / f"{SOURCES[source]}-{path.stem}-{speed:.2f}.npz"
        if kept.exists():
            with np.load(kept) as arrays:
                clips.append(Clip(source, speed, *(arrays[name] for name in Clip._fields[2:])))
            continue
        audio, rate = read_audio(path)
        require(
            rate == EXTENSION_FACTOR * config.sample_rate,
            f"{path} has {rate} Hz, not {EXTENSION_FACTOR * config.sample_rate}",
        )
        audio = resample(audio, round(speed * rate), rate)
        length = len(audio) // (EXTENSION_FACTOR * config.frame_length) * config.frame_length
        narrow = torch.from_numpy(resample(audio, rate, config.sample_rate)[:length])[None]
        audio = audio[: EXTENSION_FACTOR * length]
        spectra = [low(narrow)]
        for codec in codecs:
            quantized = codec.quantizer.decode(codec.quantizer.encode(codec.encoder(narrow)))
            spectra.append(codec.decoder.spectrum_step(quantized, codec.decoder.init_state(1))[0])
        power = high(torch.from_numpy(audio)[None]).square().sum(1)[0]
        levels = power.add(QUIETEST).log() @ around + EULER
        energies = torch.stack([torch.cat(layer.energies(spectrum), dim=-1)[0] for spectrum in spectra])
        samples = to_int16(audio)
        clip = Clip(source, speed, samples, torch.cat(spectra).half().numpy(), energies.numpy(), levels.numpy())
        kept.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(kept) as temporary, open(temporary, "wb") as file:
            np.savez(file, **{name: getattr(clip, name) for name in Clip._fields[2:]})
        clips.append(clip)
    return clips


def _high_stft(layer: Extension, config: SpectrumConfig) -> STFT:
    """The transform at the higher rate to the bins above those of the codec."""
    sizes = (EXTENSION_FACTOR * size for size in (config.n_fft, config.hop_length, config.synthesis_length))
    return STFT(SpectrumConfig(*sizes), layer.positions + layer.high, layer.positions)


class Batch(NamedTuple):
    """Rows of clips; B rows, F frames."""

    clips: list[tuple[Clip, int, int]]  # clip, version, and first frame of each row
    energies: Tensor  # [B, F, FEATURES + 1], with filters and noise applied
    levels: Tensor  # [B, F, BANDS], likewise
    curve: Tensor  # [B, KNOTS]: gain and filter in natural logarithms of power, at the frequencies `KNOTS`
    noise: Tensor  # [B, KNOTS]: likewise the power of noise, in bins at the higher sample rate


class Augmenter:
    """Draws stretches of clips, and applies gains, filters and noise to their energies.

    40 % of the rows get a random smooth filter, which changes the original above 4 kHz and little below: the head shall
    follow the upper edge of what it hears, and not learn the voices by heart (as in Opus's BBWENet). Half of the rows
    get a steady noise, with the same spectrum below and above 8 kHz, because recordings of other rooms have one.

    Args:
        clips: to draw from.
        layer: has the bands.
        width: of a bin in Hz.
        rng: source of all random numbers.
    """

    def __init__(self, clips: list[Clip], layer: Extension, width: float, rng: np.random.Generator) -> None:
        self.clips, self.rng = clips, rng
        self.lengths = np.array([len(clip.levels) for clip in clips], float)
        bins = torch.arange(layer.positions + layer.high) * width
        at_bins = nearness(torch.tensor(KNOTS), bins)  # [bins, KNOTS]
        self.at_low = at_bins[: layer.positions]  # [Q, KNOTS]
        above = at_bins[layer.positions :]
        self.at_features = layer.bands.T @ at_bins[: layer.positions]  # [FEATURES, KNOTS]
        self.at_bands = (layer.spread / layer.spread.sum(1, keepdim=True)) @ above  # [BANDS, KNOTS]
        upper = layer.bands[layer.positions // 2 :].sum(0)
        self.upper = upper / upper.sum()  # [FEATURES]: how much of each band is in the upper half

    def draw(self, rows: int, frames: int) -> Batch:
        """A random batch."""
        rng, chosen = self.rng, []
        for index in rng.choice(len(self.clips), rows, p=self.lengths / self.lengths.sum()):
            clip = self.clips[index]
            version = int(rng.choice(len(clip.energies), p=_shares(len(clip.energies))))
            chosen.append((clip, version, int(rng.integers(max(1, len(clip.levels) - frames + 1)))))
        energies = torch.from_numpy(
            np.stack([_stretch(clip.energies[version], start, frames) for clip, version, start in chosen])
        )
        levels = torch.from_numpy(np.stack([_stretch(clip.levels, start, frames) for clip, _, start in chosen]))
        curve = torch.from_numpy(self._curves(rows)).float()
        return self._augmented(chosen, energies, levels, curve)

    def _curves(self, rows: int) -> NDArray[np.float64]:
        """Gains and filters, `[rows, KNOTS]`, in natural logarithms of power."""
        rng, decibels = self.rng, np.log(10) / 10
        steps = rng.standard_normal((rows, len(KNOTS))) * STEPS_DB
        filters = np.cumsum(steps, axis=1) * (rng.random((rows, 1)) < FILTERED)
        curves: NDArray[np.float64] = (filters + rng.uniform(*GAINS_DB, (rows, 1))) * decibels
        return curves

    def _augmented(self, chosen: list[tuple[Clip, int, int]], energies: Tensor, levels: Tensor, curve: Tensor) -> Batch:
        rng, rows = self.rng, len(chosen)
        level = rng.uniform(*NOISE_DB, (rows, 1)) + rng.uniform(*NOISE_SLOPES_DB, (rows, 1)) * np.array(OCTAVES)
        has_noise = rng.random((rows, 1)) < NOISY
        noise = torch.from_numpy(np.where(has_noise, level, -200.0) * np.log(10) / 10).float()[:, None]
        heard = noise - math.log(EXTENSION_FACTOR)  # the variance below 8 kHz is a third of the whole
        bands, upper = energies[..., :-1], energies[..., -1:]
        changed = bands * torch.exp(curve[:, None] @ self.at_features.T) + torch.exp(heard @ self.at_features.T)
        # The energy of the upper half changes as the sum of the bands in it does.
        before, after = ((x * self.upper).sum(-1, keepdim=True) for x in (bands, changed))
        upper = torch.where(before > 0, upper * after / before.clamp_min(1e-30), after)
        levels = torch.logaddexp(levels + curve[:, None] @ self.at_bands.T, noise @ self.at_bands.T + EULER)
        energies = torch.cat([changed, upper], dim=-1)
        return Batch(chosen, energies, levels.clamp_min(math.log(QUIETEST)), curve, noise[:, 0])


def _shares(versions: int) -> list[float]:
    """How often each version is drawn: the original 40 %, the models equally."""
    return [0.4] + [0.6 / (versions - 1)] * (versions - 1)


def _stretch(array: NDArray[Any], start: int, frames: int) -> NDArray[Any]:
    """Frames of an array, whose first axis is time; a short one is repeated."""
    return np.take(array, start + np.arange(frames), axis=0, mode="wrap")


def known_bands(layer: Extension, clips: list[Clip], width: float) -> Tensor:
    """Which bands each clip's recording really has, `[B, 1, BANDS]`."""
    centres = (layer.positions + torch.linspace(0, layer.high - 1, BANDS)) * width
    limits = torch.tensor([clip.bandwidth for clip in clips])
    return (centres < limits[:, None]).float()[:, None]


def band_distance(layer: Extension, batch: Batch, width: float) -> Tensor:
    """The log-spectral distance that the bands' levels account for, with that of two noises of the same spectrum."""
    hidden = layer.init_state(len(batch.energies))[0]
    gains, _, _ = layer.controls(batch.energies[..., :-1], hidden)
    upper = EXTENSION_FACTOR * batch.energies[..., -1:]  # as in `Extension.spectrum`
    found = torch.log(upper + QUIETEST) + 2 * gains.clamp_max(LOUDEST)
    found = found.clamp_min(math.log(QUIETEST))
    known = known_bands(layer, [clip for clip, _, _ in batch.clips], width)
    squares = ((found - batch.levels) / math.log(10)).square() * known
    return (squares.sum(-1) / known.sum(-1) + RAYLEIGH).sqrt().mean()


def train_gains(layer: Extension, train: Augmenter, valid: Augmenter, width: float, minutes: float) -> None:
    """The first stage. Keeps the weights of the step that is best on the files that are held out."""
    fixed = [valid.draw(32, FRAMES) for _ in range(6)]
    optimizer = torch.optim.AdamW(layer.parameters(), LEARNING_RATE, weight_decay=0.01)
    best, kept, end, begin = math.inf, layer.state_dict(), time.time() + 60 * minutes, time.time()
    for step in count():
        now = min(1.0, (time.time() - begin) / (end - begin))
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * now))
        loss = band_distance(layer, train.draw(ROWS, FRAMES), width)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 49 or now == 1.0:
            with torch.no_grad():
                error = float(torch.stack([band_distance(layer, batch, width) for batch in fixed]).mean())
            print(f"gains, step {step + 1}: loss {loss.item():.4f}, held out {error:.4f}", flush=True)
            if error < best:
                best, kept = error, {name: tensor.clone() for name, tensor in layer.state_dict().items()}
        if now == 1.0:
            break
    layer.load_state_dict(kept)


def shaped_noise(batch: Batch, samples: int, rate: float) -> Tensor:
    """The noise of a batch, `[B, samples]`."""
    white = torch.randn(len(batch.noise), samples)
    frequencies = torch.fft.rfftfreq(samples, 1 / rate)
    at_bins = nearness(torch.tensor(KNOTS), frequencies)
    noise: Tensor = torch.fft.irfft(torch.fft.rfft(white) * torch.exp(batch.noise @ at_bins.T / 2), samples)
    return noise


def heard_and_wanted(
    layer: Extension, augmenter: Augmenter, batch: Batch, width: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The spectra `[B, 2, F, Q]` of a batch with filter and noise; its audio and its noise, `[B, T]` each at 48 kHz.

    The filter is not applied to the audio.
    """
    frames, hop = batch.levels.shape[1], layer.inverse_stft.hop_length
    spectra = [
        _stretch(clip.spectra[version].transpose(1, 0, 2), start, frames).transpose(1, 0, 2)
        for clip, version, start in batch.clips
    ]
    audio = [_stretch(clip.audio, hop * start, hop * frames) for clip, _, start in batch.clips]
    noise = shaped_noise(batch, hop * frames, 2 * hop * width)
    sizes = SpectrumConfig(2 * hop, hop, layer.inverse_stft.overlap)
    low = STFT(sizes, layer.positions)(noise) / math.sqrt(EXTENSION_FACTOR)
    x = torch.from_numpy(np.stack(spectra)).float() * torch.exp(batch.curve @ augmenter.at_low.T / 2)[:, None, None]
    return x + low, torch.from_numpy(np.stack(audio)).float() / 32768, noise


def spectral_distance(layer: Extension, augmenter: Augmenter, batch: Batch, width: float) -> tuple[Tensor, Tensor]:
    """The log-spectral distance of benchmarks/extension.py, and an L1 distance with a quarter of its window."""
    x, audio, noise = heard_and_wanted(layer, augmenter, batch, width)
    hop = layer.inverse_stft.hop_length
    found = layer(x)[:, layer.inverse_stft.overlap - hop :]
    known = torch.tensor([clip.bandwidth for clip, _, _ in batch.clips])
    distances = []
    for n_fft in (2048, 512):
        frequencies = torch.arange(n_fft // 2 + 1) * (2 * hop * width / n_fft)
        inside = (frequencies >= 8000) & (frequencies <= 20000)
        window = torch.hann_window(n_fft)

        def powers(y: Tensor, n_fft: int = n_fft, window: Tensor = window, inside: Tensor = inside) -> Tensor:
            spectrum = torch.stft(y[:, : found.shape[1]], n_fft, n_fft // 4, window=window, return_complex=True)
            return spectrum[:, inside, 8:].abs().square()  # without the start, where the states settle

        curve = torch.exp(batch.curve @ nearness(torch.tensor(KNOTS), frequencies[inside]).T)[..., None]
        wanted = powers(audio) * curve + powers(noise)
        difference = torch.log10(powers(found).clamp_min(1e-8)) - torch.log10(wanted.clamp_min(1e-8))
        mask = (frequencies[inside] < known[:, None]).float()[..., None]
        if n_fft == 2048:
            distances.append(((difference.square() * mask).sum(1) / mask.sum(1) + 1e-4).sqrt().mean())
        else:
            distances.append((difference.abs() * mask).sum() / mask.expand_as(difference).sum())
    return distances[0], distances[1]


def train_whole(layer: Extension, train: Augmenter, valid: Augmenter, width: float, minutes: float) -> None:
    """The second stage."""
    begin, losses = time.time(), []
    optimizer = torch.optim.AdamW(layer.parameters(), WHOLE_LEARNING_RATE, weight_decay=0.01)
    fixed = [valid.draw(8, WHOLE_FRAMES) for _ in range(4)]
    now = 0.0
    for step in count(1):
        now = (time.time() - begin) / (60 * minutes)
        for group in optimizer.param_groups:
            group["lr"] = WHOLE_LEARNING_RATE * min(1.0, step / 20) * (0.5 + 0.5 * math.cos(math.pi * min(1.0, now)))
        distance, fine = spectral_distance(layer, train, train.draw(8, WHOLE_FRAMES), width)
        optimizer.zero_grad()
        (distance + fine).backward()
        nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
        optimizer.step()
        losses.append(distance.item())
        if step % 50 == 0 or now >= 1:
            with torch.no_grad():
                error = np.mean([spectral_distance(layer, valid, batch, width)[0].item() for batch in fixed])
            print(f"whole, step {step}: distance {np.mean(losses[-50:]):.4f}, held out {error:.4f}", flush=True)
        if now >= 1:
            break


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments, train and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="folder with manifest.csv")
    parser.add_argument("models", nargs="+", help="names of released models, or their folders")
    parser.add_argument("--out", type=Path, required=True, help="folder for the analysed clips and the weights")
    parser.add_argument("--minutes", type=float, nargs=2, default=[4.0, 8.0], help="of the stages (default: 4 8)")
    parser.add_argument("--init", type=Path, help="weights to start from")
    parser.add_argument("--held-out", choices=SOURCES, help="a voice for validation (default: 5 %% of the files)")
    args = parser.parse_args(arguments)
    torch.manual_seed(0)
    try:
        clips = analyse(args.corpus, args.models, args.out)
        config = load_codec(args.models[0]).config
    except (InputError, OSError) as error:
        print(f"extension: {error}", file=sys.stderr)
        return 2
    layer, width = Extension(config.spectrum, config.sample_rate), config.sample_rate / config.spectrum.n_fft
    if args.init:
        layer.load_state_dict(load_tensors(args.init)[0])
    rng = np.random.default_rng(0)
    is_held = np.repeat(rng.random(len(clips) // len(SPEEDS)) < HELD_OUT, len(SPEEDS))
    if args.held_out:
        is_held = np.array([SOURCES[clip.source] == args.held_out for clip in clips])
    parts = [[clip for clip, held in zip(clips, is_held, strict=True) if held == part] for part in (False, True)]
    parts[1] = [clip for clip in parts[1] if clip.speed == 1]
    train, valid = (Augmenter(part, layer, width, np.random.default_rng(seed)) for seed, part in enumerate(parts))
    if args.minutes[0] > 0:
        train_gains(layer, train, valid, width, args.minutes[0])
    train_whole(layer, train, valid, width, args.minutes[1])
    round_to_half_(layer)
    save_tensors(args.out / EXTENSION_WEIGHTS, halved(layer.state_dict()), {"format": "pt"})
    for name in args.models:
        model = pretrained.find(name)
        if not args.held_out and model.index:
            save_tensors(model.folder / EXTENSION_WEIGHTS, halved(layer.state_dict()), {"format": "pt"})
            pretrained.write_index(model.folder.parent, model.config.name)
            with atomic_write(model.folder / pretrained.EXTENSION_GRAPH) as temporary:
                temporary.write_bytes(exported_extension(pretrained.find(name))[pretrained.EXTENSION_GRAPH])
            pretrained.write_index(model.folder.parent, model.config.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
