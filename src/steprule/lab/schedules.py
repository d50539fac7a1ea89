"""Learning-rate schedules: the factor that the learning rate is multiplied by at each iteration."""

from __future__ import annotations

import math
from collections.abc import Callable

WARMUP = 0.05
"""The share of the iterations over which a warm-up rises."""


def constant(iteration: int, count: int) -> float:  # noqa: ARG001
    """Return 1: the learning rate stays as it is."""
    return 1.0


def cosine(iteration: int, count: int) -> float:
    """Return half a cosine from 1 at the first iteration to 0 after the last (Loshchilov & Hutter, 2017)."""
    return (1 + math.cos(math.pi * (iteration - 1) / count)) / 2


def warmup(iteration: int, count: int) -> float:
    """Return a straight line up to 1 over the first 5 % of the iterations, then 1."""
    return min(1.0, iteration / _rising(count))


def warmup_cosine(iteration: int, count: int) -> float:
    """Return a straight line up to 1 over the first 5 % of the iterations, then half a cosine down to 0."""
    rising = _rising(count)
    return iteration / rising if iteration <= rising else cosine(iteration - rising, count - rising)


def _rising(count: int) -> int:
    """Return over how many iterations a warm-up rises: at least one."""
    return max(1, math.ceil(WARMUP * count))


SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "constant": constant,
    "cosine": cosine,
    "warmup": warmup,
    "warmup-cosine": warmup_cosine,
}
"""Every schedule by name: takes the iteration, from 1, and how many there are; gives the factor."""
