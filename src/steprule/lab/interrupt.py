"""Ctrl-C in the midst of a run: it waits for a moment at which the run's state is whole."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator


@dataclass
class Interrupt:
    """Whether Ctrl-C has asked the work to end."""

    asked: bool = False


@contextmanager
def waiting() -> Generator[Interrupt]:
    """Let ctrl-C wait until the work within looks for it, at the latest until it is done; a second one does not wait.

    In other threads than the first, and where somebody else answers ctrl-C, or nobody, it stays as it is.
    """
    found = Interrupt()
    if threading.current_thread() is not threading.main_thread() or (
        signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield found
        return

    def ask(*_: object) -> None:
        if found.asked:
            raise KeyboardInterrupt
        found.asked = True

    signal.signal(signal.SIGINT, ask)
    try:
        yield found
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if found.asked:
        raise KeyboardInterrupt
