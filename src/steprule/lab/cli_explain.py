"""The command explain."""

from __future__ import annotations

import json
from typing import Any

import click

from steprule.console.screen import say
from steprule.lab import options
from steprule.lab.optimizers import NAMES
from steprule.lab.options import CLIPPING, HYPER, OptimizerName


@click.command()
@click.argument("name", type=OptimizerName())
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
    say(told[form]())
