"""Train the entropy model of a released model: `pretrained/<name>/entropy.dat`, and its hash in the index.

    python recipes/entropy.py spectok-16k-800 --data PREPARED

Encodes the training split, and fits the logistic regression of `spectok.entropy` to its codes. Prints the bits that a
code of the validation split takes with it.
"""

import argparse
import math
import multiprocessing
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import trange

from spectok import pretrained
from spectok.entropy import BITS, FRAMES, UNIT, EntropyModel
from spectok.errors import InputError, require
from spectok.files import atomic_write
from spectok.tokenizer import Tokenizer
from spectok.training.corpus import Corpus

STEPS, BATCH, LEARNING_RATE = 6000, 2048, 0.02
FILES_PER_PROCESS = 20  # fewer are not worth a process of their own
ALONE = 0.02  # share of frames that are predicted without one or both of the frames before, as at the start of a packet
Codes = NDArray[np.int64]


def encoded(name: str, corpus: Corpus, first: int, step: int) -> list[Codes]:
    """Codes `[F, K]` of every `step`-th file from the `first` on."""
    tokenizer = Tokenizer.from_pretrained(name)
    indices = trange(first, len(corpus), step, desc=f"encoding {corpus.split}", unit="file", disable=first > 0)
    return [tokenizer.encode(corpus.clip(index)).reshape(-1, tokenizer.tokens_per_frame) for index in indices]


def encode_split(name: str, corpus: Corpus) -> list[Codes]:
    """Codes `[F, K]` of all files of a split."""
    share = min(os.cpu_count() or 1, 1 + len(corpus) // FILES_PER_PROCESS)
    if share == 1:
        return encoded(name, corpus, 0, 1)
    with ProcessPoolExecutor(share, mp_context=multiprocessing.get_context("spawn")) as pool:
        parts = pool.map(encoded, [name] * share, [corpus] * share, range(share), [share] * share)
        return [codes for part in parts for codes in part]


def with_frames_before(digits: list[NDArray[np.int64]], absent: int) -> NDArray[np.int64]:
    """Digits `[F, N]` of files, each frame with those of the two before it, `[all F, 3, N]`; `absent` before a file."""
    rows = []
    for file in digits:
        padded = np.pad(file, ((FRAMES, 0), (0, 0)), constant_values=absent)
        rows.append(np.stack([padded[FRAMES - back : len(padded) - back] for back in range(FRAMES + 1)], axis=1))
    return np.concatenate(rows)


def fit(untrained: EntropyModel, frames: NDArray[np.int64], steps: int) -> EntropyModel:
    """Fit the weights by AdamW to the digits `[F, 3, N]` of frames, as numbers of levels; S stands for absent ones."""
    size = untrained.weights.shape[1]
    counts = torch.tensor([place.stop - place.start for place in untrained.places])
    digit_of = torch.repeat_interleave(torch.arange(len(counts)), counts)
    allowed = torch.ones(3 * size, size)
    allowed[:size] = (digit_of[:, None] < digit_of).float()
    weights, bias = torch.zeros(3 * size, size, requires_grad=True), torch.zeros(size, requires_grad=True)
    optimizer = torch.optim.AdamW([weights, bias], LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    data, generator = torch.from_numpy(frames), torch.Generator().manual_seed(0)
    for _ in trange(steps, desc="fitting", unit="step"):
        batch = data[torch.randint(len(data), (BATCH,), generator=generator)]
        draw = torch.rand(BATCH, generator=generator)
        batch[draw < ALONE, 2] = size
        batch[draw < ALONE / 2, 1] = size
        present = torch.zeros(BATCH, 3, size + 1).scatter_(2, batch, 1.0)[..., :size].flatten(1)
        logits = present @ (weights * allowed) + bias
        wanted = batch[:, 0]
        total = torch.stack([logits[:, place].logsumexp(1) for place in untrained.places], dim=1)
        loss = (total - logits.gather(1, wanted)).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    whole = torch.cat([bias[None], weights * allowed]).detach()
    for place in untrained.places:  # a constant in all logits of a digit changes nothing
        whole[:, place] -= whole[:, place].mean(dim=1, keepdim=True)
    rounded = (whole * UNIT / math.log(2)).round().clamp(-127, 127).to(torch.int8)
    rounded[1 : 1 + size] *= allowed[:size].to(torch.int8)
    return EntropyModel(untrained.levels, untrained.tokens_per_frame, rounded.numpy())


def bits_per_code(model: EntropyModel, files: list[Codes]) -> float:
    """Mean bits of a code, if every file is one packet."""
    bits = 0.0
    for codes in files:
        _, sizes = model.intervals(codes, codes[:0])
        bits += float((BITS - np.log2(sizes)).sum())
    return bits / sum(codes.size for codes in files)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments, train and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="name of a released model, or its folder")
    parser.add_argument("--data", type=Path, required=True, help="folder made by recipes/prepare.py")
    parser.add_argument("--steps", type=int, default=STEPS, help="(default: %(default)s)")
    args = parser.parse_args(arguments)
    try:
        model = pretrained.find(args.model)
        quantizer = model.config.quantizer
        require(quantizer.kind == "fsq", "an entropy model predicts the digits of finite scalar quantization (fsq)")
        size = sum(quantizer.levels) * quantizer.tokens_per_frame
        untrained = EntropyModel(quantizer.levels, quantizer.tokens_per_frame, np.zeros((1 + 3 * size, size), np.int8))
        splits = {split: encode_split(args.model, Corpus(args.data, split)) for split in ("train", "valid")}
        frames = with_frames_before([untrained.digits(codes) for codes in splits["train"]], size)
        fitted = fit(untrained, frames, args.steps)
        with atomic_write(model.folder / "entropy.dat") as temporary:
            temporary.write_bytes(fitted.to_bytes())
        if model.index:
            pretrained.write_index(model.folder.parent, model.config.name)
    except (InputError, OSError) as error:
        print(f"entropy: {error}", file=sys.stderr)
        return 2
    bits, stored = bits_per_code(fitted, splits["valid"]), math.log2(quantizer.codebook_size)
    print(f"{model.config.name}: {bits:.3f} bits per code in place of {stored:.0f}, {1 - bits / stored:.1%} less")
    return 0


if __name__ == "__main__":
    sys.exit(main())
