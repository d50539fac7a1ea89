"""Moves of parameters to other points and back: in torch operations, all at once, and undone by copies."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..backends.base import run
from ..backends.eager import EagerBatch
from ..backends.half_torch import drawn, joined, rounded
from ..plan.program import Program
from ..plan.storage import NARROW, REMAINDER
from ..plan.tables import array_rows, hyper_columns
from .compiled import Kernels
from .crossings import Part, crossings_of
from .formats import numbers_of
from .shards import local, spread, whole
from .state import STEP
from .tensors import Entry, here, name_of

Owner = torch.optim.Optimizer
Pair = tuple[dict[str, Any], torch.Tensor]
"""A parameter with its group."""
_MOVES = 2**32
"""Positions from which moves draw, so that they do not draw what a step does."""


@dataclass(eq=False)
class Way:
    """A program that only moves parameters, and those that it moves, cut alike, each beside its gradient.

    `t` is the count of steps, and `steps` more.
    """

    kernels: Kernels
    program: Program
    steps: int = 0
    pairs: list[Pair] = field(default_factory=list[Pair])
    gradients: list[torch.Tensor] = field(default_factory=list[torch.Tensor])


def ways(moves: Iterable[tuple[Pair, Kernels, Program, torch.Tensor]], steps: int = 0) -> list[Way]:
    """Put together what moves alike, and is cut alike."""
    found: dict[Any, Way] = {}
    for pair, kernels, program, gradient in moves:
        key = id(program), spread(pair[1])
        way = found.setdefault(key, Way(kernels, program, steps))
        way.pairs.append(pair)
        way.gradients.append(gradient)
    return list(found.values())


@torch.no_grad()
def move(owner: Owner, ways: Iterable[Way], planned: Iterable[Part] = ()) -> None:
    """Move parameters, in torch operations; what programs reduce of all tensors is that of all of them together.

    Other processes may have parts of them; what moves there and not here, for want of a gradient, must be `planned`. A
    parameter of 16 bits moves from what it is with its remainder, which stays, and is rounded as in a step.
    """
    order = {p: place for place, p in enumerate(p for group in owner.param_groups for p in group["params"])}
    moving = [_Moving(owner, way, order) for way in ways if way.pairs]
    parts = dict([*planned, *((own, one.batch.plan) for one in moving for own in one.owners)])
    crossings = crossings_of(list(parts.items()), [(one.batch, one.owners) for one in moving])
    run([(one.batch, one.numbers) for one in moving], processes=crossings)
    for one in moving:
        one.store()


class _Moving:
    """The tensors of one way."""

    def __init__(self, owner: Owner, way: Way, order: dict[torch.Tensor, int]) -> None:
        plan, pairs, self._kernels = way.program.plan, way.pairs, way.kernels
        self.owners = [parameter for _, parameter in pairs]
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
        self._places = way.kernels.where(self._entries)
        self.batch = EagerBatch(way.program, arrays, range(len(pairs)), self._places)
        self.batch.parts = bool(plan.needed) and not whole(self.owners[0])

    def store(self) -> None:
        """Round what was computed apart from its parameter, and write it there."""
        kernels = self._kernels
        for entry, place, value, own in zip(self._entries, self._places, self._values, self._states, strict=True):
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
