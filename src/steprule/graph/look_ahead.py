"""Rules whose gradient is taken elsewhere (Nesterov): the graphs that move between the two points.

Such a rule asks for its gradient at θ − f, where f depends on slots and hyperparameters. With a closure the
gradient is evaluated there and the rule runs as written. Without one, the stored parameters *are* the point
y = θ − f: each step recovers θ = y + f, runs the rule, and stores the next point. Three kinds of host slots
keep this true while hyperparameters change: `ahead` (1 if the stored parameters are the point) and the
values of f's hyperparameters when the point was made.

An implicit rule, whose point is where its step ends, needs no such graph: its parameters are always the iterate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import RuleError
from .graph import Gauge, Graph, Slot, gauge
from .node import Node, Rank, const, make, read, substitute, topological
from .node import hyper as hyper_node
from .verify import verify

AHEAD = "ahead"
SHIFT = (
    "the look-ahead of `{name}` is not the parameter plus or minus something free of it",
    "write evaluate_at as {parameter} - f(slots, hyperparameters)",
)
TAKEN = (
    "`{own}` of `{name}` is reserved in a rule with a look-ahead, which keeps a number of that name",
    "give the argument another name",
)
UNSAID = (
    "`{name}` takes its gradient where its step ends, and does not say how near is near enough",
    "declare tolerance=hyper(1e-14, low=0) and max_eval=hyper(500, low=1) among its hyperparameters",
)
"""What is wrong with a point, and what to do: with the look-ahead, its arguments, and an implicit rule."""
Gauges = tuple[Gauge, ...]


@dataclass(frozen=True)
class LookAhead:
    """The graphs of a rule with a look-ahead; all of them keep the same slots."""

    exact: Graph
    """The rule as written, from θ to θ; the gradient was taken at the point."""
    closure_free: Graph
    """From point to next point; the gradient was taken at the stored parameters."""
    to_point: Graph
    to_iterate: Graph
    back_to_point: Graph
    """To the point, made of the hyperparameters that slots remember: `to_iterate` undone."""

    @property
    def stored(self) -> Graph:
        """What a step runs on the stored parameters, which are the point, unless a closure has looked ahead."""
        return self.closure_free


def _shift(graph: Graph) -> Node:
    """Return f of the point θ − f."""
    theta, point = read(graph.parameter), graph.evaluate_at
    assert point is not None
    f: Node | None = None
    if point.op == "sub" and point.inputs[0] is theta:
        f = point.inputs[1]
    elif point.op == "add" and theta in point.inputs:
        f = make("neg", point.inputs[1 - point.inputs.index(theta)])
    if f is None or {theta, read(graph.gradient)} & set(topological([f])):
        what, fix = (text.format(name=graph.name, parameter=graph.parameter) for text in SHIFT)
        raise RuleError(what, where=graph.origins.get(point, ""), fix=fix)
    return f


def look_ahead(graph: Graph) -> LookAhead | None:
    """Return the graphs of a rule with a look-ahead; None for a rule without, and for one that looks where it ends."""
    if not graph.looks_ahead:
        return None
    shift = _shift(graph)
    used = [node for node in topological([shift]) if node.op == "hyper"]
    slots = {AHEAD: Slot(AHEAD, Rank.HOST), **{f"last_{n.attr}": Slot(f"last_{n.attr}", Rank.HOST) for n in used}}
    for name in sorted(slots.keys() & graph.names):
        what, fix = (text.format(own=name, name=graph.name) for text in TAKEN)
        raise RuleError(what, fix=fix)
    ahead = read(AHEAD, Rank.HOST)
    last: dict[Node, Node] = {node: read(f"last_{node.attr}", Rank.HOST) for node in used}
    # A factor `ahead` would turn an infinite shift into NaN; a choice does not.
    shifted = substitute([shift], last)[shift]
    behind = make("where", make("gt", ahead, const(0)), shifted, const(0))
    theta = make("add", read(graph.parameter), behind)
    everything = replace(graph, slots=(*graph.slots, *slots.values()), evaluate_at=None, gauges=())

    def variant(
        parameter: Node, new_slots: tuple[Node, ...], ahead_after: float, *, remember: bool, gauges: Gauges = ()
    ) -> Graph:
        kept = tuple(hyper_node(str(n.attr)) if remember else last[n] for n in used)
        new_slots = (*new_slots, const(ahead_after), *kept)
        return verify(replace(everything, new_parameter=parameter, new_slots=new_slots, gauges=gauges))

    unchanged = tuple(read(slot.name, slot.rank) for slot in graph.slots)
    formulas = [item.formula for item in graph.gauges]
    image = substitute([graph.new_parameter, *graph.new_slots, *formulas], {read(graph.parameter): theta})
    gauges = tuple(gauge(item.name, image[item.formula]) for item in graph.gauges)
    new_slots = tuple(image[node] for node in graph.new_slots)
    into = dict(zip(unchanged, new_slots, strict=True))
    next_point = make("sub", image[graph.new_parameter], substitute([shift], into)[shift])
    return LookAhead(
        exact=variant(graph.new_parameter, graph.new_slots, 0, remember=True, gauges=graph.gauges),
        closure_free=variant(next_point, new_slots, 1, remember=True, gauges=gauges),
        to_point=variant(make("sub", read(graph.parameter), shift), unchanged, 1, remember=True),
        to_iterate=variant(theta, unchanged, 0, remember=False),
        back_to_point=variant(make("sub", read(graph.parameter), shifted), unchanged, 1, remember=False),
    )


def to_end(graph: Graph) -> Graph:
    """Return a graph that moves a parameter to the end of the step that a gradient makes, and changes no slot."""
    unchanged = tuple(read(slot.name, slot.rank) for slot in graph.slots)
    return verify(replace(graph, new_slots=unchanged, evaluate_at=None, gauges=()))


__all__ = ["AHEAD", "LookAhead", "look_ahead", "to_end"]
