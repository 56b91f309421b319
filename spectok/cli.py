"""The command line: `spectok encode | decode | stream | info | inspect | eval`, one function each.

What the user got wrong is one sentence on standard error and exit code 2; outputs appear whole or not at all.
"""

import argparse
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from spectok import audio as audio_files
from spectok import container, pretrained
from spectok.cli_files import Place, Write, blocks, check_output, for_each, standard
from spectok.config import require
from spectok.errors import InputError
from spectok.files import file_name, why
from spectok.tokenizer import Tokenizer


def encode(args: argparse.Namespace) -> None:
    """Audio files to .spt files."""
    tokenizer = Tokenizer.from_pretrained(args.model, args.device)

    def encode_one(source: Place) -> Write:
        audio, sample_rate = audio_files.read_audio(source)
        session = tokenizer.stream_encoder()
        resampled = audio_files.resample(audio, sample_rate, tokenizer.sample_rate)
        codes = [session.push(block) for block in blocks(resampled, tokenizer.sample_rate, file_name(source))]
        codes.append(session.flush())
        header, joined = tokenizer.header(sample_rate, len(audio)), np.concatenate(codes)
        return lambda destination: container.write_codes(destination, header, joined)

    for_each(args.inputs, args.output, ".spt", audio_files.list_audio, encode_one, args.force)


