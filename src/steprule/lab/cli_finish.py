"""What commands that run a study do before and after it: refuse what cannot work, and tell what came out."""

from __future__ import annotations

import shlex
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

import steprule as sr
from steprule.lab import options, tensorboard
from steprule.lab.config import arguments
from steprule.lab.files import prepare
from steprule.lab.journal import any_done, display, is_url
from steprule.lab.lock import locked
from steprule.lab.passes import check_precision
from steprule.lab.report import terminal
from steprule.lab.results import as_text

if TYPE_CHECKING:
    from collections.abc import Generator

    from steprule.lab.protocol import Plan
    from steprule.lab.session import Session

INTERRUPTED = 130


def sharing(journal: str, within: str) -> options.Decorator:
    """Return the options of work that has a time, is recorded, and can be shared."""
    return options.together(
        click.option("--budget", type=options.Duration(), metavar="TIME", help=f"{within} Such as 90s, 5m or 1h."),
        click.option(
            "--storage",
            metavar="PATH|URL",
            help="Where runs are recorded: a file, or a database such as sqlite:///study.db. "
            f"Processes that name the same one, with the same options, share the work.  [default: {journal} in --out]",
        ),
        click.option(
            "--resume",
            is_flag=True,
            help="Go on with the study in --out, or join the process that does it; its options have to be repeated.",
        ),
        click.option("--workers", type=click.IntRange(1, 1024), default=options.cores, show_default="one a core"),
    )


def check(plan: Plan, out: Path | None, events: Path | None) -> None:
    """Fail now on whatever would fail only after the work: a folder, the batch size, a hyperparameter."""
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
    check_precision(task, plan.budget.precision)
    for method in plan.methods:
        method.check(task.model(0), lr=plan.grid[0] if plan.grid else 1.0)


@contextmanager
def folder(values: dict[str, Any], journal: str) -> Generator[None]:
    """Hold the folder, and that of a shared journal; a study that is neither gone on with nor shared begins anew."""
    out: Path = values["out"]
    storage: str | None = values["storage"]
    with ExitStack() as held:
        if storage is None and not values["resume"]:
            with locked(out):
                _set_aside(out / journal)
        held.enter_context(locked(out, shared=True))
        home = None if storage is None or is_url(storage) else Path(storage).parent
        if home is not None and home.is_dir() and not home.samefile(out):
            held.enter_context(locked(home, shared=True))
        yield


def _set_aside(journal: Path) -> None:
    """Keep the journal of the study before, where a run of it is done, until the next study begins."""
    journal.with_name(f"{journal.name}.lock").unlink(missing_ok=True)
    kept = journal.with_name(f"{journal.name}.before")
    if not journal.exists():
        return
    if not any_done(journal):
        journal.unlink()
        return
    try:
        journal.replace(kept)
    except OSError as error:
        raise sr.errors.StateError(
            f"the study that is there cannot be set aside: {error.strerror}", where=str(kept), fix="give another --out"
        ) from error
    told = f"A new study; the one before is kept: with its own options, --storage {kept} goes on with it."
    click.echo(told, err=True)


def command(ctx: click.Context) -> str:
    """Return the command line as a person may repeat it; a database's password is left out."""
    return shlex.join(["steprule", *map(display, arguments(ctx))])


def finish(session: Session, *, as_json: bool) -> int:
    """Print the results, write the report, and say where it is."""
    comparison, out = session.comparison, session.out
    if not comparison.runs:
        click.echo("Interrupted before the first run was done: nothing was written.", err=True)
        return INTERRUPTED
    # Before anything is printed: whoever reads the output may stop reading.
    made, unwritten = session.finish()
    if as_json:
        click.echo(as_text(made))
    else:
        terminal.show(Console(), made)
    if unwritten is not None:
        print(f"steprule: error: cannot write to {out}: {unwritten.strerror or unwritten}.", file=sys.stderr)
        return 1
    if out is not None:
        click.echo(f"Written: {out / 'report.html'}, and beside it results.json, runs.csv and curves.csv", err=as_json)
    if comparison.interrupted:
        return INTERRUPTED
    return 0 if any(run.status != "failed" for run in comparison.runs) else 1
