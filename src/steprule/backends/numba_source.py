"""Plan → the source of one CPU kernel, a file a person can read.

One entry point runs any stage: -1 is the whole step; 0 computes the host scalars; then, for pass k, 2k + 1
walks the chunks lo..hi and 2k + 2 combines what they reduced. The tables it is given:

    addresses  [array, tensor]   where each parameter, gradient and slot begins
    tensors    [tensor, 2]       its row of hyperparameters, its number of elements
    chunks     [chunk, 3]        its tensor, first element, number of elements
    hyper      [row, name]       hyperparameters, t, host slots
    host       [row, value]      arithmetic on them, done once a step
    partial    [chunk, reduction]
    reduced    [tensor, reduction]
    total      [1, reduction]

The kernel is given the address of a directory of them: a row (address, rows, columns) for each.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..graph.node import Node, Rank, topological
from ..graph.ops import OPS
from ..graph.show import formula
from ..plan.schedule import Pass, Plan
from .emit import Names, Source

TABLES = "addresses, tensors, chunks, hyper, host, partial, reduced, total"
INTEGER_TABLES = {"addresses", "tensors", "chunks"}
_RESERVED = {
    *TABLES.split(", "), "at", "add", "real", "np", "njit", "stage", "lo", "hi", "row", "chunk", "tensor", "start",
    "count", "kernel", "integers", "reals", "directory", "of", "i", "host_scalars", "abs", "range", "finish_tensors", "t",
}  # fmt: skip

_SPELLING = {
    "add": "{} + {}", "sub": "{} - {}", "mul": "{} * {}", "div": "{} / {}", "pow": "{} ** {}", "neg": "-{}",
    "sqrt": "np.sqrt({})", "exp": "np.exp({})", "log": "np.log({})", "abs": "abs({})",
    "sign": "{0} if {0} != {0} else {1}({0} > 0) - {1}({0} < 0)",
    "minimum": "{0} if {0} <= {1} or {0} != {0} else {1}",
    "maximum": "{0} if {0} >= {1} or {0} != {0} else {1}",
    "where": "{1} if {0} else {2}",
    "lt": "{} < {}", "le": "{} <= {}", "gt": "{} > {}", "ge": "{} >= {}", "eq": "{} == {}", "ne": "{} != {}",
}  # fmt: skip

ITEMSIZE = {"float32": 4, "float64": 8}


def hyper_columns(plan: Plan) -> list[str]:
    """List the columns of the hyperparameter table: hyperparameters, t if used, host slots."""
    graph = plan.graph
    step = ["t"] if graph.uses_step else []
    return [item.name for item in graph.hypers] + step + [s.name for s in graph.slots if s.rank is Rank.HOST]


def array_rows(plan: Plan) -> list[str]:
    """List the rows of the address table: parameter, gradient, then every slot that lives in memory."""
    graph = plan.graph
    return [graph.parameter, graph.gradient] + [s.name for s in graph.slots if s.rank is not Rank.HOST]


class _Writer:
    """Writes one kernel; `names` maps nodes to the variables that hold them in the current function."""

    def __init__(self, plan: Plan, dtype: str) -> None:
        self.plan = plan
        self.dtype = dtype
        self.source = Source(plan.graph.origins)
        self.columns = hyper_columns(plan)
        self.arrays = array_rows(plan)
        self.names: dict[Node, str] = {}
        self.fresh = Names(_RESERVED)

    def begin(self) -> None:
        self.names = {}
        self.fresh = Names(_RESERVED)

    def spell(self, node: Node, real: str) -> str:
        inputs = [self.names[child] for child in node.inputs]
        return _SPELLING[node.op].format(*inputs, *([real] if node.op == "sign" else []))

    def assign(self, node: Node, wanted: str, text: str) -> None:
        if node not in self.names:
            self.names[node] = self.fresh.fresh(wanted)
            self.source.comment(node)
            self.source.line(f"{self.names[node]} = {text}")

    # Scalars -------------------------------------------------------------------------------------

    def host_leaf(self, node: Node) -> str:
        name = "t" if node.op == "step" else node.attr[0] if isinstance(node.attr, tuple) else str(node.attr)
        return f"hyper[row, {self.columns.index(name)}]"

    def host_function(self) -> None:
        self.begin()
        self.source.line("@njit(**EXACT)")
        with self.source.block("def host_scalars(hyper, host):"):
            with self.source.block("for row in range(hyper.shape[0]):"):
                for node in topological(self.plan.host):
                    if node.op == "const":
                        self.names[node] = f"({node.attr!r})" if repr(node.attr).startswith("-") else repr(node.attr)
                    else:
                        text = self.spell(node, "np.float64") if node.inputs else self.host_leaf(node)
                        self.assign(node, self.wanted(node), text)
                for place, node in enumerate(self.plan.host):
                    self.source.line(f"host[row, {place}] = {self.names[node]}")
                if not self.plan.host:
                    self.source.line("pass")
        self.source.line()
        self.source.line()

    def scalar(self, node: Node) -> str:
        """Return the expression of a scalar whose inputs have names."""
        if node.op == "const":
            return repr(node.attr)
        if node in self.plan.host:
            return f"host[row, {self.plan.host.index(node)}]"
        if node.op == "read" and isinstance(node.attr, tuple):
            return f"at(addresses[{self.arrays.index(node.attr[0])}, tensor], 1)[0]"
        if OPS[node.op].kind in {"tensor", "global"}:
            place = self.plan.reductions.index(node)
            held = f"reduced[tensor, {place}]" if OPS[node.op].kind == "tensor" else f"total[0, {place}]"
            if node.op == "mean":
                return f"{held} / tensors[tensor, 1]"
            return f"np.sqrt({held})" if node.op.endswith("norm") else held
        return self.spell(node, "np.float64")

    def scalars(self, roots: Sequence[Node], narrow: Sequence[Node] = ()) -> None:
        """Compute scalars in float64, in order; give `narrow` ones to the elements in their own type."""
        stack, order = [(root, False) for root in reversed(roots)], dict[Node, None]()
        while stack:
            node, expanded = stack.pop()
            if expanded:
                order[node] = None
            elif node not in order:
                given = node in self.plan.host or node.op == "const" or OPS[node.op].kind in {"tensor", "global"}
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
            if node in used and OPS[node.op].kind != "compare":
                wide = self.names[node]
                self.names[node] = self.fresh.fresh(self.wanted(node))
                self.source.line(f"{self.names[node]} = real({wide})")

    def wanted(self, node: Node) -> str:
        """Return the name a scalar would like to have."""
        if node.op == "hyper":
            return str(node.attr)
        return {"const": "constant", "step": "step"}.get(node.op, "scalar")

    # Passes --------------------------------------------------------------------------------------

    def pass_function(self, item: Pass) -> None:
        self.begin()
        written = ", ".join(name for name, _ in item.writes)
        verbs = [f"reads {', '.join(item.reads)}"] if item.reads else []
        verbs += [f"writes {written}"] if written else []
        verbs += [f"ends in {', '.join(node.op for node in item.reductions)}"] if item.reductions else []
        self.source.line("@njit(**EXACT)")
        with self.source.block(f"def pass_{item.index}(lo, hi, {TABLES}):"):
            self.source.line(f"# {'; '.join(verbs)}" if verbs else "# writes nothing")
            with self.source.block("for chunk in range(lo, hi):"):
                self.source.line("tensor, start, count = chunks[chunk, 0], chunks[chunk, 1], chunks[chunk, 2]")
                self.source.line("row = tensors[tensor, 0]")
                self.scalars(item.scalars, [node for node in item.scalars if OPS[node.op].kind != "compare"])
                views = self.views(item)
                sums = [self.fresh.fresh(f"{node.op}_of") for node in item.reductions]
                for name, node in zip(sums, item.reductions, strict=True):
                    self.source.line(f"{name} = {'-np.inf' if node.op == 'max' else '0.0'}")
                with self.source.block("for i in range(count):"):
                    self.body(item, views, sums)
                for name, node in zip(sums, item.reductions, strict=True):
                    self.source.line(f"partial[chunk, {self.plan.reductions.index(node)}] = {name}")
        self.source.line()
        self.source.line()

    def views(self, item: Pass) -> dict[str, str]:
        views: dict[str, str] = {}
        for name in dict.fromkeys((*item.reads, *(name for name, _ in item.writes))):
            views[name] = self.fresh.fresh(f"{name}_at")
            row = self.arrays.index(name)
            address = f"addresses[{row}, tensor] + start * {ITEMSIZE[self.dtype]}"
            self.source.line(f"{views[name]} = at({address}, count)")
        return views

    def body(self, item: Pass, views: dict[str, str], sums: list[str]) -> None:
        results = {node: f"new_{name}" for name, node in item.writes}
        for name in item.reads:
            node = next(n for n in self.plan.graph.nodes if n.op == "read" and n.attr == (name, Rank.ELEMENT))
            self.assign(node, name, f"{views[name]}[i]")
        for node in item.elements:
            self.assign(node, results.get(node, "x"), self.spell(node, "real"))
        for name, node in zip(sums, item.reductions, strict=True):
            value = self.names[node.inputs[0]]
            if node.op == "max":
                self.source.line(f"{name} = {value} if {value} > {name} or {value} != {value} else {name}")
            else:
                wide = f"np.float64({value})"
                term = f"{wide} * {wide}" if node.op.endswith("norm") else wide
                self.source.line(f"{name} = add({name}, {term})")
        for name, node in item.writes:
            self.source.line(f"{views[name]}[i] = {self.names[node]}")
        if not (item.writes or sums):
            self.source.line("pass")

    def end_function(self, item: Pass) -> None:
        """Combine a pass's partial results in the order of chunks, whoever made them."""
        self.source.line("@njit(**EXACT)")
        with self.source.block(f"def end_{item.index}(tensors, chunks, partial, reduced, total):"):
            for node in item.reductions:
                place = self.plan.reductions.index(node)
                start = "-np.inf" if node.op == "max" else "0.0"
                target = f"reduced[:, {place}]" if OPS[node.op].kind == "tensor" else f"total[0, {place}]"
                self.source.line(f"{target} = {start}")
            if item.reductions:
                with self.source.block("for chunk in range(chunks.shape[0]):"):
                    for node in item.reductions:
                        self.combine(node)
            else:
                self.source.line("pass")
        self.source.line()
        self.source.line()

    def combine(self, node: Node) -> None:
        place = self.plan.reductions.index(node)
        if OPS[node.op].kind == "global":
            self.source.line(f"total[0, {place}] += partial[chunk, {place}]")
        elif node.op == "max":
            self.source.line(f"largest, value = reduced[chunks[chunk, 0], {place}], partial[chunk, {place}]")
            with self.source.block("if value > largest or value != value:"):
                self.source.line(f"reduced[chunks[chunk, 0], {place}] = value")
        else:
            self.source.line(f"reduced[chunks[chunk, 0], {place}] += partial[chunk, {place}]")

    def tensor_function(self) -> None:
        """Write the slots that hold one number a tensor, after every pass has read them."""
        self.begin()
        self.source.line("@njit(**EXACT)")
        with self.source.block(f"def finish_tensors({TABLES}):"):
            with self.source.block("for tensor in range(tensors.shape[0]):"):
                self.source.line("row = tensors[tensor, 0]")
                self.scalars([node for _, node in self.plan.tensor_writes])
                for name, node in self.plan.tensor_writes:
                    target = f"at(addresses[{self.arrays.index(name)}, tensor], 1)[0]"
                    self.source.line(f"{target} = real({self.names[node]})")
        self.source.line()
        self.source.line()

    def entry(self) -> None:
        with self.source.block("def kernel(stage, lo, hi, directory):"):
            self.source.line(f"of = integers(directory, {len(TABLES.split(', '))}, 3)")
            for place, name in enumerate(TABLES.split(", ")):
                kind = "integers" if name in INTEGER_TABLES else "reals"
                self.source.line(f"{name} = {kind}(of[{place}, 0], of[{place}, 1], of[{place}, 2])")
            with self.source.block("if stage == 0 or stage == -1:"):
                self.source.line("host_scalars(hyper, host)")
            for item in self.plan.passes:
                with self.source.block(f"if stage == {2 * item.index + 1} or stage == -1:"):
                    self.source.line(f"pass_{item.index}(lo, hi, {TABLES})")
                last = item is self.plan.passes[-1]
                end = ["end_{0}(tensors, chunks, partial, reduced, total)".format(item.index)] if item.reductions else []
                end += [f"finish_tensors({TABLES})"] if last and self.plan.tensor_writes else []
                if end:
                    with self.source.block(f"if stage == {2 * item.index + 2} or stage == -1:"):
                        for call in end:
                            self.source.line(call)


def cpu_source(plan: Plan, dtype: str, version: str) -> str:
    """Return the kernel of a plan for `float32` or `float64` tensors."""
    writer = _Writer(plan, dtype)
    source = writer.source
    source.line(f'"""{plan.graph.name}, {dtype}: one step for any number of tensors of any size.')
    source.line()
    for text in formula(plan.graph).splitlines():
        source.line(f"    {text}".replace("\\", "/").replace('"""', "'''"))
    source.line()
    source.line(f"Generated by steprule {version}; comments quote the rule.")
    source.line('"""')
    source.line()
    source.line("import numpy as np")
    source.line("from numba import njit")
    source.line()
    source.line("from steprule.backends.memory import add_in_any_order as add")
    source.line(f"from steprule.backends.memory import {dtype}_at as at")
    source.line("from steprule.backends.memory import integer_table as integers")
    source.line("from steprule.backends.memory import real_table as reals")
    source.line()
    source.line(f"real = np.{dtype}")
    source.line("# Division by zero gives infinity, as on any array; multiply and add may be one operation.")
    source.line('EXACT = {"error_model": "numpy", "fastmath": {"contract", "nsz"}}')
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
