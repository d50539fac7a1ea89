"""The truth that every arm must agree with before it is timed: the same steps in float64, by torch's plain loop.

Only Lion is spelled out here, since torch has none. Agreement is measured on displacements, that is how far each
parameter has moved since the start: a wrong update cannot hide behind a large parameter.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from steprule.bench.precision import FLOAT32, Precision
from steprule.bench.rules import BOUND, GLOBAL_NORM, NO_CLIP, TENSOR_NORM, VALUE, TimedRule
from steprule.bench.units import Gradients, Tensors, Unit, Values
from steprule.bench.workloads import Workload

STEPS = 3
TOLERANCE = FLOAT32.tolerance


def gradients(workload: Workload, clip: str, bound: float = BOUND) -> list[Gradients]:
    """Return gradients for three steps; the last are short enough to pass a clipping by norm as they are.

    Sizes lie between 0.6 and 1.6: some components are above the bound, and none is so small that the sign of a
    momentum, which is all that Lion uses, would be a matter of rounding.
    """
    dice = torch.Generator().manual_seed(1)
    made = [[_signed(shape, dice) for shape in workload.shapes] for _ in range(STEPS)]
    if clip == GLOBAL_NORM:
        length = float(torch.stack([gradient.norm() for gradient in made[-1]]).norm())
        made[-1] = [gradient * (0.5 * bound / length) for gradient in made[-1]]
    if clip == TENSOR_NORM:
        made[-1] = [gradient * (0.5 * bound / float(gradient.norm())) for gradient in made[-1]]
    return made


def _signed(shape: tuple[int, ...], dice: torch.Generator) -> torch.Tensor:
    size = torch.rand(shape, generator=dice) + 0.6
    return torch.where(torch.rand(shape, generator=dice) < 0.5, -size, size)


def clipped(clip: str, given: Gradients, bound: float = BOUND) -> Gradients:
    """Return the gradients of a step after clipping, in float64."""
    wide = [gradient.double() for gradient in given]
    if clip == VALUE:
        return [gradient.clamp(-bound, bound) for gradient in wide]
    if clip == NO_CLIP:
        return wide
    lengths = [gradient.norm() for gradient in wide]
    if clip == GLOBAL_NORM:
        lengths = [torch.stack(lengths).norm()] * len(wide)
    return [g * torch.clamp(bound / (length + 1e-6), max=1.0) for g, length in zip(wide, lengths, strict=True)]


def reference(rule: TimedRule, start: Sequence[torch.Tensor], steps: Sequence[Gradients]) -> Values:
    """Return the true parameters after these steps on clipped gradients."""
    parameters = [torch.nn.Parameter(tensor.detach().double()) for tensor in start]
    if rule.torch_class is None:
        return _lion(rule, parameters, steps)
    optimizer = rule.torch_class(parameters, lr=rule.lr, foreach=False, **rule.options)
    for given in steps:
        for parameter, gradient in zip(parameters, given, strict=True):
            parameter.grad = gradient
        optimizer.step()
    return [parameter.detach().numpy() for parameter in parameters]


@torch.no_grad()
def _lion(rule: TimedRule, parameters: Sequence[torch.Tensor], steps: Sequence[Gradients]) -> Values:
    momenta = [torch.zeros_like(parameter) for parameter in parameters]
    for given in steps:
        for theta, g, m in zip(parameters, given, momenta, strict=True):
            theta.sub_(rule.lr * torch.sign(0.9 * m + 0.1 * g))
            m.mul_(0.99).add_(0.01 * g)
    return [parameter.detach().numpy() for parameter in parameters]


def deviation(found: Values, truth: Values, start: Values) -> float:
    """Return the largest error as a part of the farthest move within its tensor, or infinity for NaN."""
    worst = 0.0
    for mine, right, before in zip(found, truth, start, strict=True):
        error, moved = float(abs(mine - right).max()), float(abs(right - before).max())
        worst = max(worst, error / moved) if error == error and moved else float("inf")
    return worst


def drift(found: Values, truth: Values, start: Values) -> float:
    """Return the error of all elements in the mean, as a part of how far they moved in the mean; both of squares."""
    errors = sum(float(((mine - right) ** 2).sum()) for mine, right in zip(found, truth, strict=True))
    moves = sum(float(((right - before) ** 2).sum()) for right, before in zip(truth, start, strict=True))
    return (errors / moves) ** 0.5 if moves else float("inf")


class Trial:
    """A few steps that every arm takes from the same start, and where they must lead."""

    def __init__(self, rule: TimedRule, clip: str, workload: Workload, precision: Precision = FLOAT32) -> None:
        given = Tensors(workload, rule.start, sets=0, precision=precision)
        start, bound = given.parameters, given.bound
        self.tolerance, self._narrow = precision.tolerance, precision.bytes == 2
        self._steps = [[each.to(precision.dtype) for each in step] for step in gradients(workload, clip, bound)]
        self._truth = reference(rule, start, [clipped(clip, step, bound) for step in self._steps])
        self._start: Values = [tensor.detach().double().numpy() for tensor in start]

    def of(self, unit: Unit) -> float:
        """Take the steps with a fresh unit, and return how far it is off; many ways to clip change gradients."""
        for given in self._steps:
            unit.place(unit.prepare([gradient.to(unit.device, copy=True) for gradient in given]))
            unit.step()
        seen = unit.values(), self._truth, self._start
        return max(deviation(*seen), 5 * drift(*seen) if self._narrow else 0.0)
