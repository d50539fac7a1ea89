"""Rules whose gradient is taken elsewhere: how parameters get to the look-ahead point and back.

No arithmetic of its own: the graphs of `graph/look_ahead.py` are run on all parameters that have state. Those of groups
whose rule has no look-ahead stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from typing import Any

import numpy as np
import torch

from ..backends.eager import EagerBatch
from ..backends.half_torch import drawn, joined, rounded
from ..graph.graph import Graph
from ..graph.look_ahead import AHEAD, LookAhead
from ..plan.program import lowered
from ..plan.schedule import Plan, schedule
from ..plan.storage import NARROW, REMAINDER
from ..plan.tables import array_rows, hyper_columns
from .compiled import Kernels
from .formats import numbers_of
from .prepared import Prepared
from .shards import local
from .state import STEP, ensure
from .tensors import Entry, here, name_of, oddity, overlapping

Owner = torch.optim.Optimizer
Pair = tuple[dict[str, Any], torch.Tensor]
"""A parameter with its group."""
_MOVES = 2**32
"""Positions from which moves draw, so that they do not draw what a step does."""
_TO_POINT, _TO_ITERATE = attrgetter("to_point"), attrgetter("to_iterate")
"""The ways between the two, of a `LookAhead`."""
_NEW = -1.0
"""The value of `ahead` in state for a step that has not happened yet."""


class Points:
    """The points of rules with a look-ahead. Each call moves the parameters of the optimiser in its arguments."""

    def __init__(self, rule_of: Callable[[Mapping[str, Any]], Prepared]) -> None:
        self._rule_of = rule_of
        self._moves: dict[Graph, Plan] = {}

    def choose(self, group: dict[str, Any]) -> Kernels:
        """Return the kernels for gradients that a closure has taken at the point."""
        return self._rule_of(group).exact

    def step(self, owner: Owner, closure: Callable[[], Any], update: Callable[[Any], None]) -> Any:
        """Evaluate a closure at the look-ahead point, come back to the iterate bit for bit, and update from there.

        What is not updated is left as it was: if the closure or a check raises, if a guard stops the step, where there
        is no gradient. That shows in `ahead`, which an update makes 0.
        """
        points: list[Copy] = []
        iterates: list[Copy] = []
        try:
            self._ready(owner)
            pairs, ahead = self._stepped(owner), self._ahead(owner)
            points += [Copy(parameter) for _, parameter in ahead]
            self._move(owner, _TO_ITERATE, ahead)
            iterates += [Copy(parameter) for _, parameter in pairs]
            self._move(owner, _TO_POINT, pairs)
            with torch.enable_grad():
                loss = closure()
            for iterate in iterates:
                iterate.put_back()
            iterates = []
            update(loss)
        finally:
            insist(lambda: self._undo(owner, points, iterates))
        return loss

    def to_iterate(self, owner: Owner) -> Callable[[], None]:
        """Move parameters to the iterate. Return a function that puts the points back, bit for bit.

        What was written in between is kept: that parameter, or one whose slots were written, is not put back, and
        `ahead` goes on saying that it is the iterate which is stored.
        """
        pairs = self._ahead(owner)
        points = [Copy(parameter) for _, parameter in pairs]
        try:
            self._move(owner, _TO_ITERATE, pairs)
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

    @torch.no_grad()
    def _ready(self, owner: Owner) -> None:
        """Give every trainable parameter its slots: a point may lie ahead before the first step."""
        for group, parameter in self._looking(owner):
            if parameter.requires_grad and oddity(parameter) is None and not overlapping(parameter):
                made = not owner.state.get(parameter)
                ensure(self._rule_of(group).kernels, group, parameter, owner.state[parameter])
                if made:
                    _mark(owner, [parameter], ahead=_NEW)

    def _looking(self, owner: Owner) -> list[Pair]:
        """List the (group, parameter) pairs whose rules have a look-ahead."""
        groups = [group for group in owner.param_groups if self._rule_of(group).paths is not None]
        return [(group, parameter) for group in groups for parameter in group["params"]]

    def _stepped(self, owner: Owner) -> list[Pair]:
        """List those that have state."""
        return [(group, p) for group, p in self._looking(owner) if owner.state.get(p)]

    def _ahead(self, owner: Owner) -> list[Pair]:
        return [(group, p) for group, p in self._stepped(owner) if _mark_of(owner, p) > 0]

    def _undo(self, owner: Owner, points: list[Copy], iterates: list[Copy]) -> None:
        """Put back the parameters that were moved and not updated, and drop the state of those without a step."""
        for iterate in iterates:
            iterate.put_back()
        _put_back(owner, [point for point in points if _mark_of(owner, point.parameter) > 0])
        for parameter in [p for _, p in self._stepped(owner) if _mark_of(owner, p) == _NEW]:
            del owner.state[parameter]

    def _move(self, owner: Owner, way: Callable[[LookAhead], Graph], pairs: list[Pair]) -> None:
        """Move parameters between the iterate and the look-ahead point, rule by rule."""
        alike: dict[Graph, tuple[Prepared, list[Pair]]] = {}
        for pair in pairs:
            rule = self._rule_of(pair[0])
            assert rule.paths is not None
            alike.setdefault(way(rule.paths), (rule, []))[1].append(pair)
        for graph, (rule, own) in alike.items():
            if graph not in self._moves:
                self._moves[graph] = schedule(graph)
            move(owner, rule.kernels, self._moves[graph], own, [parameter for _, parameter in own])


@torch.no_grad()
def move(
    owner: Owner, kernels: Kernels, plan: Plan, pairs: list[Pair], gradients: Iterable[torch.Tensor], steps: int = 0
) -> None:
    """Run a plan that only moves parameters, in torch operations; `t` is the count of steps, and `steps` more.

    A parameter of 16 bits moves from what it is with its remainder, which stays, and is rounded as in a step.
    """
    if not pairs:
        return
    hypers, columns, names = {hyper.name for hyper in plan.graph.hypers}, hyper_columns(plan), array_rows(plan)

    def number(name: str, group: dict[str, Any], state: dict[str, Any]) -> float:
        return float(state[STEP]) + steps if name == "t" else float(group[name] if name in hypers else state[name])

    order = {p: place for place, p in enumerate(p for group in owner.param_groups for p in group["params"])}
    entries = [here(Entry("", 0, p, gradient, position=_MOVES + order[p]))
               for (_, p), gradient in zip(pairs, gradients, strict=True)]  # fmt: skip
    states = [owner.state[p] for _, p in pairs]
    arrays = {names[0]: [_loaded(kernels, entry.parameter, own) for entry, own in zip(entries, states, strict=True)]}
    arrays |= {names[1]: [entry.gradient for entry in entries]}
    arrays |= {name: [local(numbers_of(p, name, own)) for (_, p), own in zip(pairs, states, strict=True)]
               for name in names[2:]}  # fmt: skip
    numbers = [[number(name, group, own) for name in columns] for (group, _), own in zip(pairs, states, strict=True)]
    EagerBatch(lowered(plan), arrays, range(len(pairs))).step(np.array(numbers, dtype=np.float64))
    for entry, place, value, own in zip(entries, kernels.where(entries), arrays[names[0]], states, strict=True):
        parameter = entry.parameter.detach()
        if kernels.keeps(parameter.dtype):
            parameter.copy_(rounded(value, parameter.dtype, kernels.options.rounding))
        elif value is not entry.parameter:
            parameter.copy_(drawn(value, parameter.dtype, place, int(own[STEP]), 0))


def _loaded(kernels: Kernels, parameter: torch.Tensor, state: dict[str, Any]) -> torch.Tensor:
    """Return a parameter, or as float32 what a step would read, if it is not just rounded to the nearest."""
    if kernels.keeps(parameter.dtype):
        return joined(parameter.detach(), local(state[REMAINDER]))
    random = kernels.options.rounding == "stochastic" and name_of(parameter.dtype) in NARROW
    return parameter.detach().float() if random else parameter


class Copy:
    """A parameter, and its former values."""

    def __init__(self, parameter: torch.Tensor) -> None:
        self.parameter = parameter
        self.value = parameter.detach().clone(memory_format=torch.preserve_format)

    @torch.no_grad()
    def put_back(self) -> None:
        """Write the former values into the parameter."""
        self.parameter.copy_(self.value)

    @torch.no_grad()
    def still_there(self) -> bool:
        """Whether the parameter holds it, number by number: writes past torch do not show in its version."""
        now, then = local(self.parameter.detach()), local(self.value)
        if now.shape != then.shape or now.dtype != then.dtype:
            return False
        then = then.to(now.device)
        return bool(((now == then) | (now.isnan() & then.isnan())).all())


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


def _put_back(owner: Owner, points: list[Copy]) -> None:
    for point in points:
        point.put_back()
        _mark(owner, [point.parameter], ahead=1.0)


def insist(action: Callable[[], None]) -> None:
    """Run a repeatable function to its end, through any number of interrupts."""
    interrupt: KeyboardInterrupt | None = None
    while True:
        try:
            action()
            break
        except KeyboardInterrupt as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt


__all__ = ["Copy", "Points", "insist", "move"]
