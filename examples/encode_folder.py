"""Encode a folder in padded batches and keep each recording as a .spt file.

    python examples/encode_folder.py CORPUS CODES --batch 16

Recordings of similar length share a batch. Padding at the end changes no code of the recording before it.
"""

import argparse
from pathlib import Path

import numpy as np

from spectok import Tokenizer
from spectok.audio import list_audio, read_audio


def main(arguments: list[str] | None = None) -> None:
    """Encode all recordings of a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--batch", type=int, default=16, help="recordings in a batch (default: %(default)s)")
    parser.add_argument("--model", default="spectok-16k-4k")
    args = parser.parse_args(arguments)

    tokenizer = Tokenizer.from_pretrained(args.model)
    recordings = [(path, read_audio(path, tokenizer.sample_rate)[0]) for path in list_audio(args.corpus)]
    recordings.sort(key=lambda recording: len(recording[1]))
    args.out.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(recordings), args.batch):
        rows = recordings[start : start + args.batch]
        batch = np.zeros((len(rows), max(len(audio) for _, audio in rows)), np.float32)
        for padded, (_, audio) in zip(batch, rows, strict=True):
            padded[: len(audio)] = audio
        for codes, (path, audio) in zip(tokenizer.encode(batch), rows, strict=True):
            frames = tokenizer.config.num_frames(len(audio))
            name = path.relative_to(args.corpus).with_suffix(".spt")
            (args.out / name).parent.mkdir(parents=True, exist_ok=True)
            tokenizer.save(args.out / name, codes[: frames * tokenizer.tokens_per_frame], length=len(audio))
    print(f"{len(recordings)} recordings in {args.out}")


if __name__ == "__main__":
    main()
