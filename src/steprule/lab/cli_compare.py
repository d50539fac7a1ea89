"""The command compare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

import steprule as sr
from steprule.console.options import FOLDER, OUTPUT, Number
from steprule.console.progress import about, meter
from steprule.console.screen import Screen
from steprule.console.text import one_line
from steprule.lab import options
from steprule.lab.cli_finish import check, command, finish, sharing
from steprule.lab.config import Configured
from steprule.lab.dispatch import asked
from steprule.lab.earlier import REPORT
from steprule.lab.home import at_home
from steprule.lab.methods import crossed, varied
from steprule.lab.optimizers import TITLES
from steprule.lab.options import CLIPPING, HYPER, TENSORBOARD, TRAINING, OptimizerNames
from steprule.lab.protocol import REPORT_OFFSET, Comparison, Study, StudyPlan, geometric
from steprule.lab.results import Provenance
from steprule.lab.session import Session, now
from steprule.lab.store.trials import PLAN, TrialStore
from steprule.lab.time_budget import estimate, fit_as_record, fit_from_record, fitted, measured, seconds_of, sentence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from steprule.lab.methods import Method
    from steprule.lab.tasks import TaskSpec
    from steprule.lab.time_budget import Pace


@click.command(cls=Configured)
@click.option(
    "--quick",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=options.set_quick,
    help="A first look: fewer learning rates, seeds and epochs; of 3 fresh seeds no winner is named.",
)
@click.option("--tasks", type=options.TaskNames(), help="Several tasks, commas between them, or all.")
@click.option("--optimizers", type=OptimizerNames(), default=",".join(TITLES), show_default=True, help=options.NAMED)
@click.option("--schedules", type=options.Schedules(), default="constant", show_default=True, help="Each is an arm.")
@click.option("--clip", type=options.Bounds(), default="none", show_default=True, help="none,1: each is an arm.")
@click.option(
    "--variant",
    "variants",
    type=options.Variant(),
    multiple=True,
    metavar="NAME=VALUE,...",
    help="Options with which every optimiser is an arm once more, such as state=8bit, or "
    "parameters=bfloat16,rounding=stochastic; may be given again. It learns with the rate found without them.",
)
@click.option(
    "--trials", "--lrs", "lrs", type=click.IntRange(1, 200), default=9, show_default=True, help="Learning rates an arm."
)
@click.option(
    "--lr-range", type=Number(), nargs=2, show_default="where the rule says, else the task's", metavar="LOW HIGH"
)
@click.option(
    "--extend/--no-extend",
    default=True,
    show_default=True,
    help="Widen the grid, for every method alike, while some method's best lies at its end.",
)
@click.option("--defaults/--no-defaults", default=True, show_default=True, help="Run default learning rates as well.")
@click.option("--tuning-seeds", type=click.IntRange(1, REPORT_OFFSET), default=2, show_default=True)
@click.option(
    "--seeds",
    type=click.IntRange(1, 1000),
    default=5,
    show_default=True,
    help="Fresh seeds a method; a winner takes 5, and so does a variant that shall be compared.",
)
@TRAINING
@HYPER
@CLIPPING
@sharing(
    "study.journal",
    "Fit the plan to the time. It gives up tuning seeds first, then learning rates down to 7, length down to half, "
    "rates to 5, length to a twentieth.",
)
@click.option("--out", type=FOLDER, default="results", show_default=True, help="Folder of the report and its data.")
@TENSORBOARD
@OUTPUT
@click.pass_context
def compare(ctx: click.Context, **values: Any) -> int:
    """Compare optimisers fairly: tuned on validation data, scored once on test data.

    Writes report.html, results.json, runs.csv and curves.csv to the folder --out. Stop it at any moment;
    --resume continues it.
    """
    plans = _plans(ctx, values)
    for plan in plans:
        check(plan, values["out"], values["tensorboard"])
    talk = Screen(stderr=True, quiet=values["no_progress"])
    with (
        at_home(values, "study.journal", REPORT) as home,
        TrialStore.at(home.place, "steprule compare", home.settle) as store,
    ):
        workers = min(values["workers"], sum(plan.runs for plan in plans))
        budget = values["budget"]
        plans, words = _agreed(store, plans, workers, budget, talk)
        comparison = Comparison(tuple(Study(plan, plan.grid) for plan in plans), budget, words=words)
        gauge = meter("runs", wanted=not values["no_progress"])
        provenance = Provenance(command(ctx), workers, now(), study=store.name)
        session = Session(comparison, provenance, values["out"], gauge, values["tensorboard"])
        session.compare(store, None if budget is None else seconds_of(budget))
        return finish(session, as_json=values["as_json"])


def _plans(ctx: click.Context, values: dict[str, Any]) -> tuple[StudyPlan, ...]:
    """Return a plan a task. Plans differ only in their tasks' own settings."""
    names = values["tasks"] or (values["task"],)
    if len(names) > 1 and values["target"] is not None:
        raise click.UsageError("--target is of one task: leave it out, or give --task.")
    arms = crossed(options.methods(ctx, values["optimizers"], values), values["schedules"], values["clip"])
    try:
        methods = varied(arms, values["variants"])
    except sr.errors.HyperparameterError as error:
        raise click.UsageError(f"--variant: {error.what}; {error.fix}.") from error
    tasks = [options.task({**values, "task": name}) for name in names]
    _told_apart(tasks)
    return tuple(_plan(ctx, values, task, methods) for task in tasks)


