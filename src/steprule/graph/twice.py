"""Rules that take two gradients a step: at the parameter itself, and at a point that this one may help to find.

Sharpness-aware minimisation climbs along the first to the point of the second; MARS compares the two, of one batch.
Such a rule needs a closure, so the stored parameters are always the iterate, and no slot has to remember another point.
What its update reads of the first gradient is a slot of the graph, given to each step and empty between steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .graph import Graph
from .look_ahead import LookAhead, look_ahead
from .node import hyper, read, topological
from .verify import verify


@dataclass(frozen=True)
class Twice:
    """The graphs of a rule that takes two gradients."""

    exact: Graph
    """The rule as written, from θ to θ; the gradient was taken at the point."""
    to_point: Graph
    """From θ to the point; its gradient is the first."""
    given: str
    """The slot in which the update is given the first gradient, or ""."""

    @property
    def stored(self) -> Graph:
        """What a step runs on the stored parameters."""
        return self.exact


def twice(graph: Graph) -> Twice | None:
    """Return the graphs of a rule that takes two gradients; None for any other."""
    point = graph.evaluate_at
    if not graph.first or point is None:
        return None
    slots = tuple(slot for slot in graph.slots if slot.name != graph.first)
    used = set(topological([point]))
    to_point = replace(
        graph,
        gradient=graph.first,
        slots=slots,
        hypers=tuple(item for item in graph.hypers if hyper(item.name) in used),
        new_parameter=point,
        new_slots=tuple(read(slot.name, slot.rank) for slot in slots),
        gradients={},
        evaluate_at=None,
        first="",
        gauges=(),
    )
    exact = replace(graph, evaluate_at=None)
    return Twice(verify(exact), verify(to_point), graph.first if len(slots) < len(graph.slots) else "")


def paths(graph: Graph) -> LookAhead | Twice | None:
    """Return the graphs of a rule that takes its gradient elsewhere, if its parameters have to be moved there."""
    return look_ahead(graph) or twice(graph)


__all__ = ["Twice", "paths", "twice"]
