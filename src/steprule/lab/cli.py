"""The command line: its commands, and the answer to every way in which one ends."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click
import torch

import steprule as sr
from steprule.lab.files import Unrecorded
from steprule.lab.screen import complain, lasting, say
from steprule.lab.text import near, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

INTERRUPTED = 130

COMMANDS = {
    "bench": ("cli_bench", "Time a step beside torch's, optax's and the roofline, on this machine."),
    "compare": ("cli_compare", "Compare optimisers fairly: tuned on validation data, scored once on test data."),
    "completion": ("cli_lists", "Print the script by which a shell completes commands and options."),
    "explain": ("cli_explain", "Show an optimiser: its formula, its passes over memory, its generated kernel."),
    "optimizers": ("cli_lists", "List the optimisers that have a name, with their formulas and the cost of a step."),
    "report": ("cli_report", "Make report.html, runs.csv and curves.csv from a results.json, and print its table."),
    "tasks": ("cli_lists", "List the tasks that --task can name, with their data and networks."),
    "train": ("cli_train", "Do one run, and print the same facts as compare."),
    "tune": ("cli_tune", "Search good hyperparameters of one optimiser, on validation data only."),
}
"""Every command, its module and its purpose. A command's module is imported when the command runs."""


class Commands(click.Group):
    """The commands. Each is imported when it runs, so that listing them needs only click."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return their names."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return one, if there is one of this name."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        return getattr(import_module(f"steprule.lab.{COMMANDS[cmd_name][0]}"), cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each command's purpose."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, told) for name, (_, told) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command of a line; of one that there is not, say which is near."""
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            told = f"No such command {args[0]!r}; {near(args[0], COMMANDS) or 'allowed: ' + ', '.join(COMMANDS)}"
            raise click.UsageError(told, ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(sr.__version__, prog_name="steprule")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Write the update rule as on the whiteboard; run it at memory speed."""
    if ctx.invoked_subcommand is None:
        say(ctx.get_help())


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    """Say a warning in one line, without the place in our code: it does not help the user of a command."""
    say(f"steprule: warning: {one_line(' '.join(str(message).split()))}", err=True)


def run(line: Sequence[str]) -> int:
    """Run one command line and return its exit code; an error is one line.

    0: there is a result. 1: no run finished, or a file could not be written. 2: the request cannot be fulfilled.
    130: ctrl-C ended it early.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    shown, warnings.showwarning = warnings.showwarning, _warn
    try:
        with lasting() as output:
            code = _run(line)
        if output.error is not None:
            complain(f"cannot write the output: {output.error.strerror}.")
            return code or 1
    finally:
        warnings.showwarning = shown
        torch.set_num_threads(threads)
    return code


def _run(line: Sequence[str]) -> int:
    try:
        code: Any = cli.main(list(line), prog_name="steprule", standalone_mode=False, obj=list(line))
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
