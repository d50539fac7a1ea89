"""Triton's dialect for rules with numbers that are one a row or column: chunks are tiles, blocks some of their rows.

    lines_k      what elements of pass k use of rows and columns, before it; one program a strip of some of them
    parts_k      combines what tiles have left of each row and column in pass k, in their order; one program a strip
    end_k        then also reduces what that gives of each tensor, and total_k, in one program, that of all
    write_lines  slots of rows and columns, after every pass; one program a strip

A tile is no wider than a block, so it has a sum a row as soon as the block is read, and a sum a column at its end.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from string import ascii_lowercase
from typing import ClassVar

from ..graph.node import Node, Rank, topological
from ..graph.ops import OPS, Reducer
from ..plan.lines import AXES, STRIP, TILE
from ..plan.program import Accumulate, Combine, Loop
from ..plan.schedule import walks
from ..plan.tables import chunk_columns
from .lined import PARTS, Lined
from .render import WIDE
from .triton_dialect import TritonDialect


class TritonLines(Lined, TritonDialect):
    """Writes one module in Triton."""

    reserved = TritonDialect.reserved | {
        "axis", "band", "bands", "column", "height", "lane", "length", "line", "lines", "narrow", "offset", "part",
        "piece", "pieces", "place", "present", "row_count", "there", "turn", "width", "LANES", "PARTS", "TALL", "WIDE",
    }  # fmt: skip
    extent: ClassVar[Mapping[Rank, str]] = {Rank.ROW: "row_count", Rank.COLUMN: "length"}
    block = "(BLOCK,)"
    """The shape of what is walked over at a time."""
    wanted: frozenset[Node] = frozenset()
    """What the current kernel reduces and then uses."""

    def _sizes(self) -> dict[str, int]:
        wide, lanes = self.build.wide, self.build.lanes
        own = {"WIDE": wide, "TALL": self.build.block // wide, "LANES": lanes, "PARTS": self.build.block // lanes}
        return super()._sizes() | own

    def _start(self) -> str:
        return self._of("start")

    def _running(self, node: Node) -> str:
        return super()._running(node).replace("(BLOCK,)", self.block)

    def _reduced(self, node: Node, start: str, part: str = "") -> str:
        """Spell a pointer to what the elements of rows or columns are reduced to, or a part of them."""
        return f"at({self._stretch(self.program.laid.reductions, node, part)}, {start}, tl.float64)"

    def _values(self, node: Node, start: str) -> str:
        """Spell a pointer to the values of rows or columns that elements use."""
        return f"at({self._stretch(self.program.laid.values, node)}, {start}, tl.{self.real})"

    def _slot(self, name: str, start: str) -> str:
        """Spell a pointer to a slot of rows or columns."""
        array = next(array for array in self.program.arrays if array.name == name)
        return self._point(name, array.format.dtype, start)

    def _named(self, wanted: str, pointer: str) -> str:
        """Give a pointer a name."""
        name = self.fresh.fresh(f"{wanted}_at")
        self.source.line(f"{name} = {pointer}")
        return name

    def _begin(self, lines: Sequence[Node], start: str) -> dict[Node, str]:
        """Name pointers to what is read of rows or columns."""
        return {
            node: self._named(
                node.array or node.op, (self._slot(node.array, start) if node.array else self._reduced(node, start))
            )
            for node in lines
            if node.array or node.reduces
        }

    def _each(self, lines: Sequence[Node], begin: Mapping[Node, str], place: str) -> None:
        """Compute what is one number a row or column, at some places."""
        for node in lines:
            if node in begin:
                text = f"tl.load({begin[node]} + {place}, mask=inside, other=1.0)"
                text = self._cast(text, WIDE) if node.array else self._finished(node, text)
            else:
                text = self._spell(node, WIDE)
            self._assign(node, "scalar", text)

    # Strips ----------------------------------------------------------------------------------------

    @contextmanager
    def _strips(self, name: str, goes: str = "") -> Generator[None]:
        """Write a kernel that has one program a strip, of which nothing is left if its tensor has no gradient."""
        with self._kernel(name):
            width = len(chunk_columns(self.program))
            self.source.line(
                "chunk = chunk_count + tl.program_id(0).to(tl.int64)",
                *(f"{word} = {self._cell('chunks', 'chunk', width, place)}" for place, word in enumerate(STRIP)),
                f"count = tl.where({goes}{self._present()}, count, 0)",
            )
            self._shape()
            self.source.line("lane = tl.arange(0, LANES)[None, :]", "inside = lane < count")
            yield

    @contextmanager
    def _strip(self, axis: Rank, roots: Sequence[Node] = ()) -> Generator[None]:
        """Write what is done if a strip is one of rows, or of columns, in which roots have values."""
        known = dict(self.names)
        with self.source.block(f"if axis == {AXES.index(axis)}:"):
            numbers, lines = self._lower(roots)
            self._scalars(numbers)
            self._each(lines, self._begin(lines, "start"), "lane")
            yield
        self.names = known

    def _lines_kernel(self, loop: Loop, laid: Sequence[Node]) -> None:
        """Compute what elements of a pass use of rows and columns."""
        with self._strips(f"lines_{loop.index}"):
            for axis in AXES:
                if own := [node for node in laid if node.rank is axis]:
                    with self._strip(axis, own):
                        for node in own:
                            value = self.names[node]
                            value = f"tl.where({value}, 1.0, 0.0)" if node.truth else value
                            at = self._named("values", self._values(node, "start"))
                            self.source.line(f"tl.store({at} + lane, {self._cast(value, self.real)}, mask=inside)")

    def _parts_kernel(self, loop: Loop, nodes: Sequence[Node]) -> None:
        """Combine what tiles have left of rows and columns."""
        with self._strips(f"parts_{loop.index}"):
            for axis in AXES:
                if own := [node for node in nodes if node.rank is axis]:
                    with self._strip(axis):
                        for node in own:
                            self._join_parts(axis, node)

    def _join_parts(self, axis: Rank, node: Node) -> None:
        """Combine the parts of each row or column in their order, some of them at a time."""
        line, own, known = self.source.line, node.reducer, self.block
        result = self._named(node.op, self._reduced(node, "start"))
        parts, total = self._named("parts", self._reduced(node, "start", "0")), self.fresh.fresh(f"{node.op}_of")
        self.block = "(PARTS, LANES)"
        line(f"{total} = {self._running(node)}")
        with self.source.block(f"for first in range(0, {PARTS[axis]}, PARTS):"):
            line("place = first + tl.arange(0, PARTS)[:, None]", f"there = inside & (place < {PARTS[axis]})")
            where = f"{parts} + (place * {self.extent[axis]} + lane)"
            line(f"part = tl.load({where}, mask=there, other={self._literal(own.init)})")
            line(f"{total} = {self._apply(own.combine, total, 'part')}")
        line(f"tl.store({result} + lane, {self._across(own, total, 0)}, mask=inside)")
        self.block = known

    def _finish_kernel(self) -> None:
        """Write the slots smaller than the parameter, after every pass has read them: those of a tensor last."""
        stores = self.program.finish
        if any(store.array.rank is not Rank.TENSOR for store in stores):
            with self._strips("write_lines", f"({self._goes()}) & "):
                for axis in AXES:
                    if own := [store for store in stores if store.array.rank is axis]:
                        with self._strip(axis, [store.node for store in own]):
                            for store in own:
                                value = self._cast(self.names[store.node], store.array.format.dtype)
                                at = self._named(f"new_{store.array.name}", self._slot(store.array.name, "start"))
                                self.source.line(f"tl.store({at} + lane, {value}, mask=inside)")
        if any(store.array.rank is Rank.TENSOR for store in stores):
            super()._finish_kernel()

    # A pass ------------------------------------------------------------------------------------------

    def _pass_kernel(self, loop: Loop) -> None:
        if laid := self._laid(loop):
            self._lines_kernel(loop, laid)
        super()._pass_kernel(loop)

    def _walk(self, loop: Loop) -> None:
        """Walk over some rows of a tile at a time, if there is anything to do there."""
        if not loop.body:
            return
        line, known, arrays = self.source.line, dict(self.names), self._arrays(loop)
        self._shape()
        line(
            *(f"{name} = {self._of(name)}" for name in TILE),
            "line, column = start // tl.maximum(length, 1), piece * WIDE",
            "height = (count // tl.maximum(width, 1)).to(tl.int32)",
            "lane = tl.arange(0, WIDE)[None, :]",
        )
        at = {name: self.fresh.fresh(f"{name.replace(' ', '_')}_at") for name in arrays}
        line(*(f"{at[name]} = {self._point(name, dtype, 'start')}" for name, dtype in arrays.items()))
        rows = self._take_values(loop)
        self.block, same = "(TALL, WIDE)", self._same(loop)
        totals = {part: self.fresh.fresh(f"{part.node.op}_of") for part in same if same[part] is part}
        kept = {part: name for part, name in totals.items() if part.node.rank is not Rank.ROW}
        line(*(f"{name} = {self._running(part.node)}" for part, name in kept.items()))
        whose = {Rank.ROW: ("line", "piece"), Rank.COLUMN: ("column", "band")}
        begin = {part: self._named("parts", self._reduced(part.node, *whose[part.node.rank]))
                 for part in same if part.node.axis is not None}  # fmt: skip
        self._draw_keys(loop)
        with self._turns(arrays, at) as here:
            for node, name in rows.items():
                self._take(node, f"tl.load({name} + turn, mask=turn < height, other=1.0)")
            line(*(f"{name} = {self._running(part.node)}" for part, name in totals.items() if part not in kept))
            self._body(loop.joining(totals), here, totals)
            self._leave_lines(Rank.ROW, begin, {part: totals[one] for part, one in same.items()})
        self._leave_lines(Rank.COLUMN, begin, {part: totals[one] for part, one in same.items()})
        self.block, self.names = "(BLOCK,)", known
        for part in (part for part in same if part.node.axis is None):
            self._leave(part.place, part.node.reducer, f"tl.ravel({totals[same[part]]})")

    @contextmanager
    def _turns(self, arrays: Mapping[str, str], at: Mapping[str, str]) -> Generator[dict[str, str]]:
        """Open the walk over rows: all the wide way, if each of them begins and ends at multiples of 16 bytes."""
        line, known = self.source.line, dict(self.names)
        even = 128 // min((int(dtype.lstrip(ascii_lowercase)) for dtype in arrays.values()), default=128)
        begins = " | ".join(f"{place}.to(tl.int64)" for place in at.values()) or "0"
        line(f"aligned = (({begins}) & 15 | length % {even} | width % {even}) == 0")
        line("whole = tl.where(aligned, height, 0)", "tail: tl.constexpr = True")
        here = {name: self.fresh.fresh(f"{name.replace(' ', '_')}_here") for name in arrays}
        self.first = "begins + offset"
        with (
            self.source.block("for narrow in tl.static_range(2):"),
            self.source.block("for first in range(whole if narrow else 0, height if narrow else whole, TALL):"),
        ):
            line("turn, offset = first + tl.arange(0, TALL)[:, None], first * length")
            line(f"here, inside = turns_of_rows(first, lane, height, width, length, TALL, {even}, narrow)")
            line(*(f"{here[name]} = rows_at({at[name]}, offset, narrow)" for name in arrays))
            yield here
        self.first = "begins"
        self.names = known

    def _take_values(self, loop: Loop) -> dict[Node, str]:
        """Give what elements use of columns names; return where what they use of the tile's rows begins."""
        rows = dict[Node, str]()
        for node in loop.lines:
            if node.rank is Rank.ROW:
                rows[node] = self._named("values", self._values(node, "line"))
            else:
                at = self._named("values", self._values(node, "column"))
                self._take(node, f"tl.load({at} + lane, mask=lane < width, other=1.0)")
        return rows

    def _take(self, node: Node, value: str) -> None:
        """Give what elements use of rows or columns a name."""
        self.names[node] = self.fresh.fresh("scalar")
        self.source.line(f"{self.names[node]} = {value}{' != 0.0' if node.truth else ''}")

    def _leave_lines(self, axis: Rank, begin: Mapping[Accumulate, str], totals: Mapping[Accumulate, str]) -> None:
        """Write a tile's part of the reductions of its rows, or columns."""
        across = axis is Rank.ROW
        lanes, inside = ("turn", "turn < height") if across else ("lane", "lane < width")
        for part in (part for part in begin if part.node.rank is axis):
            fold = self._across(part.node.reducer, totals[part], int(across))
            self.source.line(f"tl.store({begin[part]} + {lanes}, {fold}, mask={inside})")

    def _across(self, own: Reducer, total: str, axis: int) -> str:
        """Spell the lanes of each row of a block, or each column, joined."""
        how = "sum({}, {}, keep_dims=True)" if own.combine == "add" else "reduce({}, {}, join_{}, keep_dims=True)"
        return "tl." + how.format(total, axis, own.combine)

    # After a pass --------------------------------------------------------------------------------------

    @property
    def _has_begin(self) -> bool:
        early = topological([part.node.inputs[0] for part in _of_lines(self.program.loops[0])])
        return super()._has_begin or any(node in self.hosted for node in early)

    def _end_kernel(self, loop: Loop) -> None:
        if lines := [part.node for part in loop.accumulated if part.node.axis is not None]:
            self._parts_kernel(loop, lines)
        own = _of_lines(loop)
        self.wanted = frozenset(topological([part.node.inputs[0] for part in own]))
        if own or len(lines) < len(loop.accumulated) or (self.hosted and loop.index == 0 and not self._has_begin):
            super()._end_kernel(loop)
        if totals := [part for part in own if part.node.kind == "global"]:
            with self._kernel(f"total_{loop.index}"):
                for part in totals:
                    self._combine(part, "0", "tensor_count", f"total + {part.place}", "reduced")

    def _leave_whole(self, node: Node, place: str, total: str) -> None:
        """Write what the elements of a tensor, or of all, are reduced to, and keep it if it is used at once."""
        if node in self.wanted:
            total_of = self.fresh.fresh("whole")
            self.source.line(f"{total_of} = {total}")
            self._assign(node, "scalar", self._finished(node, total_of))
            total = total_of
        super()._leave_whole(node, place, total)

    def _end_lines(self, loop: Loop) -> None:
        """Reduce numbers that are one a row or column; of a reduction over all tensors, each tensor leaves a part."""
        own = _of_lines(loop)
        if own:
            self._shape()
            self.source.line(f"present = {self._present()}")
        for part in own:
            node, (inner,), reducer = part.node, part.node.inputs, part.node.reducer
            total, known = self.fresh.fresh(f"{node.op}_of"), dict(self.names)
            numbers, lines = self._lower([inner])
            self._scalars(numbers)
            begin = self._begin(lines, "0")
            self.source.line(f"{total} = {self._running(node)}")
            self.source.line(f"count = tl.where(present, {self.extent[inner.rank]}, 0)")
            with self.source.block("for first in range(0, count, BLOCK):"):
                self.source.line("place = first + tl.arange(0, BLOCK)", "inside = place < count")
                self._each(lines, begin, "place")
                term = self.names[inner]
                term = self._apply(reducer.each, *[term] * OPS[reducer.each].arity) if reducer.each else term
                joining = self.joining.format(x=term, init=self._literal(reducer.init))
                self.source.line(f"{total} = {self._apply(reducer.combine, total, joining)}")
            self.names = known
            where = self._place("tensor", len(self.plan.reductions), part.place)
            self._leave_whole(node, f"reduced + {where}", self._fold(reducer, total))


def _of_lines(loop: Loop) -> list[Combine]:
    """List the reductions after a loop of what is one number a row or column."""
    return [part for part in loop.after if isinstance(part, Combine) and not walks(part.node)]
