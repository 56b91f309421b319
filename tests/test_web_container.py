"""The npm package in web/ reads, writes and refuses the same .spt and WAV files as this one, byte for byte."""

import base64
import hashlib
import io
import json
import random
import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from container_cases import FORMAT, TINY, TINY1_HEX, TINY_HEX, crafted, make_codes, to_bytes
from numpy.typing import NDArray
from streams import wav_bytes

from benchmarks import fuzz, fuzz_targets
from spectok import pretrained
from spectok.audio import read_audio, write_audio
from spectok.container import Header, Reader, read_spt
from spectok.entropy import EntropyModel
from spectok.errors import InputError
from spectok.wav import read_wav_header

WEB = Path(__file__).parent.parent / "web"
ESBUILD = WEB / "node_modules" / ".bin" / "esbuild"
NODE = shutil.which("node") or ""
TINY_MODEL = EntropyModel.from_bytes((FORMAT.parent / "entropy" / "tiny-entropy.dat").read_bytes(), 2)

pytestmark = [
    pytest.mark.skipif(not NODE, reason="the program node is missing"),
    pytest.mark.skipif(not ESBUILD.exists(), reason="npm ci has not been run in web/"),
]


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The entropy models of these tests are known."""
    for model in entropy_models():
        monkeypatch.setitem(pretrained._entropy_models, model.id, model)


def entropy_models() -> list[EntropyModel]:
    released = [pretrained.find(name).entropy_model() for name in pretrained.models()]
    return [TINY_MODEL, *(model for model in released if model is not None)]


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that runs the TypeScript, in one file."""
    path = tmp_path_factory.mktemp("web") / "cases.mjs"
    source = WEB / "test" / "tools" / "cases.ts"
    options = ["--bundle", "--platform=node", "--format=esm", "--log-level=warning", f"--outfile={path}"]
    subprocess.run([ESBUILD, source, *options], check=True, cwd=WEB)
    return path


def run(script: Path, **task: Any) -> dict[str, Any]:
    """What the npm package does; no error may be any but an InputError."""
    models = [{"content": base64_of(m.to_bytes()), "tokensPerFrame": m.tokens_per_frame} for m in entropy_models()]
    whole = {"models": models, "files": [], "writes": [], "wavs": [], "sounds": []} | task
    script.with_suffix(".task").write_text(json.dumps(whole), encoding="utf-8")
    subprocess.run([NODE, script, script.with_suffix(".task"), script.with_suffix(".result")], check=True, timeout=300)
    results: dict[str, Any] = json.loads(script.with_suffix(".result").read_text(encoding="utf-8"))
    failed = [result["failed"] for kind in results.values() for result in kind if "failed" in result]
    assert failed == []
    return results


