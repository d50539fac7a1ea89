"""The material of an arm: tensors with sets of gradients, and one working set of them with its step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from steprule.bench.precision import FLOAT32, Precision
from steprule.bench.workloads import Workload

Gradients = list[torch.Tensor]
Values = list[NDArray[np.float64]]


def drawn_on(workload: Workload, device: str) -> str:
    """Return where numbers are drawn: in main memory, since a GPU's dice fall differently, unless it takes seconds.

    What is checked against the truth never comes from memory, so it has the same numbers everywhere.
    """
    return device if workload.memory_bound else "cpu"


class Tensors:
    """Parameters, and sets of gradients for them: always the same numbers; those of a truth, on every device."""

    precision = FLOAT32

    def __init__(
        self, workload: Workload, start: float, sets: int, device: str = "cpu", precision: Precision = FLOAT32
    ) -> None:
        self.precision = precision
        where = drawn_on(workload, device)
        dice = torch.Generator(where).manual_seed(0)

        def drawn(deviation: float) -> Gradients:
            made = (torch.empty(shape, device=where).normal_(0, deviation, generator=dice) for shape in workload.shapes)
            return [tensor.to(device, precision.dtype) for tensor in made]

        self.parameters = [torch.nn.Parameter(tensor) for tensor in drawn(start * precision.start)]
        self.gradients = [drawn(1.0) for _ in range(sets)]

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.parameters[0].device

    @property
    def bound(self) -> float:
        """The greatest norm that clipping leaves."""
        return self.precision.bound(self.parameters)

    def widened(self) -> Tensors:
        """Return the parameters in float32, clipped by the same bound; gradients are widened as they come."""
        wide = copy(self)
        wide.parameters = [torch.nn.Parameter(parameter.detach().float()) for parameter in self.parameters]
        wide.gradients = []
        return wide

    def everything(self) -> Sequence[Sequence[torch.Tensor]]:
        """Return the parameters and every set of gradients."""
        return [self.parameters, *self.gradients]


class Unit:
    """One working set of an arm: a step on some tensors, and the way in which it gets gradients.

    Its first `warm` steps are not like those that follow: they make state, compile, or are recorded.
    """

    warm = 1
    stays = False
    """Whether its gradients are always the same tensors, into which new values are copied."""

    def __init__(self, step: Callable[[], object], parameters: Sequence[torch.Tensor]) -> None:
        self.step = step
        self.parameters = parameters
        self._standing: Gradients = []

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.parameters[0].device

    def prepare(self, gradients: Gradients) -> Any:
        """Return gradients in the form that `place` takes at no cost."""
        return gradients

    def place(self, prepared: Any) -> None:
        """Make these the gradients: new tensors at other addresses, as after a backward pass."""
        for parameter, gradient in zip(self.parameters, prepared, strict=True):
            parameter.grad = gradient

    def refill(self, prepared: Any) -> None:
        """Copy these values into gradients that stay the same tensors."""
        if not self._standing:
            self._standing = [torch.empty_like(gradient) for gradient in prepared]
        Unit.place(self, self._standing)  # other arms may share the parameters
        for mine, gradient in zip(self._standing, prepared, strict=True):
            mine.copy_(gradient)

    def values(self) -> Values:
        """Return the parameters as they are now, in float64."""
        return [parameter.detach().cpu().double().numpy() for parameter in self.parameters]


class StandingUnit(Unit):
    """A unit whose step was recorded with the addresses of its gradients."""

    stays = True

    def place(self, prepared: Any) -> None:
        """Copy these values into its gradients."""
        self.refill(prepared)
