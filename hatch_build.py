"""Puts the page of `spectok web` into the wheel. It is built from web/ with npm, which fetches ONNX Runtime Web."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = ("src", "page", "licenses", "build.js", "package.json", "package-lock.json", "tsconfig.json")


class PageBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Builds web/dist/page unless it is newer than its sources. Without npm, the wheel has no page."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the page to the files of the wheel. An editable installation finds it in the source tree."""
        if version == "editable":
            return
        web = Path(self.root, "web")
        page = web / "dist" / "page"
        if not _is_current(web, page / "LICENSES.txt"):
            npm = shutil.which("npm")
            if npm is None:
                self.app.display_warning("npm is missing: the wheel will not have the page of `spectok web`")
                return
            for command in (["ci", "--no-audit", "--no-fund"], ["run", "build"]):
                subprocess.run([npm, *command], cwd=web, check=True)
        build_data["force_include"][str(page)] = "spectok/_web"


def _is_current(web: Path, last: Path) -> bool:
    """Whether the file that the build writes last is newer than all its sources."""
    if not last.is_file():
        return False
    paths = [path for name in SOURCES for path in ((web / name).rglob("*") if (web / name).is_dir() else [web / name])]
    return all(path.stat().st_mtime <= last.stat().st_mtime for path in paths)
