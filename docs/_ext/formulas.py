"""Formulas drawn while the site is built: KaTeX's HTML and MathML stand in the page, and no script runs for them.

A formula that KaTeX refuses is a warning at its line, and a warning ends the build.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from py_mini_racer import JSEvalException, MiniRacer
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.fileutil import copy_asset_file
from sphinx.util.osutil import ensuredir

VENDOR = Path(__file__).parents[2] / "src/steprule/play/vendor"

log = logging.getLogger(__name__)


class KaTeX:
    """KaTeX in an engine of its own, made for the first formula; each formula is drawn once."""

    def __init__(self) -> None:
        self._engine: MiniRacer | None = None
        self._drawn: dict[tuple[str, bool], str] = {}

    def draw(self, formula: str, block: bool) -> str:
        """Return a formula's HTML; raise `ValueError` with KaTeX's words for one that it cannot read."""
        key = (formula, block)
        if key not in self._drawn:
            if self._engine is None:
                self._engine = MiniRacer()
                self._engine.eval((VENDOR / "katex.js").read_text(encoding="utf-8") + "; 0")
            options = {"displayMode": block, "strict": "error"}
            try:
                html = self._engine.eval(f"katex.renderToString({json.dumps(formula)}, {json.dumps(options)})")
            except JSEvalException as error:
                told = str(error).splitlines()[0]
                raise ValueError(told.partition("KaTeX parse error: ")[2] or told) from None
            # What scrolls sideways must be reached by the keyboard.
            self._drawn[key] = str(html)
        return self._drawn[key]

    def close(self) -> None:
        """End the engine, whose thread would keep Python from ending."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None


katex = KaTeX()


def _draw(self: Any, node: nodes.Element, block: bool) -> None:
    try:
        html = katex.draw(node.astext().strip(), block)
    except ValueError as error:
        log.warning("KaTeX cannot read a formula: %s", error, location=node)
    else:
        self.body.append(f'<div class="math" tabindex="0">{html}</div>' if block else html)
    raise nodes.SkipNode


def _copied(app: Sphinx, error: Exception | None) -> None:
    """Put the style sheet and the fonts that it names into the site, as woff2 alone: every browser reads that."""
    katex.close()
    if error is None and app.builder.format == "html":
        place = Path(app.outdir) / "_static/katex"
        ensuredir(place / "fonts")
        css = (VENDOR / "katex.css").read_text(encoding="utf-8")
        css = re.sub(r',url\([^)]*\.(?:woff|ttf)\) format\("(?:woff|truetype)"\)', "", css)
        faces = re.compile(r"@font-face\{[^}]*url\((fonts/[^)]*)\)[^}]*\}")
        css = faces.sub(lambda face: face[0] if (VENDOR / face[1]).is_file() else "", css)
        (place / "katex.css").write_text(css, encoding="utf-8")
        for font in sorted((VENDOR / "fonts").iterdir()):
            copy_asset_file(font, place / "fonts")


def setup(app: Sphinx) -> dict[str, bool]:
    """Draw the formulas of HTML pages."""
    app.add_html_math_renderer(
        "katex",
        inline_renderers=(lambda self, node: _draw(self, node, block=False), None),
        block_renderers=(lambda self, node: _draw(self, node, block=True), None),
    )
    app.connect("build-finished", _copied)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
