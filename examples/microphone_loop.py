"""Run the loop of a live application on a file: chunks go in as a microphone gives them, audio comes out.

    python examples/microphone_loop.py speech.wav heard.wav --chunk 480

The file may have any sample rate, for the sessions resample. The output has the file's length.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import soundfile

from spectok import Tokenizer


def main(arguments: list[str] | None = None) -> None:
    """Push a file through an encoder and a decoder, chunk by chunk."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--chunk", type=int, default=480, help="samples in a chunk (default: %(default)s)")
    parser.add_argument("--model", default="spectok-16k-4k")
    args = parser.parse_args(arguments)

    info = soundfile.info(args.source)
    tokenizer = Tokenizer.from_pretrained(args.model)
    encoder = tokenizer.stream_encoder(sample_rate=info.samplerate)
    decoder = tokenizer.stream_decoder(sample_rate=info.samplerate)

    codes, heard, slowest = [], [], 0.0
    for chunk in soundfile.blocks(args.source, blocksize=args.chunk, dtype="float32"):
        start = time.perf_counter()
        codes.append(encoder.push(chunk))  # this is what would be sent
        heard.append(decoder.push(codes[-1]))
        slowest = max(slowest, time.perf_counter() - start)
    codes.append(encoder.flush())
    heard += [decoder.push(codes[-1]), decoder.flush()]

    soundfile.write(args.out, np.concatenate(heard)[: info.frames], info.samplerate)
    bits = sum(map(len, codes)) * np.log2(tokenizer.codebook_size)
    print(f"at most {1000 * encoder.latency_samples / info.samplerate:.0f} ms of algorithmic delay")
    print(f"{bits / info.duration / 1000:.1f} kbit/s, slowest chunk {1000 * slowest:.1f} ms")


if __name__ == "__main__":
    main()
