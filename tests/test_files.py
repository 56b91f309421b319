import io
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spectok.audio import read_audio, write_audio
from spectok.container import Header, read_spt, write_spt
from spectok.errors import InputError
from spectok.files import atomic_write, file_name, list_files, write_text
from spectok.samples import check_sample_rate


def test_atomic_write_replaces_the_file_at_the_end_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    path.chmod(0o640)
    with atomic_write(path) as temporary:
        assert temporary.parent == tmp_path
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    with pytest.raises(InputError, match=r"cannot write .*a: Is a directory$"), atomic_write(path):
        raise IsADirectoryError(21, "Is a directory")
    with pytest.raises(BrokenPipeError), atomic_write(path):  # of another output, which the caller knows
        raise BrokenPipeError
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a"]


def test_atomic_write_honours_the_umask_and_follows_links(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "a") as temporary:
            temporary.write_bytes(b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
    (tmp_path / "link").symlink_to("a")
    with atomic_write(tmp_path / "link") as temporary:
        temporary.write_bytes(b"through")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "a").read_bytes() == b"through"
    write_text(tmp_path / "link", "für\n")
    assert (tmp_path / "a").read_bytes() == b"f\xc3\xbcr\n"


def test_atomic_write_replaces_no_device(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a regular file"), atomic_write(tmp_path / "pipe"):
        pass
    with pytest.raises(InputError, match="it is a folder"), atomic_write(tmp_path):
        pass
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_names_in_messages() -> None:
    assert file_name(Path("a") / "b.wav") == "a/b.wav"
    assert file_name("") == "the empty path"
    assert file_name(io.BytesIO()) == "the stream"
    assert check_sample_rate(np.int32(16000)) == 16000


def test_paths_that_are_invalid_on_every_system() -> None:
    for call in (read_audio, lambda path: write_audio(path, [0.0], 16000), read_spt):
        with pytest.raises(InputError, match="null"):
            call("a\0.wav")


def test_a_file_is_on_the_disk_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    sync, replace = os.fsync, os.replace

    def note_sync(descriptor: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        sync(descriptor)

    def note_replace(source: Path, target: Path) -> None:
        calls.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    write_text(tmp_path / "a", "text")
    assert calls == ["file", "replace", "folder"]


HOLDER = """
import sys
from spectok.files import atomic_write
with atomic_write(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print(temporary, flush=True)
    sys.stdin.read()
"""


def test_what_dead_processes_have_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    """Two processes are writing; one is killed. A third one, which begins then, removes the file of the dead one."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "a")]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as living,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as dead,
    ):
        assert living.stdout is not None and dead.stdout is not None
        alive, left = Path(living.stdout.readline().strip()), Path(dead.stdout.readline().strip())
        (tmp_path / ".spectok-of-somebody").touch()
        dead.kill()
        dead.wait()
        assert sorted(tmp_path.glob(".spectok-*.tmp")) == sorted([alive, left])
        write_text(tmp_path / "b", "text")
        assert list(tmp_path.glob(".spectok-*.tmp")) == [alive]
        living.communicate("")
    assert sorted(os.listdir(tmp_path)) == [".spectok-of-somebody", "a", "b"]
    assert (tmp_path / "a").read_text(encoding="utf-8") == "half"


def test_list_files(tmp_path: Path) -> None:
    (tmp_path / "deep" / "folder.spt").mkdir(parents=True)
    for name in ("b.spt", "C.SPT", "._b.spt", "a.wav", "deep/a.spt"):
        (tmp_path / name).touch()
    found = list_files(tmp_path, {".spt"})
    assert [str(path.relative_to(tmp_path)) for path in found] == ["C.SPT", "b.spt", "deep/a.spt"]
    with pytest.raises(InputError, match="is not a folder"):
        list_files(tmp_path / "a.wav", {".spt"})


def test_streams_of_text_and_closed_ones_are_refused(tmp_path: Path) -> None:
    closed = io.BytesIO()
    closed.close()
    header, codes = Header("tiny", "0" * 16, 16000, 1024, 2, num_samples=100), np.zeros(2, np.int64)
    uses: tuple[Callable[[Any], object], ...] = (
        read_audio,
        read_spt,
        lambda stream: write_audio(stream, np.zeros(9, np.float32), 16000),
        lambda stream: write_spt(stream, header, codes),
    )
    for use in uses:
        with pytest.raises(InputError, match=r"^cannot (read|write) the stream: it is a stream of text, not of bytes$"):
            use(io.StringIO("text"))
        with pytest.raises(InputError, match=r"^cannot (read|write) the stream: it is closed$"):
            use(closed)
