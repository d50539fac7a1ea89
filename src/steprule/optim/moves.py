"""Moves of parameters to other points and back: in torch operations, all at once, and undone by copies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..backends.base import Batch, run
from ..backends.eager import EagerBatch
from ..backends.half_torch import drawn, joined, rounded
from ..graph.ops import OPS
from ..plan.program import Program
from ..plan.schedule import Pass
from ..plan.storage import NARROW, REMAINDER
from ..plan.tables import array_rows, hyper_columns
from .compiled import Kernels
from .formats import numbers_of
from .shards import Shared, distributed, local, over_processes, spread
from .state import STEP
from .tensors import Entry, here, name_of

Owner = torch.optim.Optimizer
Pair = tuple[dict[str, Any], torch.Tensor]
"""A parameter with its group."""
_MOVES = 2**32
"""Positions from which moves draw, so that they do not draw what a step does."""


@dataclass(eq=False)
class Way:
    """A program that only moves parameters, and those that it moves, each beside its gradient.

    `t` is the count of steps, and `steps` more.
    """

    kernels: Kernels
    program: Program
    steps: int = 0
    pairs: list[Pair] = field(default_factory=list[Pair])
    gradients: list[torch.Tensor] = field(default_factory=list[torch.Tensor])


def ways(moves: Iterable[tuple[Pair, Kernels, Program, torch.Tensor]], steps: int = 0) -> list[Way]:
    """Put together what moves alike, and is distributed alike."""
    found: dict[Any, Way] = {}
    for pair, kernels, program, gradient in moves:
        key = id(program), spread(pair[1])
        way = found.setdefault(key, Way(kernels, program, steps))
        way.pairs.append(pair)
        way.gradients.append(gradient)
    return list(found.values())


@torch.no_grad()
def move(owner: Owner, ways: Iterable[Way]) -> None:
    """Move parameters, in torch operations; what programs reduce of all tensors is that of all of them together.

    A parameter of 16 bits moves from what it is with its remainder, which stays, and is rounded as in a step.
    """
    order = {p: place for place, p in enumerate(p for group in owner.param_groups for p in group["params"])}
    made = (_Moving(owner, way, order) for way in ways if way.pairs)
    moving: dict[Batch, _Moving] = {one.batch: one for one in made}

    def join(batch: Batch, item: Pass) -> None:
        """Complete what a pass has reduced of all tensors, of which each process has parts."""
        nodes = [node for node in item.reductions if node.kind == "global"]
        places = [batch.plan.reductions.index(node) for node in nodes]

        def joined(rows: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
            each = zip(nodes, np.stack(rows).T, strict=True)
            return np.array([reduce(OPS[node.reducer.combine].meaning, own) for node, own in each])

        if nodes:
            batch.total[places] = over_processes([Shared(moving[batch].owner, batch.total[places], joined)])[0]

    sharded = any(distributed(one.owner) for one in moving.values())
    run([(batch, one.numbers) for batch, one in moving.items()], join=join if sharded else None)
    for one in moving.values():
        one.store()


class _Moving:
    """The tensors of one way."""

    def __init__(self, owner: Owner, way: Way, order: dict[torch.Tensor, int]) -> None:
        plan, pairs, self._kernels, self.owner = way.program.plan, way.pairs, way.kernels, way.pairs[0][1]
        hypers, columns, names = {hyper.name for hyper in plan.graph.hypers}, hyper_columns(plan), array_rows(plan)

        def number(name: str, group: dict[str, Any], state: dict[str, Any]) -> float:
            return float(state[STEP]) + way.steps if name == "t" else float((group if name in hypers else state)[name])

        self._entries = [here(Entry("", 0, p, gradient, position=_MOVES + order[p]))
                         for (_, p), gradient in zip(pairs, way.gradients, strict=True)]  # fmt: skip
        self._states = states = [owner.state[p] for _, p in pairs]
        self._values = [_loaded(way.kernels, entry.parameter, own)
                        for entry, own in zip(self._entries, states, strict=True)]  # fmt: skip
        arrays = {names[0]: self._values, names[1]: [entry.gradient for entry in self._entries]}
        arrays |= {name: [local(numbers_of(p, name, own)) for (_, p), own in zip(pairs, states, strict=True)]
                   for name in names[2:]}  # fmt: skip
        numbers = [[number(name, group, own) for name in columns]
                   for (group, _), own in zip(pairs, states, strict=True)]  # fmt: skip
        self.numbers = np.array(numbers, dtype=np.float64)
        self.batch = EagerBatch(way.program, arrays, range(len(pairs)))

    def store(self) -> None:
        """Round what was computed apart from its parameter, and write it there."""
        kernels, places = self._kernels, self._kernels.where(self._entries)
        for entry, place, value, own in zip(self._entries, places, self._values, self._states, strict=True):
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


__all__ = ["Copy", "Owner", "Pair", "Way", "insist", "move", "ways"]
