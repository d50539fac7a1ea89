"""The conclusions: medians with intervals, differences paired by seed, and a winner only if they show one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from steprule.lab.methods import Method
    from steprule.lab.protocol import Study

    Verdict = Literal["better", "worse", "indistinguishable"]

INTERVAL = (
    "Intervals are 95 % percentile-bootstrap intervals of the median over the fresh seeds "
    "(scipy.stats.bootstrap, 2,000 resamples, fixed seed)."
)

PAIRED = (
    "Two methods are called indistinguishable unless their intervals are disjoint and the interval of their "
    "differences, seed by seed, does not hold zero. Intervals are not widened for the number of pairs compared: "
    "of many pairs one may differ by chance, which is why both must agree, and why a winner is named only where one "
    "method is better than every other."
)

FEWEST = 5
"""With fewer fresh seeds an interval means nothing, and no two methods differ."""


@dataclass(frozen=True)
class Interval:
    """A middle value and the interval around it."""

    middle: float
    low: float
    high: float

    def overlaps(self, other: Interval) -> bool:
        """Return whether the two intervals share a point."""
        return self.low <= other.high and other.low <= self.high


@dataclass(frozen=True)
class Pair:
    """The difference of two methods on the same seeds: a's score less b's, and a verdict on a."""

    a: str
    b: str
    phase: str
    difference: Interval
    verdict: Verdict


def interval(values: Sequence[float]) -> Interval | None:
    """Return the median with its bootstrap interval, or None without values. A single value is its own interval."""
    return _interval(tuple(values))


@lru_cache(maxsize=1 << 16)
def _interval(values: tuple[float, ...]) -> Interval | None:
    """Draw the interval once: results are written again and again while runs come in, and most stay the same."""
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


def compare(a: Sequence[float], b: Sequence[float], *, higher: bool) -> tuple[Interval, Verdict]:
    """Return the differences a - b of scores on the same seeds, and a verdict on a.

    An infinite score is a run that came to nothing; two of them do not differ.
    """
    ours, theirs = interval(_bounded(a, b)), interval(_bounded(b, a))
    difference = interval([x - y for x, y in zip(_bounded(a, b), _bounded(b, a), strict=True)])
    if ours is None or theirs is None or difference is None:
        raise ValueError("two methods are compared on at least one seed")
    apart = not ours.overlaps(theirs) and not difference.low <= 0 <= difference.high
    if len(a) < FEWEST or not apart:
        return difference, "indistinguishable"
    return difference, "better" if (difference.middle > 0) == higher else "worse"


def _bounded(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """Return the scores with NaN and infinity moved beyond all others of both, so that medians exist."""
    finite = [abs(value) for value in (*values, *others) if math.isfinite(value)]
    bound = 2 * max(finite, default=0.0) + 1
    return [value if math.isfinite(value) else math.copysign(bound, value) for value in values]


def scores(study: Study, method: Method, phase: str = "report") -> dict[int, float]:
    """Return a method's test score by seed; the worst there is where a run did not finish."""
    worst = -math.inf if study.plan.task.build().metric.higher else math.inf
    runs = study.report_runs(method) if phase == "report" else study.default_runs(method)
    found = {
        run.spec.seed: worst if run.status != "finished" or run.test_score is None else run.test_score for run in runs
    }
    return {seed: worst if math.isnan(score) else score for seed, score in found.items()}


def compared(study: Study) -> list[Pair]:
    """Return how every two methods differ on the seeds they share, tuned and at their defaults."""
    higher = study.plan.task.build().metric.higher
    pairs: list[Pair] = []
    for phase in ("report", "default"):
        table = {method.key: scores(study, method, phase) for method in study.plan.methods}
        for a, b in combinations(table, 2):
            seeds = sorted(table[a].keys() & table[b].keys())
            if seeds:
                difference, verdict = compare(*([table[key][seed] for seed in seeds] for key in (a, b)), higher=higher)
                pairs.append(Pair(a, b, phase, difference, verdict))
    return pairs


@dataclass(frozen=True)
class Beside:
    """A variant beside the method that it varies: training losses at the end, and their differences seed by seed.

    A variant learns as well where the two intervals `overlap`.
    """

    optimizer: str
    of: str
    loss: Interval
    of_loss: Interval
    difference: Interval
    overlap: bool
    verdict: Verdict


