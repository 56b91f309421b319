"""Invalid input gives one sentence and exit code 2, and leaves no files behind."""

import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
import soundfile
from models import listing, use_root, write_inputs, write_root

from spectok import pretrained
from spectok.cli.main import main
from spectok.container import read_spt


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "pretrained"
    write_root(folder)
    return folder


@pytest.fixture(scope="module")
def inputs(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    with pytest.MonkeyPatch.context() as patch:
        use_root(patch, root)
        write_inputs(folder)
    return folder


@pytest.fixture(autouse=True)
def _inside(inputs: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a copy of the inputs, with two random codecs as the released models."""
    shutil.copytree(inputs, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    use_root(monkeypatch, root)
    monkeypatch.setattr(pretrained, "DEFAULT", "tiny-query")


class Fails(Protocol):
    """The type of the fixture `fails`."""

    def __call__(self, *arguments: str, lines: int = 1, leaves: Sequence[str] = ()) -> Any:
        """Return one sentence as a string, several as a list."""


@pytest.fixture
def fails(capfd: pytest.CaptureFixture[str]) -> Fails:
    """Runs a command that must fail, and returns the sentences that it prints, one per line."""

    def run(*arguments: str, lines: int = 1, leaves: Sequence[str] = ()) -> Any:
        before = {path: Path(path).read_bytes() for path in listing(".")}
        assert main(arguments) == 2
        out, err = capfd.readouterr()
        assert out == ""
        assert err.endswith("\n") and err.count("\n") == lines
        assert "Traceback" not in err
        assert sorted(set(listing(".")) - set(before)) == list(leaves)
        assert {path: Path(path).read_bytes() for path in before} == before
        sentences = re.findall(r"^spectok: (.+)$", err, re.MULTILINE)
        assert len(sentences) == lines
        return sentences if lines > 1 else sentences[0]

    return run


MISSING = "No such file or directory"
BAD_AUDIO = {
    "missing.wav": f"cannot read missing.wav: {MISSING}",
    "missing/in.wav": f"cannot read missing/in.wav: {MISSING}",
    "nul\0l.wav": "cannot read nul\\x00l.wav: embedded null byte",
    "empty.wav": "empty.wav is empty",
    "text.wav": "text.wav is not an audio file of a known format",
    "query.spt": "query.spt is not an audio file of a known format",
    "no samples.wav": "no samples.wav holds no samples",
    "nan.wav": "nan.wav has samples that are not finite (NaN or infinity)",
}
BAD_CODES = {
    "missing.spt": f"cannot read missing.spt: {MISSING}",
    "empty.spt": "cannot read empty.spt: it is empty",
    "good.wav": "cannot read good.wav: it is not a .spt file",
    "random.spt": "cannot read random.spt: it is not a .spt file",
    "version.spt": "cannot read version.spt: it has format version 9, and this program reads versions 1 to 3",
    "head.spt": "cannot read head.spt: its header is damaged or cut off",
    "cut.spt": "cannot read cut.spt: it is cut off, or was never finished, or its end is damaged",
    "flipped.spt": "cannot read flipped.spt: its packet 0 is damaged or cut off",
    "more.spt": "cannot read more.spt: it is cut off, or was never finished, or its end is damaged",
    "digest.spt": "cannot read digest.spt: the digest at its end is not that of the file",
}


@pytest.mark.parametrize("name", BAD_AUDIO)
@pytest.mark.parametrize("command", ["encode", "stream"])
def test_bad_audio(fails: Fails, command: str, name: str) -> None:
    assert fails(command, name, "out.wav") == BAD_AUDIO[name]


def test_audio_with_an_impossible_peak(fails: Fails) -> None:
    assert fails("encode", "loud.wav", "out.spt").startswith("loud.wav has a peak of ")


@pytest.mark.parametrize("name", BAD_CODES)
def test_bad_codes(fails: Fails, name: str) -> None:
    assert fails("decode", name, "out.wav") == BAD_CODES[name]
    if Path(name).is_file():
        assert fails("info", name) == BAD_CODES[name]


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        (
            "unknown.spt",
            [],
            "the codes were made by the model 'nobody' with weights f{16}, which is none of the released ones "
            "tiny-flat, tiny-query; --model names its folder",
        ),
        (
            "flat.spt",
            ["--model", "tiny-query"],
            "the codes were made by tiny-flat with weights [0-9a-f]{16}, not .*",
        ),
        ("unknown.spt", ["--model", "tiny-query"], "the codes were made by nobody with weights .*"),
        ("other weights.spt", [], "the codes were made by tiny-query with weights 0{16}, not by tiny-query with .*"),
        ("few.spt", [], "few.spt holds 16 frames, but its 500 samples need 17"),
        ("larger codes.spt", [], "the codes are 2 a frame from a codebook of 1024, but those .* are 2 from one of 64"),
    ],
)
def test_codes_of_another_model(fails: Fails, name: str, options: list[str], sentence: str) -> None:
    assert re.fullmatch(sentence, fails("decode", name, "out.wav", *options))


def test_a_folder_that_a_file_names_is_not_a_model(fails: Fails, root: Path) -> None:
    """Not even if it holds the right weights: only --model gives a folder."""
    shutil.copytree(root / "tiny-query", "nobody")
    expected = "the codes were made by the model 'nobody' with weights f{16}, which is none of the released ones .*"
    assert re.fullmatch(expected, fails("decode", "unknown.spt", "out.wav"))
    assert fails("decode", "unknown.spt", "out.wav", "--model", "nobody").startswith("the codes were made by nobody ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["encode", "good.wav", "out.spt", "--model", "spectok-9"],
        ["decode", "query.spt", "out.wav", "--model", "spectok-9"],
        ["stream", "good.wav", "out.wav", "--model", "spectok-9"],
        ["eval", ".", "--model", "spectok-9"],
        ["info", "spectok-9"],
    ],
)
def test_an_unknown_model(fails: Fails, arguments: list[str]) -> None:
    expected = "there is no model 'spectok-9'; known are tiny-flat, tiny-query, or give a folder"
    assert fails(*arguments) == expected


def test_a_folder_without_a_model(fails: Fails) -> None:
    assert fails("encode", "good.wav", "out.spt", "--model", ".").startswith("cannot read config.json: ")


def test_an_unknown_device(fails: Fails) -> None:
    sentence = fails("encode", "good.wav", "out.spt", "--device", "toaster")
    assert sentence.startswith("the device 'toaster' cannot be used here: ")


@pytest.mark.parametrize("command", ["encode", "decode", "stream"])
@pytest.mark.parametrize(
    ("folder", "reason"),
    [("missing", MISSING), ("good.wav", "Not a directory"), ("missing/deeper", MISSING)],
)
def test_an_output_that_cannot_be_written(fails: Fails, command: str, folder: str, reason: str) -> None:
    source = "query.spt" if command == "decode" else "good.wav"
    output = f"{folder}/out.wav"
    assert fails(command, source, output) == f"cannot write {output}: {reason}"


@pytest.mark.parametrize("command", ["decode", "stream"])
def test_a_format_that_cannot_be_written(fails: Fails, command: str) -> None:
    source = "query.spt" if command == "decode" else "good.wav"
    assert fails(command, source, "out.mp3") == "cannot write out.mp3: its name must end in .wav or .flac"


@pytest.mark.parametrize("command", ["encode", "decode", "stream"])
def test_existing_outputs_are_kept(fails: Fails, command: str) -> None:
    source = "query.spt" if command == "decode" else "good.wav"
    Path("old.wav").write_bytes(b"old")
    assert fails(command, source, "old.wav") == "old.wav exists already; --force overwrites it"


@pytest.mark.parametrize("command", ["encode", "decode", "stream", "repair"])
def test_the_input_is_not_overwritten(fails: Fails, command: str) -> None:
    name = "query.spt" if command in ("decode", "repair") else "good.wav"
    Path("link").symlink_to(name)
    for output in (name, f"./{name}", "link"):
        assert fails(command, name, output, "--force") == f"{output} is both the input and the output"


@pytest.mark.parametrize("arguments", [["encode", "nan.wav"], ["decode", "cut.spt"], ["stream", "text.wav"]])
def test_force_keeps_an_output_whose_conversion_fails(fails: Fails, arguments: list[str]) -> None:
    Path("old.wav").write_bytes(b"old")
    fails(*arguments, "old.wav", "--force")
    assert Path("old.wav").read_bytes() == b"old"


def test_valid_inputs_are_converted_beside_invalid_ones(fails: Fails) -> None:
    sentence = fails("encode", "nan.wav", "good.wav", "out", leaves=["out/good.spt"])
    assert sentence == BAD_AUDIO["nan.wav"]
    np.testing.assert_array_equal(read_spt("out/good.spt")[1], read_spt("query.spt")[1])
    assert fails("decode", "query.spt", "cut.spt", "back", leaves=["back/query.wav"]) == BAD_CODES["cut.spt"]
    assert len(soundfile.read("back/query.wav")[0]) == 500


def test_each_invalid_input_has_its_sentence(fails: Fails) -> None:
    names = ["text.wav", "missing.wav", "empty.wav"]
    sentences = fails("encode", *names, "good.wav", "out", lines=3, leaves=["out/good.spt"])
    assert sentences == [BAD_AUDIO[name] for name in names]


def test_existing_outputs_of_several_inputs_are_kept(fails: Fails) -> None:
    assert fails("encode", "nan.wav", "good.wav", "out", leaves=["out/good.spt"])
    sentences = fails("encode", "nan.wav", "good.wav", "out", lines=2)
    assert sentences[1] == "out/good.spt exists already; --force overwrites it"


@pytest.mark.parametrize(
    ("sources", "first", "second", "output"),
    [
        (["one/a.wav", "two/a.wav"], "one/a.wav", "two/a.wav", "out/a.wav.spt"),
        (["one", "two/a.wav"], "one/a.wav", "two/a.wav", "out/a.wav.spt"),
        (["one/a.wav", "one/a.wav"], "one/a.wav", "one/a.wav", "out/a.wav.spt"),
    ],
)
def test_outputs_that_would_collide(fails: Fails, sources: list[str], first: str, second: str, output: str) -> None:
    for folder, name in (("one", "a.wav"), ("two", "a.wav"), ("two", "a.flac")):
        Path(folder).mkdir(exist_ok=True)
        soundfile.write(f"{folder}/{name}", np.zeros(100), 16000)
    assert fails("encode", *sources, "out") == f"{first} and {second} would both become {output}"
    assert not Path("out").exists()


def test_several_inputs_need_a_folder(fails: Fails) -> None:
    assert fails("encode", "good.wav", "nan.wav", "text.wav") == "text.wav is a file, but several inputs need a folder"
    assert fails("encode", "good.wav", "", "out/") == "one of the inputs is the empty path"
    expected = "several inputs cannot be mixed with standard input or output"
    assert fails("encode", "good.wav", "nan.wav", "-") == expected
    assert fails("decode", "-", "query.spt", "out") == expected
    sentences = fails("encode", "good.wav", "nan.wav", "text.wav/out", lines=2)
    assert sentences == ["cannot write text.wav/out/good.spt: Not a directory", BAD_AUDIO["nan.wav"]]


@pytest.mark.parametrize("command", ["encode", "decode"])
def test_a_folder_without_audio(fails: Fails, command: str) -> None:
    Path("folder").mkdir()
    assert fails(command, "folder", "out") == "the folder folder holds nothing to convert"
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("command", "content", "sentence"),
    [
        ("encode", b"", "<stdin> is empty"),
        ("encode", b"no audio", "<stdin> is not an audio file of a known format"),
        ("decode", b"", "cannot read <stdin>: it is empty"),
        ("decode", b"no codes", "cannot read <stdin>: it is not a .spt file"),
    ],
)
def test_bad_standard_input(
    fails: Fails, monkeypatch: pytest.MonkeyPatch, command: str, content: bytes, sentence: str
) -> None:
    buffer = io.BytesIO(content)
    buffer.name = "<stdin>"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(buffer))
    assert fails(command, "-", "out.wav") == sentence
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert fails(command, "-", "-") == sentence.replace("<stdin>", "the stream")


@pytest.mark.parametrize(
    "command",
    [
        ["encode", "-", "out.spt"],
        ["decode", "-", "out.wav"],
        ["stream", "-", "out.wav"],
        ["verify", "-"],
        ["repair", "-", "-"],
    ],
)
def test_a_closed_standard_input(fails: Fails, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert fails(*command).endswith("the standard input is closed")


PRINTING = [
    ["info"],
    ["info", "query.spt", "--json"],
    ["info", "tiny-query"],
    ["verify", "query.spt"],
    ["stream", "good.wav", "out.wav"],
    ["--help"],
    ["encode", "--help"],
    ["--version"],
    ["--print-completion", "bash"],
]


def written(command: list[str]) -> list[str]:
    """The file that a command has written, complete, before it prints."""
    return ["out.wav"] if command[0] == "stream" else []


@pytest.mark.parametrize("command", [["encode", "good.wav", "-"], ["repair", "query.spt", "-"], *PRINTING])
def test_a_closed_standard_output(fails: Fails, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert fails(*command, leaves=written(command)) == "the standard output is closed"


def test_a_closed_standard_output_that_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    for command in (["verify", "query.spt", "--quiet"], ["encode", "good.wav", "out.spt"]):
        monkeypatch.setattr(sys, "stdout", None)
        assert main(command) == 0


@pytest.mark.parametrize("command", PRINTING)
def test_the_reader_of_the_output_has_ended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with monkeypatch.context() as patch, open(writer, "w", encoding="utf-8") as stream:
        patch.setattr(sys, "stdout", stream)
        assert main(command) == 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("command", [["encode", "good.wav", "-"], ["decode", "query.spt", "-"], *PRINTING])
def test_a_full_standard_output(fails: Fails, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        sentence = fails(*command, leaves=written(command))
    assert re.fullmatch(r"cannot write \S+( standard output)?: No space left on device", sentence)


@pytest.mark.parametrize("milliseconds", ["0", "-20", "nan", "inf"])
def test_chunks_of_invalid_length(fails: Fails, milliseconds: str) -> None:
    sentence = fails("stream", "good.wav", "out.wav", f"--chunk-ms={milliseconds}")
    assert sentence == f"--chunk-ms is {milliseconds}, but must be positive and finite"


@pytest.mark.parametrize("arguments", [["stream", "good.wav", "out.wav"], ["eval", "."]])
def test_an_invalid_number_of_threads(fails: Fails, arguments: list[str]) -> None:
    assert fails(*arguments, "--threads=0") == "the number of threads is 0, but must be positive"


def test_eval_of_invalid_sources(fails: Fails) -> None:
    assert fails("eval", "missing", "--out", "out") == "missing is neither a folder nor a manifest"
    Path("folder").mkdir()
    assert fails("eval", "folder", "--out", "out") == "folder holds no audio files"
    assert not Path("out").exists()


def test_names_are_shown_on_one_line_without_control_characters(fails: Fails) -> None:
    assert fails("encode", "\x1b[31mred\n.wav", "out.spt") == rf"cannot read \x1b[31mred\x0a.wav: {MISSING}"
    assert fails("encode", "\udcff\u2028.wav", "out.spt") == rf"cannot read \xff\u2028.wav: {MISSING}"
    sentence = fails("encode", "a/" * 300 + ".wav", "out.spt")
    assert len(sentence) == 399
    assert " ... " in sentence and sentence.endswith(MISSING)
    reason = "File name too long"
    assert fails("encode", "good.wav", "a" * 252 + ".spt") == f"cannot write {'a' * 252}.spt: {reason}"
    assert fails("stream", "good.wav", "a" * 252 + ".wav") == f"cannot write {'a' * 252}.wav: {reason}"
    assert fails("info", "a" * 252 + ".spt") == f"cannot read {'a' * 252}.spt: {reason}"
    assert fails("encode", "good.wav", "out.spt", "--model", "a" * 256).startswith("there is no model 'aaa")


@pytest.mark.parametrize("name", [b"\xff\xfe.wav", "\u00e9\u4e2d.wav".encode(), b"a" * 251 + b".wav"])
def test_names_of_any_bytes_are_read_and_written(name: bytes) -> None:
    path = os.fsdecode(name)
    os.rename("good.wav", path)
    for arguments in (["encode", path, "out/"], ["decode", f"out/{path[:-4]}.spt", path, "-f"]):
        command = [sys.executable, "-m", "spectok", *arguments]
        done = subprocess.run(command, env={**os.environ, "LC_ALL": "C"}, capture_output=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
    assert len(soundfile.read(name)[0]) == 500


@pytest.mark.parametrize(
    ("command", "code", "sentence"),
    [
        ("encode - - <&-", 2, "spectok: the standard input is closed\n"),
        ("verify - <&-", 2, "spectok: the standard input is closed\n"),
        ("encode good.wav - >&-", 2, "spectok: the standard output is closed\n"),
        ("info >&-", 2, "spectok: the standard output is closed\n"),
        ("--version >&-", 2, "spectok: the standard output is closed\n"),
        ("info >&- 2>&-", 2, ""),
        ("encode missing.wav out.spt 2>&-", 2, ""),
        ("encode good.wav out.spt <&- >&- 2>&-", 0, ""),
    ],
)
def test_closed_standard_streams(command: str, code: int, sentence: str) -> None:
    shell = ["sh", "-c", f"exec {sys.executable} -m spectok {command}"]
    done = subprocess.run(shell, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", sentence)


def test_the_program_exits_with_2() -> None:
    command = [sys.executable, "-m", "spectok", "info", "cut.spt"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"spectok: {BAD_CODES['cut.spt']}\n")
