"""The command train."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import click

from steprule.console.ending import INTERRUPTED
from steprule.console.options import FOLDER, OUTPUT, Number
from steprule.console.progress import meter
from steprule.console.screen import say
from steprule.lab import options
from steprule.lab.cli_finish import check, command, finish
from steprule.lab.config import Configured
from steprule.lab.options import CLIPPING, HYPER, SCHEDULE, TENSORBOARD, TRAINING, OptimizerName
from steprule.lab.protocol import Comparison, Study, StudyPlan
from steprule.lab.results import Provenance
from steprule.lab.session import Session, now
from steprule.lab.store.folder_lock import locked


@click.command(cls=Configured)
@click.option("--optimizer", type=OptimizerName(), required=True, help="By name, or module:Class or file.py:Class.")
@click.option("--lr", type=Number(), required=True, help="The learning rate η.")
@TRAINING
@SCHEDULE
@HYPER
@CLIPPING
@click.option("--out", type=FOLDER, help="Folder for results.json, report.html and checkpoints.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint in --out, if there is one.")
@TENSORBOARD
@OUTPUT
@click.pass_context
def train(ctx: click.Context, **values: Any) -> int:
    """Do one run, and print the same facts as compare.

    With --out a run may be stopped or killed at any moment; --resume continues it.
    """
    if values["resume"] and values["out"] is None:
        raise click.UsageError("--resume goes on from the checkpoint in --out: give that folder.")
    task = options.task(values)
    plan = StudyPlan(
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
    gauge = meter("evaluations", wanted=not values["no_progress"])
    session = Session(comparison, Provenance(command(ctx), 1, now()), values["out"], gauge, values["tensorboard"])
    with locked(values["out"]) if values["out"] else nullcontext():
        try:
            session.train(resume=values["resume"])
            code = finish(session, as_json=values["as_json"])
        except KeyboardInterrupt:  # while the report was made
            code = INTERRUPTED
    if code == INTERRUPTED and session.gone_on_with:
        say(f"To go on from there: {command(ctx, '--resume')}", err=True)
    return code
