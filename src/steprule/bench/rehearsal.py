"""A run without a GPU that takes every way of one with it: tensors in main memory, the host's clock, tiny shapes."""

from __future__ import annotations

import time
from typing import Any

from steprule.bench.gpu import UNKNOWN, Gpu, smi

MEANINGLESS = "This is a rehearsal in main memory: its times mean nothing."


class HostEvent:
    """A mark on the host's clock."""

    at = 0.0

    def record(self) -> None:
        """Come by."""
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        """Wait: the host has come by already."""

    def elapsed_time(self, end: HostEvent) -> float:
        """Return the milliseconds to another mark."""
        return 1e3 * (end.at - self.at)


class Rehearsal(Gpu):
    """Main memory, in the place of a GPU."""

    place = "cpu"

    def require(self, flag: str = "") -> None:
        """Need nothing."""

    def facts(self) -> dict[str, Any]:
        """Say that there is no GPU."""
        told = dict.fromkeys(("capability", "multiprocessors", "memory", "cuda", "triton"), UNKNOWN)
        return {"name": "no GPU: a rehearsal", **told, "cache": self.cache(), **self.state()}

    def state(self) -> dict[str, Any]:
        """Ask as of a GPU, since that is rehearsed, too."""
        return smi()

    def cache(self) -> int:
        """Return a size that makes working sets rotate on tiny shapes."""
        return 2**16

    def available(self) -> int:
        """Return more than tiny shapes need."""
        return 2**40

    def event(self) -> HostEvent:
        """Return a mark on the host's clock."""
        return HostEvent()

    def lost(self) -> str | None:
        """Return no reason: main memory is always there."""
        return None

    def sweep(self) -> None:
        """Leave memory to Python."""
