"""How numbers are worded, and the footnotes; the terminal's table and the page say the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from steprule.lab.protocol import Study
    from steprule.lab.results import Row
    from steprule.lab.statistics import Interval, Summary
    from steprule.lab.tasks import Metric

NONE = "–"
"""Stands where there is no number."""


def loss(value: float | None) -> str:
    """Word a loss, to three digits."""
    return NONE if value is None else f"{value:.3g}" if value >= 1000 else f"{value:#.3g}".rstrip(".")


def rate(value: float | None) -> str:
    """Word a learning rate."""
    return NONE if value is None else f"{value:g}"


def score(value: Interval | None, metric: Metric) -> str:
    """Word a score, with its interval when it has one."""
    if value is None:
        return NONE
    middle, low, high = map(metric.word, (value.median, value.low, value.high))
    if value.low == value.high:
        return middle
    return f"{middle} [{low.removesuffix(' %')}, {high.removesuffix(' %')}]"


def target(study: Study) -> str:
    """Word the score whose iterations are counted."""
    value = study.plan.target
    return "target" if value is None else study.plan.task.build().metric.word(value).replace(".0 %", " %")


def microseconds(value: float | None) -> str:
    """Word the time of a step."""
    return NONE if value is None else f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def to_target(summary: Summary) -> str:
    """Word the iterations to the target; a median that was never met is said to be so."""
    if summary.iterations_to_target is not None:
        return f"{summary.iterations_to_target:,.0f}"
    return "never" if summary.report_runs else NONE


def diverged(summary: Summary) -> str:
    """Word the diverged runs as a share of all."""
    return f"{summary.diverged_runs}/{summary.runs}"


def epochs(value: float) -> str:
    """Word a number of epochs."""
    return f"{value:.3g}"


def plural(count: int, noun: str) -> str:
    """Word a count with its noun."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def length(row: Row) -> str:
    """Word how long a method was trained, in iterations and in epochs."""
    summary = row.summary
    return f"{plural(summary.iterations, 'iteration')} = {epochs(summary.epochs)} epochs"


def footnotes(study: Study, rows: Sequence[Row]) -> list[str]:
    """Return what a reader must know to read the table rightly."""
    return [*_single(study), *_lengths(study, rows), *_choices(study, rows), *_failures(study, rows)]


def _single(study: Study) -> list[str]:
    """Say how a lone run went."""
    if len(study.runs) != 1 or not study.runs[0].curve:
        return []
    run = study.runs[0]
    last, metric = run.curve[-1], study.plan.task.build().metric
    told = (
        f"Seed {run.spec.seed}: training loss from {loss(run.curve[0].training_loss)} to "
        f"{loss(last.training_loss)}, validation {metric.name} {metric.word(last.score)} after "
        f"{last.iteration:,} iterations ({epochs(last.epoch)} epochs)."
    )
    return [told]


def _lengths(study: Study, rows: Sequence[Row]) -> list[str]:
    """Say what a run was, and that full-batch methods took fewer iterations."""
    trained = [row for row in rows if row.summary.iterations]
    full, mini = ([row for row in trained if row.method.full_batch is kind] for kind in (True, False))
    last = ", the last one on the full batch" if study.plan.budget.final_full_batch else ""
    notes = [f"A run is {length(mini[0])} in batches of {study.plan.budget.batch_size}{last}."] if mini else []
    for row in full:
        told = f"{row.method.name} takes one full-batch iteration an epoch: {length(row)}{last}."
        if mini and row.summary.iterations < mini[0].summary.iterations:
            told += " So few iterations may leave its accuracy below the others'."
        notes.append(told)
    return notes


def _choices(study: Study, rows: Sequence[Row]) -> list[str]:
    """Say where a learning rate is doubtful."""
    tuned = study.fixed_lr is None
    edges = [row.method.name for row in rows if row.summary.edge]
    lost = [row.method.name for row in rows if tuned and row.summary.lr is None and row.summary.diverged_tuning]
    notes: list[str] = []
    if edges:
        notes.append(
            f"The best learning rate of {', '.join(edges)} lies at an end of the grid; a wider one "
            "(--lr-range) may hold a better one."
        )
    if lost:
        notes.append(f"No learning rate of the grid let {', '.join(lost)} finish.")
    return notes


def _failures(study: Study, rows: Sequence[Row]) -> list[str]:
    """Say which runs failed, and of what."""
    reasons = {run.reason.splitlines()[0][:160] for run in study.runs if run.status == "failed"}
    failed = sum(row.summary.failed_runs for row in rows)
    told = "; ".join(sorted(reasons)[:3])
    notes = [f"{plural(failed, 'run')} failed: {told} (results.json has the whole message)."] if failed else []
    if study.interrupted:
        notes.append("The study was interrupted: what was done by then is shown.")
    return notes
