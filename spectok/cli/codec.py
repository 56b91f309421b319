"""The commands that run the codec: encode, decode, stream and live, one function each."""

import argparse
import logging
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spectok import audio as audio_files
from spectok import container
from spectok.cli.decoding import (
    Stretch,
    arriving_audio,
    at_rate,
    block_frames,
    kept_frames,
    model_of,
    part_audio,
    recovered_header,
    stretch,
)
from spectok.cli.files import Output, PathOrStream, check_output, counted, for_each, standard
from spectok.errors import InputError, require
from spectok.files import file_name, list_files
from spectok.resampling import StreamResampler, resample, restore
from spectok.samples import blocks, check_sample_rate
from spectok.sessions import check_extension
from spectok.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


def encode(args: argparse.Namespace) -> None:
    """Encode audio files as .spt files."""
    require(args.raw or args.rate is None, "--rate tells the sample rate of --raw input, which is not given")
    require(
        args.packet_ms is None or 0 < args.packet_ms < math.inf,
        f"--packet-ms is {args.packet_ms}, but must be positive and finite",
    )
    tokenizer = Tokenizer.from_pretrained(args.model, args.device, args.engine, encoder=_encoder(args))
    raw_rate = (tokenizer.sample_rate if args.rate is None else args.rate) if args.raw else None

    def encode_one(source: PathOrStream, output: Output) -> None:
        with audio_files.AudioReader(source, raw_rate) as reader:
            coded = not args.no_entropy_coding and args.packet_ms is None
            header = tokenizer.header(reader.sample_rate, None, coded)
            if args.packet_ms is not None:
                frames = max(1, round(args.packet_ms * tokenizer.frame_rate / 1000))
                header = replace(header, frames_per_packet=frames)
            arrives = not isinstance(source, str)
            frames = block_frames(tokenizer.config, header.frames_per_packet if arrives else None)
            total = None if reader.claimed_samples is None else reader.claimed_samples // reader.sample_rate
            audio = counted(reader, reader.sample_rate, total, reader.name)
            pieces = _encoded(tokenizer, audio, reader.sample_rate, frames)
            first = next(pieces)  # a bad input shows before there is an output
            with container.writing_spt(output.open(), header) as writer:
                for codes in chain([first], pieces):
                    writer.write(codes)
                writer.close(reader.num_samples)

    for_each(".spt", _list_raw if args.raw else audio_files.list_audio, encode_one, args)


def _encoder(args: argparse.Namespace) -> str | None:
    """The name of the encoder that the options ask for; None for the model's own."""
    return "robust" if args.denoise else None


def _encoded(
    tokenizer: Tokenizer, audio: Iterable[NDArray[np.float32]], sample_rate: int, frames: int
) -> Iterator[NDArray[np.int64]]:
    """The codes of audio that arrives in pieces, computed `frames` frames at a time wherever the pieces end."""
    session = tokenizer.stream_encoder()
    for block in blocks(_resampled(audio, sample_rate, tokenizer.sample_rate), frames * tokenizer.frame_length):
        yield session.push(block)
    yield session.flush()


def _resampled(audio: Iterable[NDArray[np.float32]], from_rate: int, to_rate: int) -> Iterator[NDArray[np.float32]]:
    if from_rate == to_rate:
        yield from audio
        return
    resampler = StreamResampler(from_rate, to_rate, 1)
    for piece in audio:
        yield resampler.push(piece[None])[0]
    yield resampler.flush()[0]


def decode(args: argparse.Namespace) -> None:
    """Decode .spt files to audio files with the lengths of the originals, and their sample rates or a given one."""
    most = math.inf if args.max_seconds is None else args.max_seconds
    require(most > 0, f"--max-seconds is {args.max_seconds}, but must be positive")
    if args.sample_rate is not None:
        check_sample_rate(args.sample_rate, "--sample-rate")
    tokenizers: dict[str, Tokenizer] = {}
    in_part = args.start is not None or args.end is not None

    def load(header: container.Header) -> Tokenizer:
        model = model_of(header, args.model)
        if model not in tokenizers:
            tokenizers[model] = Tokenizer.from_pretrained(model, args.device, args.engine)
        tokenizers[model].check_codes(header)
        if args.extend:
            check_extension(tokenizers[model].engine, args.sample_rate or header.sample_rate)
        return tokenizers[model]

    def check_length(length: int, sample_rate: int, name: str) -> None:
        require(length <= most * sample_rate, f"the audio of {name} is longer than --max-seconds {most:g}")

    def decode_one(source: PathOrStream, output: Output) -> None:
        if not (isinstance(source, str) or source.seekable() or args.recover or in_part):
            header, packets = container.read_stream(source)
            rate = args.sample_rate or header.sample_rate
            audio = arriving_audio(load(header), header, packets, file_name(source), rate, args.extend)
            write(limited(audio, rate, file_name(source)), output, rate, None)
            return
        with container.Reader(source, recover=args.recover) as reader:
            tokenizer = load(reader.header)
            header, frames = reader.header, reader.num_frames
            if args.recover:
                header, frames = recovered_header(tokenizer.config, reader), kept_frames(reader)
                _warn_of_loss(reader, tokenizer.frame_rate, file_name(source))
            else:
                tokenizer.check_header(header, frames, file_name(source))
            header = at_rate(header, args.sample_rate)
            assert header.num_samples is not None
            if in_part:
                part = stretch(tokenizer.config, header, frames, args.start or 0.0, args.end)
                packets = reader.packets(part.first_frame, part.stop_frame)
            else:
                part = Stretch(0, frames, header.num_samples, 0, header.num_samples)
                packets = iter(reader)
            check_length(part.length, header.sample_rate, file_name(source))
            audio = part_audio(tokenizer, header, packets, part, file_name(source), args.extend)
            write(audio, output, header.sample_rate, part.length)

    def limited(audio: Iterator[NDArray[np.float32]], sample_rate: int, name: str) -> Iterator[NDArray[np.float32]]:
        length = 0
        for piece in audio:
            length += len(piece)
            check_length(length, sample_rate, name)
            yield piece

    def write(audio: Iterator[NDArray[np.float32]], output: Output, sample_rate: int, length: int | None) -> None:
        first = next(audio)  # a bad input shows before there is an output
        with audio_files.writing_audio(output.open(), sample_rate, length, raw=args.raw) as write_block:
            for piece in chain([first], audio):
                write_block(piece)

    for_each(".raw" if args.raw else ".wav", _list_codes, decode_one, args)


