"""Files that another codec decoded, as a coder of the benchmark: their quality is measured, and no costs."""

import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import signal

from spectok.audio import list_audio, read_audio
from spectok.errors import InputError, require
from spectok.evaluation.coders import Audio, Coded
from spectok.evaluation.items import Item, checksum, read_item
from spectok.evaluation.metrics import SAMPLE_RATE
from spectok.resampling import fit_length

LENGTH_TOLERANCE = SAMPLE_RATE // 10  # samples by which a decoded file may be longer or shorter than its original
LARGEST_OFFSET = SAMPLE_RATE // 10  # samples, of those that are searched
SMALL_OFFSET = SAMPLE_RATE // 1000  # samples; smaller offsets are not reported


class DecodedFiles:
    """A codec of which only decoded files and the bitrate are known.

    Args:
        name: in the report.
        bitrate: bits per second of the payload, as the codec's author states it.
        paths: the decoded file of each original, by the original's `checksum`.
        sha256: of all files, in hexadecimal digits; if they change, they are measured again.
        offset: samples at 16 kHz by which the decoded files are later than the originals; None if it is not known.
    """

    def __init__(self, name: str, bitrate: float, paths: dict[str, Path], sha256: str, offset: int | None) -> None:
        self.name, self._bitrate, self._paths, self._sha256, self._offset = name, bitrate, paths, sha256, offset

    def code(self, audio: Audio) -> Coded:
        """The decoded file of an original [T] at 16 kHz, cut or padded with zeros to T samples.

        Raises:
            KeyError: the audio is not one of the originals.
        """
        decoded, _ = read_audio(self._paths[checksum(audio)], SAMPLE_RATE)
        bits = round(self._bitrate * len(audio) / SAMPLE_RATE)
        return Coded(fit_length(decoded, len(audio)), bits, math.nan, math.nan, math.nan)

    def facts(self) -> dict[str, Any]:
        """Bits per second, and the SHA-256 of the decoded files."""
        return {"bitrate": self._bitrate, "decoded_sha256": self._sha256}

    @property
    def notice(self) -> str | None:
        """A sentence that tells by how much the decoded files are late or early; None if they are aligned."""
        if self._offset is None or abs(self._offset) <= SMALL_OFFSET:
            return None
        side = "later" if self._offset > 0 else "earlier"
        return (
            f"{self.name}: its files are {1000 * abs(self._offset) / SAMPLE_RATE:.1f} ms {side} than the originals, "
            "which lowers metrics that compare samples or short frames; align them"
        )


def decoded_files(argument: str, items: Sequence[Item]) -> DecodedFiles:
    """The codec that `NAME=FOLDER@KBPS` describes, with a decoded file for each of the items.

    A decoded file belongs to an original if its path within the folder is the end of the original's path, both without
    suffix: `x/1.wav` and `1.flac` belong to `corpus/x/1.wav`. All are read, so that nothing is measured in vain.

    Raises:
        InputError: the argument has another form; the name, the bitrate or the folder is not valid; or an original has
            no decoded file, more than one, one of another original, or one whose length differs by more than 0.1 s.
    """
    match = re.fullmatch(r"([^=]*)=(.+)@([^@]*)", argument, re.DOTALL)
    if match is None:
        raise InputError(f"--decoded is {argument}, but must be NAME=FOLDER@KBPS, such as mine=decoded/@1.5")
    name, folder, kbps = match.groups()
    require(
        re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) is not None,
        f"--decoded {argument}: the name must begin with a letter or digit and consist of these and . _ -",
    )
    try:
        bitrate = 1000.0 * float(kbps)
    except ValueError:
        bitrate = math.nan
    require(0 < bitrate < math.inf, f"--decoded {argument}: after the @ must be a number of kbit/s above 0")
    found = list_audio(folder)
    require(bool(found), f"{folder} holds no audio files")
    digest = hashlib.sha256()
    for path in found:
        digest.update(f"{path.relative_to(folder).as_posix()}\n{path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    paths, offsets = {}, []
    for item, path in _pairs(items, found, Path(folder)):
        original, decoded = read_item(item), read_audio(path, SAMPLE_RATE)[0]
        longer = len(decoded) - len(original)
        require(
            abs(longer) <= LENGTH_TOLERANCE,
            f"{path} is {abs(longer) / SAMPLE_RATE:.2f} s {'longer' if longer > 0 else 'shorter'} than its original, "
            f"{item.path}; at most {LENGTH_TOLERANCE / SAMPLE_RATE:g} s are allowed",
        )
        paths[checksum(original)] = path
        offsets.append(offset_of(original, decoded))
    return DecodedFiles(name, bitrate, paths, digest.hexdigest(), _agreed(offsets))


def _pairs(items: Sequence[Item], found: Iterable[Path], folder: Path) -> list[tuple[Item, Path]]:
    """Each item with its decoded file."""
    by_end: dict[tuple[str, ...], list[Path]] = {}
    for path in found:
        by_end.setdefault(path.relative_to(folder).with_suffix("").parts, []).append(path)
    pairs: list[tuple[Item, Path]] = []
    owners: dict[Path, Item] = {}
    for item in items:
        parts = item.path.absolute().with_suffix("").parts
        fitting = [path for start in range(len(parts)) for path in by_end.get(parts[start:], [])]
        require(
            bool(fitting),
            f"{folder} has no file for {item.path}: it must have the same name, in the same sub-folder or none",
        )
        require(len(fitting) == 1, f"{folder} has two files for {item.path}: {', '.join(map(str, fitting[:2]))}")
        owner = owners.setdefault(fitting[0], item)
        require(owner is item, f"{fitting[0]} fits two originals, {owner.path} and {item.path}: use their sub-folders")
        pairs.append((item, fitting[0]))
    return pairs


def offset_of(original: Audio, decoded: Audio) -> int:
    """Samples by which decoded audio is later than its original, at the largest magnitude of their correlation."""
    correlation = np.abs(signal.correlate(decoded, original, method="fft"))
    lags = signal.correlation_lags(len(decoded), len(original))
    return int(lags[np.argmax(np.where(np.abs(lags) <= LARGEST_OFFSET, correlation, -1.0))])


def _agreed(offsets: Sequence[int]) -> int | None:
    """The median offset; None if most files differ from it by more than 1 ms, as those of vocoders do."""
    middle = int(np.median(offsets))
    return middle if np.mean(np.abs(np.array(offsets) - middle) <= SMALL_OFFSET) > 0.5 else None
