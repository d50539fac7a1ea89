"""JavaScript's dialect: a program → functions of one file that a person can read, for any engine of ES2020.

There are no chunks and no tables: `arrays.m[k]` is the slot m of tensor k, a Float64Array of as many numbers as its
rank has, and a step walks over tensors, then over their elements. All is float64. Sums are compensated: `Sum` is in
`javascript`.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar

from ..graph.graph import Graph
from ..graph.node import Node, Rank, hyper, step, topological
from ..graph.ops import OPS, Reducer
from ..plan.lines import AXES
from ..plan.program import Accumulate, Loop, Program
from ..plan.schedule import walks
from .javascript import RESERVED, SPELLING, key_of, number
from .lined import Lined
from .text import Names, Source

_EXACT = 2**53
"""Whole numbers from here on are no numbers of JavaScript, but BigInts."""
_LONGEST = 60
"""Characters of what has no name of its own."""
_CALL = 9
_BINDS = {"neg": 8, "not": 8, "mul": 7, "div": 7, "add": 6, "sub": 6, "sign": 6, "lt": 5, "le": 5, "gt": 5, "ge": 5,
          "eq": 4, "ne": 4, "and": 3, "or": 2, "where": 1}  # fmt: skip
"""How tightly operators bind; what is not here is a call, whose inputs stand between commas."""
_INDEX = {Rank.ROW: "row", Rank.COLUMN: "column"}
_OF = {"size": "count", "rows": "rows", "length": "columns"}
"""What is known of the current tensor, in the words of `plan.tables`."""


class Script(Source):
    """Lines of JavaScript: blocks stand in braces, and statements end in semicolons."""

    mark = "//"
    indentation = "  "

    def line(self, *texts: str) -> None:
        """Add statements, comments or lines that open or close a block."""
        super().line(*(t if not t or t[-1] in "{};" or t.startswith(self.mark) else f"{t};" for t in texts))

    @contextmanager
    def block(self, head: str) -> Generator[None]:
        """Add a line that opens a block, indent what follows, and close it."""
        with super().block(f"{head} {{"):
            yield
        self.line("}")


class JavaScript(Lined):
    """Writes one function that takes a step, or one that moves to a point."""

    spelling = SPELLING
    reserved = RESERVED
    loads: ClassVar[Mapping[str, str]] = {"whole": "{at}[i]"}
    stores: ClassVar[Mapping[str, str]] = {"whole": "{at}[i] = {x}"}
    number, cast, inlines, naming = ("{at}[0]", "{at}[0] = {x}"), "{}", True, "const {} = {}"
    extent: ClassVar[Mapping[Rank, str]] = {Rank.ROW: "rows", Rank.COLUMN: "columns"}

    def __init__(self, program: Program, seed: int = 0) -> None:
        super().__init__(program)
        self.seed = f"{seed}n" if seed >= _EXACT else str(seed)
        self.source: Script = Script(self.graph.origins)
        self.results: dict[Node, str] = {}
        self.laid: dict[Node, str] = {}
        """Where passes have kept values of rows and columns, of each tensor a list."""
        self.bare: dict[Node, str] = {}
        """What stands where it is used, without brackets."""
        self.users = _users(self.graph)

    @classmethod
    def lacks(cls, program: Program) -> str:
        """Return the part of a program that this language cannot say, or ""."""
        for node in program.plan.graph.nodes:
            if node.whole or node.rank.apart:
                what = f"`{node.op}` is a function" if node.inputs else f"`{node.array}` is a product"
                return f"{what} of matrices"
        return super().lacks(program)

    @property
    def shaped(self) -> bool:
        """Whether it must be told the shapes of tensors."""
        return bool(self.plan.axes) or any(node.op in {"rows", "columns"} for node in self.graph.nodes)

    def function(self, name: str, *, moves: bool = False) -> str:
        """Return a function of a name: it updates arrays in place, or returns the parameters that have moved."""
        self.names, self.fresh = {step(): "t"}, Names(self.reserved)
        self.results, self.bare, self.laid = {}, {}, {}
        self.source = Script(self.graph.origins)
        parameter = self._arrays_of(self.graph.parameter)
        asked = [f"shapes = {parameter}.map((x) => [x.length])"] if self.shaped else []
        asked += [f"seed = {self.seed}"] if self.graph.draws else []
        options = f", {{ {', '.join(asked)} }} = {{}}" if asked else ""
        with self.source.block(f"function {name}(arrays, hyper, t{options})"):
            if moves:
                copy = f"{key_of(self.graph.parameter)}: {parameter}.map((x) => Float64Array.from(x))"
                self.source.line(f"arrays = {{ ...arrays, {copy} }};")
            self._numbers()
            for loop in self.program.loops:
                self._pass(loop)
            self._finish()
            if moves:
                self.source.line(f"return {parameter}")
        return _without_idle(self.source.text())

    def _numbers(self) -> None:
        """Give hyperparameters names, and arithmetic on them that is the same for all tensors."""
        used = [item.name for item in self.graph.hypers if hyper(item.name) in self.graph.nodes]
        given = {name: self.fresh.fresh(name) for name in used}
        self.names |= {hyper(name): own for name, own in given.items()}
        taken = [name if name == own else f"{key_of(name)}: {own}" for name, own in given.items()]
        self.source.line(*([f"const {{ {', '.join(taken)} }} = hyper;"] if taken else []))
        self._scalars([node for node in self.hosted if not self._own(node) and node.op != "step"])

    # Templates that ask something ----------------------------------------------------------------

    def _literal(self, value: float) -> str:
        return number(value)

    def _constant(self, value: float, real: str) -> str:  # noqa: ARG002
        return number(value)

    def _leaf(self, node: Node) -> str | None:
        if node.op == "step":
            return "t"
        if node.op == "hyper":
            return self.names[node]
        return f"{self._arrays_of(node.array)}[k][0]" if node.array and node.rank is Rank.HOST else None

    def _known(self, node: Node) -> str | None:
        return self._leaf(node)

    def _arrays_of(self, name: str) -> str:
        return _property("arrays", name)

    def _point(self, name: str, dtype: str, first: str) -> str:  # noqa: ARG002
        return f"{self._arrays_of(name)}[{0 if self.graph.ranks[name] is Rank.GLOBAL else 'k'}]"

    def _of(self, name: str) -> str:
        return _OF[name]

    def _size(self, op: str) -> str:
        return "count" if op == "numel" else op

    def _whole(self, node: Node) -> str:
        own = self.results[node]
        cell = own if node.kind == "global" else f"{own}[k]"
        cell += f"[{_INDEX[node.rank]}]" if node.axis is not None else ""
        return f"{cell}.value" if _sums(node) else cell

    def _spell(self, node: Node, real: str) -> str:  # noqa: ARG002
        if node.kind == "chance":
            return f"{node.op}(draw(0, i, {self.keys[node.site]}))"
        return self._apply(node.op, *(self._within(child, node) for child in node.inputs))

    def _within(self, child: Node, node: Node) -> str:
        """Spell an input of a node, in brackets where JavaScript needs them."""
        if child not in self.bare:
            return self.names[child]
        outer = 0 if node.op == "sign" else _BINDS.get(node.op, 0)
        inner = _BINDS.get(child.op, _CALL)
        left = outer == inner and node.op in {"add", "mul", "sub", "div"} and child is node.inputs[0]
        return self.bare[child] if inner > outer or left else self.names[child]

    def _assign(self, node: Node, wanted: str, text: str) -> None:
        if node in self.names:
            return
        if len(text) > _LONGEST or not self._used_there(node):
            self.bare.pop(node, None)
            super()._assign(node, wanted, text)
        else:
            self.names[node], self.bare[node] = f"({text})", text

    def _used_there(self, node: Node) -> bool:
        """Whether a node is used once, as often as it is computed, and so may stand where it is used."""
        users = self.users.get(node, [])
        if len(users) != 1 or users[0] is None or users[0].reduces or node.reduces or not node.inputs:
            return False
        return users[0].rank is node.rank or users[0].rank <= Rank.TENSOR

    def _draw_keys(self, loop: Loop) -> None:
        self.keys = {node.site: self.fresh.fresh("own_key") for node in loop.drawn}
        self.source.line(*(f"const {name} = key_of(seed, k, t, {site})" for site, name in self.keys.items()))

    @contextmanager
    def _elements(self) -> Generator[None]:
        with self.source.block("for (let i = 0; i < count; i++)"):
            yield

    def _leave(self, place: int, own: Reducer, total: str) -> None:
        raise NotImplementedError

    def _functions(self) -> None:
        raise NotImplementedError

    def _imports(self, called: set[str]) -> None:
        raise NotImplementedError

    # Loops -----------------------------------------------------------------------------------------

    @contextmanager
    def _tensors(self, shared: Iterable[Node] = ()) -> Generator[None]:
        """Open the loop over tensors; what is `shared` by all is computed before."""
        self._scalars([node for node in shared if not self._own(node)])
        known = dict(self.names)
        with self.source.block(f"for (let k = 0; k < {self._arrays_of(self.graph.parameter)}.length; k++)"):
            self.source.line(f"const count = {self._arrays_of(self.graph.parameter)}[k].length")
            if self.shaped:
                self.source.line("const [rows, columns] = matrix(shapes[k])")
            yield
        self.names = known

    def _own(self, node: Node) -> bool:
        """Whether a number may differ from tensor to tensor."""
        whole = {inner for inner in topological([node]) if inner.kind == "global"}
        inner = topological([node], whole)
        return any(one.array and one.rank is not Rank.GLOBAL for one in inner) or not node.rank <= Rank.GLOBAL

    @contextmanager
    def _line(self, axis: Rank, roots: Sequence[Node]) -> Generator[None]:
        """Open the loop over the rows or columns of a tensor, in which roots have values."""
        numbers, lines = self._lower(roots)
        self._scalars(numbers)
        known, index = dict(self.names), _INDEX[axis]
        with self.source.block(f"for (let {index} = 0; {index} < {self.extent[axis]}; {index}++)"):
            self.names |= {node: f"{self.laid[node]}[k][{index}]" for node in lines if node in self.laid}
            for node in (node for node in lines if node not in self.laid):
                read = f"{self._arrays_of(node.array)}[k][{index}]" if node.array else ""
                text = read or (self._finished(node, self._whole(node)) if node.reduces else self._spell(node, ""))
                self._assign(node, node.array or "scalar", text)
            yield
        self.names = known

    # A pass ----------------------------------------------------------------------------------------

    def _pass(self, loop: Loop) -> None:
        """Write a walk over all tensors, and the reductions that end with it."""
        same = self._same(loop)
        for part in loop.accumulated:
            known = self.results.get(same[part].node)
            self.results[part.node] = known or self._begin(part.node)
        if loop.body:
            values = {node: self.fresh.fresh("values") for node in loop.lines if node not in self.laid}
            self.source.line(*(f"const {name} = []" for name in values.values()))
            self._says(loop)
            with self._tensors(loop.numbers):
                self._scalars(loop.numbers)
                self._lay(values)
                self.laid |= values
                self._walk(loop)
        for part in loop.after:
            if not walks(part.node) and part.node not in self.results:
                self._reduce_values(part.node)

    def _begin(self, node: Node) -> str:
        """Declare where the results of a reduction are kept: of each tensor, or of all."""
        name = self.fresh.fresh(node.op)
        self._start(name, node) if node.kind == "global" else self.source.line(f"const {name} = []")
        return name

    def _start(self, name: str, node: Node) -> None:
        """Declare a running total, or one for each row or column."""
        init = "new Sum()" if _sums(node) else self._literal(node.reducer.init)
        if node.axis is not None:
            init = f"Array.from({{ length: {self.extent[node.rank]} }}, () => {init})"
        self.source.line(f"{'const' if _sums(node) or node.axis is not None else 'let'} {name} = {init}")

    def _walk(self, loop: Loop) -> None:
        """Walk over the elements of a tensor."""
        same = self._same(loop)
        own = [part for part in loop.accumulated if same[part] is part]
        totals = {part: self.results[part.node] for part in own}
        for part in own:
            if part.node.kind != "global":
                totals[part] = self.fresh.fresh(f"{part.node.op}_of")
                self._start(totals[part], part.node)
        at = {name: self.fresh.fresh(f"{name}_at") for name in self._arrays(loop)}
        self.source.line(*(f"const {at[name]} = {self._point(name, '', '')}" for name in at))
        self._draw_keys(loop)
        indices = {node.rank for node in loop.lines} | {part.node.rank for part in own if part.node.axis is not None}
        with self._elements():
            self.source.line(*(["const row = Math.floor(i / columns)"] if Rank.ROW in indices else []))
            self.source.line(*(["const column = i % columns"] if Rank.COLUMN in indices else []))
            self.names |= {node: f"{self.laid[node]}[k][{_INDEX[node.rank]}]" for node in loop.lines}
            cells = {part: f"[{_INDEX[part.node.rank]}]" if part.node.axis is not None else "" for part in own}
            self._body(loop.joining(own), at, {part: totals[part] + cells[part] for part in own})
        kept = [part for part in own if part.node.kind != "global"]
        self.source.line(*(f"{self.results[part.node]}[k] = {totals[part]}" for part in kept))

    def _same(self, loop: Loop) -> dict[Accumulate, Accumulate]:
        """Map each reduction to one of the same kind that joins the same elements in the same way."""
        found: dict[object, Accumulate] = {}
        return {part: found.setdefault((part.node.kind, part.joins), part) for part in loop.accumulated}

    def _lower(self, roots: Sequence[Node]) -> tuple[list[Node], list[Node]]:
        """Split what roots need as others do, down to what an earlier pass has kept of rows and columns."""
        found = {n for n in topological(roots) if n.rank <= Rank.TENSOR or n.reduces or n.array or n in self.laid}
        order = topological(roots, found)
        return [n for n in order if n.rank <= Rank.TENSOR], [n for n in order if not n.rank <= Rank.TENSOR]

    def _lay(self, values: Mapping[Node, str]) -> None:
        """Compute what elements use of rows and columns, and keep it."""
        for axis in AXES:
            if own := [node for node in values if node.rank is axis]:
                self.source.line(*(f"{values[node]}[k] = []" for node in own))
                with self._line(axis, own):
                    cell = f"[k][{_INDEX[axis]}]"
                    self.source.line(*(f"{values[node]}{cell} = {self.names[node]}" for node in own))

    def _accumulate(self, part: Accumulate, total: str) -> None:
        self._join(part.node, total)

    def _join(self, node: Node, total: str) -> None:
        own, term = node.reducer, self.names[node.inputs[0]]
        term = self._apply(own.each, *[term] * OPS[own.each].arity) if own.each else term
        joined = f"{total}.add({term})" if _sums(node) else f"{total} = {self._apply(own.combine, total, term)}"
        self.source.line(joined)

    def _reduce_values(self, node: Node) -> None:
        """Reduce values that are one a row or column."""
        (inner,), own = node.inputs, self._begin(node)
        with self._tensors():
            total = own
            if node.kind != "global":
                total = self.fresh.fresh(f"{node.op}_of")
                self._start(total, node)
            with self._line(inner.rank, [inner]):
                self._join(node, total)
            self.source.line(*([f"{own}[k] = {total}"] if node.kind != "global" else []))
        self.results[node] = own

    # After the passes --------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Write the slots smaller than the parameter, after every pass has read them."""
        small = [(store.array.name, store.node) for store in self.program.finish]
        numbers = [(name, node) for name, node in small if self.graph.ranks[name] <= Rank.TENSOR]
        numbers += self.plan.host_writes
        if small or numbers:
            with self._tensors():
                for axis in AXES:
                    if own := [(name, node) for name, node in small if self.graph.ranks[name] is axis]:
                        with self._line(axis, [node for _, node in own]):
                            self.source.line(*(
                                f"{self._point(name, '', '')}[{_INDEX[axis]}] = {self.names[node]}"
                                for name, node in own
                            ))  # fmt: skip
                self._write_numbers(numbers)
        self._write_numbers([(store.array.name, store.node) for store in self.program.globals])

    def _write_numbers(self, writes: Sequence[tuple[str, Node]]) -> None:
        self._scalars([node for _, node in writes])
        self.source.line(*(f"{self._point(name, '', '')}[0] = {self.names[node]}" for name, node in writes))


def _users(graph: Graph) -> dict[Node, list[Node | None]]:
    """Map each node to those that are made of it; None stands for what a step writes."""
    found: dict[Node, list[Node | None]] = {}
    for node in graph.nodes:
        for child in node.inputs:
            found.setdefault(child, []).append(node)
    for _, node in graph.outputs:
        found.setdefault(node, []).append(None)
    return found


def _without_idle(text: str) -> str:
    """Return a function without the lines that count the elements of a tensor where nothing asks for it."""
    first, *parts = re.split(r"(?m)^( *const count = .*\n)", text)
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return first + "".join(line * bool(re.search(r"\bcount\b", rest)) + rest for line, rest in pairs)


def _sums(node: Node) -> bool:
    """Whether a reduction adds, so that its running total is a `Sum`."""
    return node.reducer.combine == "add"


def _property(of: str, name: str) -> str:
    """Spell what an object has of a name."""
    return f"{of}.{name}" if name.isascii() else f"{of}[{key_of(name)}]"


__all__ = ["JavaScript", "Script"]
