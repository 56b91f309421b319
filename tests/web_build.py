"""What the tests of the npm package in web/ share: whether it is built, and Node.js."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

WEB = Path(__file__).parent.parent / "web"
NODE = shutil.which("node") or ""
CHROMIUM = shutil.which("chromium") or ""
needs_build = pytest.mark.skipif(not (NODE and (WEB / "dist" / "page").is_dir()), reason="`make web` has not been run")
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="the program chromium is missing")


def node(script: str, *arguments: str | Path, options: Sequence[str] = ()) -> str:
    """Run a script of web/; returns what it prints."""
    command = [NODE, *options, WEB / script, *arguments]
    done = subprocess.run(command, cwd=WEB, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout
