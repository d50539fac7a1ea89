"""The one door to a terminal: everything arrives as text, and a reader who has gone stops no work."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console

from steprule.console.text import encodable, one_line, shown

if TYPE_CHECKING:
    from collections.abc import Generator

    from rich.text import Text

GONE = {errno.EPIPE, errno.ECONNRESET, errno.ESHUTDOWN, errno.EINVAL, errno.EBADF}
"""The errors of writing to a reader who has gone; on Windows that is an invalid argument."""


class Screen(Console):
    """A console that takes every text for text: no markup, no commands, no colours of its own choice."""

    def __init__(self, *, stderr: bool = False, quiet: bool = False) -> None:
        super().__init__(stderr=stderr, quiet=quiet, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **settings: Any) -> Text:
        """Return the shown text of a string: of a title, a cell, a line."""
        settings |= {"markup": False, "emoji": False}
        return super().render_str(shown(text), **settings)


def say(text: str, *, err: bool = False) -> None:
    """Say something, with its lines, on standard output or error."""
    stream = sys.stderr if err else sys.stdout
    with suppress(AttributeError):  # None if it was closed before Python began
        stream.write(f"{shown(text)}\n")
        stream.flush()


def complain(text: str) -> None:
    """Say an error in one line."""
    say(f"steprule: error: {one_line(text)}", err=True)


@dataclass
class Lasting:
    """A stream that never fails: it replaces letters that it cannot encode, and drops text that it cannot write."""

    stream: Any
    error: OSError | None = None
    """Why writing has ended, unless the reader has gone."""
    gone: bool = False

    def write(self, text: str | bytes) -> int:
        """Write the text if possible. click gives completions as bytes."""
        self._try("write", text.decode() if isinstance(text, bytes) else text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
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
    """Let standard output and error last as long as the work within, even if their readers go."""
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
    """Give closed standard streams to the null device, or the next opened file would take their place."""
    with suppress(OSError):
        while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(handle, True)
        os.close(handle)
