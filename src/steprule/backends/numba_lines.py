"""Numba's dialect for rules with numbers that are one a row or column: chunks are tiles, walked row by row.

Before a pass, what its elements use of rows and columns is computed, a tensor after another, by one more stage: after n
passes, 2n + 2 + k for pass k. `plan.lines` says where such numbers are.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar

from ..graph.node import Node, Rank
from ..graph.ops import OPS
from ..plan.lines import AXES, TILE
from ..plan.program import Accumulate, Combine, Loop, Store
from ..plan.schedule import walks
from .lined import PARTS, Lined
from .numba_dialect import NumbaDialect
from .numba_tables import ALL
from .render import WIDE


class NumbaLines(Lined, NumbaDialect):
    """Writes one kernel in Python, for Numba to compile."""

    reserved = NumbaDialect.reserved | {"rows", "bands", "pieces", *TILE, "turn"}
    ending: ClassVar[str] = f"tensor_count, chunk_count, {ALL}"

    def _reduced(self, node: Node, part: str = "", start: str = "") -> str:
        """Spell a pointer to what the elements of rows or columns are reduced to."""
        return f"float64_at({self._stretch(self.program.laid.reductions, node, part, start)})"

    def _values(self, node: Node) -> str:
        """Spell a pointer to the values of rows or columns that elements use."""
        return f"{self.real}_at({self._stretch(self.program.laid.values, node)})"

    @contextmanager
    def _tensors(self) -> Generator[None]:
        """Open the loop over tensors that have gradients."""
        known = dict(self.names)
        with self.source.block("for tensor in range(tensor_count):"):
            with self._absent():
                pass
            self.source.line(f"row = {self._of('row')}")
            self._shape()
            yield
        self.names = known

    @contextmanager
    def _line(self, axis: Rank, roots: Sequence[Node]) -> Generator[None]:
        """Open the loop over the rows or columns of a tensor, in which roots have values."""
        numbers, lines = self._lower(roots)
        self._scalars(numbers)
        known, at = dict(self.names), dict[Node, str]()
        for node in lines:
            if node.array or node.reduces:
                at[node] = self.fresh.fresh(f"{node.array or node.op}_at")
                pointer = self._slot(node.array) if node.array else self._reduced(node)
                self.source.line(f"{at[node]} = {pointer}")
        with self.source.block(f"for place in range({self.extent[axis]}):"):
            for node in lines:
                cell = f"{at[node]}[place]" if node in at else ""
                text = self._finished(node, cell) if node.reduces else self._cast(cell, WIDE) if cell else ""
                self._assign(node, "scalar", text or self._spell(node, WIDE))
            yield
        self.names = known

    def _slot(self, name: str) -> str:
        """Spell a pointer to a slot of rows or columns."""
        array = next(array for array in self.program.arrays if array.name == name)
        return self._point(name, array.format.dtype, "0")

    # Before a pass ---------------------------------------------------------------------------------

    def _pass_function(self, loop: Loop) -> None:
        if loop.lines:
            with self._function(f"lines_{loop.index}", f"tensor_count, {ALL}"), self._tensors():
                for axis in AXES:
                    if laid := [node for node in self._laid(loop) if node.rank is axis]:
                        self._lay(axis, laid)
        super()._pass_function(loop)

    def _lay(self, axis: Rank, laid: Sequence[Node]) -> None:
        at = {node: self.fresh.fresh("values_at") for node in laid}
        self.source.line(*(f"{name} = {self._values(node)}" for node, name in at.items()))
        with self._line(axis, laid):
            for node, name in at.items():
                value = f"1.0 if {self.names[node]} else 0.0" if node.truth else self.names[node]
                self.source.line(f"{name}[place] = {self._cast(value, self.real)}")

    def _line_stage(self, loop: Loop) -> None:
        if loop.lines:
            self._stage(2 * len(self.program.loops) + 2 + loop.index, f"lines_{loop.index}(tensor_count, {ALL})")

    # A pass ------------------------------------------------------------------------------------------

    def _walk(self, loop: Loop) -> None:
        """Walk over the rows of a tile, if there is anything to do there."""
        if not loop.body:
            return
        line = self.source.line
        self._shape()
        line(*(f"{name} = {self._of(name)}" for name in TILE))
        line("line, column = start // length, start % length")
        arrays = self._arrays(loop)
        of = {name: self.fresh.fresh(f"{name}_of") for name in arrays}
        line(*(f"{of[name]} = {self._address(name)}" for name in arrays))
        values = {node: self.fresh.fresh("values_at") for node in loop.lines}
        line(*(f"{name} = {self._values(node)}" for node, name in values.items()))
        same = {part: part if part.node.rank is Rank.COLUMN else one for part, one in self._same(loop).items()}
        totals = {part: self.fresh.fresh(f"{part.node.op}_of") for part in same if same[part] is part}
        rows = {part: self.fresh.fresh("rows_at") for part in same if part.node.rank is Rank.ROW}
        self._begin_totals(totals)
        line(*(f"{name} = {self._reduced(part.node, 'piece', 'line')}" for part, name in rows.items()))
        self._draw_keys(loop)
        known = dict(self.names)
        with self.source.block("for turn in range(count // width):"):
            line("begin = start + turn * length", *([f"begins = {self._of('first')} + begin"] if self.keys else []))
            self._take_values(values)
            line(*(f"{totals[part]} = {self._running(part.node)}" for part in rows if part in totals))
            at = {name: self.fresh.fresh(f"{name}_at") for name in arrays}
            line(*(f"{at[name]} = {self._at(of[name], dtype, 'begin')}" for name, dtype in arrays.items()))
            joined = {part: f"{name}[i]" if part.node.rank is Rank.COLUMN else name for part, name in totals.items()}
            with self.source.block("for i in range(width):"):
                self._body(loop.joining(totals), at, joined)
            line(*(f"{name}[turn] = {totals[same[part]]}" for part, name in rows.items()))
        self.names = known
        for part in (part for part in same if part.node.axis is None):
            self._leave(part.place, part.node.reducer, totals[same[part]])

    def _begin_totals(self, totals: Mapping[Accumulate, str]) -> None:
        """Write what running totals start from: one, or one a column of the tile."""
        for part, name in totals.items():
            if part.node.rank is Rank.COLUMN:
                self.source.line(f"{name} = {self._reduced(part.node, 'band', 'column')}")
                with self.source.block("for i in range(width):"):
                    self.source.line(f"{name}[i] = {self._running(part.node)}")
            elif part.node.axis is None:
                self.source.line(f"{name} = {self._running(part.node)}")

    def _take_values(self, values: Mapping[Node, str]) -> None:
        """Give what elements of a row use of it and of columns names."""
        for node, name in values.items():
            cell = f"{name}[line + turn]" if node.rank is Rank.ROW else f"{name}[column + i]"
            self.names[node] = f"({cell} != 0.0)" if node.truth else cell
            if node.rank is Rank.ROW:
                held, self.names[node] = self.names[node], self.fresh.fresh("scalar")
                self.source.line(f"{self.names[node]} = {held}")

    # After a pass --------------------------------------------------------------------------------------

    def _combine(self, loop: Loop) -> None:
        """Combine what tiles have left, then reduce what that gives of rows and columns."""
        super()._combine(loop)
        if lines := [part.node for part in loop.accumulated if part.node.axis is not None]:
            with self._tensors():
                for node in lines:
                    self._combine_lines(node)
        for part in loop.after:
            if isinstance(part, Combine) and not walks(part.node):
                self._combine_values(part.node)

    def _combine_lines(self, node: Node) -> None:
        """Combine the parts of each row or column in their order."""
        result, parts, each = (self.fresh.fresh(name) for name in ("result", "parts_at", "part"))
        line, places = self.source.line, f"for place in range({self.extent[node.rank]}):"
        line(f"{result} = {self._reduced(node)}")
        with self.source.block(places):
            line(f"{result}[place] = {self._running(node)}")
        with self.source.block(f"for {each} in range({PARTS[node.rank]}):"):
            line(f"{parts} = {self._reduced(node, each)}")
            with self.source.block(places):
                joined = self._apply(node.reducer.combine, f"{result}[place]", f"{parts}[place]")
                line(f"{result}[place] = {joined}")

    def _combine_values(self, node: Node) -> None:
        """Reduce values that are one a row or column."""
        (inner,), cell, own = node.inputs, self._whole(node), node.reducer
        if node.kind == "global":
            self.source.line(f"{cell} = {self._running(node)}")
        else:
            with self.source.block("for tensor in range(tensor_count):"):
                self.source.line(f"{cell} = {self._running(node)}")
        with self._tensors():
            total = self.fresh.fresh(f"{node.op}_of")
            self.source.line(f"{total} = {cell}")
            with self._line(inner.rank, [inner]):
                term = self.names[inner]
                term = self._apply(own.each, *[term] * OPS[own.each].arity) if own.each else term
                self.source.line(f"{total} = {self._apply(own.combine, total, term)}")
            self.source.line(f"{cell} = {total}")

    def _finish_function(self) -> None:
        """Write the slots smaller than the parameter, after every pass has read them."""
        with self._function("finish_tensors", f"tensor_count, {ALL}"), self._tensors():
            stores = self.program.finish
            for axis in AXES:
                if own := [store for store in stores if store.array.rank is axis]:
                    self._write_lines(axis, own)
            self._number_slots(Rank.TENSOR)

    def _write_lines(self, axis: Rank, stores: Sequence[Store]) -> None:
        at = {store: self.fresh.fresh(f"{store.array.name}_new") for store in stores}
        self.source.line(*(f"{name} = {self._slot(store.array.name)}" for store, name in at.items()))
        with self._line(axis, [store.node for store in stores]):
            for store, name in at.items():
                self.source.line(f"{name}[place] = {self._cast(self.names[store.node], store.array.format.dtype)}")
