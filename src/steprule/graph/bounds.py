"""Bounds of a value, as far as its formula tells them; any value may also be NaN."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from itertools import product

import numpy as np

from .graph import Graph, Hyper
from .node import Node, hyper, read, topological
from .ops import Reducer

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


def _power(a: Bounds, b: Bounds) -> Bounds:
    even = b[0] == b[1] and b[0] % 2 == 0
    return (0.0, math.inf) if even or a[0] >= 0 else ANYWHERE


def _reduced(own: Reducer, each: Bounds) -> Bounds:
    """Return bounds of a reduction; a sum of what is never negative is not, however it is rounded."""
    if own.combine != "add" or own.finish not in {"", "div", "sqrt"}:
        return ANYWHERE
    low, high = (0.0, math.inf) if own.each == "mul" else ANYWHERE if own.each else each
    return (0.0 if low >= 0 else -math.inf, 0.0 if high <= 0 else math.inf)


_RULES: dict[str, Callable[..., Bounds]] = {
    "normal": lambda: (-6.0, 6.0),
    "uniform": lambda: (0.0, 1.0),
    "rademacher": lambda: (-1.0, 1.0),
    "hyper": lambda: (-LARGE, LARGE),
    "step": lambda: (1.0, LARGE),
    "neg": lambda a: (-a[1], -a[0]),
    "abs": _length,
    "sqrt": lambda a: (math.sqrt(max(a[0], 0.0)), math.sqrt(max(a[1], 0.0))),
    "sign": lambda _: (-1.0, 1.0),
    "floor": lambda a: (float(np.floor(a[0])), float(np.floor(a[1]))),
    "mod": lambda _, b: (min(b[0], 0.0), max(b[1], 0.0)),
    "tanh": lambda _: (-1.0, 1.0),
    "atan2": lambda *_: (-4.0, 4.0),
    "add": lambda a, b: (a[0] + b[0], a[1] + b[1]),
    "sub": lambda a, b: (a[0] - b[1], a[1] - b[0]),
    "mul": _times,
    "pow": _power,
    "exp": lambda _: (0.0, math.inf),
    "div": _over,
    "minimum": lambda a, b: (min(a[0], b[0]), min(a[1], b[1])),
    "maximum": lambda a, b: (max(a[0], b[0]), max(a[1], b[1])),
    "where": lambda _, a, b: (min(a[0], b[0]), max(a[1], b[1])),
}


def bounds(value: Node, known: Mapping[Node, Bounds] | None = None) -> Bounds:
    """Return the least and the greatest number that a value can be, if some are `known` already."""
    found: dict[Node, Bounds] = dict(known or {})
    for node in topological([value]):
        if node in found:
            continue
        if node.op == "mul" and node.inputs[0] is node.inputs[1]:
            found[node] = (0.0, math.inf)
        elif node.op == "const":
            found[node] = (float(node.attr), float(node.attr))  # type: ignore[arg-type]
        elif node.reduces:
            found[node] = _reduced(node.reducer, found[node.inputs[0]])
        elif node.kind == "size":
            found[node] = (0.0, LARGE)
        else:
            rule = _RULES.get(node.op)
            found[node] = rule(*(found[child] for child in node.inputs)) if rule is not None else ANYWHERE
    return found[value]


def _range(declared: Hyper) -> Bounds:
    """Return a hyperparameter's range; that of a share, [0, 1], if none is declared and its default is one."""
    ends = [declared.low, declared.above], [declared.high, declared.below]
    low, high = (next((end for end in own if end is not None), None) for own in ends)
    if low is None and high is None and declared.value is not None and 0 <= declared.value <= 1:
        return (0.0, 1.0)
    return (-LARGE if low is None else low, LARGE if high is None else high)


def never_negative(graph: Graph) -> frozenset[str]:
    """Return the slots that are never negative: what is declared so, and what starts so and, as it is updated, stays.

    Where a rule declares no range, a hyperparameter whose default is in [0, 1] counts as one of that range.
    """
    known = {hyper(item.name): _range(item) for item in graph.hypers}
    new = dict(graph.outputs)
    kept = {slot.name for slot in graph.slots if slot.low == 0 or (not isinstance(slot.init, str) and slot.init >= 0)}
    sure = {slot.name for slot in graph.slots if slot.low == 0}
    while True:
        known |= {read(slot.name, slot.rank): (0.0, math.inf) for slot in graph.slots if slot.name in kept}
        known |= {read(slot.name, slot.rank): ANYWHERE for slot in graph.slots if slot.name not in kept}
        lost = {name for name in kept - sure if not bounds(new[name], known)[0] >= 0}
        if not lost:
            return frozenset(kept)
        kept -= lost


def finite(scalar: Node) -> bool:
    """Whether a scalar cannot be infinite."""
    low, high = bounds(scalar)
    return -math.inf < low and high < math.inf


def away_from_zero(scalar: Node) -> bool:
    """Whether the reciprocal of a scalar overflows nowhere."""
    low, high = bounds(scalar)
    return low >= SMALLEST or high <= -SMALLEST


__all__ = ["away_from_zero", "bounds", "finite", "never_negative"]