def decode(args: argparse.Namespace) -> None:
    """.spt files to audio files, as long as the originals and at their sample rates."""
    tokenizers: dict[str, Tokenizer] = {}

    def decode_one(source: Place) -> Write:
        header, codes = container.read_codes(source)
        model = args.model or header.model
        if model not in tokenizers:
            tokenizers[model] = Tokenizer.from_pretrained(model, args.device)
        tokenizer = tokenizers[model]
        tokenizer.check_header(header)
        num_samples, sample_rate = header.num_samples, header.sample_rate
        assert num_samples is not None
        frames = len(codes) // tokenizer.tokens_per_frame
        expected = tokenizer.config.num_frames(-(-num_samples * tokenizer.sample_rate // sample_rate))
        require(
            frames == expected,
            f"{file_name(source)} holds {frames} frames, but its {num_samples} samples need {expected}",
        )
        session = tokenizer.stream_decoder()
        token_rate = round(tokenizer.token_rate)
        pieces = [session.push(block) for block in blocks(codes, token_rate, file_name(source))]
        pieces.append(session.flush())
        audio = audio_files.restore(np.concatenate(pieces), tokenizer.sample_rate, sample_rate, num_samples)
        return lambda destination: audio_files.write_audio(destination, audio, sample_rate)

    for_each(args.inputs, args.output, ".wav", _list_codes, decode_one, args.force)


def stream(args: argparse.Namespace) -> None:
    """The frame-by-frame loop on a file, with a clock."""
    import torch

    from spectok.evaluation.realtime import stream as run

    require(0 < args.chunk_ms < math.inf, f"--chunk-ms is {args.chunk_ms:g}, but must be positive and finite")
    require(args.threads > 0, f"--threads is {args.threads}, but must be positive")
    check_output(args.output, args.force)
    tokenizer = Tokenizer.from_pretrained(args.model, args.device)
    torch.set_num_threads(args.threads)
    audio, sample_rate = audio_files.read_audio(standard(args.input, "rb"))
    chunk_length = max(1, round(args.chunk_ms * tokenizer.sample_rate / 1000))
    report = run(tokenizer, audio_files.resample(audio, sample_rate, tokenizer.sample_rate), chunk_length)
    heard = audio_files.restore(report.audio, tokenizer.sample_rate, sample_rate, len(audio))
    audio_files.write_audio(standard(args.output, "wb"), heard, sample_rate)
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


def info(args: argparse.Namespace) -> None:
    """What a .spt file or a model is."""
    target = Path(args.target)
    named_as_file = target.suffix == ".spt" or os.sep in args.target  # if it is missing, no model was meant
    if target.is_file() or (named_as_file and not target.exists()):
        header, codes = container.read_codes(args.target)
        assert header.num_samples is not None
        seconds, size = header.num_samples / header.sample_rate, target.stat().st_size
        facts: dict[str, Any] = {
            "model": f"{header.model}, weights {header.weight_hash}",
            "audio": f"{header.num_samples} samples at {header.sample_rate} Hz, {seconds:.3f} s",
            "codes": f"{len(codes)} of {header.bits_per_code} bits, {header.tokens_per_frame} per frame",
            "size": f"{size} bytes" + (f", {8 * size / seconds:.0f} bits/s" if seconds else ""),
        }
    else:
        from spectok.model.codec import Codec

        model = pretrained.find(args.target)
        config, codec = model.config, Codec(model.config)
        macs = codec.macs_per_second()
        facts = {
            "model": config.name,
            "weights": f"{model.weights.stat().st_size / 1e6:.1f} MB, SHA-256 {model.sha256}",
            "sample rate": f"{config.sample_rate} Hz",
            "codes": f"{config.frame_rate:g} frames/s of {config.quantizer.tokens_per_frame} tokens, "
            f"one codebook of {config.quantizer.codebook_size}",
            "bitrate": f"{config.bitrate:g} bits/s",
            "latency": f"{config.latency_samples} samples = {1000 * config.latency_samples / config.sample_rate:g} ms",
            "parameters": f"{codec.num_parameters:,}",
            "MACs": f"{macs['encoder'] / 1e6:.0f} M/s encoder, {macs['decoder'] / 1e6:.0f} M/s decoder",
            "licence": "CC BY 4.0 for released weights; see the model card beside them",
        }
    for name, value in facts.items():
        print(f"{name:<12}{value}")


def inspect(args: argparse.Namespace) -> None:
    """A picture of what a model looks at."""
    from spectok.model.codec import Codec
    from spectok.model.weights import load_weights

    try:
        from spectok.evaluation.inspection import MAX_SECONDS, draw_inspection
        from spectok.evaluation.inspection import inspect as run
    except ModuleNotFoundError as error:
        raise _missing("inspect", error) from error
    require(Path(args.output).suffix == ".png", f"cannot write {args.output}: its name must end in .png")
    check_output(args.output, args.force)
    model = pretrained.find(args.model)
    codec = Codec(model.config).eval()
    load_weights(codec, model)
    audio, sample_rate = audio_files.read_audio(args.input)
    seen = run(codec, audio_files.resample(audio, sample_rate, model.config.sample_rate))
    title = f"{model.config.name}: {Path(args.input).name}"
    title += f", the first {MAX_SECONDS:g} s" if len(audio) > MAX_SECONDS * sample_rate else ""
    draw_inspection(args.output, seen, model.config.sample_rate, title)


def _missing(command: str, error: ModuleNotFoundError) -> InputError:
    return InputError(f"spectok {command} needs more packages: pip install 'spectok[eval]' ({error})")


def evaluate(args: argparse.Namespace) -> None:
    """Quality, bits and speed over a folder or manifest."""
    import torch

    try:
        from spectok.evaluation.coders import Coder, SpectokCoder
        from spectok.evaluation.evaluate import evaluate as run
        from spectok.evaluation.evaluate import load_items
        from spectok.evaluation.report import markdown, write_report
        from spectok.evaluation.rivals import rival
    except ModuleNotFoundError as error:
        raise _missing("eval", error) from error
    require(args.threads > 0, f"--threads is {args.threads}, but must be positive")
    torch.set_num_threads(args.threads)
    tokenizers = [Tokenizer.from_pretrained(model, args.device) for model in args.model or pretrained.names()]
    coders: list[Coder] = [SpectokCoder(tokenizer, tokenizer.config.name) for tokenizer in tokenizers]
    coders += [rival(name) for name in args.rival]
    items = load_items(args.source, args.split)
    with tqdm(total=0, unit="file", file=sys.stderr) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        results = run(items, coders, progress, args.jobs)
    if args.out:
        write_report(results, args.out)
    print(markdown(results))


def _list_codes(folder: str) -> list[Path]:
    return sorted(Path(folder).rglob("*.spt"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="spectok", description="A streaming neural speech codec.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, function: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(function=function)
        return sub

    def network(sub: argparse.ArgumentParser, default: str | None, text: str) -> None:
        sub.add_argument("--model", default=default, help=f"released name or folder ({text})")
        sub.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 (default: cpu)")

    for name, function, text, own in (
        ("encode", encode, "audio files to .spt files", pretrained.DEFAULT),
        ("decode", decode, ".spt files to audio files", None),
    ):
        sub = command(name, function, f"{text}; - is standard input or output")
        sub.add_argument("inputs", nargs="+", metavar="IN", help="files, or folders that are searched")
        sub.add_argument("output", metavar="OUT", help="a file for one input file, else a folder")
        network(sub, own, f"default: {own}" if own else "default: the one that the file names")
        sub.add_argument("-f", "--force", action="store_true", help="overwrite existing outputs")

    sub = command("stream", stream, "run the frame-by-frame loop on a file, with a clock")
    sub.add_argument("input", metavar="IN")
    sub.add_argument("output", metavar="OUT")
    sub.add_argument("--chunk-ms", type=float, default=20.0, help="(default: %(default)g)")
    sub.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    network(sub, pretrained.DEFAULT, f"default: {pretrained.DEFAULT}")
    sub.add_argument("-f", "--force", action="store_true", help="overwrite an existing output")

    sub = command("info", info, "what a .spt file or a model is")
    sub.add_argument("target", metavar="FILE|MODEL")

    sub = command("inspect", inspect, "draw what a model looks at: attention of its queries, biases, codes, as a PNG")
    sub.add_argument("input", metavar="IN")
    sub.add_argument("output", metavar="OUT.png")
    sub.add_argument(
        "--model", default=pretrained.DEFAULT, help=f"released name or folder (default: {pretrained.DEFAULT})"
    )
    sub.add_argument("-f", "--force", action="store_true", help="overwrite an existing output")

    sub = command("eval", evaluate, "measure quality, bits and speed over a folder or manifest")
    sub.add_argument("source", metavar="FOLDER|MANIFEST")
    sub.add_argument("--model", action="append", default=[], help="may be repeated (default: every released model)")
    sub.add_argument("--rival", action="append", default=[], help="codec2-3200, -2400, -1200 or -700C; may be repeated")
    sub.add_argument("--split", help="of the manifest (default: test)")
    sub.add_argument("--out", type=Path, help="folder for results.json and results.md")
    sub.add_argument("--jobs", type=int, default=1, help="processes that score (default: %(default)s)")
    sub.add_argument("--threads", type=int, default=1, help="CPU threads of the codec (default: %(default)s)")
    sub.add_argument("--device", default="cpu")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    args = _parser().parse_args(arguments)
    code = 0
    try:
        args.function(args)
        sys.stdout.flush()
    except InputError as error:
        print(f"spectok: {error}", file=sys.stderr)
        code = 2
    except BrokenPipeError:  # the reader has gone
        code = 1
    except OSError as error:  # files name themselves in an InputError: this is standard output
        print(f"spectok: cannot write the standard output: {why(error)}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        return 130
    try:
        sys.stdout.flush()
    except OSError:  # what it still holds would be complained about again when the interpreter closes it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code
