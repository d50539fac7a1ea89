"""The fair comparison: equal trials for every method, tuned on validation data, scored once on test data.

The next runs follow from the plan and the results alone, so that any process can go on with a study.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

from steprule.lab.runs import RunResult, RunSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from steprule.lab.budget import Budget
    from steprule.lab.methods import Method
    from steprule.lab.tasks import TaskSpec

EXTENSIONS = 2
"""How many times the grid may grow by a point at an end where some method's best lies."""

_KEPT = "on the same tuning seeds; the one with the lowest validation loss at the end of training is kept."
SELECTION = f"Every method tries the same learning rates {_KEPT}"
APART = f"Every method tries equally many learning rates {_KEPT}"

EXTENSION = (
    "While some method's best lies at an end of the grid, the grid grows there by one point for every method alike, at "
    "most twice."
)

KEPT = "The kept learning rate is then run on fresh seeds and scored once on test data."

DEFAULTS = (
    "A method that has a default learning rate is also run at it, untuned, on the same fresh seeds; "
    "no number of these runs decides anything about the tuned ones."
)

VARIANTS = (
    "A variant has the formula of its optimiser and other options. It is not tuned: it takes the learning rate that "
    "was kept for the optimiser, and the same fresh seeds."
)

REPORT_OFFSET = 100
"""Report seeds start this far above the tuning seeds, so that no report run repeats a tuning run."""


@dataclass(frozen=True)
class StudyPlan:
    """The runs that a comparison intends on one task."""

    task: TaskSpec
    methods: tuple[Method, ...]
    budget: Budget
    grid: tuple[float, ...]
    tuning_seeds: tuple[int, ...]
    report_seeds: tuple[int, ...]
    target: float | None = None
    extend: bool = True
    defaults: bool = False
    own_ranges: bool = False
    """Whether a method whose rule says where to search its learning rate tries the grid's places in that range."""

    @property
    def tuned(self) -> tuple[Method, ...]:
        """The methods that try learning rates: all but variants."""
        return tuple(method for method in self.methods if method.of is None)

    @property
    def runs(self) -> int:
        """The number of runs of the plan, without an extension of the grid."""
        untuned = sum(method.default_lr is not None for method in self.methods) if self.defaults else 0
        tuning = len(self.tuned) * len(self.grid) * len(self.tuning_seeds)
        return tuning + (len(self.methods) + untuned) * len(self.report_seeds)

    @property
    def apart(self) -> dict[Method, tuple[float, float]]:
        """The methods that try learning rates in a range of their own, with that."""
        found = {method: method.lr_range for method in self.tuned} if self.own_ranges else {}
        return {method: own for method, own in found.items() if own is not None}

    def rates(self, method: Method, grid: Iterable[float]) -> tuple[float, ...]:
        """Return a method's learning rates in the places of those of a grid: the same, unless its range is its own."""
        own = method.lr_range if self.own_ranges else None
        return tuple(grid) if own is None else tuple(_moved(lr, (self.grid[0], self.grid[-1]), own) for lr in grid)


@dataclass(frozen=True)
class ChosenRate:
    """The learning rate kept for a method. `edge` names the end of the grid at which it lies, if any."""

    lr: float | None
    validation_loss: float | None
    edge: str | None = None


