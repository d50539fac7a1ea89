"""Rules whose gradient is taken elsewhere: how parameters get to the look-ahead point and back.

No arithmetic of its own: the graphs of `graph/look_ahead.py` are run on all parameters that have state, and those of
`graph/twice.py` on those that have a first gradient. Those of groups whose rule has no such point stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, cast

import torch

from ..errors import HyperparameterError
from ..graph.graph import Graph
from ..graph.look_ahead import AHEAD, LookAhead
from ..graph.twice import Twice
from ..plan.program import Program, lowered
from ..plan.schedule import schedule
from .compiled import Kernels
from .first_gradients import FirstGradients, needs_closure
from .global_slots import unite
from .moves import Copy, Owner, Pair, Way, insist, move, ways
from .prepared import Prepared
from .state import ensure
from .tensors import oddity, overlapping

_TO_POINT, _TO_ITERATE, _BACK_TO_POINT = map(attrgetter, ("to_point", "to_iterate", "back_to_point"))
"""The ways between the two, of a `LookAhead`."""
_NEW = -1.0
"""The value of `ahead` in state for a step that has not happened yet."""


class Points:
    """The points of rules with a look-ahead. Each call moves the parameters of the optimiser in its arguments."""

    def __init__(self, rule_of: Callable[[Mapping[str, Any]], Prepared]) -> None:
        self._rule_of = rule_of
        self._programs: dict[Graph, Program] = {}

    def choose(self, group: dict[str, Any]) -> Kernels:
        """Return the kernels for gradients that a closure has taken at the point."""
        return self._rule_of(group).exact

    def refused(self, owner: Owner) -> HyperparameterError | None:
        """Return the error of a step without a closure, if a rule of any group takes two gradients."""
        rules = [self._rule_of(group) for group in owner.param_groups]
        return next((needs_closure(rule.formula.graph) for rule in rules if isinstance(rule.paths, Twice)), None)

    def step(self, owner: Owner, closure: Callable[[], Any], update: Callable[[Any], None]) -> Any:
        """Evaluate a closure at the look-ahead point, come back to the iterate bit for bit, and update from there.

        Where a rule takes two gradients, it is first evaluated at the iterate, and that loss is returned.
        What is not updated is left as it was: if the closure or a check raises, if a guard stops the step, where there
        is no gradient. That shows in `ahead`, which an update makes 0.
        """
        points: list[Copy] = []
        iterates: list[Copy] = []
        first = FirstGradients(owner, self._rule_of, self._program)
        try:
            self._ready(owner)
            pairs, ahead = self._stepped(owner), self._ahead(owner)
            points += [Copy(parameter) for _, parameter in ahead]
            move(owner, self._ways(_TO_ITERATE, ahead))
            loss = first.evaluate(closure)
            iterates += [Copy(parameter) for _, parameter in (*pairs, *first.pairs)]
            move(owner, [*self._ways(_TO_POINT, pairs), *first.ways()], first.planned())
            with torch.enable_grad():
                second = closure()
            for iterate in iterates:
                iterate.put_back()
            iterates = []
            loss = loss if first.wanted else second
            first.judge()
            update(loss)
        finally:
            insist(lambda: self._undo(owner, points, iterates, first))
        return loss

    def to_iterate(self, owner: Owner) -> Callable[[], None]:
        """Move parameters to the iterate. Return a function that puts the points back, bit for bit.

        What was written in between is kept: that parameter, or one whose slots were written, is not put back, and
        `ahead` goes on saying that it is the iterate which is stored.
        """
        pairs = self._ahead(owner)
        points = [Copy(parameter) for _, parameter in pairs]
        try:
            move(owner, self._ways(_TO_ITERATE, pairs))
            iterates = [Copy(parameter) for _, parameter in pairs]
            _mark(owner, [parameter for _, parameter in pairs], ahead=0.0)  # a checkpoint made meanwhile says so
            slots = [_Slots(owner, parameter) for _, parameter in pairs]
        except BaseException:
            insist(lambda: _put_back(owner, points))
            raise

        def back() -> None:
            kept = zip(points, iterates, slots, strict=True)
            untouched = [point for point, iterate, own in kept if iterate.still_there() and own.still_there(owner)]
            insist(lambda: _put_back(owner, untouched))

        return back

    def to_point(self, owner: Owner) -> None:
        """Move parameters that hold the iterate to the point that they would be at without `to_iterate`."""
        pairs = [(group, p) for group, p in self._stepped(owner) if owner.state[p].get(AHEAD) == 0]
        iterates = [Copy(parameter) for _, parameter in pairs]
        try:
            move(owner, self._ways(_BACK_TO_POINT, pairs))
            _mark(owner, [parameter for _, parameter in pairs], ahead=1.0)
        except BaseException:
            insist(lambda: _put_back(owner, iterates, ahead=0.0))
            raise

    @torch.no_grad()
    def _ready(self, owner: Owner) -> None:
        """Give every trainable parameter its slots: a point may lie ahead before the first step."""
        for group, parameter in self._looking(owner):
            if parameter.requires_grad and oddity(parameter) is None and not overlapping(parameter):
                made = not owner.state.get(parameter)
                ensure(self._rule_of(group).kernels, group, parameter, owner.state[parameter])
                if made:
                    _mark(owner, [parameter], ahead=_NEW)
        unite(lambda group: self._rule_of(group).kernels, owner.param_groups, owner.state, owner.state)

    def _looking(self, owner: Owner) -> list[Pair]:
        """List the (group, parameter) pairs whose rules have a look-ahead."""
        groups = [group for group in owner.param_groups if isinstance(self._rule_of(group).paths, LookAhead)]
        return [(group, parameter) for group in groups for parameter in group["params"]]

    def _stepped(self, owner: Owner) -> list[Pair]:
        """List those that have state."""
        return [(group, p) for group, p in self._looking(owner) if owner.state.get(p)]

    def _ahead(self, owner: Owner) -> list[Pair]:
        return [(group, p) for group, p in self._stepped(owner) if _mark_of(owner, p) > 0]

    def _undo(self, owner: Owner, points: list[Copy], iterates: list[Copy], first: FirstGradients) -> None:
        """Put back the parameters that were moved and not updated, and drop the state of those without a step."""
        for iterate in iterates:
            iterate.put_back()
        _put_back(owner, [point for point in points if _mark_of(owner, point.parameter) > 0])
        for parameter in [p for _, p in self._stepped(owner) if _mark_of(owner, p) == _NEW]:
            del owner.state[parameter]
        first.forget()

    def _ways(self, way: Callable[[LookAhead], Graph], pairs: list[Pair]) -> list[Way]:
        """Return the moves of parameters between the iterate and the look-ahead point."""
        given = [(pair, self._rule_of(pair[0])) for pair in pairs]
        return ways(
            (pair, rule.kernels, self._program(way(cast("LookAhead", rule.paths))), pair[1]) for pair, rule in given
        )

    def _program(self, graph: Graph) -> Program:
        """Return the program of a graph that moves parameters."""
        if graph not in self._programs:
            self._programs[graph] = lowered(schedule(graph))
        return self._programs[graph]


class _Slots:
    """The state of a parameter: which tensors it holds, and at which versions."""

    def __init__(self, owner: Owner, parameter: torch.Tensor) -> None:
        self._parameter = parameter
        self._seen = [(key, value, _version(value)) for key, value in owner.state[parameter].items()]

    def still_there(self, owner: Owner) -> bool:
        """Whether all of it is as it was."""
        state = owner.state.get(self._parameter, {})
        return all(state.get(key) is value and _version(value) == version for key, value, version in self._seen)


def _version(value: Any) -> int:
    counted = isinstance(value, torch.Tensor) and not value.is_inference()
    return value._version if counted else 0  # noqa: SLF001


def _mark_of(owner: Owner, parameter: torch.Tensor) -> float:
    return float(owner.state.get(parameter, {}).get(AHEAD, 0.0))


def _mark(owner: Owner, parameters: list[torch.Tensor], *, ahead: float) -> None:
    for parameter in parameters:
        owner.state[parameter][AHEAD].fill_(ahead)


def _put_back(owner: Owner, copies: list[Copy], ahead: float = 1.0) -> None:
    for copy in copies:
        copy.put_back()
        _mark(owner, [copy.parameter], ahead=ahead)


__all__ = ["Points"]
