"""Finds audio files that are cut off, where libsndfile reads what is there and reports nothing.

Only the head and the end of a file are read, never all of it. WAV files of PCM samples are checked by
`spectok.audio.AudioReader`, and FLAC files by libsndfile.
"""

import os
from typing import BinaryIO, Literal, NamedTuple

from spectok.errors import require

TAIL = 1 << 16  # bytes; the longest page of an Ogg file has 65,307
MAX_CHUNKS = 1000  # that are looked at before the samples
MAX_LISTED = 10_000  # chunks of a WAV file, with those inside of other chunks
END_OF_STREAM = 4  # in the flags of an Ogg page


class _Chunks(NamedTuple):
    """How a file is divided into chunks, each with a name of 4 bytes, its number of bytes, and its content."""

    first: int  # where the first chunk begins
    length_bytes: int  # size of the number of bytes
    order: Literal["little", "big"]
    samples: bytes  # name of the chunk that holds the samples
    align: int  # chunks begin at multiples of this many bytes
    endless: int  # writers that do not know the number of bytes of the samples claim this many, or more


_CHUNKED = {
    b"RIFF": _Chunks(12, 4, "little", b"data", 2, 0x7EFF0000),  # WAV
    b"FORM": _Chunks(12, 4, "big", b"SSND", 2, 0x7EFF0000),  # AIFF and AIFF-C
    b"caff": _Chunks(8, 8, "big", b"data", 1, 1 << 63),  # CAF
}


def check_end(file: BinaryIO, name: str) -> None:
    """Check that an Ogg, MP3, AIFF, CAF or compressed WAV file reaches the end that it promises.

    Args:
        file: it can seek.
        name: of the file, for the message.

    Raises:
        InputError: the file is cut off.
        OSError: it cannot be read.
    """
    size = file.seek(0, os.SEEK_END)
    magic = _read(file, 0, 4)
    if magic == b"OggS":
        _check_ogg(_read(file, max(0, size - TAIL), TAIL), name)
    elif magic in _CHUNKED:
        _check_chunks(file, size, _CHUNKED[magic], name)
    else:
        _check_mp3(file, size, name)


def check_lists(file: BinaryIO, name: str) -> None:
    """Check that the chunks within the LIST chunks of a WAV file claim less than 2^31 bytes.

    libsndfile 1.2.2 takes more for a negative number, goes back, and reads the same chunk forever.

    Args:
        file: it can seek.
        name: of the file, for the message.

    Raises:
        InputError: a chunk claims more, or there are over 10,000 chunks.
        OSError: it cannot be read.
    """
    size, magic = file.seek(0, os.SEEK_END), _read(file, 0, 4)
    order: Literal["little", "big"] = "big" if magic == b"RIFX" else "little"
    pending = [(12, size)] if magic in (b"RIFF", b"RIFX", b"RF64") else []
    for _ in range(MAX_LISTED):
        if not pending:
            return
        position, stop = pending.pop()
        if position >= stop:
            continue
        is_inside, head = len(pending) > 0, _read(file, position, 8)
        length, end = int.from_bytes(head[4:], order), position + 8
        if is_inside and head[:4] in (b"INFO", b"adtl"):  # the kind of list, which is not a chunk
            pending.append((position + 4, stop))
            continue
        # The last bytes of a list, too few for a chunk's head, are padding. libsndfile reads a head there all the same.
        most = 1 << 31 if end <= stop else 0xFFFFFFE0
        require(not is_inside or length < most, f"{name} is damaged: a chunk in it claims {length} bytes")
        pending.append((end + length + length % 2, stop))
        if head[:4] == b"LIST" and not is_inside:
            pending.append((end, min(size, end + length)))
    require(not pending, f"{name} is damaged: it has over {MAX_LISTED} chunks")


def _read(file: BinaryIO, position: int, count: int) -> bytes:
    file.seek(position)
    return file.read(count)


def _check_ogg(tail: bytes, name: str) -> None:
    """Check that the last page of each stream is whole and has the flag of the end, as RFC 3533 demands."""
    flags: dict[bytes, int] = {}  # of the last page, by the serial number of the stream
    position, whole = 0, True
    while whole and (position := tail.find(b"OggS\0", position)) >= 0:
        segments = tail[position + 26 : position + 27]
        body = position + 27 + sum(segments)
        stop = body + sum(tail[position + 27 : body])
        whole = body <= len(tail) and stop <= len(tail) and len(segments) == 1
        flags[tail[position + 14 : position + 18]] = tail[position + 5] if whole else 0
        position = stop
    require(
        whole and len(flags) > 0 and all(flag & END_OF_STREAM for flag in flags.values()),
        f"{name} is cut off, or its recorder was stopped: its last page is not marked as the end; "
        "ffmpeg -i IN -c copy OUT makes a whole file of what is there",
    )


def _check_chunks(file: BinaryIO, size: int, chunks: _Chunks, name: str) -> None:
    """Check that the chunk of the samples is whole."""
    position, looked_at = chunks.first, 0
    while position < size and looked_at < MAX_CHUNKS:
        head = _read(file, position, 4 + chunks.length_bytes)
        position, length = position + len(head), int.from_bytes(head[4:], chunks.order)
        if head[:4] == chunks.samples:
            held = size - position
            require(
                length <= held or length >= chunks.endless,
                f"{name} is cut off: its header claims {length} bytes of samples, but it holds {held}",
            )
            return
        position, looked_at = position + -(-length // chunks.align) * chunks.align, looked_at + 1


def _check_mp3(file: BinaryIO, size: int, name: str) -> None:
    """Check that an MP3 has as many bytes as its first frame claims, if that is a Xing or Info frame.

    Encoders disagree on whether tags count, so that a file with tags may lack as many bytes unnoticed.
    """
    start, tag = 0, _read(file, 0, 10)
    if tag[:3] == b"ID3" and len(tag) == 10:
        start = 10 + sum((byte & 127) << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=True))
    frame = _read(file, start, 64)
    place = max(frame.find(b"Xing"), frame.find(b"Info"))
    if frame[:1] == b"\xff" and 0 < place <= len(frame) - 16:
        has_frames, has_bytes = frame[place + 7] & 1, frame[place + 7] & 2
        claimed = int.from_bytes(frame[place + 8 + 4 * has_frames :][:4], "big") if has_bytes else 0
        require(claimed <= size, f"{name} is cut off: its header claims {claimed} bytes, but it has {size}")
