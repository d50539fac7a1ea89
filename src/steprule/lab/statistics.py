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
    from steprule.lab.training import RunResult

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
    to_target = [run.iterations_to(study.plan.target_accuracy) for run in report if run.status != "failed"]
    return Summary(
        lr=choice.lr,
        tuning_validation_loss=choice.validation_loss,
        validation_loss=_finite_median(run.validation_loss for run in report),
        test_accuracy=interval([run.test_accuracy for run in report if run.test_accuracy is not None]),
        iterations_to_target=_finite_median(to_target),
        reached_target=sum(map(math.isfinite, to_target)),
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


def leaders(summaries: Sequence[Summary]) -> list[int]:
    """Return the methods that the data cannot tell from the one with the highest median test accuracy."""
    scores = {place: row.test_accuracy for place, row in enumerate(summaries) if row.test_accuracy}
    if not scores:
        return []
    best = max(scores.values(), key=lambda score: score.median)
    return [place for place, score in scores.items() if score.overlaps(best)]


def verdict(labels: Sequence[str], summaries: Sequence[Summary]) -> str:
    """Say in one sentence who leads, or that nobody does."""
    best = leaders(summaries)
    scored = sum(row.test_accuracy is not None for row in summaries)
    if scored < 2:
        return "Nothing to compare yet: fewer than two methods were scored on test data."
    if all(row.report_runs < 3 for row in summaries):
        return "No winner is named: fewer than three fresh seeds give no interval worth the name."
    if len(best) == 1:
        return f"{labels[best[0]]} is best on test data: no other interval reaches its own."
    names = ", ".join(labels[place] for place in best[:-1]) + f" and {labels[best[-1]]}"
    return f"No winner is named: the test intervals of {names} overlap."
