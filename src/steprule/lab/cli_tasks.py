"""The command that lists the tasks."""

from __future__ import annotations

import json
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from steprule.lab.tasks import LAYERED, TASKS, TaskSpec


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def tasks(*, as_json: bool) -> None:
    """List the tasks that --task can name, with their data and networks."""
    listed = [_account(name) for name in TASKS]
    if as_json:
        click.echo(json.dumps(listed, indent=2, ensure_ascii=False))
        return
    table = Table("name", "data and network", "parameters", "examples", show_lines=True)
    for column in table.columns:
        column.overflow = "fold"
    for row in listed:
        sizes = "/".join(str(row[f"{part}_examples"]) for part in ("train", "validation", "test"))
        table.add_row(row["name"], f"{row['about']}\n{row['network']}", f"{row['parameters']:,}", sizes)
    table.caption = "examples: to train on, to validate, to test"
    Console().print(table, highlight=False)


def _account(name: str) -> dict[str, Any]:
    task = (TaskSpec(name) if name in LAYERED else TaskSpec(name, ())).build()
    return {
        "name": name,
        "about": task.about,
        "network": task.network,
        "parameters": task.parameter_count(),
        "hidden_layers_can_be_chosen": name in LAYERED,
        "train_examples": len(task.data.train),
        "validation_examples": len(task.data.validation),
        "test_examples": len(task.data.test),
    }
