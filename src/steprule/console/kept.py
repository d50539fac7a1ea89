"""Keep the files of earlier work in a folder under numbered names, and say so. Overwrite nothing silently."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING

from steprule.console.screen import say

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path


def numbered(path: Path, number: int | str) -> Path:
    """Return the name under which a file is kept: `results.1.json`, `study.journal.1`."""
    if path.suffix == ".journal":
        return path.with_name(f"{path.name}.{number}")
    return path.with_name(f"{path.stem}.{number}{path.suffix}")


def keep(folder: Path, names: Iterable[str]) -> list[Path]:
    """Give the files of these names the next number, one for all; return their names from now on."""
    paths = [folder / name for name in names]
    patterns = [re.escape(numbered(path, "@").name).replace("@", r"(\d+)") for path in paths]
    there = [path.name for path in folder.iterdir()] if any(path.exists() for path in paths) else []
    taken = [int(found[1]) for name in there for pattern in patterns if (found := re.fullmatch(pattern, name))]
    kept: list[Path] = []
    for path in paths:
        if path.is_file():
            new = numbered(path, max(taken, default=0) + 1)
            with suppress(FileNotFoundError):  # another process that shares the folder was quicker
                path.rename(new)
                kept.append(new)
    return kept


def tell(kept: Sequence[Path]) -> None:
    """Name the kept files, if there are any."""
    if kept:
        say(f"What was in {kept[0].parent} before is kept: {', '.join(path.name for path in kept)}.", err=True)
