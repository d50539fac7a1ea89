"""Triton's dialect: a program → the source of a GPU module: a few kernels for any number of tensors of any size.

    begin      host scalars, a row a tensor, if the first pass needs them; else the end of the first pass does that
    pass_k     one program a chunk: walks over it, and leaves one number a reduction and chunk
    end_k      combines those in the order of chunks, in one program a result: always in the same order, without atomics
    finish     slots of one number a tensor, after every chunk has read them

The last pass and `finish` do nothing if the step must be left out, and only they write what a training step keeps. All
kernels take the tables of `plan.tables`, which stay on the device, and

    counts     [tensor, name]       step counts and host slots: the state itself, which the last pass advances
    found      [1]                  above 0 if the step must be left out: GradScaler's `found_inf`
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import ClassVar

from ..graph.node import Node, topological
from ..graph.ops import Reducer
from ..plan.program import Array, Combine, Loop, Program
from ..plan.storage import NARROW
from ..plan.tables import host_columns
from .base import ABSENT
from .render import WIDE, Dialect

TABLES = ("addresses", "gradients", "tensors", "chunks", "hyper", "counts", "host", "partial", "reduced", "total",
          "found")  # fmt: skip
COUNTS = ("tensor_count", "chunk_count")
CHUNK, BLOCK, ROWS = 4096, 1024, 128
"""Elements a program walks over, elements at a time, and rows of scalars at a time."""

_SPELLING = {
    "add": "{} + {}", "sub": "{} - {}", "mul": "{} * {}", "div": "divide({}, {})", "pow": "power({}, {})",
    "neg": "-{}", "sqrt": "root({})", "exp": "exponential({})", "log": "logarithm({})", "abs": "tl.abs({})",
    "sign": "sign({})", "minimum": "minimum({}, {})", "maximum": "maximum({}, {})", "where": "tl.where({}, {}, {})",
    "stored": "tl.cast(tl.cast({0}, tl.{element}), tl.{real})",
    "lt": "{} < {}", "le": "{} <= {}", "gt": "{} > {}", "ge": "{} >= {}", "eq": "{} == {}", "ne": "{} != {}",
}  # fmt: skip
HELPERS = ("add", "add_square", "at", "draw", "finite", "fold", "high_bits", "key", "low_bits", "padded", "read",
           "read_bits", "write", "write_bits", *re.findall(r"(?<![.\w])([a-z]+)(?=\()", " ".join(_SPELLING.values())),
           *(f"{verb}_{form}" for form in NARROW for verb in (
               "stochastic", "compensated", "remainder", "joined")))  # fmt: skip
"""What kernels call of `triton_helpers`: what is spelled with it, too."""


def derived(program: Program) -> list[Node]:
    """List the host values that are computed: all but those that stand in the table of hyperparameters."""
    return [node for node in program.host if node.op != "hyper"]


class TritonDialect(Dialect):
    """Writes one module in Triton."""

    spelling = _SPELLING
    reserved = frozenset({
        *TABLES, *COUNTS, *HELPERS, "tl", "triton", "ALIGNED", "CHUNK", "BLOCK", "ROWS", "chunk", "tensor", "start",
        "count", "rows", "row", "inside", "whole", "tail", "first", "lanes", "here", "float", "int", "abs", "range",
        "min", "max", "sum", "len", "print", "host_scalars", "begin", "finish", "element", "go", "t", "begins",
        *(f"join_{op}" for op in spelling),
    })  # fmt: skip
    loads: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("float64", "float32", *NARROW), "read({at} + here, inside, tail, tl.{real})"),
        **{f"{form} + int16": f"joined_{form}(read_bits({{at}} + here, inside, tail, tl.uint16), "
                              "read_bits({beside} + here, inside, tail, tl.int16))" for form in NARROW},
    }  # fmt: skip
    stores: ClassVar[Mapping[tuple[str, bool], str]] = {
        **dict.fromkeys([(form, False) for form in ("float64", "float32", *NARROW)],
                        "write({at} + here, {x}, inside, tail)"),
        **{(form, True): f"write_bits({{at}} + here, stochastic_{form}({{x}}, {{bits}}), inside, tail)"
           for form in NARROW},
        **{(f"{form} + int16", False): f"write_bits({{at}} + here, compensated_{form}({{x}}), inside, tail)\n"
                                       f"write_bits({{beside}} + here, remainder_{form}({{x}}), inside, tail)"
           for form in NARROW},
    }  # fmt: skip
    joins: ClassVar[Mapping[tuple[str, str], str]] = {
        ("add", ""): "add({total}, {x}, inside, tail)",
        ("add", "mul"): "add_square({total}, {x}, inside, tail)",
    }
    inlines = False
    where = " on a GPU"

    def __init__(self, program: Program) -> None:
        super().__init__(program)
        self.derived = derived(program)
        self.hypers = [hyper.name for hyper in self.graph.hypers]
        self.hosts = host_columns(self.plan)

    # Templates -----------------------------------------------------------------------------------

    def _constant(self, value: float, real: str) -> str:
        text = repr(value)
        return f"tl.full((), {text if text.strip('-')[0].isdigit() else f'float({text!r})'}, tl.{real})"

    def _cast(self, text: str, real: str) -> str:
        return f"tl.cast({text}, tl.{real})"

    def _cell(self, table: str, row: str, width: int, column: int) -> str:
        return f"tl.load({table} + {self._place(row, width, column)})"

    def _leaf(self, node: Node) -> str:
        if node.op == "const":
            return self._constant(float(node.attr), WIDE)  # type: ignore[arg-type]
        if node.op == "hyper":
            place = self._place("row", len(self.hypers), self.hypers.index(str(node.attr)))
            return f"tl.load(hyper + {place}, mask=inside, other=1.0)"
        name = "t" if node.op == "step" else node.attr[0] if isinstance(node.attr, tuple) else ""
        held = f"tl.load({self._count(name)}, mask=inside, other=1.0).to(tl.float64)"
        return f"{held} + 1.0" if node.op == "step" else held

    def _count(self, name: str) -> str:
        """Spell where what is counted of a row stands."""
        return f"counts + {self._place('row', len(self.hosts), self.hosts.index(name))}"

    def _known(self, node: Node) -> str | None:
        if node.op == "hyper":
            return self._cell("hyper", "tensor", len(self.hypers), self.hypers.index(str(node.attr)))
        if node in self.derived:
            return self._cell("host", "tensor", len(self.derived), self.derived.index(node))
        return None

    def _pointer(self, name: str, dtype: str, first: str) -> str:
        """Spell a pointer into an array of the current tensor."""
        if name == self.graph.gradient:
            held = self._cell("gradients", "tensor", 1, 0)
        else:
            held = self._cell("addresses", "tensor", len(self.pointed), self.pointed.index(name))
        return f"at({held}, {first}, tl.{dtype}, {'False' if first == '0' else 'ALIGNED'})"

    def _number(self, array: Array) -> str:
        return f"tl.cast(tl.load({self._pointer(array.name, array.format.dtype, '0')}), tl.float64)"

    def _point(self, name: str, array: Array) -> str:
        dtype = array.format.dtype if name == array.name else array.format.beside
        return self._pointer(name, dtype, "start")

    def _running(self, init: float) -> str:
        return f"tl.full((BLOCK,), {self._init(init)}, tl.float64)"

    def _init(self, value: float) -> str:
        """Spell what a reduction is of nothing."""
        return repr(value) if repr(value)[-1].isdigit() else f'float("{value}")'

    @contextmanager
    def _elements(self) -> Generator[None]:
        self.source.line("whole = count // BLOCK * BLOCK")
        with self.source.block("for tail in tl.static_range(2):"):  # noqa: SIM117
            with self.source.block("for first in range(whole if tail else 0, count if tail else whole, BLOCK):"):
                self.source.line("here = first + tl.arange(0, BLOCK)")
                self.source.line("inside = here < count")
                yield

    def _join(self, total: str, own: Reducer, element: str) -> str:
        return self._apply(own.combine, total, f"padded({element}, inside, {self._init(own.init)})")

    def _fold(self, own: Reducer, lanes: str) -> str:
        """Spell the lanes of a block, joined."""
        if own.combine == "add":
            return f"tl.sum({lanes}, 0)"
        return f"fold({lanes}, join_{own.combine}, {BLOCK.bit_length() - 1})"

    def _leave(self, place: int, own: Reducer, total: str) -> None:
        where = self._place("chunk", len(self.plan.reductions), place)
        self.source.line(f"tl.store(partial + {where}, {self._fold(own, total)})")

    def _integer(self, text: str) -> str:
        return f"{text}.to(tl.int64)"

    def _index(self) -> str:
        return "here"

    # Kernels -------------------------------------------------------------------------------------

    @contextmanager
    def _function(self, name: str, *arguments: str, options: str = "") -> Generator[None]:
        """Write one function, whose body is what is written inside."""
        self._begin()
        self.source.line(f"@triton.jit{options}")
        for line in arguments[:-1]:
            self.source.line(f"def {name}({line}," if line is arguments[0] else f"{' ' * (len(name) + 5)}{line},")
        head = f"def {name}(" if len(arguments) == 1 else " " * (len(name) + 5)
        with self.source.block(f"{head}{arguments[-1]}):"):
            yield
        self.source.line()
        self.source.line()

    def _kernel(self, name: str) -> AbstractContextManager[None]:
        """Write one kernel; how many tensors and chunks there are compiles nothing."""
        names = ", ".join(f'"{count}"' for count in COUNTS)
        rest = ", ".join((*TABLES[8:], *COUNTS, "ALIGNED: tl.constexpr"))
        return self._function(name, ", ".join(TABLES[:8]), rest, options=f"(do_not_specialize=[{names}])")

    @property
    def _has_begin(self) -> bool:
        """Whether host scalars are wanted before the first pass ends, and so need a launch of their own."""
        first = self.program.loops[0]
        early = set(self.derived) & set(topological(first.scalars))
        return bool(self.derived) and (len(self.program.loops) == 1 or not first.after or bool(early))

    def _host_function(self) -> None:
        """Compute the host scalars, one row a lane."""
        with self._function("host_scalars", "first, tensor_count, hyper, counts, host"):
            self.source.line("# one row a lane: numbers that depend on hyperparameters and the step count alone")
            self.source.line("row = first + tl.arange(0, ROWS)")
            self.source.line("inside = row < tensor_count")
            self._host_values(self.derived)
            for place, node in enumerate(self.derived):
                where = self._place("row", len(self.derived), place)
                self.source.line(f"tl.store(host + {where}, {self.names[node]}, mask=inside)")

    def _goes(self) -> str:
        """Spell whether the step is taken: what found out that it must not be has ended by the last pass."""
        terms = ["tl.load(found) == 0.0"]
        if self.program.guard >= 0:
            terms.append(f"finite({self._cell('total', str(self.program.guard), 1, 0)})")
        return " & ".join(f"({term})" if len(terms) > 1 else term for term in terms)

    def _present(self) -> str:
        """Spell whether the current tensor has a gradient."""
        return f"({self._cell('gradients', 'tensor', 1, 0)} != {ABSENT})"

    def _pass_kernel(self, loop: Loop) -> None:
        """Walk over a chunk, none of it if the gradient is absent or the step is left out."""
        last = loop is self.program.loops[-1]
        with self._kernel(f"pass_{loop.index}"):
            self.source.line(f"# {self._says(loop)}")
            self.source.line("chunk = tl.program_id(0).to(tl.int64)")
            self.source.line(f"tensor = {self._of_chunk('tensor')}")
            self.source.line(f"start = tl.multiple_of({self._of_chunk('start')}, CHUNK)")
            self.source.line(f"count = {self._of_chunk('count')}.to(tl.int32)")
            if last:
                self.source.line(f"go = {self._goes()}")
            self.source.line(f"count = tl.where({'go & ' if last else ''}{self._present()}, count, 0)")
            self._scalars(loop.scalars, narrow=True)
            self._walk(loop)
            if last and self.hosts:
                self._advance()

    def _advance(self) -> None:
        """Write step counts and host slots, in the first program; no other reads them in this launch."""
        new = dict(self.plan.host_writes)
        with self.source.block("if chunk == 0:"):
            self.source.line("rows = tl.where(go, tensor_count, 0)")
            with self.source.block("for first in range(0, rows, ROWS):"):
                self.source.line("row = first + tl.arange(0, ROWS)")
                there = f"tl.load(gradients + row, mask=row < rows, other={ABSENT}) != {ABSENT}"
                self.source.line(f"inside = (row < rows) & ({there})")
                for name in self.hosts:
                    if name == "t":
                        value = f"tl.load({self._count(name)}, mask=inside, other=0.0) + 1.0"
                    elif name not in new:
                        continue
                    elif new[name] in self.derived:
                        held = self._place("row", len(self.derived), self.derived.index(new[name]))
                        value = f"tl.load(host + {held}, mask=inside, other=0.0)"
                    else:
                        value = self._leaf(new[name])
                    number = f"({value}).to(counts.dtype.element_ty)"
                    self.source.line(f"tl.store({self._count(name)}, {number}, mask=inside)")

    def _end_kernel(self, loop: Loop) -> None:
        """Combine a pass's partial results in the order of chunks: the first program those of all tensors."""
        made = [part for part in loop.after if isinstance(part, Combine)]
        each, shared = ([part for part in made if (part.node.kind == "global") is total] for total in (False, True))
        with self._kernel(f"end_{loop.index}"):
            self.source.line("tensor = tl.program_id(0)")
            if shared:
                with self.source.block("if tensor == 0:"):
                    for part in shared:
                        self._combine(part, "0", "chunk_count", f"total + {part.place}")
            if self.derived and loop.index == 0 and not self._has_begin:
                with self.source.block("if tensor * ROWS < tensor_count:"):
                    self.source.line("host_scalars(tensor * ROWS, tensor_count, hyper, counts, host)")
            if each:
                self.source.line(f"start = {self._of_tensor('chunk')}")
                self.source.line(f"count = {self._of_tensor('chunks')}")
                for part in each:
                    where = self._place("tensor", len(self.plan.reductions), part.place)
                    self._combine(part, "start", "count", f"reduced + {where}")

    def _combine(self, part: Combine, start: str, count: str, place: str) -> None:
        """Combine the parts of a stretch of chunks."""
        own, total = part.node.reducer, self.fresh.fresh(f"{part.node.op}_of")
        self.source.line(f"{total} = {self._running(own.init)}")
        with self.source.block(f"for first in range(0, {count}, BLOCK):"):
            self.source.line("here = first + tl.arange(0, BLOCK)")
            self.source.line(f"inside = here < {count}")
            row = "here.to(tl.int64)" if start == "0" else f"({start} + here)"
            where = self._place(row, len(self.plan.reductions), part.place)
            self.source.line(f"part = tl.load(partial + {where}, mask=inside, other={self._init(own.init)})")
            self.source.line(f"{total} = {self._apply(own.combine, total, 'part')}")
        self.source.line(f"tl.store({place}, {self._fold(own, total)})")

    def _finish_kernel(self) -> None:
        """Write the slots that hold one number a tensor, after every pass has read them."""
        with self._kernel("finish"):
            self.source.line("tensor = tl.program_id(0).to(tl.int64)")
            self.source.line(f"go = ({self._goes()}) & {self._present()}")
            self._scalars([store.node for store in self.program.finish], narrow=False)
            for store in self.program.finish:
                dtype = store.array.format.dtype
                value = f"tl.cast({self.names[store.node]}, tl.{dtype})"
                self.source.line(f"tl.store({self._pointer(store.array.name, dtype, '0')}, {value}, mask=go)")

    def _functions(self) -> None:
        for op in sorted({node.reducer.combine for node in self.plan.reductions} - {"add"}):
            with self._function(f"join_{op}", "x, y"):
                self.source.line(f"return {self._apply(op, 'x', 'y')}")
        if self.derived:
            self._host_function()
        if self._has_begin:
            with self._kernel("begin"):
                self.source.line("host_scalars(tl.program_id(0) * ROWS, tensor_count, hyper, counts, host)")
        for loop in self.program.loops:
            self._pass_kernel(loop)
            if loop.after:
                self._end_kernel(loop)
        if self.program.finish:
            self._finish_kernel()

    def _imports(self, body: str) -> None:
        self.source.line("import triton")
        self.source.line("import triton.language as tl")
        self.source.line()
        used = sorted(name for name in HELPERS if re.search(rf"\b{name}\b", body))
        if used:
            self.source.line(f"from steprule.backends.triton_helpers import {', '.join(used)}")
            self.source.line()
        for name, value in (("CHUNK", CHUNK), ("BLOCK", BLOCK), ("ROWS", ROWS)):
            if re.search(rf"\b{name}\b", body):
                self.source.line(f"{name}: tl.constexpr = tl.constexpr({value})")
        self.source.line()
        self.source.line()


__all__ = ["BLOCK", "CHUNK", "COUNTS", "ROWS", "TABLES", "TritonDialect", "derived"]
