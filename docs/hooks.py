"""Shows documents from outside of docs/ on the site, and leads every relative link to where its target is shown.

A page of the site has the path that its file has in docs/, or, from elsewhere in the repository, the path that the file
has there. The same relative links therefore work in a checkout and on the site. A link to a file that the site does not
show leads to the repository.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
FROM_ELSEWHERE = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "benchmarks/README.md",
    "pretrained/*/README.md",
    "pretrained/results/*.md",
    "pretrained/results/*.png",
    "recipes/*.md",
    "web/README.md",
    "recipes/*/README.md",
    "recipes/learning.svg",
    "recipes/*/*.png",
)
LINK = re.compile(r"(\]\(|src=\")(?!\w+:|#|/)([^)\"#]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files from outside of docs/."""
    for pattern in FROM_ELSEWHERE:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite the page's relative links."""
    uri = page.file.src_uri
    source = uri if page.file.generated_by else f"docs/{uri}"  # in the repository

    def lead(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), found[2]))
        shown = target.removeprefix("docs/")
        if files.get_file_from_path(shown):
            return found[1] + posixpath.relpath(shown, posixpath.dirname(uri) or ".")
        if (ROOT / target).exists():
            return f"{found[1]}{config.extra['repository']}/blob/main/{target}"
        return found[0]

    return LINK.sub(lead, markdown)
