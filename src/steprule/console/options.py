"""Options that several commands share, and the types of their values."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Decorator = Callable[[Any], Any]


class Number(click.ParamType):
    """A finite number in a range."""

    name = "number"

    def __init__(self, low: float = 0.0, high: float = math.inf, *, low_allowed: bool = False) -> None:
        self._low, self._high, self._low_allowed = low, high, low_allowed

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number, or describe the allowed ones."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        above = number >= self._low if self._low_allowed else number > self._low
        if not (above and number <= self._high and math.isfinite(number)):
            self.fail(f"{value!r} is not {self._allowed()}.", param, ctx)
        return number

    def _allowed(self) -> str:
        least = f"{'at least' if self._low_allowed else 'greater than'} {self._low:g}"
        return f"a number {least}" + (f" and at most {self._high:g}" if math.isfinite(self._high) else "")


def together(*decorators: Decorator) -> Decorator:
    """Return one decorator that applies all of them, the first uppermost in the help."""

    def decorate(function: Any) -> Any:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


OUTPUT = together(
    click.option("--json", "as_json", is_flag=True, help="Print the record instead of the table."),
    click.option("--no-progress", is_flag=True, help="Show no progress."),
)

FOLDER = click.Path(file_okay=False, path_type=Path)
