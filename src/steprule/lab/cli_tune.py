"""The command tune."""

from __future__ import annotations

import json
import math
import shlex
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from rich.table import Table

import steprule as sr
from steprule.console.ending import INTERRUPTED
from steprule.console.files import write_atomically
from steprule.console.options import FOLDER, OUTPUT, Number
from steprule.console.progress import about, meter
from steprule.console.screen import Screen, complain, say
from steprule.console.text import near, one_line
from steprule.lab import options, tensorboard
from steprule.lab.cli_finish import check, command, sharing
from steprule.lab.config import Configured
from steprule.lab.earlier import make_room
from steprule.lab.home import at_home
from steprule.lab.optimizers import find, worded
from steprule.lab.options import CLIPPING, HYPER, SCHEDULE, TENSORBOARD, TRAINING, OptimizerName
from steprule.lab.protocol import REPORT_OFFSET, StudyPlan, geometric
from steprule.lab.session import now
from steprule.lab.time_budget import estimate, measured, seconds_of
from steprule.lab.tuning import STUDY, Range, Search, Trials, Wish, best_after, importance, told
from steprule.lab.workers import WorkerPool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from steprule.lab.methods import Method

SHOWN = 10
"""The trials that are printed, the best first."""

FILES = ("tuning.json",)
"""The files of a search."""

CARRIED = (
    *("task", "epochs", "iterations", "batch_size", "accumulate", "precision", "timeout", "final_full_batch"),
    *("hidden", "condition", "data_dir", "target"),
)
"""The options that also hold for a run with the best values."""


class _Ranges(click.ParamType):
    """A hyperparameter and where it is searched."""

    name = "range"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Range:
        """Return the range, or say what is allowed."""
        if isinstance(value, Range):
            return value
        key, sign, rest = str(value).partition("=")
        ends, log = rest.split(":"), rest.endswith(":log")
        try:
            low, high = map(float, ends[:-1] if log else ends)
        except ValueError:
            sign, low, high = "", 0.0, 0.0
        if not sign or not (math.isfinite(low) and math.isfinite(high)):
            self.fail(f"{value!r} is not NAME=LOW:HIGH or NAME=LOW:HIGH:log, such as eps=1e-10:1e-4:log.", param, ctx)
        if low >= high or (log and low <= 0):
            least = ", with LOW above 0 where it is searched by its logarithm" if log else ""
            self.fail(f"{value!r} takes LOW below HIGH{least}.", param, ctx)
        return Range(key.strip(), low, high, log)


@click.command(cls=Configured)
@click.option("--optimizer", type=OptimizerName(), required=True, help="By name, or module:Class or file.py:Class.")
@click.option(
    "--lr-range", type=Number(), nargs=2, show_default="where the rule says, else the task's", metavar="LOW HIGH"
)
@click.option(
    "--search",
    type=_Ranges(),
    multiple=True,
    metavar="NAME=LOW:HIGH[:log]",
    help="A hyperparameter to search beside the learning rate and those for which the rule says where, such as "
    "beta1=0.8:0.999; may be given again.",
)
@click.option(
    "--trials",
    type=click.IntRange(1, 100_000),
    default=30,
    show_default=True,
    help="How many the study has in the end; with --resume a greater number goes on.",
)
@click.option("--tuning-seeds", type=click.IntRange(1, REPORT_OFFSET), default=2, show_default=True)
@TRAINING
@SCHEDULE
@HYPER
@CLIPPING
@sharing("tuning.journal", "Begin no trial that would not end by then.")
@click.option("--out", type=FOLDER, default="results", show_default=True, help="Folder of tuning.json.")
@TENSORBOARD
@OUTPUT
@click.pass_context
def tune(ctx: click.Context, **values: Any) -> int:
    """Search good hyperparameters of one optimiser, on validation data only, by Optuna's TPE sampler.

    The search always includes the learning rate, on a logarithmic scale. Stop it at any moment; --resume continues it.
    With one worker the same command gives the same trials.
    """
    wish = _wish(ctx, values)
    _check(wish, values)
    seconds = seconds_of(values["budget"] or "")
    workers = min(values["workers"], len(wish.plan.grid) * len(wish.plan.tuning_seeds))
    gauge = meter("trials", wanted=not values["no_progress"])
    started, clock, interrupted = now(), time.monotonic(), False
    with at_home(values, "tuning.journal", FILES) as home, Trials.at(home.place, STUDY, home.settle) as trials:
        trials.agree_on(wish)
        _announce(Screen(stderr=True, quiet=values["no_progress"]), wish, workers)
        deadline = None if seconds is None else clock + seconds
        search = Search(wish, values["trials"], trials, WorkerPool(workers), gauge, deadline)
        try:
            search.run()
        except KeyboardInterrupt:
            interrupted = True
        if values["tensorboard"] is not None:
            tensorboard.write(values["tensorboard"], search.runs)
        document = {
            "study": trials.name,
            "command": command(ctx),
            "started": started,
            "seconds": time.monotonic() - clock,
            "workers": workers,
            "trials_wanted": values["trials"],
            "interrupted": interrupted,
            **_results(ctx, wish, trials),
        }
        return _finish(document, values)


