"""The command export."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, get_args, get_type_hints

import click
import torch

import steprule as sr
from steprule.console.files import write_atomically
from steprule.console.options import Number
from steprule.console.screen import say
from steprule.lab import options
from steprule.lab.clips import Clip
from steprule.lab.methods import Method
from steprule.lab.optimizers import CHOICES, NAMES, OPTIONS
from steprule.lab.options import CLIPPING, HYPER, OptimizerName

TARGETS = get_args(get_type_hints(sr.export)["to"])


@click.command()
@click.argument("name", metavar="RULE", type=OptimizerName())
@click.option("--to", type=click.Choice(TARGETS), default="torch", show_default=True, help="The language of the file.")
@click.option("--out", type=click.Path(path_type=Path), help="A new file; without it, the text is printed.")
@click.option("--lr", type=Number(low_allowed=True), show_default="the rule's", help="The learning rate.")
@HYPER
@CLIPPING
@click.option("--clip", type=Number(), metavar="S_g", help="The same as --clip-global-norm.")
@click.option("--state", type=click.Choice([word for word in CHOICES["state"] if word]), help="How slots are kept.")
@click.option("--rounding", type=click.Choice(CHOICES["rounding"]), help="How 16 bits hold a result.")
@click.option("--draws", "seed", type=click.IntRange(0), help="The seed of what is drawn.")
@click.pass_context
def export(ctx: click.Context, name: str, to: Any, out: Path | None, clip: float | None, **values: Any) -> None:
    """Write an optimiser down as one file that needs no steprule.

    RULE is a name (`steprule optimizers` lists them), a rule with transforms (adam+cautious), or file.py:rule.
    """
    if out is not None and out.exists():
        raise click.UsageError(f"{out} is there already; give --out a new name, or remove it.")
    if clip is not None:
        ctx.meta.setdefault("clips", []).append(Clip("clip_global_norm", clip))
    own = [text if "." in text.partition("=")[0] else f"{name}.{text}" for text in values["settings"]]
    own += [f"{name}.{key}={values[key]}" for key in OPTIONS if values.get(key) is not None]
    (method,) = options.methods(ctx, (name,), {**values, "settings": own})
    text = sr.export(_built(method, values["lr"]), to, command=shlex.join(["steprule", *ctx.find_root().obj]))
    if out is None:
        say(text.rstrip("\n"))
    else:
        write_atomically(out, text)


def _built(method: Method, lr: float | None) -> Any:
    """Return the optimiser of a method: of a model with parameters of all roles, if it asks for those."""
    kind, model = method.kind, torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64))
    if not kind.is_ours:
        told = f"{method.name} is not steprule's, so its formula is unknown; allowed: {', '.join(NAMES)}."
        raise click.UsageError(told)
    rate = kind.default_lr if lr is None else lr
    if rate is None:
        raise click.UsageError(f"{method.name} declares no learning rate; give one with --lr.")
    return method.optimizer(model if "roles" in kind.takes else [next(model.parameters())], rate)
