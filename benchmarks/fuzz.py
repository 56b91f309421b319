"""Mutate valid inputs at random, and check that each is read as good or refused with one `InputError`.

    python benchmarks/fuzz.py --seconds 180 --seed 0

The inputs are .spt files of both versions, network packets, strings of packed codes, WAV files, `config.json`,
`index.toml` and ONNX graphs. Half of the mutated .spt files get a true checksum of the header, so that its fields reach
the checks behind.
Another exception than `InputError` ends the run: its seed and the number of the execution repeat it.
Writes `fuzz.json` beside this file.
"""

import argparse
import dataclasses
import io
import random
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from spectok import InputError, pretrained
from spectok.audio import AudioReader
from spectok.config import CodecConfig
from spectok.container import Header, Reader, read_spt, write_spt
from spectok.container.parts import unpack_codes
from spectok.evaluation.provenance import write_results
from spectok.graphs import check_graph, read_graph
from spectok.network import Depacketizer, Packetizer
from spectok.samples import MAX_PEAK
from spectok.wav import wav_header

FORMAT = Path(__file__).parent.parent / "tests" / "data" / "format"
TINY = Header("tiny", "0123456789abcdef", 16000, 1024, 2, 2, 900, "a1b2c3d4")
PACKET = Packetizer(TINY, frames=2).push(np.array([1, 1023, 512, 5]))[0]
Read = Callable[[bytes, random.Random], None]


def mutated(content: bytes, draw: random.Random) -> bytes:
    """The content with one to four changes: bytes that are replaced, removed, repeated, inserted, or cut off."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        start = draw.randint(0, len(data))
        stop = min(len(data), start + draw.choice((1, 1, 2, 4, 8, 64)))
        change = draw.randrange(6)
        if change == 0:
            data[start:stop] = draw.randbytes(stop - start)
        elif change == 1:
            data[start:stop] = bytes([draw.choice((0, 1, 127, 128, 255))]) * (stop - start)
        elif change == 2:
            del data[start:stop]
        elif change == 3:
            data[start:start] = data[start:stop] * draw.choice((1, 2, 100))
        elif change == 4:
            data[start:start] = draw.choice((b"[", b"{", b'"', b"-1", b"1e999", b"null", b"\0", b"9" * 20))
        elif draw.randrange(4) == 0:
            del data[start:]
    return bytes(data)


def _spt(content: bytes, draw: random.Random) -> None:
    end = draw.choice((22, 22 + len(TINY.model)))  # of the headers in version 2, before their checksums
    if draw.randrange(2):
        content = content[:end] + zlib.crc32(content[:end]).to_bytes(4, "little") + content[end + 4 :]
    header, codes = read_spt(io.BytesIO(content))
    assert codes.size == 0 or 0 <= codes.min() <= codes.max() < header.codebook_size


def _damaged_spt(content: bytes, _: random.Random) -> None:
    with Reader(io.BytesIO(content), recover=True) as reader:
        for packet in reader:
            assert packet.codes.max() < reader.header.codebook_size


def _bits(content: bytes, draw: random.Random) -> None:
    header = dataclasses.replace(TINY, codebook_size=draw.randint(2, 1 << 17))
    count = 8 * len(content) // header.bits_per_code
    codes = unpack_codes(content, count, header, "the string")
    assert len(codes) == count and (count == 0 or codes.max() < header.codebook_size)


def _wav(content: bytes, _: random.Random) -> None:
    with AudioReader(io.BytesIO(content)) as reader:
        for block in reader:
            assert np.abs(block).max() <= MAX_PEAK


def _graph(content: bytes, _: random.Random) -> None:
    try:
        read_graph(content)
        check_graph(content, 320, 8)
    except ValueError as error:  # which the engine turns into an InputError
        raise InputError(str(error)) from error


def _network(content: bytes, _: random.Random) -> None:
    buffer = Depacketizer(TINY, delay=0)
    buffer.push(PACKET)
    try:
        buffer.push(content)
    finally:  # which stays as it was if the packet is refused
        codes, lost = buffer.pull(4)
        assert not lost[0] and codes.min() >= 0 and codes.max() < TINY.codebook_size


def _targets(folder: Path) -> dict[str, tuple[list[bytes], Read]]:
    """For each kind of input, valid ones and the function that reads it; `folder` is for those that must be files."""

    def config(content: bytes, _: random.Random) -> None:
        (folder / "config.json").write_bytes(content)
        found = CodecConfig.load(folder / "config.json")
        assert found.frame_length > 0 and found.latency_samples > 0

    def index(content: bytes, _: random.Random) -> None:
        (folder / "index.toml").write_bytes(content)
        assert all(set(hashes) <= set(pretrained.FILES) for hashes in pretrained.read_index(folder).values())

    models = [pretrained.find(name) for name in pretrained.models()]
    tiny = io.BytesIO()
    write_spt(tiny, TINY, np.array([1, 1023, 512, 5, 7, 700]))
    spt = [tiny.getvalue(), *(path.read_bytes() for path in sorted(FORMAT.glob("*.spt")))]
    samples = np.arange(-150, 150, dtype="<i2").tobytes()
    return {
        ".spt": (spt, _spt),
        ".spt, recovered": (spt, _damaged_spt),
        "network packet": ([PACKET, bytes([2]) + PACKET[1:]], _network),
        "bits": ([bytes(range(64))], _bits),
        "WAV": ([wav_header(16000, 300) + samples, wav_header(44100, None) + samples], _wav),
        "config.json": ([model.read("config.json") for model in models], config),
        "index.toml": ([(pretrained.root() / "index.toml").read_bytes()], index),
        "ONNX": ([models[0].read("encoder.onnx")], _graph),
    }


def fuzz(seed: int, seconds: float = float("inf"), executions: int | None = None) -> dict[str, dict[str, int]]:
    """Run mutations until the time is over or the number is reached.

    Args:
        seed: of all mutations.
        seconds: how long.
        executions: how many, over all kinds of inputs; None: no limit.

    Returns:
        For each kind of input the numbers of "executions" and of those that were "refused".

    Raises:
        RuntimeError: an input gave another exception than an InputError.
    """
    ends, number = time.monotonic() + seconds, 0
    with tempfile.TemporaryDirectory() as folder:
        targets = _targets(Path(folder))
        counts = {name: {"executions": 0, "refused": 0} for name in targets}
        while time.monotonic() < ends and (executions is None or number < executions):
            draw = random.Random(f"{seed} {number}")
            name = list(targets)[number % len(targets)]
            contents, read = targets[name]
            try:
                read(mutated(draw.choice(contents), draw), draw)
            except InputError:
                counts[name]["refused"] += 1
            except Exception as error:
                raise RuntimeError(f"{name}, seed {seed}, execution {number}: {error!r}") from error
            counts[name]["executions"] += 1
            number += 1
    return counts


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments, run, and print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="how long (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations (default: %(default)s)")
    args = parser.parse_args(arguments)
    counts = fuzz(args.seed, args.seconds)
    found = {"seed": args.seed, "seconds": args.seconds, "inputs": counts}
    write_results(Path(__file__).parent / "fuzz.json", found, {})
    for name, count in counts.items():
        print(f"{name:<16}{count['executions']:>9} executions, {count['refused']} refused")
    print(f"{sum(count['executions'] for count in counts.values())} executions, no other exception than InputError")
    return 0


if __name__ == "__main__":
    sys.exit(main())
