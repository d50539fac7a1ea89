"""The document as two tables for spreadsheets and data frames: a row a run, a row a point."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from steprule.console.text import shown
from steprule.lab.report.shape import COLUMNS, RUN

_RUN = [key for key in RUN if key not in {"curve", "exhibits", "step_spread"}]
_WHICH = ["task", "optimizer", "phase", "lr", "seed"]


def runs_csv(document: dict[str, Any]) -> str:
    """Return runs.csv: how every run ended."""
    rows = (
        [row["task"], row["optimizer"], *_ended({"gradient_evaluations": run["iterations"]} | run)]
        for row, run in _runs(document)
    )
    return _csv(["task", "optimizer", *_RUN], rows)


def _ended(run: dict[str, Any]) -> list[Any]:
    """Return the columns of a run; one that was written before gradients were counted evaluated one an iteration."""
    return [run[key] for key in _RUN]


def curves_csv(document: dict[str, Any]) -> str:
    """Return curves.csv: every point of every curve, in long format."""

    def rows() -> Iterator[list[Any]]:
        for row, run in _runs(document):
            which = [row["task"], row["optimizer"], run["phase"], run["lr"], run["seed"]]
            columns = (run["curve"][column] for column in COLUMNS)
            yield from ([*which, *point] for point in zip(*columns, strict=True))

    return _csv([*_WHICH, *("lr_now" if name == "lr" else name for name in COLUMNS)], rows())


def _runs(document: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    return ((row, run) for row in document["results"] for run in row["runs"])


def _csv(head: list[str], rows: Iterator[list[Any]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return file.getvalue()


def _cell(value: Any) -> Any:
    """Return a cell's text, which no spreadsheet takes for a formula and no terminal for a command."""
    if not isinstance(value, str):
        return value
    text = shown(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t")) else text
