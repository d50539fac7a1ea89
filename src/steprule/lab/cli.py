"""The commands compare, train and explain; the others have files of their own."""

from __future__ import annotations

import errno
import json
import os
import shlex
import sys
import warnings
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any

import click
import torch
from rich.console import Console

import steprule as sr
from steprule.lab import options, tensorboard
from steprule.lab.cli_bench import bench
from steprule.lab.cli_lists import completion, optimizers, tasks
from steprule.lab.cli_report import report
from steprule.lab.config import Configured, arguments
from steprule.lab.files import prepare
from steprule.lab.lock import locked
from steprule.lab.optimizers import NAMES, TITLES
from steprule.lab.options import CLIPPING, FOLDER, HYPER, OUTPUT, SCHEDULE, TRAINING, Name, Names, Number
from steprule.lab.passes import check_precision
from steprule.lab.progress import about, meter
from steprule.lab.protocol import REPORT_OFFSET, Plan, Study, geometric
from steprule.lab.report import terminal
from steprule.lab.results import Setting, as_text, document
from steprule.lab.session import Session, estimate, now

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

INTERRUPTED = 130
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""What writing to standard output can end in."""


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(sr.__version__, prog_name="steprule")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Write the update rule as on the whiteboard; run it at memory speed."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@cli.command(cls=Configured)
@click.option(
    "--quick",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=options.set_quick,
    help="A first look: fewer learning rates, seeds and epochs.",
)
@click.option("--optimizers", type=Names(), default=",".join(TITLES), show_default=True, help=options.NAMED)
@click.option("--lrs", type=click.IntRange(1, 200), default=9, show_default=True, help="Learning rates a method.")
@click.option("--lr-range", type=Number(), nargs=2, show_default="the task's", metavar="LOW HIGH")
@click.option(
    "--extend/--no-extend",
    default=True,
    show_default=True,
    help="Widen the grid, for every method alike, while some method's best lies at its end.",
)
@click.option("--tuning-seeds", type=click.IntRange(1, REPORT_OFFSET), default=2, show_default=True)
@click.option("--seeds", type=click.IntRange(1, 1000), default=5, show_default=True, help="Fresh seeds a method.")
@TRAINING
@HYPER
@CLIPPING
@click.option("--workers", type=click.IntRange(1, 1024), default=options.cores, show_default="one a core")
@click.option("--out", type=FOLDER, default="results", show_default=True, help="Folder of the report and its data.")
@OUTPUT
@click.pass_context
def compare(ctx: click.Context, **values: Any) -> int:
    """Compare the board's methods fairly: tuned on validation data, scored once on test data.

    Leaves report.html, results.json, runs.csv and curves.csv in the folder given by --out.
    """
    task = options.task(values)
    low, high = values["lr_range"] or task.build().lr_range
    if values["lrs"] > 1 and low >= high:
        raise click.UsageError(f"--lr-range takes LOW below HIGH, got {low:g} and {high:g}.")
    first = values["seed"]
    plan = Plan(
        task=task,
        methods=options.methods(ctx, values["optimizers"], values),
        budget=options.budget(ctx, values, task),
        grid=geometric(low, high, values["lrs"]),
        tuning_seeds=tuple(range(first, first + values["tuning_seeds"])),
        report_seeds=tuple(range(first + REPORT_OFFSET, first + REPORT_OFFSET + values["seeds"])),
        target=options.target(values, task),
        extend=values["extend"],
    )
    _check(plan, values["out"], values["tensorboard"])
    study = Study(plan, plan.grid)
    talk = Console(stderr=True)
    workers = min(values["workers"], plan.runs)
    _announce(talk, plan, workers, quiet=values["no_progress"])
    setting = Setting(_command(ctx), workers, now())
    session = Session(
        study, setting, values["out"], meter(talk, "runs", wanted=not values["no_progress"]), values["tensorboard"]
    )
    with locked(values["out"]):
        session.conduct()
        return _finish(session, as_json=values["as_json"])


@cli.command(cls=Configured)
@click.option("--optimizer", type=Name(), required=True, help="By name, or module:Class or file.py:Class.")
@click.option("--lr", type=Number(), required=True, help="The learning rate η.")
@TRAINING
@SCHEDULE
@HYPER
@CLIPPING
@click.option("--out", type=FOLDER, help="Folder of results.json, report.html and checkpoints; none without it.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint in --out, if there is one.")
@OUTPUT
@click.pass_context
def train(ctx: click.Context, **values: Any) -> int:
    """Do one run, and print the same facts as compare.

    With --out it can be killed at any moment, and gone on with by --resume.
    """
    if values["resume"] and values["out"] is None:
        raise click.UsageError("--resume goes on from the checkpoint in --out: give that folder.")
    task = options.task(values)
    plan = Plan(
        task=task,
        methods=options.methods(ctx, (values["optimizer"],), values),
        budget=options.budget(ctx, values, task),
        grid=(),
        tuning_seeds=(),
        report_seeds=(values["seed"],),
        target=options.target(values, task),
    )
    _check(plan, values["out"], values["tensorboard"])
    study = Study(plan, (), fixed_lr=values["lr"])
    gauge = meter(Console(stderr=True), "evaluations", wanted=not values["no_progress"])
    session = Session(study, Setting(_command(ctx), 1, now()), values["out"], gauge, values["tensorboard"])
    with locked(values["out"]) if values["out"] else nullcontext():
        session.train(resume=values["resume"])
        return _finish(session, as_json=values["as_json"])


@cli.command()
@click.argument("name", type=Name())
@HYPER
@CLIPPING
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "latex", "source", "json"]),
    default="text",
    show_default=True,
)
@click.pass_context
def explain(ctx: click.Context, name: str, form: str, **values: Any) -> None:
    """Show an optimiser: its formula, its passes over memory, its generated kernel."""
    (method,) = options.methods(ctx, (name,), values)
    account = method.explain()
    if account is None:
        raise click.UsageError(f"{name} is not steprule's, so its formula is unknown; allowed: {', '.join(NAMES)}.")
    told = {
        "text": lambda: str(account),
        "latex": lambda: account.latex,
        "source": lambda: account.source,
        "json": lambda: json.dumps(account.as_json(), indent=2, ensure_ascii=False),
    }
    click.echo(told[form]())


cli.add_command(bench)
cli.add_command(optimizers)
cli.add_command(tasks)
cli.add_command(completion)
cli.add_command(report)


def _check(plan: Plan, out: Path | None, events: Path | None) -> None:
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


def _announce(talk: Console, plan: Plan, workers: int, *, quiet: bool) -> None:
    """Say what is about to happen and how long it may take."""
    if quiet:
        return
    tuning = f"{len(plan.methods)} methods × {len(plan.grid)} learning rates"
    if len(plan.tuning_seeds) > 1:
        tuning += f" × {len(plan.tuning_seeds)} seeds"
    told = f"{plan.runs} runs on {workers} workers: {tuning}, then {len(plan.report_seeds)} fresh seeds each; "
    talk.print(told + about(estimate(plan, workers)), highlight=False)


def _command(ctx: click.Context) -> str:
    return shlex.join(["steprule", *arguments(ctx)])


def _finish(session: Session, *, as_json: bool) -> int:
    """Print the results, write the report, and say where it is."""
    study, out = session.study, session.out
    if not study.runs:
        click.echo("Interrupted before the first run was done: nothing was written.", err=True)
        return INTERRUPTED
    # Before anything is printed: whoever reads the output may stop reading.
    unwritten = session.finish()
    if as_json:
        click.echo(as_text(document(study, session.setting)))
    else:
        terminal.show(Console(), document(study, session.setting))
    if unwritten is not None:
        print(f"steprule: error: cannot write to {out}: {unwritten.strerror or unwritten}.", file=sys.stderr)
        return 1
    if out is not None:
        click.echo(f"Written: {out / 'report.html'}, and beside it results.json, runs.csv and curves.csv", err=as_json)
    if study.interrupted:
        return INTERRUPTED
    return 0 if any(run.status != "failed" for run in study.runs) else 1


def _unprinted(error: OSError | None) -> int:
    """Answer output that cannot be written; that nobody reads it any more is no error."""
    if error is not None:
        print(f"steprule: error: cannot write the output: {error.strerror}.", file=sys.stderr)
    with suppress(OSError, ValueError):  # Python would complain once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0 if error is None else 1


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    """Say a warning in one line; where in the code it arose is nothing to whoever typed a command."""
    print("steprule: warning:", " ".join(str(message).split()), file=sys.stderr)


def run(line: Sequence[str]) -> int:
    """Run one command line and return its exit code; an error is one line."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    shown, warnings.showwarning = warnings.showwarning, _warn
    try:
        code = cli.main(list(line), prog_name="steprule", standalone_mode=False, obj=list(line))
    except click.exceptions.Abort:
        return INTERRUPTED
    except SystemExit:  # so end click and rich when the reader of our output has gone, as `| head` does
        return _unprinted(None)
    except OSError as error:
        if error.filename is not None or error.errno not in FULL:
            raise
        return _unprinted(error)
    except click.ClickException as error:
        print("steprule: error:", " ".join(error.format_message().split()), file=sys.stderr)
        return 2
    except sr.errors.StepruleError as error:
        print(f"steprule: error: {error}", file=sys.stderr)
        return 2
    finally:
        warnings.showwarning = shown
        torch.set_num_threads(threads)
    return code if isinstance(code, int) else 0
