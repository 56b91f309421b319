"""The page that runs the codec in a browser: served on this computer, or exported as a folder for any web server.

The page (`web/` in the source tree) is built when the wheel is built. Everything that it needs is in one folder: its
scripts, ONNX Runtime's WebAssembly, and the files of the released models; it fetches nothing from other servers.
"""

import functools
import json
import sys
import tempfile
import threading
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from spectok import pretrained
from spectok.errors import InputError, require
from spectok.files import why

PACKAGED = Path(__file__).parent / "_web"  # in the wheel
CHECKOUT = Path(__file__).parent.parent / "web" / "dist" / "page"  # in a source tree, after `make web`
MODEL_FILES = ("config.json", "model.safetensors", "encoder.onnx", "decoder.onnx", "entropy.dat")
KINDS = {  # the types of files; those of the operating system's list differ from one to the next
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".gz": "application/gzip",  # the page unpacks it; a web server must not declare it as an encoding
}
Content = Path | bytes


def page() -> dict[str, Content]:
    """All files of the page by their paths in its folder: those that exist as paths, others as their content.

    Raises:
        InputError: this installation has no page.
    """
    folder = next((path for path in (PACKAGED, CHECKOUT) if (path / "index.html").is_file()), None)
    if folder is None:
        raise InputError(
            "this installation of spectok has no page; in a source tree, `make web` builds it with Node.js"
        )
    files: dict[str, Content] = {path.name: path for path in sorted(folder.iterdir())}
    entries = []
    for name in sorted(pretrained.models(), key=lambda name: (name != pretrained.DEFAULT, name)):
        model = pretrained.find(name)
        paths = [path for path in (model.folder / file for file in MODEL_FILES) if path.is_file()]
        files |= {f"models/{name}/{path.name}": path for path in paths}
        size = sum(path.stat().st_size for path in paths)
        entries.append(
            {"name": name, "weights": model.weight_hash, "bitrate": model.config.bitrate, "bytes": size},
        )
    files["models/index.json"] = json.dumps(entries, indent=1).encode() + b"\n"
    return files


def export_page(folder: str | Path) -> int:
    """Write the page into a new folder, which any web server can then serve; returns the number of bytes.

    Raises:
        InputError: the folder exists and is not empty, or cannot be written, or this installation has no page.
    """
    target, files = Path(folder), page()
    try:
        is_new = not target.exists() or (target.is_dir() and not any(target.iterdir()))
        require(is_new, f"{folder} exists already; name a new folder or an empty one")
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".spectok-", dir=target.parent) as parent:
            whole = Path(parent, "page")
            for name, content in files.items():
                path = whole / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
            if target.exists():
                target.rmdir()
            whole.rename(target)
    except InputError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        raise InputError(f"cannot write {folder}: {why(error)}") from error
    return sum(path.stat().st_size for path in target.rglob("*") if path.is_file())


class _Handler(BaseHTTPRequestHandler):
    """Answers with the files of the page, and with nothing else."""

    protocol_version = "HTTP/1.1"
    server_version = "spectok"

    def __init__(self, files: Mapping[str, Content], *args: object) -> None:
        self.files = files
        super().__init__(*args)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """Send a file."""
        self._answer(with_content=True)

    def do_HEAD(self) -> None:
        """Send what a file is, without its content."""
        self._answer(with_content=False)

    def _answer(self, with_content: bool) -> None:
        name = unquote(urlsplit(self.path).path).removeprefix("/") or "index.html"
        content = self.files.get(name)
        if content is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        tag = f'"{_tag(content)}"'
        is_known = self.headers.get("If-None-Match") == tag
        body = b"" if is_known else content if isinstance(content, bytes) else content.read_bytes()
        self.send_response(HTTPStatus.NOT_MODIFIED if is_known else HTTPStatus.OK)
        self.send_header("Content-Type", KINDS.get(Path(name).suffix, "application/octet-stream"))
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-cache")  # a browser asks each time whether its copy is still right
        self.send_header("ETag", tag)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()
        if with_content:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing for each request."""


def _tag(content: Content) -> str:
    """A text that changes with the content."""
    if isinstance(content, bytes):
        return f"{hash(content):x}"
    status = content.stat()
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"


class PageServer(ThreadingHTTPServer):
    """Serves the page to browsers on this computer.

    Args:
        port: to listen at; 0 for one that is free.

    Attributes:
        url: the address of the page.

    Raises:
        InputError: the port is in use or out of range, or this installation has no page.
    """

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        files = page()
        require(0 <= port < 1 << 16, f"the port is {port}, but must be from 0 to 65535")
        try:
            super().__init__(("127.0.0.1", port), functools.partial(_Handler, files))
        except OSError as error:
            raise InputError(f"cannot listen at port {port}: {why(error)}") from error
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print an error of the server, and nothing if a browser has closed its connection."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def start(self) -> threading.Thread:
        """Serve in a thread of its own until `shutdown`."""
        thread = threading.Thread(target=self.serve_forever, daemon=True)
        thread.start()
        return thread