def _told_apart(tasks: Sequence[TaskSpec]) -> None:
    """Refuse two tasks of one name: their numbers could not be told apart."""
    named: dict[str, str] = {}
    for task in tasks:
        name = task.build().name
        if name in named:
            raise click.UsageError(
                f"--tasks: {named[name]} and {task.name} are both named {name!r}; name one otherwise."
            )
        named[name] = task.name


def _plan(ctx: click.Context, values: dict[str, Any], task: TaskSpec, methods: tuple[Method, ...]) -> StudyPlan:
    low, high = values["lr_range"] or task.build().lr_range
    if values["lrs"] > 1 and low >= high:
        raise click.UsageError(f"--lr-range takes LOW below HIGH, got {low:g} and {high:g}.")
    first = values["seed"]
    return StudyPlan(
        task=task,
        methods=methods,
        budget=options.budget(ctx, values, task),
        grid=geometric(low, high, values["lrs"]),
        tuning_seeds=tuple(range(first, first + values["tuning_seeds"])),
        report_seeds=tuple(range(first + REPORT_OFFSET, first + REPORT_OFFSET + values["seeds"])),
        target=options.target(values, task),
        extend=values["extend"],
        defaults=values["defaults"],
        own_ranges=values["lr_range"] is None,
    )


def _agreed(
    store: TrialStore, plans: tuple[StudyPlan, ...], workers: int, budget: str | None, talk: Screen
) -> tuple[tuple[StudyPlan, ...], tuple[str, ...]]:
    """Return the plans as the first process has fitted them to the time, and announce them."""
    store.refresh()
    known = store.agreed(PLAN) is not None
    paces: list[Pace] = [] if known else [measured(plan) for plan in plans]
    fit, words = plans, list[str]()
    if budget is not None and not known:
        seconds = seconds_of(budget) or 0.0
        fit, given_up = fitted(plans, paces, workers, seconds)
        words = [sentence(budget, given_up, late=estimate(fit, paces, workers) > seconds)]
    with store.reading(PLAN):
        fit, found = fit_from_record(plans, store.join(asked(plans, budget), fit_as_record(fit, words)))
    _announce(talk, fit, workers, [] if known else [about(estimate(fit, paces, workers))])
    for line in found:
        talk.print(one_line(line), soft_wrap=True)
    return fit, found


def _announce(talk: Screen, plans: tuple[StudyPlan, ...], workers: int, guess: list[str]) -> None:
    """Announce the runs and an estimate of their time."""
    plan, runs = plans[0], sum(plan.runs for plan in plans)
    tuning = f"{len(plan.tuned)} methods × {len(plan.grid)} learning rates"
    if len(plan.tuning_seeds) > 1:
        tuning += f" × {len(plan.tuning_seeds)} seeds"
    if len(plans) > 1:
        tuning = f"{len(plans)} tasks × {tuning}"
    told = f"{runs} runs on {workers} workers: {tuning}, then {len(plan.report_seeds)} fresh seeds each"
    talk.print("; ".join([told, *guess]), soft_wrap=True)
