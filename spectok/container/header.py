"""The header of a `.spt` file and its packets, as values; the modules `version1` to `version3` know their bytes."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from operator import index as as_int

import numpy as np

from spectok.errors import InputError
from spectok.samples import MAX_SAMPLE_RATE, MIN_SAMPLE_RATE

PLAIN, CODED = 2, 3  # the versions that are written: codes of equal size, and entropy coding
PACKET_BYTES = 1200  # size of a packet's codes, unless frames_per_packet says otherwise
CODED_BYTES = 1000  # size of a packet with entropy coding, unless packet_bytes says otherwise
MOST_SAVED = 4  # packets with entropy coding hold at most so many times the frames that fit them without
MAX_PAYLOAD = {1: 1 << 20, 2: 1 << 16}  # bytes of a packet's codes: limits the memory that a reader needs
_LIMITS = {
    "sample_rate": (MIN_SAMPLE_RATE, MAX_SAMPLE_RATE),
    "codebook_size": (2, 1 << 24),
    "tokens_per_frame": (1, 255),
    "frames_per_packet": (1, (1 << 15) - 1),
    "num_samples": (0, (1 << 62) - 1),
    "version": (1, CODED),
}
_PACKET_LIMITS = (32, 1 << 16)


@dataclass(frozen=True)
class Header:
    """What a `.spt` file says about its codes: which model wrote them, their layout, and the original audio.

    Raises:
        InputError: a field is out of range.
    """

    model: str  # the name of the model that wrote the codes; "" if its weights' hash identifies it
    weight_hash: str  # 16 hex digits: the first 8 bytes of the SHA-256 of its model.safetensors
    sample_rate: int  # of the original audio, Hz
    codebook_size: int
    tokens_per_frame: int
    frames_per_packet: int = 0  # 0 becomes the number of frames that fit 1200 bytes, at least 1; see `packet_bytes`
    num_samples: int | None = None  # of the original audio; None while it is not known
    stream_id: str | None = None  # 8 hex digits; with None the writer draws them at random
    version: int = 0  # of the file that was read; 0 becomes the one that is written: 3 with an entropy model, else 2
    entropy_id: str = ""  # the id of the entropy model, if there is entropy coding (`spectok.entropy.EntropyModel.id`)
    packet_bytes: int = 0  # with entropy coding, the size of a packet; frames_per_packet is then the largest number

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._-]{0,63})?", self.model):
            raise InputError(f"model is {self.model!r:.80}; a name is up to 64 letters, digits, '.', '_' or '-'")
        object.__setattr__(self, "version", self.version or (CODED if self.entropy_id else PLAIN))
        for name, digits in (("weight_hash", 16), ("stream_id", 8), ("entropy_id", 8)):
            value = getattr(self, name)
            if (value is None and name == "stream_id") or (value == "" and name == "entropy_id"):
                continue
            if not isinstance(value, str) or not re.fullmatch(f"[0-9a-f]{{{digits}}}", value):
                raise InputError(f"{name} is {value!r:.80}; expected {digits} hexadecimal digits in lower case")
        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name)
            if value is None and name == "num_samples":
                continue
            try:
                value = as_int(value)  # a numpy integer becomes an int
            except TypeError as error:
                raise InputError(f"{name} is {value!r}; expected a whole number") from error
            if name == "frames_per_packet" and value == 0:
                size = MOST_SAVED * (self.packet_bytes or CODED_BYTES) if self.entropy_id else PACKET_BYTES
                value = min(max(1, 8 * size // (self.tokens_per_frame * self.bits_per_code)), high)
            object.__setattr__(self, name, value)
            if not low <= value <= high:
                raise InputError(f"{name} is {value}; expected {low} to {high}")
        if (self.version == CODED) != bool(self.entropy_id):
            raise InputError(f"a file of version {self.version} has entropy_id {self.entropy_id!r}")
        if self.entropy_id:
            self._check_packets()
            return
        most = MAX_PAYLOAD[self.version]
        if self.payload_bytes(self.frames_per_packet) > most:
            raise InputError(f"frames_per_packet is {self.frames_per_packet}; packets would be over {most} bytes")

    def _check_packets(self) -> None:
        """Check the size of packets with entropy coding. A reader never needs more than a few times their size."""
        low, high = _PACKET_LIMITS
        size = self.packet_bytes or CODED_BYTES
        if not isinstance(size, int) or not low <= size <= high:
            raise InputError(f"packet_bytes is {size!r:.80}; expected {low} to {high}")
        object.__setattr__(self, "packet_bytes", size)
        if self.payload_bytes(self.frames_per_packet) > MOST_SAVED * size:
            most = f"{MOST_SAVED} times as many codes as fit {size} bytes"
            raise InputError(f"frames_per_packet is {self.frames_per_packet}; that is more than {most}")

    @property
    def bits_per_code(self) -> int:
        """Bits per code: ceil(log2(codebook_size))."""
        return (self.codebook_size - 1).bit_length()

    def payload_bytes(self, num_frames: int) -> int:
        """Size in bytes of the codes of `num_frames` frames in one packet."""
        return (num_frames * self.tokens_per_frame * self.bits_per_code + 7) // 8

    def frames_that_fit(self, num_bytes: int) -> int:
        """The largest number of frames, at most a packet's, whose codes fit `num_bytes` bytes."""
        frames = num_bytes * 8 // (self.tokens_per_frame * self.bits_per_code)
        return min(self.frames_per_packet, max(0, frames))

    def check_length(self, num_samples: int, num_frames: int) -> None:
        """Raise InputError if `num_frames` frames cannot hold `num_samples` samples: a frame lasts at most 1 s."""
        if num_samples > num_frames * self.sample_rate:
            raise InputError(f"num_samples is {num_samples}, which {num_frames} frames of codes cannot hold")


@dataclass(frozen=True)
class Packet:
    """The codes of successive frames."""

    start_frame: int  # number of the first frame
    num_frames: int
    last: bool  # whether this is the last packet of the file
    raw: bytes  # the packet as it is in the file
    read: Callable[[], np.ndarray]  # gives the codes, when they are needed
    num_samples: int | None = None  # of the whole recording; in the last packet only

    @property
    def stop_frame(self) -> int:
        """Number of the frame after the last one."""
        return self.start_frame + self.num_frames

    @cached_property
    def codes(self) -> np.ndarray:
        """Codes, int64 `[num_frames * tokens_per_frame]`.

        Raises:
            InputError: the entropy model that they need is not known, or no encoder writes such codes.
        """
        return self.read()