def base64_of(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(map(str.capitalize, rest))


def as_json(header: Header) -> dict[str, Any]:
    return {camel(field.name): getattr(header, field.name) for field in fields(header)}


def random_headers(count: int, seed: int) -> Iterator[Header]:
    """Headers of all kinds; two of three have entropy coding."""
    draw = random.Random(seed)
    models = entropy_models()
    for number in range(count):
        common: dict[str, Any] = {
            "model": draw.choice(["", "m", "spectok-16k-800", "A._-" * 16]),
            "weight_hash": draw.randbytes(8).hex(),
            "sample_rate": draw.choice([1000, 8000, 16000, 44100, 48000, 192000, draw.randrange(1000, 192001)]),
            "stream_id": draw.randbytes(4).hex(),
        }
        if number % 3 == 0:
            size = draw.choice([2, 3, 1000, 1024, 65536, 1 << 24, draw.randrange(2, 1 << 24)])
            tokens, per_packet = draw.randrange(1, 10), draw.choice([0, 1, 2, draw.randrange(1, 60)])
            yield Header(codebook_size=size, tokens_per_frame=tokens, frames_per_packet=per_packet, **common)
            continue
        model = draw.choice(models)
        usual = Header(
            codebook_size=model.codebook_size,
            tokens_per_frame=model.tokens_per_frame,
            entropy_id=model.id,
            packet_bytes=draw.choice([0, 65536, draw.randrange(70, 300), draw.randrange(70, 3000)]),
            **common,
        )
        most = usual.frames_per_packet
        yield replace(usual, frames_per_packet=draw.choice([most, most, 1, draw.randrange(1, most + 1)]))


def natural_codes(header: Header, num_frames: int, seed: int) -> NDArray[np.int64]:
    """Random codes, some of which repeat for a while, as those of silence do."""
    codes: NDArray[np.int64] = make_codes(header, num_frames, seed).reshape(num_frames, header.tokens_per_frame)
    if seed % 2 and num_frames > 20:
        codes[5 : num_frames // 2] = codes[4]
    return codes.ravel()


def random_files(count: int, seed: int) -> list[tuple[Header, NDArray[np.int64]]]:
    draw, found = random.Random(seed), []
    for number, header in enumerate(random_headers(count, seed)):
        num_frames = draw.choice([0, 1, 2, draw.randrange(3, 50), draw.randrange(50, 400)])
        header = replace(header, num_samples=draw.randrange(num_frames * header.sample_rate + 1))
        found.append((header, natural_codes(header, num_frames, number)))
    return found


def test_random_files_are_read_and_written_with_the_same_bytes(script: Path) -> None:
    """In pieces of any length."""
    cases = random_files(450, 0)
    contents = [to_bytes(header, codes) for header, codes in cases]
    draw = random.Random(1)
    pieces = [np.split(codes, sorted(draw.choices(range(len(codes) + 1), k=3))) for _, codes in cases]
    writes = [
        {"header": as_json(header), "pieces": [piece.tolist() for piece in split]}
        for (header, _), split in zip(cases, pieces, strict=True)
    ]
    results = run(script, files=list(map(base64_of, contents)), writes=writes)
    for (header, codes), content, read, written in zip(
        cases, contents, results["files"], results["writes"], strict=True
    ):
        assert base64.b64decode(written["content"]) == content
        assert read["codes"] == codes.tolist()
        assert read["header"] == as_json(header)
    assert sum(header.version == 3 for header, _ in cases) == 300
    assert sum(len(codes) > 0 for _, codes in cases) > 300


# Damage.


def damaged_files(content: bytes, seed: int) -> Iterator[bytes]:
    """A file with changed bits, cuts, additions, another version, and packets swapped, repeated or left out."""
    draw = random.Random(seed)
    for place in draw.choices(range(len(content)), k=12):
        changed = bytearray(content)
        changed[place] ^= 1 << draw.randrange(8)
        yield bytes(changed)
        yield content[:place]
    yield from (content[:-1], content + b"\0", content + content)
    yield from (content[:4] + bytes([version]) + content[5:] for version in range(5) if version != content[4])
    with Reader(io.BytesIO(content)) as reader:
        first, size = reader._body, reader._size
    count = (len(content) - first) // size
    for _ in range(3 if count > 1 else 0):
        one, other = (first + size * index for index in draw.sample(range(count), 2))
        swapped = bytearray(content)
        swapped[one : one + size] = content[other : other + size]
        swapped[other : other + size] = content[one : one + size]
        yield bytes(swapped)
        yield content[:one] + content[one + size :]
        yield content[:one] + content[other:]


def outcome(content: bytes) -> tuple[dict[str, Any], list[int]] | None:
    """What Python reads, or None if it refuses."""
    try:
        header, codes = read_spt(io.BytesIO(content))
    except InputError:
        return None
    return as_json(header), codes.tolist()


def compare_reading(script: Path, contents: list[bytes]) -> int:
    """Check that both read the same, or refuse; returns how many files are read."""
    expected = list(map(outcome, contents))
    found = run(script, files=list(map(base64_of, contents)))["files"]
    for content, ours, theirs in zip(contents, expected, found, strict=True):
        assert (None if "refused" in theirs else (theirs["header"], theirs["codes"])) == ours, content.hex()
    return sum(read is not None for read in expected)


def golden_contents() -> list[bytes]:
    paths = [*sorted(FORMAT.glob("*.spt")), FORMAT.parent / "entropy" / "tiny-version3.spt"]
    return [path.read_bytes() for path in paths]


def test_damaged_files_are_read_or_refused_alike(script: Path) -> None:
    wholes = [bytes.fromhex(TINY_HEX), bytes.fromhex(TINY1_HEX), *golden_contents()]
    wholes += [to_bytes(header, codes) for header, codes in random_files(60, 2)]
    assert compare_reading(script, wholes) == len(wholes)
    damaged = [bad for seed, whole in enumerate(wholes) for bad in damaged_files(whole, seed) if bad != whole]
    assert len(damaged) > 2000
    assert compare_reading(script, damaged) == 0


def test_every_damaged_byte_is_refused(script: Path) -> None:
    contents = []
    for whole in (bytes.fromhex(TINY_HEX), bytes.fromhex(TINY1_HEX)):
        for place in range(len(whole)):
            for flip in (1, 2, 16, 64, 128, 255):
                contents.append(whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :])
            contents.append(whole[:place])
    assert compare_reading(script, contents) == 0


def test_mutated_files_with_true_checksums_are_read_or_refused_alike(script: Path) -> None:
    """Of all versions; false fields reach the checks behind the checksums."""
    wholes = [*golden_contents(), *fuzz_targets._spt_seeds()]
    wholes += [to_bytes(header, codes) for header, codes in random_files(120, 3)]
    draw = random.Random(4)
    mutated = [fuzz_targets._with_checksums(fuzz.mutated(draw.choice(wholes), draw)) for _ in range(4000)]
    assert 400 < compare_reading(script, mutated) < 3600


def test_packets_of_other_files_are_read_or_refused_alike(script: Path) -> None:
    """With the same stream id and place, whose digest tells them apart; and packets that begin at another frame."""
    contents = []
    for seed in range(20):
        header = Header("tiny", "0123456789abcdef", 16000, 1024, 2, 2, 100, "a1b2c3d4")
        coded = replace(header, version=0, codebook_size=TINY_MODEL.codebook_size, entropy_id=TINY_MODEL.id)
        coded = replace(coded, packet_bytes=64, frames_per_packet=0)
        for kind in (header, coded):
            one, other = (to_bytes(kind, make_codes(kind, 60, 2 * seed + number)) for number in range(2))
            with Reader(io.BytesIO(one)) as reader:
                first, size = reader._body, reader._size
            for index in range(3):
                place = first + index * size
                mixed = one[:place] + other[place : place + size] + one[place + size :]
                tail = one[:place] + other[place:]
                for content in (mixed, tail):
                    contents += [content, content[:-4] + hashlib.sha256(content[:-4]).digest()[:4]]
    read = compare_reading(script, contents)
    assert 0 < read < len(contents)
    empty = crafted(TINY)
    assert compare_reading(script, [empty, empty + bytes(10), bytes(40), b"", b"\xa5SPT"]) == 0


# WAV.


def stream_of(samples: NDArray[Any], rate: int, subtype: str, format: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=format, subtype=subtype)
    return buffer.getvalue()


def with_chunks(content: bytes, before: list[tuple[bytes, bytes]], after: list[tuple[bytes, bytes]]) -> bytes:
    """A WAV with further chunks before the format and after the samples."""

    def packed(chunks: list[tuple[bytes, bytes]]) -> bytes:
        padded = (name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2) for name, body in chunks)
        return b"".join(padded)

    body = content[12:] + bytes(len(content) % 2)
    whole = packed(before) + body + packed(after)
    return b"RIFF" + struct.pack("<I", 4 + len(whole)) + b"WAVE" + whole