def _warn_of_loss(reader: container.Reader, frame_rate: float, name: str) -> None:
    for frames in reader.lost:
        seconds = f"{frames.start / frame_rate:.3f} to {frames.stop / frame_rate:.3f} s"
        logger.warning("%s: %d frames are lost, %s", name, len(frames), seconds)
    for fault in reader.faults:
        logger.warning("%s: %s", name, fault)


def _list_codes(folder: str) -> list[Path]:
    return list_files(folder, {".spt"})


def _list_raw(folder: str) -> list[Path]:
    return list_files(folder, {".raw"})


def stream(args: argparse.Namespace) -> None:
    """Encode and decode a file in chunks, as a live stream would arrive, and report the time that each chunk takes."""
    from spectok.evaluation.realtime import measure_stream

    require(0 < args.chunk_ms < math.inf, f"--chunk-ms is {args.chunk_ms:g}, but must be positive and finite")
    check_output(args.output, args.force, args.input)
    tokenizer = Tokenizer.from_pretrained(args.model, args.device, args.engine, args.threads, _encoder(args))
    audio, sample_rate = audio_files.read_audio(standard(args.input, "rb"))
    chunk_length = max(1, round(args.chunk_ms * tokenizer.sample_rate / 1000))
    report = measure_stream(tokenizer, resample(audio, sample_rate, tokenizer.sample_rate), chunk_length)
    decoded = restore(report.audio, tokenizer.sample_rate, sample_rate, len(audio))
    audio_files.write_audio(standard(args.output, "wb"), decoded, sample_rate)
    latency = tokenizer.config.latency_samples
    p50, p95, p99 = (report.percentile_ms(percent) for percent in (50, 95, 99))
    lines = [
        f"model       {tokenizer.config.name}, {tokenizer.bitrate:g} bits/s",
        f"latency     {latency} samples = {1000 * latency / tokenizer.sample_rate:g} ms, algorithmic",
        f"chunks      {len(report.chunk_seconds)} of {args.chunk_ms:g} ms: "
        f"p50 {p50:.2f}, p95 {p95:.2f}, p99 {p99:.2f} ms",
        f"rtf         {report.rtf:.4f} encoding and decoding, {args.threads} thread{'s' * (args.threads > 1)}",
        f"difference  {report.different_codes} of {len(report.codes)} codes from offline, "
        f"audio by at most {report.audio_difference:.1e}",
    ]
    print("\n".join(lines), file=sys.stderr if args.output == "-" else sys.stdout)


def live(args: argparse.Namespace) -> None:
    """Encode the microphone's audio and play what the decoder makes of it, until Ctrl-C."""
    from spectok.live import Reading, run_live

    require(args.seconds is None or args.seconds > 0, f"--seconds is {args.seconds}, but must be positive")
    try:
        import sounddevice
    except (ModuleNotFoundError, OSError) as error:  # OSError: PortAudio is missing
        raise InputError(
            "spectok live needs sounddevice, pip install 'spectok[live]', and PortAudio, on Debian and Ubuntu "
            f"apt install libportaudio2, on macOS brew install portaudio ({error})"
        ) from error
    tokenizer = Tokenizer.from_pretrained(args.model, args.device, args.engine, encoder=_encoder(args))

    def show(reading: Reading) -> None:
        meter = "#" * max(0, min(20, round(20 + reading.input_db / 3)))  # 3 dB for each character
        print(
            f"\r{meter:<20} in {reading.input_db:4.0f} dB  out {reading.output_db:4.0f} dB  "
            f"delay {1000 * reading.delay:.0f} ms  {reading.chunk_ms:.1f} ms a chunk  {reading.overruns} lost\033[K",
            end="",
            flush=True,
        )

    try:
        codes = run_live(tokenizer, sounddevice.Stream, show, args.seconds)
    except sounddevice.PortAudioError as error:
        raise InputError(f"cannot open the audio devices: {error}") from error
    print(f"\n{codes} codes")
