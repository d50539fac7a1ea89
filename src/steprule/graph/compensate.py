"""Compensated rounding: what storing a parameter loses is kept in a slot, and added back at the next step.

bfloat16 keeps 8 bits: a step of 1e-3 from 1.0 is rounded away, and a thousand of them with it. The remainder is
float32, as the arithmetic is: θ + r is exactly what the step came to, as if the parameter were float32 (Kahan, 1965;
for training, Zamirai et al., 2020).
"""

from __future__ import annotations

from dataclasses import replace

from ..errors import RuleError
from .graph import Graph, Slot
from .node import const, make, read, substitute
from .verify import verify

REMAINDER = "remainder"


def compensated(graph: Graph) -> Graph:
    """Return a rule that steps from θ + r to the new θ, as it can be stored, and the new r, what that leaves out."""
    if graph.evaluate_at is not None and not graph.implicit:
        raise RuleError(
            f"`{graph.name}` stores its look-ahead point, which cannot be compensated",
            fix="use compensated=False, or a rule without evaluate_at",
        )
    taken = {slot.name for slot in graph.slots} | {item.name for item in graph.hypers}
    if REMAINDER in taken | {graph.parameter, graph.gradient}:
        raise RuleError(f"`{graph.name}` has a `{REMAINDER}` of its own", fix="give that argument another name")
    theta = read(graph.parameter)
    image = substitute([graph.new_parameter, *graph.new_slots], {theta: make("add", theta, read(REMAINDER))})
    exact = image[graph.new_parameter]
    kept = make("stored", exact)
    lost = make("sub", exact, kept)
    finite = make("eq", make("sub", lost, lost), const(0))
    remainder = make("where", finite, lost, const(0))  # of ∞ nothing is lost: ∞ − ∞ would be NaN at the next step
    return verify(
        replace(
            graph,
            slots=(*graph.slots, Slot(REMAINDER, optional=True, wide=True)),
            new_parameter=kept,
            evaluate_at=kept if graph.implicit else None,
            new_slots=(*(image[node] for node in graph.new_slots), remainder),
            gradients={image.get(node, node): name for node, name in graph.gradients.items()},
        )
    )


__all__ = ["REMAINDER", "compensated"]
