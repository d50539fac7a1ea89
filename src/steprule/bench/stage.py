"""The tensors and arms of a case: made, shared where they are large, and checked."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch

from steprule.bench import arms
from steprule.bench.cases import BACKWARD, FRESH, GPU, SAME, SWAPPED, Case
from steprule.bench.gpu import Gpu
from steprule.bench.measure import Arm, EventArm, Feed
from steprule.bench.precision import FLOAT32, Precision
from steprule.bench.rules import RULES
from steprule.bench.training import training_unit
from steprule.bench.truth import Trial
from steprule.bench.units import Tensors, Unit
from steprule.bench.workloads import Workload

SETS = {SAME: 4, FRESH: 8, SWAPPED: 2, BACKWARD: 0}
"""How many sets of gradients are made beforehand."""


@contextmanager
def threads(count: int) -> Generator[None]:
    """Let torch, and ours with it, use a number of threads within."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class TensorPool:
    """Keeps the large tensors of a case for the next one on the same shapes: they take seconds to make."""

    def __init__(self) -> None:
        self._key: Any = None
        self._held: list[Tensors] = []

    def clear(self, key: Any = None) -> None:
        """Drop the held tensors, unless the next case needs them."""
        if self._key is None or self._key != key:
            self._key, self._held = None, []

    def get(
        self, workload: Workload, sets: int, count: int, device: str = "cpu", precision: Precision = FLOAT32
    ) -> list[Tensors]:
        """Return tensors for arms to share, with fresh numbers if an arm left some that no training has."""
        key = workload, sets, count, device, precision
        self.clear(key if all(map(_usual, self._held)) else None)
        if not self._held:
            self._key, self._held = key, [Tensors(workload, 1.0, sets, device, precision) for _ in range(count)]
        return self._held


def _usual(tensors: Tensors) -> bool:
    """Whether no size is near overflow, or so small that products underflow: both would be timed differently."""
    largest = [float(tensor.detach().norm(float("inf"))) for group in tensors.everything() for tensor in group]
    return all(1e-9 < size < 1e9 for size in largest)


pool = TensorPool()


class Stage:
    """The tensors and arms of one case; in a large one they share parameters and gradients, but never state."""

    def __init__(self, case: Case, count: int, gpu: Gpu) -> None:
        self.case, self._count, self._gpu = case, count, gpu
        self.rule = RULES[case.rule]
        self._sets = SETS[case.gradients]
        large = case.workload.memory_bound
        self._shared = pool.get(case.workload, self._sets, count, self._place, case.precision) if large else []

    @property
    def _place(self) -> str:
        return self._gpu.place if self.case.threads == GPU else self.case.device

    def _fresh(self, workload: Workload, sets: int) -> Tensors:
        return Tensors(workload, self.rule.start, sets, self._place, self.case.precision)

    def arm(self, name: str) -> Arm:
        """Return an arm, ready to be timed."""
        case = self.case
        if case.model:
            return Arm(name, [Feed(training_unit(name, case.model, self.rule, case.clip))])
        feeds: list[Feed] = []
        for index in range(self._count):
            own = self._shared[index] if self._shared else self._fresh(case.workload, self._sets)
            unit = arms.build(name, self.rule, case.clip, own)
            feeds.append(Feed(unit, own.gradients, case.gradients))
        return EventArm(name, feeds, self._gpu.event) if case.threads == GPU else Arm(name, feeds)

    def trial(self, name: str, made: Arm, trial: Trial) -> float:
        """Return the error of the timed arm itself if possible, else of one on thinned tensors."""
        return trial.of(made.feeds[0].unit if self.exact else self._thin(name))

    def _thin(self, name: str) -> Unit:
        return arms.build(name, self.rule, self.case.clip, self._fresh(self.checked_on, sets=0))

    @property
    def exact(self) -> bool:
        """Whether the very arms that are timed are checked."""
        return not (self.case.workload.memory_bound or self.case.model)

    @property
    def checked_on(self) -> Any:
        """The shapes on which the arms are checked."""
        return self.case.workload if self.exact else self.case.workload.thin()
