"""The command line's vocabulary: its types of values, and the groups of options that its commands share."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

import steprule as sr
from steprule.console.options import Decorator, Number, together
from steprule.console.text import near
from steprule.lab.budget import Budget
from steprule.lab.clips import Clip
from steprule.lab.loading import digest
from steprule.lab.methods import Method, accepted, value_of
from steprule.lab.network import KEPT, PRECISIONS, WIDE
from steprule.lab.optimizers import NAMES, find
from steprule.lab.schedules import SCHEDULES
from steprule.lab.tasks import TASKS, TaskSpec, named, several, takes
from steprule.lab.time_budget import seconds_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

QUICK = {"lrs": 5, "tuning_seeds": 1, "seeds": 3}
"""The defaults under `--quick`. An explicit option still counts."""

QUICK_SHARE = 4
"""`--quick` divides a task's own budget by this."""


class Offered(click.ParamType):
    """A type with known names, which a shell can complete."""

    offers: Iterable[str] = ()

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Offer the names that may stand after the last comma."""
        del ctx, param
        done, comma, begun = incomplete.rpartition(",")
        return [CompletionItem(f"{done}{comma}{name}") for name in self.offers if name.startswith(begun)]


class OptimizerName(Offered):
    """An optimiser by name, or by where it is found."""

    name = "name"
    offers = NAMES

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the name of an optimiser that there is, or say which there are."""
        try:
            return find(str(value).strip()).name
        except sr.errors.StepruleError as error:
            self.fail(f"{error.what}; {error.fix}.", param, ctx)


class OptimizerNames(OptimizerName):
    """Optimisers by name, separated by commas; all is every one that has a name."""

    name = "names"
    offers = ("all", *NAMES)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Return the names once each, or say which are allowed; all is every one."""
        if str(value).strip() == "all":
            return NAMES
        return tuple(
            dict.fromkeys(super(OptimizerNames, self).convert(part, param, ctx) for part in str(value).split(","))
        )


class TaskName(Offered):
    """A task by name."""

    name = "task"
    offers = TASKS
    read: Callable[[str], Any] = staticmethod(named)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the task's own name, or say which there are."""
        if isinstance(value, tuple):
            return value  # pyright: ignore[reportUnknownVariableType] - read already
        try:
            return self.read(str(value))
        except sr.errors.TaskError as error:
            self.fail(f"{error.what}; {error.fix}.", param, ctx)


class TaskNames(TaskName):
    """Tasks by name, separated by commas; all is every one that needs no option."""

    name = "tasks"
    offers = ("all", *TASKS)
    read = staticmethod(several)


class Schedules(Offered):
    """Schedules by name, separated by commas."""

    name = "schedules"
    offers = SCHEDULES

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Return the names once each, or say which are allowed."""
        if isinstance(value, tuple):
            return value
        names = tuple(dict.fromkeys(part.strip() for part in str(value).split(",")))
        for name in names:
            if name not in SCHEDULES:
                self.fail(f"{name!r} is none of {', '.join(SCHEDULES)}. {near(name, SCHEDULES)}", param, ctx)
        return names


class Bounds(click.ParamType):
    """Bounds of the gradient's length, separated by commas; the word none means no clipping."""

    name = "bounds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float | None, ...]:
        """Return each bound once, or describe the allowed ones."""
        if isinstance(value, tuple):
            return value
        parts = dict.fromkeys(part.strip() for part in str(value).split(","))
        return tuple(None if part == "none" else Number().convert(part, param, ctx) for part in parts)


class Duration(click.ParamType):
    """A time, such as 90s, 5m or 1h."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text if it is a time, or describe the allowed ones."""
        if seconds_of(str(value)) is None:
            self.fail(f"{value!r} is no time; allowed: a number with s, m or h, such as 90s, 5m or 1h.", param, ctx)
        return str(value).strip()


class Sizes(click.ParamType):
    """Layer sizes, separated by commas."""

    name = "sizes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Return the sizes, or describe the allowed ones."""
        parts = str(value).split(",")
        if not all(part.strip().isdecimal() and 1 <= int(part) <= 4096 for part in parts):
            self.fail(f"{value!r} is not a list of sizes from 1 to 4096, such as 64 or 64,32.", param, ctx)
        return tuple(map(int, parts))


def _collect_clip(ctx: click.Context, param: click.Parameter, value: float | None) -> None:
    """Keep the clippings in the order of the command line: they act in that order."""
    if value is not None:
        ctx.meta.setdefault("clips", []).append(Clip(param.name, value))


