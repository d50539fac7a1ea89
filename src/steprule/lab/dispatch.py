"""A comparison being done: runs are claimed from the store, handed to workers, and their results written down."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

import steprule as sr
from steprule.lab.report.shape import Misshapen, check
from steprule.lab.runs import RunResult, RunSpec, from_record
from steprule.lab.store.trials import DEATHS
from steprule.lab.workers import Died

if TYPE_CHECKING:
    from collections.abc import Callable

    from steprule.console.progress import Meter
    from steprule.lab.protocol import Comparison, Study, StudyPlan
    from steprule.lab.store.trials import TrialStore
    from steprule.lab.workers import WorkerPool

PAUSE = 0.5
"""Seconds between two readings of the store."""


@dataclass
class Dispatcher:
    """One process's part in a comparison. It ends when every run is done, by any process."""

    comparison: Comparison
    store: TrialStore
    pool: WorkerPool
    meter: Meter
    changed: Callable[[], None]
    deadline: float | None = None
    """When tuning ends even if it is not done, by the monotonic clock; the report's runs come after it."""
    reasons: list[str] = field(default_factory=list[str])

    def run(self) -> None:
        """Do the comparison, together with other processes."""
        while wanted := self._learn():
            open_ = {key_of(spec): spec for spec in wanted}
            for key in self.store.claim(open_, self.pool.idle):
                self.pool.begin(open_[key])
            for spec, result in self.pool.ended(PAUSE):
                self._end(spec, result)

    def _end(self, spec: RunSpec, result: RunResult | Died) -> None:
        if isinstance(result, Died):
            self.reasons.append(result.reason)
            self.store.died(key_of(spec))
        else:
            self.store.finish(key_of(spec), result.as_record(), result.validation_loss)

    def _learn(self) -> list[RunSpec]:
        """Read the store's results into the comparison, and return the runs that remain."""
        self.store.refresh()
        records, lost = self.store.records(), set(self.store.lost())
        for study in self.comparison.studies:
            self._cut(study)
        done = len(self.comparison.runs)
        while found := [
            self._result(spec, records.get(key_of(spec)))
            for spec in self.comparison.wanted()
            if key_of(spec) in records or key_of(spec) in lost
        ]:
            self.comparison.add(found)
        wanted = self.comparison.wanted()
        if len(self.comparison.runs) > done or not done:
            name = "learning rates" if any(spec.phase == "tuning" for spec in wanted) else "fresh seeds"
            self.meter.phase(name, len(self.comparison.runs) + self.comparison.to_come())
            self.meter.reach(len(self.comparison.runs))
            self.changed()
        return wanted

    def _result(self, spec: RunSpec, record: dict[str, object] | None) -> RunResult:
        """Return a run's recorded result, or a failure if its worker died too often."""
        if record is None:
            return RunResult(spec, "failed", f"its worker died {DEATHS} times")
        with self.store.reading(key_of(spec)):
            return from_record(spec, record)

    def _cut(self, study: Study) -> None:
        """End the tuning of a task whose time is up. All processes agree on the complete learning rates."""
        if study.cut is not None:
            return
        agreed = self.store.agreed(cut_key(study))
        late = self.deadline is not None and time.monotonic() > self.deadline
        if agreed is None and late and study.tuning() and study.complete_rates():
            agreed = self.store.agree(cut_key(study), {"rates": list(study.complete_rates())})
        if agreed is not None:
            with self.store.reading(cut_key(study)):
                check(agreed, {"rates": [float]})
                if not agreed["rates"] or not set(agreed["rates"]) <= set(study.grid):
                    raise Misshapen("rates", "are no learning rates of the study")
            study.cut_short(agreed["rates"])


def key_of(spec: RunSpec) -> str:
    """Return the name of a run in the store: the same in every process."""
    return f"{spec.task.name} | {spec.method.key} | lr {spec.lr!r} | seed {spec.seed} | {spec.phase}"


def cut_key(study: Study) -> str:
    """Return the name under which processes agree on where a task's tuning ended."""
    return f"{study.plan.task.name} | cut"


def made_with(plan: StudyPlan) -> dict[str, str]:
    """Return the code that decides a plan's results: of the optimisers, and of the libraries."""
    formulas = {f"formula of {method.key}": method.made_of() for method in plan.methods}
    return {"steprule": sr.__version__, "torch": str(torch.__version__), **formulas}


def asked(plans: tuple[StudyPlan, ...], budget: str | None) -> dict[str, str]:
    """Return everything that decides a comparison's results, in words. Processes that differ in it share no study."""
    first = plans[0]
    words = {
        "tasks": ", ".join(plan.task.name for plan in plans),
        "optimisers": ", ".join(method.key for method in first.methods),
        "tuning seeds": str(first.tuning_seeds),
        "report seeds": str(first.report_seeds),
        "defaults": str(first.defaults),
        "extension": str(first.extend),
        "--budget": str(budget),
        **made_with(first),
    }
    for plan in plans:
        words[f"{plan.task.name}: options"] = plan.task.told()
        words[f"{plan.task.name}: run"] = str(plan.budget)
        words[f"{plan.task.name}: learning rates"] = str(plan.grid)
        for method in plan.apart:
            words[f"{plan.task.name}: learning rates of {method.key}"] = str(plan.rates(method, plan.grid))
    return words
