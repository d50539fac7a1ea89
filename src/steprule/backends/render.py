"""The renderer: one walk over a program, written down in the words of a dialect.

A dialect is a table of spellings and a few templates: how a table's cell, a load, a store, a loop and a reduction look.
What is done, and in which order, stands in the program; what every language needs (names, the order of scalars, the
rule's lines as comments) stands here.
"""

from __future__ import annotations

import keyword
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import ClassVar

from ..errors import Origin
from ..graph.node import Node, Rank, step, topological
from ..graph.ops import OPS, Reducer
from ..graph.show import formula
from ..plan.program import Accumulate, Array, Compute, Load, Loop, Program, Store
from ..plan.schedule import summary
from ..plan.tables import CHUNK, TENSOR

LONGEST_NAME = 40
_RANKS = (Rank.HOST, Rank.GLOBAL, Rank.TENSOR, Rank.ELEMENT)
WIDE = "float64"
"""The type of scalars and of reductions."""


class Names:
    """Gives every value of a kernel a readable name that collides with nothing."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)
        self._last: dict[str, int] = {}

    def fresh(self, wanted: str) -> str:
        """Return the wanted name, or the nearest one that is free and plain ASCII."""
        base = wanted[:LONGEST_NAME] if wanted.isascii() and wanted.isidentifier() else "value"
        count = self._last.get(base, 0)
        name = ""
        while not name or name in self._taken or keyword.iskeyword(name):
            count += 1
            name = base if count == 1 else f"{base}_{count}"
        self._last[base] = count
        self._taken.add(name)
        return name


class Source:
    """Lines of a program, with the indentation kept apart from the text."""

    def __init__(self, origins: Mapping[Node, Origin]) -> None:
        self._lines: list[str] = []
        self._depth = 0
        self._origins = origins
        self._last_comment = ""

    def line(self, text: str = "") -> None:
        """Add one line at the current depth."""
        self._lines.append("    " * self._depth + text if text else "")

    @contextmanager
    def block(self, head: str) -> Generator[None]:
        """Add a line that opens a block, and indent what follows."""
        self.line(head)
        self._depth += 1
        self._last_comment = ""
        yield
        self._depth -= 1
        self._last_comment = ""

    def comment(self, node: Node) -> None:
        """Quote the rule's line that wrote this node, once for a run of nodes from it."""
        origin = self._origins.get(node)
        text = " ".join(origin.text.split()) if origin is not None else ""
        if text and text.isprintable() and text != self._last_comment:
            self.line(f"# {text}")
            self._last_comment = text

    def text(self) -> str:
        """Return the program."""
        return "\n".join(self._lines) + "\n"


