"""The first of the two gradients that some rules take in a step, at the iterate: `graph/twice.py` says what they do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..errors import HyperparameterError
from ..graph.graph import Graph
from ..graph.twice import Twice
from ..plan.program import Program
from .crossings import Part
from .global_slots import unite
from .moves import Owner, Pair, Way, ways
from .prepared import Prepared
from .shards import local
from .state import ensure
from .tensors import Entry, check, check_shards, here, label


def needs_closure(graph: Graph) -> HyperparameterError:
    """Return the error of a step without a closure."""
    return HyperparameterError(
        f"`{graph.name}` takes a second gradient at another point, and step() was given no closure to evaluate there",
        fix="def closure(): optimizer.zero_grad(); loss = criterion(model(x), y); loss.backward(); return loss\n"
        "  optimizer.step(closure)",
    )


class FirstGradients:
    """The parameters of one step whose rules take two gradients, from the first evaluation to the end of the step."""

    def __init__(
        self, owner: Owner, rule_of: Callable[[Mapping[str, Any]], Prepared], program_of: Callable[[Graph], Program]
    ) -> None:
        self._owner, self._rule_of, self._program_of = owner, rule_of, program_of
        found = [(index, group, rule_of(group)) for index, group in enumerate(owner.param_groups)]
        self._groups = [
            (index, group, rule, rule.paths) for index, group, rule in found if isinstance(rule.paths, Twice)
        ]
        self._moved: list[tuple[Pair, Prepared, Twice, torch.Tensor]] = []
        self._fresh: list[tuple[torch.Tensor, bool]] = []
        self._versions: list[int] | None = None
        self._finite: list[tuple[torch.Tensor, torch.Tensor]] = []

    @property
    def wanted(self) -> bool:
        """Whether any rule takes two gradients."""
        return bool(self._groups)

    @property
    def pairs(self) -> list[Pair]:
        """The parameters that have a first gradient."""
        return [pair for pair, *_ in self._moved]

    def evaluate(self, closure: Callable[[], Any]) -> Any:
        """Evaluate a closure at the iterate, if any rule wants that, and take the gradients that it leaves there."""
        if not self._groups:
            return None
        for index, group, _, paths in self._groups:
            check_shards(group, index, self._program_of(paths.to_point).plan)
        with torch.enable_grad():
            loss = closure()
        with torch.no_grad():
            for index, group, rule, paths in self._groups:
                for place, parameter in enumerate(group["params"]):
                    if parameter.grad is not None:
                        entry = Entry(label(group, index, place), index, parameter, parameter.grad)
                        self._take(entry, group, rule, paths)
            unite(
                lambda group: self._rule_of(group).kernels,
                self._owner.param_groups,
                self._owner.state,
                [pair[1] for pair in self.pairs],
            )
        return loss

    def _take(self, entry: Entry, group: dict[str, Any], rule: Prepared, paths: Twice) -> None:
        """Take a first gradient, for the point and for the update."""
        check(entry)
        parameter, states = entry.parameter, self._owner.state
        if not states.get(parameter):
            self._fresh.append((parameter, parameter in states))
        ensure(rule.kernels, group, parameter, states[parameter])
        self._moved.append(((group, parameter), rule, paths, entry.gradient))
        if paths.given:
            local(states[parameter][paths.given]).copy_(here(entry).gradient)
        if rule.kernels.options.guarded:
            self._finite.append((parameter, local(entry.gradient).isfinite().all()))

    def planned(self) -> list[Part]:
        """List all parameters that may move, with the plan of that: other processes may have gradients of others."""
        return [(parameter, self._program_of(paths.to_point).plan) for _, group, _, paths in self._groups
                for parameter in group["params"]]  # fmt: skip

    def ways(self) -> list[Way]:
        """Return the moves to the points of the second gradient."""
        moves = ((pair, rule.kernels, self._program_of(paths.to_point), g) for pair, rule, paths, g in self._moved)
        return ways(moves, steps=1)

    def judge(self) -> None:
        """Let a guard see the first gradients that are not finite, in place of the second; the update comes next."""
        for parameter, finite in self._finite:
            if not bool(finite):
                parameter.grad = torch.full_like(parameter.detach(), torch.nan)
        self._versions = [parameter._version for parameter, _ in self._fresh]  # noqa: SLF001

    @torch.no_grad()
    def forget(self) -> None:
        """Empty what the update was given, and drop the state of those without a step; a second call does no harm."""
        states, before = self._owner.state, self._versions or [-1] * len(self._fresh)
        for (parameter, known), version in zip(self._fresh, before, strict=True):
            if version in (-1, parameter._version):  # noqa: SLF001 - a step counts as a write
                states[parameter].clear()
                if not known:
                    del states[parameter]
        for (_, parameter), _, paths, _ in self._moved:
            given = states[parameter].get(paths.given) if parameter in states else None
            if given is not None:
                local(given).zero_()


__all__ = ["FirstGradients", "needs_closure"]