def whole_wavs() -> list[bytes]:
    draw, found = np.random.default_rng(5), []
    for subtype in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"):
        for channels in (1, 2, 3, 5, 8, 9, 20, 200):
            length, rate = int(draw.integers(1, 200)), int(draw.choice([8000, 16000, 44100, 192000]))
            samples = draw.uniform(-1, 1, (length, channels))
            if subtype in ("FLOAT", "DOUBLE") and channels < 9:
                samples *= 3
            for format in ("WAV", "WAVEX"):
                found.append(stream_of(samples, rate, subtype, format))
    chunks = [(b"LIST", b"INFOINAM\x04\0\0\0abc\0"), (b"odd ", b"abc"), (b"junk", bytes(100))]
    found += [with_chunks(content, chunks[1:], chunks) for content in found[::7]]
    return found


def wav_outcome(content: bytes) -> tuple[int, bytes] | None:
    """What Python reads, or None if it refuses; or if it leaves the header to libsndfile, as of a compressed WAV."""
    source = io.BytesIO(content)
    if read_wav_header(source.read)[0] is None:
        return None
    try:
        audio, rate = read_audio(io.BytesIO(content))
    except InputError:
        return None
    return rate, np.asarray(audio, "<f4").tobytes()


def compare_wavs(script: Path, contents: list[bytes]) -> int:
    """Check that both read the same samples, bit for bit, or refuse; returns how many files are read."""
    expected = list(map(wav_outcome, contents))
    found = run(script, wavs=list(map(base64_of, contents)))["wavs"]
    for content, ours, theirs in zip(contents, expected, found, strict=True):
        read = None if "refused" in theirs else (theirs["sampleRate"], base64.b64decode(theirs["audio"]))
        assert read == ours, (content[:80].hex(), theirs.get("refused"))
    return sum(read is not None for read in expected)


def test_wav_files_of_all_formats_are_read_alike(script: Path) -> None:
    wavs = whole_wavs()
    assert compare_wavs(script, wavs) == len(wavs) > 100
    extreme = np.array([-(2**31), 2**31 - 1, 2**24 + 1, -(2**24) - 3, 2**30 + 64, 2**30 + 192, 1, 0], np.int32)
    edges = [stream_of(extreme, 16000, subtype) for subtype in ("PCM_16", "PCM_24", "PCM_32")]
    small = np.array([1e-45, -1e-45, 1e-300, -0.0, 2.0**-149 * 1.5, 1 + 2**-24, 1 + 3 * 2**-25])
    edges += [stream_of(samples, 16000, kind) for samples in (small, small[:6].reshape(3, 2)) for kind in ("DOUBLE",)]
    edges.append(stream_of(np.full((3, 2), -0.0), 16000, "FLOAT"))
    assert compare_wavs(script, edges) == len(edges)


