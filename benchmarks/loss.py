"""Measure quality when packets are lost on a network, with and without redundancy, beside Opus with its concealment.

    python benchmarks/loss.py CORPUS/test

Each frame of 20 ms travels in a packet of its own: the released models' in the packets of spectok/network.py, without
redundancy or with the frame before it repeated, and Opus' in packets of libopus. Opus at 6 kbit/s is the nearest to the
models; it has too few bits for the redundancy that its encoder has, so that each packet repeats the one before. The
encoder's own redundancy is measured at 18 kbit/s, the lowest rate at which it appears when a tenth of the packets is
lost. Without libopus, Opus is left out.

Packets are lost at random, or in bursts of three on average (the model of Gilbert), the same ones for every codec. The
decoder conceals what is then missing. Scores are means over the first seconds of every fifth clean file, DistillMOS
over every second of these. Bits per second are those of whole packets, without the headers of RTP, UDP and IP. Writes
`loss.json` beside this file; recipes/cards.py makes the tables and the figure.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks import opus
from benchmarks.clips import clean_speech
from spectok import Tokenizer, pretrained
from spectok.evaluation.erasures import lost_frames
from spectok.evaluation.metrics import SAMPLE_RATE, pesq_wb, stoi
from spectok.evaluation.provenance import weights_of, write_results
from spectok.network import Depacketizer, Packetizer

RATES = (0.0, 0.05, 0.1, 0.2, 0.4)
BURST = 3.0  # packets
EVERY, CLIP_SECONDS = 5, 6
JUDGED_EVERY = 2  # of the clips, because DistillMOS takes the longest
FRAME_SECONDS = 0.02
OPUS = {"opus-6": (6000, False), "opus-18": (18000, True)}  # bits per second, whether redundancy is the encoder's own

Audio = NDArray[np.float32]


class Coder(Protocol):
    """A codec with packets of 20 ms."""

    def encode(self, audio: Audio, rate: float) -> list[bytes]:
        """The packets of audio `[T]` at 16 kHz for a network that loses that share of them."""

    def decode(self, packets: list[bytes], lost: NDArray[np.bool_]) -> Audio:
        """The audio `[T]`, at least as long as the original, of packets of which those in `lost`, `[F]`, are lost."""


@dataclass(frozen=True)
class Model:
    """A released model, and how many earlier frames each packet repeats."""

    tokenizer: Tokenizer
    redundancy: int

    def encode(self, audio: Audio, rate: float) -> list[bytes]:
        """The packets of audio `[T]`; they do not depend on the share of lost packets."""
        header = self.tokenizer.header(SAMPLE_RATE, None)
        return Packetizer(header, 1, self.redundancy).push(self.tokenizer.encode(audio, layout="frames"))

    def decode(self, packets: list[bytes], lost: NDArray[np.bool_]) -> Audio:
        """The audio `[T]` of packets of which those in `lost`, `[F]`, are lost."""
        receiver = Depacketizer(self.tokenizer.header(SAMPLE_RATE, None), 1)
        decoder, frames = self.tokenizer.stream_decoder(), []
        for packet, is_lost in zip(packets, lost, strict=True):
            if not is_lost:
                receiver.push(packet)
            frames.append(receiver.pull())
        _, *due = [*frames, receiver.pull()]  # the first frame is due one frame later
        return np.concatenate([decoder.push(frame.codes, frame.lost) for frame in due])


def coders() -> dict[str, tuple[Coder, Coder]]:
    """Each codec without and with redundancy, by its name."""
    found: dict[str, tuple[Coder, Coder]] = {}
    for name in pretrained.models():
        tokenizer = Tokenizer.from_pretrained(name)
        found[name] = Model(tokenizer, 0), Model(tokenizer, 1)
    if opus.library() is not None:
        for name, (bitrate, in_band) in OPUS.items():
            found[name] = opus.Opus(bitrate, 0, in_band), opus.Opus(bitrate, 1, in_band)
    return found


def measure(
    coder: Coder, clips: Sequence[Audio], rate: float, burst: float, judge: Callable[[Audio], float]
) -> dict[str, float]:
    """Bits per second and mean scores of a codec; clip number n loses the packets that seed n gives.

    Args:
        coder: the codec.
        clips: speech `[T]` at 16 kHz.
        rate: share of the packets that are lost.
        burst: how many packets are lost in a row on average.
        judge: returns the DistillMOS of audio `[T]`.
    """
    scores: dict[str, list[float]] = {"pesq": [], "stoi": [], "distillmos": []}
    count = num_bytes = 0
    for n, clip in enumerate(clips):
        packets = coder.encode(clip, rate)
        count, num_bytes = count + len(packets), num_bytes + sum(map(len, packets))
        audio = coder.decode(packets, lost_frames(len(packets), rate, burst, np.random.default_rng(n)))[: len(clip)]
        scores["pesq"].append(pesq_wb(clip, audio))
        scores["stoi"].append(stoi(clip, audio))
        if n % JUDGED_EVERY == 0:
            scores["distillmos"].append(judge(audio))
    means = {name: round(float(np.nanmean(values)), 4) for name, values in scores.items()}
    return {"bits_per_second": round(8 * num_bytes / (count * FRAME_SECONDS)), **means}


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", help="folder of speech")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="shares of packets that are lost")
    args = parser.parse_args(arguments)
    import torch

    from spectok.evaluation.judges import distillmos_of

    torch.set_num_threads(1)
    if opus.library() is None:
        print(opus.MISSING, file=sys.stderr)
    clips = [speech[: CLIP_SECONDS * SAMPLE_RATE] for speech in clean_speech(args.corpus, EVERY)]
    rows: list[dict[str, Any]] = []
    for name, versions in coders().items():
        for rate in args.rates:
            for kind, burst in (("random", 1 / (1 - rate)), ("bursts", BURST))[: 2 if rate else 1]:
                for redundancy, coder in enumerate(versions):
                    facts = {"model": name, "rate": rate, "kind": kind, "redundancy": redundancy}
                    rows.append(facts | measure(coder, clips, rate, burst, distillmos_of))
                    print(rows[-1], flush=True)
    version = None if opus.library() is None else opus.library().opus_get_version_string().decode()
    sizes = {"clips": len(clips), "judged": len(clips[::JUDGED_EVERY])}
    results = {**sizes, "burst": BURST, "opus": version, "rows": rows}
    write_results(Path(__file__).parent / "loss.json", results, weights_of(pretrained.models()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
