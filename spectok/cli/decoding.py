"""Decodes a `.spt` file packet by packet: all of it, its intact part, or a stretch of it."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spectok import pretrained
from spectok.cli.files import counted
from spectok.config import EXCITATION_PERIOD, EXTENSION_FACTOR, CodecConfig
from spectok.container import Header, Packet, Reader
from spectok.errors import InputError, require
from spectok.resampling import StreamRestorer
from spectok.sessions import BLOCK_SECONDS
from spectok.tokenizer import Tokenizer

CONTEXT = 3000  # frames that are decoded before a stretch, at least, so that the decoder's state settles
MARGIN = 0.1  # seconds that are decoded after a stretch, for the resampler


class Stretch(NamedTuple):
    """Which frames are decoded, and which samples of their audio are kept. Samples are at the output's rate."""

    first_frame: int
    stop_frame: int
    decoded: int  # samples that the frames give
    skip: int  # samples before those that are kept
    length: int  # samples that are kept


def model_of(header: Header, chosen: str | None) -> str:
    """The model that decodes a file: the chosen one, or the released one that the file names or whose weights it has.

    Raises:
        InputError: there is none.
    """
    released = pretrained.models()
    name = chosen or (header.model if header.model in released else pretrained.named(header.weight_hash))
    if name is None:
        what = f"the model '{header.model}'" if header.model else "a model"
        raise InputError(
            f"the codes were made by {what} with weights {header.weight_hash}, which is none of the released ones "
            f"{', '.join(released)}; --model names its folder"
        )
    return name


