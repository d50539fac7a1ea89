"""Rules whose gradient is taken elsewhere: how parameters get to the look-ahead point and back.

No arithmetic of its own: the graphs of `graph/look_ahead.py` are run on all parameters that have state.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ..backends.eager import EagerBatch
from ..graph.graph import Graph
from ..graph.look_ahead import AHEAD, LookAhead
from ..plan.schedule import Plan, schedule
from ..plan.tables import array_rows, hyper_columns
from .compiled import Kernels
from .state import STEP, ensure

Owner = torch.optim.Optimizer
Pair = tuple[dict[str, Any], torch.Tensor]
"""A parameter with its group."""


class Points:
    """The points of one rule with a look-ahead; each call is given the optimiser whose parameters it moves."""

    def __init__(self, paths: LookAhead, kernels: Kernels, exact: Kernels) -> None:
        self._paths = paths
        self._kernels = kernels
        self._exact = exact
        self._moves: dict[Graph, Plan] = {}

    def choose(self, group: dict[str, Any]) -> Kernels:  # noqa: ARG002
        """Return the kernels for gradients that a closure has taken at the point."""
        return self._exact

    def evaluate(self, owner: Owner, closure: Callable[[], Any]) -> Any:
        """Evaluate a closure at the look-ahead point, and leave the parameters at the iterate, bit for bit."""
        self._ready(owner)
        pairs, ahead = _stepped(owner), _ahead(owner)
        stored = _hold(pairs)
        try:
            self._move(owner, self._paths.to_iterate, ahead)
            iterate = _hold(pairs)
            self._move(owner, self._paths.to_point, pairs)
            with torch.enable_grad():
                loss = closure()
            iterate()
        except BaseException:
            stored()
            raise
        _mark(owner, ahead, ahead=0.0)
        return loss

    @contextmanager
    def at_iterate(self, owner: Owner) -> Generator[None]:
        """Move parameters to the iterate, and put the point back bit for bit."""
        pairs = _ahead(owner)
        put_back = _hold(pairs)
        try:
            self._move(owner, self._paths.to_iterate, pairs)
            _mark(owner, pairs, ahead=0.0)  # a checkpoint made inside the block says what it holds
            yield
        finally:
            put_back()
            _mark(owner, pairs, ahead=1.0)

    @torch.no_grad()
    def _ready(self, owner: Owner) -> None:
        """Give every trainable parameter its slots: a point may lie ahead before the first step."""
        for group in owner.param_groups:
            for parameter in group["params"]:
                if parameter.requires_grad and parameter.is_floating_point():
                    ensure(self._kernels, group, parameter, owner.state[parameter])

    @torch.no_grad()
    def _move(self, owner: Owner, graph: Graph, pairs: list[Pair]) -> None:
        """Run a graph that only moves parameters between the iterate and the look-ahead point."""
        if graph not in self._moves:
            self._moves[graph] = schedule(graph)
        plan = self._moves[graph]
        names, columns = array_rows(plan), hyper_columns(plan)
        arrays = {names[0]: [p for _, p in pairs], names[1]: [p for _, p in pairs]}
        arrays |= {name: [owner.state[p][name] for _, p in pairs] for name in names[2:]}
        numbers = [[_number(name, group, owner.state[p]) for name in columns] for group, p in pairs]
        if pairs:
            EagerBatch(plan, arrays, range(len(pairs))).step(np.array(numbers, dtype=np.float64))


def _stepped(owner: Owner) -> list[Pair]:
    """List the (group, parameter) pairs that have state."""
    pairs = [(group, p) for group in owner.param_groups for p in group["params"]]
    return [(group, p) for group, p in pairs if owner.state.get(p)]


def _ahead(owner: Owner) -> list[Pair]:
    return [(group, p) for group, p in _stepped(owner) if float(owner.state[p].get(AHEAD, 0.0)) > 0]


def _mark(owner: Owner, pairs: list[Pair], *, ahead: float) -> None:
    for _, parameter in pairs:
        owner.state[parameter][AHEAD].fill_(ahead)


@torch.no_grad()
def _hold(pairs: list[Pair]) -> Callable[[], None]:
    """Keep parameters as they are now; return a function that puts them back."""
    values = [parameter.clone(memory_format=torch.preserve_format) for _, parameter in pairs]

    @torch.no_grad()
    def put_back() -> None:
        for (_, parameter), value in zip(pairs, values, strict=True):
            parameter.copy_(value)

    return put_back


def _number(name: str, group: dict[str, Any], state: dict[str, Any]) -> float:
    """Read a column of the hyperparameter table for one parameter: from its group or its state."""
    return float(group[name] if name in group else state[STEP if name == "t" else name])


__all__ = ["Points"]
