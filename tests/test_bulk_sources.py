"""The sources of `spectok tokenize`: what is found in them, how it is read, and what hostile ones cannot do."""

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from spectok.bulk import opening
from spectok.bulk.opening import Opener
from spectok.bulk.sources import Recording, Source, find_source, list_recordings
from spectok.errors import InputError


def noise(length: int, seed: int = 0) -> np.ndarray:
    """16-bit noise, float32 `[length]`."""
    samples = np.random.default_rng(seed).integers(-8000, 8000, length)
    return (samples / 32768).astype(np.float32)


def encoded(length: int, seed: int = 0, format: str = "FLAC") -> bytes:
    """The bytes of a file of noise at 16 kHz."""
    file = io.BytesIO()
    soundfile.write(file, noise(length, seed), 16000, None if format == "OGG" else "PCM_16", format=format)
    return file.getvalue()


def write_tar(path: Path, members: list[tuple[Any, bytes]]) -> Path:
    """Write a tar file; a member is a name or a TarInfo, whose size is set, with its content."""
    with tarfile.open(path, "w") as archive:
        for member, content in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    """A member that is a link."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def found(source: Source) -> list[Recording]:
    return list(list_recordings(source, 0))


def audio(source: Source, recording: Recording) -> np.ndarray:
    with Opener([source]) as opener, opener.open(recording) as reader:
        return np.concatenate(list(reader))


def test_a_folder_gives_its_files_by_path(tmp_path: Path) -> None:
    for name in ("b.flac", "a/c.wav", "a/.hidden.wav", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded(100, len(name), "WAV"))
    source = find_source(tmp_path)
    first, second = found(source)
    assert (first.id, second.id, first.path, first.size) == ("a/c.wav", "b.flac", b"a/c.wav", 244)
    assert (first.speaker, first.text, source.place(second)) == (None, None, "b.flac")
    np.testing.assert_array_equal(audio(source, first), noise(100, 7))
    (single,) = found(find_source(tmp_path / "b.flac"))
    assert single.id == "b.flac"


def test_a_name_that_is_no_text_becomes_an_id_with_escapes(tmp_path: Path) -> None:
    try:
        (tmp_path / os.fsdecode(b"\xff.wav")).write_bytes(encoded(100))
    except (OSError, UnicodeError):
        pytest.skip("the file system only has names of text")
    source = find_source(tmp_path)
    (recording,) = found(source)
    assert (recording.id, recording.path) == ("\\xff.wav", b"\xff.wav")
    assert len(audio(source, recording)) == 100


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.csv", 'path,id,speaker,text\nx/a.wav,one,s1,"Yes, no."\nb.wav,,,\n'),
        ("m.tsv", "file\tid\tspeaker\ttext\nx/a.wav\tone\ts1\tYes, no.\nb.wav\t\t\t\n"),
        ("m.jsonl", '{"path": "x/a.wav", "id": "one", "speaker": "s1", "text": "Yes, no."}\n\n{"path": "b.wav"}\n'),
    ],
)
def test_a_manifest_names_recordings_and_what_is_known_of_them(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.wav").write_bytes(encoded(100))
    (tmp_path / name).write_text(content, encoding="utf-8")
    source = find_source(tmp_path / name)
    first, second = found(source)
    assert first[:4] == ("one", 0, b"x/a.wav", 0)
    assert first[5:] == ("s1", "Yes, no.", None)
    assert second[:3] == ("b.wav", 0, b"b.wav")
    assert second[4:] == (-1, None, None, None)
    np.testing.assert_array_equal(audio(source, first), noise(100))
    with pytest.raises(InputError, match=r"^b\.wav is not a file$"):
        audio(source, second)


def test_a_manifest_cannot_name_what_lies_outside_of_its_root(tmp_path: Path) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    for folder in (tmp_path, inside):
        (folder / "a.wav").write_bytes(encoded(100))
    rows = ["../a.wav", str(tmp_path / "a.wav"), "x/../../a.wav", str(inside / "a.wav"), "x/../a.wav", ""]
    manifest = inside / "m.jsonl"
    manifest.write_text("".join(json.dumps({"path": row}) + "\n" for row in rows), encoding="utf-8")
    recordings = found(find_source(manifest))
    outside = "lies outside of the manifest's folder; --root names another"
    assert [recording.fault for recording in recordings] == [outside] * 3 + [None] * 2 + ["the row has no path"]
    assert [recording.id for recording in recordings] == [
        "m.jsonl/0",
        "m.jsonl/1",
        "m.jsonl/2",
        "a.wav",
        "a.wav",
        "m.jsonl/5",
    ]
    with pytest.raises(InputError, match=r"^m\.jsonl, row 1: lies outside"):
        audio(find_source(manifest), recordings[1])
    wider = found(find_source(manifest, tmp_path))
    assert [(recording.id, recording.fault) for recording in wider[:2]] == [("m.jsonl/0", outside), ("a.wav", None)]
    assert wider[3].id == "in/a.wav"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("m.csv", b"name\na.wav\n", r"m\.csv has no column named path or file"),
        ("m.jsonl", b'{"path": "a.wav"}\n{"path": \n', r"cannot read line 2 of .*m\.jsonl: Expecting value"),
        ("m.jsonl", b'{"path": "a.wav"}\n[1]\n', r"line 2 of .*m\.jsonl is not a JSON object"),
        ("m.jsonl", b"[" * 100000, r"cannot read line 1 of .*m\.jsonl: maximum recursion depth"),
        ("m.csv", b"path\n\xff\n", r"cannot read .*m\.csv: 'utf-8' codec"),
        ("m.csv", b'path\n"a.wav\n', r"cannot read .*m\.csv as a table: unexpected end of data"),
        ("m.tar", b"no tar file" * 100, r"cannot read .*m\.tar as an uncompressed tar file"),
        ("m.parquet", b"PAR1 no Parquet file", r"cannot read .*m\.parquet as a Parquet file"),
        ("m.zip", b"PK", r"m\.zip is neither a folder nor an audio file, and does not end in \.csv, "),
    ],
)
def test_a_source_that_cannot_be_read_is_one_sentence(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=sentence) as raised:
        found(find_source(tmp_path / name))
    assert len(raised.value.args) == 1
    with pytest.raises(InputError, match=r"there is no file or folder"):
        find_source(tmp_path / "missing.csv")


def test_a_tar_file_holds_samples_of_adjacent_members(tmp_path: Path) -> None:
    path = write_tar(
        tmp_path / "0.tar",
        [
            ("x/0.json", json.dumps({"speaker": 7, "text": "other"}).encode()),
            ("x/0.txt", b"Hello.\n"),
            ("x/0.flac", encoded(100)),
            ("x/1.seg.wav", encoded(50, 1, "WAV")),
            ("x/._1.wav", b"hidden"),
            ("2.txt", b"no audio"),
            ("3.ogg", encoded(4000, 3, "OGG")),
        ],
    )
    source = find_source(path)
    recordings = found(source)
    assert [(r.id, r.speaker, r.text, r.fault) for r in recordings] == [
        ("x/0", "7", "Hello.", None),
        ("x/1", None, None, None),
        ("3", None, None, None),
    ]
    assert source.place(recordings[1]) == "0.tar/x/1.seg.wav"
    with Opener([source]) as opener:  # in any order
        for recording, length, seed in ((recordings[1], 50, 1), (recordings[0], 100, 0), (recordings[1], 50, 1)):
            with opener.open(recording) as reader:
                np.testing.assert_array_equal(np.concatenate(list(reader)), noise(length, seed))
    assert len(audio(source, recordings[2])) == 4000


def test_hostile_members_of_a_tar_file_are_rejected_and_nothing_is_unpacked(tmp_path: Path) -> None:
    (tmp_path / "secret.wav").write_bytes(encoded(100))
    path = write_tar(
        tmp_path / "0.tar",
        [
            (link("a.wav", str(tmp_path / "secret.wav")), b""),
            (link("b.wav", "../secret.wav", tarfile.LNKTYPE), b""),
            (link("c.wav", "", tarfile.FIFOTYPE), b""),
            ("/abs.wav", encoded(100)),
            ("x/../../d.wav", encoded(100)),
            ("x\\..\\e.wav", encoded(100)),
            ("f.txt", b"x" * ((1 << 20) + 1)),
            ("f.wav", encoded(100)),
            ("g.json", b"[" * 100000),
            ("g.wav", encoded(100)),
            ("h.txt", b"\xff"),
            ("h.wav", encoded(100)),
            (link("i.txt", str(tmp_path / "secret.wav")), b""),
            ("i.wav", encoded(100)),
            ("i.flac", encoded(100)),
            ("j.wav", encoded(100)),
        ],
    )
    before = sorted(tmp_path.rglob("*"))
    source = find_source(path)
    recordings = found(source)
    special, leads_out = (
        "the member is a link or another special file",
        "the name of the member leads out of the tar file",
    )
    assert [(r.id, r.fault) for r in recordings] == [
        ("a", special),
        ("b", special),
        ("c", special),
        ("/abs", leads_out),
        ("x/../../d", leads_out),
        ("x\\", leads_out),
        ("f", "cannot read f.txt: it has 1048577 bytes, over 1048576"),
        ("g", "cannot read g.json: maximum recursion depth exceeded while decoding a JSON array from a unicode string"),
        ("h", "cannot read h.txt: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
        ("i", None),
        ("i", "the sample has another recording before this one"),
        ("j", None),
    ]
    assert recordings[9].text is None
    for recording in recordings:
        if recording.fault:
            with pytest.raises(InputError, match=r"^0\.tar/"):
                audio(source, recording)
        else:
            assert len(audio(source, recording)) == 100
    assert sorted(tmp_path.rglob("*")) == before


def test_of_a_damaged_tar_file_the_samples_before_the_damage_are_found(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", [(f"{n}.wav", encoded(1000, n, "WAV")) for n in range(3)])
    whole = path.read_bytes()
    path.write_bytes(whole[: 512 + 2048 + 512 + 2048 + 512 + 700])  # within the last member's audio
    source = find_source(path)
    recordings = found(source)
    assert [r.id for r in recordings] == ["0", "1", "2", "0.tar"]
    assert recordings[3].fault == "the tar file is damaged or cut off: unexpected end of data"
    np.testing.assert_array_equal(audio(source, recordings[1]), noise(1000, 1))
    with pytest.raises(InputError, match=r"0\.tar/2\.wav is cut off: its header claims 1000 samples"):
        audio(source, recordings[2])
    negative = bytearray(whole)
    negative[512 + 2048 + 124 : 512 + 2048 + 136] = b"\xff" * 10 + b"\xfa\x00"  # the size -1536, which leads back
    info = tarfile.TarInfo.frombuf  # the checksum counts this field
    header = bytearray(negative[2560:3072])
    header[148:156] = b" " * 8
    negative[2560 + 148 : 2560 + 156] = f"{sum(header):06o}\0 ".encode()
    assert info(bytes(negative[2560:3072]), "utf-8", "strict").size == -1536
    path.write_bytes(negative)
    recordings = found(source)
    assert [r.id for r in recordings] == ["0", "0.tar"]
    assert str(recordings[1].fault).startswith("the tar file is damaged or cut off: ")


@pytest.mark.parametrize("kind", ["struct", "bytes", "only bytes"])
@pytest.mark.parametrize("group", [2, 100])
def test_a_parquet_file_holds_audio_as_bytes(tmp_path: Path, kind: str, group: int) -> None:
    count, path = 40, tmp_path / "part.parquet"
    contents = [encoded(100 + n, n) for n in range(count)]
    columns: dict[str, Any] = {"audio" if kind != "only bytes" else "content": contents}
    if kind == "struct":
        columns = {"audio": [{"bytes": content, "path": f"{n}.flac"} for n, content in enumerate(contents)]}
    if kind == "bytes":
        columns |= {"id": list(range(count)), "speaker": ["s"] * count, "text": [f"text {n}" for n in range(count)]}
        columns |= {"other": contents}
    pq.write_table(pa.table(columns), path, row_group_size=group)
    source = find_source(path)
    recordings = found(source)
    assert [r.id for r in recordings] == [str(n) if kind == "bytes" else f"part/{n}" for n in range(count)]
    assert recordings[9].text == ("text 9" if kind == "bytes" else None)
    with Opener([source]) as opener:
        for n in [*range(count), 5, 39, 0]:
            with opener.open(recordings[n]) as reader:
                np.testing.assert_array_equal(np.concatenate(list(reader)), noise(100 + n, n))


def test_the_paths_in_a_parquet_file_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "secret.wav").write_bytes(encoded(100))
    secret = {"bytes": None, "path": str(tmp_path / "secret.wav")}
    pq.write_table(pa.table({"audio": [{"bytes": encoded(100), "path": "a"}, secret, None]}), tmp_path / "p.parquet")
    source = find_source(tmp_path / "p.parquet")
    recordings = found(source)
    assert len(audio(source, recordings[0])) == 100
    for row in (1, 2):
        with pytest.raises(InputError, match=rf"^p\.parquet, row {row} holds no bytes of audio$"):
            audio(source, recordings[row])


def test_a_parquet_file_must_have_one_column_of_audio(tmp_path: Path) -> None:
    for number, columns in enumerate(({"text": ["a"]}, {"a": [b"1"], "b": [b"2"]}, {"audio": ["a.wav"]})):
        pq.write_table(pa.table(columns), tmp_path / f"{number}.parquet")
        with pytest.raises(InputError, match=r"has no column named audio that holds bytes, but [02]"):
            found(find_source(tmp_path / f"{number}.parquet"))


def test_a_parquet_file_that_is_damaged_later_does_not_stop_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    pq.write_table(
        pa.table({"audio": [encoded(1000, n) for n in range(4)]}), path, row_group_size=2, compression="none"
    )
    source = find_source(path)
    recordings = found(source)
    content = bytearray(path.read_bytes())
    content[4:40] = b"\xff" * 36  # the header of the first page
    path.write_bytes(content)
    with Opener([source]) as opener:
        with pytest.raises(InputError, match=r"^cannot read p\.parquet, row 0: ") as raised:
            opener.open(recordings[0])
        assert str(tmp_path) not in str(raised.value)
        with opener.open(recordings[3]) as reader:
            assert sum(map(len, reader)) == 1000


def test_rows_are_read_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "ROWS", 3)
    pq.write_table(pa.table({"audio": [bytes([n]) for n in range(10)]}), tmp_path / "p.parquet", row_group_size=7)
    rows = opening._Rows(str(tmp_path / "p.parquet"))
    held = []
    for n in range(10):
        assert rows.read(n) == bytes([n])
        held.append(len(rows._batch))
    rows.close()
    assert held == [3, 3, 3, 3, 3, 3, 1, 3, 3, 3]