def _clip(name: str, bound: str, told: str) -> Decorator:
    return click.option(
        f"--{name.replace('_', '-')}",
        type=Number(),
        is_flag=False,
        flag_value="1",
        metavar=f"[{bound}]",
        expose_value=False,
        callback=_collect_clip,
        help=f"{told} Default {bound}: 1.",
    )


CLIPPING = together(
    _clip("clip_norm", "S_g", "Rescale the gradient to length S_g, always (the board's ①)."),
    _clip("clip_component", "L_g", "Bound each component from above by L_g (the board's ②)."),
    _clip("clip_global_norm", "S_g", "Shorten the gradient to length S_g where it is longer."),
    _clip("clip_value", "L_g", "Bound each component to [-L_g, L_g]."),
)

_UNIT = Number(0, 1, low_allowed=True)

HYPER = together(
    click.option("--beta", type=_UNIT, help="β of momentum and nesterov (0.9), of rmsprop (0.99)."),
    click.option("--beta1", type=_UNIT, help="β₁ of adam (0.9)."),
    click.option("--beta2", type=_UNIT, help="β₂ of adam (0.99)."),
    click.option("--eps", type=Number(low_allowed=True), help="ε of every optimiser that has one (1e-8 on the board)."),
    click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="NAME.HYPER=VALUE",
        help="A hyperparameter or option of one optimiser, such as adamw.weight_decay=0.1; may be given again.",
    ),
)

SCHEDULE = click.option(
    "--schedule",
    type=click.Choice(list(SCHEDULES)),
    default="constant",
    show_default=True,
    help="How the learning rate goes on over a run; a warm-up takes the first 5 %.",
)

TRAINING = together(
    click.option("--task", type=TaskName(), default="digits-mlp", show_default=True, help="The task to learn."),
    click.option("--epochs", type=click.IntRange(1, 100_000), show_default="the task's", help="Budget of a run."),
    click.option("--iterations", type=click.IntRange(1, 10_000_000), help="Budget of a run, instead of epochs."),
    click.option("--batch-size", type=click.IntRange(1), show_default="the task's"),
    click.option(
        "--accumulate",
        type=click.IntRange(1),
        metavar="PARTS",
        help="Compute each batch in this many micro-batches; its gradient stays the same.",
    ),
    click.option(
        "--precision",
        type=click.Choice(list(PRECISIONS)),
        help="The type in which the network computes; float16 scales its loss.",
    ),
    click.option(
        "--parameters",
        type=click.Choice(KEPT),
        default=WIDE,
        show_default=True,
        help="The type in which parameters are kept; gradients have it, too. In float64 the network computes as well.",
    ),
    click.option("--timeout", type=Number(), metavar="SECONDS", help="End a run as failed after this time."),
    click.option("--final-full-batch", is_flag=True, help="End with one iteration on the whole training set."),
    click.option("--hidden", type=Sizes(), show_default="the task's", help="Hidden layers, such as 64,32."),
    click.option("--condition", type=Number(1), show_default="the task's", help="Condition number of the quadratic."),
    click.option("--data-dir", metavar="FOLDER", help="Where the files of mnist and cifar10 lie."),
    click.option(
        "--target", type=Number(), show_default="the task's", help="Count the iterations to this validation score."
    ),
    click.option("--seed", type=click.IntRange(0, 2**31), default=0, show_default=True, help="First seed."),
)

TENSORBOARD = click.option(
    "--tensorboard",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder in which TensorBoard finds every run; needs the extra `tensorboard`.",
)

NAMED = (
    "By name (`steprule optimizers` lists them, all is every one), rules also with transforms (adam+cautious); or "
    "module:Class or file.py:Class; commas between them."
)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def methods(ctx: click.Context, names: tuple[str, ...], values: dict[str, Any]) -> tuple[Method, ...]:
    """Return the methods as the command line sets them. Refuse an option that no method takes."""
    shared = {key: values[key] for key in ("beta", "beta1", "beta2", "eps") if values.get(key) is not None}
    taken = {key for name in names for key in find(name).takes if key in ("beta", "beta1", "beta2", "eps")}
    for key in shared:
        if key not in taken:
            known = ", ".join(f"--{name}" for name in sorted(taken)) or "none besides the learning rate"
            raise click.UsageError(f"--{key} is no hyperparameter of {', '.join(names)}; allowed: {known}.")
    own = _settings(names, values.get("settings", ()))
    clips: tuple[Clip, ...] = tuple(ctx.meta.get("clips", ()))
    schedule, parameters = values.get("schedule", "constant"), values.get("parameters", WIDE)
    return tuple(
        Method(
            name, (*accepted(name, {**shared, **own[name]}), *_further(name, own[name])), clips, schedule, parameters
        )
        for name in names
    )


