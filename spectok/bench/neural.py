"""Neural codecs that the benchmark compares with spectok, from packages of PyPI (the extra `neural`).

| rival | package | weights | codec |
|---|---|---|---|
| encodec-1.5, -6 | transformers | facebook/encodec_24khz | EnCodec, arXiv 2210.13438 |
| dac-6 | transformers | descript/dac_16khz | DAC, arXiv 2306.06546 |
| mimi-1.1 | transformers | kyutai/mimi | Mimi, arXiv 2410.00037 |
| snac-1 | snac | hubertsiuzdak/snac_24khz | SNAC, arXiv 2410.14411 |

Nothing is downloaded: weights are used if they are in the cache of Hugging Face's hub. Otherwise the weights are random
and quality is not measured; parameters, operations and time are the same with random weights. These packages have no
file format, so there are no bytes on disk.

    python -m spectok.bench.neural RIVAL encode IN.wav CODES.npz
    python -m spectok.bench.neural RIVAL decode CODES.npz OUT.wav
"""

import functools
import importlib.metadata
import importlib.util
import math
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spectok.audio import read_audio, write_audio
from spectok.bench.macs import count_macs
from spectok.evaluation.coders import Audio, Coded
from spectok.evaluation.metrics import SAMPLE_RATE
from spectok.resampling import fit_length, resample

SNAC_24KHZ = {
    "sampling_rate": 24000,
    "encoder_dim": 48,
    "encoder_rates": [2, 4, 8, 8],
    "decoder_dim": 1024,
    "decoder_rates": [8, 8, 4, 2],
    "attn_window_size": None,
    "vq_strides": [4, 2, 1],
}


@dataclass(frozen=True)
class NeuralRival:
    """A neural codec as a coder."""

    name: str
    package: str  # of PyPI
    weights: str  # repository of the hub
    sample_rate: int
    bitrate: float  # bits per second
    bits: int  # of a code
    codebook_dim: int  # of an entry of a codebook, all of which are compared with each vector that becomes a code
    build: Callable[[Path | None], nn.Module]  # from a folder of weights; random weights if that is None
    encode: Callable[[Any, Tensor], Any]  # model and audio [1, 1, T] to codes: a tensor, or a list of tensors
    decode: Callable[[Any, Any], Tensor]

    @property
    def missing(self) -> str | None:
        """A sentence that names the missing package; None if it is installed."""
        lacks = importlib.util.find_spec(self.package) is None
        return f"{self.name} needs the package {self.package}: pip install 'spectok[neural]'" if lacks else None

    @property
    def without_weights(self) -> str | None:
        """A sentence that names the missing weights; None if they are on this disk."""
        lacks = folder_of(self.weights) is None
        return f"{self.name} needs its weights, {self.weights}, in the cache of Hugging Face's hub" if lacks else None

    @functools.cached_property
    def model(self) -> nn.Module:
        """The network, with its weights if they are on disk."""
        torch.manual_seed(0)
        return self.build(folder_of(self.weights)).eval()

    @torch.no_grad()
    def code(self, audio: Audio) -> Coded:
        """Encode and decode audio [T] at 16 kHz, which is resampled to the codec's sample rate and back."""
        given = torch.from_numpy(resample(audio, SAMPLE_RATE, self.sample_rate))[None, None]
        model = self.model
        start = time.perf_counter()
        codes = self.encode(model, given)
        middle = time.perf_counter()
        decoded = self.decode(model, codes)
        end = time.perf_counter()
        restored = fit_length(resample(decoded.flatten().numpy(), self.sample_rate, SAMPLE_RATE), len(audio))
        bits = self.bits * sum(each.numel() for each in _listed(codes))
        return Coded(restored, bits, math.nan, middle - start, end - middle)

    def facts(self) -> dict[str, Any]:
        """Sample rate in Hz, bits and multiply-accumulates per second, parameters, and the package."""
        return {
            "sample_rate": self.sample_rate,
            "bitrate": self.bitrate,
            "package": f"{self.package} {importlib.metadata.version(self.package)}",
            "needs": ["torch"],
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            **self.macs_per_second(),
            "weight_megabytes": sum(parameter.nbytes for parameter in self.model.parameters()) / 1e6,
        }

    def macs_per_second(self) -> dict[str, float]:
        """Multiply-accumulates for 1 s of noise, without and with the search of the codebooks, as facts."""
        noise, codes = 0.1 * torch.randn(1, 1, self.sample_rate), []

        def run() -> None:
            codes.append(self.encode(self.model, noise))
            self.decode(self.model, codes[0])

        count = count_macs(run)
        search = 2**self.bits * self.codebook_dim * sum(each.numel() for each in _listed(codes[0]))
        return {"macs": count - search, "macs_with_transforms": count}

    def commands(self, source: Path, coded: Path, out: Path) -> tuple[list[str], list[str]]:
        """Command lines that run this module."""
        run = [sys.executable, "-m", "spectok.bench.neural", self.name]
        return [*run, "encode", str(source), f"{coded}.npz"], [*run, "decode", f"{coded}.npz", str(out)]


