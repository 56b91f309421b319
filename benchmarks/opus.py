"""Opus (RFC 6716) packet by packet, through the library libopus, with its own concealment and redundancy.

The programs of opus-tools, which `spectok bench` runs, work on whole files, in which no packet is lost.
"""

import ctypes
import ctypes.util
import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectok.evaluation.metrics import SAMPLE_RATE
from spectok.resampling import fit_length

FRAME = SAMPLE_RATE // 50  # samples
LARGEST = 1275  # bytes of a packet
VOIP = 2048  # the application that an encoder is for
BITRATE, COMPLEXITY, IN_BAND, LOSS_PERCENT, LOOKAHEAD = 4002, 4010, 4012, 4014, 4027  # requests to an encoder
MISSING = "left out: opus needs the library libopus, which comes with Debian's package libopus0"


@functools.cache
def library() -> Any:
    """The library libopus, or None if it is not installed."""
    path = ctypes.util.find_library("opus")
    if path is None:
        return None
    found = ctypes.CDLL(path)
    found.opus_encoder_create.restype = found.opus_decoder_create.restype = ctypes.c_void_p
    found.opus_get_version_string.restype = ctypes.c_char_p
    return found


class Opus:
    """Opus at 16 kHz with one frame of 20 ms in each packet, at a variable rate and the highest complexity.

    With redundancy, either the encoder itself puts a coarser copy of the frame before into a packet (in-band forward
    error correction), or each packet repeats the packet before: first a byte with its length, then both packets.

    Args:
        bitrate: target in bits per second, without what is repeated.
        redundancy: 1 for packets with redundancy, else 0.
        in_band: whether the redundancy is the encoder's own.
    """

    def __init__(self, bitrate: int, redundancy: int, in_band: bool) -> None:
        self._bitrate = bitrate
        self._in_band, self._repeats = bool(redundancy and in_band), bool(redundancy and not in_band)

    def encode(self, audio: NDArray[np.float32], rate: float) -> list[bytes]:
        """The packets of audio `[T]`.

        Args:
            audio: speech at 16 kHz.
            rate: share of the packets that will be lost; the encoder is told.
        """
        settings = {BITRATE: self._bitrate, COMPLEXITY: 10, IN_BAND: self._in_band, LOSS_PERCENT: round(100 * rate)}
        packets, coded = [], ctypes.create_string_buffer(LARGEST)
        with _made("encoder", VOIP) as encoder:
            for request, value in settings.items():
                _checked(library().opus_encoder_ctl(encoder, request, ctypes.c_int(value)))
            frames = math.ceil((len(audio) + _lookahead(encoder)) / FRAME)
            for frame in fit_length(audio, frames * FRAME).astype(np.float32).reshape(frames, FRAME):
                size = library().opus_encode_float(encoder, _address(frame), FRAME, coded, LARGEST)
                packets.append(coded.raw[: _checked(size)])
        if not self._repeats:
            return packets
        return [
            bytes([len(before)]) + before + packet for before, packet in zip([b"", *packets], packets, strict=False)
        ]

    def decode(self, packets: list[bytes], lost: NDArray[np.bool_]) -> NDArray[np.float32]:
        """The audio `[T]` of packets of which those in `lost`, `[F]`, do not arrive.

        The delay of encoder and decoder is cut from the start. Frames that neither their own packet nor the next one
        holds are concealed by the library.
        """
        arrived = [None if is_lost else packet for packet, is_lost in zip(packets, lost, strict=True)]
        audio = np.zeros((len(packets), FRAME), np.float32)
        with _made("encoder", VOIP) as encoder:
            delay = _lookahead(encoder)
        with _made("decoder") as decoder:
            for out, now, after in zip(audio, arrived, [*arrived[1:], None], strict=True):
                data, in_band = self._find(now, after)
                size = len(data) if data else 0
                _checked(library().opus_decode_float(decoder, data, size, _address(out), FRAME, in_band))
        return audio.reshape(-1)[delay:]

    def _find(self, now: bytes | None, after: bytes | None) -> tuple[bytes | None, bool]:
        """What to decode for a frame, given its packet and the next one, and whether to decode the copy within it."""
        if self._repeats:
            own = now[1 + now[0] :] if now else None
            return own or (after[1 : 1 + after[0]] if after else None), False
        copied = self._in_band and now is None and after is not None
        return (after if copied else now), copied


@contextmanager
def _made(kind: str, *application: int) -> Iterator[ctypes.c_void_p]:
    """A new encoder or decoder."""
    error = ctypes.c_int()
    create, destroy = (getattr(library(), f"opus_{kind}_{verb}") for verb in ("create", "destroy"))
    made = ctypes.c_void_p(create(SAMPLE_RATE, 1, *application, ctypes.byref(error)))
    _checked(error.value)
    try:
        yield made
    finally:
        destroy(made)


def _lookahead(encoder: ctypes.c_void_p) -> int:
    """The delay of encoder and decoder together, in samples."""
    samples = ctypes.c_int()
    _checked(library().opus_encoder_ctl(encoder, LOOKAHEAD, ctypes.byref(samples)))
    return samples.value


def _address(samples: NDArray[np.float32]) -> ctypes.c_void_p:
    return samples.ctypes.data_as(ctypes.c_void_p)


def _checked(result: int) -> int:
    """The result of a function of the library; negative ones are errors."""
    if result < 0:
        raise RuntimeError(f"libopus reports error {result}")
    return result
