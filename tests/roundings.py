"""How far two executions of one graph may be apart, if they differ only in how they round: a bound for every output.

It is 0 where both are exact in the same way, as + − × ÷ √ are. A function of `Math` may be off by 4 units in the last
place, a sum by 4 of the sum of absolute values. What follows from that is told by computing each operation at the
corners of what its inputs may be, of which in every input it is monotone.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from steprule.graph.evaluate import _values
from steprule.graph.graph import Graph
from steprule.graph.node import Node
from steprule.graph.ops import OPS

INEXACT = {"pow", "exp", "log", "tanh", "atan2", "normal"}
"""What rounds as it likes, by no more than 4 units in the last place; a normal number is made of several."""
UNITS = 4
_LEAST = 5e-324


def bounds(graph: Graph, arrays: Sequence[Mapping[str, Any]], numbers: Sequence[Mapping[str, float]]) -> Any:
    """Return the value of each output, and its bound, by name and tensor, as the interpreter computes them."""
    shapes = [np.shape(item[graph.parameter]) for item in arrays]
    values = _values(graph.nodes, arrays, numbers, shapes, 0)
    errors: dict[Node, list[Any]] = {}
    with np.errstate(all="ignore"):
        for node in graph.nodes:
            if node.kind == "global":
                parts = [_flat(values[node.inputs[0]]), _flat(errors[node.inputs[0]])]
                errors[node] = [_of_sum(node, *parts, values[node][0], None)] * len(arrays) if arrays else []
            else:
                errors[node] = [_error(node, values, errors, i) for i in range(len(arrays))]
    return {name: list(zip(values[node], errors[node], strict=True)) for name, node in graph.outputs}


def _flat(parts: Sequence[Any]) -> Any:
    return np.concatenate([np.ravel(x) for x in parts]) if parts else np.zeros(0)


def _error(node: Node, values: Any, errors: Any, i: int) -> Any:
    own, row = values[node][i], OPS[node.op]
    if node.reduces:
        return _of_sum(node, values[node.inputs[0]][i], errors[node.inputs[0]][i], own, node.axis)
    inputs = [(values[child][i], errors[child][i]) for child in node.inputs]
    inexact = node.op in INEXACT
    exact = np.where(inexact & np.isfinite(own), (16 if node.op == "normal" else UNITS) * np.spacing(np.abs(own)), 0.0)
    if node.op in {"minimum", "maximum"}:  # either zero is the smaller
        exact = np.where((own == 0) & (inputs[0][0] == inputs[1][0]), _LEAST, exact)
    if not inputs or not any(np.any(error) for _, error in inputs):
        return np.broadcast_to(exact, np.shape(own))
    far = _corners(row.meaning, inputs, own, node.op)
    off = np.any(np.broadcast_arrays(*(error > 0 for _, error in inputs)), axis=0)
    if node.truth:
        return np.where(off & (far > 0), 1.0, 0.0)
    units = (UNITS if inexact else 2) * np.spacing(np.abs(own) + far)
    moved = np.where(np.isfinite(own) & np.isfinite(far), far + units, np.inf)
    return np.where(off, moved, exact)


def _corners(meaning: Any, inputs: Sequence[Any], own: Any, op: str) -> Any:
    """Return how far a value may move while its inputs do."""
    sides = [_sides(value, error) for value, error in inputs]
    found = [np.asarray(meaning(*corner), float) for corner in itertools.product(*sides)]
    moved = [np.where(x == own, 0.0, np.abs(x - np.asarray(own, float))) for x in found]
    far = np.nan_to_num(np.max(moved, axis=0), nan=np.inf)
    if op in {"div", "atan2", "pow", "mod"}:
        value, error = inputs[0 if op in {"pow", "atan2"} else 1]
        reach = np.pi * 2 if op == "atan2" else np.inf
        far = np.where((np.abs(value) <= error) & _any_error(inputs), reach, far)
    if op == "mod":
        turns = [np.floor(a / b) for a, b in itertools.product(*sides)]
        same = np.all([x == turns[0] for x in turns], axis=0)
        far = np.where(same, far, np.abs(inputs[1][0]) + inputs[1][1])
    return far


def _any_error(inputs: Sequence[Any]) -> Any:
    return np.any(np.broadcast_arrays(*(error > 0 for _, error in inputs)), axis=0)


def _sides(value: Any, error: Any) -> list[Any]:
    if np.asarray(value).dtype == bool:
        return [np.where(error > 0, False, value), np.where(error > 0, True, value)]
    low, high = value - error, value + error
    return [np.where(error > 0, low, value), np.where(error > 0, high, value)]


def _of_sum(node: Node, x: Any, error: Any, own: Any, axis: int | None) -> Any:
    """Return the bound of a reduction."""
    own_reducer = node.reducer
    each = OPS.get(own_reducer.each)
    terms, off = (x, error) if each is None else (x * x, 2 * np.abs(x) * error + error * error)
    keep = {} if axis is None else {"axis": axis, "keepdims": True}
    if own_reducer.combine != "add":
        return np.max(off, initial=0.0, **keep)
    size = np.sum(np.abs(terms), **keep)
    off = np.sum(off, **keep)
    total = np.sum(terms, **keep)
    wrong = np.where(np.isfinite(size), UNITS * np.spacing(size) + off * (1 + 1e-9), np.where(off > 0, np.inf, 0.0))
    if np.size(terms, axis) < 2 and not np.any(error):
        wrong = np.zeros_like(wrong)  # one number is its own sum
    count = np.size(terms, axis)
    sides = [np.maximum(total - wrong, 0) if own_reducer.length else total - wrong, total + wrong]
    ends = [np.where(wrong > 0, np.abs(own_reducer.finished(end, count) - own), 0.0) for end in sides]
    far = np.nan_to_num(np.max(ends, axis=0), nan=np.inf)
    far = np.where(wrong > 0, far + 2 * np.spacing(np.abs(own) + far), 0.0)
    return np.nan_to_num(far, nan=np.inf)


__all__ = ["INEXACT", "UNITS", "bounds"]
