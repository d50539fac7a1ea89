"""Ends of time: work that a signal interrupts when it has taken too long, where the system has such signals."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

AGAIN = 2.0
"""Seconds after which the error is raised again, should it have come where Python drops errors."""


class OutOfTime(BaseException):
    """The time of some work is over. No `except Exception` on the way, a compiler's say, takes it for its own."""


@contextmanager
def limit(seconds: float | None) -> Generator[OutOfTime]:
    """Raise the error that is given when the work within takes longer; in other threads than the first, let it go on.

    A limit within a limit is no longer than what is left of the outer one, whose error is then raised.
    """
    error = OutOfTime()
    able = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    if seconds is None or not able:
        yield error
        return
    outer, _ = signal.getitimer(signal.ITIMER_REAL)
    if 0 < outer <= seconds:
        yield error  # the outer one comes first
        return

    over = False

    def ring(*_: Any) -> None:
        if not over:
            raise error

    began, before = time.monotonic(), signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3), AGAIN)
        try:
            yield error
        finally:
            over = True
    finally:  # also if the signal came in the line above
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
        if outer:
            signal.setitimer(signal.ITIMER_REAL, max(outer - (time.monotonic() - began), 1e-3))
