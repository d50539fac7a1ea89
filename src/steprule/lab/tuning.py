"""One optimiser tuned on one task: Optuna's TPE sampler suggests, workers run, the storage remembers.

A trial is the mean validation loss over the tuning seeds; the test set is never used. The values of a trial
follows from the seed and from how many trials came before it, so with one worker at a time a search repeats itself,
also when it was killed and gone on with.
"""

from __future__ import annotations

import math
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import TPESampler
from optuna.trial import TrialState

from steprule.lab.dispatch import PAUSE, made_with
from steprule.lab.report.shape import MOST, Each, Maybe, Misshapen, One, check
from steprule.lab.runs import RunResult, RunSpec
from steprule.lab.store.trials import DEATHS, TrialStore
from steprule.lab.workers import Died

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna.trial import FrozenTrial

    from steprule.console.progress import Meter
    from steprule.lab.methods import Method
    from steprule.lab.protocol import StudyPlan
    from steprule.lab.workers import WorkerPool

TRIAL = {
    "status": One(("finished", "diverged", "failed")),
    "reason": str,
    "losses": [Maybe(float)],
    "seconds": float,
}
"""The record of a trial."""

STUDY = "steprule tune"
"""The name of the study in its storage."""

ENOUGH = 10
"""Importance of parameters is reported from this many finished trials on."""

TAKEN = (TrialState.RUNNING, TrialState.COMPLETE)


@dataclass(frozen=True)
class Range:
    """A parameter that is searched, between two numbers, even in itself or in its logarithm."""

    name: str
    low: float
    high: float
    log: bool = False

    def __str__(self) -> str:
        return f"{self.name}={self.low:g}:{self.high:g}{':log' if self.log else ''}"


@dataclass(frozen=True)
class Wish:
    """The subject of a search: the plan, whose method and seeds every run has, and the ranges, η's first."""

    plan: StudyPlan
    space: tuple[Range, ...]
    seed: int

    @property
    def method(self) -> Method:
        """The optimiser apart from the searched values."""
        return self.plan.methods[0]

    def specs(self, params: dict[str, float]) -> list[RunSpec]:
        """Return the runs of a trial, one a tuning seed."""
        hyper = {**dict(self.method.hyper), **{key: value for key, value in params.items() if key != "lr"}}
        method, plan = replace(self.method, hyper=tuple(hyper.items())), self.plan
        return [RunSpec(plan.task, method, params["lr"], seed, plan.budget, "tuning") for seed in plan.tuning_seeds]

    def asked(self) -> dict[str, str]:
        """Return everything that decides the search, in words. Processes that differ in it share no study."""
        return {
            "optimiser": self.method.key,
            "task": self.plan.task.told(),
            "run": str(self.plan.budget),
            "tuning seeds": str(self.plan.tuning_seeds),
            "search": ", ".join(map(str, self.space)),
            "seed": str(self.seed),
            **made_with(self.plan),
        }


class Trials(TrialStore):
    """The study's trials. Those of a dead process are queued again."""

    searched: frozenset[str] = frozenset()
    """The names of the searched values, once agreed on."""
    seeds: int = 0
    """How many runs a trial has."""
    _read: frozenset[int] = frozenset()
    """The trials that have been checked."""

    @property
    def optuna(self) -> optuna.Study:
        """The study as Optuna knows it."""
        return optuna.load_study(study_name=STUDY, storage=self.storage)

    def release(self, trial: int) -> None:
        """Fail a trial that no process is doing any more, and let its parameters be tried again.

        A process killed while it suggested them left only some. Those are forgotten, and all are suggested anew, as
        they would have been.
        """
        params = self.storage.get_trial(trial).params
        if self.end(trial, TrialState.FAIL) and params.keys() == self.searched:
            self.optuna.enqueue_trial(params)

    def agree_on(self, wish: Wish) -> None:
        """Begin a study of this plan, or join it. Refuse a storage that holds another, and name the differences."""
        self.searched = frozenset(one.name for one in wish.space)
        self.seeds = len(wish.plan.tuning_seeds)
        self.join(wish.asked(), {})

    def complete(self) -> list[FrozenTrial]:
        """Return the trials that gave a result, in the order in which they were suggested."""
        found = self.optuna.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        for trial in found:
            if trial.number not in self._read:
                with self.reading(f"trial {trial.number}"):
                    self._check(trial)
                self._read |= {trial.number}
        return found

    def _check(self, trial: FrozenTrial) -> None:
        """Check that a trial has the searched values, and that its loss is that of its runs."""
        record: Any = trial.user_attrs.get("record")
        check({"record": record, "params": trial.params}, {"record": TRIAL, "params": Each(float)})
        if trial.params.keys() != self.searched:
            raise Misshapen("params", "are not those that are searched")
        if len(record["losses"]) != self.seeds:
            raise Misshapen("losses", "are not one a tuning seed")
        if type(trial.value) is not float or not math.isclose(trial.value, _mean(record["losses"]), rel_tol=1e-9):
            raise Misshapen("value", "is not the mean of the losses")


@dataclass
class _Open:
    """A trial being tried here: runs to begin, runs at work, results."""

    key: str
    queue: list[RunSpec]
    wanted: int
    began: float = field(default_factory=time.monotonic)
    at_work: list[RunSpec] = field(default_factory=list[RunSpec])
    results: list[RunResult] = field(default_factory=list[RunResult])


