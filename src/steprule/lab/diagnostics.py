"""What is measured beside the loss, at evaluations only: gradient norm, clip coefficient, size of the update."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from steprule.lab.clips import norm
from steprule.lab.passes import at_theta

if TYPE_CHECKING:
    from steprule.lab.methods import Method


@dataclass(frozen=True)
class Seen:
    """What one step showed; none is what was not measured, or is not finite."""

    gradient_norm: float | None = None
    clip_coefficient: float | None = None
    update_ratio: float | None = None


class Probe:
    """Is made before a step, with the gradients in place, and read after it."""

    def __init__(self, model: torch.nn.Module, optimizer: Any, method: Method) -> None:
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._optimizer = optimizer
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        self._norm = norm(gradients)
        self._coefficient = _coefficient(gradients, self._norm, method) if method.clips else None
        with at_theta(optimizer):
            self._before = [parameter.detach().clone() for parameter in self._parameters]

    def read(self) -> Seen:
        """Return what the step did: ‖Δθ‖ relative to ‖θ‖, at θ itself."""
        with at_theta(self._optimizer):
            moved = [now.detach() - before for now, before in zip(self._parameters, self._before, strict=True)]
        length = norm(self._before)
        found = self._norm, self._coefficient, norm(moved) / length if length else None
        return Seen(*(value if value is not None and math.isfinite(value) else None for value in found))


def _coefficient(gradients: list[torch.Tensor], before: float, method: Method) -> float:
    """Return the gradient's norm after clipping over its norm before; 1 where there is nothing to clip."""
    if not before:
        return 1.0
    clipped = [gradient.clone() for gradient in gradients]
    for clip in method.clips:
        clip.apply(clipped)
    return norm(clipped) / before


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of every tensor that an optimiser keeps between steps."""
    kept = (value for state in optimizer.state.values() for value in state.values())
    return sum(value.numel() * value.element_size() for value in kept if isinstance(value, torch.Tensor))
