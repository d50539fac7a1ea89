"""The Triton kernels of one file: those of the GPU backend, where the host counts and computes host scalars.

So a file needs no launch for them, and no table of counts; and nothing in it asks whether a step is left out. What is
used once stands where it is used: the operations are the same, in fewer lines.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import ClassVar

from ..backends.render import WIDE
from ..backends.triton_build import Build
from ..backends.triton_dialect import COUNTS, TABLES, TritonDialect
from ..graph.node import Node, Rank, step, topological
from ..plan.program import Accumulate, Compute, Loop, Program
from ..plan.tables import CHUNK
from .expressions import bracketed

WIDTH = 120
"""How long a line of a file is at most."""
SHORT, LONG = 64, 84
"""How long an expression is that stands inside another, and one in a line, at most."""
COLUMNS = ("size", "chunk", "chunks", "position", "rows", "columns")
"""What a file's table of tensors may say of each, if kernels ask."""


class FileKernels(TritonDialect):
    """Writes the kernels of a file: they are given the tables that they use, and no others."""

    first = "start"  # a file steps whole tensors, no parts of others
    reserved = TritonDialect.reserved | {"places", "half", "own_seed"}
    stores: ClassVar[Mapping[str, str]] = {
        **TritonDialect.stores,
        "random": "half = stochastic_{form}({x}, {bits})\n"
                  "write({at}, here, half.to(tl.{form}, bitcast=True), inside, tail)",
    }  # fmt: skip
    joins: ClassVar[Mapping[tuple[str, str], str]] = {
        ("add", ""): "{total} + tl.where(inside, {x}, 0.0).to(tl.float64)"
    }

    def __init__(self, program: Program, build: Build, seed: int) -> None:
        super().__init__(program, build)
        self.seed = seed
        self.columns, self.given = list[str](), list[str]()
        self._asked, self._read, self._once = set[str](), set[Node](), set[Node]()
        self._quiet = False
        self._inside = dict[Node, tuple[str, str]]()
        written = re.sub(r"#.*", "", self.text())
        self.hosted = [node for node in self.hosted if node in self._read]
        self.columns = [name for name in COLUMNS if name in self._asked]
        self.given = [name for name in (*TABLES, *COUNTS) if re.search(rf"\b{name}\b", written)]

    def text(self) -> str:
        """Return the kernels, in the order of their launches."""
        self.source = type(self.source)(self.graph.origins)
        self._functions()
        return self.source.text().rstrip() + "\n"

    @property
    def launches(self) -> list[tuple[str, str]]:
        """The kernels and what there is a program for: "chunks", "tensors", or "" for one program."""
        found: list[tuple[str, str]] = []
        for loop in self.program.loops:
            each = any(part.node.kind != "global" for part in loop.accumulated)
            end = [(f"end_{loop.index}", "tensors" if each else "")] * bool(loop.after)
            found += [(f"pass_{loop.index}", "chunks"), *end]
        found += [("finish", "tensors")] * bool(self.program.finish)
        return found + [("finish_all", "")] * bool(self.program.globals)

    # Expressions inside others -----------------------------------------------------------------------

    def _assign(self, node: Node, wanted: str, text: str) -> None:
        if node in self._once and node not in self.names and len(text) <= SHORT:
            self.names[node], self._inside[node] = text, (wanted, text)
        elif self._quiet and node not in self.names:  # what is loaded quotes no line: `host_scalars` says what it is
            self.names[node] = self.fresh.fresh(wanted)
            self.source.line(f"{self.names[node]} = {text}")
        else:
            super()._assign(node, wanted, text)

    def _spell(self, node: Node, real: str) -> str:
        """Spell a node around what stands inside it; the longest of that gets a line if it does not fit."""
        if node.kind == "chance":
            return super()._spell(node, real)
        while True:
            given = [self.names[child] for child in node.inputs]
            text = bracketed(self.spelling[node.op], node, given, real)
            inside = [child for child in node.inputs if child in self._inside]
            if len(text) <= LONG or not inside:
                return text
            self._take_out(max(inside, key=lambda child: len(self.names[child])))

    def _take_out(self, node: Node) -> None:
        """Give what stood inside another expression a line of its own."""
        wanted, text = self._inside.pop(node)
        del self.names[node]
        self._once.discard(node)
        super()._assign(node, wanted, text)

    def _scalars(self, roots: Sequence[Node], *, narrow: bool = False, hosts: bool = False) -> None:
        order = topological(roots)
        loaded = {node for node in order if self._known(node) is not None or node.reduces}
        written = topological(roots, loaded)
        users = Counter(child for node in written if node not in loaded for child in node.inputs)
        self._once = {node for node in order if users[node] == 1 and node not in roots}
        self._once |= {node for node in order if node.op == "const" and node not in roots}
        if narrow and self.real != WIDE:  # what elements alone use is needed in their type alone
            used = {child for node in written for child in node.inputs}
            self._once |= {node for node in roots if node in used and not users[node] and not node.truth}
        self._quiet = True
        super()._scalars(roots, narrow=narrow, hosts=hosts)
        self._quiet, self._inside = False, {}

    def _body(self, loop: Loop, at: Mapping[str, str], totals: Mapping[Accumulate, str]) -> None:
        made = [part.node for part in loop.body if isinstance(part, Compute)]
        users = Counter(child for node in made for child in node.inputs)
        ends = {part.node for part in loop.stores} | {part.node.inputs[0] for part in loop.accumulated}
        self._once = {node for node in made if users[node] == 1 and node not in ends}
        super()._body(loop, at, totals)

    # What differs from the backend's -----------------------------------------------------------------

    @contextmanager
    def _kernel(self, name: str) -> Generator[None]:
        """Write one kernel, in as few lines as its signature needs."""
        numbers = ", ".join(f'"{count}"' for count in COUNTS if count in self.given)
        self.names, self.fresh, self._inside = {}, type(self.fresh)(self.reserved), {}
        self.source.line(self.jit + (f"(do_not_specialize=[{numbers}])" if numbers else ""))
        head, given = f"def {name}(", ", ".join(self.given)
        if len(head) + len(given) + 2 > WIDTH:
            self.source.line(head, f"    {given}")
            head, given = "", ""
        with self.source.block(f"{head}{given}):"):
            yield
        self.source.line("", "")

    def _point(self, name: str, dtype: str, first: str) -> str:
        place = "" if first == "0" else f" + {first}"
        return f"tl.cast({self._address(name)}, tl.pointer_type(tl.{dtype})){place}"

    def _known(self, node: Node) -> str | None:
        self._read.add(node)
        return super()._known(node)

    def _of(self, name: str) -> str:
        if name in CHUNK:
            return super()._of(name)
        asked = {"stream": "position"}.get(name, name)
        self._asked.add(asked)
        place = self.columns.index(asked) if asked in self.columns else 0
        cell = self._cell("tensors", "tensor", max(len(self.columns), 1), place)
        return f"parameter_seed({self.seed}, {cell})" if name == "stream" else cell

    def _draw_keys(self, loop: Loop) -> None:
        """Compute what random bits begin with."""
        sites = [node.site for node in loop.drawn]
        self.keys = {number: self.fresh.fresh("own_key") for number in (*range((loop.rounded + 1) // 2), *sites)}
        if self.keys:
            self.source.line(f"own_seed = {self._of('stream')}")
        for number, name in self.keys.items():
            t = self._cast(self._known(step()) or "", "int64")
            self.source.line(f"{name} = key(own_seed, {t}, {number})")

    def _aligned(self, places: Sequence[str]) -> None:
        for at in range(0, len(places), 2):
            two = " | ".join(places[at : at + 2])
            self.source.line(f"places |= {two}" if at else f"places = {two}")
        self.source.line("aligned = (places & 15) == 0" if places else "aligned = count >= 0")

    def _number_slots(self, rank: Rank) -> None:
        stores = [store for store in (*self.program.finish, *self.program.globals) if store.array.rank is rank]
        self._scalars([store.node for store in stores])
        for store in stores:
            name, dtype = self.fresh.fresh(f"{store.array.name}_at"), store.array.format.dtype
            self.source.line(f"{name} = {self._point(store.array.name, dtype, '0')}")
            self.source.line(f"tl.store({name}, {self._cast(self.names[store.node], dtype)}, mask=go)")

    def _present(self) -> str:
        return super()._present().removeprefix("(").removesuffix(")")

    def _goes(self) -> str:
        return ""

    @property
    def _has_begin(self) -> bool:
        return True  # so that no pass ends with it

    def _host_functions(self) -> None:
        """Write nothing: a file's launcher computes them."""

    def _advance(self) -> None:
        """Write nothing: a file's launcher counts."""

    def _end_kernel(self, loop: Loop) -> None:
        """Combine a pass's partial results in the order of chunks, those of a tensor or of all in one loop."""
        shared = [part for part in loop.accumulated if part.node.kind == "global"]
        each = [part for part in loop.accumulated if part not in shared]
        width = len(self.plan.reductions)
        with self._kernel(f"end_{loop.index}"):
            if each:
                self.source.line("tensor = tl.program_id(0)")
                self.source.line(f"start = {self._of('chunk')}", f"count = {self._of('chunks')}")
                places = [f"reduced + {self._place('tensor', width, part.place)}" for part in each]
                self._combine_all(each, "(start + here)", "count", places)
            if shared:
                with self.source.block("if tensor == 0:") if each else nullcontext():
                    places = [f"total + {part.place}" for part in shared]
                    self._combine_all(shared, "here.to(tl.int64)", "chunk_count", places)

    def _combine_all(self, parts: Sequence[Accumulate], row: str, count: str, places: Sequence[str]) -> None:
        names = [self.fresh.fresh(f"{part.node.op}_of") for part in parts]
        for name, part in zip(names, parts, strict=True):
            self.source.line(f"{name} = {self._running(part.node)}")
        with self.source.block(f"for first in range(0, {count}, BLOCK):"):
            self.source.line("here = first + tl.arange(0, BLOCK)", f"inside = here < {count}")
            for name, part in zip(names, parts, strict=True):
                where = self._place(row, len(self.plan.reductions), part.place)
                found = f"tl.load(partial + {where}, mask=inside, other={self._literal(part.node.reducer.init)})"
                self.source.line(f"{name} = {self._apply(part.node.reducer.combine, name, found)}")
        for name, part, place in zip(names, parts, places, strict=True):
            self.source.line(f"tl.store({place}, {self._fold(part.node.reducer, name)})")

    def _finish_kernel(self) -> None:
        with self._kernel("finish"):
            self.source.line("tensor = tl.program_id(0).to(tl.int64)", f"go = {self._present()}")
            self._number_slots(Rank.TENSOR)

    def _finish_all_kernel(self) -> None:
        with self._kernel("finish_all"):
            self.source.line("tensor = tl.program_id(0).to(tl.int64)", "go = tensor == 0")
            self._number_slots(Rank.GLOBAL)
