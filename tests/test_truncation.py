"""Audio files that are cut off are refused; whole ones of all writers are not."""

import io
from pathlib import Path
from typing import Any

import pytest
import soundfile
from streams import sine

from spectok.audio import read_audio
from spectok.errors import InputError
from spectok.truncation import TAIL, check_end

FORMATS = [
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("AIFF", "PCM_16"),
    ("AIFF", "FLOAT"),
    ("AIFF", "IMA_ADPCM"),
    ("CAF", "PCM_16"),
    ("FLAC", "PCM_16"),
    ("MP3", "MPEG_LAYER_III"),
    ("WAV", "PCM_16"),
    ("WAV", "IMA_ADPCM"),
    ("WAV", "GSM610"),
]
NO_END = (
    "^the stream is cut off, or its recorder was stopped: its last page is not marked as the end; "
    "ffmpeg -i IN -c copy OUT makes a whole file of what is there$"
)


def encoded(format: str, subtype: str | None = None, seconds: float = 0.25) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, sine(int(48000 * seconds), 48000), 48000, format=format, subtype=subtype)
    return buffer.getvalue()


def length_of(content: bytes) -> int:
    return len(read_audio(io.BytesIO(content))[0])


@pytest.mark.parametrize(("format", "subtype"), FORMATS)
def test_every_cut_is_found(tmp_path: Path, format: str, subtype: str) -> None:
    """In a file and in a stream, wherever the cut is: near the end, at each kilobyte, and in the header."""
    content, path = encoded(format, subtype), tmp_path / "cut"
    assert length_of(content) >= 12000
    near_the_end = range(max(0, len(content) - 50), len(content))
    for length in (*range(0, 100, 7), *range(100, len(content), 1000), *near_the_end):
        path.write_bytes(content[:length])
        for source in (path, io.BytesIO(content[:length])):
            with pytest.raises(InputError):
                read_audio(source)


@pytest.mark.parametrize(
    ("format", "subtype", "cut", "message"),
    [
        ("OGG", "VORBIS", 1, NO_END),
        ("OGG", "OPUS", 1000, NO_END),
        ("AIFF", "PCM_16", 2, "^the stream is cut off: its header claims 24008 bytes of samples, but it holds 24006$"),
        ("CAF", "PCM_16", 100, "^the stream is cut off: its header claims 24004 bytes of samples, but it holds 23904$"),
        ("WAV", "GSM610", 65, "^the stream is cut off: its header claims 2470 bytes of samples, but it holds 2405$"),
        ("MP3", None, 1, r"^the stream is cut off: its header claims 2352 bytes, but it has 2351$"),
        ("FLAC", None, 1, "^the stream is damaged or cut off$"),
    ],
)
def test_the_message_says_what_is_missing(format: str, subtype: str | None, cut: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_audio(io.BytesIO(encoded(format, subtype)[:-cut]))


# Ogg.


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_file_whose_end_is_not_marked_is_refused(subtype: str) -> None:
    content = bytearray(encoded("OGG", subtype))
    flags = content.rindex(b"OggS") + 5
    assert content[flags] & 4
    content[flags] &= ~4
    with pytest.raises(InputError, match=NO_END):
        read_audio(io.BytesIO(content))


def test_ogg_files_in_a_row_are_read_and_their_last_one_must_be_whole() -> None:
    first, second = encoded("OGG", "VORBIS"), encoded("OGG", "VORBIS", 2.0)
    assert length_of(first + second) >= 12000
    for cut in (1, 5000, len(second) - 100):
        with pytest.raises(InputError, match=NO_END):
            read_audio(io.BytesIO((first + second)[:-cut]))


@pytest.mark.parametrize("more", [b"TAG" + bytes(125), b"Ogg", b"OggS", bytes(1000)])
def test_what_follows_a_whole_ogg_file_does_not_matter(more: bytes) -> None:
    content = encoded("OGG", "OPUS")
    if more == b"OggS":
        with pytest.raises(InputError, match=NO_END):  # a page begins, and is cut off
            read_audio(io.BytesIO(content + more + bytes(1)))
    else:
        assert length_of(content + more) == 12000


class Counting(io.BytesIO):
    """Counts the bytes that are read."""

    count = 0

    def read(self, size: Any = -1) -> bytes:
        data = super().read(size)
        self.count += len(data)
        return data


def test_only_the_head_and_the_end_of_a_file_are_read() -> None:
    for content in (encoded("OGG", "VORBIS", 2.0) * 20, encoded("AIFF", None, 10), encoded("MP3", None, 40)):
        file = Counting(content)
        assert len(content) > 2 * TAIL
        check_end(file, "it")
        assert 0 < file.count <= TAIL + 100


# Chunks.


@pytest.mark.parametrize("claimed", [0, 0x7F000008, 0x7F000000 - 0x7F000000 % 3, 0xFFFFFFFF])
def test_an_aiff_file_that_was_written_to_a_pipe_is_read_to_its_end(tmp_path: Path, claimed: int) -> None:
    """ffmpeg and sox cannot go back to fill in the lengths, and leave 0 or about 2^31 there."""
    content = bytearray(encoded("AIFF"))
    place = content.index(b"SSND") + 4
    content[place : place + 4] = claimed.to_bytes(4, "big")
    content[4:8] = min(claimed, 0x7FFFFFFF).to_bytes(4, "big")
    (tmp_path / "a.aiff").write_bytes(content)
    check_end(io.BytesIO(content), "it")
    if claimed != 0xFFFFFFFF:  # which libsndfile does not know
        assert length_of(bytes(content)) == len(read_audio(tmp_path / "a.aiff")[0]) == 12000


def test_chunks_after_the_samples_may_be_missing() -> None:
    content = encoded("AIFF") + b"NAME\0\0\0\x08spectok."
    for cut in range(16):
        assert length_of(content[: len(content) - cut]) == 12000


@pytest.mark.parametrize(
    "content",
    [
        b"FORM\0\0\0\x10AIFF" + b"junk\xff\xff\xff\xff" * 2,
        b"FORM\0\0\0\x10AIFFABC",
        b"FORM\0\0\0\x148SVXBODY\0\0\0\x03abc\0\xff\xff\xff\xff\xff",
        b"caff\0\1\0\0" + b"free" + b"\xff" * 8 + bytes(9),
        b"caff\0\1\0\0" + b"data" + b"\xff" * 8 + bytes(9),
        b"RIFF....WAVE" + b"junk\0\0\0\0" * 5000,
        b"ID3\4\0\0\x7f\x7f\x7f\x7f",
        b"\xff\xfbXing\0\0\0\3",
        b"\xff",
        b"",
    ],
)
def test_damaged_headers_are_left_to_libsndfile(content: bytes) -> None:
    check_end(io.BytesIO(content), "it")


# MP3 and FLAC.


def test_an_mp3_with_tags_is_whole() -> None:
    content = encoded("MP3")
    tag = b"ID3\4\0\0" + bytes([0, 0, 1, 72]) + bytes(200)
    assert length_of(tag + content) == length_of(content + b"TAG" + bytes(125)) == 12000
    with pytest.raises(InputError, match="is cut off: its header claims"):
        read_audio(io.BytesIO((tag + content)[:-201]))


def test_a_flac_file_of_unknown_length_is_refused_with_advice() -> None:
    """ffmpeg writes such a file to a pipe, and libsndfile does not read it to its end."""
    content = bytearray(encoded("FLAC"))
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    with pytest.raises(InputError, match=r"^the stream does not say how many samples .*; ffmpeg -i IN OUT\.flac makes"):
        read_audio(io.BytesIO(content))
