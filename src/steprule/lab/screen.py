"""The one door to a terminal: what is said arrives as text, and a reader who has gone costs no work."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console

from steprule.lab.text import encodable, one_line, shown

if TYPE_CHECKING:
    from collections.abc import Generator

    from rich.text import Text

GONE = {errno.EPIPE, errno.ECONNRESET, errno.ESHUTDOWN, errno.EINVAL, errno.EBADF}
"""What writing to a reader who has gone ends in; on Windows that is an invalid argument."""


class Screen(Console):
    """A console that takes every text for text: no markup, no commands, no colours of its own choice."""

    def __init__(self, *, stderr: bool = False, quiet: bool = False) -> None:
        super().__init__(stderr=stderr, quiet=quiet, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **settings: Any) -> Text:
        """Return the text that a string is shown as, whoever asks: a title, a cell, a line."""
        settings |= {"markup": False, "emoji": False}
        return super().render_str(shown(text), **settings)


def say(text: str, *, err: bool = False) -> None:
    """Say something, with its lines, on standard output or error."""
    stream = sys.stderr if err else sys.stdout
    with suppress(AttributeError):  # none where it was closed before Python began
        stream.write(f"{shown(text)}\n")
        stream.flush()


def complain(text: str) -> None:
    """Say in one line what went wrong."""
    say(f"steprule: error: {one_line(text)}", err=True)


@dataclass
class Lasting:
    """A stream that takes whatever is written: what cannot be encoded is replaced, what cannot be written dropped."""

    stream: Any
    error: OSError | None = None
    """Why nothing is written any more, unless it is that nobody reads."""
    gone: bool = False

    def write(self, text: str | bytes) -> int:
        """Write what can be written; click gives completions as bytes."""
        self._try("write", text.decode() if isinstance(text, bytes) else text)
        return len(text)

    def flush(self) -> None:
        """Hand on what was written."""
        self._try("flush")

    def _try(self, name: str, *words: str) -> None:
        if self.gone:
            return
        try:
            try:
                getattr(self.stream, name)(*words)
            except UnicodeEncodeError as error:
                getattr(self.stream, name)(*(encodable(word, error.encoding) for word in words))
        except ValueError:  # it was closed
            self.gone = True
        except OSError as error:
            self.error, self.gone = None if error.errno in GONE else error, True
            with suppress(OSError, ValueError, AttributeError):  # Python would complain once more at exit
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self.stream.fileno())
                os.close(null)

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # click would write bytes of its own encoding there
            raise AttributeError(name)
        return getattr(self.stream, name)


@contextmanager
def lasting() -> Generator[Lasting]:
    """Let standard output and error last as long as the work within, whatever becomes of those who read them."""
    _occupied()
    before = sys.stdout, sys.stderr
    out, err = (None if stream is None else Lasting(stream) for stream in before)
    sys.stdout, sys.stderr = out, err  # pyright: ignore[reportAttributeAccessIssue] - it has all that a stream has
    try:
        yield out or Lasting(None)
    finally:
        for stream in (out, err):
            if stream is not None:
                stream.flush()
        sys.stdout, sys.stderr = before


def _occupied() -> None:
    """Give a standard stream that was closed to nobody: the next file that is opened would be taken for it."""
    with suppress(OSError):
        while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(handle, True)
        os.close(handle)
