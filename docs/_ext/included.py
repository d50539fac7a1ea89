"""Pages of the repository that are pages of the site, too: a text stands once, and its links lead somewhere in both.

`{include} ../../ARCHITECTURE.md` makes one. A link in it is relative to the repository; here it becomes one to the page
that includes the file that it names, or to the file as it is.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.directives.other import TocTree
from sphinx.util.matching import patfilter

LINK = re.compile(r"(!?)(\[[^\]]*\]\()([^)\s#]+)(#[^)\s]*)?(\))")
INCLUDE = re.compile(r"^```\{include\} (\S+)$", flags=re.MULTILINE)


def _hosts(folder: Path) -> dict[Path, Path]:
    """Return the page of the site that includes each file."""
    found: dict[Path, Path] = {}
    for page in sorted(folder.rglob("*.md")):
        for place in INCLUDE.findall(page.read_text(encoding="utf-8")):
            found[(page.parent / place).resolve()] = page
    return found


def _rewrite(app: Sphinx, relative: Path, parent: str, content: list[str]) -> None:
    del parent  # of MyST it is the page's name without its folder
    folder = Path(app.srcdir)
    host = (folder / app.env.docname).parent
    origin = (folder / relative).resolve().parent
    hosts = _hosts(folder)

    def moved(link: re.Match[str]) -> str:
        picture, words, place, anchor, end = (part or "" for part in link.groups())
        target = (origin / place).resolve()
        if re.match(r"[a-z]+:", place) or not target.exists():
            return link[0]
        return f"{picture}{words}{os.path.relpath(hosts.get(target, target), host)}{anchor}{end}"

    content[0] = LINK.sub(moved, content[0])


class Pages(TocTree):
    """A list of pages, by name in the order wanted, then by patterns, which may find none beside them."""

    def run(self) -> list[nodes.Node]:
        """Return the list, or nothing."""
        known = self.env.found_docs
        listed = {line for line in self.content.data if line in known}
        self.content.data[:] = [line for line in self.content.data if {*patfilter(known, line)} - (listed - {line})]
        self.options["glob"] = True
        return super().run() if self.content.data else []


def setup(app: Sphinx) -> dict[str, bool]:
    """Rewrite the links of what is included."""
    app.add_directive("pages", Pages)
    app.connect("include-read", _rewrite)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
