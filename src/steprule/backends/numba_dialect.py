"""Numba's dialect: a program → the source of one CPU kernel, a file a person can read.

One entry point runs any stage: -1 is the whole step; 0 computes the host scalars; then, for pass k, 2k + 1
walks the parts lo..hi and 2k + 2 combines what they reduced; after n passes, 2n + 1 writes the slots smaller than the
parameter, and 3n + 2 those that hold one number for all tensors. `numba_tables` says what it is given.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import ClassVar

from ..graph.node import Node, Rank
from ..graph.ops import Reducer
from ..plan.program import Accumulate, Loop, Program
from ..plan.rounding import FORMULAS
from ..plan.storage import CODES
from ..plan.tables import hyper_columns
from .base import ABSENT
from .numba_blocks import ROOMS, BlockWalk
from .numba_tables import ALL, COUNTS, INTEGERS, TABLES
from .render import WIDE

_MEMORY = frozenset({"add", "add_square", "float32_at", "float64_at", "inner", "int16_at", "int64_at", "uint8_at",
                     "uint16_at", "draw_room", *(f"{room}_room" for room in ROOMS.values())})  # fmt: skip
"""What kernels call of `memory`."""
_LANES = frozenset({"open_groups", *(f"close_groups_{form}" for form in CODES)})
"""What they call of `lanes`."""
_BYTES = {"float64": ("float64", 8), "float32": ("float32", 4), "int16": ("int16", 2),
          **dict.fromkeys(CODES, ("uint8", 1))}  # fmt: skip
"""As what the elements of an array are read, and how far apart they are; if not here, as 16 bits."""
RUN = 512
"""Elements that are added in float32: squares of 16 bits, again in float64 if that leaves its range; and gauges."""


class NumbaDialect(BlockWalk):
    """Writes one kernel in Python, for Numba to compile."""

    spelling: ClassVar[Mapping[str, str]] = {
        "add": "{} + {}", "sub": "{} - {}", "mul": "{} * {}", "div": "{} / {}", "pow": "{} ** {}", "neg": "-{}",
        "sqrt": "np.sqrt({})", "exp": "np.exp({})", "log": "np.log({})", "abs": "abs({})",
        "sign": "{0} if {0} != {0} else np.{real}({0} > 0) - np.{real}({0} < 0)",
        "minimum": "{0} if {0} <= {1} or {0} != {0} else {1}",
        "maximum": "{0} if {0} >= {1} or {0} != {0} else {1}",
        "where": "{1} if {0} else {2}", "floor": "np.floor({})", "mod": "np.mod({}, {}) + np.{real}(0)",
        "tanh": "np.tanh({})", "atan2": "np.arctan2({}, {})",
        "lt": "{} < {}", "le": "{} <= {}", "gt": "{} > {}", "ge": "{} >= {}", "eq": "{} == {}", "ne": "{} != {}",
        "and": "{} & {}", "or": "{} | {}", "not": "not {}",
    }  # fmt: skip
    reserved = frozenset({
        *TABLES, *COUNTS, *_MEMORY, *_LANES, *FORMULAS,
        "begins", "np", "stage", "lo", "hi", "row", "chunk", "tensor", "start",
        "count", "kernel", "first", "last", "part", "directory", "of", "i", "host_scalars", "finish_tensors",
        "finish_all", "abs", "range", "t", "known", "begin", "end", "min", "max", "length", "units", "column", "line",
        "lanes", "lane", "place", "size", "turn", "first_unit", "kept",
    })  # fmt: skip
    loads: ClassVar[Mapping[str, str]] = {
        "whole": "{at}[i]", "narrow": "widen_{form}({at}[i])", "beside": "joined{more}_{form}({at}[i], {beside}[i])",
        "grouped": "widen_{form}({at}[i], {unit}[lane])",
    }  # fmt: skip
    stores: ClassVar[Mapping[str, str]] = {
        "whole": "{at}[i] = {x}", "narrow": "{at}[i] = nearest_{form}({x})",
        "random": "{at}[i] = stochastic_{form}({x}, {bits})",
        "beside": "{at}[i] = compensated{more}_{form}({x})\n{beside}[i] = remainder{more}_{form}({x})",
        "grouped": "kept = kept_{form}({x})\n{kept}[place] = kept\n"
                   "{most}[lane] = max({most}[lane], magnitude(kept))",
    }  # fmt: skip
    joins: ClassVar[Mapping[tuple[str, str], str]] = {
        ("add", ""): "add({total}, np.{sum}({x}))",
        ("add", "mul"): "add_square({total}, np.{sum}({x}))",
        ("maximum", ""): "{x} if {x} > {total} or {x} != {x} else {total}",
        ("minimum", ""): "{x} if {x} < {total} or {x} != {x} else {total}",
    }
    number, cell, host = ("{at}[0]", "{at}[0] = {x}"), "{table}[{place}]", "host[{place}] = {x}"
    cast, running, index, row, jit, inlines = "np.{real}({})", "{}", "i", "row", "@inner", True
    joining = "{x}"
    ending: ClassVar[str] = "tensor_count, chunk_count, chunks, partial, reduced, total"
    """What the end of a pass is given."""

    def __init__(self, program: Program) -> None:
        super().__init__(program)
        self.columns = hyper_columns(self.plan)

    def _literal(self, value: float) -> str:
        return repr(value).replace("inf", "np.inf")

    def _constant(self, value: float, real: str) -> str:
        return repr(value) if real == WIDE else self._cast(repr(value), real)

    def _leaf(self, node: Node) -> str | None:
        name = "t" if node.op == "step" else node.array or str(node.attr)
        return self._cell("hyper", "row", len(self.columns), self.columns.index(name)) if name in self.columns else None

    def _point(self, name: str, dtype: str, first: str) -> str:
        return self._at(self._address(name), dtype, first)

    def _at(self, address: str, dtype: str, first: str) -> str:
        """Spell a pointer to an element of the array at an address."""
        kind, size = _BYTES.get(dtype, ("uint16", 2))
        return f"{kind}_at({address}{'' if first == '0' else f' + {first} * {size}'})"

    @contextmanager
    def _elements(self) -> Generator[None]:
        with self.source.block("for i in range(count):"):
            yield

    def _over(self, loop: Loop, at: Mapping[str, str], totals: Mapping[Accumulate, str]) -> None:
        if grouped := [array for array in loop.arrays if array.format.grouped]:
            self._over_groups(loop, at, totals, grouped)
            return
        watched = {part: total for part, total in totals.items() if self._only_watched(part)}
        others = {part: total for part, total in totals.items() if part not in watched}
        if watched and others and loop.stores:  # one loop, since what is stored cannot be read again
            watched, others = {}, dict(totals)
        known = dict(self.names)
        if others or not watched:
            self._over_needed(loop.joining(others), at, others)
        self.names = known
        if watched:
            with self._runs(watched) as runs:
                self._run(loop.joining(watched), at, runs, "float32")
                self._end_runs(watched, runs)

    def _only_watched(self, part: Accumulate) -> bool:
        """Whether a sum is only watched, so that runs of it may be added in float32, in wider vectors."""
        return part.node in self.plan.only_watched and part.node.reducer.combine == "add" and self.real != WIDE

    def _over_needed(self, loop: Loop, at: Mapping[str, str], totals: Mapping[Accumulate, str]) -> None:
        if not self._adds_in_runs(loop):
            super()._over(loop, at, totals)
            return
        with self._runs(totals) as runs:
            self._run(loop, at, runs, "float32")
            sound = (
                f"{1e-30} < {run} < {1e38}" if part.node.reducer.each else f"{run} == 0.0" for part, run in runs.items()
            )
            with self.source.block(f"if {' and '.join(sound)}:"):
                self._end_runs(totals, runs)
            with self.source.block("else:"):
                self._run(loop, at, totals, WIDE)

    @contextmanager
    def _runs(self, totals: Mapping[Accumulate, str]) -> Generator[dict[Accumulate, str]]:
        """Open a loop over runs of elements, in which each total has a part of its own."""
        runs = {part: self.fresh.fresh("run") for part in totals}
        with self.source.block(f"for begin in range(0, count, {RUN}):"):
            self.source.line(f"end = min(begin + {RUN}, count)")
            self.source.line(*(f"{run} = np.float32(0.0)" for run in runs.values()))
            yield runs

    def _end_runs(self, totals: Mapping[Accumulate, str], runs: Mapping[Accumulate, str]) -> None:
        self.source.line(*(f"{totals[part]} += np.float64({run})" for part, run in runs.items()))

    def _adds_in_runs(self, loop: Loop) -> bool:
        """Whether short runs may be added in float32, in wider vectors: squares of 16 bits, and the guard's zeros."""
        squares = [part.node for part in loop.accumulated if part.node is not self.plan.guard]
        loaded = {part.node for part in loop.loads if part.array.format.narrow}
        return (
            bool(squares)
            and not loop.stores
            and all(
                (node.reducer.combine, node.reducer.each) == ("add", "mul") and node.inputs[0] in loaded
                for node in squares
            )
        )

    def _run(self, loop: Loop, at: Mapping[str, str], totals: Mapping[Accumulate, str], real: str) -> None:
        known, self.sum = dict(self.names), real
        with self.source.block("for i in range(begin, end):"):
            self._body(loop, at, totals)
        self.names, self.sum = known, WIDE

    def _leave(self, place: int, own: Reducer, total: str) -> None:  # noqa: ARG002
        self.source.line(f"{self._partial(place)} = {total}")

    def _partial(self, place: int) -> str:
        """Spell where a chunk's part of a reduction goes."""
        return self._cell("partial", "chunk", len(self.plan.reductions), place)

    # Functions -----------------------------------------------------------------------------------

    def _host_function(self) -> None:
        """Compute the host scalars, a row of hyperparameters after another."""
        rows = "for row in range(row_count):"
        with self._function("host_scalars", "row_count, hyper, host"), self.source.block(rows):
            self._host_values()
            self.source.line(*([] if self.hosted else ["pass"]))

    def _pass_function(self, loop: Loop) -> None:
        """Walk over chunks; leave those alone whose gradient is absent."""
        with self._function(f"pass_{loop.index}", f"first, last, {ALL}"):
            self._says(loop)
            self.source.line(*(["known = -1"] if loop.numbers else []))
            with self.source.block("for chunk in range(first, last):"):
                self.source.line(*(f"{name} = {self._of(name)}" for name in ("tensor", "start", "count")))
                with self._absent():
                    chunked = [part for part in loop.accumulated if part.node.axis is None]
                    self.source.line(*(self._begins(part, self._partial(part.place)) for part in chunked))
                self.source.line(*([f"row = {self._of('row')}"] if loop.numbers or loop.rounded or loop.drawn else []))
                if loop.numbers:
                    self._pass_scalars(loop)
                self._walk(loop)

    @contextmanager
    def _absent(self) -> Generator[None]:
        """Leave the current tensor alone if it has no gradient, after what is written inside."""
        with self.source.block(f"if {self._address(self.graph.gradient)} == {ABSENT}:"):
            yield
            self.source.line("continue")

    def _begins(self, part: Accumulate, cell: str) -> str:
        return f"{cell} = {self._running(part.node)}"

    def _pass_scalars(self, loop: Loop) -> None:
        """Compute the scalars of a pass where they may differ: at another row, or tensor if they depend on that.

        Many tensors share a row, and a square root and a division cost as much as dozens of elements.
        """
        own = "row" if all(node.rank <= Rank.GLOBAL for node in loop.numbers) else "tensor"
        with self.source.block(f"if {own} != known:"):
            self.source.line(f"known = {own}")
            self._scalars(loop.numbers, narrow=True)

    def _end_function(self, loop: Loop) -> None:
        """Combine a pass's partial results in the order of chunks, whoever made them."""
        with self._function(f"end_{loop.index}", self.ending):
            self._combine(loop)

    def _combine(self, loop: Loop) -> None:
        whole = {part: self._whole(part.node) for part in loop.accumulated if part.node.axis is None}
        each = [part for part in whole if part.node.kind != "global"]
        self.source.line(*(self._begins(part, whole[part]) for part in whole if part not in each))
        if each:
            with self.source.block("for tensor in range(tensor_count):"):
                self.source.line(*(self._begins(part, whole[part]) for part in each))
        if whole:
            with self.source.block("for chunk in range(chunk_count):"):
                self.source.line(*([f"tensor = {self._of('tensor')}"] if each else []))
                for part, cell in whole.items():
                    joined = self._apply(part.node.reducer.combine, cell, self._partial(part.place))
                    self.source.line(f"{cell} = {joined}")

    def _finish_function(self) -> None:
        """Write the slots that hold one number a tensor, after every pass has read them."""
        tensors = "for tensor in range(tensor_count):"
        with self._function("finish_tensors", f"tensor_count, {ALL}"), self.source.block(tensors):
            with self._absent():
                pass
            self.source.line(f"row = {self._of('row')}")
            self._number_slots(Rank.TENSOR)

    def _finish_all_function(self) -> None:
        """Write the slots that hold one number for all tensors, as the first of them sees it, absent or not."""
        with self._function("finish_all", ALL):
            self.source.line("tensor = 0", f"row = {self._of('row')}")
            self._number_slots(Rank.GLOBAL)

    def _entry(self) -> None:
        """Write the function that is called: it finds the tables, and runs the stage that is asked for."""
        loops, cells = self.program.loops, [f"of[{place}]" for place in range(len(TABLES) + len(COUNTS) + 1)]
        with self.source.block("def kernel(lo, hi, directory):"):
            self.source.line("of = int64_at(directory)")
            for name, cell in zip(TABLES, cells, strict=False):
                self.source.line(f"{name} = {'int64' if name in INTEGERS else 'float64'}_at({cell})")
            self.source.line(f"{', '.join((*COUNTS, 'stage'))} = {', '.join(cells[len(TABLES) :])}")
            self._stage(0, "host_scalars(row_count, hyper, host)")
            for loop in loops:
                walked = ["for part in range(lo, hi):", "    done[part] = 1"] if loop is loops[-1] else []
                self._line_stage(loop)
                self._stage(2 * loop.index + 1, f"pass_{loop.index}(parts[lo], parts[hi], {ALL})", *walked)
                if loop.after:
                    ended = f"end_{loop.index}({self.ending})"
                    self._stage(2 * loop.index + 2, ended, *self._guard(loop))
            if self.program.finish:
                self._stage(2 * len(loops) + 1, f"finish_tensors(tensor_count, {ALL})", "done[part_count] = 1")
            if self.program.globals:
                self._stage(3 * len(loops) + 2, f"finish_all({ALL})", "done[part_count + 1] = 1")

    def _line_stage(self, loop: Loop) -> None:
        """Write the stage before a pass, in which what its rows and columns use is computed: none here."""

    def _stage(self, number: int, *lines: str) -> None:
        """Write what a stage does."""
        with self.source.block(f"if stage == {number} or stage == -1:"):
            self.source.line(*lines)

    def _guard(self, loop: Loop) -> list[str]:
        """Stop before anything is written when a guarded plan has met what is not finite."""
        if self.program.guard not in [part.place for part in loop.accumulated]:
            return []
        value = self._cell("total", str(self.program.guard), 1, 0)
        return [f"if stage == -1 and {value} != {value}:", "    return"]

    def _functions(self) -> None:
        self._host_function()
        for loop in self.program.loops:
            self._pass_function(loop)
            if loop.after:
                self._end_function(loop)
        if self.program.finish:
            self._finish_function()
        if self.program.globals:
            self._finish_all_function()
        self._entry()

    def _imports(self, called: set[str]) -> None:
        self.source.line("import numpy as np", "")
        for module, words in (("half", FORMULAS.keys()), ("lanes", _LANES), ("memory", _MEMORY)):
            if used := sorted(called & words):
                self.source.line(f"from steprule.backends.{module} import {', '.join(used)}")
