"""The playground stands in the site as the one file that `steprule play` opens."""

from __future__ import annotations

from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from steprule.play.page import page

FILE = "play.html"


class Playground(SphinxDirective):
    """A link to it."""

    def run(self) -> list[nodes.Node]:
        """Return the link, as a button."""
        up = "../" * self.env.docname.count("/")
        return [nodes.raw("", f'<p><a class="button" href="{up}{FILE}">Open the playground</a></p>', format="html")]


def _written(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        (Path(app.outdir) / FILE).write_text(page(), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Write it beside the first page."""
    app.add_directive("playground", Playground)
    app.connect("build-finished", _written, priority=800)  # after pages are mended: its scripts are told by hashes
    return {"parallel_read_safe": True, "parallel_write_safe": True}
