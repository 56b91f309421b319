"""Measure quality when packets are lost on a network, with and without redundancy.

    python benchmarks/loss.py CORPUS/test

Each frame travels in a packet of its own (spectok/network.py), without redundancy or with the frame before it repeated.
Packets are lost at random, or in bursts of three on average (the model of Gilbert). The decoder conceals what is then
missing. Scores are means over the first seconds of every fifth clean file. Writes `loss.json` beside this file;
recipes/cards.py makes the table.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spectok import Tokenizer, pretrained
from spectok.audio import list_audio, read_audio
from spectok.evaluation.erasures import lost_frames
from spectok.evaluation.metrics import SAMPLE_RATE, pesq_wb, stoi
from spectok.evaluation.provenance import weights_of, write_results
from spectok.network import Depacketizer, Packetizer

RATES = (0.0, 0.05, 0.1, 0.2, 0.4)
BURST = 3.0  # packets
EVERY, CLIP_SECONDS = 5, 6


def over_network(
    tokenizer: Tokenizer, codes: NDArray[np.int64], lost: NDArray[np.bool_], redundancy: int
) -> NDArray[np.float32]:
    """The audio at the other end of a network that loses packets.

    Args:
        tokenizer: the codec.
        codes: `[F, K]`.
        lost: which packets are lost, `[F]`.
        redundancy: how many earlier frames each packet repeats.
    """
    header = tokenizer.header(SAMPLE_RATE, None)
    sender, receiver, decoder = Packetizer(header, 1, redundancy), Depacketizer(header, 1), tokenizer.stream_decoder()
    frames = []
    for packet, is_lost in zip(sender.push(codes), lost, strict=True):
        if not is_lost:
            receiver.push(packet)
        frames.append(receiver.pull())
    _, *due = [*frames, receiver.pull()]  # the first frame is due one frame later
    return np.concatenate([decoder.push(frame.codes, frame.lost) for frame in due])


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", help="folder of speech")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="shares of packets that are lost")
    args = parser.parse_args(arguments)
    paths = list_audio(args.corpus)
    paths = [path for path in paths if "clean" in path.name] or paths
    clips = [read_audio(path, SAMPLE_RATE)[0][: CLIP_SECONDS * SAMPLE_RATE] for path in paths[::EVERY]]
    rows = []
    for name in pretrained.models():
        tokenizer = Tokenizer.from_pretrained(name)
        codes = [tokenizer.encode(clip, layout="frames") for clip in clips]
        for rate in args.rates:
            for kind, burst in (("random", 1 / (1 - rate)), ("bursts", BURST))[: 2 if rate else 1]:
                for redundancy in (0, 1):
                    scores = []
                    for n, (clip, frames) in enumerate(zip(clips, codes, strict=True)):
                        lost = lost_frames(len(frames), rate, burst, np.random.default_rng(n))
                        audio = over_network(tokenizer, frames, lost, redundancy)[: len(clip)]
                        scores.append((pesq_wb(clip, audio), stoi(clip, audio)))
                    pesq, found = (float(np.nanmean(values)) for values in zip(*scores, strict=True))
                    facts = {"model": name, "rate": rate, "kind": kind, "redundancy": redundancy}
                    rows.append({**facts, "pesq": round(pesq, 4), "stoi": round(found, 4)})
                    print(rows[-1], flush=True)
    facts = {"clips": len(clips), "burst": BURST, "rows": rows}
    write_results(Path(__file__).parent / "loss.json", facts, weights_of(pretrained.models()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
