"""The exponential average, as torch.optim takes it."""

from __future__ import annotations

from typing import Any

from ..rule import where


def average(m: Any, g: Any, beta: Any) -> Any:
    """Return βm + (1−β)g as `torch.lerp` does: a step from the nearer end, so that after ∞ a finite g gives NaN."""
    difference = g - m
    return where(beta > 0.5, m + (1 - beta) * difference, g - beta * difference)


__all__ = ["average"]
