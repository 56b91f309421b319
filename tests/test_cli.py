import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from models import listing, released, released_codec, use_root, write_root
from numpy.typing import NDArray
from streams import Pipe

from spectok import Tokenizer, pretrained
from spectok.audio import read_audio, write_audio
from spectok.cli.main import main
from spectok.container import read_spt
from spectok.resampling import resample

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "pretrained"
    write_root(folder)
    return folder


@pytest.fixture
def tiny(root: Path, monkeypatch: pytest.MonkeyPatch) -> Tokenizer:
    """Replace the released models by two random codecs; returns the default one, `tiny-query`."""
    use_root(monkeypatch, root)
    monkeypatch.setattr(pretrained, "DEFAULT", "tiny-query")
    return Tokenizer.from_pretrained("tiny-query")


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def noise(*shape: int) -> NDArray[np.float32]:
    return (0.2 * np.random.default_rng(sum(shape)).standard_normal(shape)).astype(np.float32)


def write(path: str | Path, length: int = 500, rate: int = 16000) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise(length), rate)


def expected_audio(tokenizer: Tokenizer, codes: NDArray[np.int64], length: int, rate: int) -> NDArray[np.int16]:
    """The expected result of decoding to `length` samples at `rate`, in 16 bits."""
    audio: NDArray[np.float32] = tokenizer.decode(codes, length, rate)
    return np.rint(32768 * audio).clip(-32768, 32767).astype(np.int16)


@pytest.mark.parametrize("name", ["in.wav", "in.flac"])
@pytest.mark.parametrize(
    ("shape", "rate"), [((1,), 16000), ((31,), 16000), ((33, 2), 8000), ((1001, 2), 44100), ((4800,), 48000)]
)
def test_round_trip_keeps_length_and_rate(
    tiny: Tokenizer,
    name: str,
    shape: tuple[int, ...],
    rate: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("spectok.audio._mixed_notice_given", False)
    soundfile.write(name, noise(*shape), rate)
    assert main(["encode", name, "codes.spt"]) == 0
    assert main(["decode", "codes.spt", "out.wav"]) == 0
    header, codes = read_spt("codes.spt")
    assert (header.model, header.weight_hash) == ("", tiny.weight_hash)  # the hash says which released model it is
    assert (header.num_samples, header.sample_rate) == (shape[0], rate)
    np.testing.assert_array_equal(codes, tiny.encode(name))
    audio, out_rate = soundfile.read("out.wav", dtype="int16")
    assert out_rate == rate
    np.testing.assert_array_equal(audio, expected_audio(tiny, codes, shape[0], rate))
    assert listing(".") == ["codes.spt", name, "out.wav"]
    assert capsys.readouterr() == ("", "spectok: mixed 2 channels to mono\n" if len(shape) > 1 else "")


def test_long_files_run_in_blocks(tiny: Tokenizer) -> None:
    write("in.wav", 16000 * 12)
    assert main(["encode", "in.wav", "codes.spt"]) == 0
    codes = read_spt("codes.spt")[1]
    assert (
        int((codes != tiny.encode("in.wav")).sum()) <= len(codes) // 500
    )  # with other blocks, rounding may change a few codes
    assert main(["decode", "codes.spt", "out.flac"]) == 0
    audio, _ = soundfile.read("out.flac", dtype="int16")
    expected = expected_audio(tiny, codes, 16000 * 12, 16000)
    np.testing.assert_allclose(audio.astype(int), expected.astype(int), rtol=0, atol=1)


def test_a_model_is_chosen_by_name_or_folder(tiny: Tokenizer, root: Path) -> None:
    write("in.wav")
    for model in ("tiny-flat", str(root / "tiny-flat")):
        assert main(["encode", "in.wav", "out.spt", "--model", model, "--force"]) == 0
        assert pretrained.named(read_spt("out.spt")[0].weight_hash) == "tiny-flat"
        assert main(["decode", "out.spt", "named.wav", "-f"]) == 0
        assert main(["decode", "out.spt", "given.wav", "-f", "--model", model]) == 0
        assert Path("named.wav").read_bytes() == Path("given.wav").read_bytes()


def test_several_files_go_into_a_folder(tiny: Tokenizer) -> None:
    for name in ("a.wav", "sub/b.flac"):
        write(name, 100 + len(name))
    assert main(["encode", "a.wav", "sub/b.flac", "out"]) == 0
    assert listing("out") == ["a.spt", "b.spt"]
    assert main(["decode", "out/a.spt", "out/b.spt", "back"]) == 0
    assert [len(read_audio(f"back/{name}.wav")[0]) for name in "ab"] == [105, 110]


def test_a_folder_keeps_its_sub_folders(tiny: Tokenizer) -> None:
    for name in ("in/a.wav", "in/x/a.flac", "in/x/y/b.wav"):
        write(name, 100 + len(name))
    (Path("in") / "notes.txt").write_text("no audio", encoding="utf-8")
    assert main(["encode", "in", "out"]) == 0
    assert listing("out") == ["a.spt", "x/a.spt", "x/y/b.spt"]
    assert main(["decode", "out", "back"]) == 0
    assert listing("back") == ["a.wav", "x/a.wav", "x/y/b.wav"]
    assert [len(read_audio(Path("back") / name)[0]) for name in listing("back")] == [108, 111, 112]


@pytest.mark.parametrize("name", ["in/a.wav", "in/x/a.wav"])
def test_a_folder_of_one_file_makes_a_folder(tiny: Tokenizer, name: str) -> None:
    write(name)
    assert main(["encode", "in", "out"]) == 0
    assert main(["decode", "out", "back"]) == 0
    assert listing("back") == [name.removeprefix("in/")]


def test_one_file_into_a_folder_that_exists(tiny: Tokenizer) -> None:
    write("a.wav")
    Path("out").mkdir()
    assert main(["encode", "a.wav", "out"]) == 0
    assert listing("out") == ["a.spt"]


def test_force_overwrites(tiny: Tokenizer) -> None:
    write("in.wav")
    Path("out.spt").write_bytes(b"old")
    assert main(["encode", "in.wav", "out.spt", "--force"]) == 0
    np.testing.assert_array_equal(read_spt("out.spt")[1], tiny.encode("in.wav"))
    Path("out.wav").write_bytes(b"old")
    assert main(["decode", "out.spt", "out.wav", "-f"]) == 0
    assert len(read_audio("out.wav")[0]) == 500


def piped(monkeypatch: pytest.MonkeyPatch, arguments: list[str], content: bytes = b"") -> tuple[int, bytes]:
    """Run with a standard input and output that cannot seek; returns the exit code and the output."""
    sink = Pipe()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Pipe(content))))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(sink), write_through=True))
    code = main(arguments)
    return code, bytes(sink.written)


