"""How long a comparison takes, and the plan that fits into the time there is."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from steprule.lab.network import accumulate, evaluate
from steprule.lab.protocol import geometric
from steprule.lab.report.shape import Maybe, Misshapen, check
from steprule.lab.training import POINTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from steprule.lab.budget import Budget
    from steprule.lab.protocol import StudyPlan

STARTUP = 4.0
"""Seconds until the workers have imported torch."""

FEW_RATES, FEWEST_RATES = 7, 5
"""The least numbers of learning rates: while runs are long, and at all."""

SHORT, SHORTEST = 0.5, 0.05
"""The least shares of a run's length: before further learning rates are given up, and at all."""

MARGIN = 0.8
"""The planned part of the time; the rest is for errors of the estimate."""


@dataclass(frozen=True)
class Pace:
    """Seconds of a batch of a task, of its whole training set, and of one evaluation."""

    batch: float
    whole: float
    look: float


def measured(plan: StudyPlan) -> Pace:
    """Time a few steps of a plan's task; the optimiser's share of a step is a guess."""
    task = plan.task.build()
    train, model = task.data.train, task.model(0)
    batch = train.inputs[: plan.budget.batch_size], train.labels[: plan.budget.batch_size]

    def seconds(work: Any, *arguments: Any) -> float:
        times: list[float] = []
        while len(times) < 2 or (len(times) < 5 and sum(times) < 0.5):
            before = time.perf_counter()
            work(*arguments)
            times.append(time.perf_counter() - before)
        return min(times)

    full = any(method.full_batch for method in plan.methods)
    return Pace(
        1.6 * seconds(accumulate, model, task, *batch),
        seconds(accumulate, model, task, train.inputs, train.labels) if full else 0.0,
        seconds(evaluate, model, task, task.data.validation),
    )


def estimate(plans: Sequence[StudyPlan], paces: Sequence[Pace], workers: int) -> float:
    """Return roughly how many seconds the plans take."""
    total = 0.0
    for plan, pace in zip(plans, paces, strict=True):
        size = len(plan.task.build().data.train)
        runs = plan.runs / len(plan.methods)
        for method in plan.methods:
            step = pace.whole if method.full_batch else pace.batch
            total += runs * (plan.budget.count(size, full_batch=method.full_batch) * step + POINTS * pace.look)
    return STARTUP + total / workers


def fitted(
    plans: tuple[StudyPlan, ...], paces: Sequence[Pace], workers: int, seconds: float
) -> tuple[tuple[StudyPlan, ...], list[str]]:
    """Return plans for that time, and in words the runs that they give up, the same for every method.

    If no plan is short enough, return the least one that still compares.
    """
    rates, seeds = len(plans[0].grid), len(plans[0].tuning_seeds)
    found, fewer, less = plans, rates, seeds
    for fewer, less, share in _sparing(rates, seeds):
        found = tuple(_spared(plan, fewer, less, share) for plan in plans)
        if estimate(found, paces, workers) <= MARGIN * seconds:
            break
    words: list[str] = []
    if less < seeds:
        words.append(f"{less} tuning {'seed' if less == 1 else 'seeds'} instead of {seeds}")
    if fewer < rates:
        words.append(f"{fewer} learning rates instead of {rates}")
    if lengths := _lengths(plans, found):
        words.append(lengths)
    return found, words


def _lengths(plans: tuple[StudyPlan, ...], shorter: tuple[StudyPlan, ...]) -> str:
    """Say to what part of their length runs have been cut, or "" if they have not. Whole epochs remain."""

    def length(plan: StudyPlan) -> int:
        return plan.budget.epochs or plan.budget.iterations or 1

    shares = [round(100 * length(new) / length(old)) for old, new in zip(plans, shorter, strict=True)]
    least, most = min(shares), max(shares)
    if least == 100:
        return ""
    return f"runs of {least} % of their length" if least == most else f"runs of {least} to {most} % of their length"


def _sparing(rates: int, seeds: int) -> Iterator[tuple[int, int, float]]:
    """Yield ever smaller numbers of learning rates and tuning seeds, and shares of a run's length.

    Seeds first: a coarse grid misses the best learning rate by more than a second seed moves it.
    """
    share = 1.0
    yield rates, seeds, share
    while seeds > 1:
        seeds -= 1
        yield rates, seeds, share
    for least, shortest in ((FEW_RATES, SHORT), (FEWEST_RATES, SHORTEST)):
        while rates > least:
            rates -= 1
            yield rates, seeds, share
        while share > shortest:
            share = max(shortest, 0.95 * share)
            yield rates, seeds, share


def _spared(plan: StudyPlan, rates: int, seeds: int, share: float) -> StudyPlan:
    """Return a plan with fewer learning rates over the same range, fewer seeds, and shorter runs."""
    grid = plan.grid if rates == len(plan.grid) else geometric(plan.grid[0], plan.grid[-1], rates)
    return replace(plan, grid=grid, tuning_seeds=plan.tuning_seeds[:seeds], budget=_shorter(plan.budget, share))


def _shorter(budget: Budget, share: float) -> Budget:
    epochs, iterations = (
        None if count is None else max(1, round(share * count)) for count in (budget.epochs, budget.iterations)
    )
    return replace(budget, epochs=epochs, iterations=iterations)


def sentence(budget: str, given_up: Sequence[str], *, late: bool) -> str:
    """Say how a plan was fitted to the time, and where no plan fits."""
    made = f"cut to the least that compares, though that takes longer than {budget}," if late else f"fitted to {budget}"
    whole = ", ".join(given_up) or "nothing was given up"
    return f"The plan was {made} before it began, alike for every method: {whole}."


def fit_as_record(plans: Sequence[StudyPlan], words: Sequence[str]) -> dict[str, Any]:
    """Return the decisions about plans as JSON, from which processes that join take them."""
    return {
        "words": list(words),
        "plans": [
            {
                "grid": list(plan.grid),
                "tuning_seeds": list(plan.tuning_seeds),
                "epochs": plan.budget.epochs,
                "iterations": plan.budget.iterations,
            }
            for plan in plans
        ],
    }


FITTED = {
    "words": [str],
    "plans": [{"grid": [float], "tuning_seeds": [int], "epochs": Maybe(int), "iterations": Maybe(int)}],
}
"""The shape of such a record."""


def fit_from_record(plans: Sequence[StudyPlan], found: dict[str, Any]) -> tuple[tuple[StudyPlan, ...], tuple[str, ...]]:
    """Return the plans as another process has fitted them, and its words. Anything else is misshapen."""
    check(found, FITTED)
    if len(found["plans"]) != len(plans) or not all(part["grid"] for part in found["plans"]):
        raise Misshapen("plans", "are not those of the tasks")
    made = tuple(
        replace(
            plan,
            grid=tuple(part["grid"]),
            tuning_seeds=tuple(part["tuning_seeds"]),
            budget=replace(plan.budget, epochs=part["epochs"], iterations=part["iterations"]),
        )
        for plan, part in zip(plans, found["plans"], strict=True)
    )
    return made, tuple(found["words"])


def seconds_of(text: str) -> float | None:
    """Return the seconds of a duration such as 90s, 5m or 1h, or None for any other text."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh])", text.strip())
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]] if match and float(match[1]) else None
