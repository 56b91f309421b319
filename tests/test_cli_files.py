"""Files, folders and progress of the command line, and the messages of `info` and `eval` about missing parts."""

import argparse
import json
import logging
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from models import listing, use_root, write_root

from spectok import Tokenizer, pretrained
from spectok.cli.files import PROGRESS_FILES, counted
from spectok.cli.main import EXAMPLES, main, parser
from spectok.container import read_spt
from spectok.samples import blocks

MISSING = "No such file or directory"
ERASE = "\033[K"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "pretrained"
    write_root(folder)
    return folder


@pytest.fixture
def tiny(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tokenizer:
    """Replace the released models by two random codecs, `tiny-query` the default, and work in an empty folder."""
    use_root(monkeypatch, root)
    monkeypatch.setattr(pretrained, "DEFAULT", "tiny-query")
    monkeypatch.chdir(tmp_path)
    return Tokenizer.from_pretrained("tiny-query")


def write(path: str | Path, length: int = 500, rate: int = 16000) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.2 * np.random.default_rng(0).standard_normal(length), rate)


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that standard error is a terminal."""
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda _: True)


def shown(text: str) -> list[str]:
    """The texts that the progress line showed, in order."""
    return [line.removesuffix(ERASE) for line in text.split("\r")[1:]]


@pytest.mark.parametrize("length", [4801, 9600, 9605])
def test_a_decoded_file_equals_the_tokenizers_output(tiny: Tokenizer, length: int) -> None:
    write("in.wav", length, 48000)
    assert main(["encode", "in.wav", "codes.spt"]) == main(["decode", "codes.spt", "out.wav"]) == 0
    heard = tiny.decode(read_spt("codes.spt")[1], length, 48000)
    samples, rate = soundfile.read("out.wav", dtype="int16")
    assert (len(samples), rate) == (length, 48000)
    np.testing.assert_array_equal(samples, np.rint(32768 * heard).clip(-32768, 32767).astype(np.int16))


def test_progress_counts_many_files(tiny: Tokenizer, terminal: None, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(PROGRESS_FILES):
        write(f"in/{i}.wav")
    assert main(["encode", "in", "out"]) == 0
    counted = [f"files: {i}/{PROGRESS_FILES} done" for i in range(PROGRESS_FILES + 1)]
    assert shown(capsys.readouterr().err) == [*counted, ""]


def test_progress_of_few_short_files_is_hidden(
    tiny: Tokenizer, terminal: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(PROGRESS_FILES - 1):
        write(f"in/{i}.wav")
    assert main(["encode", "in", "out"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("extra", [0, 7])
def test_the_seconds_of_long_audio_are_counted(terminal: None, capsys: pytest.CaptureFixture[str], extra: int) -> None:
    pieces = [np.arange(start, min(start + 1000, 3500 + extra)) for start in range(0, 3500 + extra, 1000)]
    np.testing.assert_array_equal(np.concatenate(list(counted(pieces, 100, 35, "speech.wav"))), np.arange(3500 + extra))
    assert shown(capsys.readouterr().err) == [*(f"speech.wav: {i}/35 s" for i in (0, 10, 20, 30)), ""]


def test_where_nobody_looks_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert sum(len(block) for block in counted([np.zeros(3500)], 100, 35, "speech.wav")) == 3500
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("seconds", [29, None])
def test_the_seconds_of_short_audio_and_of_pipes_are_not_counted(
    terminal: None, capsys: pytest.CaptureFixture[str], seconds: int | None
) -> None:
    assert sum(len(block) for block in counted([np.zeros(2999)], 100, seconds, "speech.wav")) == 2999
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("lengths", [[0], [3], [4], [1, 0, 2, 9, 1], [25]])
def test_blocks_are_equally_long_up_to_the_last(lengths: list[int]) -> None:
    values = np.arange(sum(lengths))
    found = list(blocks(np.split(values, np.cumsum(lengths)[:-1]), 4))
    np.testing.assert_array_equal(np.concatenate([values[:0], *found]), values)
    assert [len(block) for block in found] == [4] * (len(values) // 4) + [len(values) % 4] * (len(values) % 4 > 0)


@pytest.mark.parametrize("command", ["encode", "decode"])
def test_a_batch_of_bad_files_leaves_no_folders(
    tiny: Tokenizer, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    suffix = {"encode": "wav", "decode": "spt"}[command]
    for name in ("in/a", "in/deep/b"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(f"{name}.{suffix}").write_text("neither audio nor codes", encoding="utf-8")
    assert main([command, "in", "out"]) == 2
    assert capsys.readouterr().err.count("\n") == 2
    assert listing(".") == [f"in/a.{suffix}", f"in/deep/b.{suffix}"]
    assert not Path("out").exists()


@pytest.mark.parametrize("target", ["missing.spt", "missing/model", "missing/in.spt"])
def test_info_of_a_missing_file(tiny: Tokenizer, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", target]) == 2
    assert capsys.readouterr() == ("", f"spectok: cannot read {target}: {MISSING}\n")


@pytest.mark.parametrize("package", ["pystoi", "scipy"])
def test_eval_without_its_packages_names_what_to_install(
    tiny: Tokenizer, package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("spectok.evaluation.") or name == "scipy.special"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["eval", "."]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith("spectok: spectok eval needs more packages: pip install 'spectok[eval]' (")
    assert package in err.partition("[eval]")[2]


def test_eval_without_pesq_warns_and_continues(
    tiny: Tokenizer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("spectok.evaluation.metrics.pesq", None)
    write("in/a.wav", 16000)
    assert main(["eval", "in", "--model", "tiny-query", "--out", "results"]) == 0
    out, err = capsys.readouterr()
    assert err == "spectok: PESQ is left out: pip install 'spectok[pesq]', which needs a C compiler\n"
    group = json.loads(Path("results/results.json").read_text())["coders"]["tiny-query"]["groups"]["*"]
    assert group["pesq"]["mean"] is None and group["stoi"]["mean"] is not None
    assert "| tiny-query |" in out


def test_skip_existing_converts_the_missing_files(tiny: Tokenizer, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        write(f"in/{number}.wav", 400 + number)
    assert main(["encode", "in", "out", "--jobs", "3"]) == 0
    assert listing("out") == ["0.spt", "1.spt", "2.spt"]
    kept = Path("out/0.spt").read_bytes()
    Path("out/1.spt").unlink()
    Path("in/0.wav").unlink()
    write("in/0.wav", 999)
    assert main(["encode", "in", "out"]) == 2
    assert "0.spt exists already" in capsys.readouterr().err.replace("\\", "/")
    Path("out/1.spt").unlink()  # the run before converted the files after the one that failed
    assert main(["encode", "in", "out", "--skip-existing"]) == 0
    assert listing("out") == ["0.spt", "1.spt", "2.spt"]
    assert Path("out/0.spt").read_bytes() == kept
    assert main(["decode", "out", "back", "--jobs", "2"]) == 0
    assert [len(soundfile.read(f"back/{number}.wav")[0]) for number in range(3)] == [400, 401, 402]
    assert main(["encode", "in", "out", "--jobs", "0", "-f"]) == 2
    assert "--jobs is 0, but must be positive" in capsys.readouterr().err


def test_a_path_that_ends_in_a_slash_is_a_folder(tiny: Tokenizer) -> None:
    write("in.wav")
    assert main(["encode", "in.wav", "new/"]) == 0
    assert listing("new") == ["in.spt"]


def test_files_that_differ_only_in_their_suffix_keep_it(tiny: Tokenizer) -> None:
    for name in ("in/a.wav", "in/a.flac", "in/b.wav"):
        write(name)
    assert main(["encode", "in", "out"]) == 0
    assert listing("out") == ["a.flac.spt", "a.wav.spt", "b.spt"]
    assert main(["decode", "out", "back"]) == 0
    assert listing("back") == ["a.flac.wav", "a.wav.wav", "b.wav"]


def test_verbose_names_each_file_and_quiet_shows_errors_only(
    tiny: Tokenizer, terminal: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(PROGRESS_FILES):
        write(f"in/{number}.wav")
    Path("in/bad.wav").write_text("no audio", encoding="utf-8")
    assert main(["encode", "in", "out", "-q"]) == 2
    assert capsys.readouterr() == ("", "spectok: in/bad.wav is not an audio file of a known format\n")
    assert main(["encode", "in/0.wav", "one.spt", "-v"]) == 0
    assert main(["encode", "in/0.wav", "in/1.wav", "out", "--skip-existing", "-v"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "spectok: in/0.wav -> one.spt",
        "spectok: out/0.spt exists already",
        "spectok: out/1.spt exists already",
    ]
    with pytest.raises(SystemExit, match="2"):
        main(["encode", "in", "out", "-q", "-v"])
    assert logging.getLogger("spectok").handlers == []


def test_a_notice_is_one_line_that_quiet_hides(
    tiny: Tokenizer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write("stereo.wav", np.zeros((500, 2)), 16000)
    for option, shown_line in (([], "spectok: mixed 2 channels to mono\n"), (["-q"], "")):
        monkeypatch.setattr("spectok.audio._mixed_notice_given", False)
        assert main(["encode", "stereo.wav", "out.spt", "-f", *option]) == 0
        assert capsys.readouterr().err == shown_line


def test_every_command_has_examples_that_parse() -> None:
    (commands,) = (action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    assert list(commands.choices) == list(EXAMPLES)
    for name, text in EXAMPLES.items():
        for line in text.splitlines():
            command = re.split(r" [>|] ", line[line.index("spectok ") :])[0].split()
            args = parser().parse_args(command[1:])
            assert command[1] == name and args.function.__name__ in (name, "evaluate")


def test_info_without_a_target_lists_the_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "spectok-16k-4k    4000 bits/s, 50 frames/s of 8 tokens, one codebook of 1024, 30 ms",
        "spectok-16k-800   800 bits/s, 50 frames/s of 1 tokens, one codebook of 65536, 30 ms",
    ]
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [item["model"] for item in facts] == pretrained.models()


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completions_name_the_commands(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--print-completion", shell])
    out = capsys.readouterr().out
    assert all(name in out for name in EXAMPLES) and "--skip-existing" in out
