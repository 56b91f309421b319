"""Kill live encodings at random moments, and count what is lost.

    python benchmarks/kills.py --kills 200

Each time, a process encodes a recording that arrives over a pipe into packets of 20 ms, and gets SIGKILL at a random
moment of its work. Every packet that is whole in the file must hold the right codes; only the last one may be cut off.
Writes `kills.json` beside this file; recipes/cards.py makes the table.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spectok import InputError, Tokenizer
from spectok.audio import read_audio
from spectok.container import Reader
from spectok.evaluation.provenance import weights_of, write_results

SPEECH = Path(__file__).parent.parent / "tests" / "data" / "librispeech_84_16k.flac"
MODEL = "spectok-16k-800"
SECONDS = 10  # of speech that each process is given
HEADER_BYTES, PACKET_BYTES = 26, 7  # of a file with a frame in each packet


def kill_one(path: Path, codes: NDArray[np.int64], speech: NDArray[np.float32], seconds: float) -> int:
    """Kill an encoder `seconds` after its first byte; returns the number of packets that it had written.

    Args:
        path: of the file that it writes.
        codes: of `SECONDS` of the speech, repeated.
        speech: float32 `[T]` at 16 kHz.
        seconds: between the first byte and the kill.

    Raises:
        InputError: more than the packet in flight is lost, or a packet holds other codes.
    """
    command = [sys.executable, "-m", "spectok", "encode", "-", "-", "--raw", "--packet-ms", "20", "--model", MODEL]
    audio = np.rint(32768 * np.resize(speech, SECONDS * 16000)).astype("<i2").tobytes()
    with (
        open(path, "wb") as sink,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=sink, stderr=subprocess.DEVNULL, bufsize=0) as process,
    ):
        assert process.stdin is not None
        process.stdin.write(audio[:640])  # wakes it up
        while not path.stat().st_size and process.poll() is None:
            time.sleep(0.001)
        os.set_blocking(process.stdin.fileno(), False)
        ends, sent = time.monotonic() + seconds, 640
        while time.monotonic() < ends:  # the pipe holds 2 s; the process is fast
            sent += process.stdin.write(audio[sent : sent + 3200]) or 0
            time.sleep(0.0005)
        process.kill()
    size = path.stat().st_size
    whole = max(0, size - HEADER_BYTES) // PACKET_BYTES
    if process.returncode != -signal.SIGKILL or size < HEADER_BYTES:
        raise InputError(f"the process ended with {process.returncode} after {size} bytes, before it was killed")
    with Reader(path, recover=True) as reader:
        packets = list(reader)
    read = np.concatenate([np.zeros(0, np.int64), *(packet.codes for packet in packets)])
    if len(packets) != whole or np.count_nonzero(read != codes[: len(read)]) > 2:  # rounding may flip a code
        raise InputError(f"of {whole} packets in the file, {len(packets)} are intact")
    return len(packets)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments, kill and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    args = parser.parse_args(arguments)
    speech, _ = read_audio(SPEECH)
    codes = Tokenizer.from_pretrained(MODEL).encode(np.resize(speech, SECONDS * 16000))
    moments = random.Random(args.seed)
    packets = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.kills):
            try:
                packets.append(kill_one(Path(folder) / "live.spt", codes, speech, moments.uniform(0.0, 0.4)))
            except InputError as error:
                print(f"kill {number}: {error}", file=sys.stderr)
                return 2
    found = {"seed": args.seed, "kills": args.kills, "packets": packets}
    write_results(Path(__file__).parent / "kills.json", found, weights_of([MODEL]))
    print(f"{len(packets)} kills, after {min(packets)} to {max(packets)} packets of 20 ms: none of {sum(packets)} lost")
    return 0


if __name__ == "__main__":
    sys.exit(main())
