"""Codecs that the benchmark compares with spectok, run by the command-line programs of Debian's packages.

| rival | package | codec |
|---|---|---|
| codec2-3200, -2400, -1200, -700C | codec2 | Codec2 (D. Rowe), narrow-band |
| opus-6, -8, -12 | opus-tools | Opus (RFC 6716) at its defaults, target in kbit/s |
| speex-4, -6, -8, -10, -13 | speex | Speex in wide-band at its qualities 0 to 4, about as many kbit/s as in the name |
| lc3-16 | liblc3-tools | LC3 (Bluetooth LE Audio) in frames of 10 ms at its lowest rate |

A rival's payload is its frames or packets, without the headers of files and pages; its bytes on disk are those of the
file that its program writes. Its timings include the start of a process. If the decoded audio of a program is late by a
fixed delay, that much silence is appended before encoding, and cut from the start after decoding.
"""

import math
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spectok.audio import read_audio, write_audio
from spectok.errors import InputError
from spectok.evaluation.coders import Audio, Coded
from spectok.evaluation.metrics import SAMPLE_RATE
from spectok.resampling import fit_length, resample
from spectok.samples import check_audio, to_int16


@dataclass(frozen=True)
class Rival:
    """A codec that consists of two programs, as a coder. In the commands `IN`, `CODED` and `OUT` stand for files."""

    name: str
    package: str  # of Debian
    encoder: str  # command line
    decoder: str
    bitrate: float  # nominal bits per second
    payload: Callable[[bytes, int], int]  # bits of the first frames in a coded file, given their number
    sample_rate: int = SAMPLE_RATE  # of the programs
    frame_length: int = 320  # samples at that rate: the input is padded to whole frames
    least_frames: int = 0  # and to at least this number of frames, of which the additional ones do not count
    # PESQ aligns time itself, STOI does not, so Codec2 gets the fixed delay with the best STOI: the highest mean over
    # ten clean utterances that are in no test set, searched from 0 to 1,280 in steps of 80, then around the best of
    # these in steps of 16 (1 ms). The optimum is flat: 2 ms to either side cost at most .004 of STOI, and the best
    # delay of each single utterance is within 3 ms. Without it STOI would be .17 to .24 lower. The other decoders
    # remove their delay; with delays of up to 2 ms (all but Opus 12), STOI of two utterances gained at most .004.
    delay: int = 0  # samples at 16 kHz

    def code(self, audio: Audio) -> Coded:
        """Encode and decode audio [T] at 16 kHz.

        Raises:
            InputError: one of the two programs fails.
        """
        narrow = resample(audio, SAMPLE_RATE, self.sample_rate)
        needed = math.ceil((len(audio) + self.delay) * self.sample_rate / SAMPLE_RATE)
        frames = math.ceil(needed / self.frame_length)
        padded = fit_length(narrow, max(frames, self.least_frames) * self.frame_length)
        with tempfile.TemporaryDirectory() as folder:
            files = {"IN": Path(folder, "in.wav"), "CODED": Path(folder, "coded"), "OUT": Path(folder, "out.wav")}
            encode_seconds = self._encode(files, padded)
            decode_seconds = _run(self.decoder, files, "OUT")
            payload_bits = self.payload(files["CODED"].read_bytes(), frames)
            decoded = check_audio(np.fromfile(files["OUT"], "<i2")) if self._is_raw else read_audio(files["OUT"])[0]
            if frames < self.least_frames:  # the size on disk is that of a file without the additional frames
                self._encode(files, fit_length(narrow, frames * self.frame_length))
            num_bytes = files["CODED"].stat().st_size
        wide = resample(decoded, self.sample_rate, SAMPLE_RATE)
        fitted = fit_length(wide[self.delay :], len(audio))
        return Coded(fitted, payload_bits, num_bytes, encode_seconds, decode_seconds)

    @property
    def _is_raw(self) -> bool:
        """Whether the programs read and write samples without a header."""
        return self.package == "codec2"

    def _encode(self, files: dict[str, Path], audio: Audio) -> float:
        """Encode audio [T] at the programs' sample rate; returns the seconds."""
        if self._is_raw:
            files["IN"].write_bytes(to_int16(audio).astype("<i2").tobytes())
        else:
            write_audio(files["IN"], audio, self.sample_rate)
        return _run(self.encoder, files, "CODED")

    def facts(self) -> dict[str, Any]:
        """Sample rate in Hz, nominal bits per second, the removed delay in samples at 16 kHz, and the package."""
        return {
            "sample_rate": self.sample_rate,
            "bitrate": self.bitrate,
            "delay_samples": self.delay,
            "package": f"{self.package} {_version(self.package)}",
        }

    def commands(self, source: Path, coded: Path, out: Path) -> tuple[list[str], list[str]]:
        """The programs' command lines."""
        files = {"IN": source, "CODED": coded, "OUT": out}
        return _words(self.encoder, files), _words(self.decoder, files)

    without_weights = None  # these codecs need no weights

    @property
    def missing(self) -> str | None:
        """A sentence that names the missing program; None if both are installed."""
        programs = [command.split()[0] for command in (self.encoder, self.decoder)]
        lacking = [program for program in programs if shutil.which(program) is None]
        sentence = f"{self.name} needs the program {{}}, which comes with Debian's package {self.package}"
        return sentence.format(lacking[0]) if lacking else None


