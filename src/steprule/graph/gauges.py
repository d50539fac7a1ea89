"""The gauges of every rule: what its formula says of norms, clipping, direction and stalling, as further outputs.

Each is a formula of reductions of elements that a step reads or makes anyway. `kept` is a new value as its array holds
it; in the interpreter, which rounds nothing, that is the value itself.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from ..errors import HyperparameterError
from .graph import Gauge, Graph, Slot, gauge
from .node import Node, Rank, const, make, read, topological
from .ops import OPS
from .simplify import simplify

MOMENTS = ("m", "momentum_buffer", "exp_avg")
"""The names of first moments, where the formula alone does not prove that a slot is one."""
MEANINGS = {
    "gradient_norm": "the length of the gradient before clipping",
    "clip_coefficient": "the length of the gradient after clipping, over that before; 1 for a zero gradient",
    "clipped": "the share of elements that clipping changed",
    "update_norm": "the length of what was added to the parameter, before any rounding to 16 bits",
    "parameter_norm": "the length of the new parameter",
    "update_ratio": "update_norm over parameter_norm",
    "cosine": "the cosine between the gradient and the new first moment; 0 where one of them is zero",
    "nonfinite": "the number of elements of the gradient that are NaN or infinite",
    "stalled": "the share of elements whose stored value stayed the same though their update was not zero",
}
"""The gauges of every rule, by name, with what each is."""
STALLED = "stalled_"
"""Begins the name of a gauge of a slot that `stalled` of the parameter has beside it: of what has 16 bits, or 8."""
COUNT = "skipped"
"""The name of the number of steps left out, which no formula gives."""


def of_every_rule(name: str) -> bool:
    """Whether a gauge of this name is one that every rule has, and no author may write."""
    return name in MEANINGS or name == COUNT or name.startswith(STALLED)


class _Clipping(NamedTuple):
    """The gradient before clipping, that after it, and the scalar between them, if it is one."""

    before: Node
    after: Node | None
    factor: Node | None


def watched(graph: Graph, asked: bool | Sequence[str] | None) -> Graph:
    """Return a graph with the gauges that are asked for: True is all, False none, None those that the rule writes.

    Those that it has already stay as they are.
    """
    if asked is None:
        return graph
    every = {item.name: item for item in (*standard(graph), *graph.gauges)}
    if isinstance(asked, bool):
        return replace(graph, gauges=tuple(every.values()) if asked else ())
    known = {*every, *MEANINGS, COUNT, *(f"{STALLED}{slot.name}" for slot in graph.element_slots)}
    for name in asked:
        if name not in known:
            written = [item.name for item in graph.gauges]
            raise HyperparameterError(
                f"`{graph.name}` has no gauge {name!r}",
                fix=f"watch any of {', '.join([*MEANINGS, COUNT, *written])}; or True for all",
            )
    chosen = [item for name, item in every.items() if name in asked]
    slots = [item for name, item in every.items() if name.startswith(STALLED) and "stalled" in asked]
    return replace(graph, gauges=tuple(dict.fromkeys([*chosen, *slots])))


def standard(graph: Graph) -> list[Gauge]:
    """List the gauges that the formula of a rule has."""
    return [gauge(name, formula) for name, formula in _formulas(graph)]


def lacking(graph: Graph) -> dict[str, str]:
    """Say which gauges of every rule a formula does not have, and why."""
    there = {name for name, _ in _formulas(graph)}
    why: dict[str, str] = dict.fromkeys(("clip_coefficient", "clipped"), "no transform before the rule clips")
    why["cosine"] = f"no slot is a moving average of the gradient, and none is called {', '.join(MOMENTS)}"
    return {name: why.get(name, "the rule leaves the parameter as it is") for name in MEANINGS if name not in there}


def offered(graph: Graph, made: Container[Node]) -> tuple[Gauge, ...]:
    """List the gauges of a simplified graph whose reductions a step makes: those asked for, and those it gives away.

    Where it makes only the reduction over all tensors, that is what the gauge tells.
    """
    free = [one for one in standard(graph) if one.name not in {item.name for item in graph.gauges}]
    whole = [replace(gauge(one.name, _over_all(one.formula)), whole=True) for one in free]
    found = [*graph.gauges, *simplify(replace(graph, gauges=(*free, *whole))).gauges]
    told = [
        one for one in found if all(node in made for node in _outer([node for _, node in one.parts]) if node.reduces)
    ]
    remembered = recalled(graph)
    known = [one for one in told if recalled(replace(graph, gauges=(one,))) <= remembered]
    return tuple({one.name: one for one in reversed(known)}.values())[::-1]


def recalled(graph: Graph) -> frozenset[str]:
    """Return the slots smaller than the parameter whose values before the step gauges ask for."""
    roots = [node for item in graph.gauges for node in (item.formula, *(node for _, node in item.parts))]
    return frozenset(node.array for node in _outer(roots) if node.array)


def _outer(roots: Sequence[Node]) -> list[Node]:
    """List the scalars that roots are made of, down to reductions."""
    return topological(roots, {node for node in topological(roots) if node.reduces})


def _over_all(formula: Node) -> Node:
    """Return a formula in which all tensors are reduced as one."""
    image: dict[Node, Node] = {}
    for node in _outer([formula]):
        inputs = [image.get(child, child) for child in node.inputs]
        op = f"global_{node.op}" if f"global_{node.op}" in OPS else node.op
        image[node] = make(op, *inputs, attr=node.attr)
    return image[formula]


def _formulas(graph: Graph) -> Iterator[tuple[str, Node]]:
    theta, new = read(graph.parameter), graph.new_parameter
    clipping = _clipping(graph)
    g = clipping.before
    length = make("norm", g)
    yield "gradient_norm", length
    yield from _clipped(clipping, length)
    if new is not theta and new.rank is Rank.ELEMENT:
        update, whole = make("norm", make("sub", new, theta)), make("norm", new)
        yield "update_norm", update
        yield "parameter_norm", whole
        yield "update_ratio", make("div", update, whole)
    moment = first_moment(graph)
    if moment is not None:
        m = dict(graph.outputs)[moment.name]
        lengths = make("mul", length, make("norm", m))
        cosine = make("div", make("sum", make("mul", g, m)), lengths)
        yield "cosine", make("where", make("eq", lengths, const(0)), const(0), cosine)
    raw = read(graph.gradient)
    if graph.looks_ahead:
        new = theta  # another point is stored, and what is stored stalls: the graph of that one tells
    yield "nonfinite", make("sum", _flag(make("eq", make("sub", raw, raw), const(0)), 0, 1))
    if new is not theta and new.rank is Rank.ELEMENT:
        yield "stalled", _stalled(graph.parameter, new, _moves(theta, new))
    for slot, value in zip(graph.slots, graph.new_slots, strict=True) if new is not theta else ():
        old = read(slot.name)
        if slot.rank is Rank.ELEMENT and value.rank is Rank.ELEMENT and value is not old:
            yield f"{STALLED}{slot.name}", _stalled(slot.name, value, make("ne", value, old))


def _flag(condition: Node, yes: float, no: float) -> Node:
    return make("where", condition, const(yes), const(no))


# Clipping ---------------------------------------------------------------------------------------------


def factor(node: Node, of: Node) -> Node | None:
    """Return the scalar by which another node is multiplied in this one, if that is all."""
    if node is of:
        return const(1)
    if node.op == "neg":
        inner = factor(node.inputs[0], of)
        return None if inner is None else make("neg", inner)
    if node.op == "where" and node.inputs[0].rank < Rank.ELEMENT:
        sides = [factor(side, of) for side in node.inputs[1:]]
        return None if sides[0] is None or sides[1] is None else make("where", node.inputs[0], *sides)  # type: ignore[arg-type]
    if node.op in {"mul", "div"}:
        scalars = [child for child in node.inputs if child.rank < Rank.ELEMENT]
        if len(scalars) == 1 and (node.op == "mul" or scalars[0] is node.inputs[1]):
            inner = factor(node.inputs[scalars[0] is node.inputs[0]], of)
            return None if inner is None else make(node.op, inner, scalars[0])
    return None


def _clipping(graph: Graph) -> _Clipping:
    """Find what clips: transforms that depend on no array but the gradient, and are more than a change of its unit.

    A number known before the step, as the scale of mixed precision, changes the unit of all that follows; a sign does
    nothing to any gauge.
    """
    before = previous = read(graph.gradient)
    after: Node | None = None
    for node in graph.gradients:
        by = factor(node, previous)
        if by is not None and by.rank is Rank.HOST:
            if after is None and any(leaf.op == "hyper" for leaf in topological([by])):
                before = node
        elif {leaf.array for leaf in topological([node]) if leaf.rank is Rank.ELEMENT} <= {"", graph.gradient}:
            after = node
        else:
            break
        previous = node
    return _Clipping(before, after, None if after is None else factor(after, before))


def _clipped(clipping: _Clipping, length: Node) -> Iterator[tuple[str, Node]]:
    before, after, by = clipping
    if after is None:
        return
    if by is not None and by.rank <= Rank.GLOBAL:
        size = make("abs", by)
        yield "clip_coefficient", size
        yield "clipped", _flag(make("ne", size, const(1)), 1, 0)
        return
    yield "clip_coefficient", make("where", make("eq", length, const(0)), const(1),
                                   make("div", make("norm", after), length))  # fmt: skip
    changed = make("ne", make("abs", after), make("abs", before))
    yield "clipped", make("mean", _flag(changed, 1, 0))


# Direction --------------------------------------------------------------------------------------------


def first_moment(graph: Graph) -> Slot | None:
    """Return the slot that averages the gradient: proven by the formula, or else called as such slots are."""
    known = {read(graph.gradient), *graph.gradients}
    new = dict(graph.outputs)
    for slot in graph.element_slots:
        if _averages(new[slot.name], read(slot.name), known):
            return slot
    return next((slot for slot in graph.element_slots if slot.name in MOMENTS), None)


def _averages(node: Node, slot: Node, known: set[Node]) -> bool:
    """Whether a node is a·slot + b·gradient, for scalars a and b; or that where a scalar chooses it."""
    if node.op == "where" and node.inputs[0].rank < Rank.ELEMENT:
        return any(_averages(side, slot, known) for side in node.inputs[1:])
    if node.op not in {"add", "sub"}:
        return False
    terms = [_unscaled(term) for term in node.inputs]
    if slot not in terms:
        return False
    other = terms[1 - terms.index(slot)]
    return other in known or (other.op == "sub" and {*map(_unscaled, other.inputs)} & known != set())


def _unscaled(node: Node) -> Node:
    """Return what scalars multiply."""
    while node.op == "neg" or (
        node.op in {"mul", "div"} and any(child.rank is not Rank.ELEMENT for child in node.inputs)
    ):
        if node.op == "div" and node.inputs[1].rank is Rank.ELEMENT:
            break
        node = next(child for child in node.inputs if child.rank is Rank.ELEMENT or node.op == "neg")
    return node


# Stalling ---------------------------------------------------------------------------------------------


def _stalled(name: str, new: Node, moves: Node) -> Node:
    """Return the share of elements that stay as they are stored, though they should move."""
    same = make("eq", make("kept", new, attr=name), read(name))
    return make("mean", make("where", same, _flag(moves, 1, 0), const(0)))


def _moves(theta: Node, new: Node) -> Node:
    """Return whether a parameter's exact update is not zero, which rounding of the sum itself may hide."""
    if new.op in {"add", "sub"}:
        for place in (0, 1) if new.op == "add" else (0,):
            shift = _shift(new.inputs[place], theta)
            other = new.inputs[1 - place]
            if shift is not None and other.rank is Rank.ELEMENT:
                return make("ne", other, make("neg", shift) if new.op == "add" else shift)
    return make("ne", new, theta)


def _shift(node: Node, theta: Node) -> Node | None:
    """Return s·θ − θ of s·θ: 0 of θ itself."""
    by = factor(node, theta)
    return None if by is None else const(0) if node is theta else make("mul", make("sub", by, const(1)), theta)
