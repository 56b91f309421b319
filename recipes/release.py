"""Turn a finished run into a released model: `pretrained/<name>/` and its line in `pretrained/index.toml`.

    python recipes/release.py runs/4k --data PREPARED

The name is the configuration's. The averaged weights are copied, their hash goes into the index, and what the run was
(its recipe, seconds, steps, learning curve) and how it uses its codebook over the whole training split into
`training.json`, from which the model card is written by `recipes/cards.py`. The runs
before it, whose weights it began with, are named there too.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import tomllib
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import trange

from spectok import pretrained
from spectok.errors import InputError
from spectok.evaluation.metrics import codebook_use
from spectok.files import atomic_write
from spectok.tokenizer import Tokenizer
from spectok.training.data import Corpus
from spectok.training.history import history


def histogram(folder: Path, corpus: Corpus, first: int, step: int) -> NDArray[np.int64]:
    """How often each code occurs in every `step`-th file from the `first` on."""
    torch.set_num_threads(1)
    tokenizer = Tokenizer.from_pretrained(folder)
    counts = np.zeros(tokenizer.codebook_size, np.int64)
    for index in trange(first, len(corpus), step, desc="counting codes", unit="file", disable=first > 0):
        counts += np.bincount(tokenizer.encode(corpus.clip(index)), minlength=len(counts))
    return counts


def count_codes(folder: Path, corpus: Corpus) -> dict[str, Any]:
    """How the model in a folder uses its codebook over a split: tokens, share of entries used, normalised entropy."""
    share = os.cpu_count() or 1
    with ProcessPoolExecutor(share, mp_context=multiprocessing.get_context("spawn")) as pool:
        parts = pool.map(histogram, [folder] * share, [corpus] * share, range(share), [share] * share)
        counts = np.sum(list(parts), axis=0)
    use = codebook_use(counts)
    return {"split": corpus.split, "tokens": int(counts.sum()), "used": use.used, "entropy": use.entropy}


def release(run: Path, corpus: Corpus, root: Path) -> str:
    """Copy the release form of a run under `root`; returns the model's name."""
    model = pretrained.find(run / "release")
    name = model.config.name
    facts = {"runs": history(run / "release"), "codebook": count_codes(run / "release", corpus)}
    folder, index = root / name, root / "index.toml"
    folder.mkdir(parents=True, exist_ok=True)
    hashes = {}
    if index.exists():
        hashes = {key: entry["sha256"] for key, entry in tomllib.loads(index.read_text(encoding="utf-8")).items()}
    hashes[name] = model.sha256
    texts = {
        folder / "config.json": model.config.to_json(),
        folder / "training.json": json.dumps(facts, indent=1) + "\n",
        index: "\n".join(f'["{key}"]\nsha256 = "{sha256}"\n' for key, sha256 in sorted(hashes.items())),
    }
    with atomic_write(folder / "model.safetensors") as temporary:
        shutil.copyfile(model.weights, temporary)
    for path, text in texts.items():
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return name


def main() -> int:
    """Parse the arguments and release."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder of recipes/train.py")
    parser.add_argument("--data", type=Path, required=True, help="folder made by recipes/prepare.py")
    parser.add_argument("--root", type=Path, default=pretrained.CHECKOUT, help="(default: pretrained/)")
    args = parser.parse_args()
    try:
        print(f"released {release(args.run, Corpus(args.data, 'train'), args.root)}")
    except (InputError, OSError) as error:
        print(f"release: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
