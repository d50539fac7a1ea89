"""The built site's links lead somewhere: to a file that is there, and to an anchor that is in it.

Links that leave the site are not followed, since a build needs no network; that they are well formed is checked.
"""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sphinx.application import Sphinx
from sphinx.util import logging

log = logging.getLogger(__name__)

ASKING = {"a": "href", "link": "href", "img": "src", "script": "src", "source": "srcset", "iframe": "src"}
"""The attributes by which an element names another file."""


class Page(HTMLParser):
    """What a page links to, and the anchors that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[tuple[str, str]] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take an element's anchor and link."""
        given = dict(attrs)
        if name := given.get("id"):
            self.anchors.add(name)
        if (link := given.get(ASKING.get(tag, ""))) and "canonical" not in (given.get("rel") or ""):
            self.links.append((tag, link))


def _outside(tag: str, link: str) -> str:
    """Return what is wrong with a link that leaves the site, or nothing."""
    parts = urlsplit(link)
    if parts.scheme in {"mailto", "data"}:
        return ""
    if tag != "a":
        return "is fetched from elsewhere"
    well = parts.scheme in {"http", "https"} and "." in (parts.hostname or "") and not set(link) & set(' <>"{}|\\^`')
    return "" if well else "is no well-formed address"


def wrong_links(folder: Path) -> list[tuple[Path, str]]:
    """Return each link of a built site that leads nowhere, as its page and what is wrong with it."""
    pages = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.html"))}
    wrong: list[tuple[Path, str]] = []
    for path, page in pages.items():
        for tag, link in page.links:
            place, _, anchor = link.partition("#")
            if urlsplit(link).scheme or link.startswith("//"):
                told = _outside(tag, link)
            else:
                told = _inside(folder, path, unquote(place.partition("?")[0]), unquote(anchor), pages)
            if told:
                wrong.append((path.relative_to(folder.resolve()), f"{link} {told}"))
    return wrong


def _inside(folder: Path, path: Path, place: str, anchor: str, pages: dict[Path, Page]) -> str:
    """Return what is wrong with a link to a file of the site, or nothing."""
    if place.startswith("/"):
        return "is absolute, and the site may stand in any folder" if path.name != "404.html" else ""
    target = (path.parent / place).resolve() if place else path
    if target.is_dir():
        target /= "index.html"
    if not target.is_relative_to(folder.resolve()) or not target.is_file():
        return "is not there"
    if anchor and target in pages and anchor not in pages[target].anchors:
        return "has no such anchor"
    return ""


def _check(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        for page, told in wrong_links(Path(app.outdir)):
            log.warning("%s links to %s", page, told)


def setup(app: Sphinx) -> dict[str, bool]:
    """Check links once all is written, the other extensions' files too: it is to be listed last."""
    app.connect("build-finished", _check, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