def folder_of(weights: str) -> Path | None:
    """The folder of a repository in the cache of Hugging Face's hub; None if it is not there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(weights, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _listed(codes: Any) -> list[Tensor]:
    return [codes] if isinstance(codes, Tensor) else list(codes)


def _transformers(name: str, **config: Any) -> Callable[[Path | None], nn.Module]:
    """A function that builds a model of transformers; `config` has the values that differ from the class's defaults."""

    def build(folder: Path | None) -> nn.Module:
        import transformers

        model, settings = (getattr(transformers, f"{name}{suffix}") for suffix in ("Model", "Config"))
        built: nn.Module = model.from_pretrained(folder) if folder else model(settings(**config))
        return built

    return build


def _snac(folder: Path | None) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about deprecated parts of PyTorch
        from snac import SNAC

    model: nn.Module = SNAC.from_pretrained(str(folder)) if folder else SNAC(**SNAC_24KHZ)
    return model


def _encodec(kbps: float) -> NeuralRival:
    return NeuralRival(
        name=f"encodec-{kbps:g}",
        package="transformers",
        weights="facebook/encodec_24khz",
        sample_rate=24000,
        bitrate=1000 * kbps,
        bits=10,
        codebook_dim=128,
        build=_transformers("Encodec"),
        encode=lambda model, audio: model.encode(audio, bandwidth=kbps).audio_codes,
        decode=lambda model, codes: model.decode(codes, [None]).audio_values,
    )


DAC_16KHZ = {"downsampling_ratios": [2, 4, 5, 8], "upsampling_ratios": [8, 5, 4, 2], "n_codebooks": 12}
NEURAL = {
    rival.name: rival
    for rival in (
        _encodec(1.5),
        _encodec(6.0),
        NeuralRival(
            name="dac-6",
            package="transformers",
            weights="descript/dac_16khz",
            sample_rate=16000,
            bitrate=6000.0,
            bits=10,
            codebook_dim=8,
            build=_transformers("Dac", **DAC_16KHZ),
            encode=lambda model, audio: model.encode(audio).audio_codes,
            decode=lambda model, codes: model.decode(audio_codes=codes).audio_values,
        ),
        NeuralRival(
            name="mimi-1.1",
            package="transformers",
            weights="kyutai/mimi",
            sample_rate=24000,
            bitrate=1100.0,
            bits=11,
            codebook_dim=256,
            build=_transformers("Mimi"),
            encode=lambda model, audio: model.encode(audio, num_quantizers=8).audio_codes,
            decode=lambda model, codes: model.decode(codes).audio_values,
        ),
        NeuralRival(
            name="snac-1",
            package="snac",
            weights="hubertsiuzdak/snac_24khz",
            sample_rate=24000,
            bitrate=984.375,
            bits=12,
            codebook_dim=8,
            build=_snac,
            encode=lambda model, audio: model.encode(audio),
            decode=lambda model, codes: model.decode(codes),
        ),
    )
}


@torch.no_grad()
def main(name: str, side: str, source: str, destination: str) -> None:
    """Encode or decode one file, as the command line of a cold process."""
    torch.set_num_threads(1)
    rival = NEURAL[name]
    if side == "encode":
        audio, _ = read_audio(source, rival.sample_rate)
        np.savez(destination, *_listed(rival.encode(rival.model, torch.from_numpy(audio)[None, None])))
    else:
        codes = [torch.from_numpy(each) for each in np.load(source).values()]
        audio = rival.decode(rival.model, codes if len(codes) > 1 else codes[0]).flatten().numpy()
        write_audio(Path(destination), audio, rival.sample_rate)


if __name__ == "__main__":
    main(*sys.argv[1:])
