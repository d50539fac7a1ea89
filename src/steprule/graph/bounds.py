"""Bounds of a scalar, as far as its formula tells them; any scalar may also be NaN."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import product

from .node import Node, topological

Bounds = tuple[float, float]

ANYWHERE: Bounds = (-math.inf, math.inf)
LARGE = 1e100
"""No hyperparameter and no count of steps is taken to be larger."""
SMALLEST = 2.0**-126
"""The smallest number whose reciprocal every type that is computed in can hold."""


def _hull(values: Iterable[float]) -> Bounds:
    known = [value for value in values if not math.isnan(value)]
    return (min(known), max(known)) if known else ANYWHERE


def _times(a: Bounds, b: Bounds) -> Bounds:
    return _hull(x * y if x and y else 0.0 for x, y in product(a, b))


def _over(a: Bounds, b: Bounds) -> Bounds:
    return ANYWHERE if b[0] <= 0 <= b[1] else _hull(x / y for x, y in product(a, b))


def _length(a: Bounds) -> Bounds:
    inside = a[0] <= 0 <= a[1]
    return (0.0 if inside else min(map(abs, a)), max(map(abs, a)))


_RULES: dict[str, Callable[..., Bounds]] = {
    "hyper": lambda: (-LARGE, LARGE),
    "step": lambda: (1.0, LARGE),
    "neg": lambda a: (-a[1], -a[0]),
    "abs": _length,
    "sqrt": lambda a: (math.sqrt(max(a[0], 0.0)), math.sqrt(max(a[1], 0.0))),
    "sign": lambda _: (-1.0, 1.0),
    "add": lambda a, b: (a[0] + b[0], a[1] + b[1]),
    "sub": lambda a, b: (a[0] - b[1], a[1] - b[0]),
    "mul": _times,
    "div": _over,
    "minimum": lambda a, b: (min(a[0], b[0]), min(a[1], b[1])),
    "maximum": lambda a, b: (max(a[0], b[0]), max(a[1], b[1])),
    "where": lambda _, a, b: (min(a[0], b[0]), max(a[1], b[1])),
}


def bounds(scalar: Node) -> Bounds:
    """Return the least and the greatest number that a scalar can be."""
    found: dict[Node, Bounds] = {}
    for node in topological([scalar]):
        if node.op == "const":
            found[node] = (float(node.attr), float(node.attr))  # type: ignore[arg-type]
        elif node.reduces and node.reducer.length:
            found[node] = (0.0, math.inf)
        else:
            rule = _RULES.get(node.op)
            found[node] = rule(*(found[child] for child in node.inputs)) if rule is not None else ANYWHERE
    return found[scalar]


def finite(scalar: Node) -> bool:
    """Whether a scalar cannot be infinite."""
    low, high = bounds(scalar)
    return -math.inf < low and high < math.inf


def away_from_zero(scalar: Node) -> bool:
    """Whether the reciprocal of a scalar overflows nowhere."""
    low, high = bounds(scalar)
    return low >= SMALLEST or high <= -SMALLEST


__all__ = ["away_from_zero", "bounds", "finite"]
