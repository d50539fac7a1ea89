"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING

import steprule as sr

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_NAMES = (
    r"(?:results|tuning|bench)\.json|(?:report|bench)\.(?:html|svg)|(?:runs|curves)\.csv|steprule|"
    r"checkpoint(?:\.previous)?\.pt"
)
_TEMPORARY = rf"\.(?:{_NAMES})\.(\d+)\.tmp"
"""The names under which files of a run are written, with the process that writes them."""


class Unrecorded(sr.errors.StepruleError):
    """The storage is full or out of reach, so results can no longer be recorded."""


def write_atomically(
    path: Path, content: str | bytes, *, keep: Path | None = None, first: Callable[[], None] | None = None
) -> None:
    """Replace a file in one step: a reader, or a power cut, meets the old one or the new one whole.

    With `keep` the old one stays under that name; at no moment is there neither. `first` is called when the new one
    is written, and takes its place next: a full disk never comes to that.
    """
    temporary = _beside(path)
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        if first is not None:
            first()
        if keep is not None and path.exists():
            _link(path, keep)
        temporary.replace(path)
        _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    """Return a name of this process's own, from which `path` can be replaced."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _link(path: Path, name: Path) -> None:
    """Give a file a second name; a file system without links keeps the first alone."""
    link = _beside(name)
    link.unlink(missing_ok=True)
    with suppress(OSError):
        os.link(path, link)
        link.replace(name)
    link.unlink(missing_ok=True)


def _flush(folder: Path) -> None:
    """Make a new name last through a power cut, where a folder can be flushed."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def prepare(folder: Path) -> None:
    """Make the folder and prove that it can be written to, before an hour of work depends on it.

    Remove the fragments of processes that were killed while they wrote.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".*.tmp"):
        owner = re.fullmatch(_TEMPORARY, left.name)
        if owner and not _alive(int(owner[1])):
            left.unlink(missing_ok=True)
    probe = folder / f".steprule.{os.getpid()}.tmp"
    try:
        probe.write_text("")
    finally:
        probe.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    """Whether a process of this number runs. If the system does not say, it may."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
