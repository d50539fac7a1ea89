"""Simplification: named rewrite rows, applied bottom-up until none applies.

Each row takes a node whose inputs are already simple and returns a better one, or None. A row keeps the value for every
finite input up to the last bits of rounding, and keeps NaN and infinity: an identity that fails for them (x·0 = 0,
x − x = 0) is no row. Nor is one that may overflow where the formula does not: elements are multiplied and divided in
the order in which they are written, since (a·g)·g may be finite where a·g² is not. The sign of a zero may change in a
reduction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial, reduce

import numpy as np

from .bounds import away_from_zero, finite
from .graph import Graph
from .node import Node, Rank, const, make, topological
from .ops import OPS
from .verify import verify

Row = Callable[[Node], Node | None]


def _value(node: Node) -> float | None:
    return node.attr if node.op == "const" and isinstance(node.attr, float) else None


def fold_constants(node: Node) -> Node | None:
    """Compute a node whose inputs are all numbers."""
    if node.kind != "pointwise" or any(_value(child) is None for child in node.inputs):
        return None
    with np.errstate(all="ignore"):
        result = float(OPS[node.op].meaning(*(np.float64(child.attr) for child in node.inputs)))  # type: ignore[arg-type]
    return const(result) if math.isfinite(result) else None


def drop_neutral(node: Node) -> Node | None:
    """X − 0, 1·x, x / 1, x¹ are x; x + 0 is not where x is −0, as 1/x tells."""
    if len(node.inputs) != 2:
        return None
    a, b = node.inputs
    left, right = _value(a), _value(b)
    if node.op == "mul" and left == 1:
        return b
    if (node.op == "sub" and repr(right) == "0.0") or (node.op in {"mul", "div", "pow"} and right == 1):
        return a
    return None


def negations(node: Node) -> Node | None:
    """−(−x) is x; x + (−y) is x − y; x − (−y) is x + y; −1·x is −x."""
    if node.op == "neg" and node.inputs[0].op == "neg":
        return node.inputs[0].inputs[0]
    if node.op in {"add", "sub"} and node.inputs[1].op == "neg":
        other = "sub" if node.op == "add" else "add"
        return make(other, node.inputs[0], node.inputs[1].inputs[0])
    if node.op == "add" and node.inputs[0].op == "neg":
        return make("sub", node.inputs[1], node.inputs[0].inputs[0])
    if node.op == "mul" and _value(node.inputs[0]) == -1:
        return make("neg", node.inputs[1])
    return None


def small_powers(node: Node) -> Node | None:
    """x², x³, x⁴ are products; √ and 1/x have their own ops."""
    if node.op != "pow":
        return None
    base, exponent = node.inputs[0], _value(node.inputs[1])
    square = make("mul", base, base)
    return {
        2.0: square,
        3.0: make("mul", base, square),
        4.0: make("mul", square, square),
        -1.0: make("div", const(1), base),
    }.get(exponent if exponent is not None else math.nan)


def divide_scalars_once(node: Node) -> Node | None:
    """X / s is x·(1/s) where s is no element: the division is done once, not once an element.

    A norm or the value of a slot may be so small that 1/s is infinite where x / s is finite; a hyperparameter may not.
    """
    if node.op != "div" or node.rank is not Rank.ELEMENT or node.inputs[1].rank is Rank.ELEMENT:
        return None
    if node.inputs[1].rank > Rank.HOST and not away_from_zero(node.inputs[1]):
        return None
    return make("mul", make("div", const(1), node.inputs[1]), node.inputs[0])


def scalars_out(node: Node) -> Node | None:
    """sum(a·x) is a·sum(x), and ‖a·x‖ is |a|·‖x‖, where a waits for a reduction itself: then x need not wait.

    The factor must be finite, as that of a clipping is: 0·∞ is NaN, and a sum need not be 0. It must be the same for
    all numbers that are summed, hence for all tensors if the sum is over all. (A sum of nothing becomes NaN if a is.)
    """
    if not node.reduces or not (node.reducer.linear or node.reducer.length):
        return None
    out: list[Node] = []
    kept: list[Node | None] = []  # None is a minus
    inner = node.inputs[0]
    while inner.op == "neg" or (inner.op == "mul" and inner.inputs[0].rank < Rank.ELEMENT):
        factor = None if inner.op == "neg" else inner.inputs[0]
        if factor is not None and _comes_out(factor, of=node):
            out.append(factor)
        else:
            kept.append(factor)
        inner = inner.inputs[-1]
    for factor in reversed(kept):
        inner = make("neg", inner) if factor is None else make("mul", factor, inner)
    if not out or inner.rank is not node.inputs[0].rank:  # else fewer numbers would be reduced
        return None
    outer = reduce(partial(make, "mul"), out)
    return make("mul", make("abs", outer) if node.reducer.length else outer, make(node.op, inner, attr=node.attr))


def _comes_out(factor: Node, *, of: Node) -> bool:
    waits = any(node.reduces for node in topological([factor]))
    same = _shared(factor) if of.kind == "global" else factor.rank <= of.rank
    return waits and finite(factor) and same


def _shared(scalar: Node) -> bool:
    """Whether a scalar is the same for all tensors, whatever their groups, step counts and slots."""
    whole = {node for node in topological([scalar]) if node.kind == "global"}
    return all(
        node in whole or node.op == "const" or (node.inputs and node.kind != "tensor")
        for node in topological([scalar], whole)
    )


def squares_last(node: Node) -> Node | None:
    """s·x² is (s·x)·x for a scalar s: x² alone may overflow where the whole does not, and never the other way round."""
    if node.op != "mul" or node.inputs[1].rank is not Rank.ELEMENT:
        return None
    scalar, rest = node.inputs
    if scalar.rank < Rank.ELEMENT and rest.op == "mul" and rest.inputs[0] is rest.inputs[1]:
        return make("mul", make("mul", scalar, rest.inputs[0]), rest.inputs[0])
    return None


def order_operands(node: Node) -> Node | None:
    """Write the operand that varies least first, so that equal sums and products are one node."""
    if node.op not in {"add", "mul"}:
        return None
    a, b = node.inputs
    if (a.rank.value, a.op != "const", a.key) <= (b.rank.value, b.op != "const", b.key):
        return None
    return make(node.op, b, a)


def same_choice(node: Node) -> Node | None:
    """where(c, x, x), min(x, x) and max(x, x) are x."""
    if node.op in {"where", "minimum", "maximum"} and node.inputs[-1] is node.inputs[-2]:
        return node.inputs[-1]
    return None


ROWS: tuple[Row, ...] = (
    fold_constants,
    drop_neutral,
    negations,
    small_powers,
    divide_scalars_once,
    scalars_out,
    squares_last,
    order_operands,
    same_choice,
)
"""Every rewrite, in the order they are tried."""

_ROUNDS = 32  # every row shrinks the graph, hoists a scalar or sorts two operands, so few rounds are needed


def rewrite(node: Node) -> Node:
    """Apply rows to one node, whose inputs are simple, until none applies; its rank stays (a sum counts on it)."""
    for _ in range(_ROUNDS):
        found = (row(node) for row in ROWS)
        better = next((new for new in found if new is not None and new.rank is node.rank), None)
        if better is None or better is node:
            return node
        node = better
    return node


def _simplify_once(roots: list[Node]) -> dict[Node, Node]:
    image: dict[Node, Node] = {}
    for node in topological(roots):
        rebuilt = make(node.op, *(image[child] for child in node.inputs), attr=node.attr) if node.inputs else node
        image[node] = rewrite(rebuilt)
    return image


def renamed(roots: Sequence[Node], leaves: Mapping[Node, Node]) -> list[Node]:
    """Return simplified nodes with other leaves in them; operands stand in the order that these have."""
    image: dict[Node, Node] = {}
    for node in topological(roots):
        new = make(node.op, *(image[child] for child in node.inputs), attr=node.attr) if node.inputs else node
        new = leaves.get(node, new)
        image[node] = order_operands(new) or new
    return [image[root] for root in roots]


def simplify(graph: Graph) -> Graph:
    """Return the graph with every rewrite applied; equal subexpressions are one node already."""
    verify(graph)
    roots = list(graph.roots)
    origins, gradients = dict(graph.origins), dict(graph.gradients)
    for _ in range(_ROUNDS):
        image = _simplify_once(roots)
        for old, new in image.items():
            for part in (new, *new.inputs) if old in origins else ():  # a row may have made what its node is made of
                if part.inputs:
                    origins.setdefault(part, origins[old])
        gradients = {image.get(node, node): name for node, name in gradients.items()}
        after = [image[root] for root in roots]
        if after == roots:
            break
        roots = after
    left = iter(roots)
    parameter, slots = next(left), tuple(next(left) for _ in graph.slots)
    point = next(left) if graph.evaluate_at is not None else None
    gauges = tuple(replace(one, parts=tuple((written, next(left)) for written, _ in one.parts)) for one in graph.gauges)
    new = replace(graph, new_parameter=parameter, new_slots=slots, evaluate_at=point, gauges=gauges)
    return verify(replace(new, gradients=gradients, origins=origins))
