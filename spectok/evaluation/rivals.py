"""Codecs to stand beside spectok: Codec2, through the programs of Debian's package `codec2`.

Codec2 (D. Rowe) is narrow-band: audio goes from 16 kHz to 8 kHz and back. `c2enc` drops a last part of a frame, and the
decoded audio comes late, so silence is added to the end before and the delay is cut from the start after.
"""

import math
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spectok.audio import fit_length, resample
from spectok.errors import InputError
from spectok.evaluation.coders import Audio, Coded
from spectok.evaluation.metrics import SAMPLE_RATE

CODEC2_SAMPLE_RATE = 8000


@dataclass(frozen=True)
class Codec2Mode:
    """One mode of Codec2: frame length in samples at 8 kHz, bits per frame, delay in samples at 16 kHz."""

    frame_length: int
    frame_bits: int
    delay: int


# PESQ aligns time itself, STOI does not, so each mode gets the fixed delay that is best for its STOI: the highest mean
# over ten clean utterances that are in no test set, searched from 0 to 1,280 in steps of 80, then around the best of
# these in steps of 16 (1 ms). The optimum is flat: 2 ms to either side cost at most .004 of STOI, and no single
# utterance is best more than 3 ms away. Without it STOI would fall by .17 to .24.
CODEC2_MODES = {
    "3200": Codec2Mode(160, 64, 320),
    "2400": Codec2Mode(160, 48, 320),
    "1200": Codec2Mode(320, 48, 320),
    "700C": Codec2Mode(320, 28, 480),
}


class Codec2:
    """A mode of Codec2 as a coder: "3200", "2400", "1200" or "700C".

    Its timings hold the start of a process each; its bytes are the bare frames, without header and without the 4 bits
    that `c2enc` adds to each frame of 700C.
    """

    def __init__(self, mode: str) -> None:
        if mode not in CODEC2_MODES:
            raise InputError(f"Codec2 has no mode {mode}; there are {', '.join(CODEC2_MODES)}")
        missing = [program for program in ("c2enc", "c2dec") if shutil.which(program) is None]
        if missing:
            raise InputError(f"Codec2 needs the program {missing[0]}, which comes with Debian's package codec2")
        self.mode = mode
        self.name = f"codec2-{mode}"

    def code(self, audio: Audio) -> Coded:
        """Encode and decode audio [T] at 16 kHz; what comes back has no content above 4 kHz.

        Raises:
            InputError: one of the two programs fails.
        """
        facts = CODEC2_MODES[self.mode]
        narrow = resample(audio, SAMPLE_RATE, CODEC2_SAMPLE_RATE)
        needed = math.ceil((len(audio) + facts.delay) * CODEC2_SAMPLE_RATE / SAMPLE_RATE)
        frames = math.ceil(needed / facts.frame_length)
        samples = np.clip(np.rint(fit_length(narrow, frames * facts.frame_length) * 32768.0), -32768, 32767)
        with tempfile.TemporaryDirectory() as folder:
            raw, bits, heard = (Path(folder, name) for name in ("in.raw", "bits.bin", "out.raw"))
            raw.write_bytes(samples.astype("<i2").tobytes())
            encode_seconds = self._run("c2enc", raw, bits)
            decode_seconds = self._run("c2dec", bits, heard)
            decoded = np.frombuffer(heard.read_bytes(), "<i2").astype(np.float32) / 32768.0
        wide = resample(decoded, CODEC2_SAMPLE_RATE, SAMPLE_RATE)
        num_bytes = math.ceil(frames * facts.frame_bits / 8)
        return Coded(fit_length(wide[facts.delay :], len(audio)), num_bytes, encode_seconds, decode_seconds)

    def _run(self, program: str, source: Path, destination: Path) -> float:
        start = time.perf_counter()
        done = subprocess.run([program, self.mode, str(source), str(destination)], capture_output=True, check=False)
        seconds = time.perf_counter() - start
        if done.returncode != 0 or not destination.is_file():
            raise InputError(f"{program} failed in mode {self.mode}: {done.stderr.decode(errors='replace').strip()}")
        return seconds

    def facts(self) -> dict[str, Any]:
        """Sample rate in Hz, nominal bits per second, and the delay taken off, in samples at 16 kHz."""
        mode = CODEC2_MODES[self.mode]
        bitrate = mode.frame_bits * CODEC2_SAMPLE_RATE / mode.frame_length
        return {"sample_rate": CODEC2_SAMPLE_RATE, "bitrate": bitrate, "delay_samples": mode.delay}


def rival(name: str) -> Codec2:
    """The rival of that name: "codec2-3200", "codec2-2400", "codec2-1200" or "codec2-700C".

    Raises:
        InputError: there is no such rival, or its programs are not installed.
    """
    family, _, mode = name.partition("-")
    if family != "codec2":
        raise InputError(f"there is no rival {name}; there are {', '.join(f'codec2-{mode}' for mode in CODEC2_MODES)}")
    return Codec2(mode)
