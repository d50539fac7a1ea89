"""Plan → the source of one CPU kernel, a file a person can read.

One entry point runs any stage: -1 is the whole step; 0 computes the host scalars; then, for pass k, 2k + 1
walks the parts lo..hi and 2k + 2 combines what they reduced; after n passes, 2n + 1 writes the slots of one number a
tensor. The tables it is given, by row and column:

    addresses  [tensor, array]   where each parameter, gradient and slot begins; 0 for a gradient that is absent, whose
                                 tensor is left alone and is in no reduction
    tensors    [tensor, 2]       its row of hyperparameters, its number of elements
    chunks     [chunk, 3]        its tensor, first element, number of elements
    hyper      [row, name]       hyperparameters, t, host slots
    host       [row, value]      arithmetic on them, done once a step
    partial    [chunk, reduction]
    reduced    [tensor, reduction]
    total      [reduction]
    done       [part + 1]        set where the last pass has ended, last of all where it has been wound up: an
                                 interrupted step is finished from there
    parts      [part + 1]        where each part's chunks begin, and the end of the last

The kernel is given the address of a directory: where each table begins, how many tensors, chunks, rows and parts
there are, and the stage. It reads the stage there so that its arguments are those of torch's parallel loops.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..graph.node import Node, Rank, read, topological
from ..graph.ops import OPS, Reducer
from ..plan.schedule import Pass, Plan, summary
from ..plan.tables import array_rows, hyper_columns
from .base import ABSENT
from .emit import KernelWriter

TABLES = ("addresses", "tensors", "chunks", "hyper", "host", "partial", "reduced", "total", "done", "parts")
COUNTS = ("tensor_count", "chunk_count", "row_count", "part_count")
INTEGER_TABLES = {"addresses", "tensors", "chunks", "done", "parts"}
_ALL = ", ".join(TABLES[:-2])
_RESERVED = {
    *TABLES, *COUNTS, "at", "add", "add_square", "real", "np", "inner", "stage", "lo", "hi", "row", "chunk", "tensor",
    "start", "count", "kernel", "first", "last", "part", "integers", "reals", "directory", "of", "i", "host_scalars",
    "finish_tensors", "abs", "range", "t", "known",
}  # fmt: skip

_SPELLING = {
    "add": "{} + {}", "sub": "{} - {}", "mul": "{} * {}", "div": "{} / {}", "pow": "{} ** {}", "neg": "-{}",
    "stored": "{}", "sqrt": "np.sqrt({})", "exp": "np.exp({})", "log": "np.log({})", "abs": "abs({})",
    "sign": "{0} if {0} != {0} else {1}({0} > 0) - {1}({0} < 0)",
    "minimum": "{1} if {1} < {0} or {1} != {1} else {0}",
    "maximum": "{1} if {1} > {0} or {1} != {1} else {0}",
    "where": "{1} if {0} else {2}",
    "lt": "{} < {}", "le": "{} <= {}", "gt": "{} > {}", "ge": "{} >= {}", "eq": "{} == {}", "ne": "{} != {}",
}  # fmt: skip


def _spelled(op: str, *inputs: str, real: str = "np.float64") -> str:
    """Spell a pointwise operation on what has been spelled."""
    return _SPELLING[op].format(*inputs, *([real] if op == "sign" else []))


def _start(node: Node) -> str:
    """Spell what a reduction is of nothing."""
    return repr(float(node.reducer.init)).replace("inf", "np.inf")


ITEMSIZE = {"float32": 4, "float64": 8}


class _Writer(KernelWriter):
    """Writes one kernel."""

    def __init__(self, plan: Plan, dtype: str) -> None:
        super().__init__(plan.graph.origins, _RESERVED)
        self.plan = plan
        self.dtype = dtype
        self.columns = hyper_columns(plan)
        self.arrays = array_rows(plan)
        self.width = {"addresses": len(self.arrays), "tensors": 2, "chunks": 3, "hyper": len(self.columns)}
        self.width |= {"host": len(plan.host), "partial": len(plan.reductions), "reduced": len(plan.reductions)}

    def cell(self, table: str, row: str, column: int) -> str:
        """Spell one cell of a table, whose rows lie one after another."""
        width = self.width[table]
        start = row if width == 1 else f"{row} * {width}"
        return f"{table}[{start} + {column}]" if column else f"{table}[{start}]"

    def array(self, name: str) -> str:
        """Spell the address of an array of the current tensor."""
        return self.cell("addresses", "tensor", self.arrays.index(name))

    def spell(self, node: Node, real: str) -> str:
        return _spelled(node.op, *(self.names[child] for child in node.inputs), real=real)

    # Scalars -------------------------------------------------------------------------------------

    def host_leaf(self, node: Node) -> str:
        name = "t" if node.op == "step" else node.attr[0] if isinstance(node.attr, tuple) else str(node.attr)
        return self.cell("hyper", "row", self.columns.index(name))

    def host_function(self) -> None:
        self.begin()
        self.source.line("@inner")
        with self.source.block("def host_scalars(row_count, hyper, host):"):  # noqa: SIM117
            with self.source.block("for row in range(row_count):"):
                for node in topological(self.plan.host):
                    if node.op == "const":
                        self.names[node] = f"({node.attr!r})" if repr(node.attr).startswith("-") else repr(node.attr)
                    else:
                        text = self.spell(node, "np.float64") if node.inputs else self.host_leaf(node)
                        self.assign(node, self.wanted(node), text)
                for place, node in enumerate(self.plan.host):
                    self.source.line(f"{self.cell('host', 'row', place)} = {self.names[node]}")
                if not self.plan.host:
                    self.source.line("pass")
        self.source.line()
        self.source.line()

    def scalar(self, node: Node) -> str:
        """Return the expression of a scalar whose inputs have names."""
        if node.op == "const":
            return repr(node.attr)
        if node in self.plan.host:
            return self.cell("host", "row", self.plan.host.index(node))
        if node.op == "read" and isinstance(node.attr, tuple):
            return f"np.float64(at({self.array(node.attr[0])})[0])"
        if node.reduces:
            held = self.result(node)
            count = f"np.float64({self.cell('tensors', 'tensor', 1)})"
            return _spelled(node.reducer.finish, held, count) if node.reducer.finish else held
        return self.spell(node, "np.float64")

    def scalars(self, roots: Sequence[Node], narrow: Sequence[Node] = ()) -> None:
        """Compute scalars in float64, in order; give `narrow` ones to the elements in their own type."""
        stack, order = [(root, False) for root in reversed(roots)], dict[Node, None]()
        while stack:
            node, expanded = stack.pop()
            if expanded:
                order[node] = None
            elif node not in order:
                given = node in self.plan.host or node.op == "const" or node.reduces
                stack.append((node, True))
                stack.extend((child, False) for child in (() if given else reversed(node.inputs)))
        used = {child for node in order for child in node.inputs}
        for node in order:
            text, alone = self.scalar(node), node in narrow and node not in used
            if node.op == "const" and not alone:
                self.names[node] = f"({text})" if text.startswith("-") else text
            else:
                self.assign(node, self.wanted(node), f"real({text})" if alone else text)
        for node in narrow:
            if node in used and node.kind != "compare":
                wide = self.names[node]
                self.names[node] = self.fresh.fresh(self.wanted(node))
                self.source.line(f"{self.names[node]} = real({wide})")

    # Passes --------------------------------------------------------------------------------------

    def pass_function(self, item: Pass) -> None:
        self.begin()
        self.source.line("@inner")
        with self.source.block(f"def pass_{item.index}(first, last, {_ALL}):"):
            self.source.line(f"# {summary(item, self.plan.graph)}")
            if item.scalars:
                self.source.line("known = -1")
            with self.source.block("for chunk in range(first, last):"):
                for column, name in enumerate(("tensor", "start", "count")):
                    self.source.line(f"{name} = {self.cell('chunks', 'chunk', column)}")
                with self.source.block(f"if {self.array(self.plan.graph.gradient)} == {ABSENT}:"):
                    for node in item.reductions:
                        self.source.line(f"{self.partial(node)} = {_start(node)}")
                    self.source.line("continue")
                self.pass_scalars(item)
                views = self.views(item)
                sums = [self.fresh.fresh(f"{node.op}_of") for node in item.reductions]
                for name, node in zip(sums, item.reductions, strict=True):
                    self.source.line(f"{name} = {_start(node)}")
                with self.source.block("for i in range(count):"):
                    self.body(item, views, sums)
                for name, node in zip(sums, item.reductions, strict=True):
                    self.source.line(f"{self.partial(node)} = {name}")
        self.source.line()
        self.source.line()

    def pass_scalars(self, item: Pass) -> None:
        """Compute the scalars of a pass where they may differ: at another row, or tensor if they depend on that.

        Many tensors share a row, and a square root and a division cost as much as dozens of elements.
        """
        if not item.scalars:
            return
        self.source.line(f"row = {self.cell('tensors', 'tensor', 0)}")
        own = "tensor" if any(node.rank is Rank.TENSOR for node in item.scalars) else "row"
        with self.source.block(f"if {own} != known:"):
            self.source.line(f"known = {own}")
            self.scalars(item.scalars, [node for node in item.scalars if node.kind != "compare"])

    def partial(self, node: Node) -> str:
        """Spell where a chunk's part of a reduction goes."""
        return self.cell("partial", "chunk", self.plan.reductions.index(node))

    def views(self, item: Pass) -> dict[str, str]:
        views: dict[str, str] = {}
        for name in dict.fromkeys((*item.reads, *(name for name, _ in item.writes))):
            views[name] = self.fresh.fresh(f"{name}_at")
            self.source.line(f"{views[name]} = at({self.array(name)} + start * {ITEMSIZE[self.dtype]})")
        return views

    def body(self, item: Pass, views: dict[str, str], sums: list[str]) -> None:
        results = {node: f"new_{name}" for name, node in item.writes}
        for name in item.reads:
            self.assign(read(name), name, f"{views[name]}[i]")
        for node in item.elements:
            self.assign(node, results.get(node, "x"), self.spell(node, "real"))
        for name, node in zip(sums, item.reductions, strict=True):
            self.source.line(f"{name} = {self.joined(node.reducer, name, self.names[node.inputs[0]])}")
        for name, node in item.writes:
            self.source.line(f"{views[name]}[i] = {self.names[node]}")
        if not (item.writes or sums):
            self.source.line("pass")

    def joined(self, reducer: Reducer, total: str, value: str) -> str:
        """Spell a running reduction that has taken one more element; the compiler may reorder sums."""
        wide = f"np.float64({value})"
        if (reducer.combine, reducer.each) == ("add", "mul"):
            return f"add_square({total}, {wide})"
        if reducer.each:
            term = self.fresh.fresh("term")
            self.source.line(f"{term} = {wide}")
            value = wide = f"({_spelled(reducer.each, *[term] * OPS[reducer.each].arity)})"
        # `total` is float64, and so is what Numba makes of it and a narrower value.
        return f"add({total}, {wide})" if reducer.combine == "add" else _spelled(reducer.combine, total, value)

    def result(self, node: Node) -> str:
        """Spell where a reduction is held once its pass has ended."""
        place = self.plan.reductions.index(node)
        return self.cell("reduced", "tensor", place) if node.kind == "tensor" else f"total[{place}]"

    def end_function(self, item: Pass) -> None:
        """Combine a pass's partial results in the order of chunks, whoever made them."""
        each = [node for node in item.reductions if node.kind == "tensor"]
        self.source.line("@inner")
        with self.source.block(f"def end_{item.index}(tensor_count, chunk_count, chunks, partial, reduced, total):"):
            for node in item.reductions:
                if node not in each:
                    self.source.line(f"{self.result(node)} = {_start(node)}")
            if each:
                with self.source.block("for tensor in range(tensor_count):"):
                    for node in each:
                        self.source.line(f"{self.result(node)} = {_start(node)}")
            with self.source.block("for chunk in range(chunk_count):"):
                if each:
                    self.source.line(f"tensor = {self.cell('chunks', 'chunk', 0)}")
                for node in item.reductions:
                    self.combine(node)
        self.source.line()
        self.source.line()

    def combine(self, node: Node) -> None:
        value, held = self.partial(node), self.result(node)
        add = node.reducer.combine == "add"
        self.source.line(f"{held} += {value}" if add else f"{held} = {_spelled(node.reducer.combine, held, value)}")

    def tensor_function(self) -> None:
        """Write the slots that hold one number a tensor, after every pass has read them."""
        self.begin()
        self.source.line("@inner")
        with self.source.block(f"def finish_tensors(tensor_count, {_ALL}):"):  # noqa: SIM117
            with self.source.block("for tensor in range(tensor_count):"):
                with self.source.block(f"if {self.array(self.plan.graph.gradient)} == {ABSENT}:"):
                    self.source.line("continue")
                self.source.line(f"row = {self.cell('tensors', 'tensor', 0)}")
                self.scalars([node for _, node in self.plan.tensor_writes])
                for name, node in self.plan.tensor_writes:
                    self.source.line(f"at({self.array(name)})[0] = real({self.names[node]})")
        self.source.line()
        self.source.line()

    def guard(self, item: Pass) -> None:
        """Stop before anything is written when a guarded plan has met what is not finite."""
        if self.plan.guard is not None and self.plan.guard in item.reductions:
            value = f"total[{self.plan.reductions.index(self.plan.guard)}]"
            with self.source.block(f"if stage == -1 and {value} != {value}:"):
                self.source.line("return")

    def entry(self) -> None:
        with self.source.block("def kernel(lo, hi, directory):"):
            self.source.line("of = integers(directory)")
            for place, name in enumerate(TABLES):
                kind = "integers" if name in INTEGER_TABLES else "reals"
                self.source.line(f"{name} = {kind}(of[{place}])")
            places = (f"of[{len(TABLES) + i}]" for i in range(len(COUNTS) + 1))
            self.source.line(f"{', '.join((*COUNTS, 'stage'))} = {', '.join(places)}")
            with self.source.block("if stage == 0 or stage == -1:"):
                self.source.line("host_scalars(row_count, hyper, host)")
            for item in self.plan.passes:
                with self.source.block(f"if stage == {2 * item.index + 1} or stage == -1:"):
                    self.source.line(f"pass_{item.index}(parts[lo], parts[hi], {_ALL})")
                    if item is self.plan.passes[-1]:
                        with self.source.block("for part in range(lo, hi):"):
                            self.source.line("done[part] = 1")
                if item.reductions:
                    with self.source.block(f"if stage == {2 * item.index + 2} or stage == -1:"):
                        counts = "tensor_count, chunk_count"
                        self.source.line(f"end_{item.index}({counts}, chunks, partial, reduced, total)")
                        self.guard(item)
            if self.plan.tensor_writes:
                with self.source.block(f"if stage == {2 * len(self.plan.passes) + 1} or stage == -1:"):
                    self.source.line(f"finish_tensors(tensor_count, {_ALL})")
                    self.source.line("done[part_count] = 1")


def cpu_source(plan: Plan, dtype: str, version: str) -> str:
    """Return the kernel of a plan for `float32` or `float64` tensors."""
    writer = _Writer(plan, dtype)
    source = writer.source
    source.head(plan.graph, f"{dtype}: one step for any number of tensors of any size", version)
    source.line("import numpy as np")
    source.line()
    for name, short in (("add_in_any_order", "add"), ("add_square_in_any_order", "add_square"), (f"{dtype}_at", "at"),
                        ("float64_at", "reals"), ("inner", "inner"), ("int64_at", "integers")):  # fmt: skip
        source.line(f"from steprule.backends.memory import {name}{f' as {short}' if short != name else ''}")
    source.line()
    source.line(f"real = np.{dtype}")
    source.line()
    source.line()
    writer.host_function()
    for item in plan.passes:
        writer.pass_function(item)
        if item.reductions:
            writer.end_function(item)
    if plan.tensor_writes:
        writer.tensor_function()
    writer.entry()
    return source.text()
