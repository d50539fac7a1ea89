"""The beginning and end of commands that run a study: refuse impossible requests, then print results."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from steprule.console.ending import INTERRUPTED
from steprule.console.files import prepare
from steprule.console.options import Decorator, together
from steprule.console.screen import Screen, complain, say
from steprule.lab import options, tensorboard
from steprule.lab.config import arguments
from steprule.lab.network import check_precision
from steprule.lab.report import terminal
from steprule.lab.results import as_text
from steprule.lab.store.journal import display

if TYPE_CHECKING:
    from steprule.lab.protocol import StudyPlan
    from steprule.lab.session import Session


def sharing(journal: str, within: str) -> Decorator:
    """Return the options of work that has a time, is recorded, and can be shared."""
    return together(
        click.option("--budget", type=options.Duration(), metavar="TIME", help=f"{within} Such as 90s, 5m or 1h."),
        click.option(
            "--storage",
            metavar="PATH|URL",
            help="The file that records runs, or a database such as sqlite:///study.db. "
            f"Processes that name the same one, with the same options, share the work.  [default: {journal} in --out]",
        ),
        click.option(
            "--resume",
            is_flag=True,
            help="Go on with the study in --out, or join the process that does it; its options have to be repeated.",
        ),
        click.option("--workers", type=click.IntRange(1, 1024), default=options.cores, show_default="one a core"),
    )


def check(plan: StudyPlan, out: Path | None, events: Path | None) -> None:
    """Fail now rather than after the work: on a folder, the batch size, a hyperparameter."""
    if events is not None:
        tensorboard.check()
    for flag, folder in (("--out", out), ("--tensorboard", events)):
        try:
            if folder is not None:
                prepare(folder)
        except OSError as error:
            raise click.UsageError(f"{flag}: cannot write to {folder}: {error.strerror or error}.") from error
    task = plan.task.build()
    size = len(task.data.train)
    if plan.budget.batch_size > size:
        raise click.UsageError(f"--batch-size is at most {size}, the number of training examples.")
    check_precision(task, plan.budget.precision, {method.parameters for method in plan.methods})
    for method in plan.methods:
        if method.needs_closure and plan.budget.precision == "float16":
            raise click.UsageError(
                f"{method.key} needs several gradients a step, which float16's loss scaling forbids."
            )
        method.check(task.model(0), lr=(plan.rates(method, plan.grid) or (1.0,))[0])


def command(ctx: click.Context, *more: str) -> str:
    """Return the command line as a person may repeat it; a database's password is left out."""
    words = list(arguments(ctx))
    return shlex.join(["steprule", *map(display, words), *(word for word in more if word not in words)])


def finish(session: Session, *, as_json: bool) -> int:
    """Print the results, write the report, and say where it is."""
    comparison, out = session.comparison, session.out
    if not comparison.runs:
        say("Interrupted before the first run was done: no file was written.", err=True)
        return INTERRUPTED
    # Files come first: the reader of the output may stop reading.
    made, unwritten = session.finish()
    if as_json:
        say(as_text(made))
    else:
        terminal.show(Screen(), made)
    if unwritten is not None:
        complain(f"cannot write to {out}: {unwritten.strerror or unwritten}.")
        return 1
    if out is not None:
        say(f"Written: {out / 'report.html'}, and beside it results.json, runs.csv and curves.csv", err=as_json)
    if comparison.interrupted:
        return INTERRUPTED
    return 0 if any(run.status == "finished" for run in comparison.runs) else 1
