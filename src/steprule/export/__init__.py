"""A rule as one file that needs no steprule: torch, Triton or JavaScript.

Takes: a rule, a class or an optimiser, with its numbers and options.
Gives: the text of a file, which says what it computes and where that comes from.
Next door: `optim` (what runs here), `lab` (the command).
"""

from __future__ import annotations

from importlib import import_module, util
from typing import Any, Literal

from ..errors import BackendError
from .subject import Exported, subject_of

Target = Literal["torch", "triton", "javascript"]
TARGETS: dict[str, str] = {"torch": "torch_file", "triton": "triton_file", "javascript": "javascript_file"}
"""Every target, and the module whose function of the same name writes it: it takes a `Subject` and returns text."""


def export(rule: Exported, to: Target = "torch", *, command: str = "", **options: Any) -> str:
    """Write a rule down as one file that needs no steprule, and return its text.

    >>> import steprule as sr
    >>> text = sr.export(sr.optim.AdamW, lr=3e-4, clip=1.0)
    >>> [line for line in text.splitlines() if line.startswith(("import", "class"))]
    ['import math', 'import torch', 'class AdamW(torch.optim.Optimizer):']

    `rule` is a rule or a chain, a class of `steprule.optim`, or an optimiser: then the rules and numbers of its groups
    are written, in one class. `to` is "torch", "triton" or "javascript". The header quotes the `command`, by default
    this call. `options` are hyperparameters, which become the defaults of the file, and those of `steprule.Optimizer`:
    `clip`, `state`, `rounding`, `seed`.

    Raises `BackendError` for a target that there is not, or that cannot hold the formula or an option, `RuleError` for
    what is no rule, and `HyperparameterError` for a number out of its range.
    """
    if to not in TARGETS:
        raise BackendError(f"there is no target {to!r}", where="  export", fix=f"use one of {', '.join(TARGETS)}")
    name = f"{__name__}.{TARGETS[to]}"
    if util.find_spec(name) is None:
        known = [target for target, own in TARGETS.items() if util.find_spec(f"{__name__}.{own}")]
        raise BackendError(f"nothing writes {to} yet", where="  export", fix=f"use {', '.join(known)}")
    return getattr(import_module(name), TARGETS[to])(subject_of(rule, to, command, options))


__all__ = ["TARGETS", "export"]
