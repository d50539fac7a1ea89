"""What is exported: an optimiser, from which the formulas, numbers and options of the file are read."""

from __future__ import annotations

import builtins
import re
from collections.abc import Mapping
from dataclasses import dataclass
from keyword import iskeyword
from typing import Any

import torch

from ..errors import RuleError
from ..optim import Optimizer
from ..optim.options import Options
from ..rule import Formula

Exported = Formula | type[Optimizer] | Optimizer
"""What a file can be made of."""


@dataclass(frozen=True)
class Subject:
    """One optimiser to write down, with the name of what the file defines and the command that asked for it."""

    name: str
    optimizer: Optimizer
    command: str

    @property
    def formulas(self) -> tuple[Formula, ...]:
        """The formulas that run, clipping included: one for each rule of its groups, in their order."""
        groups = self.optimizer.param_groups
        return tuple(dict.fromkeys(self.optimizer._choose(group).formula for group in groups))  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]

    @property
    def options(self) -> Options:
        """Its options."""
        return self.optimizer._options  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


def class_name(name: str) -> str:
    """Return the name of a class for a rule or a chain of rules, `clip_norm+adam` as `ClipNormAdam`."""
    own = "".join(word[:1].upper() + word[1:] for word in re.split(r"[^0-9A-Za-z]+", name))
    return own if own.isidentifier() and not iskeyword(own) and own not in dir(builtins) else f"Rule{own}"


def subject_of(rule: Exported, to: str, command: str, options: Mapping[str, Any]) -> Subject:
    """Return the subject of a rule, a class or an optimiser, which some call of `export` or a command asked for."""
    told = "".join(f", {name}={value!r}" for name, value in options.items())
    if isinstance(rule, Optimizer):
        if options:
            raise RuleError(
                f"an optimiser has its numbers and options, and {', '.join(options)} came besides",
                where=f"  export{told}",
                fix="make it with them, or export its rule",
            )
        own = class_name(type(rule).__name__ if type(rule) is not Optimizer else rule.program.name)
        return Subject(own, rule, command or f"sr.export({type(rule).__name__}(...), to={to!r})")
    if isinstance(rule, type) and issubclass(rule, Optimizer) and rule is not Optimizer:  # pyright: ignore[reportUnnecessaryIsInstance]
        made = rule(_parameters(), **options)
        return Subject(
            class_name(rule.__name__), made, command or f"sr.export(sr.optim.{rule.__name__}, to={to!r}{told})"
        )
    if not isinstance(rule, Formula):
        raise RuleError(
            f"{rule!r} is no rule",
            where="  export",
            fix="give a rule (board.adam), a class (sr.optim.AdamW) or an optimiser",
        )
    made = Optimizer(_parameters(), rule, **options)
    return Subject(class_name(rule.name), made, command or f"sr.export({rule.name}, to={to!r}{told})")


def _parameters() -> list[torch.nn.Parameter]:
    """Return one matrix, large enough for slots of 8 bits."""
    return [torch.nn.Parameter(torch.ones(64, 64))]


__all__ = ["Exported", "Subject", "class_name", "subject_of"]
