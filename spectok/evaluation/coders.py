"""What can be measured: the `Coder` protocol, and spectok itself as one.

Conventions: a coder takes audio [T] at 16 kHz and gives back as many samples, with its own delay taken off. Its bytes
are those on disk, header included; its seconds are those of a wall clock.
"""

import io
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from spectok.audio import resample, restore
from spectok.evaluation.metrics import SAMPLE_RATE
from spectok.pretrained import find

if TYPE_CHECKING:
    from spectok.tokenizer import Tokenizer

Audio = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Coded:
    """What a coder made of one file: audio [T] at 16 kHz, as long as its input, what it cost, and codes [N] or None."""

    audio: Audio
    num_bytes: int
    encode_seconds: float
    decode_seconds: float
    codes: Codes | None = None


class Coder(Protocol):
    """Anything that can be measured: spectok, a rival, or a reference condition."""

    @property
    def name(self) -> str:
        """What the report calls it; no two coders of one evaluation share a name."""

    def code(self, audio: Audio) -> Coded:
        """Encode and decode audio [T] at 16 kHz, giving it back with the coder's own delay taken off."""

    def facts(self) -> dict[str, Any]:
        """What the report should say about the coder; `codebook_size` is needed where `code` gives codes."""

    def commands(self, source: Path, coded: Path, out: Path) -> tuple[list[str], list[str]]:
        """The command lines that encode a wav file at 16 kHz and decode what came of it, in processes of their own."""


class SpectokCoder:
    """A `Tokenizer` as a coder; its bytes are those of the .spt file, resampling is left out of its timings.

    Args:
        tokenizer: what codes.
        name: in the report.
        more: facts to tell besides the tokenizer's own: `weights`, the SHA-256 of its weights, `parameters`, `macs`
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
        """A model as a coder of its name; the arguments are those of `Tokenizer.from_pretrained`."""
        from spectok.tokenizer import Tokenizer

        tokenizer = Tokenizer.from_pretrained(name_or_folder, device, engine, threads)
        return cls(tokenizer, tokenizer.config.name, {"weights": find(name_or_folder).sha256} | (more or {}))

    def code(self, audio: Audio) -> Coded:
        """Encode and decode audio [T] at 16 kHz, at the tokenizer's own sample rate in between."""
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
        return Coded(heard, len(destination.getvalue()), middle - start, end - middle, codes)

    def facts(self) -> dict[str, Any]:
        """The tokenizer's rates: Hz, tokens and bits per second; sizes as counts; what it ran on."""
        names = ("sample_rate", "frame_rate", "token_rate", "tokens_per_frame", "codebook_size", "bitrate")
        facts = {name: getattr(self.tokenizer, name) for name in names}
        return facts | {"engine": self.tokenizer.engine.name} | self._more

    def commands(self, source: Path, coded: Path, out: Path) -> tuple[list[str], list[str]]:
        """The command line, by the model's name."""
        spectok, model = [sys.executable, "-m", "spectok"], ["--model", self.tokenizer.config.name]
        return [*spectok, "encode", str(source), f"{coded}.spt", *model], [*spectok, "decode", f"{coded}.spt", str(out)]


class Uncoded:
    """The original itself, at 16 bits a sample: what metrics without an original say of it."""

    name = "original"

    def code(self, audio: Audio) -> Coded:
        """Audio [T], untouched."""
        return Coded(audio, 2 * len(audio), 0.0, 0.0)

    def facts(self) -> dict[str, Any]:
        """Sample rate in Hz and bits per second."""
        return {"sample_rate": SAMPLE_RATE, "bitrate": 16.0 * SAMPLE_RATE}

    def commands(self, source: Path, coded: Path, out: Path) -> tuple[list[str], list[str]]:
        """Copies."""
        return ["cp", str(source), str(coded)], ["cp", str(coded), str(out)]
