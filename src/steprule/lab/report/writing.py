"""The files that are made from a document: the page and the two tables beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steprule.console.files import write_atomically
from steprule.console.kept import numbered
from steprule.lab.earlier import REPORT
from steprule.lab.report.export import curves_csv, runs_csv


def texts(document: dict[str, Any], folder: Path, number: str = "") -> dict[Path, str]:
    """Return the content of each file; with a number, their names have it."""
    # Imported here: matplotlib is slow to load, and a comparison's runs need not wait for it.
    from steprule.lab.report.page import page

    made = (page(document), runs_csv(document), curves_csv(document))
    paths = (folder / name for name in REPORT[1:])
    return {numbered(path, number) if number else path: text for path, text in zip(paths, made, strict=True)}


def write(made: dict[Path, str]) -> None:
    """Write each file whole."""
    for path, text in made.items():
        write_atomically(path, text)


def differing(made: dict[Path, str]) -> list[str]:
    """Return the names of the files that say something else."""
    return [path.name for path, text in made.items() if path.is_file() and path.read_bytes() != text.encode()]
