"""The comparison in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from steprule.lab import notes
from steprule.lab.results import by_name
from steprule.lab.runs import DIVERGENCE
from steprule.lab.statistics import verdict, winner

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from steprule.lab.protocol import Study
    from steprule.lab.results import Row


def title(study: Study) -> str:
    """Return what was compared, on what, and with which clippings."""
    task = study.plan.task.build()
    clips = study.plan.methods[0].clips
    before = f", {' → '.join(clip.label for clip in clips)} before every step" if clips else ""
    return f"{task.title}, {task.network}{before}"


def build(study: Study, rows: Sequence[Row]) -> Table:
    """Return the table; a method is set in bold only when it alone leads."""
    table = Table(
        title=escape(title(study)),
        box=None,
        padding=(0, 1),
        pad_edge=False,
        collapse_padding=True,
        header_style="bold",
        title_style="italic",
    )
    metric = study.plan.task.build().metric
    fixed = study.fixed_lr is not None
    table.add_column("method", no_wrap=True)
    for header in (
        "\nlr" if fixed else "best\nlr",
        "valid.\nloss",
        f"test {metric.name}\nmedian [95 %]",
        f"iter. to\n{notes.target(study)}",
        "step\nµs",
        "state\nB/par.",
        "diverged\nruns",
    ):
        table.add_column(header, justify="right", no_wrap=True)
    best = winner(by_name(rows), higher=metric.higher)
    for row in rows:
        table.add_row(*cells(study, row), style="bold" if row.method.name == best else None)
    return table


def cells(study: Study, row: Row) -> list[str]:
    """Return one method's row, as words."""
    summary = row.summary
    return [
        row.method.name,
        notes.rate(summary.lr),
        notes.loss(summary.validation_loss),
        notes.score(summary.test_accuracy, study.plan.task.build().metric),
        notes.to_target(summary),
        notes.microseconds(summary.optimizer_us_per_step),
        f"{row.account.state_bytes_per_parameter:g}" if row.account else "unknown",
        notes.diverged(summary),
    ]


def show(console: Console, study: Study, rows: Sequence[Row]) -> None:
    """Print the table, who leads, and the footnotes."""
    console.print(build(study, rows))
    console.print()
    if len(rows) > 1:
        higher = study.plan.task.build().metric.higher
        console.print(escape(verdict(by_name(rows), higher=higher)), highlight=False)
    for note in (*notes.footnotes(study, rows), DIVERGENCE):
        console.print(escape(note), style="dim", highlight=False)
