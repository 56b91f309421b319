"""The `.spt` file: a header and codes in packets, each with a checksum.

Version 3 has entropy coding and is written for models that have an entropy model, as the released ones do; version 2
stores every code in the same number of bits; version 1 is read, and no longer written. All packets of a file but the
last have the same size.

    versions    +--------+----------+----------+-----+--------------------------------+
    2 and 3     | header | packet 0 | packet 1 | ... | last packet, its end a digest  |
                +--------+----------+----------+-----+--------------------------------+
                    H         P          P                      10 bytes or more

`tokens_per_frame` codes make a frame; codes are stored frame after frame. Integers are unsigned and little endian. A
**varint** holds 7 bits of a number in each byte, the lowest first; bit 7 is set in every byte but the last. It has as
few bytes as the number needs. A CRC-32 is that of zlib and PNG.

## Version 2

**Header**, H bytes:

| bytes | content |
|---:|---|
| 4 | the magic number A5 53 50 54, which is A5 and "SPT" |
| 1 | version of the format: 2 |
| 8 | the first 8 bytes of the SHA-256 of the model's weights, the file `model.safetensors` |
| 4 | stream id: 4 random bytes, drawn for each file |
| 1 | `tokens_per_frame`, 1 to 255 |
| 1 or 4 | `codebook_size`, 2 to 2^24: n for 2^n, n from 1 to 24; any other size as 0 and 3 bytes |
| 1 or 4 | sample rate of the original audio, 1000 to 192000 Hz: its place in the list below; others as 0 and 3 bytes |
| 1 to 3 | `frames_per_packet`, 1 to 32767, a varint |
| 1 | L, the length of the model's name, 0 to 64; 0 for a released model, which the hash of its weights identifies |
| L | the model's name in ASCII: letters, digits, and after the first character also `.`, `_` and `-` |
| 4 | CRC-32 of all bytes before |

The sample rates 1 to 13 are 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 176400 and
192000 Hz.

**Packet** of number n, counted from 0; P bytes:

    +----------+---------------------+-------+
    | CRC (4)  | frames_per_packet   | codes |
    +----------+---------------------+-------+

**Last packet**. There always is one, and the file ends with it:

    +----------+---------------------+---------------------+-------+------------+
    | CRC (4)  | number of frames    | number of samples   | codes | digest (4) |
    +----------+---------------------+---------------------+-------+------------+

- The CRC is the CRC-32 of the stream id, the packet's number (4 bytes, modulo 2^32), and all bytes of the packet after
  the CRC, the digest excepted. A packet of another file, or from another place, does not pass.
- The number of frames is a varint. It is `frames_per_packet` in every packet but the last, which holds fewer, possibly
  none: so a reader knows the last packet.
- The number of samples of the original audio is a varint, at most the number of frames in the file times the sample
  rate. Nothing before the last packet depends on it, so a file can be written to a pipe while the audio is recorded.
- The codes of a packet are one string of bits. A code has b = ceil(log2(`codebook_size`)) bits, lowest first. Bit i of
  the string is bit i % 8 of byte i // 8, and bits after the last code are 0. Codes of 16 bits are therefore
  little-endian words, and four codes of 10 bits take 5 bytes. The codes of a packet take at most 2^16 bytes.
- The digest is the first 4 bytes of the SHA-256 of all bytes of the file before it.

Frame f is in packet f // `frames_per_packet`, which begins at byte H + f // `frames_per_packet` * P. A reader that
jumps to the end looks for the last packet at those of these places from which it can reach exactly to the end of the
file; the checksum tells which one it is.

A file without its last packet was cut off, or its writer has stopped: every packet in it is valid. Writers put as many
frames into a packet as fit 1200 bytes, at least one, unless they are told otherwise.

## Version 3

The **header** is that of version 2, with these differences. The version is 3, `frames_per_packet` is the largest number
of frames in a packet, and there are two more fields between the model's name and the CRC-32:

| bytes | content |
|---:|---|
| 1 to 3 | P, the bytes of a packet, 32 to 65536, a varint |
| 4 | the first 4 bytes of the SHA-256 of the file `entropy.dat` of the model, which has its entropy model |

The codes of `frames_per_packet` frames, at b bits for a code as in version 2, take at most 4 * P bytes. This bounds
what a reader has to decode.

**Packet** of number n, counted from 0; P bytes:

    +----------+------------------------+-------------+-------------+-------+
    | CRC (4)  | 2 * number of frames   | first frame | coded codes | zeros |
    +----------+------------------------+-------------+-------------+-------+

**Last packet**:

    +----------+----------------------------+-------------+-------------------+---+-------------+------------+
    | CRC (4)  | 2 * number of frames + 1   | first frame | number of samples | N | coded codes | digest (4) |
    +----------+----------------------------+-------------+-------------------+---+-------------+------------+

- The CRC, the number of samples and the digest are those of version 2.
- The numbers of frames, the number of the packet's first frame, counted from 0, and N, the bytes of the coded codes,
  are varints. Every packet but the last has at least one frame and begins with the frame after the last one of the
  packet before.
- The codes of a packet are coded as `spectok.entropy` specifies. Each packet begins anew, so that it can be decoded
  alone.

The packet of a frame is found by its first frame, by bisection. Writers use packets of 1000 bytes, and the largest
`frames_per_packet` that is allowed, up to 32767. They end a packet after that number of frames, and before a frame with
which the coded codes could be larger than its room; this is reckoned with as many bytes for both varints as
`2 * frames_per_packet` and the first frame take.

## Version 1

Read, and no longer written.

**Header**, 37 + L bytes:

| offset | bytes | content |
|---:|---:|---|
| 0 | 4 | the magic number A5 53 50 54 |
| 4 | 1 | version of the format: 1 |
| 5 | 1 | `tokens_per_frame`, 1 to 255 |
| 6 | 2 | `frames_per_packet`, 1 to 32767 |
| 8 | 4 | `codebook_size`, 2 to 2^24 |
| 12 | 4 | sample rate of the original audio in Hz, 1000 to 192000 |
| 16 | 8 | number of samples of the original audio; 2^64 - 1 while the file is being written |
| 24 | 8 | the first 8 bytes of the SHA-256 of `model.safetensors` |
| 32 | 1 | L, the length of the model's name, 1 to 64 |
| 33 | L | the model's name, as in version 2 |
| 33 + L | 4 | CRC-32 of all bytes before |

**Packet**, 6 bytes and the codes:

| offset | bytes | content |
|---:|---:|---|
| 0 | 4 | CRC-32 of the packet's number (4 bytes, modulo 2^32) followed by all bytes of the packet after this field |
| 4 | 2 | bits 0 to 14: number of frames; bit 15: 1 in the last packet, else 0 |
| 6 | | the codes, as in version 2, but at most 2^20 bytes |

Every packet holds `frames_per_packet` frames, except the last one, which holds fewer, possibly none.
"""

from spectok.container.header import Header, Packet
from spectok.container.reader import Reader
from spectok.container.stream import read_spt, read_stream
from spectok.container.writer import Writer, write_spt, writing_spt

__all__ = ["Header", "Packet", "Reader", "Writer", "read_spt", "read_stream", "write_spt", "writing_spt"]
