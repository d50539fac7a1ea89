"""A progress bar with an estimate; without a terminal, a plain line now and then."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from steprule.console.screen import Screen
from steprule.console.text import one_line

if TYPE_CHECKING:
    from rich.console import Console

EVERY = 5.0
"""Seconds between two plain lines."""


def about(seconds: float) -> str:
    """Word a duration as roughly as it is known."""
    if seconds < 1:
        return "less than a second"
    if seconds < 90:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"


class Meter(Protocol):
    """Receives the progress of the work."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *exception: object) -> None: ...
    def phase(self, name: str, total: int) -> None:
        """Begin a phase. `total` counts all the work, the finished part included."""
        ...

    def advance(self) -> None:
        """Count one more unit as done."""
        ...

    def reach(self, done: int) -> None:
        """Say how many units are done, by all processes."""
        ...


class Silence:
    """A meter without output."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def phase(self, name: str, total: int) -> None:
        """Say nothing."""

    def advance(self) -> None:
        """Say nothing."""

    def reach(self, done: int) -> None:
        """Say nothing."""


class _Clock:
    """Estimates the remaining time from the pace since the first unit was done. The start-up does not count."""

    def __init__(self) -> None:
        self.done, self.total = 0, 0
        self._start: tuple[int, float] | None = None

    def reach(self, done: int) -> None:
        self.done = done
        if self._start is None and done:
            self._start = done, time.monotonic()

    def left(self) -> str:
        if self._start is None or self.done == self._start[0]:
            return ""
        pace = (time.monotonic() - self._start[1]) / (self.done - self._start[0])
        return f"{about(pace * (self.total - self.done))} left" if self.done < self.total else "done"


class Bar:
    """A bar for a terminal."""

    def __init__(self, console: Console, unit: str) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn(f"{unit},", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", markup=False),
        )
        self._bar = Progress(*columns, console=console, expand=True)
        self._task = self._bar.add_task("starting", total=None, left="")
        self._clock = _Clock()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def phase(self, name: str, total: int) -> None:
        """Name the phase beside the bar."""
        self._clock.total = total
        self._bar.update(self._task, description=one_line(name), total=total)

    def advance(self) -> None:
        """Move the bar."""
        self.reach(self._clock.done + 1)

    def reach(self, done: int) -> None:
        """Move the bar there."""
        self._clock.reach(done)
        self._bar.update(self._task, completed=self._clock.done, left=self._clock.left())


class Lines:
    """Plain lines for a log file or a pipe."""

    def __init__(self, console: Console, unit: str) -> None:
        self._console, self._unit, self._clock = console, unit, _Clock()
        self._name, self._last = "", time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def phase(self, name: str, total: int) -> None:
        """Print the phase when it begins."""
        name, self._clock.total = one_line(name), total
        new, self._name = name != self._name, name
        if new:
            self._say()

    def advance(self) -> None:
        """Print a line when the last one is old enough."""
        self.reach(self._clock.done + 1)

    def reach(self, done: int) -> None:
        """Print a line when the last one is old enough."""
        self._clock.reach(done)
        if time.monotonic() - self._last >= EVERY:
            self._say()

    def _say(self) -> None:
        self._last = time.monotonic()
        left = self._clock.left()
        line = f"{self._name}: {self._clock.done}/{self._clock.total} {self._unit}"
        self._console.print(f"{line}, {left}" if left else line, soft_wrap=True)


def meter(unit: str, *, wanted: bool) -> Meter:
    """Return the meter that suits standard error."""
    if not wanted:
        return Silence()
    console = Screen(stderr=True)
    return Bar(console, unit) if console.is_terminal else Lines(console, unit)
