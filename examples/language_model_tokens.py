"""Encode a folder of speech into tokens for a language model, with one process per core.

    python examples/language_model_tokens.py CORPUS tokens.npz

The result holds one array of ids per recording, between "begin" and "end", behind the ids of the text. Ids of codes are
from TEXT_IDS on, those of special tokens follow. `tokenizer.vocabulary(TEXT_IDS).decode` makes codes of them.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from spectok import Tokenizer
from spectok.audio import list_audio

TEXT_IDS = 32_000  # size of the language model's own vocabulary


def encode(tokenizer: Tokenizer, path: Path) -> np.ndarray:
    """One recording as ids, int64 `[N + 2]`."""
    vocabulary = tokenizer.vocabulary(offset=TEXT_IDS)
    ids = vocabulary.encode(tokenizer.encode(path))
    return np.concatenate([[vocabulary.id_of("begin")], ids, [vocabulary.id_of("end")]])


def main(arguments: list[str] | None = None) -> None:
    """Encode all recordings of a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="spectok-16k-800")
    parser.add_argument("--jobs", type=int, help="processes (default: one per core)")
    args = parser.parse_args(arguments)

    tokenizer = Tokenizer.from_pretrained(args.model)
    paths = list_audio(args.corpus)
    # A tokenizer is pickled without its loaded graphs, so each process loads its own.
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        tokens = list(pool.map(partial(encode, tokenizer), paths))
    np.savez(
        args.out, **{path.relative_to(args.corpus).as_posix(): row for path, row in zip(paths, tokens, strict=True)}
    )
    print(f"{sum(map(len, tokens)):,} tokens of {len(paths)} recordings")
    print(f"vocabulary: {tokenizer.vocabulary(offset=TEXT_IDS).end_of_ids:,}")


if __name__ == "__main__":
    main()
