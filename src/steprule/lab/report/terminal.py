"""The comparison in the terminal: the same document as the page, in words."""

from __future__ import annotations

from textwrap import fill
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from steprule.console.text import clean, one_line
from steprule.lab.report import words
from steprule.lab.report.derive import Cell, Chapter, chapters

LEAST, FOLDED = 10, 16
"""How narrow names and scores are made where they have to be folded."""

WIDEST = 20
"""A header is folded beyond this."""

SCORE = 3
"""The place of the score among the columns, the name's being 0."""

SPARED = ("step", "state", "at its", "iter. to", "valid.", "lost")
"""How the columns begin that are left out where there is no room, in this order; the page has them all."""


def show(console: Console, document: dict[str, Any]) -> None:
    """Print a table a task, its leader, and the footnotes. Everything in the document is printed as text."""
    document = clean(document, one_line)
    parts = chapters(document)
    for chapter in parts:
        console.print(build(document, chapter, console.width))
        console.print()
        said = (
            document["verdicts"].get(chapter.task["name"], "") if len(chapter.cells) > 1 else words.single_run(document)
        )
        if said:
            console.print(Text(said))
        for note in words.footnotes(document, chapter):
            console.print(Text(note, "dim"))
        console.print()
    for paragraph in document["protocol"]["text"]:
        console.print(Text(paragraph, "dim"))


def build(document: dict[str, Any], chapter: Chapter, width: int) -> Table:
    """Return a task's table; an optimiser is set in bold only when it alone leads."""
    task = chapter.task
    table = Table(
        title=Text(f"{task['title']}, {task['network']}", "italic"),
        box=None,
        padding=(0, 1),
        pad_edge=False,
        collapse_padding=True,
        header_style="bold",
    )
    columns = ["name", *headers(chapter)]
    rows = [(cell.arm.key, *cells(chapter, cell)) for cell in chapter.cells]
    widths = _fitted(columns, rows, width)
    height = max(header.count("\n") for header in columns)
    for place, most in widths.items():
        lowered = "\n" * (height - columns[place].count("\n")) + columns[place]
        table.add_column(Text(lowered), justify="right" if place else "left", overflow="fold", max_width=most)
    best = document["winner"].get(task["name"])
    for row in rows:
        table.add_row(*(Text(row[place]) for place in widths), style="bold" if row[0] == best else None)
    return table


def _fitted(columns: list[str], rows: list[tuple[str, ...]], width: int) -> dict[int, int]:
    """Return how wide each column may be; one that has no room is left out.

    Long names are folded first, then the scores; then go the columns that a reader misses least.
    """
    texts = zip(columns, *rows, strict=True)
    widths = {place: max(len(line) for text in part for line in text.split("\n")) for place, part in enumerate(texts)}

    def fits() -> bool:
        return sum(widths.values()) + len(widths) - 1 <= width

    for place, least in ((0, LEAST), (SCORE, FOLDED)):
        if not fits():
            spare = width - sum(widths.values()) - len(widths) + 1 + widths[place]
            widths[place] = min(widths[place], max(least, spare))
    for begun in SPARED:
        if not fits():
            widths = {place: most for place, most in widths.items() if not columns[place].startswith(begun)}
    return widths


def headers(chapter: Chapter) -> list[str]:
    """Return the names of the columns that are not empty."""
    task = chapter.task
    tuned = any(cell.runs("tuning") for cell in chapter.cells)
    score = fill(f"test {task['metric']['name']}", WIDEST)
    return [
        "best\nlr" if tuned else "lr",
        "valid.\nloss",
        f"{score}\nmedian [95 %]" if chapter.several else score,
        *(["at its\ndefault\nlr"] if _has_defaults(chapter) else []),
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
        words.microseconds((chapter.time_of(cell) or {}).get("middle")),
        words.exact(cell.arm.row["state_bytes_per_parameter"]),
        words.lost(cell),
    ]