def _wish(ctx: click.Context, values: dict[str, Any]) -> Wish:
    """Return the search that the command line describes. Refuse hyperparameters that the optimiser lacks."""
    task = options.task(values)
    (method,) = options.methods(ctx, (values["optimizer"],), values)
    low, high = values["lr_range"] or method.lr_range or task.build().lr_range
    if low >= high:
        raise click.UsageError(f"--lr-range takes LOW below HIGH, got {low:g} and {high:g}.")
    _searchable(method, values["search"])
    first = values["seed"]
    plan = StudyPlan(
        task=task,
        methods=(method,),
        budget=options.budget(ctx, values, task),
        grid=geometric(low, high, values["trials"]),
        tuning_seeds=tuple(range(first, first + values["tuning_seeds"])),
        report_seeds=(),
        target=options.target(values, task),
    )
    asked = {"lr", *(one.name for one in values["search"]), *dict(method.hyper)}
    own = (Range(name, *ends, log=ends[0] > 0) for name, ends in method.ranges.items() if name not in asked)
    return Wish(plan, (Range("lr", low, high, log=True), *own, *values["search"]), first)


def _searchable(method: Method, ranges: Sequence[Range]) -> None:
    """Refuse a hyperparameter that the optimiser lacks, that is not a number, or that --set fixes."""
    kind, seen = find(method.name), set[str]()
    numbers = [key for key, value in kind.takes.items() if value is None or type(value) in (int, float)]
    allowed = f"allowed: {', '.join(numbers) or 'none'}; the learning rate is always searched, over --lr-range"
    for one in ranges:
        fault = ""
        if one.name in seen:
            fault = "it is given twice"
        elif one.name in dict(method.hyper):
            fault = f"it is fixed at {worded(dict(method.hyper)[one.name])}: leave one of the two out"
        elif one.name not in numbers and not (kind.open and one.name not in kind.takes and one.name != "lr"):
            fault = f"{method.name} has no such number to search; {near(one.name, numbers)} {allowed}"
        if fault:
            raise click.UsageError(f"--search {one}: {fault}.")
        seen.add(one.name)


def _check(wish: Wish, values: dict[str, Any]) -> None:
    """Build the optimiser with both ends of every range, so that a bad range fails now."""
    check(wish.plan, values["out"], values["tensorboard"])
    task = wish.plan.task.build()
    for end in ("low", "high"):
        for one in wish.space[1:]:
            try:
                find(wish.method.name).check_value(one.name, getattr(one, end))
                method = replace(wish.method, hyper=(*wish.method.hyper, (one.name, getattr(one, end))))
                method.check(task.model(0), wish.space[0].low)
            except sr.errors.StepruleError as error:
                raise click.UsageError(f"--search {one}: {error.what}; {error.fix}.") from error


def _announce(talk: Screen, wish: Wish, workers: int) -> None:
    """Announce the trials and an estimate of their time."""
    seeds = len(wish.plan.tuning_seeds)
    trials = f"{len(wish.plan.grid)} trials" + (f" × {seeds} seeds" if seeds > 1 else "")
    names = ", ".join(one.name for one in wish.space)
    guess = about(estimate((wish.plan,), (measured(wish.plan),), workers))
    talk.print(f"{trials} on {workers} workers, over {names}; {guess}", soft_wrap=True)


def _results(ctx: click.Context, wish: Wish, trials: Trials) -> dict[str, Any]:
    """Return the study as it is now, as JSON."""
    found = told(trials.complete())
    best = min((one for one in found if one["loss"] is not None), key=lambda one: one["loss"], default=None)
    return {
        "optimizer": wish.method.key,
        "task": wish.plan.task.name,
        "plan": wish.asked(),
        "search": [{"name": one.name, "low": one.low, "high": one.high, "log": one.log} for one in wish.space],
        "tuning_seeds": list(wish.plan.tuning_seeds),
        "complete": len(found) >= len(wish.plan.grid),
        "best": None if best is None else {**best, **_commands(ctx, wish, best["params"])},
        "best_after": best_after(found),
        "importance": importance(trials.optuna),
        "trials": found,
    }


