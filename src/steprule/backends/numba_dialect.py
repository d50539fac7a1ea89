"""Numba's dialect: a program → the source of one CPU kernel, a file a person can read.

One entry point runs any stage: -1 is the whole step; 0 computes the host scalars; then, for pass k, 2k + 1
walks the parts lo..hi and 2k + 2 combines what they reduced; after n passes, 2n + 1 writes the slots of one number a
tensor. Besides the tables of `plan.tables` it is given

    done       [part + 1]        set where the last pass has ended, last of all where it has been wound up: an
                                 interrupted step is finished from there
    parts      [part + 1]        where each part's chunks begin, and the end of the last

The kernel is given the address of a directory: where each table begins, how many tensors, chunks, rows and parts
there are, and the stage. It reads the stage there so that its arguments are those of torch's parallel loops.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import ClassVar

from ..graph.node import Node, Rank
from ..graph.ops import Reducer
from ..plan.program import Array, Combine, Loop, Program
from ..plan.storage import NARROW
from ..plan.tables import hyper_columns
from .base import ABSENT
from .render import WIDE, Dialect

TABLES = ("addresses", "gradients", "tensors", "chunks", "hyper", "host", "partial", "reduced", "total", "done",
          "parts")  # fmt: skip
COUNTS = ("tensor_count", "chunk_count", "row_count", "part_count")
_INTEGERS = {"addresses", "gradients", "tensors", "chunks", "done", "parts"}
_ALL = ", ".join(TABLES[:-2])
_MEMORY = {"add": "add_in_any_order", "add_square": "add_square_in_any_order", "float32_at": "float32_at",
           "float64_at": "float64_at", "reals": "float64_at", "inner": "inner", "int16_at": "int16_at",
           "integers": "int64_at", "uint16_at": "uint16_at"}  # fmt: skip
"""What kernels call of `memory`, and its name there."""
_HALF = ("key", "draw", "low_bits", "high_bits", *(f"{verb}_{form}" for form in NARROW for verb in (
    "widen", "nearest", "stochastic", "compensated", "remainder", "joined")))  # fmt: skip
"""What they call of `half`."""
_POINTER = {"bfloat16": "uint16", "float16": "uint16"}
_SIZE = {"float64": 8, "float32": 4}


class NumbaDialect(Dialect):
    """Writes one kernel in Python, for Numba to compile."""

    spelling: ClassVar[Mapping[str, str]] = {
        "add": "{} + {}", "sub": "{} - {}", "mul": "{} * {}", "div": "{} / {}", "pow": "{} ** {}", "neg": "-{}",
        "sqrt": "np.sqrt({})", "exp": "np.exp({})", "log": "np.log({})", "abs": "abs({})", "stored": "{}",
        "sign": "{0} if {0} != {0} else np.{real}({0} > 0) - np.{real}({0} < 0)",
        "minimum": "{0} if {0} <= {1} or {0} != {0} else {1}",
        "maximum": "{0} if {0} >= {1} or {0} != {0} else {1}",
        "where": "{1} if {0} else {2}",
        "lt": "{} < {}", "le": "{} <= {}", "gt": "{} > {}", "ge": "{} >= {}", "eq": "{} == {}", "ne": "{} != {}",
    }  # fmt: skip
    reserved = frozenset({
        *TABLES, *COUNTS, *_MEMORY, *_HALF, "begins", "real", "np", "stage", "lo", "hi", "row", "chunk", "tensor",
        "start", "count", "kernel", "first", "last", "part", "directory", "of", "i", "host_scalars", "finish_tensors",
        "abs", "range", "t", "known",
    })  # fmt: skip
    loads: ClassVar[Mapping[str, str]] = {
        "float32": "{at}[i]", "float64": "{at}[i]",
        **{form: f"widen_{form}({{at}}[i])" for form in NARROW},
        **{f"{form} + int16": f"joined_{form}({{at}}[i], {{beside}}[i])" for form in NARROW},
    }  # fmt: skip
    stores: ClassVar[Mapping[tuple[str, bool], str]] = {
        ("float32", False): "{at}[i] = {x}", ("float64", False): "{at}[i] = {x}",
        **{(form, False): f"{{at}}[i] = nearest_{form}({{x}})" for form in NARROW},
        **{(form, True): f"{{at}}[i] = stochastic_{form}({{x}}, {{bits}})" for form in NARROW},
        **{(f"{form} + int16", False): f"{{at}}[i] = compensated_{form}({{x}})\n"
                                       f"{{beside}}[i] = remainder_{form}({{x}})" for form in NARROW},
    }  # fmt: skip
    joins: ClassVar[Mapping[tuple[str, str], str]] = {
        ("add", ""): "add({total}, np.float64({x}))",
        ("add", "mul"): "add_square({total}, np.float64({x}))",
    }
    inlines = True

    def __init__(self, program: Program) -> None:
        super().__init__(program)
        self.columns = hyper_columns(self.plan)

    # Templates -----------------------------------------------------------------------------------

    def _constant(self, value: float, real: str) -> str:
        return repr(value) if real == WIDE else f"real({value!r})"

    def _cast(self, text: str, real: str) -> str:
        return f"{'np.float64' if real == WIDE else 'real'}({text})"

    def _cell(self, table: str, row: str, width: int, column: int) -> str:
        return f"{table}[{self._place(row, width, column)}]"

    def _leaf(self, node: Node) -> str:
        name = "t" if node.op == "step" else node.attr[0] if isinstance(node.attr, tuple) else str(node.attr)
        return self._cell("hyper", "row", len(self.columns), self.columns.index(name))

    def _known(self, node: Node) -> str | None:
        host = self.program.host
        return self._cell("host", "row", len(host), host.index(node)) if node in host else None

    def _address(self, name: str) -> str:
        """Spell where an array of the current tensor begins."""
        if name == self.graph.gradient:
            return self._cell("gradients", "tensor", 1, 0)
        return self._cell("addresses", "tensor", len(self.pointed), self.pointed.index(name))

    def _number(self, array: Array) -> str:
        return f"np.float64({array.format.dtype}_at({self._address(array.name)})[0])"

    def _point(self, name: str, array: Array) -> str:
        dtype = array.format.dtype if name == array.name else array.format.beside
        return f"{_POINTER.get(dtype, dtype)}_at({self._address(name)} + start * {_SIZE.get(dtype, 2)})"

    def _running(self, init: float) -> str:
        return repr(init).replace("inf", "np.inf")

    @contextmanager
    def _elements(self) -> Generator[None]:
        with self.source.block("for i in range(count):"):
            yield

    def _join(self, total: str, own: Reducer, element: str) -> str:
        return self._apply(own.combine, total, element)

    def _leave(self, place: int, own: Reducer, total: str) -> None:  # noqa: ARG002
        self.source.line(f"{self._partial(place)} = {total}")

    def _partial(self, place: int) -> str:
        """Spell where a chunk's part of a reduction goes."""
        return self._cell("partial", "chunk", len(self.plan.reductions), place)

    def _integer(self, text: str) -> str:
        return f"np.int64({text})"

    def _index(self) -> str:
        return "i"

    # Functions -----------------------------------------------------------------------------------

    @contextmanager
    def _function(self, name: str, arguments: str, over: str = "") -> Generator[None]:
        """Write a function that only the kernel calls; most are one loop `over` something."""
        self._begin()
        self.source.line("@inner")
        with self.source.block(f"def {name}({arguments}):"):
            if over:
                with self.source.block(f"for {over}:"):
                    yield
            else:
                yield
        self.source.line()
        self.source.line()

    def _host_function(self) -> None:
        """Compute the host scalars, a row of hyperparameters after another."""
        with self._function("host_scalars", "row_count, hyper, host", "row in range(row_count)"):
            self._host_values(self.program.host)
            for place, node in enumerate(self.program.host):
                self.source.line(f"{self._cell('host', 'row', len(self.program.host), place)} = {self.names[node]}")
            if not self.program.host:
                self.source.line("pass")

    def _pass_function(self, loop: Loop) -> None:
        """Walk over chunks; leave those alone whose gradient is absent."""
        with self._function(f"pass_{loop.index}", f"first, last, {_ALL}"):
            self.source.line(f"# {self._says(loop)}")
            if loop.scalars:
                self.source.line("known = -1")
            with self.source.block("for chunk in range(first, last):"):
                for name in ("tensor", "start", "count"):
                    self.source.line(f"{name} = {self._of_chunk(name)}")
                with self.source.block(f"if {self._address(self.graph.gradient)} == {ABSENT}:"):
                    for part in loop.accumulated:
                        self.source.line(f"{self._partial(part.place)} = {self._running(part.node.reducer.init)}")
                    self.source.line("continue")
                if loop.scalars or loop.draws:
                    self.source.line(f"row = {self._of_tensor('row')}")
                if loop.scalars:
                    self._pass_scalars(loop)
                self._walk(loop)

    def _pass_scalars(self, loop: Loop) -> None:
        """Compute the scalars of a pass where they may differ: at another row, or tensor if they depend on that.

        Many tensors share a row, and a square root and a division cost as much as dozens of elements.
        """
        own = "row" if all(node.rank <= Rank.GLOBAL for node in loop.scalars) else "tensor"
        with self.source.block(f"if {own} != known:"):
            self.source.line(f"known = {own}")
            self._scalars(loop.scalars, narrow=True)

    def _end_function(self, loop: Loop) -> None:
        """Combine a pass's partial results in the order of chunks, whoever made them."""
        made = [part for part in loop.after if isinstance(part, Combine)]
        each = [part for part in made if part.node.kind != "global"]
        with self._function(f"end_{loop.index}", "tensor_count, chunk_count, chunks, partial, reduced, total"):
            for part in made:
                if part not in each:
                    self.source.line(f"{self._whole(part)} = {self._running(part.node.reducer.init)}")
            if each:
                with self.source.block("for tensor in range(tensor_count):"):
                    for part in each:
                        self.source.line(f"{self._whole(part)} = {self._running(part.node.reducer.init)}")
            with self.source.block("for chunk in range(chunk_count):"):
                if each:
                    self.source.line(f"tensor = {self._of_chunk('tensor')}")
                for part in made:
                    joined = self._apply(part.node.reducer.combine, self._whole(part), self._partial(part.place))
                    self.source.line(f"{self._whole(part)} = {joined}")

    def _whole(self, part: Combine) -> str:
        """Spell where a reduction ends."""
        if part.node.kind == "global":
            return self._cell("total", str(part.place), 1, 0)
        return self._cell("reduced", "tensor", len(self.plan.reductions), part.place)

    def _finish_function(self) -> None:
        """Write the slots that hold one number a tensor, after every pass has read them."""
        finish = self.program.finish
        with self._function("finish_tensors", f"tensor_count, {_ALL}", "tensor in range(tensor_count)"):
            with self.source.block(f"if {self._address(self.graph.gradient)} == {ABSENT}:"):
                self.source.line("continue")
            self.source.line(f"row = {self._of_tensor('row')}")
            self._scalars([store.node for store in finish], narrow=False)
            for store in finish:
                dtype = store.array.format.dtype
                value = f"np.{dtype}({self.names[store.node]})"
                self.source.line(f"{dtype}_at({self._address(store.array.name)})[0] = {value}")

    def _entry(self) -> None:
        """Write the function that is called: it finds the tables, and runs the stage that is asked for."""
        last = self.program.loops[-1]
        with self.source.block("def kernel(lo, hi, directory):"):
            self.source.line("of = integers(directory)")
            for place, name in enumerate(TABLES):
                self.source.line(f"{name} = {'integers' if name in _INTEGERS else 'reals'}(of[{place}])")
            places = (f"of[{len(TABLES) + i}]" for i in range(len(COUNTS) + 1))
            self.source.line(f"{', '.join((*COUNTS, 'stage'))} = {', '.join(places)}")
            self._stage(0, "host_scalars(row_count, hyper, host)")
            for loop in self.program.loops:
                walked = ["for part in range(lo, hi):", "    done[part] = 1"] if loop is last else []
                self._stage(2 * loop.index + 1, f"pass_{loop.index}(parts[lo], parts[hi], {_ALL})", *walked)
                if loop.after:
                    ended = f"end_{loop.index}(tensor_count, chunk_count, chunks, partial, reduced, total)"
                    self._stage(2 * loop.index + 2, ended, *self._guard(loop))
            if self.program.finish:
                done = "done[part_count] = 1"
                self._stage(2 * len(self.program.loops) + 1, f"finish_tensors(tensor_count, {_ALL})", done)

    def _stage(self, number: int, *lines: str) -> None:
        """Write what a stage does."""
        with self.source.block(f"if stage == {number} or stage == -1:"):
            for line in lines:
                self.source.line(line)

    def _guard(self, loop: Loop) -> list[str]:
        """Stop before anything is written when a guarded plan has met what is not finite."""
        place = self.program.guard
        if place not in [part.place for part in loop.after]:
            return []
        value = self._cell("total", str(place), 1, 0)
        return [f"if stage == -1 and {value} != {value}:", "    return"]

    def _functions(self) -> None:
        self._host_function()
        for loop in self.program.loops:
            self._pass_function(loop)
            if loop.after:
                self._end_function(loop)
        if self.program.finish:
            self._finish_function()
        self._entry()

    def _imports(self, body: str) -> None:
        self.source.line("import numpy as np")
        self.source.line()
        called = set(re.findall(r"\b[a-z_0-9]+\b", body))
        if half := sorted(called & set(_HALF)):
            self.source.line(f"from steprule.backends.half import {', '.join(half)}")
        for short, name in _MEMORY.items():
            if short in called:
                self.source.line(
                    f"from steprule.backends.memory import {name}{f' as {short}' if short != name else ''}"
                )
        self.source.line()
        self.source.line(f"real = np.{self.real}")
        self.source.line()
        self.source.line()


__all__ = ["COUNTS", "TABLES", "NumbaDialect"]
