"""The bytes of version 3, with entropy coding, as the package's documentation specifies them."""

import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from spectok import pretrained
from spectok.container.header import Header, Packet
from spectok.container.parts import Taken, varint
from spectok.container.version2 import (
    DIGEST_BYTES,
    HAS_DIGEST,
    check_header,
    checksum_of,
    digest_of,
    pack_fields,
    read_fields,
)
from spectok.entropy import EntropyModel, RangeEncoder
from spectok.errors import InputError

__all__ = ["DIGEST_BYTES", "HAS_DIGEST", "MIN_END", "digest_of"]

MIN_END = 8 + DIGEST_BYTES  # bytes of the shortest last packet
_BLOCK = 64  # frames whose probabilities are computed at a time
_MAX_VARINT = 9


def pack_header(header: Header) -> bytes:
    """The header's bytes; its stream id must be known."""
    body = pack_fields(header) + varint(header.packet_bytes) + bytes.fromhex(header.entropy_id)
    return body + zlib.crc32(body).to_bytes(4, "little")


def read_header(source: Taken) -> Header:
    """The header, after its magic number and version."""
    fields = read_fields(source)
    size, entropy_id = source.varint(), source.take(4).hex()
    check_header(source)
    header = Header(**fields, entropy_id=entropy_id, packet_bytes=size or -1)
    if pack_header(header) != source.raw:
        raise InputError("its header is not in its shortest form")
    return header


def packet_bytes(header: Header) -> int:
    """Bytes of a full packet."""
    return header.packet_bytes


def max_end(header: Header) -> int:
    """Bytes of the longest last packet."""
    return header.packet_bytes + 2 * _MAX_VARINT + DIGEST_BYTES


class Packer:
    """Makes packets of the codes of successive frames. The arguments and attributes are those of version 2.

    Raises:
        InputError: the entropy model is not known, or of another codebook.
    """

    def __init__(self, header: Header) -> None:
        self.header, self.num_frames, self._num_packets = header, 0, 0
        self._model = _model_of(header)
        self._begin()

    def add(self, codes: np.ndarray) -> Iterator[bytes]:
        """Add the codes of whole frames, int64 `[n]`, and yield the packets that are full.

        Raises:
            InputError: a frame is too large for a packet.
        """
        left = codes.reshape(-1, self.header.tokens_per_frame)
        while len(left):
            taken = self._take(left[: min(_BLOCK, self.header.frames_per_packet - self._frames)])
            left = left[taken:]
            if not self._frames:
                raise InputError(f"packet_bytes is {self.header.packet_bytes}, which is too small for a frame")
            if taken == 0 or self._frames == self.header.frames_per_packet:
                yield self._full()

    def last(self, num_samples: int) -> bytes:
        """The last packet without its digest, for a recording of so many samples."""
        coded = self._coder.finish()
        fields = (2 * self._frames + 1, self.num_frames - self._frames, num_samples, len(coded))
        return self._packet(b"".join(map(varint, fields)) + coded)

    def _begin(self) -> None:
        """Begin a packet."""
        self._coder, self._frames = RangeEncoder(), 0
        self._before = np.zeros((0, self.header.tokens_per_frame), np.int64)  # the last frames in the packet
        head = 4 + len(varint(2 * self.header.frames_per_packet)) + len(varint(self.num_frames))
        self._room = self.header.packet_bytes - head

    def _take(self, frames: np.ndarray) -> int:
        """Code as many of the frames `[F, K]` as fit the packet; returns their number."""
        starts, sizes = self._model.intervals(frames, self._before)
        taken = 0
        for place in zip(starts.tolist(), sizes.tolist(), strict=True):
            before = self._coder.state
            self._coder.put(*place)
            if self._coder.most_bytes > self._room:
                self._coder.state = before
                break
            taken += 1
        self._before = np.concatenate([self._before, frames[:taken]])[-2:]
        self._frames += taken
        self.num_frames += taken
        return taken

    def _full(self) -> bytes:
        body = varint(2 * self._frames) + varint(self.num_frames - self._frames) + self._coder.finish()
        packet = self._packet(body.ljust(self.header.packet_bytes - 4, b"\0"))
        self._num_packets += 1
        self._begin()
        return packet

    def _packet(self, body: bytes) -> bytes:
        return checksum_of(self.header, self._num_packets, body).to_bytes(4, "little") + body


def _model_of(header: Header) -> EntropyModel:
    """The entropy model of a file's codes."""
    model = pretrained.entropy_model(header.entropy_id, header.weight_hash)
    if model is None:
        name = header.model or "a released model of another version of this package"
        raise InputError(
            f"its codes need the entropy model {header.entropy_id} of {name}, weights {header.weight_hash}, which is "
            "not known"
        )
    if (model.codebook_size, model.tokens_per_frame) != (header.codebook_size, header.tokens_per_frame):
        raise InputError(f"its entropy model {header.entropy_id} is of codes of another size")
    return model


def read_packet(stream: BinaryIO, header: Header, index: int) -> Packet:
    """Packet `index`, where the stream stands; InputError if it is another one, cut off or damaged.

    Its codes are decoded when they are asked for. The digest at the end of the last packet is read and not compared.
    """
    what = f"its packet {index}"
    source = Taken(stream, what)
    checksum, mark, start = source.number(4), source.varint(), source.varint()
    frames, last = divmod(mark, 2)
    if last:
        num_samples = source.varint()
        coded = source.take(min(source.varint(), header.packet_bytes))
    else:
        num_samples = None
        coded = source.take(max(0, header.packet_bytes - len(source.raw)))
    is_possible = (last or frames) and frames <= header.frames_per_packet
    is_placed = index <= start <= index * header.frames_per_packet
    if checksum != checksum_of(header, index, source.raw[4:]) or not (is_possible and is_placed):
        raise InputError(f"{what} is damaged or cut off")
    if last:
        source.take(DIGEST_BYTES)

    def read() -> np.ndarray:
        try:
            codes = _model_of(header).decode(coded, frames)
        except InputError as error:
            raise InputError(f"{what} cannot be decoded: {error}") from error
        return codes.reshape(-1)

    return Packet(start, frames, bool(last), source.raw, read, num_samples)
