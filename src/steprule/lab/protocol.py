"""The fair comparison: equal trials for every method, tuned on validation data, scored once on test data."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

from steprule.lab.runs import RunResult, RunSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from steprule.lab.budget import Budget
    from steprule.lab.methods import Method
    from steprule.lab.tasks import TaskSpec

    Do = Callable[[Iterable[RunSpec]], Iterator[RunResult]]
    """Does runs and yields their results as they end."""

EXTENSIONS = 2
"""How many times the grid may grow by a point at an end where some method's best lies."""

SELECTION = (
    "Every method tries the same learning rates on the same tuning seeds; the one with the lowest validation "
    "loss at the end of training is kept. While some method's best lies at an end of the grid, the grid "
    "grows there by one point for every method alike, at most twice. The kept learning rate is then run on "
    "fresh seeds and scored once on test data."
)

REPORT_OFFSET = 100
"""Report seeds start this far above the tuning seeds, so that no report run repeats a tuning run."""


@dataclass(frozen=True)
class Plan:
    """What a comparison sets out to do."""

    task: TaskSpec
    methods: tuple[Method, ...]
    budget: Budget
    grid: tuple[float, ...]
    tuning_seeds: tuple[int, ...]
    report_seeds: tuple[int, ...]
    target: float | None = None
    extend: bool = True

    @property
    def runs(self) -> int:
        """How many runs the plan asks for, an extension of the grid not counted."""
        return len(self.methods) * (len(self.grid) * len(self.tuning_seeds) + len(self.report_seeds))


@dataclass(frozen=True)
class Choice:
    """The learning rate kept for a method; `edge` says at which end of the grid it lies, if it does."""

    lr: float | None
    validation_loss: float | None
    edge: str | None = None


@dataclass
class Study:
    """A plan and the runs done so far; whatever happens, what is here can be written down."""

    plan: Plan
    grid: tuple[float, ...]
    runs: list[RunResult] = field(default_factory=list[RunResult])
    interrupted: bool = False
    complete: bool = False
    fixed_lr: float | None = None

    def add(self, results: Iterable[RunResult]) -> None:
        """Keep each result as it comes: a list's own extend promises nothing when it is interrupted."""
        for result in results:
            self.runs.append(result)

    def _of(self, method: Method, phase: str) -> list[RunResult]:
        found = (run for run in self.runs if run.spec.method == method and run.spec.phase == phase)
        return sorted(found, key=lambda run: (run.spec.lr, run.spec.seed))

    def tuning_runs(self, method: Method) -> list[RunResult]:
        """Return a method's tuning runs, by learning rate and seed."""
        return self._of(method, "tuning")

    def report_runs(self, method: Method) -> list[RunResult]:
        """Return a method's runs on the fresh seeds."""
        return self._of(method, "report")

    def sensitivity(self, method: Method) -> list[tuple[float, float]]:
        """Return (learning rate, mean validation loss); infinite where a run of that rate did not finish."""
        groups = groupby(self.tuning_runs(method), key=lambda run: run.spec.lr)
        losses = [(lr, [run.validation_loss for run in runs]) for lr, runs in groups]
        return [(lr, sum(values) / len(values)) for lr, values in losses]

    def choice(self, method: Method) -> Choice:
        """Return the learning rate with the lowest validation loss; none when every one diverged."""
        if self.fixed_lr is not None:
            return Choice(self.fixed_lr, None)
        lr, loss = min(self.sensitivity(method), key=lambda pair: pair[1], default=(0.0, math.inf))
        if not math.isfinite(loss):
            return Choice(None, None)
        edges = {self.grid[-1]: "high", self.grid[0]: "low"} if len(self.grid) > 1 else {}
        return Choice(lr, loss, edges.get(lr))


def geometric(low: float, high: float, count: int) -> tuple[float, ...]:
    """Return `count` learning rates from low to high, equal factors apart, to three digits."""
    if count == 1:
        return (low,)
    step = math.log(high / low) / (count - 1)
    return tuple(float(f"{low * math.exp(step * place):.3g}") for place in range(count))


def conduct(study: Study, do: Do) -> None:
    """Tune, widen the grid where needed, and report; `study` grows run by run."""
    study.add(do(tuning_specs(study.plan, study.grid)))
    for _ in range(EXTENSIONS if study.plan.extend and len(study.grid) > 2 else 0):
        new = _extension(study)
        if not new:
            break
        study.grid = tuple(sorted((*study.grid, *new)))
        study.add(do(tuning_specs(study.plan, new)))
    study.add(do(report_specs(study)))


def tuning_specs(plan: Plan, rates: Iterable[float]) -> list[RunSpec]:
    """Return the runs that try these learning rates with every method."""
    return [
        RunSpec(plan.task, method, lr, seed, plan.budget, "tuning")
        for method in plan.methods
        for lr in rates
        for seed in plan.tuning_seeds
    ]


def report_specs(study: Study) -> list[RunSpec]:
    """Return the runs on fresh seeds of each method that has a learning rate."""
    plan = study.plan
    choices = [(method, study.choice(method).lr) for method in plan.methods]
    return [
        RunSpec(plan.task, method, lr, seed, plan.budget, "report")
        for method, lr in choices
        if lr is not None
        for seed in plan.report_seeds
    ]


def _extension(study: Study) -> tuple[float, ...]:
    """Return the next learning rate beyond each end where some method's best lies."""
    edges = {study.choice(method).edge for method in study.plan.methods}
    factor = study.grid[1] / study.grid[0]
    new: list[float] = []
    if "low" in edges:
        new.append(study.grid[0] / factor)
    if "high" in edges:
        new.append(study.grid[-1] * factor)
    return tuple(float(f"{lr:.3g}") for lr in new)