@dataclass
class Study:
    """A plan for one task and the runs done so far. It can be written down at any moment.

    `cut` are the learning rates that remain where the time for tuning ran out before the grid was done.
    """

    plan: StudyPlan
    grid: tuple[float, ...]
    interrupted: bool = False
    complete: bool = False
    fixed_lr: float | None = None
    cut: tuple[float, ...] | None = None
    _done: dict[RunSpec, RunResult] = field(default_factory=dict[RunSpec, RunResult])
    _grown: int = 0

    @property
    def runs(self) -> list[RunResult]:
        """Every result so far, in the order in which they came."""
        return list(self._done.values())

    def add(self, results: Iterable[RunResult]) -> None:
        """Keep each result as it comes; the first of a run counts."""
        for result in results:
            self._done.setdefault(result.spec, result)

    def cut_short(self, rates: Iterable[float]) -> None:
        """Tune on these learning rates alone, without extending the grid."""
        self.cut = self.grid = tuple(sorted(rates))

    def wanted(self) -> list[RunSpec]:
        """Return the runs that can be done now; an empty list means that all are done. The grid may grow."""
        tuning = self._undone(tuning_specs(self.plan, spread(self.grid)))
        while not tuning and self._grow():
            tuning = self._undone(tuning_specs(self.plan, self.grid))
        report = [] if tuning else self._undone(report_specs(self))
        return tuning + report + self._undone(default_specs(self.plan))

    def tuning(self) -> bool:
        """Whether a learning rate of the grid is still being tried."""
        return bool(self._undone(tuning_specs(self.plan, self.grid)))

    def to_come(self) -> int:
        """Return how many runs are not done, including runs that wait for others."""
        wanted = self.wanted()
        waiting = any(spec.phase == "tuning" for spec in wanted)
        return len(wanted) + (len(self.plan.methods) * len(self.plan.report_seeds) if waiting else 0)

    def unscored(self) -> bool:
        """Whether a method that has a learning rate lacks a run on a fresh seed."""
        return bool(self._undone(report_specs(self)))

    def complete_rates(self) -> tuple[float, ...]:
        """Return the learning rates that every method has tried on every tuning seed."""
        return tuple(lr for lr in self.grid if not self._undone(tuning_specs(self.plan, (lr,))))

    def _undone(self, specs: Iterable[RunSpec]) -> list[RunSpec]:
        return [spec for spec in specs if spec not in self._done]

    def _grow(self) -> bool:
        """Widen the grid at each end where some method's best lies; say whether it has grown."""
        if not self.plan.extend or self.cut or self._grown == EXTENSIONS or len(self.plan.grid) < 3:
            return False
        new = _extension(self)
        self.grid = tuple(sorted((*self.grid, *new)))
        self._grown += bool(new)
        return bool(new)

    def _of(self, method: Method, phase: str) -> list[RunResult]:
        found = (run for run in self.runs if run.spec.method == method and run.spec.phase == phase)
        return sorted(found, key=lambda run: (run.spec.lr, run.spec.seed))

    def tuning_runs(self, method: Method) -> list[RunResult]:
        """Return a method's tuning runs, by learning rate and seed."""
        return self._of(method, "tuning")

    def default_runs(self, method: Method) -> list[RunResult]:
        """Return a method's untuned runs on the fresh seeds."""
        return self._of(method, "default")

    def report_runs(self, method: Method) -> list[RunResult]:
        """Return a method's tuned runs on the fresh seeds."""
        return self._of(method, "report")

    def sensitivity(self, method: Method) -> list[tuple[float, float]]:
        """Return (learning rate, mean validation loss); infinite if a run of that rate did not finish."""
        groups = groupby(self.tuning_runs(method), key=lambda run: run.spec.lr)
        losses = [(lr, [run.validation_loss for run in runs]) for lr, runs in groups]
        return [(lr, sum(values) / len(values)) for lr, values in losses]

    def choice(self, method: Method) -> ChosenRate:
        """Return the learning rate with the lowest validation loss, which is None if every one diverged."""
        if self.fixed_lr is not None:
            return ChosenRate(self.fixed_lr, None)
        tuned = method.of or method
        grid = self.plan.rates(tuned, self.grid)
        tried = [pair for pair in self.sensitivity(tuned) if self.cut is None or pair[0] in grid]
        lr, loss = min(tried, key=lambda pair: pair[1], default=(0.0, math.inf))
        if not math.isfinite(loss):
            return ChosenRate(None, None)
        edges = {grid[-1]: "high", grid[0]: "low"} if len(grid) > 1 else {}
        return ChosenRate(lr, loss, edges.get(lr))


