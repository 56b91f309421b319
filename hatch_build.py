"""Puts the released models and the page of `spectok web` into the wheel.

The page is built from web/ with npm, which fetches ONNX Runtime Web.
"""

import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NOT_INSTALLED = ("LICENSE", "training.json", "results")  # in pretrained/: the licence is in the wheel's metadata
SOURCES = ("src", "page", "licenses", "build.js", "package.json", "package-lock.json", "tsconfig.json")


class DataBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the models and the page, which it builds unless web/dist/page is newer than its sources.

    Without npm, the wheel has no page. An editable installation finds both in the source tree.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Name the files that the wheel gets besides the modules."""
        if version == "editable":
            return
        added: dict[str, str] = build_data["force_include"]
        pretrained = Path(self.root, "pretrained")
        for path in sorted(path for path in pretrained.rglob("*") if path.is_file()):
            parts = path.relative_to(pretrained).parts
            if not set(parts) & set(NOT_INSTALLED):
                added[str(path)] = "/".join(("spectok/_pretrained", *parts))
        page = self._page()
        if page is not None:
            added[str(page)] = "spectok/_web"

    def _page(self) -> Path | None:
        """The folder of the page; None if it cannot be built."""
        web = Path(self.root, "web")
        page = web / "dist" / "page"
        if _is_current(web, page / "LICENSES.txt"):
            return page
        npm = shutil.which("npm")
        if npm is None or not web.is_dir():
            missing = "npm" if npm is None else "the folder web/"
            self.app.display_warning(f"{missing} is missing: the wheel will not have the page of `spectok web`")
            return None
        for command in (["ci", "--no-audit", "--no-fund"], ["run", "build"]):
            subprocess.run([npm, *command], cwd=web, check=True)
        return page


def _is_current(web: Path, last: Path) -> bool:
    """Whether the file that the build writes last is newer than all its sources."""
    if not last.is_file():
        return False
    paths = [path for name in SOURCES for path in ((web / name).rglob("*") if (web / name).is_dir() else [web / name])]
    return all(path.stat().st_mtime <= last.stat().st_mtime for path in paths)
