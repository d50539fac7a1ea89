"""The commands compare, train and explain; the others have files of their own."""

from __future__ import annotations

import errno
import json
import os
import sys
import warnings
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any

import click
import torch
from rich.console import Console

import steprule as sr
from steprule.lab import options
from steprule.lab.cli_bench import bench
from steprule.lab.cli_compare import compare
from steprule.lab.cli_finish import INTERRUPTED, check, command, finish
from steprule.lab.cli_lists import completion, optimizers, tasks
from steprule.lab.cli_report import report
from steprule.lab.cli_tune import tune
from steprule.lab.config import Configured
from steprule.lab.ledger import Unrecorded
from steprule.lab.lock import locked
from steprule.lab.optimizers import NAMES
from steprule.lab.options import CLIPPING, FOLDER, HYPER, OUTPUT, SCHEDULE, TENSORBOARD, TRAINING, Name, Number
from steprule.lab.progress import meter
from steprule.lab.protocol import Comparison, Plan, Study
from steprule.lab.results import Setting
from steprule.lab.session import Session, now

if TYPE_CHECKING:
    from collections.abc import Sequence


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
@click.option("--optimizer", type=Name(), required=True, help="By name, or module:Class or file.py:Class.")
@click.option("--lr", type=Number(), required=True, help="The learning rate η.")
@TRAINING
@SCHEDULE
@HYPER
@CLIPPING
@click.option("--out", type=FOLDER, help="Folder of results.json, report.html and checkpoints; none without it.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint in --out, if there is one.")
@TENSORBOARD
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
    check(plan, values["out"], values["tensorboard"])
    comparison = Comparison((Study(plan, (), fixed_lr=values["lr"]),))
    gauge = meter(Console(stderr=True), "evaluations", wanted=not values["no_progress"])
    session = Session(comparison, Setting(command(ctx), 1, now()), values["out"], gauge, values["tensorboard"])
    with locked(values["out"]) if values["out"] else nullcontext():
        session.train(resume=values["resume"])
        return finish(session, as_json=values["as_json"])


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
@click.option("--json", "form", flag_value="json", help="The same as --format json.")
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


cli.add_command(compare)
cli.add_command(tune)
cli.add_command(bench)
cli.add_command(optimizers)
cli.add_command(tasks)
cli.add_command(completion)
cli.add_command(report)


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
        return 1 if isinstance(error, Unrecorded) else 2
    finally:
        warnings.showwarning = shown
        torch.set_num_threads(threads)
    return code if isinstance(code, int) else 0
