"""The page of `spectok web` without a browser: what is served, and what is exported."""

import hashlib
import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from spectok import pretrained
from spectok import web as web_page
from spectok.cli.main import main
from spectok.errors import InputError
from spectok.web import PageServer


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page as it is after the build: of one file, which stands for all."""
    folder = tmp_path / "page"
    folder.mkdir()
    (folder / "index.html").write_text("<!doctype html>", encoding="utf-8")
    (folder / "main.js").write_text("start();", encoding="utf-8")
    (folder / "ort.wasm.gz").write_bytes(b"\x1f\x8b")
    monkeypatch.setattr(web_page, "PACKAGED", tmp_path / "none")
    monkeypatch.setattr(web_page, "CHECKOUT", folder)
    return folder


@pytest.fixture
def server(page: Path) -> Iterator[PageServer]:
    with PageServer() as server:
        thread = server.start()
        yield server
        server.shutdown()
        thread.join()


def answer(server: PageServer, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, dict(response.getheaders()), body


def test_every_file_is_served_with_its_type(server: PageServer, page: Path) -> None:
    with urlopen(server.url) as response:
        assert response.read() == b"<!doctype html>"
    kinds = {"": "text/html; charset=utf-8", "main.js": "text/javascript; charset=utf-8"}
    kinds |= {"ort.wasm.gz": "application/gzip", "models/index.json": "application/json"}
    for name, kind in kinds.items():
        status, headers, _ = answer(server, f"/{name}")
        assert (status, headers["Content-Type"], headers.get("Content-Encoding")) == (200, kind, None)
    for name in pretrained.models():
        model = pretrained.find(name)
        for file in web_page.MODEL_FILES:
            status, _, body = answer(server, f"/models/{name}/{file}")
            assert (status, hashlib.sha256(body).hexdigest()) == (200, model.index[file])


def test_the_models_are_listed_with_their_weights_and_sizes(server: PageServer) -> None:
    entries = json.loads(answer(server, "/models/index.json")[2])
    assert [entry["name"] for entry in entries] == ["spectok-16k-4k", "spectok-16k-800"]
    assert [entry["bitrate"] for entry in entries] == [4000.0, 800.0]
    for entry in entries:
        model = pretrained.find(entry["name"])
        assert entry["weights"] == model.weight_hash
        assert entry["bytes"] == sum((model.folder / file).stat().st_size for file in web_page.MODEL_FILES)


def test_a_known_file_is_not_sent_again(server: PageServer) -> None:
    _, headers, body = answer(server, "/main.js")
    status, _, again = answer(server, "/main.js", If_None_Match=headers["ETag"])
    assert (body, status, again) == (b"start();", 304, b"")
    status, headers, head = answer(server, "/main.js", "HEAD")
    assert (status, headers["Content-Length"], head) == (200, "8", b"")


@pytest.mark.parametrize("path", ["/../pyproject.toml", "/%2e%2e/index.html", "/models/", "//etc/passwd", "/none.js"])
def test_nothing_else_is_served(server: PageServer, path: str) -> None:
    assert answer(server, path)[0] == 404


def test_the_export_holds_the_same_files(
    server: PageServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["web", "--export", str(tmp_path / "out" / "site")]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'out' / 'site'}: ")
    files = [path for path in (tmp_path / "out" / "site").rglob("*") if path.is_file()]
    assert len(files) == len(web_page.page())
    for path in files:
        served = answer(server, "/" + path.relative_to(tmp_path / "out" / "site").as_posix())
        assert served[2] == path.read_bytes()


def test_an_export_does_not_overwrite(page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["web", "--export", str(page)]) == 2
    assert capsys.readouterr().err == f"spectok: {page} exists already; name a new folder or an empty one\n"
    assert main(["web", "--export", str(page / "main.js" / "below")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_a_port_in_use_and_a_missing_page_are_refused(
    server: PageServer, page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["web", "--no-open", "--port", str(port)]) == 2
    assert capsys.readouterr().err == f"spectok: cannot listen at port {port}: Address already in use\n"
    assert main(["web", "--no-open", "--port", "65536"]) == 2
    assert capsys.readouterr().err == "spectok: the port is 65536, but must be from 0 to 65535\n"
    (page / "index.html").unlink()
    with pytest.raises(InputError, match="has no page; in a source tree, `make web` builds it"):
        web_page.page()


@pytest.mark.parametrize(("error", "is_reported"), [(ConnectionResetError(), False), (ZeroDivisionError(), True)])
def test_a_browser_that_closes_its_connection_is_not_reported(
    server: PageServer, error: Exception, is_reported: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        raise error
    except Exception:
        server.handle_error(None, ("127.0.0.1", 1))
    assert (type(error).__name__ in capsys.readouterr().err) == is_reported