def test_standard_input_and_output(tiny: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of the same codes: they differ in their stream ids. A pipe's WAV does not know its length at the start."""
    write("in.wav", 777, 22050)
    assert main(["encode", "in.wav", "file.spt"]) == main(["decode", "file.spt", "file.wav"]) == 0
    wav, spt = Path("in.wav").read_bytes(), Path("file.spt").read_bytes()

    def codes_of(content: bytes) -> Any:
        header, codes = read_spt(io.BytesIO(content))
        return (replace(header, stream_id=None), codes.tolist())

    for arguments, content in ((["encode", "-", "-"], wav), (["encode", "in.wav", "-"], b"")):
        code, out = piped(monkeypatch, arguments, content)
        assert (code, codes_of(out)) == (0, codes_of(spt))
    assert piped(monkeypatch, ["encode", "-", "new.spt"], wav) == (0, b"")
    assert codes_of(Path("new.spt").read_bytes()) == codes_of(spt)
    decoded = Path("file.wav").read_bytes()
    unknown = decoded[:4] + b"\xff" * 4 + decoded[8:40] + b"\xff" * 4 + decoded[44:]
    assert piped(monkeypatch, ["decode", "-", "-"], spt) == (0, unknown)
    assert piped(monkeypatch, ["decode", "file.spt", "-"]) == (0, decoded)
    assert piped(monkeypatch, ["decode", "-", "new.wav"], spt) == (0, b"")
    assert Path("new.wav").read_bytes() == decoded


def test_a_closed_output_pipe_is_no_error(
    tiny: Tokenizer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write("in.wav", 16000)
    assert main(["encode", "in.wav", "file.spt"]) == 0
    for arguments in (["encode", "in.wav", "-"], ["decode", "file.spt", "-"], ["info", "file.spt"]):
        reader, writer = os.pipe()
        os.close(reader)
        with monkeypatch.context() as patch, open(writer, "w", encoding="utf-8") as stream:
            patch.setattr(sys, "stdout", stream)
            assert main(arguments) == 1
    assert capsys.readouterr().err == ""


def test_a_pipe_of_two_processes() -> None:
    """The default model, with encoder and decoder in two processes."""
    clip = DATA / "vctk_p259_48k.flac"
    command, environment = [sys.executable, "-m", "spectok"], {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([*command, "encode", "-", "-"], -1, None, -1, -1, env=environment) as encoder:
        decoder = subprocess.Popen([*command, "decode", "-", "-"], -1, None, encoder.stdout, -1, env=environment)
        assert encoder.stdin is not None and encoder.stdout is not None
        encoder.stdin.write(clip.read_bytes())
        encoder.stdin.close()
        encoder.stdout.close()
        wav, _ = decoder.communicate(timeout=120)
    assert (encoder.wait(), decoder.returncode) == (0, 0)
    audio, rate = soundfile.read(io.BytesIO(wav), dtype="int16")
    original, _ = read_audio(clip)
    assert (len(audio), rate) == (len(original), 48000)
    tokenizer = released(pretrained.DEFAULT)
    expected = expected_audio(tokenizer, tokenizer.encode(clip), len(original), 48000)
    np.testing.assert_allclose(audio.astype(int), expected.astype(int), rtol=0, atol=2)


STREAM = re.compile(
    r"model       (?P<model>\S+), (?P<bitrate>\d+) bits/s\n"
    r"latency     (?P<latency>\d+) samples = (?P<ms>\d+) ms, algorithmic\n"
    r"chunks      (?P<chunks>\d+) of (?P<chunk_ms>[\d.]+) ms: p50 (?P<p50>[\d.]+), p95 (?P<p95>[\d.]+), "
    r"p99 (?P<p99>[\d.]+) ms\n"
    r"rtf         (?P<rtf>[\d.]+) encoding and decoding, 1 thread\n"
    r"difference  (?P<different>\d+) of (?P<codes>\d+) codes from offline, audio by at most (?P<audio>\S+)\n"
)


def facts_of_stream(text: str) -> dict[str, str]:
    """The values that `stream` prints, by the names in `STREAM`."""
    found = STREAM.fullmatch(text)
    assert found is not None
    return found.groupdict()


def test_stream_reports_latency_speed_and_no_difference(
    speech: NDArray[np.float32], capsys: pytest.CaptureFixture[str]
) -> None:
    """The default model on 1 s of speech at another sample rate than its own."""
    write_audio("in.wav", resample(speech[8000:24000], 16000, 44100), 44100)
    assert main(["stream", "in.wav", "out.wav", "--chunk-ms", "30"]) == 0
    report = facts_of_stream(capsys.readouterr().out)
    assert (report["model"], report["bitrate"]) == (pretrained.DEFAULT, "4000")
    assert (report["latency"], report["ms"]) == ("480", "30")
    assert (report["chunks"], report["chunk_ms"]) == ("34", "30")
    assert 0 < float(report["p50"]) <= float(report["p95"]) <= float(report["p99"])
    assert float(report["rtf"]) > 0
    assert int(report["different"]) <= 2 and report["codes"] == "408"  # in float32 rounding may change a code
    assert float(report["audio"]) < 1e-5
    audio, rate = read_audio("out.wav")
    assert (len(audio), rate) == (44100, 44100)


@pytest.mark.parametrize(("chunk_ms", "chunks"), [("0.01", 321), ("10", 3), ("37.5", 1)])
def test_stream_accepts_chunks_of_any_size(
    tiny: Tokenizer, capfdbinary: pytest.CaptureFixture[bytes], chunk_ms: str, chunks: int
) -> None:
    write("in.wav", 321)
    assert main(["stream", "in.wav", "-", "--chunk-ms", chunk_ms]) == 0
    out, err = capfdbinary.readouterr()
    report = facts_of_stream(err.decode())
    assert int(report["chunks"]) == chunks
    assert int(report["codes"]) == len(tiny.encode("in.wav"))
    assert len(soundfile.read(io.BytesIO(out))[0]) == 321


def table(text: str) -> dict[str, str]:
    """Lines of a name and a value, as `info` prints them."""
    return {line[:12].rstrip(): line[12:] for line in text.splitlines()}


def test_info_of_a_file(tiny: Tokenizer, capsys: pytest.CaptureFixture[str]) -> None:
    write("in.wav", 2205, 22050)
    assert main(["encode", "in.wav", "out.spt"]) == main(["info", "out.spt"]) == 0
    size = Path("out.spt").stat().st_size
    assert size == 77 + 38
    assert table(capsys.readouterr().out) == {
        "format": "version 2, 800 frames in a packet",
        "model": f"tiny-query, weights {tiny.weight_hash}",
        "audio": "2205 samples at 22050 Hz, 0.100 s",
        "codes": "102 of 6 bits, 2 per frame",
        "size": f"{size} bytes, {80 * size} bits/s",
        "overhead": "38 bytes = 49.4 % more than the codes",
    }


@pytest.mark.parametrize("by_folder", [False, True])
def test_info_of_a_model(capsys: pytest.CaptureFixture[str], by_folder: bool) -> None:
    name = "spectok-16k-800"
    assert main(["info", str(pretrained.root() / name) if by_folder else name]) == 0
    facts, codec = table(capsys.readouterr().out), released_codec(name)
    assert facts["model"] == name
    assert facts["codes"] == "50 frames/s of 1 tokens, one codebook of 65536"
    assert (facts["sample rate"], facts["bitrate"]) == ("16000 Hz", "800 bits/s")
    assert facts["latency"] == "480 samples = 30 ms"
    assert facts["parameters"] == f"{codec.num_parameters:,}"
    assert facts["weights"].endswith(f"SHA-256 {pretrained.find(name).sha256}")
    macs = [round(value / 1e6) for value in codec.macs_per_second().values()]
    assert facts["MACs"] == f"{macs[0]} M/s encoder, {macs[1]} M/s decoder"


def test_info_of_a_file_as_json(tiny: Tokenizer, capsys: pytest.CaptureFixture[str]) -> None:
    write("in.wav", 2205, 22050)
    assert main(["encode", "in.wav", "out.spt"]) == main(["info", "out.spt", "--json"]) == 0
    size = Path("out.spt").stat().st_size
    assert json.loads(capsys.readouterr().out) == {
        "format": 2,
        "model": "tiny-query",
        "weight_hash": tiny.weight_hash,
        "sample_rate": 22050,
        "num_samples": 2205,
        "seconds": 0.1,
        "num_codes": 102,
        "bits_per_code": 6,
        "tokens_per_frame": 2,
        "frames_per_packet": 800,
        "num_bytes": size,
        "bits_per_second": pytest.approx(80 * size, rel=1e-12),
        "overhead_percent": pytest.approx(100 * 38 / 77, rel=1e-12),
    }


def test_info_of_a_model_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "spectok-16k-800", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["sha256"] == pretrained.find("spectok-16k-800").sha256
    assert (facts["bits_per_second"], facts["latency_samples"], facts["codebook_size"]) == (800.0, 480, 65536)
    assert facts["macs_per_second"].keys() == {"encoder", "decoder"}


def test_eval_writes_and_prints_its_results(capsys: pytest.CaptureFixture[str]) -> None:
    """Both fixture clips, one released model."""
    arguments = ["eval", str(DATA), "--model", "spectok-16k-800", "--out", "results"]
    assert main(arguments) == 0
    assert listing("results") == ["results.json", "results.md"]
    printed, written = capsys.readouterr().out, Path("results/results.md").read_text(encoding="utf-8")
    assert printed.rstrip("\n") == written.rstrip("\n")
    assert re.search(r"^\| spectok-16k-800 \|", printed, re.MULTILINE)
    results = json.loads(Path("results/results.json").read_text(encoding="utf-8"))
    coder = results["coders"]["spectok-16k-800"]
    assert [file["file"] for file in results["files"]] == ["librispeech_84_16k.flac", "vctk_p259_48k.flac"]
    group = coder["groups"]["*"]
    assert group["files"] == 2
    assert 800 <= group["payload_bits_per_second"] < 820  # the last frame is a partial one
    ratio = group["disk_bits_per_second"] / group["payload_bits_per_second"]
    assert 0.90 < ratio < 0.99  # with entropy coding, and 40 bytes of overhead on 3.5 s
    assert 1 < group["pesq"]["mean"] < 4.64 and 0.5 < group["stoi"]["mean"] < 1


def test_eval_measures_every_released_model_by_default(
    tiny: Tokenizer, speech: NDArray[np.float32], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("in").mkdir()
    write_audio("in/a.wav", speech[8000:24000], 16000)
    assert main(["eval", "in", "--out", "results"]) == 0
    results = json.loads(Path("results/results.json").read_text(encoding="utf-8"))
    assert list(results["coders"]) == ["tiny-flat", "tiny-query"]
    assert "tiny-flat minus tiny-query" in capsys.readouterr().out
