"""The commands that list what there is to choose from."""

from __future__ import annotations

import json
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from steprule.lab.methods import HYPERPARAMETERS, TITLES, Method


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def optimizers(*, as_json: bool) -> None:
    """List the methods that can be compared, with their formulas and what a step costs."""
    listed = [_account(name) for name in TITLES]
    if as_json:
        click.echo(json.dumps(listed, indent=2, ensure_ascii=False))
        return
    table = Table("name", "method and formula", "takes", "bytes", "state", show_lines=True)
    table.columns[1].overflow = "fold"
    for row in listed:
        cost = (f"{row['bytes_per_parameter']:g}", f"{row['state_bytes_per_parameter']:g}")
        known = ", ".join(("lr", *row["hyperparameters"]))
        table.add_row(row["name"], f"{row['title']}\n{row['formula']}", known, *cost)
    table.caption = "bytes: read and written by a step, a parameter; state: kept between steps, a parameter"
    Console().print(table, highlight=False)


def _account(name: str) -> dict[str, Any]:
    account = Method(name).explain()
    return {
        "name": name,
        "title": TITLES[name],
        "formula": account.formula,
        "hyperparameters": list(HYPERPARAMETERS[name]),
        "bytes_per_parameter": account.bytes_per_parameter,
        "state_bytes_per_parameter": account.state_bytes_per_parameter,
    }