def stretch(config: CodecConfig, header: Header, num_frames: int, start: float, end: float | None) -> Stretch:
    """The frames of a part of a file, with those before it that the decoder needs as context.

    Decoding begins at a frame where the fixed sequences of the excitation begin again, and where a sample of the codec
    falls on a sample of the original.

    Args:
        config: of the model.
        header: of the file, from `at_rate`; its num_samples is known.
        num_frames: of the file.
        start: seconds.
        end: seconds; None is the end of the file.

    Raises:
        InputError: the part has no samples.
    """
    assert header.num_samples is not None
    rate, seconds = header.sample_rate, header.num_samples / header.sample_rate
    require(0 <= start < seconds, f"--start is {start:g}, but the recording has {seconds:.3f} s")
    require(end is None or end > start, f"--end is {end}, but must be later than --start {start:g}")
    begin = round(start * rate)
    stop = header.num_samples if end is None else min(header.num_samples, round(min(end, seconds) * rate))
    require(begin < stop, f"between --start {start:g} and --end {end} there is no sample")
    hops = config.frame_length // config.spectrum.hop_length
    period = math.lcm(
        EXCITATION_PERIOD // math.gcd(EXCITATION_PERIOD, hops),
        config.sample_rate // math.gcd(config.sample_rate, config.frame_length * rate),
    )
    inside = begin * config.sample_rate // rate // config.frame_length
    first = max(0, inside - CONTEXT) // period * period
    last = min(header.num_samples, stop + round(MARGIN * rate))
    frames = config.num_frames(-(-last * config.sample_rate // rate))
    offset = first * config.frame_length * rate // config.sample_rate
    return Stretch(first, min(frames, num_frames), last - offset, begin - offset, stop - begin)


def at_rate(header: Header, sample_rate: int | None) -> Header:
    """The header as if the original had another sample rate in Hz; None leaves it as it is."""
    if sample_rate in (None, header.sample_rate):
        return header
    assert sample_rate is not None
    return replace(header, sample_rate=sample_rate, num_samples=_at_rate(header, header.num_samples, sample_rate))


def _at_rate(header: Header, num_samples: int | None, sample_rate: int) -> int | None:
    """The number of samples that a number of samples of the original has at a sample rate in Hz."""
    return None if num_samples is None else -(-num_samples * sample_rate // header.sample_rate)


def recovered_header(config: CodecConfig, reader: Reader) -> Header:
    """The header of a damaged file; if its end is lost, with as many samples as `kept_frames` hold."""
    header = reader.header
    if reader.has_end:
        return header
    inside = config.num_samples(kept_frames(reader))
    return replace(header, num_samples=inside * header.sample_rate // config.sample_rate)


def kept_frames(reader: Reader) -> int:
    """The number of frames of a damaged file; if its end is lost, those up to its last intact packet."""
    if not reader.has_end and reader.lost and reader.lost[-1].stop == reader.num_frames:
        return reader.lost[-1].start
    return reader.num_frames


def block_frames(config: CodecConfig, frames_per_packet: int | None = None) -> int:
    """The number of frames that are computed at a time.

    It is that of a session, so that the codes and the audio are those of the Python interface. For a stream that
    arrives in packets, it is the largest such number that divides a packet: each packet is computed when it is full.
    """
    most = max(1, round(BLOCK_SECONDS * config.frame_rate))
    if frames_per_packet is None:
        return most
    return max(frames for frames in range(1, most + 1) if frames_per_packet % frames == 0)


def part_audio(
    tokenizer: Tokenizer, header: Header, packets: Iterable[Packet], part: Stretch, name: str, extend: bool = False
) -> Iterator[NDArray[np.float32]]:
    """The audio of a part of a file, block by block; a terminal shows the progress.

    Args:
        tokenizer: the codec.
        header: of the file, from `at_rate`.
        packets: those with the part's frames, in order; silence stands for those that are missing.
        part: which frames are decoded and which samples are kept.
        name: of the file, for the progress.
        extend: whether the model's extension adds higher frequencies.
    """
    size = block_frames(tokenizer.config) * tokenizer.tokens_per_frame
    pieces = _decoded(tokenizer, packets, size, part.first_frame, part.stop_frame, extend)
    restorer = _restorer(tokenizer, header.sample_rate, extend)
    shown = counted(pieces, restorer.from_rate, part.decoded // header.sample_rate, name)
    skip, left = part.skip, part.length
    for piece in chain(map(restorer.push, shown), map(restorer.flush, [part.decoded])):
        kept = piece[skip : skip + left]
        skip -= min(skip, len(piece))
        left -= len(kept)
        yield kept


def arriving_audio(
    tokenizer: Tokenizer, header: Header, packets: Iterable[Packet], name: str, sample_rate: int, extend: bool = False
) -> Iterator[NDArray[np.float32]]:
    """The audio of packets that arrive. Its length is known when the last packet is there.

    Args:
        tokenizer: the codec.
        header: of the file.
        packets: all, in order.
        name: of the file, for messages.
        sample_rate: of the audio, in Hz.
        extend: whether the model's extension adds higher frequencies.

    Raises:
        InputError: the number of frames does not fit the number of samples.
    """
    last: list[Packet] = []

    def noted() -> Iterator[Packet]:
        for packet in packets:
            last[:] = [packet]
            yield packet

    size = block_frames(tokenizer.config, header.frames_per_packet) * tokenizer.tokens_per_frame
    restorer = _restorer(tokenizer, sample_rate, extend)
    for piece in _decoded(tokenizer, noted(), size, extend=extend):
        yield restorer.push(piece)
    (end,) = last
    tokenizer.check_header(replace(header, num_samples=end.num_samples), end.stop_frame, name)
    yield restorer.flush(_at_rate(header, end.num_samples, sample_rate) or 0)


def _restorer(tokenizer: Tokenizer, sample_rate: int, extend: bool) -> StreamRestorer:
    """Holds back a frame: the original's end is in the last one."""
    factor = EXTENSION_FACTOR if extend else 1
    return StreamRestorer(factor * tokenizer.sample_rate, sample_rate, factor * tokenizer.frame_length)


def _decoded(
    tokenizer: Tokenizer,
    packets: Iterable[Packet],
    size: int,
    first_frame: int = 0,
    stop_frame: int | None = None,
    extend: bool = False,
) -> Iterator[NDArray[np.float32]]:
    """The audio of packets at the decoder's rate, block by block; silence where packets are missing between them.

    Args:
        tokenizer: the codec.
        packets: in order.
        size: number of codes that are decoded at a time.
        first_frame: the first frame that is decoded.
        stop_frame: the frame before which decoding ends; None decodes all.
        extend: whether the model's extension adds higher frequencies, at three times the codec's rate.
    """
    tokens, session = tokenizer.tokens_per_frame, tokenizer.stream_decoder(extend=extend)
    frame_length = tokenizer.frame_length * session.sample_rate // tokenizer.sample_rate
    waiting, position = np.zeros(0, np.int64), first_frame
    for packet in packets:
        start, codes = max(packet.start_frame, first_frame), packet.codes
        if stop_frame is not None:
            codes = codes[: (stop_frame - packet.start_frame) * tokens]
        codes = codes[(start - packet.start_frame) * tokens :]
        if start > position:  # packets were lost
            yield session.push(waiting)
            yield np.zeros((start - position) * frame_length, np.float32)
            waiting = waiting[:0]
        position = start + len(codes) // tokens
        waiting = np.concatenate([waiting, codes])
        ready = len(waiting) // size * size
        for place in range(0, ready, size):
            yield session.push(waiting[place : place + size])
        waiting = waiting[ready:]
    yield session.push(waiting)
    session.flush()