def test_damaged_wav_files_are_read_or_refused_alike(script: Path) -> None:
    draw, damaged = random.Random(6), []
    wholes = whole_wavs()
    for number, whole in enumerate(wholes):
        damaged += [whole[:place] for place in draw.choices(range(min(len(whole), 90)), k=2)]
        damaged += [whole[:-1], whole[: len(whole) // 2], whole + b"\0", whole + b"abcdefghijk"]
        for place in draw.choices(range(min(len(whole), 100)), k=12):
            changed = bytearray(whole)
            changed[place] = draw.choice([0, 1, 255, changed[place] ^ (1 << draw.randrange(8))])
            damaged.append(bytes(changed))
        at = whole.index(b"data") + 4
        for length in (0, 0x7FFFFFFF, 0x7FFFF000, 0x7FFFF001, 0xFFFFFFFF, 0xFFFFFF00, 0xFFFFFEFF, number + 1):
            edges = (struct.pack("<I", at - 4), struct.pack("<I", at - 3))  # before the samples, and in them
            for riff in (whole[4:8], bytes(4), b"\xff" * 4, *edges):
                damaged.append(whole[:4] + riff + whole[8:at] + struct.pack("<I", length) + whole[at + 4 :])
    wholes = [*(whole for whole in wholes if len(whole) < 3000), *fuzz_targets._wav_seeds()]
    damaged += [fuzz.mutated(draw.choice(wholes), draw) for _ in range(2000)]
    read = compare_wavs(script, damaged)
    assert len(damaged) > 5000
    assert 0.1 * len(damaged) < read < 0.9 * len(damaged)


def test_wav_files_that_cannot_be_used_are_refused_alike(script: Path) -> None:
    zeros = np.zeros(9)
    wide = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 0, b"WAVE", b"fmt ", 16, 1, 1025, 16000, 0, 2050, 16, b"data", 0)
    contents = [
        b"",
        b"This is not audio.\n" * 50,
        wav_bytes(np.zeros(0, np.int16)),
        wide + bytes(4100),
        *(wav_bytes(zeros, rate) for rate in (10, 999, 192001, 384000)),
        *(wav_bytes(np.array([0.0, value]), subtype="FLOAT") for value in (np.nan, np.inf, -np.inf, 16.001, -2e4)),
        *(wav_bytes(np.array([[0, value], [0, -value]]), subtype="FLOAT") for value in (np.inf, np.nan, 17.0)),
        wav_bytes(np.array([0.0, 1e300]), subtype="DOUBLE"),
    ]
    assert compare_wavs(script, contents) == 0
    assert compare_wavs(script, [wav_bytes(np.array([16.0, -16.0]), subtype="FLOAT")]) == 1


def test_wav_files_are_written_with_the_same_bytes(script: Path, tmp_path: Path) -> None:
    """To a file and to a stream, with halves between whole numbers, and samples that are clipped."""
    draw = np.random.default_rng(7)
    halves = (np.arange(-40, 41) / 2 / 32768).astype(np.float32)
    loud = np.array([1, -1, 2, -2, 15.9, 32767.5 / 32768, 32766.5 / 32768, -32768.5 / 32768, -0.0, 1e-40], np.float32)
    near = np.nextafter(halves, np.float32(1))
    sounds: list[NDArray[np.float32]] = [np.zeros(0, np.float32), halves, loud, near, -near]
    sounds += [draw.uniform(-1.1, 1.1, int(count)).astype(np.float32) for count in (1, 1000, 20000)]
    rates = [1000, 16000, 44100, 48000, 192000, 22050, 8000, 11025]
    task = [{"audio": base64_of(s.tobytes()), "sampleRate": rate} for s, rate in zip(sounds, rates, strict=True)]
    bad = [np.array([np.nan], np.float32), np.array([0, np.inf], np.float32), np.array([17], np.float32)]
    task += [{"audio": base64_of(audio.tobytes()), "sampleRate": 16000} for audio in bad]
    task += [{"audio": base64_of(halves.tobytes()), "sampleRate": rate} for rate in (999, 192001, 16000.5, 0)]
    results = run(script, sounds=task)["sounds"]
    for audio, rate, result in zip(sounds, rates, results, strict=False):
        write_audio(tmp_path / "a.wav", audio, rate)
        stream = io.BytesIO()
        write_audio(stream, audio, rate)
        assert base64.b64decode(result["content"]) == (tmp_path / "a.wav").read_bytes() == stream.getvalue()
    assert all("refused" in result for result in results[len(sounds) :]) and len(results) == len(sounds) + 7
