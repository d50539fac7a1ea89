"""The owner of a run: a process on a machine, distinct from a later one of the same number."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class Owner:
    """A process. `machine` is empty if the system cannot tell machines, or processes of one number, apart."""

    machine: str
    process: int
    started: str

    @classmethod
    def here(cls) -> Self:
        """Return this process."""
        return cls(_machine(), os.getpid(), _started(os.getpid()))

    @classmethod
    def of(cls, text: str) -> Self:
        """Return the process that a text names. Any other text gives one that cannot be asked."""
        machine, _, rest = text.partition("/")
        process, _, started = rest.partition("/")
        return cls(machine, int(process), started) if process.isdecimal() else cls("", 0, "")

    def __str__(self) -> str:
        return f"{self.machine}/{self.process}/{self.started}"

    def dead(self) -> bool:
        """Whether the process is of this machine and runs no more: its number is free, or another's now."""
        return bool(self.machine) and self.machine == _machine() and _started(self.process) != self.started


@cache
def _machine() -> str:
    """Name this machine since it was switched on, and the space of its process numbers: a container has its own."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}-{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def _started(process: int) -> str:
    """Return when a process began, in ticks since the machine did, or "" for a zombie or an unknown number."""
    try:
        after_name = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
    except OSError:
        return ""
    state, fields = after_name.split()[0], after_name.split()
    return "" if state in "ZX" else fields[19]
