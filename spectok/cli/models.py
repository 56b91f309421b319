"""The commands about files and models: info, inspect, eval, tokens, bench and export, one function each."""

import argparse
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from spectok import audio as audio_files
from spectok import container, pretrained
from spectok.cli.files import check_output, progress
from spectok.engine import load_codec, model_size
from spectok.errors import InputError, require
from spectok.resampling import resample
from spectok.tokenizer import check_layout


def info(args: argparse.Namespace) -> None:
    """Describe a .spt file or a model, or print one line for each released model."""
    if args.target is None:
        every = {name: _of_model(name) for name in pretrained.models()}
        if args.json:
            print(json.dumps([facts for facts, _ in every.values()], indent=1))
            return
        for name, (_, lines) in every.items():
            print(f"{name:<18}{lines['bitrate']}, {lines['codes']}, {lines['latency'].split(' = ')[1]}")
        return
    target = Path(args.target)
    named_as_file = target.suffix == ".spt" or os.sep in args.target  # a file, even if it is missing
    is_file = os.path.isfile(target) or (named_as_file and not os.path.exists(target))
    facts, lines = _of_file(args.target) if is_file else _of_model(args.target)
    if args.json:
        print(json.dumps(facts, indent=1))
        return
    for name, value in lines.items():
        print(f"{name:<12}{value}")


Facts = dict[str, Any]  # the keys and values that `info --json` prints