@dataclass
class Comparison:
    """The studies of several tasks, with the same methods and seeds. `words` are additions to the protocol's text."""

    studies: tuple[Study, ...]
    budget: str | None = None
    interrupted: bool = False
    complete: bool = False
    words: tuple[str, ...] = ()

    @property
    def runs(self) -> list[RunResult]:
        """Every result so far."""
        return [run for study in self.studies for run in study.runs]

    def add(self, results: Iterable[RunResult]) -> None:
        """Give each result to the study of its task."""
        studies = {study.plan.task: study for study in self.studies}
        for result in results:
            studies[result.spec.task].add([result])

    def wanted(self) -> list[RunSpec]:
        """Return the runs that can be done now, tuning first, those of the task that has had the fewest before others.

        So every task has come as far as the others where the time for tuning runs out.
        """
        turns = [
            (spec.phase != "tuning", turn, spec)
            for study in self.studies
            for turn, spec in enumerate(study.wanted(), start=len(study.runs))
        ]
        return [spec for *_, spec in sorted(turns, key=lambda turn: turn[:2])]

    def to_come(self) -> int:
        """Return how many runs are not done."""
        return sum(study.to_come() for study in self.studies)


def geometric(low: float, high: float, count: int) -> tuple[float, ...]:
    """Return `count` learning rates from low to high, equal factors apart, to three digits."""
    if count == 1:
        return (low,)
    step = math.log(high / low) / (count - 1)
    return tuple(float(f"{low * math.exp(step * place):.3g}") for place in range(count))


def _moved(lr: float, ends: tuple[float, float], own: tuple[float, float]) -> float:
    """Return the number that lies in one range where a learning rate lies in another, to three digits."""
    (low, high), (least, greatest) = ends, own
    place = math.log(lr / low) / math.log(high / low) if high > low else 0.0
    return float(f"{least * (greatest / least) ** place:.3g}")


def spread(grid: Iterable[float]) -> tuple[float, ...]:
    """Return the learning rates in an order of which every beginning covers the range."""
    rates = tuple(grid)
    width = max(len(rates) - 1, 1).bit_length()
    return tuple(rates[place] for place in sorted(range(len(rates)), key=lambda place: f"{place:0{width}b}"[::-1]))


def selection(plan: StudyPlan) -> str:
    """Say how learning rates are chosen, and which methods try them in a range of their own."""
    ranges = ", ".join(f"{method.key} from {low:g} to {high:g}" for method, (low, high) in plan.apart.items())
    own = f"Rules that say where to search their own are tried there ({ranges}), all others in the range of the task."
    return f"{APART} {own}" if ranges else SELECTION


def cut_words(study: Study) -> str:
    """Say that the time ended a task's tuning; return "" if it did not."""
    if study.cut is None:
        return ""
    rates = ", ".join(f"{lr:g}" for lr in study.cut)
    rates += "; of a method with a range of its own, those in these places" if study.plan.apart else ""
    return (
        f"On {study.plan.task.name} the time ran out during tuning. For every method alike only those learning rates "
        f"count that all methods had tried by then ({rates})."
    )


def tuning_specs(plan: StudyPlan, rates: Sequence[float]) -> list[RunSpec]:
    """Return the runs that try these learning rates with every method, a rate at a time."""
    own = [(method, plan.rates(method, rates)) for method in plan.tuned]
    return [
        RunSpec(plan.task, method, tried[place], seed, plan.budget, "tuning")
        for place in range(len(rates))
        for method, tried in own
        for seed in plan.tuning_seeds
    ]


def default_specs(plan: StudyPlan) -> list[RunSpec]:
    """Return the runs on fresh seeds at the learning rates that methods have by default."""
    return [
        RunSpec(plan.task, method, method.default_lr, seed, plan.budget, "default")
        for method in (plan.methods if plan.defaults else ())
        if method.default_lr is not None
        for seed in plan.report_seeds
    ]


def report_specs(study: Study) -> list[RunSpec]:
    """Return the runs on fresh seeds of each method that has a learning rate. The first one keeps its exhibits."""
    plan = study.plan
    choices = [(method, study.choice(method).lr) for method in plan.methods]
    return [
        RunSpec(plan.task, method, lr, seed, plan.budget, "report", exhibits=seed == plan.report_seeds[0])
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