def _commands(ctx: click.Context, wish: Wish, params: dict[str, float]) -> dict[str, str]:
    """Return two commands with the best values: a run on a fresh seed, and a comparison."""
    name, hyper = wish.method.name, {**dict(wish.method.hyper), **params}
    sets = [f"--set={name}.{key}={_exact(value)}" for key, value in hyper.items() if key != "lr"]
    clips = [f"--{clip.name.replace('_', '-')}={_exact(clip.bound)}" for clip in wish.method.clips]
    same: list[str] = []
    for key in CARRIED:
        if ctx.get_parameter_source(key) is ParameterSource.COMMANDLINE:
            flag, value = f"--{key.replace('_', '-')}", ctx.params[key]
            same += [flag] if value is True else [f"{flag}={_exact(value)}"]
    schedule = wish.method.schedule
    own = [] if schedule == "constant" else [f"--schedule={schedule}"]
    arms = [] if schedule == "constant" else [f"--schedules={schedule}"]
    lr, seed = f"--lr={params['lr']!r}", f"--seed={wish.seed + REPORT_OFFSET}"
    return {
        "train": shlex.join(["steprule", "train", f"--optimizer={name}", lr, *sets, *clips, *own, *same, seed]),
        "compare": shlex.join(["steprule", "compare", f"--optimizers={name},sgd", *sets, *clips, *arms, *same]),
    }


def _exact(value: Any) -> str:
    """Return a value as it is typed, with every digit."""
    if isinstance(value, tuple):
        return ",".join(map(_exact, value))  # pyright: ignore[reportUnknownArgumentType]
    return repr(value) if isinstance(value, float) else worded(value)


def _finish(document: dict[str, Any], values: dict[str, Any]) -> int:
    """Write the document, print it, and return the exit code."""
    if not document["trials"]:
        say("Ended before the first trial was done: no file was written.", err=True)
        return INTERRUPTED
    text, path, unwritten = json.dumps(document, indent=1, allow_nan=False), values["out"] / FILES[0], None
    try:
        write_atomically(path, text, first=lambda: make_room(values["out"], FILES, document["study"]))
    except OSError as error:
        unwritten = error
    if values["as_json"]:
        say(text)
    else:
        _show(Screen(), document)
    if unwritten is not None:
        complain(f"cannot write {path}: {unwritten.strerror or unwritten}.")
        return 1
    say(f"Written: {path}", err=values["as_json"])
    if document["interrupted"]:
        return INTERRUPTED
    return 0 if document["best"] is not None else 1


def _show(console: Screen, document: dict[str, Any]) -> None:
    """Print the best trials, the course of the search, and the commands that use its result."""
    found, best = document["trials"], document["best"]
    console.print(_table(document))
    console.print()

    def say(line: str, style: str | None = None) -> None:
        console.print(one_line(line), style=style, soft_wrap=True)

    if not document["complete"]:
        say(f"{len(found)} of {document['trials_wanted']} trials are done; --resume goes on with them.")
    lost = [trial for trial in found if trial["loss"] is None]
    if lost:
        say(f"{len(lost)} of {len(found)} trials gave no loss; the first: {lost[0]['status']}, {lost[0]['reason']}.")
    if best is None:
        say("No trial has a loss: give a lower --lr-range.")
        return
    steps = [f"{step['trials']}: {_short(step['loss'])}" for step in document["best_after"]]
    say(f"Lowest loss after so many trials: {', '.join(steps)}.")
    if document["importance"]:
        shares = [f"{name} {100 * share:.0f} %" for name, share in document["importance"].items()]
        say(f"Share in how the loss varies (fANOVA): {', '.join(shares)}.")
    settings = ", ".join(f"{name} {value:.4g}" for name, value in best["params"].items())
    say(f"Best: {settings}, with a mean validation loss of {_short(best['loss'])}. To use it:", "bold")
    say(f"  {best['train']}")
    if len(best["params"]) > 1:
        say(f"  {best['compare']}")


def _table(document: dict[str, Any]) -> Table:
    """Return the best trials, the best first."""
    names, found = [one["name"] for one in document["search"]], document["trials"]
    title = f"{document['optimizer']} on {document['task']}: the best of {len(found)} trials"
    table = Table(title=one_line(title), box=None, pad_edge=False, header_style="bold", title_style="italic")
    for name in ("trial", *names, "valid. loss", "seconds"):
        table.add_column(one_line(name), justify="right", no_wrap=True)
    ranked = sorted(found, key=lambda one: math.inf if one["loss"] is None else one["loss"])
    for place, trial in enumerate(ranked[:SHOWN]):
        cells = [f"{trial['params'][name]:.4g}" for name in names]
        loss = trial["status"] if trial["loss"] is None else _short(trial["loss"])
        row = (str(trial["trial"]), *cells, loss, f"{trial['seconds']:.2f}")
        table.add_row(*row, style="bold" if place == 0 and trial["loss"] is not None else None)
    return table


def _short(loss: float | None) -> str:
    return "none" if loss is None else f"{loss:.4g}"
