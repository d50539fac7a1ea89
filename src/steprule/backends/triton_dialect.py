"""Triton's dialect: a program → the source of a GPU module: a few kernels for any number of tensors of any size.

    begin      host scalars, a row a tensor, if the first pass needs them; else the end of the first pass does that
    pass_k     one program a chunk: walks over it, and leaves one number a reduction and chunk
    end_k      combines those in the order of chunks, in one program a result: always in the same order, without atomics
    finish     slots of one number a tensor, after every chunk has read them
    finish_all slots of one number for all tensors, after `finish` has read them

The last pass and what comes after it do nothing if the step must be left out, and only they write what a training step
keeps. All kernels take the tables of `plan.tables`, which stay on the device, and

    counts     [tensor, name]       step counts and host slots: the state itself, which the last pass advances
    found      [1]                  above 0 if the step must be left out: GradScaler's `found_inf`
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import ClassVar

from ..graph.node import Node, Rank, step, topological
from ..graph.ops import Reducer
from ..plan.program import Accumulate, Combine, Loop, Program
from ..plan.rounding import FORMULAS
from ..plan.tables import host_columns
from .base import ABSENT
from .triton_build import Build, current_build
from .triton_groups import WORDS, InGroups

TABLES = ("addresses", "gradients", "tensors", "chunks", "hyper", "counts", "host", "partial", "reduced", "total",
          "found")  # fmt: skip
COUNTS = ("tensor_count", "chunk_count")
_SPELLING = {
    "add": "{} + {}", "sub": "{} - {}", "mul": "{} * {}", "div": "divide({}, {})", "pow": "power({}, {})",
    "neg": "-{}", "sqrt": "root({})", "exp": "exponential({})", "log": "logarithm({})", "abs": "tl.abs({})",
    "sign": "sign({})", "minimum": "minimum({}, {})", "maximum": "maximum({}, {})", "where": "tl.where({}, {}, {})",
    "lt": "{} < {}", "le": "{} <= {}", "gt": "{} > {}", "ge": "{} >= {}", "eq": "{} == {}", "ne": "{} != {}",
    "floor": "tl.floor({})", "mod": "modulo({}, {})", "tanh": "tanh({})", "atan2": "angle({}, {})",
    "and": "tl.where({0}, {1}, {0})", "or": "tl.where({0}, {0}, {1})", "not": "{} == 0",
}  # fmt: skip
HELPERS = frozenset({"add", "add_square", "at", "finite", "fold", "padded", "read", "rows_at", "turns_of_rows",
                     "write", *WORDS, *FORMULAS,
                     *re.findall(r"(?<![.\w])([a-z]+)(?=\()", " ".join(_SPELLING.values()))})  # fmt: skip
"""What kernels call of `triton_helpers`: what is spelled with it, too."""


def derived(program: Program) -> list[Node]:
    """List the host values that are computed: all but those that stand in the table of hyperparameters."""
    return [node for node in program.host if node.op != "hyper"]


class TritonDialect(InGroups):
    """Writes one module in Triton."""

    spelling = _SPELLING
    reserved = frozenset({
        *TABLES, *COUNTS, *HELPERS, "tl", "triton", "aligned", "CHUNK", "BLOCK", "ROWS", "chunk", "tensor", "start",
        "count", "rows", "row", "inside", "whole", "tail", "first", "lanes", "here", "float", "int", "abs", "range",
        "min", "max", "sum", "len", "print", "host_scalars", "begin", "finish", "finish_all", "go", "t",
        "begins",
        *InGroups.named, *(f"join_{op}" for op in spelling),
    })  # fmt: skip
    loads: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("whole", "narrow"), "read({at}, here, inside, tail, tl.{real})"),
        "beside": "joined{more}_{form}(read({at}, here, inside, tail, tl.{form}).to(tl.uint16, bitcast=True), "
                  "read({beside}, here, inside, tail, tl.{rest}))",
        "grouped": InGroups.coded_load,
    }  # fmt: skip
    stores: ClassVar[Mapping[str, str]] = {
        "whole": "write({at}, here, {x}, inside, tail)",
        "narrow": "write({at}, here, nearest_{form}({x}).to(tl.{form}, bitcast=True), inside, tail)",
        "random": "write({at}, here, stochastic_{form}({x}, {bits}).to(tl.{form}, bitcast=True), inside, tail)",
        "beside": "write({at}, here, compensated{more}_{form}({x}).to(tl.{form}, bitcast=True), inside, tail)\n"
                  "write({beside}, here, remainder{more}_{form}({x}), inside, tail)",
        "grouped": InGroups.coded_store,
    }  # fmt: skip
    joins: ClassVar[Mapping[tuple[str, str], str]] = {
        ("add", ""): "add({total}, {x}, inside, tail)",
        ("add", "mul"): "add_square({total}, {x}, inside, tail)",
    }
    number, cell = ("tl.load({at})", "tl.store({at}, {x}, mask=go)"), "tl.load({table} + {place})"
    cast, host = "tl.cast({}, tl.{real})", "tl.store(host + {place}, {x}, mask=inside)"
    running, index, row, jit, inlines = "tl.full((BLOCK,), {}, tl.float64)", "here", "tensor", "@triton.jit", False
    joining, where = "padded({x}, inside, {init})", " on a GPU"

    def __init__(self, program: Program, build: Build | None = None) -> None:
        super().__init__(program)
        self.build = (build or current_build()).fitting(bool(program.grouped))
        self.hosted = derived(program)
        self.hypers = [hyper.name for hyper in self.graph.hypers]
        self.hosts = host_columns(self.plan)

    def _literal(self, value: float) -> str:
        return repr(value) if repr(value)[-1].isdigit() else f'float("{value}")'

    def _constant(self, value: float, real: str) -> str:
        return f"tl.full((), {self._literal(value)}, tl.{real})"

    def _leaf(self, node: Node) -> str | None:
        if node.op == "hyper":
            place = self._place("row", len(self.hypers), self.hypers.index(str(node.attr)))
            return f"tl.load(hyper + {place}, mask=inside, other=1.0)"
        name = "t" if node.op == "step" else node.array
        held = f"tl.load({self._count(name)}, mask=inside, other=1.0).to(tl.float64)" if name else None
        return f"{held} + 1.0" if node.op == "step" else held

    def _count(self, name: str) -> str:
        """Spell where what is counted of a row stands."""
        return f"counts + {self._place('row', len(self.hosts), self.hosts.index(name))}"

    def _known(self, node: Node) -> str | None:
        if node.op == "hyper":
            return self._cell("hyper", "tensor", len(self.hypers), self.hypers.index(str(node.attr)))
        return super()._known(node)

    def _point(self, name: str, dtype: str, first: str) -> str:
        return f"at({self._address(name)}, {first}, tl.{dtype})"

    def _over(self, loop: Loop, at: Mapping[str, str], totals: Mapping[Accumulate, str]) -> None:
        """Take whole blocks the wide way, where all that this chunk has begins at a multiple of 16 bytes."""
        if grouped := [array for array in loop.arrays if array.format.grouped]:
            self._over_groups(loop, at, totals, grouped)
            return
        self._aligned([f"{place}.to(tl.int64)" for place in at.values()])
        self.source.line("whole = tl.where(aligned, count // BLOCK * BLOCK, 0)")
        super()._over(loop, at, totals)

    def _aligned(self, places: Sequence[str]) -> None:
        """Ask whether all addresses are multiples of 16 bytes."""
        self.source.line(f"aligned = (({' | '.join(places) or '0'}) & 15) == 0")

    @contextmanager
    def _elements(self) -> Generator[None]:
        with self.source.block("for tail in tl.static_range(2):"):  # noqa: SIM117
            with self.source.block("for first in range(whole if tail else 0, count if tail else whole, BLOCK):"):
                self.source.line("here = first + tl.arange(0, BLOCK)", "inside = here < count")
                yield

    def _fold(self, own: Reducer, lanes: str) -> str:
        """Spell the lanes of a block, joined."""
        if own.combine == "add":
            return f"tl.sum({lanes}, 0)"
        return f"fold({lanes}, join_{own.combine}, {self.build.block.bit_length() - 1})"

    def _leave(self, place: int, own: Reducer, total: str) -> None:
        where = self._place("chunk", len(self.plan.reductions), place)
        lanes = f"tl.ravel({total})" if self.by_groups else total
        self.source.line(f"tl.store(partial + {where}, {self._fold(own, lanes)})")

    # Kernels -------------------------------------------------------------------------------------

    def _kernel(self, name: str) -> AbstractContextManager[None]:
        """Write one kernel; how many tensors and chunks there are compiles nothing."""
        names = ", ".join(f'"{count}"' for count in COUNTS)
        rest = ", ".join((*TABLES[8:], *COUNTS))
        return self._function(name, ", ".join(TABLES[:8]), rest, options=f"(do_not_specialize=[{names}])")

    @property
    def _has_begin(self) -> bool:
        """Whether host scalars are wanted before the first pass ends, and so need a launch of their own."""
        first = self.program.loops[0]
        early = set(self.hosted) & {*topological(first.scalars), *([step()] if first.drawn else [])}
        return bool(self.hosted) and (len(self.program.loops) == 1 or not first.after or bool(early))

    def _host_function(self) -> None:
        """Compute the host scalars, one row a lane."""
        with self._function("host_scalars", "first, tensor_count, hyper, counts, host"):
            self.source.line(
                "# one row a lane: numbers that depend on hyperparameters and the step count alone",
                "row = first + tl.arange(0, ROWS)",
                "inside = row < tensor_count",
            )
            self._host_values()

    def _host_functions(self) -> None:
        """Write what computes the host scalars, and the launch of their own if they have one."""
        if self.hosted:
            self._host_function()
        if self._has_begin:
            with self._kernel("begin"):
                self.source.line("host_scalars(tl.program_id(0) * ROWS, tensor_count, hyper, counts, host)")

    def _goes(self) -> str:
        """Spell whether the step is taken: what found out that it must not be has ended by the last pass."""
        found, guard = "tl.load(found) == 0.0", self.program.guard
        return found if guard < 0 else f"({found}) & (finite({self._cell('total', str(guard), 1, 0)}))"

    def _present(self) -> str:
        """Spell whether the current tensor has a gradient."""
        return f"({self._address(self.graph.gradient)} != {ABSENT})"

    def _pass_kernel(self, loop: Loop) -> None:
        """Walk over a chunk, none of it if the gradient is absent or the step is left out."""
        last = loop is self.program.loops[-1]
        goes = self._goes() if last else ""
        with self._kernel(f"pass_{loop.index}"):
            self._says(loop)
            self.source.line(
                *self._chunk(loop),
                f"tensor = {self._of('tensor')}",
                f"start = {self._start()}",
                f"count = {self._of('count')}.to(tl.int32)",
                *([f"go = {goes}"] if goes else []),
                f"count = tl.where({'go & ' if goes else ''}{self._present()}, count, 0)",
            )
            self._scalars(loop.numbers, narrow=True)
            self._walk(loop)
            if last and self.hosts:
                self._advance()
            if last and self.program.guard >= 0:
                with self.source.block("if chunk == 0:"):
                    left_out = f"total + {len(self.plan.reductions)}"
                    self.source.line(f"tl.store({left_out}, tl.load({left_out}) + tl.where(go, 0.0, 1.0))")

    def _start(self) -> str:
        """Spell the first element of the current chunk, which ends with rows where slots are in units of groups."""
        return self._of("start") if self.program.grouped else f"tl.multiple_of({self._of('start')}, CHUNK)"

    def _chunk(self, loop: Loop) -> list[str]:
        """Spell which chunk is a program's own."""
        if loop.index % 2 == 0:
            return ["chunk = tl.program_id(0).to(tl.int64)"]
        return ["# from the last chunk to the first: what the pass before read last is still in the cache",
                "chunk = chunk_count - 1 - tl.program_id(0).to(tl.int64)"]  # fmt: skip

    def _advance(self) -> None:
        """Write step counts and host slots, beside the first chunk; no other program reads them in this launch."""
        new = dict(self.plan.host_writes)
        there = f"tl.load(gradients + row, mask=row < rows, other={ABSENT}) != {ABSENT}"
        with self.source.block("if chunk == 0:"):
            self.source.line(f"rows = tl.where({self._goes()}, tensor_count, 0)")
            with self.source.block("for first in range(0, rows, ROWS):"):
                self.source.line("row = first + tl.arange(0, ROWS)", f"inside = (row < rows) & ({there})")
                for name in self.hosts:
                    if name == "t":
                        value = f"tl.load({self._count(name)}, mask=inside, other=0.0) + 1.0"
                    elif name not in new:
                        continue
                    elif new[name] in self.hosted:
                        held = self._place("row", len(self.hosted), self.hosted.index(new[name]))
                        value = f"tl.load(host + {held}, mask=inside, other=0.0)"
                    else:
                        value = self._leaf(new[name])
                    number = f"({value}).to(counts.dtype.element_ty)"
                    self.source.line(f"tl.store({self._count(name)}, {number}, mask=inside)")

    def _end_kernel(self, loop: Loop) -> None:
        """Combine a pass's partial results in the order of chunks: the first program those of all tensors."""
        chunked = [part for part in loop.accumulated if part.node.axis is None]
        each = [part for part in chunked if part.node.kind != "global"]
        shared = [part for part in chunked if part not in each]
        with self._kernel(f"end_{loop.index}"):
            self.source.line("tensor = tl.program_id(0)")
            if shared:
                with self.source.block("if tensor == 0:"):
                    for part in shared:
                        self._combine(part, "0", "chunk_count", f"total + {part.place}")
            if self.hosted and loop.index == 0 and not self._has_begin:
                with self.source.block("if tensor * ROWS < tensor_count:"):
                    self.source.line("host_scalars(tensor * ROWS, tensor_count, hyper, counts, host)")
            if each:
                self.source.line(f"start = {self._of('chunk')}", f"count = {self._of('chunks')}")
                for part in each:
                    where = self._place("tensor", len(self.plan.reductions), part.place)
                    self._combine(part, "start", "count", f"reduced + {where}")
            self._end_lines(loop)

    def _end_lines(self, loop: Loop) -> None:
        """Reduce numbers that are one a row or column: here are none."""

    def _combine(self, part: Accumulate | Combine, start: str, count: str, place: str, table: str = "partial") -> None:
        """Combine the parts of a stretch of chunks, or of what another table has a row for."""
        own, total = part.node.reducer, self.fresh.fresh(f"{part.node.op}_of")
        self.source.line(f"{total} = {self._running(part.node)}")
        row = "here.to(tl.int64)" if start == "0" else f"({start} + here)"
        where = self._place(row, len(self.plan.reductions), part.place)
        with self.source.block(f"for first in range(0, {count}, BLOCK):"):
            self.source.line(
                "here = first + tl.arange(0, BLOCK)",
                f"inside = here < {count}",
                f"part = tl.load({table} + {where}, mask=inside, other={self._literal(own.init)})",
                f"{total} = {self._apply(own.combine, total, 'part')}",
            )
        self._leave_whole(part.node, place, self._fold(own, total))

    def _leave_whole(self, node: Node, place: str, total: str) -> None:  # noqa: ARG002
        """Write what the elements of a tensor, or of all, are reduced to."""
        self.source.line(f"tl.store({place}, {total})")

    def _finish_kernel(self) -> None:
        """Write the slots that hold one number a tensor, after every pass has read them."""
        with self._kernel("finish"):
            self.source.line("tensor = tl.program_id(0).to(tl.int64)", f"go = ({self._goes()}) & {self._present()}")
            self._number_slots(Rank.TENSOR)

    def _finish_all_kernel(self) -> None:
        """Write the slots that hold one number for all tensors, in one program, as the first tensor sees it."""
        with self._kernel("finish_all"):
            self.source.line("tensor = tl.program_id(0).to(tl.int64)", f"go = {self._goes()}")
            self._number_slots(Rank.GLOBAL)

    def _joined(self) -> set[str]:
        """Return the operations that functions apply to lanes."""
        return {node.reducer.combine for node in self.plan.reductions} - {"add"}

    def _functions(self) -> None:
        for op in sorted(self._joined()):
            with self._function(f"join_{op}", "x, y"):
                self.source.line(f"return {self._apply(op, 'x', 'y')}")
        self._host_functions()
        for loop in self.program.loops:
            self._pass_kernel(loop)
            if loop.after:
                self._end_kernel(loop)
        if self.program.finish:
            self._finish_kernel()
        if self.program.globals:
            self._finish_all_kernel()

    def _sizes(self) -> dict[str, int]:
        """Return the sizes that kernels name."""
        return {"CHUNK": self.build.chunk, "BLOCK": self.build.block, "ROWS": self.build.rows}

    def _imports(self, called: set[str]) -> None:
        self.source.line("import triton", "import triton.language as tl", "")
        if used := sorted(called & HELPERS):
            self.source.line(f"from steprule.backends.triton_helpers import {', '.join(used)}", "")
        sizes = self._sizes()
        self.source.line(*(f"{name}: tl.constexpr = tl.constexpr({sizes[name]})" for name in sizes if name in called))
