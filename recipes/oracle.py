"""Find where a codec loses quality: replace parts of the decoder's spectrum by those of the original.

    python recipes/oracle.py spectok-16k-4k --data PREPARED --clips 10

The decoder's spectrum is used without the postfilter. "Above" and "below" refer to the frequency from which the codes
do not carry phases. Prints a table of means over the first seconds of some clips of the validation split.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectok.engine import load_codec
from spectok.errors import InputError, require
from spectok.evaluation.catalogue import METRICS
from spectok.evaluation.judges import distillmos_of, dnsmos_overall
from spectok.evaluation.metrics import pesq_wb, stoi
from spectok.evaluation.tables import markdown_table
from spectok.model.codec import NETWORK_STATES, Codec
from spectok.resampling import fit_length
from spectok.training.corpus import Corpus

SHOWN = ("pesq", "stoi", "distillmos", "dnsmos")
MAX_SECONDS = 5.0
AVERAGED = (7, 15)  # bins over which magnitudes are averaged, for coarse envelopes of the original


def size(spectrum: Tensor) -> Tensor:
    """Magnitudes `[B, 1, F, Q]` of a spectrum `[B, 2, F, Q]`, above 0."""
    magnitude: Tensor = torch.linalg.vector_norm(spectrum, dim=1, keepdim=True)
    return magnitude.clamp_min(1e-7)


def averaged(magnitude: Tensor, bins: int) -> Tensor:
    """The rms of magnitudes over `bins` neighbouring bins, an odd number."""
    padded = torch.nn.functional.pad(magnitude.square(), (bins // 2, bins // 2, 0, 0), mode="replicate")
    return torch.nn.functional.avg_pool2d(padded, (1, bins), 1).sqrt()


@torch.inference_mode()
def variants(codec: Codec, clip: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Decoded audio `[T]` of a clip `[T]`, with each part of the spectrum replaced by the original's, by name."""
    config, decoder = codec.config, codec.decoder
    padded = fit_length(clip, config.padded_length(len(clip)))
    audio = torch.from_numpy(padded)[None]
    quantized = codec.quantizer(codec.encoder(audio)).quantized
    estimate, _ = decoder.estimate(quantized, decoder.init_state(1)[:NETWORK_STATES])
    assert decoder.excitation is not None
    decoded, _ = decoder.excitation.step(estimate, decoder.excitation.init_state(1))
    original = codec.encoder.stft(audio)
    first = config.excitation.first_bin(config.spectrum.n_fft, config.sample_rate)

    def joined(below: Tensor, above: Tensor) -> Tensor:
        return torch.cat([below[..., :first], above[..., first:]], dim=3)

    def with_envelope(bins: int) -> Tensor:
        return joined(decoded, decoded / size(estimate.spectrum) * averaged(size(original), bins))

    width = config.sample_rate / config.spectrum.n_fft
    spectra = {
        "nothing": decoded,
        "magnitudes above": joined(decoded, decoded * (size(original) / size(decoded))),
        **{f"magnitudes above, averaged over {bins * width:.0f} Hz": with_envelope(bins) for bins in AVERAGED},
        "magnitudes and phases above": joined(decoded, original),
        "magnitudes and phases below": joined(original, decoded),
        "everything": original,
    }
    delay = config.synthesis_delay
    return {name: decoder.inverse_stft(spectrum)[0, delay:][: len(clip)].numpy() for name, spectrum in spectra.items()}


def table(codec: Codec, corpus: Corpus, clips: int) -> str:
    """The means of every metric for each variant, as Markdown."""
    scores: dict[str, list[list[float]]] = {}
    for index in np.linspace(0, len(corpus) - 1, min(clips, len(corpus))).round().astype(int):
        original = corpus.clip(index, samples=min(int(corpus.samples[index]), int(MAX_SECONDS * corpus.sample_rate)))
        for name, decoded in variants(codec, original).items():
            found = [
                pesq_wb(original, decoded),
                stoi(original, decoded),
                distillmos_of(decoded),
                dnsmos_overall(decoded),
            ]
            scores.setdefault(name, []).append(found)
    metrics = [METRICS[name] for name in SHOWN]
    rows = [
        [name, *(metric.text(value) for metric, value in zip(metrics, np.nanmean(values, 0), strict=True))]
        for name, values in scores.items()
    ]
    return markdown_table(["part of the original", *(metric.heading for metric in metrics)], rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a released model, or a folder with config.json and model.safetensors")
    parser.add_argument("--data", type=Path, required=True, help="folder made by recipes/prepare.py")
    parser.add_argument("--clips", type=int, default=10, help="number of clips, evenly spread (default: %(default)s)")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        codec = load_codec(args.model)
        require(codec.decoder.excitation is not None, f"{args.model} has no excitation: its codes carry all phases")
        print(table(codec, Corpus(args.data, "valid"), args.clips))
    except InputError as error:
        print(f"oracle: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