@dataclass
class Search:
    """One process's part in a search. It ends when enough trials are complete, by all processes, or time is up."""

    wish: Wish
    count: int
    trials: Trials
    pool: WorkerPool
    meter: Meter
    deadline: float | None = None
    """When the last trial should have ended, by the monotonic clock."""
    runs: list[RunResult] = field(default_factory=list[RunResult])
    late: bool = False
    _open: list[_Open] = field(default_factory=list[_Open])
    _times: list[float] = field(default_factory=list[float])
    _deaths: Counter[RunSpec] = field(default_factory=Counter[RunSpec])

    def run(self) -> None:
        """Search, together with other processes."""
        if self._learn() >= self.count:
            return
        with self.pool, self.meter:
            self.meter.phase("search", self.count)
            while self._learn() < self.count:
                self._begin()
                if self.late and not self._open:
                    return
                for spec, result in self.pool.ended(PAUSE):
                    self._take(spec, result)

    def _learn(self) -> int:
        """Read the results of other processes, and return the number of complete trials."""
        self.trials.refresh()
        done = len(self.trials.complete())
        self.meter.reach(min(done, self.count))
        return done

    def _begin(self) -> None:
        """Give every idle worker a run. A new trial begins only if the open ones leave a worker idle."""
        while self.pool.idle > sum(len(trial.queue) for trial in self._open) and self._may_ask():
            if not self._ask():
                break
        for trial in self._open:
            while trial.queue and self.pool.idle:
                spec = trial.queue.pop(0)
                trial.at_work.append(spec)
                self.pool.begin(spec)

    def _may_ask(self) -> bool:
        """Whether there is time for another trial, and one is wanted; the first one always has time."""
        lasting = fmean(self._times) if self._times else 0.0
        self.late = self.deadline is not None and time.monotonic() + lasting > self.deadline
        taken = self.trials.optuna.get_trials(deepcopy=False, states=TAKEN)
        return len(taken) < self.count and (not self.late or not (self._times or self._open))

    def _ask(self) -> bool:
        """Begin a trial. If several processes begin too many at the same moment, the last ones give theirs up."""
        trials, study = self.trials, self.trials.optuna
        trial = study.ask()
        identity = trials.storage.get_trial_id_from_study_id_trial_number(trials.study, trial.number)
        trial.set_user_attr("owner", trials.owner)
        before = [other for other in study.get_trials(deepcopy=False) if other.number < trial.number]
        if sum(other.state in TAKEN for other in before) >= self.count:
            trials.end(identity, TrialState.FAIL)
            return False
        trials.held[str(trial.number)] = identity
        # All suggestions follow from this. A later trial tries the values of a failed one again.
        study.sampler = _sampler(self.wish.seed, sum(other.state != TrialState.FAIL for other in before))
        space = self.wish.space
        params = {one.name: trial.suggest_float(one.name, one.low, one.high, log=one.log) for one in space}
        specs = self.wish.specs(params)
        self._open.append(_Open(str(trial.number), specs, len(specs)))
        return True

    def _take(self, spec: RunSpec, result: RunResult | Died) -> None:
        """Keep a run's result. A run whose worker died is done again, but not for ever."""
        trial = next(one for one in self._open if spec in one.at_work)
        trial.at_work.remove(spec)
        if isinstance(result, Died):
            self._deaths[spec] += 1
            if self._deaths[spec] < DEATHS:
                trial.queue.append(spec)
                return
            result = RunResult(spec, "failed", f"{result.reason}, {DEATHS} times")
        self.runs.append(result)
        trial.results.append(result)
        if len(trial.results) == trial.wanted:
            self._open.remove(trial)
            self._times.append(time.monotonic() - trial.began)
            results = sorted(trial.results, key=lambda one: one.spec.seed)
            record = _record(results)
            self.trials.finish(trial.key, record, _mean(record["losses"]))


def _sampler(seed: int, place: int) -> TPESampler:
    """Return the sampler of one trial."""
    drawn = int(np.random.SeedSequence([seed, place]).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(seed=drawn, constant_liar=True)


def _record(results: Sequence[RunResult]) -> dict[str, Any]:
    """Return a trial's result as JSON. The worst of its runs gives its status."""
    worst = max(results, key=lambda one: ("finished", "diverged", "failed").index(one.status))
    losses = [one.validation_loss if abs(one.validation_loss) < MOST else None for one in results]
    return {
        "status": worst.status,
        "reason": worst.reason,
        "losses": losses,
        "seconds": sum(one.seconds for one in results),
    }


def _mean(losses: Sequence[float | None]) -> float:
    """Return the loss of a trial: infinite where one of its runs did not finish."""
    return fmean(math.inf if loss is None else loss for loss in losses)


def told(trials: Sequence[FrozenTrial]) -> list[dict[str, Any]]:
    """Return the trials as JSON. The loss of an unfinished one is null."""
    return [
        {
            "trial": place,
            "params": trial.params,
            "loss": trial.value if trial.value is not None and math.isfinite(trial.value) else None,
            **trial.user_attrs["record"],
        }
        for place, trial in enumerate(trials, start=1)
    ]


def best_after(trials: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the lowest loss after 1, 2, 5, 10, 20, 50, ... trials, and after all."""
    steps = [step for power in range(5) for step in (10**power, 2 * 10**power, 5 * 10**power) if step < len(trials)]
    losses = [math.inf if trial["loss"] is None else trial["loss"] for trial in trials]
    best = [(step, min(losses[:step])) for step in [*steps, len(trials)] if step]
    return [{"trials": step, "loss": loss if math.isfinite(loss) else None} for step, loss in best]


def importance(study: optuna.Study) -> dict[str, float]:
    """Return each parameter's share in the variation of the loss, the greatest first, or {} if too little is known."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    finite = [trial for trial in done if trial.value is not None and math.isfinite(trial.value)]
    if len(finite) < ENOUGH or len(finite[0].params) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    try:
        return optuna.importance.get_param_importances(study, evaluator=evaluator)
    except (RuntimeError, ValueError):  # every loss is the same: no parameter matters
        return {}
