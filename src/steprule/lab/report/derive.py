"""The content of charts and tables, computed from the document's runs."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median
from typing import Any

from steprule.lab.report.style import Look

XS = ("iteration", "epoch", "examples", "seconds")
"""The possible x axes of a curve."""


@dataclass(frozen=True)
class ReportArm:
    """One optimiser of the comparison, and how it is drawn."""

    row: dict[str, Any]
    look: Look

    @property
    def key(self) -> str:
        """Its name in this comparison, unlike any other's."""
        return self.row["key"]


@dataclass(frozen=True)
class Cell:
    """One optimiser on one task."""

    arm: ReportArm
    result: dict[str, Any]

    def runs(self, phase: str) -> list[dict[str, Any]]:
        """Return the runs of a phase, by learning rate and seed."""
        found = (run for run in self.result["runs"] if run["phase"] == phase)
        return sorted(found, key=lambda run: (run["lr"], run["seed"]))

    def drawn(self, phase: str) -> list[dict[str, Any]]:
        """Return the runs of a phase that have a curve."""
        return [run for run in self.runs(phase) if run["status"] != "failed" and _has_points(run["curve"])]


@dataclass(frozen=True)
class Chapter:
    """One task, with every optimiser that met it."""

    task: dict[str, Any]
    cells: tuple[Cell, ...]

    @property
    def several(self) -> bool:
        """Whether some optimiser was run on several fresh seeds: a lone run has no median and no interval."""
        return any(len(cell.runs(phase)) > 1 for cell in self.cells for phase in ("report", "default"))

    @property
    def untimed(self) -> list[Cell]:
        """The optimisers whose steps cannot be compared with the others' by the clock.

        A gradient of the whole training set leaves other things in the cache than one of a mini-batch.
        """
        whole = [cell for cell in self.cells if cell.arm.row.get("full_batch")]
        return whole if len(whole) < len(self.cells) else []

    def time_of(self, cell: Cell) -> dict[str, Any] | None:
        """Return the time of a step of an optimiser, or None if it is unknown or not comparable."""
        summary = cell.result["tuned"] or cell.result["default"]
        if summary is None or summary["optimizer_us_per_step"] is None or cell in self.untimed:
            return None
        return {"middle": summary["optimizer_us_per_step"], **(summary.get("step_spread") or {})}

    @property
    def phases(self) -> list[str]:
        """The phases that have curves, the tuned one first."""
        return [phase for phase in ("report", "default") if any(cell.drawn(phase) for cell in self.cells)]


def arms(document: dict[str, Any]) -> list[ReportArm]:
    """Return the optimisers in their order."""
    return [ReportArm(row, Look(place)) for place, row in enumerate(document["optimizers"])]


def chapters(document: dict[str, Any]) -> list[Chapter]:
    """Return the tasks in their order, each with its results in the optimisers' order."""
    known = {(row["task"], row["optimizer"]): row for row in document["results"]}
    ordered = arms(document)
    return [
        Chapter(
            task, tuple(Cell(arm, known[task["name"], arm.key]) for arm in ordered if (task["name"], arm.key) in known)
        )
        for task in document["tasks"]
    ]


@dataclass(frozen=True)
class Quantity:
    """Something a curve can show; `log` is how it is usually read."""

    name: str
    label: str
    log: bool = True
    percent: bool = False
    unit: str = ""

    def of(self, run: dict[str, Any], task: dict[str, Any]) -> list[float | None]:
        """Return its values at every point of a run."""
        curve = run["curve"]
        if self.name != "distance":
            return curve[self.name]
        least = task["optimum"]
        return [None if loss is None or loss <= least else loss - least for loss in curve["training_loss"]]


def quantities(chapter: Chapter) -> list[Quantity]:
    """Return the measured quantities of this task, the most telling first."""
    metric = chapter.task["metric"]
    linear = metric["higher"] or metric["percent"]
    known = [
        Quantity("distance", "distance to the least loss"),
        Quantity("training_loss", "training loss"),
        Quantity("validation_loss", "validation loss"),
        Quantity("score", f"validation {metric['name']}", not linear, metric["percent"], metric["unit"]),
        Quantity("gradient_norm", "gradient norm"),
        Quantity("clip_coefficient", "clip coefficient", log=False),
        Quantity("update_ratio", "update-to-parameter ratio"),
        Quantity("lr", "learning rate"),
    ]
    if chapter.task["optimum"] is None:
        known = [quantity for quantity in known if quantity.name != "distance"]
    runs = [run for cell in chapter.cells for phase in chapter.phases for run in cell.drawn(phase)]
    return [quantity for quantity in known if any(_any(quantity.of(run, chapter.task)) for run in runs)]


def axes(chapter: Chapter) -> list[str]:
    """Return the possible x axes of this task's curves."""
    runs = [run for cell in chapter.cells for phase in chapter.phases for run in cell.drawn(phase)]
    return [x for x in XS if any(_any(run["curve"][x]) for run in runs)]


def _has_points(curve: dict[str, Any]) -> bool:
    """Whether a curve has something to draw, and something to draw it against."""
    return any(_any(curve[x]) for x in XS) and any(_any(curve[column]) for column in curve if column not in XS)


