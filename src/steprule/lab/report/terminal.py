"""The comparison in the terminal: the same document as the page, in words."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from steprule.lab.report import words
from steprule.lab.report.derive import Cell, Chapter, chapters


def show(console: Console, document: dict[str, Any]) -> None:
    """Print a table a task, who leads on it, and the footnotes."""
    parts = chapters(document)
    for chapter in parts:
        console.print(build(document, chapter))
        console.print()
        said = (
            document["verdicts"].get(chapter.task["name"], "") if len(chapter.cells) > 1 else words.single_run(document)
        )
        if said:
            console.print(escape(said), highlight=False)
        for note in words.footnotes(document, chapter):
            console.print(escape(note), style="dim", highlight=False)
        console.print()
    for paragraph in document["protocol"]["text"]:
        console.print(escape(paragraph), style="dim", highlight=False)


def build(document: dict[str, Any], chapter: Chapter) -> Table:
    """Return a task's table; an optimiser is set in bold only when it alone leads."""
    task = chapter.task
    table = Table(
        title=escape(f"{task['title']}, {task['network']}"),
        box=None,
        padding=(0, 1),
        pad_edge=False,
        collapse_padding=True,
        header_style="bold",
        title_style="italic",
    )
    table.add_column("name", overflow="fold")
    columns = headers(chapter)
    for header in columns:
        table.add_column(escape(header), justify="right", no_wrap=True)
    best = document["winner"].get(task["name"])
    for cell in chapter.cells:
        shown = [escape(text) for text in (cell.arm.key, *cells(chapter, cell))]
        table.add_row(*shown, style="bold" if cell.arm.key == best else None)
    return table


def headers(chapter: Chapter) -> list[str]:
    """Return the columns' names; a column that nothing fills is left out."""
    task = chapter.task
    tuned = any(cell.runs("tuning") for cell in chapter.cells)
    return [
        "best\nlr" if tuned else "\nlr",
        "valid.\nloss",
        f"test {task['metric']['name']}\nmedian [95 %]",
        *(["at its\ndefault lr"] if _has_defaults(chapter) else []),
        *([f"iter. to\n{words.target(task)}"] if task["target"] is not None else []),
        "step\nµs",
        "state\nB/par.",
        "lost\nruns",
    ]


def _has_defaults(chapter: Chapter) -> bool:
    return any(cell.result["default"] for cell in chapter.cells)


def cells(chapter: Chapter, cell: Cell) -> list[str]:
    """Return one optimiser's row, as words."""
    task, tuned, default = chapter.task, cell.result["tuned"], cell.result["default"]
    metric = task["metric"]
    at_default = default and default["test_score"]
    shown = words.NONE if not at_default else words.single(at_default["middle"], metric) + words.suffix(metric)
    return [
        words.rate(cell.result["lr"]),
        words.loss(tuned and tuned["validation_loss"]),
        words.score(tuned and tuned["test_score"], metric),
        *([shown] if _has_defaults(chapter) else []),
        *([words.to_target(tuned)] if task["target"] is not None else []),
        words.microseconds(tuned and tuned["optimizer_us_per_step"]),
        words.plain(cell.arm.row["state_bytes_per_parameter"]),
        words.lost(cell),
    ]
