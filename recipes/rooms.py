"""Add impulse responses of simulated rooms to a prepared folder, as its split `rooms`, for `data.room_share`.

    python recipes/rooms.py PREPARED --rooms 200

Each is a box of random size and absorption with a speaker and a microphone at random places, simulated by the image
source method (pyroomacoustics, R. Scheibler et al., arXiv 1710.04196). A response begins with the direct sound, which
is its largest sample, and ends after half a second.
"""

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recipes.prepare import write_manifest
from spectok.errors import InputError
from spectok.files import atomic_write
from spectok.training.corpus import Corpus

SECONDS = 0.5  # length of a response
SIZE = ((3.0, 3.0, 2.4), (9.0, 8.0, 3.5))  # smallest and largest room, metres
DECAY = (0.15, 0.7)  # shortest and longest reverberation time (T60), seconds
DISTANCE = (0.3, 2.5)  # nearest and farthest speaker, metres


def response(sample_rate: int, rng: np.random.Generator) -> NDArray[np.int16]:
    """The impulse response of a random room, int16 `[SECONDS * sample_rate]`."""
    import pyroomacoustics

    while True:
        size = rng.uniform(*np.array(SIZE))
        microphone = rng.uniform(0.5, size - 0.5)
        direction = rng.standard_normal(3) * (1, 1, 0.2)
        speaker = microphone + direction / np.linalg.norm(direction) * rng.uniform(*DISTANCE)
        if not ((speaker > 0.3) & (speaker < size - 0.3)).all():
            continue
        try:
            absorption, order = pyroomacoustics.inverse_sabine(rng.uniform(*DECAY), size)
        except ValueError:  # no absorption makes a room of this size so dry
            continue
        room = pyroomacoustics.ShoeBox(
            size, fs=sample_rate, materials=pyroomacoustics.Material(absorption), max_order=min(order, 20)
        )
        room.add_source(speaker)
        room.add_microphone(microphone)
        room.compute_rir()
        whole = np.asarray(room.rir[0][0])
        first = int(np.abs(whole).argmax())
        part = np.zeros(round(SECONDS * sample_rate))
        kept = whole[first : first + len(part)]
        part[: len(kept)] = kept / kept[0]
        return np.round(0.9 * 32767 * part).astype("<i2")


def add_rooms(prepared: Path, count: int, seed: int = 0) -> None:
    """Write the split `rooms` of a prepared folder; an earlier one is replaced."""
    sample_rate = Corpus(prepared, "train").sample_rate
    rng = np.random.default_rng(seed)
    responses = [response(sample_rate, rng) for _ in range(count)]
    with atomic_write(prepared / "rooms.i16") as temporary:
        Path(temporary).write_bytes(b"".join(one.tobytes() for one in responses))
    with open(prepared / "manifest.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] != "rooms"]
    length = len(responses[0])
    write_manifest(
        prepared,
        rows
        + [
            {"file": f"room {n}", "split": "rooms", "source": "simulated", "start": n * length, "samples": length}
            | {"sample_rate": sample_rate}
            for n in range(count)
        ],
    )


def main() -> int:
    """Parse the arguments and simulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path, help="folder made by recipes/prepare.py")
    parser.add_argument("--rooms", type=int, default=200, help="number of rooms (default: %(default)s)")
    args = parser.parse_args()
    try:
        add_rooms(args.prepared, args.rooms)
    except InputError as error:
        print(f"rooms: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
