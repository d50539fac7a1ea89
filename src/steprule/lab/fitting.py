"""How long a comparison takes, and the plan that fits into the time there is."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from steprule.lab.passes import accumulate, evaluate
from steprule.lab.protocol import geometric
from steprule.lab.training import POINTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from steprule.lab.budget import Budget
    from steprule.lab.protocol import Plan

STARTUP = 4.0
"""Seconds until the workers have imported torch."""

FEWEST_RATES = 5
SHORTEST = 0.05
"""The share of its length below which a run is not cut."""

MARGIN = 0.8
"""The part of the time that is planned for: an estimate is one."""


@dataclass(frozen=True)
class Pace:
    """What was timed on a task: seconds of a batch, of the whole training set, of one evaluation."""

    batch: float
    whole: float
    look: float


def measured(plan: Plan) -> Pace:
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


def estimate(plans: Sequence[Plan], paces: Sequence[Pace], workers: int) -> float:
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
    plans: tuple[Plan, ...], paces: Sequence[Pace], workers: int, seconds: float
) -> tuple[tuple[Plan, ...], list[str]]:
    """Return plans that take at most so long, and in words what was given up: the same for every method."""

    def fits(some: Sequence[Plan]) -> bool:
        return estimate(some, paces, workers) <= MARGIN * seconds

    words: list[str] = []
    rates, seeds = len(plans[0].grid), len(plans[0].tuning_seeds)
    while not fits(plans) and len(plans[0].grid) > FEWEST_RATES:
        fewer = len(plans[0].grid) - 1
        plans = tuple(replace(plan, grid=geometric(plan.grid[0], plan.grid[-1], fewer)) for plan in plans)
    if len(plans[0].grid) < rates:
        words.append(f"{len(plans[0].grid)} learning rates instead of {rates}")
    while not fits(plans) and len(plans[0].tuning_seeds) > 1:
        plans = tuple(replace(plan, tuning_seeds=plan.tuning_seeds[:-1]) for plan in plans)
    if len(plans[0].tuning_seeds) < seeds:
        left = len(plans[0].tuning_seeds)
        words.append(f"{left} tuning {'seed' if left == 1 else 'seeds'} instead of {seeds}")
    whole, share = plans, 1.0
    while not fits(plans) and share > SHORTEST:
        share = max(SHORTEST, 0.9 * share)
        plans = tuple(replace(plan, budget=_shorter(plan.budget, share)) for plan in whole)
    if share < 1:
        words.append(f"runs of {100 * share:.0f} % of their length")
    return plans, words


def _shorter(budget: Budget, share: float) -> Budget:
    epochs, iterations = (
        None if count is None else max(1, round(share * count)) for count in (budget.epochs, budget.iterations)
    )
    return replace(budget, epochs=epochs, iterations=iterations)


def as_plain(plans: Sequence[Plan], words: Sequence[str]) -> dict[str, Any]:
    """Return what fitting decides about plans, as plain JSON: processes that join take it from there."""
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


def from_plain(plans: Sequence[Plan], found: dict[str, Any]) -> tuple[tuple[Plan, ...], tuple[str, ...]]:
    """Return the plans as another process has fitted them, and its words."""
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
    """Return the seconds of a duration such as 90s, 5m or 1h; nothing where it is none."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh])", text.strip())
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]] if match and float(match[1]) else None
