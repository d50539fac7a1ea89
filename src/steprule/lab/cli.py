"""The command line: its commands, and the answer to every way in which one ends."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import click

import steprule as sr
from steprule.console import ending
from steprule.console.screen import say
from steprule.console.text import near

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = {
    "bench": ("bench.command", "Time a step beside torch's, optax's and the roofline, on this machine."),
    "compare": ("lab.cli_compare", "Compare optimisers fairly: tuned on validation data, scored once on test data."),
    "completion": ("lab.cli_lists", "Print the script by which a shell completes commands and options."),
    "explain": ("lab.cli_explain", "Show an optimiser: its formula, its passes over memory, its generated kernel."),
    "export": ("lab.cli_export", "Write an optimiser down as one file that needs no steprule."),
    "optimizers": (
        "lab.cli_lists",
        "List the optimisers that have a name, with their formulas and the cost of a step.",
    ),
    "play": ("play.command", "Open the playground: a whiteboard on which rules are edited, and what they do."),
    "report": ("lab.cli_report", "Make report.html, runs.csv and curves.csv from a results.json, and print its table."),
    "tasks": ("lab.cli_lists", "List the tasks that --task can name, with their data and networks."),
    "train": ("lab.cli_train", "Do one run, and print the same facts as compare."),
    "tune": ("lab.cli_tune", "Search good hyperparameters of one optimiser, on validation data only."),
}
"""Every command, its module in the package and its purpose. A command's module is imported when the command runs."""


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
        return getattr(import_module(f"steprule.{COMMANDS[cmd_name][0]}"), cmd_name)

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


def run(line: Sequence[str]) -> int:
    """Run one command line and return its exit code; an error is one line.

    0: there is a result. 1: no run finished, or a file could not be written. 2: the request cannot be fulfilled.
    130: ctrl-C ended it early.
    """
    return ending.run(cli, line)