def variants(study: Study) -> list[Beside]:
    """Return every variant beside the method that it varies, if both have been run on enough of the fresh seeds."""
    found: list[Beside] = []
    for method in study.plan.methods:
        own, others = (_losses(study, one) if one else {} for one in (method, method.of))
        seeds = sorted(own.keys() & others.keys())
        if method.of is None or len(seeds) < FEWEST:
            continue
        a, b = ([losses[seed] for seed in seeds] for losses in (own, others))
        difference, told = compare(a, b, higher=False)
        loss, of_loss = interval(_bounded(a, b)), interval(_bounded(b, a))
        if loss is not None and of_loss is not None:
            overlap = loss.overlaps(of_loss)
            found.append(Beside(method.key, method.of.key, loss, of_loss, difference, overlap, told))
    return found


def _losses(study: Study, method: Method) -> dict[int, float]:
    """Return a method's loss on the whole training set at the end, by fresh seed; infinite where it did not finish."""
    return {
        run.spec.seed: run.final_loss if run.status == "finished" else math.inf for run in study.report_runs(method)
    }


def leaders(study: Study) -> list[str]:
    """Return the method with the best median, then those that the tuned runs cannot tell from it."""
    higher = study.plan.task.build().metric.higher
    middles = _middles(study)
    if not middles:
        return []
    top = (max if higher else min)(middles, key=lambda key: middles[key])
    beaten = {_other(pair, top) for pair in _tuned(study) if _beats(pair, top)}
    return [top, *(key for key in middles if key != top and key not in beaten)]


def _middles(study: Study) -> dict[str, float]:
    """Return the median test score of every method that has one."""
    table = {method.key: scores(study, method) for method in study.plan.methods}
    return {key: median(found.values()) for key, found in table.items() if found}


def _other(pair: Pair, key: str) -> str:
    return pair.b if pair.a == key else pair.a


def _beats(pair: Pair, key: str) -> bool:
    return (pair.a == key and pair.verdict == "better") or (pair.b == key and pair.verdict == "worse")


def winner(study: Study) -> str | None:
    """Return the one method that is better than every other, or None."""
    found = leaders(study)
    return found[0] if len(found) == 1 and _contenders(study) > 1 and not study.unscored() else None


def _contenders(study: Study) -> int:
    return sum(bool(study.report_runs(method)) for method in study.plan.methods)


def verdict(study: Study) -> str:
    """Name in one sentence the leader on a task, if there is one. The sentence holds for each method in it."""
    if _contenders(study) < 2:
        return "Nothing to compare: fewer than two methods were scored on test data."
    if len(study.plan.report_seeds) < FEWEST:
        return f"No winner is named: with fewer than {FEWEST} fresh seeds an interval says nothing."
    if study.unscored():
        return "No winner is named: not every method has been run on every fresh seed."
    top, *others = leaders(study)
    if not others:
        others = "every other method" + ("" if _contenders(study) == len(study.plan.methods) else " that was scored")
        return f"{top} is best on test data: better than {others}, seed by seed and interval by interval."
    middles = _middles(study)
    if not math.isfinite(middles[top]):
        return "No winner is named: no method finished most of its runs on fresh seeds."
    level = [key for key in (top, *others) if middles[key] == middles[top]]
    led = f"{top} has" if len(level) == 1 else f"{_listed(level)} share"
    return f"No winner is named: {led} the best median{_untold(study, level, middles)}."


def _untold(study: Study, level: Sequence[str], middles: Iterable[str]) -> str:
    """Say which methods cannot be told from which of the best, pair by pair."""
    beaten = {(key, _other(pair, key)) for pair in _tuned(study) for key in level if _beats(pair, key)}
    groups: dict[tuple[str, ...], list[str]] = {}
    for other in middles:
        from_whom = tuple(key for key in level if (key, other) not in beaten)
        if other not in level and from_whom:
            groups.setdefault(from_whom, []).append(other)
    if list(groups) == [tuple(level)]:
        return f", but cannot be told from {_listed(groups[tuple(level)])}"
    return "".join(f"; {_listed(keys)} cannot be told from {_listed(whom)}" for whom, keys in groups.items())


def _tuned(study: Study) -> list[Pair]:
    return [pair for pair in compared(study) if pair.phase == "report"]


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
