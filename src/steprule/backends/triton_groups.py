"""How Triton's kernels walk where slots are in units of groups: block by block, as 32 turns of 16 lanes or fewer.

A block's groups take its elements in turns, so a lane is a group, however many there are: its greatest number, which
must be known before any of it is coded, is one reduction over the turns, of what registers hold. Two warps have a
block. Where turns begin at multiples of four elements, these are loaded and stored together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from ..graph.node import Node
from ..plan.groups import GROUP, LANES
from ..plan.program import Accumulate, Array, Loop
from ..plan.storage import units_of
from .render import Dialect

WORDS = frozenset({"begins_four", "block_at", "blocks_of", "greatest", "read_units", "turns", "turns_of_four",
                   "write_units"})  # fmt: skip
"""What such a walk calls of `triton_helpers`."""


class InGroups(Dialect):
    """What a Triton dialect writes in a loop over slots in 8 bits."""

    coded_load: ClassVar[str] = "widen_{form}(read({at}, here, inside, tail, tl.uint8), {unit})"
    coded_store: ClassVar[str] = (
        "kept = kept_{form}({x})\n"
        "exponent = exponent_{form}(greatest(magnitude(kept), inside))\n"
        "code = stochastic_{form}(kept, inverse(exponent), {bits})\n"
        "write_units({units}, exponent, lanes)\n"
        "write({at}, here, code, inside, tail)"
    )
    named = frozenset({"kept", "exponent", "code", "length", "width", "line", "column", "blocks", "offset", "block",
                       "narrow", "size"})  # fmt: skip
    """The names that it uses."""
    by_groups = False
    """Whether the current loop is such a one."""

    def _walk(self, loop: Loop) -> None:
        self.by_groups = any(array.format.grouped for array in loop.arrays)
        super()._walk(loop)
        self.by_groups = False

    def _running(self, node: Node) -> str:
        """Spell what a running total starts from, in the shape of what is walked over at a time."""
        return super()._running(node).replace("(BLOCK,)", f"({GROUP}, {LANES})" if self.by_groups else "(BLOCK,)")

    def _over_groups(
        self, loop: Loop, at: Mapping[str, str], totals: Mapping[Accumulate, str], grouped: Sequence[Array]
    ) -> None:
        """Walk block by block, which all are in one of two ways; `line` counts units up to the current row."""
        line, names = self.source.line, [array.name for array in grouped]
        scale = {name: self.fresh.fresh(f"{name}_scale_at") for name in names}
        self.groups = {name: {word: self.fresh.fresh(f"{name}_{word}") for word in ("units", "unit")} for name in names}
        here = {name: self.fresh.fresh(f"{name}_here") for name in at}
        line(*(f"{scale[name]} = {self._point(units_of(name), 'uint8', '0')}" for name in names))
        line(
            f"length = {self._of('length')}",
            f"width, blocks = (length + {GROUP - 1}) // {GROUP}, blocks_of(count, length)",
        )
        line("offset, line, column = 0, start // length * width, start % length")
        line("aligned = turns_of_four(length)")
        line(*(f"aligned &= begins_four({place})" for place in (*at.values(), *scale.values())))
        line("whole = tl.where(aligned, blocks, 0)", "tail: tl.constexpr = True")
        self.first = "begins + offset"
        with (
            self.source.block("for narrow in tl.static_range(2):"),
            self.source.block("for block in range(whole if narrow else 0, blocks if narrow else whole):"),
        ):
            line("size = tl.minimum(length - column, BLOCK).to(tl.int32)", "here, inside, lanes = turns(size, narrow)")
            line(*(f"{here[name]} = block_at({place}, offset, narrow)" for name, place in at.items()))
            for name, own in self.groups.items():
                line(f"{own['units']} = block_at({scale[name]}, line + column // {GROUP}, narrow)")
                line(f"{own['unit']} = unit(read_units({own['units']}, lanes))")
            self._body(loop, here, totals)
            line("offset, column = offset + size, column + size")
            line("line, column = tl.where(column == length, line + width, line), tl.where(column == length, 0, column)")
        self.first, self.groups = "begins", {}
