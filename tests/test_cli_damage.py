"""Damaged files on the command line: verify, repair, decode --recover; and parts of whole ones: --start, --end."""

import io
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from container_cases import FORMAT
from models import released
from numpy.typing import NDArray
from streams import Pipe

from spectok.audio import write_audio
from spectok.cli import decoding
from spectok.cli.decoding import CONTEXT, stretch
from spectok.cli.main import main
from spectok.container import Header, Reader, read_spt, write_spt
from spectok.errors import InputError
from spectok.resampling import resample

NAME = "spectok-16k-800"
HEADER, PACKET = 26, 25  # bytes of a file with packets of 10 frames


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speech: NDArray[np.float32]) -> None:
    """Work in a folder with two seconds of speech, whole, and in 10 packets of 200 ms and a last one of a frame."""
    monkeypatch.chdir(tmp_path)
    write_audio("in.wav", speech[:32000], 16000)
    assert main(["encode", "in.wav", "whole.spt", "--model", NAME, "--packet-ms", "200"]) == 0
    assert main(["decode", "whole.spt", "whole.wav"]) == 0


def damage(*packets: int, keep: int | None = None) -> None:
    """Write bad.spt, with a wrong byte in some of the packets, cut off after `keep` bytes."""
    content = bytearray(Path("whole.spt").read_bytes()[:keep])
    for packet in packets:
        content[HEADER + PACKET * packet + 9] ^= 1
    Path("bad.spt").write_bytes(content)


def heard(path: str) -> NDArray[np.int16]:
    samples: NDArray[np.int16] = soundfile.read(path, dtype="int16")[0]
    return samples


