"""Implicit rules, whose gradient is taken where their step ends: θ⁺ = F(θ, ∇L(θ⁺)), found by fixed-point iteration.

The first point is where the step would end without a gradient, for Nesterov's momentum θ − ηβm: so one evaluation
gives the explicit method. Each gradient then makes the next point, until they stay where they are. Such an iteration
converges if it contracts; for a momentum of weight 1−β and curvatures up to L it does where η(1−β)L < 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from ..errors import ConvergenceError, HyperparameterError
from ..graph.graph import Graph
from ..graph.look_ahead import UNSAID, to_end
from ..plan.program import lowered
from ..plan.schedule import schedule
from .compiled import Kernels
from .global_slots import unite
from .moves import Copy, Owner, Pair, insist, move, ways
from .settings import plain
from .state import ensure

TOLERANCE, MOST = "tolerance", "max_eval"
PATIENCE = 5
"""Evaluations in a row that may come no nearer than the best before them."""
ROUNDINGS, STEP_ROUNDINGS = 4, 32
"""The movement that rounding may cause: units of the dtype beside the point, and beside the step."""


class _Moved(NamedTuple):
    """The last movement of the point, and the allowed one, over all tensors."""

    by: float
    allowed: float


class Implicit:
    """The point of one implicit rule; each call is given the optimiser whose parameters it moves."""

    def __init__(self, graph: Graph, kernels: Kernels) -> None:
        self._graph = graph
        self._kernels = kernels
        self._program = lowered(schedule(to_end(graph)))
        self._declared = {hyper.name: hyper for hyper in graph.hypers if hyper.name in {TOLERANCE, MOST}}
        if len(self._declared) < 2:
            what, fix = (text.format(name=graph.name) for text in UNSAID)
            raise HyperparameterError(what, fix=fix)

    def choose(self, group: dict[str, Any]) -> Kernels:  # noqa: ARG002
        """Return the kernels, which are those of the rule as it is written."""
        return self._kernels

    def refused(self, owner: Owner) -> HyperparameterError:  # noqa: ARG002
        """Return the error of a step without a closure."""
        return HyperparameterError(
            f"`{self._graph.name}` takes its gradient where its step ends, and step() was given no closure to find it",
            fix='call step(closure), or use look_ahead="momentum" or look_ahead="board", which need none',
        )

    def to_iterate(self, owner: Owner) -> Callable[[], None]:  # noqa: ARG002
        """Move nothing: the stored parameters are the iterate."""
        return lambda: None

    def to_point(self, owner: Owner) -> None:
        """Move nothing, as `to_iterate`."""

    def step(self, owner: Owner, closure: Callable[[], Any], update: Callable[[Any], None]) -> Any:
        """Evaluate a closure until its gradient is that of the point where the step ends, and take that step.

        Parameters come back to the iterate bit for bit before the update. If anything raises, gradients do, too.
        """
        settings = [self._settings(owner, index) for index in range(len(owner.param_groups))]
        fresh: list[torch.Tensor] = []
        iterates: list[Copy] = []
        gradients = [_Gradient(parameter) for _, parameter in _trainable(owner)]

        def back(gradients: list[_Gradient] = []) -> None:  # noqa: B006 - it is only read
            for iterate in iterates:
                iterate.put_back()
            for parameter in fresh:
                owner.state.pop(parameter, None)
            for gradient in gradients:
                gradient.put_back()

        try:
            pairs = list(_trainable(owner))
            self._ready(owner, pairs, fresh)
            iterates += [Copy(parameter) for _, parameter in pairs]
            loss = self._solve(owner, closure, pairs, iterates, settings)
        except BaseException:
            insist(lambda: back(gradients))
            raise
        insist(back)
        update(loss)
        return loss

    def _settings(self, owner: Owner, index: int) -> tuple[float, int]:
        """Return the tolerance and the greatest count of a group."""
        group, whose = owner.param_groups[index], f"`{self._graph.name}`, group {index}"
        found = {name: hyper.check(plain(group.get(name)), whose) for name, hyper in self._declared.items()}
        return found[TOLERANCE], int(found[MOST])

    @torch.no_grad()
    def _ready(self, owner: Owner, pairs: list[Pair], fresh: list[torch.Tensor]) -> None:
        """Give every trainable parameter its slots, and list the parameters that had no state."""
        for group, parameter in pairs:
            if not owner.state.get(parameter):
                fresh.append(parameter)
            ensure(self._kernels, group, parameter, owner.state[parameter])
        unite(lambda _: self._kernels, owner.param_groups, owner.state, owner.state)

    def _solve(
        self,
        owner: Owner,
        closure: Callable[[], Any],
        pairs: list[Pair],
        iterates: list[Copy],
        settings: list[tuple[float, int]],
    ) -> Any:
        """Evaluate until the point stays where it is; return the loss there."""
        of_group = {id(group): own for group, own in zip(owner.param_groups, settings, strict=True)}
        tolerances = [of_group[id(group)][0] for group, _ in pairs]
        most = min((count for _, count in settings), default=1)
        self._move(owner, pairs, iterates, [torch.zeros_like(parameter) for _, parameter in pairs])
        best, since, seen = math.inf, 0, 0
        while True:
            points = [Copy(parameter) for _, parameter in pairs]
            with torch.enable_grad():
                loss = closure()
            self._move(owner, pairs, iterates, [parameter.grad for _, parameter in pairs])
            moved, seen = _measure(points, iterates, tolerances), seen + 1
            if moved.by <= moved.allowed < math.inf or (seen == 1 and not _finite(pairs)):
                return loss  # the update judges a first gradient that is not finite, as in every step
            since = 0 if moved.by < best else since + 1
            if since >= PATIENCE or seen >= most or not math.isfinite(moved.by):
                raise self._unfound(seen, moved, best, most)
            best = min(best, moved.by)

    @torch.no_grad()
    def _move(
        self, owner: Owner, pairs: list[Pair], iterates: list[Copy], gradients: list[torch.Tensor | None]
    ) -> None:
        """Move every parameter from the iterate to where the step of these gradients ends."""
        for iterate in iterates:
            iterate.put_back()
        given = (
            (pair, self._kernels, self._program, g) for pair, g in zip(pairs, gradients, strict=True) if g is not None
        )
        move(owner, ways(given, steps=1), [(parameter, self._program.plan) for _, parameter in pairs])

    def _unfound(self, seen: int, moved: _Moved, best: float, most: int) -> ConvergenceError:
        told = f"after {seen} evaluations the last moved it by {moved.by:.3g}, and {moved.allowed:.3g} is near enough"
        if seen < most:
            what = (
                f"the point where the step of `{self._graph.name}` ends was not found: the iteration does not contract"
            )
            told += f"; the best had moved it by {best:.3g}"
            fix = "lower lr or raise beta; and let the closure give the same loss at the same point (no dropout)"
        else:
            what = f"the point where the step of `{self._graph.name}` ends was not found in {most} evaluations"
            fix = f"raise {MOST} or {TOLERANCE}, or lower lr, so that fewer are needed"
        return ConvergenceError(f"{what}; nothing was updated", where=f"  {told}", fix=fix)


def _trainable(owner: Owner) -> Iterator[Pair]:
    for group in owner.param_groups:
        for parameter in group["params"]:
            if parameter.requires_grad and parameter.is_floating_point():
                yield group, parameter


@torch.no_grad()
def _measure(points: list[Copy], iterates: list[Copy], tolerances: list[float]) -> _Moved:
    """Compare the points that parameters are at with those before, all tensors together."""
    by = near = rounding = 0.0
    for point, iterate, tolerance in zip(points, iterates, tolerances, strict=True):
        now = point.parameter.detach()
        unit = torch.finfo(now.dtype).eps
        by += _square(now, point.value)
        near += max(tolerance, STEP_ROUNDINGS * unit) ** 2 * _square(now, iterate.value)
        rounding += (ROUNDINGS * unit) ** 2 * _square(now)
    return _Moved(math.sqrt(by), math.sqrt(near) + math.sqrt(rounding))


def _finite(pairs: list[Pair]) -> bool:
    return all(bool(torch.isfinite(p.grad).all()) for _, p in pairs if p.grad is not None)


def _square(a: torch.Tensor, b: torch.Tensor | None = None) -> float:
    """Return the sum of squares of a difference, ∞ − ∞ being 0; or of a tensor's finite elements."""
    wide = a.double()
    wide = wide.where(wide.isfinite(), 0) if b is None else (wide - b.double()).where(a != b, 0)
    total: Any = wide.square().sum()
    return float(total.full_tensor() if hasattr(total, "full_tensor") else total)


class _Gradient:
    """The gradient of a parameter, and its values."""

    def __init__(self, parameter: torch.Tensor) -> None:
        self._parameter = parameter
        self._copy = None if parameter.grad is None else Copy(parameter.grad)

    def put_back(self) -> None:
        """Let the parameter have it again, as it was."""
        if self._copy is not None:
            self._copy.put_back()
        self._parameter.grad = None if self._copy is None else self._copy.parameter


__all__ = ["Implicit"]
