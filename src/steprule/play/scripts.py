"""The scripts that read rules and run them, in the order in which a page needs them."""

from __future__ import annotations

from importlib import resources

from steprule.play.facts import script

EDITOR = "vendor/editor.js"
"""The editor, with the parser of Python; it makes one global name."""
LANGUAGE = (
    *(f"web/language-{name}.js" for name in (
        "text", "nodes", "symbols", "advice", "values", "python", "functions", "statements", "declare", "formula",
        "purity", "trace", "show", "builtins", "modules",
    )),
    "web/language.js",
    "web/run.js",
    "web/export.js",
)  # fmt: skip
"""What reads and runs rules: they need the facts and the parser, and no document."""


def text(name: str) -> str:
    """Return the text of a file of this room."""
    return resources.files("steprule.play").joinpath(name).read_text(encoding="utf-8")


def reader() -> dict[str, str]:
    """Return all scripts that a page or a worker needs to read and run rules, by name, in their order."""
    return {EDITOR: text(EDITOR), "facts": script(), **{name: text(name) for name in LANGUAGE}}


__all__ = ["EDITOR", "LANGUAGE", "reader", "text"]
