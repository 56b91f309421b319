"""The commands that look for damage in .spt files: verify and repair."""

import argparse
import sys
from dataclasses import replace

import numpy as np

from spectok import pretrained
from spectok.cli.decoding import kept_frames, model_of, recovered_header
from spectok.cli.files import Output, check_output, standard
from spectok.container import Header, Reader, writing_spt
from spectok.errors import InputError, require, shown
from spectok.files import file_name


def verify(args: argparse.Namespace) -> None:
    """Read every byte of .spt files and name what is damaged."""
    wrong: list[str] = []
    for name in args.inputs:
        try:
            with Reader(standard(name, "rb"), recover=True) as reader:
                rate = _frame_rate(reader)
                found = [f"packet {index} is damaged: {_place(reader, index, rate)}" for index in reader.damaged]
        except InputError as error:
            wrong += error.args
            continue
        wrong += [f"{name}: {sentence}" for sentence in found + reader.faults]
        if reader.complete and not args.quiet:
            seconds = f", {reader.num_frames / rate:.3f} s" if rate else ""
            print(f"{shown(name)}: {reader.num_frames} frames{seconds}, undamaged")
    if wrong:
        raise InputError(*wrong)


def _frame_rate(reader: Reader) -> float | None:
    """Frames per second: of the model if it is a released one, else by the length of the recording."""
    header = reader.header
    if name := pretrained.named(header.weight_hash):
        return pretrained.find(name).config.frame_rate
    if header.num_samples and reader.num_frames:
        return reader.num_frames * header.sample_rate / header.num_samples
    return None


def _place(reader: Reader, index: int, rate: float | None) -> str:
    """Which part of the recording a damaged packet held."""
    frames = reader.frames[index]
    if not rate:
        return f"frames {frames.start} to {frames.stop}"
    return f"{frames.start / rate:.3f} to {frames.stop / rate:.3f} s"


def repair(args: argparse.Namespace) -> None:
    """Write a valid file with what is intact in a damaged one."""
    output = Output(args.output)
    check_output(args.output, args.force, args.input)
    source = standard(args.input, "rb")
    with Reader(source, recover=True) as reader:
        header = reader.header
        if not reader.has_end:
            header = recovered_header(pretrained.find(model_of(header, args.model)).config, reader)
        packets, frames = list(reader), kept_frames(reader)
        require(len(packets) > 0 or reader.complete, f"cannot repair {file_name(source)}: no packet is intact")
        tokens = header.tokens_per_frame
        frame = packets[0].codes[:tokens] if packets else np.zeros(0, np.int64)  # stands for each lost one
        position, intact = 0, 0
        with writing_spt(output.open(), _fresh(header)) as writer:
            for packet in packets:
                writer.write(np.tile(frame, packet.start_frame - position))
                writer.write(packet.codes)
                intact += packet.num_frames
                position, frame = packet.stop_frame, packet.codes[-tokens:]
            writer.write(np.tile(frame, frames - position))
            writer.close(header.num_samples)
    lines = [f"{intact} frames are intact"]
    if frames > intact:
        lines.append(f"{frames - intact} lost frames repeat the frame before them, so that the rest keeps its time")
    if not reader.has_end:
        lines.append("the end is lost, and with it all frames after the last intact packet")
    print("\n".join(lines), file=sys.stderr if args.output == "-" else sys.stdout)


def _fresh(header: Header) -> Header:
    """The header of the repaired file: another stream, in packets of the usual size if the old ones are too large."""
    if header.version > 1:
        return replace(header, stream_id=None)
    return replace(header, stream_id=None, version=0, frames_per_packet=0)
