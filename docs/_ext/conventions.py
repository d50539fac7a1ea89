"""The table of conventions, from the record that `benchmarks/conventions.py` writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from made import paragraph, table
from sphinx.util.docutils import SphinxDirective

RECORD = Path(__file__).parents[2] / "benchmarks/records/conventions.json"


class Conventions(SphinxDirective):
    """One row an optimiser and library: what it is called there, its convention, its arguments with their defaults."""

    def run(self) -> list[nodes.Node]:
        """Return the table, and the versions that it holds for."""
        self.env.note_dependency(str(RECORD))
        record = json.loads(RECORD.read_text(encoding="utf-8"))
        told = ", ".join(f"{package} {version}" for package, version in record["versions"].items())
        head = ("method", "library", "convention", "arguments and defaults")
        return [table(head, _rows(record["rows"]), "conventions"), paragraph(f"Found with {told}.")]


def _rows(rows: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for family, libraries in rows.items():
        for place, (library, found) in enumerate(libraries.items()):
            arguments = ", ".join(
                name if value is None else f"{name}={value}" for name, value in found["arguments"].items()
            )
            yield "" if place else family, f"`{library}.{found['name']}`", found["convention"], f"`{arguments}`"
