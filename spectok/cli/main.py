"""The command line: its commands and options, its messages and its exit codes.

Invalid input prints one sentence on standard error and exits with code 2. An output file is either complete or absent.
"""

import argparse
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import NoReturn

from spectok import pretrained
from spectok.cli.bulk import tokenize
from spectok.cli.checks import repair, verify
from spectok.cli.codec import decode, encode, live, stream
from spectok.cli.files import Stopped
from spectok.cli.models import bench, evaluate, export, info, inspect, tokens
from spectok.cli.serving import serve, web
from spectok.engine import ENGINES
from spectok.errors import InputError, shown
from spectok.files import why

EXAMPLES = {  # at the end of each command's help
    "encode": """  spectok encode speech.wav speech.spt
  spectok encode recordings/ codes/ --jobs 4 --skip-existing
  cat speech.wav | spectok encode - - --model spectok-16k-800 > speech.spt
  arecord -t raw -f S16_LE -r 16000 | spectok encode - - --raw --packet-ms 100 > live.spt""",
    "decode": """  spectok decode speech.spt speech.wav
  spectok decode codes/ decoded/ --jobs 4
  spectok decode speech.spt part.wav --start 0.5 --end 1.5
  spectok decode speech.spt fullband.wav --sample-rate 48000 --extend
  spectok decode damaged.spt rest.wav --recover
  cat speech.spt | spectok decode - - --raw | aplay -t raw -f S16_LE -r 16000""",
    "tokenize": """  spectok tokenize recordings/ --out tokens/
  spectok tokenize corpus.jsonl --out tokens/ --model spectok-16k-800 --jobs 8
  spectok tokenize shards/000.tar shards/001.tar --out tokens/ --ray""",
    "verify": """  spectok verify speech.spt
  spectok verify codes/*.spt --quiet""",
    "repair": """  spectok repair damaged.spt repaired.spt""",
    "stream": """  spectok stream speech.wav decoded.wav --chunk-ms 20""",
    "live": """  spectok live --model spectok-16k-800 --seconds 30""",
    "web": """  spectok web
  spectok web --export public/spectok""",
    "serve": """  spectok serve
  spectok serve --model spectok-16k-800 --port 8080 --workers 4 --max-streams 30
  SPECTOK_TOKEN=secret spectok serve --origin https://example.org""",
    "info": """  spectok info
  spectok info speech.spt
  spectok info spectok-16k-4k --json""",
    "inspect": """  spectok inspect speech.wav attention.png --model spectok-16k-800""",
    "eval": """  spectok eval recordings/ --model spectok-16k-4k --rival opus-6 --out results/""",
    "tokens": """  spectok tokens recordings/ --files 100 --out results/
  spectok tokens manifest.csv --model spectok-16k-800 --probe --out results/""",
    "bench": """  spectok bench recordings/ --out report/ --files 20
  spectok bench recordings/ --out report/ --decoded mine=decoded/@1.5""",
    "export": """  spectok export runs/4k/release speech.wav""",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(shown(message))


class _ClosedOutput(io.TextIOBase):
    """Stands for a standard output that was closed before the program began. Writing to it is an InputError."""

    def write(self, text: str) -> NoReturn:
        raise InputError("the standard output is closed")


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return shown(super().format(record))


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; docs/cli.md is generated from it too."""
    spectok = _Parser(prog="spectok", description="A streaming neural speech codec.")
    spectok.add_argument("--version", action="version", version=f"spectok {version('spectok')}")
    with suppress(ModuleNotFoundError):  # shtab comes with the extra "completion"
        import shtab

        shtab.add_argument_to(spectok, help="print a completion script, to be sourced in the shell")
    commands = spectok.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, function: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=f"examples:\n{EXAMPLES[name]}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        level = sub.add_mutually_exclusive_group()
        level.add_argument("-q", "--quiet", action="store_true", help="show errors only: no progress, no notices")
        level.add_argument("-v", "--verbose", action="store_true", help="print the name of each converted file")
        sub.set_defaults(function=function)
        return sub

    def network(sub: argparse.ArgumentParser, default: str | None, text: str) -> None:
        sub.add_argument("--model", default=default, help=f"released name or folder ({text})")
        engine_options(sub)

    def models(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--model",
            action="append",
            default=[],
            help="released name or folder; may be repeated (default: all released models)",
        )

    def denoise(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--denoise", action="store_true", help="use the robust encoder of a model that has one")

    def engine_options(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--engine", choices=ENGINES, help="what runs the network (default: onnx on the CPU)")
        sub.add_argument("--device", default="cpu", help="cpu, or with the engine torch cuda or cuda:1 (default: cpu)")

    for name, function, text, model in (
        ("encode", encode, "encode audio files as .spt files", pretrained.DEFAULT),
        ("decode", decode, "decode .spt files to audio files", None),
    ):
        sub = command(name, function, f"{text}; - is standard input or output")
        sub.add_argument("inputs", nargs="+", metavar="IN", help="files, or folders to search for files")
        sub.add_argument("output", metavar="OUT", help="a file if the input is one file, otherwise a folder")
        network(sub, model, f"default: {model}" if model else "default: the model that the file names")
        sub.add_argument("-f", "--force", action="store_true", help="overwrite existing outputs")
        sub.add_argument("--skip-existing", action="store_true", help="skip inputs whose outputs exist")
        sub.add_argument("--jobs", type=int, default=1, help="number of files at a time (default: %(default)s)")
        if name == "encode":
            denoise(sub)
            sub.add_argument("--raw", action="store_true", help="inputs are 16-bit little-endian mono samples")
            sub.add_argument("--rate", type=int, help="sample rate of --raw input, Hz (default: the model's)")
            sub.add_argument("--packet-ms", type=float, help="length of a packet in ms; without entropy coding")
            sub.add_argument(
                "--no-entropy-coding",
                action="store_true",
                help="store every code in the same number of bits, in version 2 of the format",
            )
        else:
            sub.add_argument("--raw", action="store_true", help="outputs are 16-bit little-endian mono samples")
            sub.add_argument("--start", type=float, help="where to begin, in seconds (default: 0)")
            sub.add_argument("--end", type=float, help="where to end, in seconds (default: the end)")
            sub.add_argument("--max-seconds", type=float, help="refuse longer outputs, in seconds (default: no limit)")
            sub.add_argument("--sample-rate", type=int, metavar="HZ", help="of the outputs (default: the originals')")
            sub.add_argument("--extend", action="store_true", help="add estimated frequencies from 8 to 20 kHz")
            sub.add_argument("--recover", action="store_true", help="accept damaged files; lost frames become silence")

    sub = command(
        "tokenize", tokenize, "encode a corpus as Parquet files of tokens; the same command goes on after a stop"
    )
    sub.add_argument(
        "sources",
        nargs="+",
        metavar="SRC",
        help="folders, manifests (.csv, .tsv, .jsonl), .tar shards, .parquet files and audio files",
    )
    sub.add_argument("--out", metavar="DIR", required=True, help="folder for the tokens")
    network(sub, pretrained.DEFAULT, f"default: {pretrained.DEFAULT}")
    sub.add_argument("--jobs", type=int, help="number of processes (default: one per core)")
    sub.add_argument(
        "--ray", action="store_true", help="run on Ray: a running cluster, or a local one with --jobs CPUs"
    )
    sub.add_argument(
        "--shard-recordings", type=int, default=1000, metavar="N", help="recordings of a shard (default: %(default)s)"
    )
    sub.add_argument("--shard-hours", type=float, metavar="H", help="end a shard earlier, at so many hours of audio")
    sub.add_argument(
        "--batch", type=int, help="recordings that are encoded together (default: 4 on the CPU, otherwise 32)"
    )
    sub.add_argument("--root", metavar="FOLDER", help="folder of the paths in manifests (default: the manifest's)")

    sub = command("verify", verify, "read .spt files whole and name each damaged packet")
    sub.add_argument("inputs", nargs="+", metavar="FILE", help=".spt files; - is standard input")

    sub = command("repair", repair, "write a valid .spt file with what is intact in a damaged one")
    sub.add_argument("input", metavar="IN", help="a .spt file; - is standard input")
    sub.add_argument("output", metavar="OUT", help="the repaired file; - is standard output")
    sub.add_argument("--model", help="released name or folder (default: the model that the file names)")
    sub.add_argument("-f", "--force", action="store_true", help="overwrite an existing output")

    sub = command("stream", stream, "encode and decode a file in chunks, like a live stream, and report the timing")
    sub.add_argument("input", metavar="IN", help="an audio file")
    sub.add_argument("output", metavar="OUT", help="file for the decoded audio, .wav or .flac")
    sub.add_argument("--chunk-ms", type=float, default=20.0, help="length of a chunk in ms (default: %(default)g)")
    denoise(sub)
    sub.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    network(sub, pretrained.DEFAULT, f"default: {pretrained.DEFAULT}")
    sub.add_argument("-f", "--force", action="store_true", help="overwrite an existing output")

    sub = command("live", live, "encode the microphone and play the decoded audio, with a level meter, until Ctrl-C")
    sub.add_argument("--seconds", type=float, help="stop after this time (default: only at Ctrl-C)")
    denoise(sub)
    network(sub, pretrained.DEFAULT, f"default: {pretrained.DEFAULT}")

    sub = command("web", web, "open a page that encodes, decodes and compares speech in the browser, until Ctrl-C")
    sub.add_argument("--port", type=int, default=0, help="port on this computer (default: one that is free)")
    sub.add_argument("--no-open", dest="open", action="store_false", help="do not open the browser")
    sub.add_argument("--export", metavar="DIR", help="write the page into a folder for any web server, and end")
    sub = command("serve", serve, "encode and decode the streams of WebSocket clients, until SIGTERM or Ctrl-C")
    sub.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    sub.add_argument("--port", type=int, default=8766, help="port, 0 for a free one (default: %(default)s)")
    models(sub)
    sub.add_argument("--workers", type=int, default=1, metavar="N", help="number of processes (default: %(default)s)")
    sub.add_argument(
        "--max-streams", type=int, default=40, metavar="N", help="clients of a worker at a time (default: %(default)s)"
    )
    sub.add_argument("--token", help="what clients must send to be accepted (default: $SPECTOK_TOKEN, or nothing)")
    sub.add_argument(
        "--idle-timeout",
        type=float,
        default=60.0,
        metavar="S",
        help="close connections on which nothing has moved for so many seconds (default: %(default)g)",
    )
    sub.add_argument(
        "--origin",
        action="append",
        default=[],
        metavar="URL",
        help="origin of web pages that may connect, besides those of this machine; may be repeated",
    )

    sub = command("info", info, "describe a .spt file or a model; without an argument, list the released models")
    sub.add_argument("target", metavar="FILE|MODEL", nargs="?", help="a file, a released name, or a folder")
    sub.add_argument("--json", action="store_true", help="print JSON, with numbers without units")

    sub = command("inspect", inspect, "draw a model's attention, biases and codes for a recording, as a PNG")
    sub.add_argument("input", metavar="IN", help="an audio file")
    sub.add_argument("output", metavar="OUT.png", help="file for the figure")
    sub.add_argument(
        "--model", default=pretrained.DEFAULT, help=f"released name or folder (default: {pretrained.DEFAULT})"
    )
    sub.add_argument("-f", "--force", action="store_true", help="overwrite an existing output")

    sub = command("eval", evaluate, "measure quality, bits and speed over a folder or manifest")
    sub.add_argument("source", metavar="FOLDER|MANIFEST", help="audio files, or a manifest.csv that names them")
    models(sub)
    sub.add_argument("--rival", action="append", default=[], help="another codec, such as opus-6; may be repeated")
    sub.add_argument("--split", help="split of the manifest (default: test)")
    sub.add_argument("--out", type=Path, help="folder for results.json and results.md")
    sub.add_argument("--jobs", type=int, default=1, help="number of scoring processes (default: %(default)s)")
    sub.add_argument("--threads", type=int, default=1, help="CPU threads of the codec (default: %(default)s)")
    engine_options(sub)

    sub = command("tokens", tokens, "measure tokens for language models: entropies, repeatability, pairs, probes")
    sub.add_argument("source", metavar="FOLDER|MANIFEST", help="audio files, or a manifest.csv that names them")
    models(sub)
    sub.add_argument("--split", help="split of the manifest (default: test)")
    sub.add_argument("--files", type=int, metavar="N", help="use N files, evenly spaced in the list (default: all)")
    sub.add_argument(
        "--probe",
        action="store_true",
        help="also probe speaker, phones and pitch, which takes minutes; speakers are read from the manifest",
    )
    sub.add_argument("--out", type=Path, help="folder for tokens.json and tokens.md")

    sub = command("bench", bench, "compare spectok with all installed rivals on an HTML page; continues earlier runs")
    sub.add_argument("source", metavar="FOLDER|MANIFEST", help="audio files, or a manifest.csv that names them")
    sub.add_argument("--out", type=Path, required=True, help="folder for report.html, abx.html and all results")
    sub.add_argument("--split", help="split of the manifest (default: test)")
    sub.add_argument("--files", type=int, metavar="N", help="use only the first N files (default: all)")
    sub.add_argument(
        "--clips", type=int, default=6, metavar="N", help="clips to listen to on the pages (default: %(default)s)"
    )
    sub.add_argument("--jobs", type=int, default=1, help="number of scoring processes (default: %(default)s)")
    sub.add_argument("--rival", action="append", metavar="NAME", help="a rival; may be repeated (default: all rivals)")
    sub.add_argument(
        "--decoded",
        action="append",
        default=[],
        metavar="NAME=FOLDER@KBPS",
        help="audio that another codec decoded, named like the originals, and its kbit/s; may be repeated",
    )
    sub.add_argument("--judge-files", type=int, metavar="N", help="number of files that judges score (default: all)")
    sub.add_argument(
        "--no-judges",
        dest="judges",
        action="store_false",
        help="leave out the judges: models of listeners' scores, speech recognition and speaker identity",
    )

    sub = command("export", export, "export a trained model as encoder.onnx and decoder.onnx")
    sub.add_argument("model", metavar="MODEL", help="folder of the model, or a released name")
    sub.add_argument("speech", metavar="SPEECH", help="a recording on which the graphs are compared with the codec")
    sub.add_argument(
        "--out",
        metavar="FOLDER",
        help="folder for the graphs and a copy of model.safetensors (default: the model's folder)",
    )
    sub.add_argument("-f", "--force", action="store_true", help="overwrite existing files")
    return spectok


@contextmanager
def _messages(args: argparse.Namespace) -> Iterator[None]:
    """Show the package's messages on standard error: errors with --quiet, everything with --verbose."""
    logger, handler = logging.getLogger("spectok"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("spectok: %(message)s"))
    before = logger.level
    logger.setLevel(logging.ERROR if args.quiet else logging.INFO if args.verbose else logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


@contextmanager
def _signals() -> Iterator[None]:
    """Turn the first SIGTERM or SIGHUP into a `Stopped`, so that temporary files are removed on the way out."""

    def stop(number: int, _: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)  # once is enough: the second must not interrupt the cleaning
        raise Stopped(number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores SIGHUP
                before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _occupy_closed_streams() -> None:
    """Open the null device in place of closed standard streams.

    Otherwise the first file that is opened would get the number of one of them, and a library's warnings would be
    written into it. A closed standard input stays None. A program that prints nothing needs no standard output.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    if sys.stdout is None:
        sys.stdout = _ClosedOutput()
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    try:
        return parser().parse_args(arguments)
    finally:  # --help and --version print and exit
        sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    _occupy_closed_streams()
    code = 0
    try:
        args = _parsed(arguments)
        with _messages(args), _signals():
            args.function(args)
        sys.stdout.flush()
    except InputError as error:
        for sentence in error.args:
            print(f"spectok: {shown(sentence)}", file=sys.stderr)
        code = 2
    except BrokenPipeError:  # the process that reads the output has ended
        code = 1
    except OSError as error:  # other files raise an InputError, so this is standard output
        print(f"spectok: cannot write the standard output: {why(error)}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Stopped as stopped:
        return 128 + stopped.signal
    try:
        sys.stdout.flush()
    except OSError:  # without this, the interpreter would report the unwritten output again at its exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code
