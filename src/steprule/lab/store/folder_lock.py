"""One run a folder: the second one is refused, and told who has it."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import steprule as sr

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


@contextmanager
def locked(folder: Path, *, shared: bool = False) -> Generator[Callable[[], None]]:
    """Hold the folder for the block within; the system lets go when the process ends, however it ends.

    Those who share it keep out only who wants it alone, who may share it later by what is given.

    The folder itself is locked, so nothing is left in it. Where folders cannot be locked (Windows, some network file
    systems) nothing is.
    """
    try:
        import fcntl
    except ImportError:
        yield lambda: None
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # what is left of it, once the refusal has been told apart
            try:
                fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError:
                raise sr.errors.StateError(
                    f"another run writes here{_holder(handle)}",
                    where=str(folder),
                    fix="wait for it, or give another --out",
                ) from None
        yield lambda: fcntl.flock(handle, fcntl.LOCK_SH)
    finally:
        os.close(handle)


def _holder(handle: int) -> str:
    """Name the process that has the lock, where the system tells."""
    with suppress(OSError, IndexError):
        told = os.fstat(handle)
        place = f"{os.major(told.st_dev):02x}:{os.minor(told.st_dev):02x}:{told.st_ino}"
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            words = line.split()
            if words[1] == "FLOCK" and words[5] == place:
                return f" (process {words[4]})"
    return ""
