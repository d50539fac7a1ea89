"""The playground as one HTML file: scripts, styles, fonts and data are in it, and it loads nothing.

Each script is an element whose id is the name of its file, so that a worker can be made from those it needs.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from contextlib import suppress
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

import steprule as sr
from steprule.console.embedding import embedded, policy
from steprule.lab.report.style import COLOURS, DASHES, MARKERS
from steprule.play.data import packed
from steprule.play.library import entries
from steprule.play.scripts import LANGUAGE, reader
from steprule.rule import Formula, Transform

LARGEST = 2_000_000
"""Bytes that the page may have."""
_FIRST, _LAST = ("start.js", "elements.js", "words.js"), ("app.js",)
_TEMPLATE = "page.html.j2"


@cache
def page() -> str:
    """Return the playground. Every call gives the same text.

    >>> page().startswith("<!doctype html>")
    True
    """
    scripts = {name: _closed(text) for name, text in _scripts().items()}
    loader = DictLoader({name: _text("steprule.play.web", name) for name in (_TEMPLATE, *_pieces(".css"))})
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(_TEMPLATE).render(
        version=sr.__version__,
        policy=policy(scripts.values(), worker_src="blob:", img_src="data: blob:", font_src="data:"),
        styles=Markup(_styles()),  # noqa: S704 - our own copies
        scripts={name: Markup(text) for name, text in scripts.items()},  # noqa: S704 - our own files
        data={name: embedded(value) for name, value in _data().items()},
        own_styles=_pieces(".css"),
        colours=COLOURS,
    )


def _data() -> dict[str, Any]:
    """Return what scripts read, by the id of its element."""
    looks = {"dashes": DASHES, "markers": MARKERS, "colours": len(COLOURS)}
    return {"looks": looks, "names": sr.__all__, "digits": packed(), "files": _files()}


def _files() -> str:
    """Return the rules as single files of torch, by name, those that have one: JSON, deflated, in base64."""
    made: dict[str, str] = {}
    for name, entry in entries().items():
        if isinstance(entry.value, Formula) and not isinstance(entry.value, Transform):
            with suppress(sr.errors.StepruleError):
                command = f"steprule export {name} --to torch"
                made[name.removeprefix("board.")] = sr.export(entry.value, command=command)
    return base64.b64encode(zlib.compress(json.dumps(made).encode(), 9)).decode()


def _scripts() -> dict[str, str]:
    """Return every script by the id of its element, in the order in which they run; what is typeset can wait."""
    language = {name.rpartition("/")[2]: text for name, text in reader().items()}
    pieces = [name for name in _pieces(".js") if f"web/{name}" not in LANGUAGE and name not in _FIRST + _LAST]
    # The page's own pieces, app-*.js, use what the others give.
    ordered = (*_FIRST, *sorted(pieces, key=lambda name: (name.startswith("app-"), name)), *_LAST)
    return {
        **language,
        "uplot.js": _text("steprule.lab.report.vendor", "uPlot.iife.min.js"),
        **{name: _text("steprule.play.web", name) for name in ordered},
        "katex.js": _text("steprule.play.vendor", "katex.js"),
    }


def _pieces(ending: str) -> list[str]:
    """List the page's own files of a kind, by name."""
    return sorted(one.name for one in resources.files("steprule.play.web").iterdir() if one.name.endswith(ending))


@cache
def _text(package: str, name: str) -> str:
    return _file(package, name).decode()


def _file(package: str, name: str) -> bytes:
    root, _, folder = package.partition(".")
    return resources.files(root).joinpath(*folder.split("."), name).read_bytes()


def _closed(script: str) -> str:
    """Return a script in which nothing can end or open an element; in strings the added sign means nothing."""
    return re.sub(r"<(?=/script|!--)", r"\\x3c", script, flags=re.IGNORECASE)


def _styles() -> str:
    """Return the vendored styles with the fonts that are vendored as data, and without the others."""
    fonts = {one.name for one in resources.files("steprule.play.vendor").joinpath("fonts").iterdir()}

    def face(match: re.Match[str]) -> str:
        named = re.search(r"fonts/([\w-]+\.woff2)", match[0])
        if named is None or named[1] not in fonts:
            return ""
        content = base64.b64encode(_file("steprule.play.vendor.fonts", named[1])).decode()
        source = f"src:url(data:font/woff2;base64,{content}) format('woff2')"
        return re.sub(r"src:[^;}]*", lambda _: source, match[0])

    style = re.sub(r"@font-face\{[^}]*\}", face, _text("steprule.play.vendor", "katex.css"))
    return style + _text("steprule.lab.report.vendor", "uPlot.min.css")
