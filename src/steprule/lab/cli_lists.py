"""The commands that list optimisers and tasks, and complete words in a shell."""

from __future__ import annotations

import json
import os
from pathlib import PurePath
from typing import Any

import click
from click.shell_completion import get_completion_class
from rich.table import Column, Table

from steprule.console.screen import Screen, say
from steprule.lab.methods import Method
from steprule.lab.optimizers import CHOICES, NAMES, OPTIONS, class_of, worded
from steprule.lab.results import task_facts
from steprule.lab.tasks import TASKS, Metric, TaskSpec, takes

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def optimizers(*, as_json: bool) -> None:
    """List the optimisers that have a name, with their formulas and the cost of a step.

    A name that the board and torch share means the board's; the list names torch's beside it.

    Any other one takes part as module:Class or file.py:Class, such as torch.optim:AdamW.
    """
    listed = [_method(name) for name in NAMES]
    table = Table(Column("name", no_wrap=True), "optimiser and formula", "takes", "bytes", "state", show_lines=True)
    for row in listed:
        cost = (f"{row['bytes_per_parameter']:g}", f"{row['state_bytes_per_parameter']:g}")
        lr = "lr" if row["default_lr"] is None else f"lr={worded(row['default_lr'])}"
        lr += " (tried from {:g} to {:g})".format(*row["ranges"]["lr"]) if "lr" in row["ranges"] else ""
        known = ", ".join((lr, *(f"{key}={worded(value)}" for key, value in row["defaults"].items())))
        other = f"\nthe board's own; torch's is {row['torch']}" if row["torch"] else ""
        table.add_row(row["name"], f"{row['title']}\n{row['formula']}{other}", known, *cost)
    options = ", ".join(map(_offer, OPTIONS))
    table.caption = (
        "bytes: read and written by a step, a parameter; state: kept between steps, a parameter. "
        f"--set gives each of them options too: {options}"
    )
    _print(listed, table, as_json=as_json)


def _offer(option: str) -> str:
    """Word an option with its values, or with its default."""
    words = [worded(value) for value in CHOICES.get(option, ()) if value is not None]
    default = OPTIONS[option]
    return f"{option}={'|'.join(words) or worded(default)}" if words or default is not None else option


def _method(name: str) -> dict[str, Any]:
    method = Method(name)
    account, takes = method.explain(), method.kind.takes
    shown = {key: value for key, value in takes.items() if value is not None}
    return {
        "name": name,
        "title": method.title,
        "torch": class_of(name) or None,
        "formula": account.formula,
        "default_lr": method.default_lr,
        "hyperparameters": list(shown),
        "defaults": shown,
        "ranges": dict(method.ranges),
        "options": dict(method.kind.options),
        "bytes_per_parameter": account.bytes_per_parameter,
        "state_bytes_per_parameter": account.state_bytes_per_parameter,
    }


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
@click.option("--data-dir", metavar="FOLDER", help="Where the files of mnist and cifar10 lie; read only when given.")
def tasks(*, as_json: bool, data_dir: str | None) -> None:
    """List the tasks that --task can name, with their data and networks."""
    listed = [_task(name, data_dir) for name in TASKS]
    table = Table("name", "data, network and score", show_lines=True)
    for row in listed:
        table.add_row(row["name"], "\n".join((row["about"], *_details(row))))
    table.caption = "examples: to train on, to validate, to test"
    _print(listed, table, as_json=as_json)


def _details(row: dict[str, Any]) -> tuple[str, ...]:
    """Describe a task, as far as possible without its files."""
    if "network" not in row:
        return (f"needs {', '.join('--' + name.replace('_', '-') for name in row['needs'])}",)
    return row["network"], _scored(row)


def _scored(row: dict[str, Any]) -> str:
    """Word how a task is scored, and its sizes."""
    sizes = "/".join(f"{row['examples'][part]:,}" for part in ("train", "validation", "test"))
    metric = Metric(**row["metric"])
    told = f"{metric.name}, target {metric.word(row['target'])}"
    if row["optimum"] is not None:
        told += f", least training loss {row['optimum']:.6g}"
    return f"{told}; {row['parameters']:,} parameters; {sizes} examples"


def _task(name: str, data_dir: str | None) -> dict[str, Any]:
    """Return the facts of a task. Without its files these are its documentation."""
    options = takes(name)
    needs = [option for option, needed in options.items() if needed]
    known: dict[str, Any] = {"takes": list(options), "needs": needs}
    if needs and data_dir is None:
        about = (TASKS[name].__doc__ or "").splitlines()[0].removeprefix("Return ")
        return {"name": name, "about": about, **known}
    return task_facts(TaskSpec(name, data_dir=data_dir if needs else None).build()) | known


def _print(listed: list[dict[str, Any]], table: Table, *, as_json: bool) -> None:
    """Print a list for programs or for people. A narrow terminal folds the table and cuts nothing off."""
    if as_json:
        say(json.dumps(listed, indent=2, ensure_ascii=False))
        return
    for column in table.columns:
        column.overflow = "fold"
    Screen().print(table)


def _shell() -> str:
    """Return the shell in use, as far as it is known."""
    name = PurePath(os.environ.get("SHELL", "")).name
    return name if name in SHELLS else SHELLS[0]


@click.command()
@click.argument("shell", type=click.Choice(SHELLS), default=_shell)
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script by which a shell completes commands and options; without a name, for the shell in use.

    To install it: steprule completion bash >> ~/.bashrc (zsh: ~/.zshrc; fish: ~/.config/fish/config.fish).
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"click completes nothing in {shell}.")
    say(kind(ctx.find_root().command, {}, "steprule", "_STEPRULE_COMPLETE").source())