def rival(name: str) -> Rival:
    """The rival of that name.

    Raises:
        InputError: there is no such rival, or its programs are not installed.
    """
    if name not in RIVALS:
        raise InputError(f"there is no rival {name}; there are {', '.join(RIVALS)}")
    if sentence := RIVALS[name].missing:
        raise InputError(sentence)
    return RIVALS[name]


def _words(command: str, files: dict[str, Path]) -> list[str]:
    return [str(files.get(word, word)) for word in command.split()]


def _run(command: str, files: dict[str, Path], made: str) -> float:
    words = _words(command, files)
    start = time.perf_counter()
    done = subprocess.run(words, capture_output=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode != 0 or not files[made].is_file():
        raise InputError(f"{words[0]} failed: {done.stderr.decode(errors='replace').strip()}")
    return seconds


def _version(package: str) -> str:
    """What dpkg says, where there is one."""
    if shutil.which("dpkg-query") is None:
        return "of unknown version"
    asked = subprocess.run(["dpkg-query", "-W", "-f=${Version}", package], capture_output=True, text=True, check=False)
    return asked.stdout or "of unknown version"


def ogg_packets(content: bytes) -> list[int]:
    """Bytes of each packet in an Ogg file (RFC 3533) but the first two, which are headers."""
    packets, position = [0], 0
    while position < len(content):
        count = content[position + 26]
        lengths = content[position + 27 : position + 27 + count]
        for length in lengths:
            packets[-1] += length
            if length < 255:
                packets.append(0)
        position += 27 + count + sum(lengths)
    return packets[2:-1]


def lc3_frames(content: bytes) -> list[int]:
    """Bytes of each frame in a file of `elc3`. Two bytes before a frame, and two after the magic, are a length."""
    frames, position = [], int.from_bytes(content[2:4], "little")
    while position < len(content):
        frames.append(int.from_bytes(content[position : position + 2], "little"))
        position += 2 + frames[-1]
    return frames


def _codec2(mode: str, frame_length: int, frame_bits: int, delay: int) -> Rival:
    """A mode of Codec2; the bits with which `c2enc` pads each frame to whole bytes do not count."""
    return Rival(
        name=f"codec2-{mode}",
        package="codec2",
        encoder=f"c2enc {mode} IN CODED",
        decoder=f"c2dec {mode} CODED OUT",
        bitrate=frame_bits * 8000 / frame_length,
        payload=lambda content, frames: frames * frame_bits,
        sample_rate=8000,
        frame_length=frame_length,
        delay=delay,
    )


def _opus(kbps: int) -> Rival:
    return Rival(
        name=f"opus-{kbps}",
        package="opus-tools",
        encoder=f"opusenc --quiet --bitrate {kbps} IN CODED",
        decoder=f"opusdec --quiet --rate {SAMPLE_RATE} CODED OUT",
        bitrate=1000.0 * kbps,
        payload=lambda content, _: 8 * sum(ogg_packets(content)),
        frame_length=1,
    )


def _speex(quality: int, bitrate: float) -> Rival:
    """A quality of Speex. `speexdec` removes its delay only if there is a second Ogg page; a page has 255 packets."""
    return Rival(
        name=f"speex-{bitrate / 1000:.0f}",
        package="speex",
        encoder=f"speexenc -w --quality {quality} IN CODED",
        decoder="speexdec CODED OUT",
        bitrate=bitrate,
        payload=lambda content, frames: 8 * sum(ogg_packets(content)[:frames]),
        least_frames=300,
    )


def _lc3(kbps: int) -> Rival:
    return Rival(
        name=f"lc3-{kbps}",
        package="liblc3-tools",
        encoder=f"elc3 -b {1000 * kbps} -m 10 IN CODED",
        decoder="dlc3 CODED OUT",
        bitrate=1000.0 * kbps,
        payload=lambda content, frames: 8 * sum(lc3_frames(content)[:frames]),
        frame_length=160,
    )


RIVALS = {
    rival.name: rival
    for rival in (
        _codec2("3200", 160, 64, 320),
        _codec2("2400", 160, 48, 320),
        _codec2("1200", 320, 48, 320),
        _codec2("700C", 320, 28, 480),
        *(_opus(kbps) for kbps in (6, 8, 12)),
        *(_speex(quality, rate) for quality, rate in enumerate((3950.0, 5750.0, 7750.0, 9800.0, 12800.0))),
        _lc3(16),
    )
}
