"""What may be concluded: a median with its interval per method, and no winner where intervals overlap."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from steprule.lab.methods import Method
    from steprule.lab.protocol import Study
    from steprule.lab.runs import RunResult

INTERVAL = (
    "Intervals are 95 % percentile-bootstrap intervals of the median over the fresh seeds "
    "(scipy.stats.bootstrap, 2,000 resamples, fixed seed)."
)


@dataclass(frozen=True)
class Interval:
    """A median and the interval around it."""

    median: float
    low: float
    high: float

    def overlaps(self, other: Interval) -> bool:
        """Return whether the two intervals share a point."""
        return self.low <= other.high and other.low <= self.high


def interval(values: Sequence[float]) -> Interval | None:
    """Return the median with its bootstrap interval; a single value is its own, no value has none."""
    if not values:
        return None
    if len(set(values)) == 1:
        return Interval(values[0], values[0], values[0])
    # Imported here: SciPy takes most of a second to load, and most commands compute no interval.
    from scipy.stats import bootstrap

    drawn: Any = bootstrap(
        (np.asarray(values),), np.median, n_resamples=2000, method="percentile", rng=np.random.default_rng(0)
    )
    low, high = drawn.confidence_interval
    return Interval(median(values), float(low), float(high))


@dataclass(frozen=True)
class Summary:
    """One method's row in the table."""

    lr: float | None
    tuning_validation_loss: float | None
    validation_loss: float | None
    test_accuracy: Interval | None
    iterations_to_target: float | None
    reached_target: int
    runs: int
    report_runs: int
    diverged_tuning: int
    diverged_report: int
    failed_runs: int
    optimizer_us_per_step: float | None
    iterations: int
    epochs: float
    edge: str | None

    @property
    def diverged_runs(self) -> int:
        """How many runs diverged, tuning and report together."""
        return self.diverged_tuning + self.diverged_report


def _finite_median(values: Iterable[float]) -> float | None:
    """Return the median, or nothing where half the values or more are infinite."""
    found = list(values)
    middle = median(found) if found else math.inf
    return middle if math.isfinite(middle) else None


def _diverged(runs: Iterable[RunResult]) -> int:
    return sum(run.status == "diverged" for run in runs)


def summarise(study: Study, method: Method) -> Summary:
    """Reduce all the runs of one method to its row."""
    tuning, report = study.tuning_runs(method), study.report_runs(method)
    choice = study.choice(method)
    runs = [*tuning, *report]
    longest = max(runs, key=lambda run: run.iterations, default=None)
    to_target = _to_target(study, report)
    return Summary(
        lr=choice.lr,
        tuning_validation_loss=choice.validation_loss,
        validation_loss=_finite_median(run.validation_loss for run in report),
        test_accuracy=interval([run.test_score for run in report if run.test_score is not None]),
        iterations_to_target=_finite_median(to_target),
        reached_target=sum(map(math.isfinite, to_target)),
        runs=len(runs),
        report_runs=len(report),
        diverged_tuning=_diverged(tuning),
        diverged_report=_diverged(report),
        failed_runs=sum(run.status == "failed" for run in runs),
        optimizer_us_per_step=_finite_median(
            run.optimizer_us_per_step for run in runs if run.optimizer_us_per_step is not None
        ),
        iterations=longest.iterations if longest else 0,
        epochs=longest.epochs if longest else 0.0,
        edge=choice.edge,
    )


def _to_target(study: Study, runs: Iterable[RunResult]) -> list[float]:
    """Return the iterations that each run took to the target; none where there is no target."""
    target, higher = study.plan.target, study.plan.task.build().metric.higher
    if target is None:
        return []
    return [run.iterations_to(target, higher=higher) for run in runs if run.status != "failed"]


FEWEST = 3
"""Fresh seeds below which an interval is not worth the name."""


def leaders(scores: dict[str, Interval], *, higher: bool = True) -> list[str]:
    """Return the names that the data cannot tell from the best median, that one first."""
    top = (max if higher else min)(scores, key=lambda name: scores[name].median)
    return [top, *(name for name, score in scores.items() if name != top and score.overlaps(scores[top]))]


def winner(summaries: dict[str, Summary], *, higher: bool = True) -> str | None:
    """Return the one name whose interval no other's reaches; none where there is no such name."""
    scores = _scores(summaries)
    best = leaders(scores, higher=higher) if len(scores) > 1 else []
    return best[0] if len(best) == 1 and _enough(summaries) else None


def verdict(summaries: dict[str, Summary], *, higher: bool = True) -> str:
    """Say in one sentence who leads, or that nobody does."""
    scores = _scores(summaries)
    if len(scores) < 2:
        return "Nothing to compare: fewer than two methods were scored on test data."
    if not _enough(summaries):
        return f"No winner is named: with fewer than {FEWEST} fresh seeds an interval says nothing."
    top, *others = leaders(scores, higher=higher)
    if not others:
        return f"{top} is best on test data: no other interval reaches its own."
    names = f"{', '.join(others[:-1])} and {others[-1]}" if len(others) > 1 else others[0]
    reach = "the intervals of {} reach" if len(others) > 1 else "the interval of {} reaches"
    return f"No winner is named: {top} has the best median, but {reach.format(names)} its own."


def _scores(summaries: dict[str, Summary]) -> dict[str, Interval]:
    return {name: row.test_accuracy for name, row in summaries.items() if row.test_accuracy is not None}


def _enough(summaries: dict[str, Summary]) -> bool:
    return all(row.report_runs >= FEWEST for row in summaries.values() if row.test_accuracy is not None)
