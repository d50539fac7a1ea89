"""The files that are made from a document: the page and the two tables beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steprule.lab.files import write_atomically
from steprule.lab.report.export import curves_csv, runs_csv

FILES = ("report.html", "runs.csv", "curves.csv")


def write(document: dict[str, Any], folder: Path) -> None:
    """Write each file whole; nothing is written where one of them cannot be made."""
    # Imported here: matplotlib is slow to load, and a comparison's runs need not wait for it.
    from steprule.lab.report.page import page

    made = dict(zip(FILES, (page(document), runs_csv(document), curves_csv(document)), strict=True))
    for name, text in made.items():
        write_atomically(folder / name, text)
