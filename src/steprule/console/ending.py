"""The answer to every way in which a command ends: an exit code, and an error in one line."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import click
import torch

import steprule as sr
from steprule.console.files import Unrecorded
from steprule.console.screen import complain, lasting, say
from steprule.console.text import near, one_line

INTERRUPTED = 130


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    """Say a warning in one line, without the place in our code: it does not help the user of a command."""
    say(f"steprule: warning: {one_line(' '.join(str(message).split()))}", err=True)


def run(command: click.Command, line: Sequence[str], name: str = "steprule") -> int:
    """Run one command line and return its exit code; an error is one line.

    0: there is a result. 1: no run finished, or a file could not be written. 2: the request cannot be fulfilled.
    130: ctrl-C ended it early.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    shown, warnings.showwarning = warnings.showwarning, _warn
    try:
        with lasting() as output:
            code = _run(command, line, name)
        if output.error is not None:
            complain(f"cannot write the output: {output.error.strerror}.")
            return code or 1
    finally:
        warnings.showwarning = shown
        torch.set_num_threads(threads)
    return code


def _run(command: click.Command, line: Sequence[str], name: str) -> int:
    try:
        code: Any = command.main(list(line), prog_name=name, standalone_mode=False, obj=list(line))
    except click.exceptions.Abort:
        say("Interrupted.", err=True)
        return INTERRUPTED
    except SystemExit as error:  # so ends the completion of a line
        code = error.code
    except click.ClickException as error:
        complain(" ".join(_told(error).split()))
        return 2
    except sr.errors.StepruleError as error:
        told = sr.errors.StepruleError(one_line(error.what), where=error.where, fix=error.fix)
        say(f"steprule: error: {told}", err=True)
        return 1 if isinstance(error, Unrecorded) else 2
    return code if isinstance(code, int) else 0


def _told(error: click.ClickException) -> str:
    """Word an error. After an unknown option, suggest the nearest one in any case of letters."""
    if not isinstance(error, click.NoSuchOption) or error.ctx is None:
        return error.format_message()
    return f"{error.message} {near(error.option_name, [flag for one in error.ctx.command.params for flag in one.opts])}"