def _of_file(path: str) -> tuple[Facts, dict[str, str]]:
    """The facts about a .spt file, all of whose checksums are verified, and the lines that `info` prints."""
    with container.Reader(path) as reader:
        if name := pretrained.named(reader.header.weight_hash):
            check_layout(reader.header, pretrained.find(name).config)
        for _ in reader:  # every packet is checked
            pass
        header, size, num_codes = reader.header, reader.num_bytes, reader.num_codes
    assert header.num_samples is not None
    model = header.model or pretrained.named(header.weight_hash) or ""
    seconds, code_bytes = header.num_samples / header.sample_rate, -(-num_codes * header.bits_per_code // 8)
    overhead = 100 * (size - code_bytes) / code_bytes if code_bytes else None
    packets = f"{header.frames_per_packet} frames in a packet"
    if header.entropy_id:
        packets = f"entropy coding, {header.packet_bytes} bytes in a packet"
    facts = {
        "format": header.version,
        "model": model,
        "weight_hash": header.weight_hash,
        "sample_rate": header.sample_rate,
        "num_samples": header.num_samples,
        "seconds": seconds,
        "num_codes": num_codes,
        "bits_per_code": header.bits_per_code,
        "tokens_per_frame": header.tokens_per_frame,
        "frames_per_packet": header.frames_per_packet,
        "num_bytes": size,
        "bits_per_second": 8 * size / seconds if seconds else None,
        "overhead_percent": overhead,
    }
    is_more = size >= code_bytes
    share = "" if overhead is None else f" = {abs(overhead):.1f} % {'more' if is_more else 'less'} than the codes"
    return facts, {
        "format": f"version {header.version}, {packets}",
        "model": f"{model or 'not a released one'}, weights {header.weight_hash}",
        "audio": f"{header.num_samples} samples at {header.sample_rate} Hz, {seconds:.3f} s",
        "codes": f"{num_codes} of {header.bits_per_code} bits, {header.tokens_per_frame} per frame",
        "size": f"{size} bytes" + (f", {8 * size / seconds:.0f} bits/s" if seconds else ""),
        "overhead" if is_more else "saved": f"{abs(size - code_bytes)} bytes{share}",
    }


def _of_model(name: str) -> tuple[Facts, dict[str, str]]:
    """The facts about a model, and the lines that `info` prints."""
    model = pretrained.find(name)
    config, (parameters, macs) = model.config, model_size(model)
    size, others = model.weights.stat().st_size, pretrained.encoders(model)
    facts = {
        "model": config.name,
        "sha256": model.sha256,
        "weight_bytes": size,
        "sample_rate": config.sample_rate,
        "frame_rate": config.frame_rate,
        "tokens_per_frame": config.quantizer.tokens_per_frame,
        "codebook_size": config.quantizer.codebook_size,
        "bits_per_second": config.bitrate,
        "latency_samples": config.latency_samples,
        "parameters": parameters,
        "macs_per_second": macs,
        "encoders": others,
    }
    return facts, {
        "model": config.name,
        "weights": f"{size / 1e6:.1f} MB, SHA-256 {model.sha256}",
        "sample rate": f"{config.sample_rate} Hz",
        "codes": f"{config.frame_rate:g} frames/s of {config.quantizer.tokens_per_frame} tokens, "
        f"one codebook of {config.quantizer.codebook_size}",
        "bitrate": f"{config.bitrate:g} bits/s",
        "latency": f"{config.latency_samples} samples = {1000 * config.latency_samples / config.sample_rate:g} ms",
        "parameters": f"{parameters:,}",
        "MACs": f"{macs['encoder'] / 1e6:.0f} M/s encoder, {macs['decoder'] / 1e6:.0f} M/s decoder",
        "encoders": ", ".join(["its own", *others]),
        "licence": "CC BY 4.0 for released weights; see the model card beside them",
    }


def inspect(args: argparse.Namespace) -> None:
    """Draw a model's attention, biases and codes for a recording."""
    try:
        importlib.import_module("matplotlib")  # which is used when all is computed
        from spectok.evaluation.inspection import MAX_SECONDS, draw_inspection, inspect_codec
    except ModuleNotFoundError as error:
        raise _missing("inspect", error) from error
    require(Path(args.output).suffix == ".png", f"cannot write {args.output}: its name must end in .png")
    check_output(args.output, args.force)
    codec = load_codec(args.model)
    audio, sample_rate = audio_files.read_audio(args.input)
    inspection = inspect_codec(codec, resample(audio, sample_rate, codec.config.sample_rate))
    title = f"{codec.config.name}: {Path(args.input).name}"
    title += f", the first {MAX_SECONDS:g} s" if len(audio) > MAX_SECONDS * sample_rate else ""
    draw_inspection(args.output, inspection, codec.config.sample_rate, title)


def evaluate(args: argparse.Namespace) -> None:
    """Measure quality, bitrate and speed over a folder or manifest."""
    try:
        from spectok.bench.rivals import rival
        from spectok.evaluation.coders import Coder, SpectokCoder
        from spectok.evaluation.evaluate import evaluate_coders
        from spectok.evaluation.items import load_items
        from spectok.evaluation.report import markdown, write_report
    except ModuleNotFoundError as error:
        raise _missing("eval", error) from error
    _check_jobs(args)
    options = (args.device, args.engine, args.threads)
    models = args.model or pretrained.models()
    coders: list[Coder] = [SpectokCoder.from_pretrained(model, *options) for model in models]
    coders += [rival(name) for name in args.rival]
    items = load_items(args.source, args.split)
    with progress("files", "scored") as show:
        results = evaluate_coders(items, coders, show, args.jobs)
    if args.out:
        write_report(results, args.out)
    print(markdown(results))


def tokens(args: argparse.Namespace) -> None:
    """Measure the tokens of models as the vocabulary of a language model."""
    try:
        from spectok.evaluation.items import load_items
        from spectok.evaluation.report import write_results_and_page
        from spectok.evaluation.token_report import markdown
        from spectok.evaluation.tokens import measure_tokens

        importlib.import_module("tokenizers")  # to fail before the run if a package is missing
        if args.probe:
            importlib.import_module("spectok.evaluation.probes")
    except ModuleNotFoundError as error:
        raise _missing("tokens", error) from error
    require(args.files is None or args.files >= 2, f"--files is {args.files}, but must be at least 2")
    items = load_items(args.source, args.split)
    if args.files is not None:
        items = [items[number * len(items) // args.files] for number in range(min(args.files, len(items)))]
    with progress("files", "encoded") as show:
        results = measure_tokens(items, args.model or pretrained.models(), args.probe, show)
    if args.out:
        write_results_and_page(args.out, "tokens", results, markdown(results))
    print(markdown(results))


def bench(args: argparse.Namespace) -> None:
    """Compare spectok with every rival that is installed, on one HTML page."""
    try:
        from spectok.bench.decoded import decoded_files
        from spectok.bench.lineup import lineup
        from spectok.bench.page import write_pages
        from spectok.bench.run import clips_of, run_benchmark
        from spectok.evaluation.catalogue import JUDGED
        from spectok.evaluation.items import load_items
        from spectok.evaluation.report import write_report

        judged, lacking = [], {}
        if args.judges:
            from spectok.evaluation.judges import missing

            lacking = missing()
            judged = [name for name in JUDGED if name not in lacking]
    except ModuleNotFoundError as error:
        raise _missing("bench", error) from error
    for name in ("files", "judge_files"):
        value = getattr(args, name)
        require(value is None or value > 0, f"--{name.replace('_', '-')} is {value}, but must be positive")
    require(args.clips >= 0, f"--clips is {args.clips}, but must not be negative")
    _check_jobs(args)
    items, out = load_items(args.source, args.split)[: args.files], Path(args.out)
    decoded = [decoded_files(argument, items) for argument in args.decoded]
    coders, weightless, notices = lineup(args.rival, decoded)
    for name, module in lacking.items():
        notices.append(f"left out: {JUDGED[name].title} needs the package {module}: pip install 'spectok[bench]'")
    for notice in notices:
        print(notice, file=sys.stderr)
    with progress("steps", "done") as show:
        results = run_benchmark(
            items,
            coders,
            out,
            judged,
            args.jobs,
            lambda what, done, total: show(done, total),
            weightless,
            args.judge_files,
        )
    write_report(results, out)
    write_pages(results, clips_of(items, coders, out, args.clips), out)
    print(out / "report.html")


def export(args: argparse.Namespace) -> None:
    """Export the ONNX graphs of a model."""
    try:
        for module in ("onnx", "onnxscript"):  # which are used when the model is loaded
            importlib.import_module(module)
        from spectok.export.agreement import export_verified
    except ModuleNotFoundError as error:
        raise _missing("export", error) from error
    model = pretrained.find(args.model)
    folder = Path(args.out) if args.out else model.folder
    require(
        args.out or not model.index, f"{args.model} is released with its graphs; --out writes them into another folder"
    )
    require(folder.is_dir(), f"cannot write into {folder}: it is not a folder")
    files = ["encoder.onnx", "decoder.onnx"] + ([] if folder.samefile(model.folder) else ["model.safetensors"])
    for file in files:
        check_output(str(folder / file), args.force)
    audio, sample_rate = audio_files.read_audio(args.speech)
    export_verified(model, resample(audio, sample_rate, model.config.sample_rate), folder)


def _check_jobs(args: argparse.Namespace) -> None:
    require(args.jobs > 0, f"--jobs is {args.jobs}, but must be positive")


def _missing(command: str, error: ModuleNotFoundError) -> InputError:
    extra = {"inspect": "eval,torch"}.get(command, command)
    return InputError(f"spectok {command} needs more packages: pip install 'spectok[{extra}]' ({error})")
