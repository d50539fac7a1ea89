"""Clippings as factors of a comparison: the library's transforms, and the same arithmetic on torch's gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

import steprule as sr

CLIPS: dict[str, str] = {
    "clip_norm": "max_norm",
    "clip_component": "limit",
    "clip_global_norm": "max_norm",
    "clip_value": "limit",
}
"""Every clipping by name, with the name of its bound."""

Gradients = Sequence[torch.Tensor]


def norm(tensors: Gradients) -> float:
    """Return the Euclidean norm of all the numbers together, in float64."""
    if not tensors:
        return 0.0
    parts = [torch.linalg.vector_norm(tensor, dtype=torch.float64) for tensor in tensors]
    return float(torch.linalg.vector_norm(torch.stack(parts)))


def _to_length(gradients: Gradients, bound: float) -> None:
    length = norm(gradients)
    for gradient in gradients if length else ():
        gradient.div_(length).mul_(bound)


def _from_above(gradients: Gradients, bound: float) -> None:
    for gradient in gradients:
        gradient.clamp_(max=bound)


def _to_at_most(gradients: Gradients, bound: float) -> None:
    # torch.nn.utils.clip_grad_norm_, bit for bit; that one wants parameters.
    length = torch.nn.utils.get_total_norm(gradients)
    for gradient in gradients:
        gradient.mul_(torch.clamp(bound / (length + 1e-6), max=1.0))


def _between(gradients: Gradients, bound: float) -> None:
    for gradient in gradients:
        gradient.clamp_(-bound, bound)


_IN_PLACE: dict[str, Callable[[Gradients, float], None]] = {
    "clip_norm": _to_length,
    "clip_component": _from_above,
    "clip_global_norm": _to_at_most,
    "clip_value": _between,
}


@dataclass(frozen=True)
class Clip:
    """A clipping and its bound."""

    name: str
    bound: float

    @property
    def label(self) -> str:
        """The clipping as a person would write it, `clip_norm(1)`."""
        return f"{self.name}({self.bound:g})"

    def transform(self) -> Any:
        """Return the library's transform."""
        home = sr.board if self.name in {"clip_norm", "clip_component"} else sr
        return getattr(home, self.name)(**{CLIPS[self.name]: self.bound})

    def apply(self, gradients: Gradients) -> None:
        """Clip gradients where they lie: for optimisers that have no clipping of their own."""
        _IN_PLACE[self.name](gradients, self.bound)


def transform(clips: Sequence[Clip]) -> Any:
    """Return one transform that clips in this order, or None for an empty list."""
    steps = [clip.transform() for clip in clips]
    if len(steps) < 2:
        return steps[0] if steps else None

    @sr.transform
    def clipped(theta: Any, g: Any) -> Any:
        for step in steps:
            g = step(theta, g)
        return g

    return clipped
