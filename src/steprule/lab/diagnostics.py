"""Measurements beside the loss, at evaluations only: gradient norm, clip coefficient, size of the update."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

import steprule as sr
from steprule.lab.clips import norm
from steprule.lab.network import at_theta

if TYPE_CHECKING:
    from steprule.lab.methods import Method


@dataclass(frozen=True)
class Seen:
    """The measurements of one step; None stands for a missing or non-finite one."""

    gradient_norm: float | None = None
    clip_coefficient: float | None = None
    update_ratio: float | None = None


WATCHED = ("gradient_norm", "clip_coefficient", "update_ratio")
"""The gauges that are the measurements of our own optimisers."""


def watch(optimizer: Any) -> None:
    """Let an optimiser of ours watch what will be measured: its passes reduce it on their way."""
    if isinstance(optimizer, sr.Optimizer) and optimizer.watch != WATCHED:
        optimizer.watch = WATCHED


class Probe:
    """Is made before a step, with the gradients in place, and read after it; those of a closure are measured later.

    An optimiser of ours tells by its gauges; another's step is measured here. All the numbers of a network are put into
    one tensor first: it is many small ones, and each costs a call.
    """

    def __init__(
        self, model: torch.nn.Module, optimizer: Any, method: Method, scale: torch.amp.GradScaler | None = None
    ) -> None:
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._optimizer, self._method, self._scale = optimizer, method, scale
        self._scaled = 0.0 if scale is None else scale.get_scale()
        self._ours = isinstance(optimizer, sr.Optimizer)
        watch(optimizer)
        self.measure()
        if not self._ours:
            with at_theta(optimizer):
                self._before = _flat(self._parameters)

    def measure(self) -> None:
        """Measure the gradients that are in place now, unless gauges will."""
        if self._ours:
            return
        gradient = _flat(parameter.grad for parameter in self._parameters if parameter.grad is not None)
        self._norm = norm([gradient])
        self._coefficient = _coefficient(gradient, self._norm, self._method) if self._method.clips else None

    def read(self) -> Seen:
        """Return the measurements of the step: ‖Δθ‖ relative to ‖θ‖ after it, at θ itself."""
        if self._scale is not None and self._scale.get_scale() < self._scaled:
            return Seen()  # the gradient overflowed, and there was no step
        if self._ours:
            gauges = self._optimizer.gauges()
            found = [gauges.get(name) for name in WATCHED]
        else:
            with at_theta(self._optimizer):
                after = _flat(self._parameters)
            length = norm([after])
            found = [self._norm, self._coefficient, norm([after.sub_(self._before)]) / length if length else None]
        return Seen(*(value if value is not None and math.isfinite(value) else None for value in found))


def _flat(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return a copy of all the numbers in one row."""
    parts = [tensor.detach().flatten() for tensor in tensors]
    return torch.cat([torch.empty(0), *parts])


def _coefficient(gradient: torch.Tensor, before: float, method: Method) -> float:
    """Return the gradient's norm after clipping over its norm before; 1 for a zero gradient."""
    if not before:
        return 1.0
    for clip in method.clips:
        clip.apply([gradient])
    return norm([gradient]) / before


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of every tensor that an optimiser keeps between steps."""
    kept = (value for state in optimizer.state.values() for value in state.values())
    return sum(value.numel() * value.element_size() for value in kept if isinstance(value, torch.Tensor))
