"""One run a folder: the second one is refused, and told who has it."""

from __future__ import annotations

import os
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from steprule.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


@contextmanager
def locked(folder: Path) -> Generator[None]:
    """Hold the folder for the block within. The system lets go when the process ends, however it ends."""
    try:
        import fcntl  # not on Windows, where nothing is locked
    except ImportError:
        yield
        return
    path = folder / ".lock"
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise StateError(
                f"another run writes here ({file.read().strip() or 'it has not said which'})",
                where=str(folder),
                fix="wait for it, or give another --out",
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()}, since {datetime.now(UTC).isoformat(timespec='seconds')}\n")
        file.flush()
        yield
