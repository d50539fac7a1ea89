"""The files of an earlier study in a folder: whose they are, and making room for the next one's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import steprule as sr
from steprule.console.kept import keep, tell

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

REPORT = ("results.json", "report.html", "runs.csv", "curves.csv")
"""The files of a comparison or a run, its record first."""

LARGEST = 256 * 2**20
"""Bytes beyond which a file is no record of ours."""


def make_room(folder: Path, names: Sequence[str], study: str) -> None:
    """Keep the files of these names, unless the same study wrote them. The first name is the record's."""
    if not study or study_of(folder / names[0]) != study:
        tell(keep(folder, names))


def study_of(record: Path) -> Any:
    """Return the name of the study that wrote a record, or None if there is no such record."""
    try:
        if record.stat().st_size > LARGEST:
            return None
        found = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found.get("study") if isinstance(found, dict) else None


def unmoved(path: Path, error: OSError) -> sr.errors.StateError:
    """Return an error with the reason why earlier work cannot be set aside."""
    told = f"what is there cannot be set aside: {error.strerror or error}"
    return sr.errors.StateError(told, where=str(path), fix="give another --out")
