"""The rules of one optimiser: its own, and those that param groups bring along, under the key `rule`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ..errors import HyperparameterError, RuleError
from ..rule import Formula
from .compiled import Kernels, Reader
from .cut import cut_of
from .groups import RULE, meant
from .implicit import Implicit
from .options import NAMES, Options
from .points import Points
from .prepared import Prepared, check_slots, named, prepare


class Rules:
    """The rules of an optimiser, each prepared when a group first asks for it."""

    def __init__(self, own: Formula, options: Options, reader: Callable[[str], Reader]) -> None:
        self._options, self._reader = options, reader
        self._prepared: dict[Formula, Prepared] = {}
        self._looking = Points(self.of)
        self.points: Points | Implicit | None = None
        """What moves parameters to the points where some of the rules want their gradients."""
        self.own = self._of(own)

    def of(self, group: Mapping[str, Any]) -> Prepared:
        """Return the rule of a group."""
        rule = group.get(RULE)
        return self.own if rule is None else self._of(rule)

    def kernels(self, group: Mapping[str, Any]) -> Kernels:
        """Return the kernels for a group, for gradients at the stored parameters."""
        return self.of(group).kernels.apart(cut_of(group))

    def _of(self, rule: Any) -> Prepared:
        if not isinstance(rule, Formula):
            raise RuleError(
                f"an optimiser needs a rule, not {rule!r}", fix="decorate the function with @rule, or use board.adam"
            )
        return self._prepared.get(rule) or self._prepare(rule)

    def _prepare(self, rule: Formula) -> Prepared:
        made = prepare(rule, self._options, self._reader)
        for other in self._prepared.values():
            if other.implicit or made.implicit:
                raise _alone(other if other.implicit else made)
            if _variant(other.rule) == _variant(rule):  # one kernel: they differ in numbers, which stand in groups
                made = replace(made, kernels=other.kernels, exact=other.exact, paths=other.paths)
        if made.implicit:
            self.points = Implicit(made.formula.graph, made.kernels)
        elif made.paths is not None:
            self.points = self._looking
        self._prepared[rule] = made
        return made

    def check(self, given: Mapping[str, Any]) -> None:
        """Raise `HyperparameterError` for a keyword that is a hyperparameter of no rule, or a slot that none has."""
        formulas = [one.formula for one in self._prepared.values()]
        known = dict.fromkeys(name for formula in formulas for name in formula.hypers)
        unknown = [name for name in given if name not in known]
        if unknown:
            near = meant(unknown[0], [*known, *NAMES])
            raise HyperparameterError(
                f"{named(formula.graph for formula in formulas)} has no hyperparameter `{unknown[0]}`",
                fix=f"{f'did you mean {near}? ' if near else ''}it has {', '.join(known) or 'none'}",
            )
        check_slots((formula.graph for formula in formulas), self._options)


def _variant(rule: Formula) -> list[Any]:
    """Return what decides a formula, apart from numbers."""
    return [(part.function, part.chosen) for part in rule.parts]


def _alone(one: Prepared) -> RuleError:
    name = one.rule.name
    return RuleError(
        f"`{name}` takes its gradient where its step ends, which no other rule of the optimiser waits for",
        fix=f"give all groups `{name}`, or step its parameters by an optimiser of their own",
    )
