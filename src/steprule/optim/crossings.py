"""Crossings: what parts of DTensors are reduced to becomes what whole tensors are, in every process, once a pass.

What is sent depends on the groups of an optimiser and on nothing that a process alone knows, such as a gradient that is
absent here: its part adds nothing. So all processes send alike, and none waits for another in vain.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from ..backends.base import Batch, Processes, join
from ..graph.node import Node
from ..plan.schedule import Plan
from .shards import Crossing, local, spread, whole

LAST = -1
"""Stands for the last pass of every plan: all plans end together."""
Part = tuple[Any, Plan]
"""A parameter, and the plan of its steps."""
Parted = tuple[Batch, list[Any]]
"""A batch, and the parameters of which it has the parts that are here, cut between the same processes."""


def _ended(plan: Plan, index: int) -> Iterator[Node]:
    """Give the reductions of elements that more than gauges need, and that end with a pass."""
    if index < len(plan.passes) - 1:
        yield from (node for node in plan.passes[index].reductions if node in plan.needed)


class _Link(NamedTuple):
    """Which numbers of a pass are those of one batch's tensors."""

    batch: Batch
    places: list[int]
    cells: torch.Tensor


class _Stage:
    """The numbers that are sent after one pass: totals first, then those of tensors, in the order of parameters."""

    def __init__(self, index: int, parts: Sequence[Part], batches: Sequence[Parted]) -> None:
        ended = [(owner, plan, list(_ended(plan, index))) for owner, plan in parts]
        totals = {(spread(owner), plan.shared[node]): (owner, [node])
                  for owner, plan, nodes in ended for node in nodes if node.kind == "global"}  # fmt: skip
        rows = [(owner, [node for node in nodes if node.kind != "global"]) for owner, _, nodes in ended]
        cells = [*totals.values(), *rows]
        device = local(parts[0][0]).device
        self.totals = list(totals)
        self._crossing = Crossing([(owner, [n.reducer.combine for n in nodes]) for owner, nodes in cells], device)
        inits = [node.reducer.init for _, nodes in cells for node in nodes]
        self._empty = torch.tensor(inits, dtype=torch.float64, device=device)
        self._shares, self._links = list[tuple[int, Batch, int, str]](), list[_Link]()
        first, at = dict[int, int](), len(totals)
        for owner, nodes in rows:
            first[id(owner)], at = at, at + len(nodes)
        for batch, owners in batches:
            plan, where = batch.plan, spread(owners[0])
            nodes = list(_ended(plan, index))
            own = [node for node in nodes if node.kind != "global"]
            for node in nodes:
                if node.kind == "global":
                    cell = self.totals.index((where, plan.shared[node]))
                    self._shares.append((cell, batch, plan.reductions.index(node), node.reducer.combine))
            if own:
                table = [range(first[id(owner)], first[id(owner)] + len(own)) for owner in owners]
                places = [plan.reductions.index(node) for node in own]
                self._links.append(_Link(batch, places, torch.tensor(table, device=device)))

    def cross(self) -> torch.Tensor:
        """Send what the parts here were reduced to, and return what whole tensors are."""
        numbers = self._empty.clone()
        if not len(numbers):
            return numbers
        for cell, batch, place, op in self._shares:
            numbers[cell] = join(op, numbers[cell], batch.total[place])
        for batch, places, cells in self._links:
            numbers[cells] = batch.reduced_at(places).to(numbers.device)
        return self._crossing(numbers)

    def put(self, numbers: torch.Tensor) -> None:
        """Let batches have what their tensors are reduced to."""
        for batch, places, cells in self._links:
            batch.put_reduced(places, numbers[cells])


class Crossings(Processes):
    """What a step sends: the reductions of tensors that are cut between processes."""

    def __init__(self, parts: Sequence[Part], batches: Sequence[Parted]) -> None:
        self.passes = max(len(plan.passes) for _, plan in parts)
        self._stages = {index: _Stage(index, parts, batches) for index in (*range(self.passes - 1), LAST)}
        self._guards = {plan.shared[plan.guard] for _, plan in parts if plan.guard is not None}
        self.begin()

    def begin(self) -> None:
        """Forget the step before."""
        self._found, self._refuses = dict[int, torch.Tensor](), False

    def totals(self, index: int) -> dict[Node, Any]:
        """Join what parts were reduced to in a pass."""
        stage = self._stages.get(index)
        if stage is None:
            return {}
        if index not in self._found:
            self._found[index] = stage.cross()
        numbers = self._found[index]
        stage.put(numbers)
        each = numbers.tolist() if numbers.device.type == "cpu" else numbers.clone()
        answer: dict[Node, Any] = {}
        for (_, node), number in zip(stage.totals, each, strict=False):
            answer[node] = join(node.reducer.combine, answer[node], number) if node in answer else number
        if numbers.device.type == "cpu":  # on a device kernels look at the guard
            self._refuses |= any(not math.isfinite(answer[node]) for node in self._guards & answer.keys())
        return answer

    def refuses(self) -> bool:
        """Whether a guard has found NaN or infinity."""
        return self._refuses


def crossings_of(parameters: Sequence[Part], batches: Sequence[Parted]) -> Crossings | None:
    """Return what steps of these parameters send; None if each process can do without the others."""
    parts = [(owner, plan) for owner, plan in parameters if plan.needed and not whole(owner)]
    return Crossings(parts, [(batch, owners) for batch, owners in batches if batch.parts]) if parts else None
