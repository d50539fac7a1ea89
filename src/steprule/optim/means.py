"""The means of steps: fast paths that depend on the version of torch, on Python or on the process."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from ..backends import threads
from . import checks, fast_check
from .binding import NO_KERNELS, Binding


@dataclass(frozen=True)
class Means:
    """What steps use, and in words why not the best: with the slow check, small steps take two to three times as long.

    `checks` are `"fast"`, one compiled call that asks whether all is as it was, or `"slow"`, the same in Python;
    `threads` are `"torch"`'s, `"python"`'s or, in one thread, `"serial"`; `comparisons` of tensors, made where
    checks are slow, are `"torch"`'s or `"python"`'s. `reasons` has an entry for each that is not the best,
    for `gradients` if some are copied at every step, and for `launches` on a GPU if they take longer than they could.
    """

    checks: str
    threads: str
    comparisons: str
    reasons: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """Return the facts as plain data."""
        return asdict(self)

    def slower(self) -> list[str]:
        """List the reasons that make steps slower than they could be."""
        names = {"checks": "checking tensors", "threads": "threads", "comparisons": "comparing tensors",
                 "gradients": "copying", "launches": "launching"}  # fmt: skip
        usual = {"threads"} if self.threads == "serial" else set[str]()
        usual |= {"checks"} if self.reasons.get("checks") == NO_KERNELS else set()
        slow = [name for name in names if name in self.reasons and name not in usual]
        return [f"slower than it could be: {names[name]} ({self.reasons[name]})" for name in slow]


def means(binding: Binding | None = None) -> Means:
    """Return by what means an optimiser's next step is taken, or any would be that runs on kernels in main memory.

    A binding tells what its optimiser does; without one, what this process can do. Nothing is compiled or started. It
    is for `explain`, its JSON and the records of `bench`.
    """
    asked = {"threads": _threads(binding), "comparisons": checks.by()}
    why = fast_check.obstacle() if binding is None else binding.why_slow
    asked["checks"] = ("slow", why) if why else ("fast", "")
    return Means(
        checks=asked["checks"][0],
        threads=asked["threads"][0],
        comparisons=asked["comparisons"][0],
        reasons={name: why for name, (_, why) in asked.items() if why} | ({} if binding is None else binding.costs()),
    )


def _threads(binding: Binding | None) -> tuple[str, str]:
    if torch.get_num_threads() == 1:
        return "serial", "torch.get_num_threads() is 1"
    if binding is not None and not any(bucket.batch.shared() for bucket in binding.buckets):
        return "serial", "there are too few elements in kernels in main memory for more than one thread"
    return threads.by()
