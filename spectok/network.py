"""Codes on a network: a packet for each 20 to 120 ms, redundancy against loss, and a jitter buffer that reports loss.

    +---------------------+------------------------------+
    | sequence number (1) | codes of one or more frames  |
    +---------------------+------------------------------+

- The **sequence number** is that of the packet's first frame, modulo 256. Frames are counted from the start of the
  stream.
- The **codes** are one string of bits, as in a packet of a `.spt` file: ceil(log2(`codebook_size`)) bits for each code,
  lowest first, bit i of the string in bit i % 8 of byte i // 8, zeros after the last code.
- The **number of frames** follows from the packet's length, because a frame has at least 8 bits.

For redundancy a packet begins with frames that earlier packets held already; the receiver needs no setting for it.
There is no checksum and no length, because datagrams (UDP, DTLS, WebRTC data channels) have both.

In RTP (RFC 3550) the payload is the string of bits alone. The RTP timestamp counts samples at the codec's rate, so the
first frame has the number `timestamp / frame_length`; a packet with redundancy has the timestamp of its first frame.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spectok.codes import check_codes
from spectok.container.header import Header
from spectok.container.parts import pack_codes, unpack_codes
from spectok.errors import InputError, require

CYCLE = 256  # frames until a sequence number comes back
MAX_FRAMES = 6  # new frames in a packet: 120 ms
MAX_REDUNDANCY = 16  # earlier frames in a packet


class Packetizer:
    """Codes of one stream to packets.

    Args:
        header: of the codec, as `Tokenizer.header` makes it; its codebook size and tokens per frame are used.
        frames: new frames in each packet, 1 to 6.
        redundancy: frames before them that each packet repeats, 0 to 16. If they were lost, this packet restores them.

    Raises:
        InputError: a number is out of range, or a frame has less than 8 bits.
    """

    def __init__(self, header: Header, frames: int = 1, redundancy: int = 0) -> None:
        require(1 <= frames <= MAX_FRAMES, f"frames is {frames}, but must be from 1 to {MAX_FRAMES}")
        require(
            0 <= redundancy <= MAX_REDUNDANCY, f"redundancy is {redundancy}, but must be from 0 to {MAX_REDUNDANCY}"
        )
        _check_frame(header)
        self._header, self._frames, self._redundancy = header, frames, redundancy
        self._codes = np.zeros((0, header.tokens_per_frame), np.int64)  # the last frames that were sent, and new ones
        self._sent = 0  # number of frames in `_codes` that were sent
        self._start = 0  # number of the first frame of `_codes`

    def push(self, codes: NDArray[np.integer]) -> list[bytes]:
        """Take whole frames, integers `[N]` or `[F, K]`; returns the packets that are full.

        Raises:
            InputError: the codes end within a frame, or one is not in the codebook.
        """
        array, tokens = np.asarray(codes), self._header.tokens_per_frame
        require(array.size % tokens == 0, f"the codes end within a frame of {tokens}: there are {array.size}")
        new = check_codes(array.reshape(-1), self._header.codebook_size).reshape(-1, tokens)
        self._codes = np.concatenate([self._codes, new])
        packets = []
        while len(self._codes) - self._sent >= self._frames:
            packets.append(self._packet(self._frames))
        return packets

    def flush(self) -> list[bytes]:
        """The packet of the last frames, if they do not fill one; the next push continues the stream."""
        left = len(self._codes) - self._sent
        return [self._packet(left)] if left else []

    def _packet(self, frames: int) -> bytes:
        stop = self._sent + frames
        first = max(0, self._sent - self._redundancy)
        payload = pack_codes(self._codes[first:stop].reshape(-1), self._header.bits_per_code)
        packet = bytes([(self._start + first) % CYCLE]) + payload
        drop = max(0, stop - self._redundancy)
        self._codes, self._start, self._sent = self._codes[drop:], self._start + drop, stop - drop
        return packet


class Frames(NamedTuple):
    """Frames in the order of time."""

    codes: NDArray[np.int64]  # [F, K]; zeros where a frame is lost
    lost: NDArray[np.bool_]  # [F]


class Depacketizer:
    """A jitter buffer: packets as they arrive, in any order, to frames in the order of time.

    The first packet that arrives starts the clock: its first frame is due `delay` frames later. From then on each
    `pull` returns the frames that are due; one that has not arrived by then is lost, and late if it still arrives.

    Args:
        header: of the codec, as `Tokenizer.header` makes it.
        delay: frames for which a packet may be late, 0 to 100.

    Attributes:
        received: frames that arrived in time, each counted once.
        lost: frames that were due and had not arrived.
        late: lost frames that arrived later.

    Raises:
        InputError: the delay is out of range, or a frame has less than 8 bits.
    """

    def __init__(self, header: Header, delay: int = 3) -> None:
        require(0 <= delay <= 100, f"delay is {delay}, but must be from 0 to 100 frames")
        _check_frame(header)
        self._header, self._delay = header, delay
        self._frames: dict[int, NDArray[np.int64]] = {}  # by number, those that are not yet due
        self._next: int | None = None  # number of the frame that is due next; None before the first packet
        self._missed: set[int] = set()  # frames that were lost and may still arrive late, at most 128
        self.received = self.lost = self.late = 0

    def push(self, packet: bytes) -> None:
        """Take a packet.

        A packet may be late or early by up to 2.5 s. After a longer pause, begin with a new Depacketizer.

        Raises:
            InputError: the packet is no packet of this codec; the buffer stays as it was.
        """
        header = self._header
        bits = header.tokens_per_frame * header.bits_per_code
        frames = 8 * (len(packet) - 1) // bits if packet else 0
        require(
            1 <= frames <= MAX_FRAMES + MAX_REDUNDANCY and len(packet) == 1 + header.payload_bytes(frames),
            f"{len(packet)} bytes are no packet of this codec",
        )
        codes = unpack_codes(packet[1:], frames * header.tokens_per_frame, header, "the packet")
        if self._next is None:
            self._next = packet[0] - self._delay
        start = self._next + (packet[0] - self._next + CYCLE // 2) % CYCLE - CYCLE // 2
        for number, frame in enumerate(codes.reshape(frames, -1), start):
            if number >= self._next:
                self._frames.setdefault(number, frame)
            elif number in self._missed:
                self._missed.remove(number)
                self.late += 1

    def pull(self, frames: int = 1) -> Frames:
        """The next frames that are due; none before the first packet has arrived.

        While the delay at the start of the stream passes, the frames that are due do not exist: they are reported as
        lost, but not counted.
        """
        require(frames >= 0, f"frames is {frames}, but must not be negative")
        codes = np.zeros((frames if self._next is not None else 0, self._header.tokens_per_frame), np.int64)
        lost = np.ones(len(codes), bool)
        for place in range(len(codes)):
            assert self._next is not None
            frame = self._frames.pop(self._next, None)
            if frame is not None:
                codes[place], lost[place] = frame, False
                self.received += 1
            elif self.received:
                self.lost += 1
                self._missed.add(self._next)
            self._missed.discard(self._next - CYCLE // 2)  # no packet can be as late as that
            self._next += 1
        return Frames(codes, lost)


def _check_frame(header: Header) -> None:
    bits = header.tokens_per_frame * header.bits_per_code
    if bits < 8:
        raise InputError(f"a frame of this codec has {bits} bits; packets need at least 8")
