"""What dialects write alike of numbers that are one a row or column; `plan.lines` says where such numbers are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from ..graph.node import Node, Rank, topological
from ..plan.lines import AXES
from ..plan.program import Loop
from ..plan.storage import REMAINDER
from .render import Dialect

PARTS = {Rank.ROW: "pieces", Rank.COLUMN: "bands"}
"""What the parts are of which a row, or column, is reduced."""


class Lined(Dialect):
    """Spells where such numbers are kept, and splits what is computed of them."""

    lines = True
    extent: ClassVar[Mapping[Rank, str]] = {Rank.ROW: "rows", Rank.COLUMN: "length"}
    """The variables that say how many rows the current tensor has, and columns: the elements of a row."""

    def _shape(self) -> None:
        """Write what is known of the shape of the current tensor."""
        rows = self.extent[Rank.ROW]
        told = {"length": "length", rows: "rows", "bands": "bands", "pieces": "pieces", "lines": "lines"}
        self.source.line(*(f"{name} = {self._of(word)}" for name, word in told.items()))

    def _stretch(self, of: Mapping[Rank, Sequence[Node]], node: Node, part: str = "", start: str = "") -> str:
        """Spell where numbers of a node begin, its results or what a part of its lines has reduced."""
        kept, terms = self.program.laid, list[str]()
        for table in (kept.reductions, kept.values):
            for axis in AXES:
                count = self.extent[axis]
                each = f"(1 + {PARTS[axis]}) * {count}" if table is kept.reductions else count
                found = table is of and axis is node.rank
                before = of[axis].index(node) if found else len(table[axis])
                terms += [f"{before} * {each}"] if before else []
                if found:
                    terms += [count if part == "0" else f"(1 + {part}) * {count}"] if part else []
                    place = " + ".join([*terms, *([start] if start else [])])
                    return f"lines + 8 * ({place})" if place else "lines"
        raise AssertionError(node)

    def _lower(self, roots: Sequence[Node]) -> tuple[list[Node], list[Node]]:
        """Split what roots need into numbers of the tensor, and what is computed for each row or column."""
        leaves = {node for node in topological(roots) if node.rank <= Rank.TENSOR or node.reduces or node.array}
        order = topological(roots, leaves)
        return [n for n in order if n.rank <= Rank.TENSOR], [n for n in order if not n.rank <= Rank.TENSOR]

    def _arrays(self, loop: Loop) -> dict[str, str]:
        """Return the types of what a loop reads and writes, by name."""
        arrays = {array.name: array.format.dtype for array in loop.arrays}
        beside = self.program.layout.parameter.beside if self.graph.parameter in arrays else ""
        return arrays | ({REMAINDER: beside} if beside else {})

    def _laid(self, loop: Loop) -> list[Node]:
        """List the values of rows and columns that a pass is the first to use."""
        before = {node for other in self.program.loops[: loop.index] for node in other.lines}
        return [node for node in loop.lines if node not in before]