def _any(values: Iterable[float | None]) -> bool:
    return any(value is not None for value in values)


@dataclass(frozen=True)
class Band:
    """The median over seeds at each evaluation, and the least and greatest; None is a gap."""

    x: list[float | None]
    middle: list[float | None]
    low: list[float | None]
    high: list[float | None]

    @property
    def last(self) -> tuple[float, float] | None:
        """Where the line ends."""
        pairs = [(x, y) for x, y in zip(self.x, self.middle, strict=True) if x is not None and y is not None]
        return pairs[-1] if pairs else None


def band(runs: Sequence[dict[str, Any]], quantity: Quantity, x: str, task: dict[str, Any]) -> Band:
    """Reduce several runs of one optimiser to a band; where half of them are lost it has a gap."""
    columns = [quantity.of(run, task) for run in runs]
    across = [run["curve"][x] for run in runs]
    result = Band([], [], [], [])
    for place in range(max(map(len, columns), default=0)):
        seen = [column[place] if place < len(column) else None for column in columns]
        here = [column[place] for column in across if place < len(column) and column[place] is not None]
        known = [value for value in seen if value is not None]
        result.x.append(median(here) if here else None)
        # A lost run counts as infinitely bad, so mostly lost runs have no median.
        result.middle.append(_middle(known, len(seen)))
        result.low.append(min(known, default=None))
        result.high.append(max(known, default=None))
    return result


def _middle(known: Sequence[float], count: int) -> float | None:
    """Return the median, the unknown counted as infinite."""
    middle = median([*known, *[math.inf] * (count - len(known))]) if count else math.inf
    return middle if math.isfinite(middle) else None


@dataclass(frozen=True)
class Rate:
    """The result of one learning rate in tuning. Its loss is None if a run did not finish."""

    lr: float
    loss: float | None
    lost: frozenset[str]


def sensitivity(cell: Cell) -> list[Rate]:
    """Return every learning rate tried, with the mean validation loss over the tuning seeds."""
    rates: list[Rate] = []
    for lr, group in groupby(cell.runs("tuning"), key=lambda run: run["lr"]):
        runs = list(group)
        losses = [run["validation_loss"] for run in runs if run["status"] == "finished"]
        whole = len(losses) == len(runs) and None not in losses
        lost = frozenset(run["status"] for run in runs if run["status"] in {"diverged", "failed"})
        rates.append(Rate(lr, sum(losses) / len(losses) if whole else None, lost))
    return rates


def after_trials(cell: Cell) -> list[tuple[float | None, float | None, float | None]]:
    """Return the best validation loss after 1, 2, ... of the trials: quartile, median, quartile over every order."""
    losses = sorted(math.inf if rate.loss is None else rate.loss for rate in sensitivity(cell))
    counts = range(1, len(losses) + 1)
    return [(_best(losses, k, 0.25), _best(losses, k, 0.5), _best(losses, k, 0.75)) for k in counts]


def _best(losses: Sequence[float], tried: int, level: float) -> float | None:
    """Return the quantile of the least of `tried` losses drawn without replacement."""
    count = len(losses)

    def reached(place: int) -> float:
        """Return the share of draws whose least loss is among the first ones, up to this place."""
        left = count - 1 - place
        return 1.0 if tried > left else 1 - math.exp(_log_choose(left, tried) - _log_choose(count, tried))

    value = losses[bisect_left(range(count - 1), level - 1e-9, key=reached)]
    return value if math.isfinite(value) else None


def _log_choose(count: int, chosen: int) -> float:
    return math.lgamma(count + 1) - math.lgamma(chosen + 1) - math.lgamma(count - chosen + 1)


def met(run: dict[str, Any], task: dict[str, Any], x: str = "epoch") -> float | None:
    """Return where a run first met the target on validation data, or None if it never did."""
    target, higher = task["target"], task["metric"]["higher"]
    if target is None:
        return None
    for at, score in zip(run["curve"][x], run["curve"]["score"], strict=True):
        if score is not None and at is not None and (score >= target if higher else score <= target):
            return at
    return None


def profile(parts: Sequence[Chapter]) -> dict[str, list[float]]:
    """Return for each optimiser, task by task, how many times the fastest's epochs it took to the target.

    A performance profile counts these (Dolan & Moré, 2002). A miss is infinite; so is an optimiser that never
    met the task.
    """
    ratios: dict[str, list[float]] = {}
    for chapter in parts:
        taken = {cell.arm.key: _epochs(cell) for cell in chapter.cells}
        least = min(taken.values(), default=math.inf)
        for key, epochs in taken.items():
            ratio = epochs / least if least > 0 else 1.0 if epochs == least else math.inf
            ratios.setdefault(key, []).append(ratio if math.isfinite(epochs) else math.inf)
    return {key: sorted(values) for key, values in ratios.items()}


def _epochs(cell: Cell) -> float:
    reached = cell.result["tuned"] and cell.result["tuned"]["to_target"]
    epochs = reached and reached["epochs"]
    return math.inf if epochs is None else epochs
