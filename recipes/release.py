"""Turn a finished run into a released model: `pretrained/<name>/` and its files in `pretrained/index.toml`.

    python recipes/release.py runs/4k --data PREPARED
    python recipes/release.py runs/robust-4k --data PREPARED

The name is that of the configuration. The averaged weights are multiplied by a constant gain, which centres the error
of the output level over training files, rounded to float16, and exported. The codes of digital silence are chosen among
those that the encoder gives for it: the ones that are decoded to the lowest level. `training.json` holds a record of
the run (its recipe, seconds, steps and learning curve) and of the earlier runs whose weights it started from, the gain,
and the use of the codebook over the whole training split; `recipes/cards.py` writes the model card from it.

A run of `recipes/robust.toml` becomes another encoder of the model that it started from, in `<name>/robust/`, if this
model is released with the same decoder.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import trange

from spectok import pretrained
from spectok.audio import read_audio
from spectok.config import CodecConfig
from spectok.engine import load_codec
from spectok.errors import InputError, require
from spectok.evaluation.metrics import codebook_use, level_db
from spectok.export.agreement import export_verified
from spectok.files import write_text
from spectok.graphs import WEIGHTS
from spectok.model.codec import Codec
from spectok.tokenizer import Tokenizer
from spectok.training.corpus import Corpus
from spectok.training.history import history
from spectok.training.validation import reconstruct
from spectok.weights import halved, load_tensors, round_to_half_, save_tensors

ENCODER = "robust"  # name of the encoder that a run of recipes/robust.toml becomes
SILENT_SECONDS, CANDIDATES = 60, 24  # digital silence that is encoded, and the number of its frames that are compared
LEVEL_FILES, LEVEL_SECONDS = 400, 6  # used to measure the gain
SPEECH = Path(__file__).parent.parent / "tests" / "data" / "librispeech_84_16k.flac"  # used to verify the export


def histogram(folder: Path, corpus: Corpus, first: int, step: int) -> NDArray[np.int64]:
    """Counts of each code, `[codebook_size]`, in every `step`-th file from the `first` on."""
    tokenizer = Tokenizer.from_pretrained(folder)
    counts = np.zeros(tokenizer.codebook_size, np.int64)
    for index in trange(first, len(corpus), step, desc="counting codes", unit="file", disable=first > 0):
        counts += np.bincount(tokenizer.encode(corpus.clip(index)), minlength=len(counts))
    return counts


def count_codes(folder: Path, corpus: Corpus) -> dict[str, Any]:
    """Codebook use of the model in a folder over a split: tokens, share of entries used, normalised entropy."""
    share = os.cpu_count() or 1
    with ProcessPoolExecutor(share, mp_context=multiprocessing.get_context("spawn")) as pool:
        parts = pool.map(histogram, [folder] * share, [corpus] * share, range(share), [share] * share)
        counts = np.sum(list(parts), axis=0)
    use = codebook_use(counts)
    return {"split": corpus.split, "tokens": int(counts.sum()), "used": use.used, "entropy": use.entropy}


def centring_gain(codec: Codec, corpus: Corpus) -> float:
    """The gain in decibels that centres the error of the output level over files spread over a split.

    The gain is minus the middle between the 1st and the 99th percentile of the errors. Unlike the mean, this minimises
    the largest error: output that is too quiet is further off than output that is too loud.
    """
    levels = []
    for index in np.linspace(0, len(corpus) - 1, min(LEVEL_FILES, len(corpus))).astype(int):
        original = corpus.clip(index, samples=min(int(corpus.samples[index]), LEVEL_SECONDS * codec.config.sample_rate))
        levels.append(level_db(original, reconstruct(codec, original)[0]))
    return -float(np.nanpercentile(levels, (1, 99)).mean())


@torch.inference_mode()
def silence_codes(codec: Codec, speech: NDArray[np.float32]) -> tuple[int, ...]:
    """The codes of a frame, among those for digital silence, that are decoded to the lowest level if they are repeated.

    The level is the highest of two: of two seconds from the start of a stream, and after speech and half a second of
    silence.
    """
    config = dataclasses.replace(codec.config, silence_codes=())
    plain = Codec(config).eval()
    plain.load_state_dict(codec.state_dict())
    tokens, seconds = config.quantizer.tokens_per_frame, round(config.frame_rate)

    def encode(audio: NDArray[np.float32]) -> torch.Tensor:
        whole = torch.from_numpy(audio[: len(audio) // config.frame_length * config.frame_length])[None]
        return plain.encode_step(whole, plain.encoder.init_state(1))[0].reshape(-1, tokens)

    found, counts = torch.unique(
        encode(np.zeros(SILENT_SECONDS * config.sample_rate, np.float32)), dim=0, return_counts=True
    )
    frames = found[counts.argsort(descending=True)[:CANDIDATES]]
    silence = frames[:, None].expand(-1, 2 * seconds, -1).flatten(1)
    head = encode(np.pad(speech, (0, config.sample_rate // 2))).flatten()
    levels = []
    for before in (head[:0], head):
        codes = torch.cat([before.expand(len(frames), -1), silence], dim=1)
        audio, _ = plain.decode_step(codes, plain.decoder.init_state(len(frames)))
        levels.append(audio[:, -2 * seconds * config.frame_length :].square().mean(dim=1))
    best = int(torch.stack(levels).amax(dim=0).argmin())
    return tuple(frames[best].tolist())


def release(run: Path, corpus: Corpus, root: Path) -> str:
    """Write the release form of a run under `root`; returns the model's name.

    Raises:
        InputError: the model has a robust encoder that was trained whole, so it cannot follow the new weights.
    """
    codec = load_codec(run / "release")
    config = codec.config
    check_encoder(root / config.name / ENCODER)
    decibels = centring_gain(codec, corpus)
    codec.decoder.amplify_(10 ** (decibels / 20))
    round_to_half_(codec)
    folder = root / config.name
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder / "model.safetensors", halved(codec.state_dict()), {"format": "pt"})
    speech, _ = read_audio(SPEECH, config.sample_rate)
    if config.quantizer.kind == "fsq":
        config = dataclasses.replace(config, silence_codes=silence_codes(codec, speech))
    write_text(folder / "config.json", config.to_json())
    export_verified(pretrained.find(folder), speech, folder)
    facts = {
        "runs": history(run / "release"),
        "gain_db": round(decibels, 3),
        "codebook": count_codes(folder, corpus),  # with the ONNX graphs, in a third of the time
    }
    write_text(folder / "training.json", json.dumps(facts, indent=1) + "\n")
    pretrained.write_index(root, config.name)
    renew_encoder(root, config.name)
    return config.name


def check_encoder(folder: Path) -> None:
    """Check that of a robust encoder, if there is one, only the denoiser was trained.

    Raises:
        InputError: the encoder was trained with it, for the weights before.
    """
    trained = load_tensors(folder / WEIGHTS)[0] if folder.is_dir() else {}
    is_denoiser = all(tensor.startswith("denoiser.") for tensor in trained)
    require(is_denoiser, f"{folder} is of the weights before; remove it, or train it again")


def renew_encoder(root: Path, name: str) -> None:
    """Put the denoiser of a model's robust encoder, if it has one, before the encoder of the model's new weights."""
    folder = root / name / ENCODER
    if not folder.is_dir():
        return
    model, before = pretrained.find(root / name), CodecConfig.load(folder / "config.json")
    config = dataclasses.replace(model.config, leveller=before.leveller, denoiser_hidden=before.denoiser_hidden)
    write_text(folder / "config.json", config.to_json())
    speech, _ = read_audio(SPEECH, config.sample_rate)
    export_verified(model, speech, folder, pretrained.find_encoder(model, ENCODER))
    pretrained.write_index(root, f"{name}/{ENCODER}")


def release_encoder(run: Path, root: Path) -> str:
    """Write the encoder of a run that trained nothing else, as an encoder of the released model; returns its name.

    What is the same in the model's own encoder is not written again.
    """
    codec = load_codec(run / "release")
    model = pretrained.find(root / codec.config.name)
    released = load_codec(model)
    decoder, encoder = released.decoder.state_dict(), released.encoder.state_dict()
    is_same = all(torch.equal(tensor, decoder[name]) for name, tensor in codec.decoder.state_dict().items())
    require(is_same, f"the encoder in {run} was trained for another decoder than that of {model.folder}")
    round_to_half_(codec.encoder)
    folder = model.folder / ENCODER
    folder.mkdir(exist_ok=True)
    own = {
        name: tensor
        for name, tensor in codec.encoder.state_dict().items()
        if name not in encoder or not torch.equal(tensor, encoder[name])
    }
    save_tensors(folder / WEIGHTS, halved(own), {"format": "pt"})
    write_text(folder / "config.json", codec.config.to_json())
    speech, _ = read_audio(SPEECH, codec.config.sample_rate)
    export_verified(model, speech, folder, pretrained.find_encoder(model, ENCODER))
    earlier = json.loads((run / "run.json").read_text(encoding="utf-8")).get("encoder", [])
    record = {"runs": earlier + history(run / "release")[-1:]}
    write_text(folder / "training.json", json.dumps(record) + "\n")
    name = f"{codec.config.name}/{ENCODER}"
    pretrained.write_index(root, name)
    return name


def main() -> int:
    """Parse the arguments and release."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder of recipes/train.py")
    parser.add_argument("--data", type=Path, required=True, help="folder made by recipes/prepare.py")
    parser.add_argument("--root", type=Path, default=pretrained.CHECKOUT, help="(default: pretrained/)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    try:
        recipe = json.loads((args.run / "run.json").read_text(encoding="utf-8"))["recipe"]
        if recipe.get("trained") in ("encoder", "denoiser"):
            print(f"released {release_encoder(args.run, args.root)}")
        else:
            print(f"released {release(args.run, Corpus(args.data, 'train'), args.root)}")
    except (InputError, OSError) as error:
        print(f"release: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
