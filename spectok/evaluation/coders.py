"""The `Coder` protocol, which evaluation and benchmark call, and its implementation by spectok.

Conventions: a coder takes audio [T] at 16 kHz and returns as many samples, with its own delay removed. Seconds are
wall-clock time. There are two sizes, by the same rule for every coder: `payload_bits` counts the codes or frames alone,
without container, headers and padding to whole bytes; `num_bytes` is the size of the file that the coder writes, with
its container. A coder that writes no file has no such size.
"""

import io
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from spectok.evaluation.metrics import SAMPLE_RATE
from spectok.pretrained import find
from spectok.resampling import resample, restore

if TYPE_CHECKING:
    from spectok.tokenizer import Tokenizer

Audio = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int64]
WAV_HEADER_BYTES = 44


@dataclass(frozen=True)
class Coded:
    """The output of a coder for one file."""

    audio: Audio  # decoded, [T] at 16 kHz, as long as the input
    payload_bits: int
    num_bytes: float  # on disk; NaN if the coder has no file format
    encode_seconds: float  # NaN if it was not measured
    decode_seconds: float
    codes: Codes | None = None  # [N]


class Coder(Protocol):
    """Anything whose quality can be measured: spectok, a rival, files decoded elsewhere, or a reference condition."""

    @property
    def name(self) -> str:
        """The name in the report; the coders of one evaluation have different names."""

    def code(self, audio: Audio) -> Coded:
        """Encode and decode audio [T] at 16 kHz, with the coder's own delay removed."""

    def facts(self) -> dict[str, Any]:
        """Facts about the coder for the report; `codebook_size` is required if `code` returns codes."""


@runtime_checkable
class Runnable(Coder, Protocol):
    """A coder that codes any audio, also from a command line, so that its costs can be measured."""

    def commands(self, source: Path, coded: Path, out: Path) -> tuple[list[str], list[str]]:
        """The command line that encodes the WAV file `source` at 16 kHz, and the one that decodes it to `out`."""


class SpectokCoder:
    """A `Tokenizer` as a coder. Its file is a .spt file, and its timings do not include resampling.

    Args:
        tokenizer: encodes and decodes.
        name: in the report.
        more: facts in addition to the tokenizer's own: `weights`, the SHA-256 of its weights, `parameters`, `macs`
            per second.
    """

    def __init__(self, tokenizer: "Tokenizer", name: str = "spectok", more: dict[str, Any] | None = None) -> None:
        self.tokenizer, self.name, self._more = tokenizer, name, more or {}

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path,
        device: str = "cpu",
        engine: str | None = None,
        threads: int | None = None,
        more: dict[str, Any] | None = None,
    ) -> "SpectokCoder":
        """A model as a coder with the model's name; the arguments are those of `Tokenizer.from_pretrained`."""
        from spectok.tokenizer import Tokenizer

        tokenizer = Tokenizer.from_pretrained(name_or_folder, device, engine, threads)
        return cls(tokenizer, tokenizer.config.name, {"weights": find(name_or_folder).sha256} | (more or {}))

    def code(self, audio: Audio) -> Coded:
        """Encode and decode audio [T] at 16 kHz, which is resampled to the tokenizer's sample rate and back."""
        rate = self.tokenizer.sample_rate
        given = resample(audio, SAMPLE_RATE, rate)
        start = time.perf_counter()
        codes = self.tokenizer.encode(given)
        middle = time.perf_counter()
        decoded = self.tokenizer.decode(codes, length=len(given))
        end = time.perf_counter()
        destination = io.BytesIO()
        self.tokenizer.save(destination, codes, len(audio), SAMPLE_RATE)
        heard = restore(decoded, rate, SAMPLE_RATE, len(audio))
        bits = len(codes) * (self.tokenizer.codebook_size - 1).bit_length()
        return Coded(heard, bits, len(destination.getvalue()), middle - start, end - middle, codes)

    def facts(self) -> dict[str, Any]:
        """The tokenizer's rates and sizes, its engine, and the facts in `more`."""
        names = ("sample_rate", "frame_rate", "token_rate", "tokens_per_frame", "codebook_size", "bitrate")
        facts = {name: getattr(self.tokenizer, name) for name in names}
        return facts | {"engine": self.tokenizer.engine.name} | self._more

    def commands(self, source: Path, coded: Path, out: Path) -> tuple[list[str], list[str]]:
        """`spectok encode` and `spectok decode` with the model's name."""
        spectok, model = [sys.executable, "-m", "spectok"], ["--model", self.tokenizer.config.name]
        return [*spectok, "encode", str(source), f"{coded}.spt", *model], [*spectok, "decode", f"{coded}.spt", str(out)]


class Uncoded:
    """The original itself, as a WAV file with 16 bits per sample: the reference for metrics that use no original."""

    name = "original"

    def code(self, audio: Audio) -> Coded:
        """Return the audio [T] unchanged."""
        return Coded(audio, 16 * len(audio), WAV_HEADER_BYTES + 2 * len(audio), 0.0, 0.0)

    def facts(self) -> dict[str, Any]:
        """Sample rate in Hz and bits per second."""
        return {"sample_rate": SAMPLE_RATE, "bitrate": 16.0 * SAMPLE_RATE}

    def commands(self, source: Path, coded: Path, out: Path) -> tuple[list[str], list[str]]:
        """Commands that copy the file."""
        return ["cp", str(source), str(coded)], ["cp", str(coded), str(out)]
