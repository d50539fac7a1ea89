"""The renderer: one walk over a program, written down in the words of a dialect.

A dialect is a table of spellings and a few templates: how a table's cell, a load, a store, a loop and a reduction look.
What is done, and in which order, stands in the program; what every language needs (names, the order of scalars, the
rule's lines as comments) stands here.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import ClassVar

from ..graph.node import Node, Rank, step, topological
from ..graph.ops import OPS, Reducer
from ..graph.show import formula
from ..plan.lines import counted
from ..plan.program import Accumulate, Compute, Keep, Load, Loop, Program, Store
from ..plan.schedule import summary
from ..plan.storage import FORMATS, REMAINDER
from ..plan.tables import chunk_columns, tensor_columns
from .text import Names, Source

ROUNDED = {"narrow": "nearest_{form}({x})", "random": "stochastic_{form}({x}, {bits})"}
"""What a store writes that loses bits, in the formulas of `plan.rounding`."""
KEPT = {"whole": "{x}", "narrow": "widen_{form}({half})", "random": "widen_{form}({half})",
        "beside": "joined{more}_{form}(compensated{more}_{form}({x}), remainder{more}_{form}({x}))",
        "grouped": "widen_{form}(code, unit(exponent))"}  # fmt: skip
"""The value that a store leaves; `half` is what it has written, `code` and `exponent` what it calls so."""
WIDE = "float64"
"""The type of scalars and of reductions."""


class Dialect(ABC):
    """A language in which a program is written down; `names` maps nodes to the variables of the current function."""

    # Its templates, as text: `{at}` is where an array begins, `{x}` a value, `{real}` a type.
    spelling: ClassVar[Mapping[str, str]]
    """Every operation of elements and scalars; `{0}` is the first input."""
    reserved: ClassVar[frozenset[str]]
    """Names that no value of a kernel may have."""
    loads: ClassVar[Mapping[str, str]]
    """How an element of each kind of format is read; the array that lies `beside` the first begins `{beside}`."""
    stores: ClassVar[Mapping[str, str]]
    """The lines that write an element; what is `random` is rounded by the random `{bits}`."""
    number: ClassVar[tuple[str, str]]
    """How a slot of one number a tensor is read, and written."""
    cell: ClassVar[str]
    """The value at a `{place}` of a `{table}`."""
    host: ClassVar[str]
    """The line that keeps a host value `{x}` at a `{place}`."""
    naming: ClassVar[str] = "{} = {}"  # the line that gives a value a name
    cast: ClassVar[str]
    running: ClassVar[str]
    """What a running total starts from."""
    index: ClassVar[str]
    """The place of an element in its chunk."""
    first: str = "begins"
    """What that is counted from, as a place in the whole tensor."""
    row: ClassVar[str]
    """The current row of hyperparameters and host values."""
    jit: ClassVar[str]
    """The line above a function."""
    inlines: ClassVar[bool]
    """Whether constants stand where they are used."""
    where: ClassVar[str] = ""
    """Where it runs, as the heading says it."""
    joins: ClassVar[Mapping[tuple[str, str], str]]
    """Faster ways in which an element joins a running total, by the reducer's `combine` and `each`."""
    joining: ClassVar[str]
    """A wide element as it joins a running total in any other way, which starts from `{init}`."""

    lines: ClassVar[bool] = False
    """Whether it has words for numbers that are one a row or column."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.plan = program.plan
        self.graph = program.plan.graph
        self.real = program.layout.real
        self.pointed = [name for name in program.tensors if name != self.graph.gradient]
        self.pointed += [array.name for array in program.scratch]
        self.hosted: Sequence[Node] = program.host
        self.source = Source(self.graph.origins)
        self.names: dict[Node, str] = {}
        self.fresh = Names(self.reserved)
        self.keys, self.drawn, self.sum = dict[int, str](), dict[int, str](), WIDE
        self.groups: dict[str, dict[str, str]] = {}

    @classmethod
    def lacks(cls, program: Program) -> str:
        """Return the part of a program that this language cannot say, or ""."""
        for array in program.arrays:
            beside = array.rank is Rank.GLOBAL or array.format.real == program.layout.real
            if not beside or array.format.name not in FORMATS:
                return f"`{array.name}` is {array.format.name} beside parameters of {program.layout.parameter.dtype}"
            if array.format.grouped and program.plan.axes:
                return f"`{array.name}` is in 8 bits beside rows and columns, for which there are no kernels"
        for node in program.plan.graph.nodes:
            if node.whole or node.rank.apart:  # torch computes it, between passes
                continue
            if Rank.TENSOR < node.rank < Rank.ELEMENT and not cls.lines:
                return f"`{node.op}` varies over {node.rank.word}s, for which there are no kernels"
            if node.kind in {"pointwise", "compare", "logic"} and node.op not in cls.spelling:
                return f"there is no kernel with `{node.op}`"
        return ""

    # Templates that ask something ----------------------------------------------------------------

    @abstractmethod
    def _literal(self, value: float) -> str:
        """Spell a number, or infinity."""

    @abstractmethod
    def _constant(self, value: float, real: str) -> str:
        """Spell a number of a type."""

    @abstractmethod
    def _leaf(self, node: Node) -> str | None:
        """Spell a hyperparameter, the step count or a host slot, where host values are computed."""

    @abstractmethod
    def _point(self, name: str, dtype: str, first: str) -> str:
        """Spell a pointer to an element of an array of the current tensor."""

    @abstractmethod
    def _elements(self) -> AbstractContextManager[None]:
        """Open the loop over the elements of a chunk."""

    @abstractmethod
    def _leave(self, place: int, own: Reducer, total: str) -> None:
        """Write a chunk's part of a reduction into `partial`."""

    @abstractmethod
    def _functions(self) -> None:
        """Write all functions of the module."""

    @abstractmethod
    def _imports(self, called: set[str]) -> None:
        """Write what stands between the formula and the functions, which use these words."""

    # The module ----------------------------------------------------------------------------------

    def module(self, version: str) -> str:
        """Return the module: the formula, what it imports, its functions."""
        self._functions()
        body = self.source.text().rstrip() + "\n"
        code = "\n".join(line for line in body.splitlines() if not line.lstrip().startswith("#"))
        self.source = Source({})
        sizes = f"one step for any number of tensors of any size{self.where}"
        told = [f"    {text}".replace("\\", "/").replace('"""', "'''") for text in formula(self.graph).splitlines()]
        self.source.line(f'"""{self.graph.name}, {self._described()}: {sizes}.', "", *told, "")
        self.source.line(f"Generated by steprule {version}; comments quote the rule.", '"""', "")
        self._imports(set(re.findall(r"\w+", code)))
        self.source.line("", "")
        return self.source.text() + body

    def _described(self) -> str:
        """Say in which formats the arrays are."""
        layout = self.program.layout
        slots = {array.format.name for array in self.program.arrays[2:] if array.rank is Rank.ELEMENT}
        others = sorted(slots - {layout.parameter.name, layout.parameter.dtype})
        drawn = ["rounded stochastically"] if layout.random else []
        return ", ".join([layout.parameter.name, *(f"slots {name}" for name in others), *drawn])

    @contextmanager
    def _function(self, name: str, *arguments: str, options: str = "") -> Generator[None]:
        """Write a function, which knows nothing yet; its arguments stand in so many lines."""
        self.names, self.fresh = {}, Names(self.reserved)
        self.source.line(self.jit + options)
        between = ",\n" + " " * len(f"def {name}(")
        with self.source.block(f"def {name}({between.join(arguments)}):"):
            yield
        self.source.line("", "")

    # Expressions ---------------------------------------------------------------------------------

    def _place(self, row: str, width: int, column: int) -> str:
        """Spell where a cell is in a table whose rows lie one after another."""
        start = row if width == 1 else f"{row} * {width}"
        return f"{start} + {column}" if column else start

    def _cell(self, table: str, row: str, width: int, column: int) -> str:
        """Spell the value of a table's cell."""
        return self.cell.format(table=table, place=self._place(row, width, column))

    def _of(self, name: str) -> str:
        """Spell what is known of the current chunk, or of its tensor."""
        of_chunks = chunk_columns(self.program)
        whose, names = ("chunk", of_chunks) if name in of_chunks else ("tensor", tensor_columns(self.program))
        return self._cell(f"{whose}s", whose, len(names), names.index(name))

    def _size(self, op: str) -> str:
        """Spell a size of the current tensor."""
        rows, columns = (self._cast(self._of(name), WIDE) for name in ("rows", "columns"))
        return {"rows": rows, "columns": columns}.get(op) or self._apply("mul", rows, columns)

    def _address(self, name: str) -> str:
        """Spell where an array of the current tensor begins."""
        if name == self.graph.gradient:
            return self._cell("gradients", "tensor", 1, 0)
        return self._cell("addresses", "tensor", len(self.pointed), self.pointed.index(name))

    def _whole(self, node: Node) -> str:
        """Spell the cell in which a reduction ends."""
        place = self.plan.reductions.index(node)
        if node.kind == "global":
            return self._cell("total", str(place), 1, 0)
        return self._cell("reduced", "tensor", len(self.plan.reductions), place)

    def _cast(self, text: str, real: str) -> str:
        """Spell the conversion of a scalar."""
        return self.cast.format(text, real=real)

    def _apply(self, op: str, *inputs: str, real: str = WIDE) -> str:
        """Spell an operation."""
        return self.spelling[op].format(*inputs, real=real)

    def _spell(self, node: Node, real: str) -> str:
        """Spell a node, whose inputs have names."""
        if node.kind == "chance":
            return f"{node.op}_{real}(draw({self.first}, {self.index}, {self.keys[node.site]}))"
        return self._apply(node.op, *(self.names[child] for child in node.inputs), real=real)

    def _assign(self, node: Node, wanted: str, text: str) -> None:
        """Give a node a name and a value, unless it has them."""
        if node not in self.names:
            self.names[node] = self.fresh.fresh(wanted)
            self.source.comment(node)
            self.source.line(self.naming.format(self.names[node], text))

    # Scalars -------------------------------------------------------------------------------------

    def _known(self, node: Node) -> str | None:
        """Spell what has been computed before the pass; None for any other."""
        if node not in self.hosted:
            return None
        return self._cell("host", self.row, len(self.hosted), self.hosted.index(node))

    def _scalar(self, node: Node, known: str | None) -> str:
        """Spell a scalar, whose inputs have names, in float64."""
        if known is not None:
            return known
        if node.array:
            array = next(array for array in self.program.arrays if array.name == node.array)
            at = self._point(array.name, array.format.dtype, "0")
            return self._cast(self.number[0].format(at=at), WIDE)
        if node.kind == "size":
            return self._size(node.op)
        return self._finished(node, self._whole(node)) if node.reduces else self._spell(node, WIDE)

    def _finished(self, node: Node, total: str) -> str:
        """Spell the result of a reduction."""
        if not (finish := node.reducer.finish):
            return total
        count = [self._cast(self._of(counted(node)), WIDE)] if OPS[finish].arity > 1 else []
        return self._apply(finish, total, *count)

    def _scalars(self, roots: Sequence[Node], *, narrow: bool = False, hosts: bool = False) -> None:
        """Compute scalars in float64, down to what is known; `narrow` ones are given to elements in their own type."""
        known = {node: (self._leaf if hosts else self._known)(node) for node in topological(roots)}
        order = topological(roots, {node for node in known if known[node] is not None or node.reduces})
        used = {child for node in order for child in node.inputs}
        short = {node for node in roots if narrow and self.real != WIDE and not node.truth}
        for node in order:
            real = self.real if node in short and node not in used else WIDE
            if node.op == "const":
                text = self._constant(float(node.attr), real)  # type: ignore[arg-type]
                if self.inlines and real == WIDE:
                    self.names[node] = f"({text})" if text.startswith("-") else text
                    continue
            else:
                text = self._scalar(node, known[node])
                text = text if real == WIDE else self._cast(text, real)
            self._assign(node, _wanted(node), text)
        for node in roots:
            if node in short and node in used:
                wide, self.names[node] = self.names[node], self.fresh.fresh(_wanted(node))
                self.source.line(f"{self.names[node]} = {self._cast(wide, self.real)}")

    def _host_values(self) -> None:
        """Compute arithmetic on hyperparameters, counts and host slots, and keep it."""
        self._scalars(self.hosted, hosts=True)
        for place, node in enumerate(self.hosted):
            self.source.line(self.host.format(place=self._place("row", len(self.hosted), place), x=self.names[node]))

    def _number_slots(self, rank: Rank) -> None:
        """Write the slots that hold one number, a tensor or for all, after every pass has read them."""
        stores = [store for store in (*self.program.finish, *self.program.globals) if store.array.rank is rank]
        self._scalars([store.node for store in stores])
        for store in stores:
            dtype = store.array.format.dtype
            at, value = self._point(store.array.name, dtype, "0"), self._cast(self.names[store.node], dtype)
            self.source.line(self.number[1].format(at=at, x=value))

    # Elements ------------------------------------------------------------------------------------

    def _says(self, loop: Loop) -> None:
        """Say in words what a loop does."""
        self.source.line(f"{self.source.mark} {summary(self.plan.passes[loop.index], self.graph)}")

    def _walk(self, loop: Loop) -> None:
        """Walk over the elements of a chunk: load, compute, join the running totals, store."""
        arrays = {array.name: array.format.dtype for array in loop.arrays}
        if self.graph.parameter in arrays and (beside := self.program.layout.parameter.beside):
            arrays[REMAINDER] = beside
        at = {name: self.fresh.fresh(f"{name.replace(' ', '_')}_at") for name in arrays}
        self.source.line(*(f"{at[name]} = {self._point(name, dtype, 'start')}" for name, dtype in arrays.items()))
        same = self._same(loop)
        totals = {part: self.fresh.fresh(f"{part.node.op}_of") for part in loop.accumulated if same[part] is part}
        self.source.line(*(f"{name} = {self._running(part.node)}" for part, name in totals.items()))
        self._draw_keys(loop)
        if loop.body:
            self._over(loop.joining(totals), at, totals)
        for part in loop.accumulated:
            self._leave(part.place, part.node.reducer, totals[same[part]])

    def _same(self, loop: Loop) -> dict[Accumulate, Accumulate]:
        """Map each reduction to one that joins the same elements in the same way: not only a watched one, if it can."""
        found: dict[object, Accumulate] = {}
        for part in sorted(loop.accumulated, key=lambda part: part.node in self.plan.only_watched):
            found.setdefault(part.joins, part)
        return {part: found[part.joins] for part in loop.accumulated}

    def _over(self, loop: Loop, at: Mapping[str, str], totals: Mapping[Accumulate, str]) -> None:
        """Do what a loop does to each element of a chunk."""
        with self._elements():
            self._body(loop, at, totals)

    def _running(self, node: Node) -> str:
        return self.running.format(self._literal(node.reducer.init))

    def _draw_keys(self, loop: Loop) -> None:
        """Compute what random bits of a chunk begin with; two arrays that are rounded share a draw."""
        sites = [node.site for node in loop.drawn]
        self.keys = {number: self.fresh.fresh("own_key") for number in (*range((loop.rounded + 1) // 2), *sites)}
        if self.keys:
            self.source.line(f"begins = {self._of('first')} + start")
        for number, name in self.keys.items():
            t = self._cast(self._known(step()) or "", "int64")
            self.source.line(f"{name} = key({self._of('stream')}, {t}, {number})")

    def _body(self, loop: Loop, at: Mapping[str, str], totals: Mapping[Accumulate, str]) -> None:
        results = {store.node: f"new_{store.array.name}" for store in loop.stores if not store.array.scratch}
        kept = {part.store: part.node for part in loop.body if isinstance(part, Keep)}
        self.drawn = {}
        for part in loop.body:
            if isinstance(part, Load):
                form = part.array.format
                known = {"at": at[part.array.name], "beside": at.get(REMAINDER), "form": form.dtype, "real": self.real}
                known |= {"more": form.more, "rest": form.beside, **self.groups.get(part.array.name, {})}
                self._assign(part.node, part.array.name.replace(" ", "_"), self.loads[form.kind].format(**known))
            elif isinstance(part, Compute):
                self._assign(part.node, results.get(part.node, "x"), self._spell(part.node, self.real))
            elif isinstance(part, Accumulate):
                self._accumulate(part, totals[part])
            elif isinstance(part, Store):
                self._store(part, at, kept=kept.get(part))

    def _accumulate(self, part: Accumulate, total: str) -> None:
        own, element = part.node.reducer, self.names[part.node.inputs[0]]
        faster = self.joins.get((own.combine, own.each))
        if faster is None:
            wide = self.fresh.fresh("term")
            self.source.line(f"{wide} = {self._cast(element, WIDE)}")
            element = self._apply(own.each, *[wide] * OPS[own.each].arity) if own.each else wide
            joining = self.joining.format(x=element, init=self._literal(own.init))
            faster = self.joins.get((own.combine, ""), self._apply(own.combine, total, joining))
        self.source.line(f"{total} = {faster.format(total=total, x=element, sum=self.sum)}")

    def _bits(self, draw: int) -> str:
        """Spell the random bits of an array, after their draw, unless another array of the pair has drawn them."""
        pair, odd = divmod(draw, 2)
        if pair not in self.drawn:
            self.drawn[pair] = self.fresh.fresh("drawn")
            self.source.line(f"{self.drawn[pair]} = draw({self.first}, {self.index}, {self.keys[pair]})")
        return f"{'high' if odd else 'low'}_bits({self.drawn[pair]})"

    def _store(self, part: Store, at: Mapping[str, str], *, kept: Node | None = None) -> None:
        """Write an element into its array; where a gauge asks what is `kept`, round it once for both."""
        form, name = part.array.format, part.array.name
        kind = "random" if part.draw >= 0 and not form.grouped else form.kind
        bits = self._bits(part.draw) if "{bits}" in self.stores[kind] else ""
        known = {"at": at[name], "beside": at.get(REMAINDER), "form": form.dtype, "x": self.names[part.node]}
        known["more"] = form.more
        lines = self.stores[kind].format(**known, bits=bits, **self.groups.get(name, {}))
        half = ""
        if kept is not None and (rounded := ROUNDED.get(kind, "").format(**known, bits=bits)):
            half = self.fresh.fresh("half")
            lines = f"{half} = {rounded}\n" + lines.replace(rounded, half)
        self.source.line(*lines.split("\n"))
        if kept is not None:
            self._assign(kept, "kept", KEPT[kind].format(**known, half=half))


def _wanted(node: Node) -> str:
    """Return the name that a scalar would like to have."""
    return str(node.attr) if node.op == "hyper" else {"const": "constant", "step": "step"}.get(node.op, "scalar")
