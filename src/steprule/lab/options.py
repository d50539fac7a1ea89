"""The command line's vocabulary: what each option accepts, and the groups that commands share."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from steprule.lab.methods import HYPERPARAMETERS, TITLES, Clip, Method, accepted
from steprule.lab.tasks import LAYERED, TASKS, TaskSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    Decorator = Callable[[Any], Any]

QUICK = {"lrs": 5, "tuning_seeds": 1, "seeds": 3, "epochs": 8}
"""What `--quick` puts in place of the defaults; whatever is given explicitly stands."""


class Number(click.ParamType):
    """A finite number in a range."""

    name = "number"

    def __init__(self, low: float = 0.0, high: float = math.inf, *, low_allowed: bool = False) -> None:
        self._low, self._high, self._low_allowed = low, high, low_allowed

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number, or say what is allowed."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        above = number >= self._low if self._low_allowed else number > self._low
        if not (above and number <= self._high and math.isfinite(number)):
            self.fail(f"{value!r} is not {self._allowed()}.", param, ctx)
        return number

    def _allowed(self) -> str:
        least = f"{'at least' if self._low_allowed else 'greater than'} {self._low:g}"
        return f"a number {least}" + (f" and at most {self._high:g}" if math.isfinite(self._high) else "")


class Names(click.ParamType):
    """Methods by name, separated by commas."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Return the names once each, or say which are allowed."""
        names = tuple(dict.fromkeys(part.strip() for part in str(value).split(",")))
        for name in names:
            if name not in TITLES:
                self.fail(f"{name!r} is none of {', '.join(TITLES)}.", param, ctx)
        return names


class Sizes(click.ParamType):
    """Layer sizes, separated by commas."""

    name = "sizes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Return the sizes, or say what is allowed."""
        parts = str(value).split(",")
        if not all(part.strip().isdecimal() and 1 <= int(part) <= 4096 for part in parts):
            self.fail(f"{value!r} is not a list of sizes from 1 to 4096, such as 64 or 64,32.", param, ctx)
        return tuple(map(int, parts))


def together(*decorators: Decorator) -> Decorator:
    """Return one decorator that applies all of them, the first uppermost in the help."""

    def decorate(function: Any) -> Any:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def _collect_clip(ctx: click.Context, param: click.Parameter, value: float | None) -> None:
    """Keep the clippings in the order in which they were written: that is the order in which they act."""
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
    click.option("--eps", type=Number(low_allowed=True), help="ε of adagrad, rmsprop and adam (1e-8)."),
)

TRAINING = together(
    click.option("--task", type=click.Choice(list(TASKS)), default="digits", show_default=True, help="What is learnt."),
    click.option("--epochs", type=click.IntRange(1, 100_000), default=30, show_default=True, help="Budget of a run."),
    click.option("--iterations", type=click.IntRange(1, 10_000_000), help="Budget of a run, instead of epochs."),
    click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True),
    click.option("--final-full-batch", is_flag=True, help="End with one iteration on the whole training set."),
    click.option("--hidden", type=Sizes(), default="64", show_default=True, help="Hidden layers, such as 64,32."),
    click.option(
        "--target-accuracy",
        type=Number(0, 1),
        default=0.9,
        show_default=True,
        help="Count the iterations to this validation accuracy.",
    ),
    click.option("--seed", type=click.IntRange(0, 2**31), default=0, show_default=True, help="First seed."),
)

OUTPUT = together(
    click.option("--json", "as_json", is_flag=True, help="Print results.json instead of the table."),
    click.option("--no-progress", is_flag=True, help="Show no progress."),
)

FOLDER = click.Path(file_okay=False, path_type=Path)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def methods(ctx: click.Context, names: tuple[str, ...], values: dict[str, Any]) -> tuple[Method, ...]:
    """Return the methods as the command line sets them; an option that none of them takes is an error."""
    hyper = {key: values[key] for key in ("beta", "beta1", "beta2", "eps") if values.get(key) is not None}
    taken = {key for name in names for key in HYPERPARAMETERS[name]}
    for key in hyper:
        if key not in taken:
            known = ", ".join(f"--{name}" for name in sorted(taken)) or "none besides the learning rate"
            raise click.UsageError(f"--{key} is no hyperparameter of {', '.join(names)}; allowed: {known}.")
    clips: tuple[Clip, ...] = tuple(ctx.meta.get("clips", ()))
    return tuple(Method(name, accepted(name, hyper), clips) for name in names)


def task(ctx: click.Context, values: dict[str, Any]) -> TaskSpec:
    """Return the task as the command line sets it; hidden layers for a fixed network are an error."""
    name = values["task"]
    if name in LAYERED:
        return TaskSpec(name, values["hidden"])
    if ctx.get_parameter_source("hidden") is not click.core.ParameterSource.DEFAULT:
        raise click.UsageError(
            f"--hidden does not apply to {name}, whose network is fixed; allowed with: {', '.join(LAYERED)}."
        )
    return TaskSpec(name, ())


def set_quick(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    """Put the quick defaults in place of the usual ones."""
    if value:
        ctx.default_map = QUICK