def test_verify_names_each_damaged_packet(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "whole.spt"]) == 0
    assert capsys.readouterr() == ("whole.spt: 101 frames, 2.020 s, undamaged\n", "")
    assert main(["verify", "whole.spt", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    damage(2, 3, 7)
    assert main(["verify", "bad.spt", "whole.spt"]) == 2
    assert capsys.readouterr() == (
        "whole.spt: 101 frames, 2.020 s, undamaged\n",
        "spectok: bad.spt: packet 2 is damaged: 0.400 to 0.600 s\n"
        "spectok: bad.spt: packet 3 is damaged: 0.600 to 0.800 s\n"
        "spectok: bad.spt: packet 7 is damaged: 1.400 to 1.600 s\n",
    )


@pytest.mark.parametrize(
    ("content", "sentences"),
    [
        (lambda whole: whole + b"\0", ["bad.spt: other bytes follow its end"]),
        (lambda whole: whole[:-1] + b"\0", ["bad.spt: the digest at its end is not that of the file"]),
        (lambda whole: whole[: HEADER + 4 * PACKET], ["bad.spt: it is cut off, or was never finished"]),
        (
            lambda whole: whole[: HEADER + 4 * PACKET + 13],
            ["bad.spt: packet 4 is damaged: 0.800 to 0.880 s", "bad.spt: it is cut off, or was never finished"],
        ),
        (lambda whole: whole[:10], ["cannot read bad.spt: its header is damaged or cut off"]),
        (lambda whole: b"", ["cannot read bad.spt: it is empty"]),
        (lambda whole: b"RIFF", ["cannot read bad.spt: it is not a .spt file"]),
    ],
    ids=["more", "digest", "no end", "cut", "header", "empty", "other"],
)
def test_verify_says_what_else_is_wrong(
    content: Callable[[bytes], bytes], sentences: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bad.spt").write_bytes(content(Path("whole.spt").read_bytes()))
    assert main(["verify", "bad.spt"]) == 2
    assert capsys.readouterr().err == "".join(f"spectok: {sentence}\n" for sentence in sentences)


@pytest.mark.parametrize("name", sorted(path.name for path in FORMAT.glob("*.spt")))
def test_golden_files_verify_and_decode(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(FORMAT / name)]) == 0
    assert "101 frames, 2.020 s, undamaged" in capsys.readouterr().out


def test_repair_repeats_the_frame_before(capsys: pytest.CaptureFixture[str]) -> None:
    damage(0, 2, 3)
    assert main(["repair", "bad.spt", "good.spt"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "71 frames are intact",
        "30 lost frames repeat the frame before them, so that the rest keeps its time",
    ]
    (header, codes), (repaired, found) = read_spt("whole.spt"), read_spt("good.spt")
    expected = codes.copy()
    expected[:10], expected[20:40] = codes[10], codes[19]
    np.testing.assert_array_equal(found, expected)
    assert repaired.num_samples == header.num_samples == 32000
    assert repaired.stream_id != header.stream_id
    assert repaired.frames_per_packet == 10
    assert main(["verify", "good.spt"]) == main(["decode", "good.spt", "good.wav"]) == 0
    assert len(heard("good.wav")) == 32000


def test_repair_of_a_file_without_an_end(capsys: pytest.CaptureFixture[str]) -> None:
    damage(1, keep=HEADER + 4 * PACKET + 13)
    assert main(["repair", "bad.spt", "good.spt"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "30 frames are intact",
        "10 lost frames repeat the frame before them, so that the rest keeps its time",
        "the end is lost, and with it all frames after the last intact packet",
    ]
    header, codes = read_spt("good.spt")
    assert (header.num_samples, len(codes)) == (40 * 320 - 160, 40)
    assert main(["decode", "good.spt", "good.wav"]) == 0
    assert len(heard("good.wav")) == 40 * 320 - 160


def test_repair_of_version_1_and_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    golden = FORMAT / f"{NAME}-version1.spt"
    content = bytearray(golden.read_bytes())
    content[60] ^= 1
    Path("bad.spt").write_bytes(content)
    assert main(["repair", "bad.spt", "good.spt"]) == 0
    header, codes = read_spt("good.spt")
    assert (header.version, header.frames_per_packet, header.num_samples) == (2, 600, 95963)
    np.testing.assert_array_equal(codes[50:], read_spt(golden)[1][50:])
    capsys.readouterr()
    damage(*range(11))
    assert main(["repair", "bad.spt", "good.spt", "-f"]) == 2
    assert capsys.readouterr().err == "spectok: cannot repair bad.spt: no packet is intact\n"
    assert main(["repair", "whole.spt", "good.spt"]) == 2
    assert capsys.readouterr().err == "spectok: good.spt exists already; --force overwrites it\n"


def test_recover_decodes_silence_in_place_of_lost_frames(capsys: pytest.CaptureFixture[str]) -> None:
    damage(2, 3)
    assert main(["decode", "bad.spt", "bad.wav"]) == 2
    assert "its packet 2 is damaged" in capsys.readouterr().err
    assert main(["decode", "bad.spt", "bad.wav", "--recover"]) == 0
    assert capsys.readouterr().err == "spectok: bad.spt: 20 frames are lost, 0.400 to 0.800 s\n"
    whole, bad = heard("whole.wav"), heard("bad.wav")
    assert len(bad) == len(whole) == 32000
    np.testing.assert_array_equal(bad[: 20 * 320 - 160], whole[: 20 * 320 - 160])
    assert not bad[20 * 320 - 160 : 40 * 320 - 160].any()
    later, other = whole[41 * 320 :].astype(float), bad[41 * 320 :].astype(float)
    assert np.corrcoef(np.abs(later), np.abs(other))[0, 1] > 0.7  # in time


def test_recover_decodes_what_a_cut_file_holds(capsys: pytest.CaptureFixture[str]) -> None:
    damage(keep=HEADER + 4 * PACKET + 13)
    assert main(["decode", "bad.spt", "bad.wav", "--recover"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "spectok: bad.spt: 4 frames are lost, 0.800 to 0.880 s",
        "spectok: bad.spt: it is cut off, or was never finished",
    ]
    np.testing.assert_array_equal(heard("bad.wav"), heard("whole.wav")[: 40 * 320 - 160])
    assert main(["decode", "whole.spt", "same.wav", "--recover"]) == 0
    assert Path("same.wav").read_bytes() == Path("whole.wav").read_bytes()
    assert capsys.readouterr().err == ""


# Parts.


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize(("start", "end"), [(0.0, 0.5), (0.25, 0.7501), (1.0, None), (0.3, 99.0)])
def test_a_part_near_the_start_is_that_of_the_whole(
    speech: NDArray[np.float32], rate: int, start: float, end: float | None
) -> None:
    """Within the context decoding begins at the start of the file, and every sample is the same."""
    write_audio("in.wav", speech[: 2 * rate], rate)
    assert main(["encode", "in.wav", "whole.spt", "-f", "--model", NAME]) == 0
    assert main(["decode", "whole.spt", "whole.wav", "-f"]) == 0
    ends = [] if end is None else ["--end", str(end)]
    assert main(["decode", "whole.spt", "part.wav", "--start", str(start), *ends]) == 0
    whole = heard("whole.wav")
    expected = whole[round(start * rate) : None if end is None else round(end * rate)]
    assert len(heard("part.wav")) == len(expected)
    assert np.abs(heard("part.wav").astype(int) - expected).max() <= 1


@pytest.mark.parametrize("name", ["spectok-16k-4k", NAME])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_a_part_far_from_the_start_is_close_to_that_of_the_whole(
    speech: NDArray[np.float32], name: str, rate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """39 to 41 s, where with this context decoding begins at 32 s. `benchmarks/context.py` measures the true one."""
    monkeypatch.setattr(decoding, "CONTEXT", 100)
    write_audio("in.wav", resample(np.resize(speech, 42 * 16000), 16000, rate), rate)
    assert main(["encode", "in.wav", "long.spt", "--model", name]) == 0
    assert main(["decode", "long.spt", "long.wav"]) == 0
    assert main(["decode", "long.spt", "part.wav", "--start", "39", "--end", "41"]) == 0
    whole = heard("long.wav")[39 * rate : 41 * rate].astype(float)
    part = heard("part.wav").astype(float)
    assert len(part) == 2 * rate
    assert 10 * np.log10(np.sum(whole**2) / np.sum((part - whole) ** 2)) > 22


def test_decoding_a_part_begins_where_the_excitation_and_the_samples_begin_again() -> None:
    config = released(NAME).config
    header = Header("", "ab" * 8, 44100, 65536, 1, num_samples=44100 * 3600)
    part = stretch(config, header, 180001, 1000.0, 1001.0)
    assert part.first_frame == (50000 - CONTEXT) // 1600 * 1600
    assert part.skip == 1000 * 44100 - part.first_frame * 882
    assert (part.length, part.decoded) == (44100, part.skip + 44100 + 4410)
    assert part.stop_frame * 320 >= 1001.1 * 16000
    odd = stretch(config, Header("", "ab" * 8, 11025, 65536, 1, num_samples=11025 * 3600), 180001, 1000.0, None)
    assert (odd.first_frame * 320 * 11025) % 16000 == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--start", "2"], "--start is 2, but the recording has 2.000 s"),
        (["--start=-1"], "--start is -1, but the recording has 2.000 s"),
        (["--start", "nan"], "--start is nan, but the recording has 2.000 s"),
        (["--start", "1", "--end", "0.5"], "--end is 0.5, but must be later than --start 1"),
        (["--end", "0"], "--end is 0.0, but must be later than --start 0"),
        (["--end", "nan"], "--end is nan, but must be later than --start 0"),
    ],
)
def test_parts_that_are_not_there(options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decode", "whole.spt", "part.wav", *options]) == 2
    assert capsys.readouterr().err == f"spectok: {sentence}\n"
    assert not Path("part.wav").exists()


def test_a_part_of_a_damaged_file(capsys: pytest.CaptureFixture[str]) -> None:
    damage(2)
    assert main(["decode", "bad.spt", "part.wav", "--start", "0.1", "--end", "0.2"]) == 0  # needs no damaged packet
    np.testing.assert_array_equal(heard("part.wav"), heard("whole.wav")[1600:3200])
    assert main(["decode", "bad.spt", "part.wav", "-f", "--start", "1"]) == 2
    assert main(["decode", "bad.spt", "part.wav", "-f", "--start", "1", "--recover"]) == 0
    assert len(heard("part.wav")) == 16000
    with Reader("bad.spt", recover=True) as reader:
        assert reader.damaged == [2]


def test_longer_outputs_than_allowed_are_refused_before_they_are_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those of a pipe, whose length is not known before its end."""
    assert main(["decode", "whole.spt", "out.wav", "--max-seconds", "2"]) == 0
    assert main(["decode", "whole.spt", "part.wav", "--start", "0.5", "--end", "1.5", "--max-seconds", "1"]) == 0
    assert main(["decode", "whole.spt", "long.wav", "--max-seconds", "1.999"]) == 2
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Pipe(Path("whole.spt").read_bytes()))))
    assert main(["decode", "-", "long.wav", "--max-seconds", "1.999"]) == 2
    assert main(["decode", "whole.spt", "long.wav", "--max-seconds", "nan"]) == 2
    assert not Path("long.wav").exists()
    assert capsys.readouterr().err.splitlines() == [
        "spectok: the audio of whole.spt is longer than --max-seconds 1.999",
        "spectok: the audio of the stream is longer than --max-seconds 1.999",
        "spectok: --max-seconds is nan, but must be positive",
    ]


def test_the_header_is_compared_with_the_model_before_the_codes_are_read(capsys: pytest.CaptureFixture[str]) -> None:
    """The rest of the file is damaged, which only a reader of its codes would see."""
    header, _ = read_spt("whole.spt")
    sentence = f"the codes are 255 a frame from a codebook of 2, but those of {NAME} are 1 from one of 65536"
    frames = 37
    content = io.BytesIO()
    write_spt(
        content,
        replace(header, codebook_size=2, tokens_per_frame=255, frames_per_packet=frames),
        np.zeros(255 * 3 * frames, np.int64),
    )
    damaged = bytearray(content.getvalue())
    damaged[-400] ^= 1
    damaged[200] ^= 1
    Path("bits.spt").write_bytes(damaged)
    assert main(["info", "bits.spt"]) == main(["decode", "bits.spt", "out.wav"]) == 2
    assert capsys.readouterr().err == 2 * f"spectok: {sentence}\n"
    with pytest.raises(InputError, match=f"^{sentence}$"):
        released(NAME).load("bits.spt")
