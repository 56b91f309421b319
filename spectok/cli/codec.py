"""The commands that run the codec: encode, decode, stream and live, one function each."""

import argparse
import math
import sys
from pathlib import Path

import numpy as np

from spectok import audio as audio_files
from spectok import container
from spectok.cli.files import PathOrStream, Write, blocks, check_output, for_each, standard
from spectok.errors import InputError
from spectok.files import file_name
from spectok.schema import require
from spectok.tokenizer import Tokenizer


def encode(args: argparse.Namespace) -> None:
    """Encode audio files as .spt files."""
    tokenizer = Tokenizer.from_pretrained(args.model, args.device, args.engine)

    def encode_one(source: PathOrStream) -> Write:
        audio, sample_rate = audio_files.read_audio(source)
        session = tokenizer.stream_encoder()
        resampled = audio_files.resample(audio, sample_rate, tokenizer.sample_rate)
        codes = [session.push(block) for block in blocks(resampled, tokenizer.sample_rate, file_name(source))]
        codes.append(session.flush())
        joined = np.concatenate(codes)
        return lambda destination: tokenizer.save(destination, joined, len(audio), sample_rate)

    for_each(".spt", audio_files.list_audio, encode_one, args)


def decode(args: argparse.Namespace) -> None:
    """Decode .spt files to audio files with the lengths and sample rates of the originals."""
    tokenizers: dict[str, Tokenizer] = {}

    def decode_one(source: PathOrStream) -> Write:
        header, codes = container.read_spt(source)
        model = args.model or header.model
        if model not in tokenizers:
            tokenizers[model] = Tokenizer.from_pretrained(model, args.device, args.engine)
        tokenizer = tokenizers[model]
        tokenizer.check_header(header, len(codes) // header.tokens_per_frame, file_name(source))
        num_samples, sample_rate = header.num_samples, header.sample_rate
        assert num_samples is not None
        session = tokenizer.stream_decoder()
        token_rate = round(tokenizer.token_rate)
        pieces = [session.push(block) for block in blocks(codes, token_rate, file_name(source))]
        pieces.append(session.flush())
        audio = audio_files.restore(np.concatenate(pieces), tokenizer.sample_rate, sample_rate, num_samples)
        return lambda destination: audio_files.write_audio(destination, audio, sample_rate)

    for_each(".wav", _list_codes, decode_one, args)


def _list_codes(folder: str) -> list[Path]:
    return sorted(Path(folder).rglob("*.spt"))


def stream(args: argparse.Namespace) -> None:
    """Encode and decode a file in chunks, as a live stream would arrive, and report the time that each chunk takes."""
    from spectok.evaluation.realtime import measure_stream

    require(0 < args.chunk_ms < math.inf, f"--chunk-ms is {args.chunk_ms:g}, but must be positive and finite")
    check_output(args.output, args.force)
    tokenizer = Tokenizer.from_pretrained(args.model, args.device, args.engine, args.threads)
    audio, sample_rate = audio_files.read_audio(standard(args.input, "rb"))
    chunk_length = max(1, round(args.chunk_ms * tokenizer.sample_rate / 1000))
    report = measure_stream(tokenizer, audio_files.resample(audio, sample_rate, tokenizer.sample_rate), chunk_length)
    decoded = audio_files.restore(report.audio, tokenizer.sample_rate, sample_rate, len(audio))
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
    tokenizer = Tokenizer.from_pretrained(args.model, args.device, args.engine)

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