class Dialect(ABC):
    """A language in which a program is written down; `names` maps nodes to the variables of the current function."""

    spelling: ClassVar[Mapping[str, str]]
    """Every operation of elements and scalars; `{real}` is the type, `{0}` the first input."""
    reserved: ClassVar[frozenset[str]]
    """Names that no value of a kernel may have."""
    loads: ClassVar[Mapping[str, str]]
    """How an element of each format is read: its array begins `{at}`, its second tensor at `{beside}`."""
    stores: ClassVar[Mapping[tuple[str, bool], str]]
    """The lines that write an element of each format, `{x}` being its value; True: rounded by the random `{bits}`."""
    inlines: ClassVar[bool]
    """Whether constants stand where they are used."""
    where: ClassVar[str] = ""
    """Where it runs, as the heading says it."""
    joins: ClassVar[Mapping[tuple[str, str], str]]
    """Faster ways in which an element joins a running total, by the reducer's `combine` and `each`."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.plan = program.plan
        self.graph = program.plan.graph
        self.real = program.layout.real
        self.pointed = [name for name in program.tensors if name != self.graph.gradient]
        self.source = Source(self.graph.origins)
        self.names: dict[Node, str] = {}
        self.fresh = Names(self.reserved)
        self.keys, self.drawn = list[str](), ""

    @classmethod
    def lacks(cls, program: Program) -> str:
        """Return what of a program this language cannot say; nothing if it can say all."""
        for array in program.arrays:
            if array.format.real != program.layout.real or array.format.name not in cls.loads:
                return f"`{array.name}` is {array.format.name} beside parameters of {program.layout.parameter.dtype}"
        for node in program.plan.graph.nodes:
            if node.rank not in _RANKS:
                return f"`{node.op}` varies over {node.rank.word}s, for which there are no kernels"
            if node.kind in {"pointwise", "compare"} and node.op not in cls.spelling:
                return f"there is no kernel with `{node.op}`"
        return ""

    # Templates -----------------------------------------------------------------------------------

    @abstractmethod
    def _constant(self, value: float, real: str) -> str:
        """Spell a number of a type."""

    @abstractmethod
    def _cast(self, text: str, real: str) -> str:
        """Spell the conversion of a scalar."""

    @abstractmethod
    def _cell(self, table: str, row: str, width: int, column: int) -> str:
        """Spell the value of a table's cell."""

    @abstractmethod
    def _leaf(self, node: Node) -> str:
        """Spell a hyperparameter, the step count or a host slot of the current row."""

    @abstractmethod
    def _known(self, node: Node) -> str | None:
        """Spell a host value that has been computed before the pass; None for any other."""

    @abstractmethod
    def _number(self, array: Array) -> str:
        """Spell what a slot of one number a tensor holds."""

    @abstractmethod
    def _point(self, name: str, array: Array) -> str:
        """Spell a pointer to where the current chunk of a tensor begins."""

    @abstractmethod
    def _running(self, init: float) -> str:
        """Spell what a running total starts from."""

    @abstractmethod
    def _elements(self) -> AbstractContextManager[None]:
        """Open the loop over the elements of a chunk."""

    @abstractmethod
    def _join(self, total: str, own: Reducer, element: str) -> str:
        """Spell a running total that a wide element has joined, where `joins` knows no faster way."""

    @abstractmethod
    def _leave(self, place: int, own: Reducer, total: str) -> None:
        """Write a chunk's part of a reduction into `partial`."""

    @abstractmethod
    def _integer(self, text: str) -> str:
        """Spell a scalar as a whole number."""

    @abstractmethod
    def _index(self) -> str:
        """Spell the place of an element in its chunk."""

    @abstractmethod
    def _functions(self) -> None:
        """Write all functions of the module."""

    @abstractmethod
    def _imports(self, body: str) -> None:
        """Write what stands between the formula and the functions, given these."""

    def module(self, version: str) -> str:
        """Return the module: the formula, what it imports, its functions."""
        self._functions()
        body = self.source.text().rstrip() + "\n"
        self.source = Source({})
        self._heading(version)
        self._imports("\n".join(line for line in body.splitlines() if not line.lstrip().startswith("#")))
        return self.source.text() + body

    # Names and expressions -----------------------------------------------------------------------

    def _begin(self) -> None:
        """Begin another function, which knows nothing yet."""
        self.names, self.fresh = {}, Names(self.reserved)

    def _place(self, row: str, width: int, column: int) -> str:
        """Spell where a cell is in a table whose rows lie one after another."""
        start = row if width == 1 else f"{row} * {width}"
        return f"{start} + {column}" if column else start

    def _of_tensor(self, name: str) -> str:
        """Spell what is known of the current tensor."""
        return self._cell("tensors", "tensor", len(TENSOR), TENSOR.index(name))

    def _of_chunk(self, name: str) -> str:
        """Spell what is known of the current chunk."""
        return self._cell("chunks", "chunk", len(CHUNK), CHUNK.index(name))

    def _apply(self, op: str, *inputs: str, real: str = WIDE) -> str:
        """Spell an operation."""
        return self.spelling[op].format(*inputs, real=real, element=self.program.layout.parameter.dtype)

    def _spell(self, node: Node, real: str) -> str:
        """Spell a node, whose inputs have names."""
        return self._apply(node.op, *(self.names[child] for child in node.inputs), real=real)

    def _assign(self, node: Node, wanted: str, text: str) -> None:
        """Give a node a name and a value, unless it has them."""
        if node not in self.names:
            self.names[node] = self.fresh.fresh(wanted)
            self.source.comment(node)
            self.source.line(f"{self.names[node]} = {text}")

    def _wanted(self, node: Node) -> str:
        """Return the name that a scalar would like to have."""
        return str(node.attr) if node.op == "hyper" else {"const": "constant", "step": "step"}.get(node.op, "scalar")

    def _heading(self, version: str) -> None:
        """Write what stands before everything: the formula."""
        sizes = f"one step for any number of tensors of any size{self.where}"
        self.source.line(f'"""{self.graph.name}, {self._described()}: {sizes}.')
        self.source.line()
        for text in formula(self.graph).splitlines():
            self.source.line(f"    {text}".replace("\\", "/").replace('"""', "'''"))
        self.source.line()
        self.source.line(f"Generated by steprule {version}; comments quote the rule.")
        self.source.line('"""')
        self.source.line()

    def _described(self) -> str:
        """Say in which formats the arrays are."""
        layout = self.program.layout
        slots = {array.format.name for array in self.program.arrays[2:] if array.rank is Rank.ELEMENT}
        others = sorted(slots - {layout.parameter.name, layout.parameter.dtype})
        drawn = ["rounded stochastically"] if layout.random else []
        return ", ".join([layout.parameter.name, *(f"slots {name}" for name in others), *drawn])

    # Scalars -------------------------------------------------------------------------------------

    def _finished(self, node: Node) -> str:
        """Spell a reduction that has ended, finished as its reducer says."""
        place, count = self.plan.reductions.index(node), len(self.plan.reductions)
        held = (
            self._cell("total", str(place), 1, 0)
            if node.kind == "global"
            else self._cell("reduced", "tensor", count, place)
        )
        finish = node.reducer.finish
        size = [self._cast(self._of_tensor("size"), WIDE)] if finish and OPS[finish].arity > 1 else []
        return self._apply(finish, held, *size) if finish else held

    def _scalar(self, node: Node) -> str:
        """Spell a scalar, whose inputs have names, in float64."""
        if node.op == "const":
            return self._constant(float(node.attr), WIDE)  # type: ignore[arg-type]
        if (known := self._known(node)) is not None:
            return known
        if node.op == "read" and isinstance(node.attr, tuple):
            return self._number(next(array for array in self.program.arrays if array.name == node.attr[0]))
        return self._finished(node) if node.reduces else self._spell(node, WIDE)

    def _order(self, roots: Sequence[Node]) -> list[Node]:
        """List what scalars are made of, inputs first, down to what is known already."""
        stack, order = [(root, False) for root in reversed(roots)], dict[Node, None]()
        while stack:
            node, expanded = stack.pop()
            if expanded:
                order[node] = None
            elif node not in order:
                given = self._known(node) is not None or node.reduces
                stack.append((node, True))
                stack.extend((child, False) for child in (() if given else reversed(node.inputs)))
        return list(order)

    def _scalars(self, roots: Sequence[Node], *, narrow: bool) -> None:
        """Compute scalars in float64; give numbers to the elements in their own type, if they are `narrow`."""
        order = self._order(roots)
        used = {child for node in order for child in node.inputs}
        short = {node for node in roots if narrow and self.real != WIDE and node.kind != "compare"}
        for node in order:
            alone = node in short and node not in used
            if node.op == "const":
                text = self._constant(float(node.attr), self.real if alone else WIDE)  # type: ignore[arg-type]
                if self.inlines and not alone:
                    self.names[node] = f"({text})" if text.startswith("-") else text
                    continue
            else:
                text = self._cast(self._scalar(node), self.real) if alone else self._scalar(node)
            self._assign(node, self._wanted(node), text)
        for node in roots:
            if node in short and node in used:
                wide, self.names[node] = self.names[node], self.fresh.fresh(self._wanted(node))
                self.source.line(f"{self.names[node]} = {self._cast(wide, self.real)}")

    def _host_values(self, values: Sequence[Node]) -> None:
        """Compute arithmetic on hyperparameters, counts and host slots."""
        for node in topological(values):
            if node.op == "const" and self.inlines:
                text = self._constant(float(node.attr), WIDE)  # type: ignore[arg-type]
                self.names[node] = f"({text})" if text.startswith("-") else text
            else:
                self._assign(node, self._wanted(node), self._spell(node, WIDE) if node.inputs else self._leaf(node))

    # Elements ------------------------------------------------------------------------------------

    def _says(self, loop: Loop) -> str:
        """Say in words what a loop does."""
        return summary(self.plan.passes[loop.index], self.graph)

    def _walk(self, loop: Loop) -> None:
        """Walk over the elements of a chunk: load, compute, join the running totals, store."""
        at = {array.name: self._at(array.name, array) for array in loop.arrays}
        beside = self.program.tensors[-1] if self.program.layout.parameter.beside else ""
        if beside and self.graph.parameter in at:
            at[beside] = self._at(beside, self.program.arrays[0])
        totals = {part: self.fresh.fresh(f"{part.node.op}_of") for part in loop.accumulated}
        for part, name in totals.items():
            self.source.line(f"{name} = {self._running(part.node.reducer.init)}")
        self._draw_keys(loop)
        if loop.body:
            with self._elements():
                self._body(loop, at, at.get(beside, ""), totals)
        for part, name in totals.items():
            self._leave(part.place, part.node.reducer, name)

    def _draw_keys(self, loop: Loop) -> None:
        """Compute what random bits of a chunk begin with; two arrays share a draw."""
        self.keys = []
        if loop.draws:
            self.source.line(f"begins = {self._of_tensor('first')} + start")
        for pair in range((loop.draws + 1) // 2):
            t = self._integer(self._known(step()) or "")
            self.keys.append(self.fresh.fresh("own_key"))
            self.source.line(f"{self.keys[-1]} = key({self._of_tensor('stream')}, {t}, {pair})")

    def _at(self, name: str, array: Array) -> str:
        at = self.fresh.fresh(f"{name}_at")
        self.source.line(f"{at} = {self._point(name, array)}")
        return at

    def _body(self, loop: Loop, at: Mapping[str, str], beside: str, totals: Mapping[Accumulate, str]) -> None:
        results = {store.node: f"new_{store.array.name}" for store in loop.stores}
        for part in loop.body:
            if isinstance(part, Load):
                where = {"at": at[part.array.name], "beside": beside}
                text = self.loads[part.array.format.name].format(**where, real=self.real)
                self._assign(part.node, part.array.name, text)
            elif isinstance(part, Compute):
                self._assign(part.node, results.get(part.node, "x"), self._spell(part.node, self.real))
            elif isinstance(part, Accumulate):
                self._accumulate(part, totals[part])
            else:
                self._store(part, at, beside)

    def _accumulate(self, part: Accumulate, total: str) -> None:
        own, element = part.node.reducer, self.names[part.node.inputs[0]]
        faster = self.joins.get((own.combine, own.each))
        if faster is None:
            wide = self.fresh.fresh("term")
            self.source.line(f"{wide} = {self._cast(element, WIDE)}")
            element = self._apply(own.each, *[wide] * OPS[own.each].arity) if own.each else wide
            faster = self.joins.get((own.combine, ""))
        joined = faster.format(total=total, x=element) if faster else self._join(total, own, element)
        self.source.line(f"{total} = {joined}")

    def _store(self, part: Store, at: Mapping[str, str], beside: str) -> None:
        pair, odd = divmod(part.draw, 2)
        if part.draw >= 0 and not odd:
            self.drawn = self.fresh.fresh("drawn")
            self.source.line(f"{self.drawn} = draw(begins, {self._index()}, {self.keys[pair]})")
        values = {"at": at[part.array.name], "beside": beside, "x": self.names[part.node], "real": self.real}
        bits = f"{'high' if odd else 'low'}_bits({self.drawn})"
        for line in self.stores[part.array.format.name, part.draw >= 0].split("\n"):
            self.source.line(line.format(**values, bits=bits))


__all__ = ["WIDE", "Dialect", "Names", "Source"]