def _further(name: str, own: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return the settings that an optimiser's signature does not name."""
    return [item for item in own.items() if item[0] not in find(name).takes]


class Variant(click.ParamType):
    """Options of every optimiser, and the type of parameters: NAME=VALUE, separated by commas."""

    name = "variant"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        """Return the values by name, or describe the allowed ones."""
        if isinstance(value, dict):
            return value  # pyright: ignore[reportUnknownVariableType] - read already
        found: dict[str, Any] = {}
        for part in str(value).split(","):
            name, sign, text = part.partition("=")
            found[name.strip()] = value_of(text)
            if not sign or (name.strip() == "parameters" and found["parameters"] not in KEPT):
                self.fail(f"{part!r} is not NAME=VALUE, such as state=8bit or parameters=bfloat16.", param, ctx)
        return found


def _settings(names: tuple[str, ...], given: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the values of `--set` by optimiser, each checked against its signature."""
    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    for text in given:
        target, sign, value = text.partition("=")
        name, dot, key = target.strip().rpartition(".")
        if not (sign and dot):
            raise click.UsageError(f"--set takes NAME.HYPER=VALUE, such as {names[0]}.eps=1e-6, got {text!r}.")
        if name not in found:
            told = (
                f"--set {text}: {name!r} is not among the optimisers; allowed: {', '.join(names)}. {near(name, names)}"
            )
            raise click.UsageError(told)
        try:
            find(name).check_value(key, value_of(value))
        except sr.errors.HyperparameterError as error:
            raise click.UsageError(f"--set {text}: {error.what}; {error.fix}.") from error
        found[name][key] = value_of(value)
    return found


CHOICES = ("hidden", "condition", "data_dir")
"""The options that only some tasks take."""


def task(values: dict[str, Any]) -> TaskSpec:
    """Return the task as the command line sets it; an option that it does not take is an error."""
    name = values["task"]
    given = {key: values[key] for key in CHOICES if values[key] is not None}
    for key in given:
        if key not in takes(name):
            takers = ", ".join(other for other in TASKS if key in takes(other))
            raise click.UsageError(f"--{key.replace('_', '-')} does not apply to {name}; allowed with: {takers}.")
    for key, needed in takes(name).items():
        if needed and key not in given:
            raise click.UsageError(f"--task {name} needs --{key.replace('_', '-')}, the folder of its published files.")
    return TaskSpec(name, **given, source=None if name in TASKS else digest(name))


def target(values: dict[str, Any], spec: TaskSpec) -> float | None:
    """Return the target score: the given one, or the task's own."""
    found, metric = values["target"], spec.build().metric
    if found is not None and metric.percent and found > 1:
        raise click.UsageError(f"--target is an {metric.name} here: a number greater than 0 and at most 1.")
    return spec.build().target if found is None else found


def budget(ctx: click.Context, values: dict[str, Any], spec: TaskSpec) -> Budget:
    """Return the task's own budget with the given options in place. Epochs and iterations exclude each other."""
    own, epochs, iterations = spec.build().budget, values["epochs"], values["iterations"]
    if iterations is not None and epochs is not None:
        raise click.UsageError("--epochs and --iterations exclude each other: either one is the budget.")
    if iterations is None and epochs is None:
        share = QUICK_SHARE if ctx.meta.get("quick") else 1
        epochs, iterations = (None if count is None else -(-count // share) for count in (own.epochs, own.iterations))
    given = {
        key: values[key] for key in ("batch_size", "accumulate", "precision", "timeout") if values[key] is not None
    }
    full = values["final_full_batch"] or own.final_full_batch
    found = replace(own, epochs=epochs, iterations=iterations, final_full_batch=full, **given)
    if found.accumulate > found.batch_size:
        raise click.UsageError(f"--accumulate is at most {found.batch_size}, the examples of a batch.")
    return found


def set_quick(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    """Put the quick defaults in place of the usual ones."""
    if value:
        ctx.default_map, ctx.meta["quick"] = QUICK, True
