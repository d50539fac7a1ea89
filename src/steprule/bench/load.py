"""The load of other programs on the machine during a measurement.

Either of two signs is enough. Other programs kept so many cores busy that ours could not have those it wanted:
by what Linux counts for each core, and by the load average where it is beyond all that ours could cause. Or the thread
that takes the steps, which works or spins throughout, was given less processor time than passed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steprule.bench import machine

STAT = Path("/proc/stat")
SPARE = 0.25
"""Cores that others may use besides the spare ones: a desktop is never quite still."""

WAITED = 0.15
"""Share of its time that a stepping thread may have waited."""

_IDLE = (3, 4)
"""Columns of /proc/stat in which nobody worked: idle, and waiting for a disk."""


@dataclass(frozen=True)
class MachineLoad:
    """How busy the machine was: `others` in cores, `waited` a share of the time that was measured."""

    cores: int
    threads: int
    others: float
    waited: float

    def facts(self) -> dict[str, float]:
        """Return the load as JSON data."""
        return {"cores": self.cores, "threads": self.threads, "others": round(self.others, 2),
                "waited": round(max(0.0, self.waited), 3)}  # fmt: skip


def busy(facts: Mapping[str, Any] | None) -> str | None:
    """Say why times under a load mean little, or return None if they are sound or the load is unknown."""
    if not facts:
        return None
    if facts["threads"] + facts["others"] > facts["cores"] + SPARE:
        return (f"the machine was busy: others used {facts['others']:.1f} of {facts['cores']} cores, "
                f"and {facts['threads']} were asked for")  # fmt: skip
    if facts["waited"] > WAITED:
        return f"the machine was busy: a step waited {100 * facts['waited']:.0f} % of its time for a core"
    return None


def _worked() -> float | None:
    """Return the seconds of all programs' work on the cores we may use, if the system counts them."""
    mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set[int]()
    try:
        lines = [line.split() for line in STAT.read_text(encoding="utf-8").splitlines()]
        rows = [list(map(int, row[1:9])) for row in lines if row and row[0] in {f"cpu{core}" for core in mine}]
    except (OSError, ValueError):
        return None
    ticks = [sum(count for place, count in enumerate(row) if place not in _IDLE) for row in rows]
    return sum(ticks) / os.sysconf("SC_CLK_TCK") if ticks else None


def _ours() -> float:
    """Return the seconds that this process has worked, and children of it that have ended."""
    done = os.times()
    return time.process_time() + done.children_user + done.children_system


def average() -> float:
    """Return how many programs have wanted a core in the last minute, or 0 if the system does not count them."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return 0.0


def warning() -> str | None:
    """Warn that times will be noise if more programs want a core than there are cores."""
    if average() <= (os.cpu_count() or 1):
        return None
    return f"The machine is busy: {average():.1f} programs want its {os.cpu_count()} cores. What is timed now is noise."


def _excess(threads: int) -> float:
    """Return the part of the load average that ours cannot have caused: it may have been on every core before."""
    return average() - (os.cpu_count() or 1) - threads


def watch(threads: int) -> Callable[..., MachineLoad]:
    """Begin to watch. The returned function ends it, given the share of its time that a stepping thread waited."""
    began, all_work, own_work = time.monotonic(), _worked(), _ours()

    def end(waited: float = 0.0) -> MachineLoad:
        now, passed = _worked(), max(time.monotonic() - began, 1e-3)
        own = _ours() - own_work
        seen = 0.0 if now is None or all_work is None else (now - all_work - own) / passed
        return MachineLoad(machine.cores(), threads, max(0.0, seen, _excess(threads)), waited)

    return end
