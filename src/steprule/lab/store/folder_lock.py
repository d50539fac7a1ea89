"""One run a folder: refuse a second one, and name the process that has it."""

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

    Shared locks keep out only exclusive ones. The yielded function turns an exclusive lock into a shared one.

    The lock is on the folder itself, so it leaves no file. Where folders cannot be locked (Windows, some network file
    systems), this does nothing.
    """
    try:
        import fcntl
    except ImportError:
        yield lambda: None
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # any other error: folders cannot be locked here
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
    """Name the process that holds the lock, if the system knows it."""
    with suppress(OSError, IndexError):
        told = os.fstat(handle)
        place = f"{os.major(told.st_dev):02x}:{os.minor(told.st_dev):02x}:{told.st_ino}"
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            words = line.split()
            if words[1] == "FLOCK" and words[5] == place:
                return f" (process {words[4]})"
    return ""
