"""By what means steps are taken: fast paths that need one torch, one Python or one process more than another."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from ..backends import threads
from ..backends.numba_cpu import CpuBatch
from . import glance, witness
from .roster import NO_KERNELS, Roster


@dataclass(frozen=True)
class Means:
    """What steps use, and in words why not the best: without a glance, small steps take two to three times as long.

    `look` is `"glance"`, one compiled call that asks whether all is as it was, or `"look"`, the same in Python;
    `threads` are `"torch"`'s, `"python"`'s or, in one thread, `"serial"`; the `witness`, which compares tensors where
    there is no glance, is `"torch"` or `"python"`. `reasons` has an entry for each that is not the best.
    """

    look: str
    threads: str
    witness: str
    reasons: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """Return the facts as plain data."""
        return asdict(self)

    def slower(self) -> list[str]:
        """Say, a line each, what makes steps slower than they could be."""
        names = {"look": "looking at tensors", "threads": "threads", "witness": "comparing tensors"}
        usual = {"threads"} if self.threads == "serial" else set[str]()
        usual |= {"look"} if self.reasons.get("look") == NO_KERNELS else set()
        slow = [name for name in names if name in self.reasons and name not in usual]
        return [f"slower than it could be: {names[name]} ({self.reasons[name]})" for name in slow]


def means(roster: Roster | None = None) -> Means:
    """Return by what means an optimiser's next step is taken, or any would be that runs on kernels in main memory.

    A roster tells what its optimiser does; without one, what this process can do. Nothing is compiled or started. It is
    for `explain`, its JSON and the records of `bench`.
    """
    asked = {"threads": _threads(roster), "witness": witness.by()}
    why = glance.obstacle() if roster is None else roster.unglanced
    asked["look"] = ("look", why) if why else ("glance", "")
    return Means(
        look=asked["look"][0],
        threads=asked["threads"][0],
        witness=asked["witness"][0],
        reasons={name: why for name, (_, why) in asked.items() if why},
    )


def _threads(roster: Roster | None) -> tuple[str, str]:
    if torch.get_num_threads() == 1:
        return "serial", "torch.get_num_threads() is 1"
    if roster is not None:
        batches = [batch for squad in roster.squads for batch in squad.batches if isinstance(batch, CpuBatch)]
        if not any(batch.shared() for batch in batches):
            return "serial", "there are too few elements in kernels in main memory for more than one thread"
    return threads.by()
