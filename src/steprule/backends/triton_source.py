"""Plan → the source of a GPU module, a file a person can read: a few kernels for any number of tensors of any size.

    begin      host scalars, a row a tensor, if the first pass needs them; else the end of the first pass does that
    pass_k     one program a chunk: walks over it, and leaves one number a reduction and chunk
    end_k      adds those up in the order of chunks, in one program a result: always in the same order, without atomics
    finish     slots of one number a tensor, after every chunk has read them

The last pass and `finish` do nothing if the step must be left out, and only they write what a training step keeps. All
kernels take the same tables, which stay on the device:

    addresses  [tensor, array]      where each parameter and slot begins; gradients have a table of their own
    gradients  [tensor]             0 if absent: the tensor is left alone, and is in no reduction
    tensors    [tensor, 3]          its number of elements, its first chunk, its number of chunks
    chunks     [chunk, 3]           its tensor, first element, number of elements
    hyper      [tensor, name]       hyperparameters
    counts     [tensor, name]       step counts and host slots: the state itself, which the last pass advances
    host       [tensor, value]      arithmetic on both, done once a step
    partial    [reduction, chunk]
    reduced    [reduction, tensor]
    total      [reduction]
    found      [1]                  above 0 if the step must be left out: GradScaler's `found_inf`
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager

from ..graph.node import Node, read, topological
from ..graph.ops import OPS
from ..plan.schedule import Pass, Plan, summary
from ..plan.tables import array_rows, host_columns
from .base import ABSENT
from .emit import KernelWriter, Source

TABLES = ("addresses", "gradients", "tensors", "chunks", "hyper", "counts", "host", "partial", "reduced", "total",
          "found")  # fmt: skip
COUNTS = ("tensor_count", "chunk_count")
CHUNK, BLOCK, ROWS = 4096, 1024, 128
"""Elements a program walks over, elements at a time, and rows of scalars at a time."""

HELPERS = ("add", "add_square", "at", "divide", "exponential", "finite", "fold", "logarithm", "maximum", "minimum",
           "padded", "power", "read", "root", "sign", "write")  # fmt: skip
_RESERVED = {
    *TABLES, *COUNTS, *HELPERS, "tl", "triton", "ALIGNED", "CHUNK", "BLOCK", "ROWS", "chunk", "tensor", "start",
    "count", "rows", "row", "inside", "whole", "tail", "first", "lanes", "here", "float", "int", "abs", "range", "min",
    "max", "sum", "len", "print", "host_scalars", "begin", "finish", "element", "go", "t",
    *(f"join_{op}" for op in OPS),
}  # fmt: skip

_SPELLING = {
    "add": "{} + {}", "sub": "{} - {}", "mul": "{} * {}", "div": "divide({}, {})", "pow": "power({}, {})",
    "neg": "-{}", "sqrt": "root({})", "exp": "exponential({})", "log": "logarithm({})", "abs": "tl.abs({})",
    "sign": "sign({})", "minimum": "minimum({}, {})", "maximum": "maximum({}, {})",
    "where": "tl.where({}, {}, {})", "stored": "tl.cast(tl.cast({0}, tl.{element}), tl.{real})",
    "lt": "{} < {}", "le": "{} <= {}", "gt": "{} > {}", "ge": "{} >= {}", "eq": "{} == {}", "ne": "{} != {}",
}  # fmt: skip


def _derived(plan: Plan) -> list[Node]:
    """List the host values that are computed: all but those that stand in the table of hyperparameters."""
    return [node for node in plan.host if node.op != "hyper"]


class _Writer(KernelWriter):
    """Writes one module."""

    def __init__(self, plan: Plan, dtype: str) -> None:
        super().__init__(plan.graph.origins, _RESERVED)
        self.plan = plan
        self.element = dtype
        self.real = "float64" if dtype == "float64" else "float32"
        self.derived = _derived(plan)
        self.hypers = [hyper.name for hyper in plan.graph.hypers]
        self.hosts = host_columns(plan)
        self.arrays = [name for name in array_rows(plan) if name != plan.graph.gradient]
        self.kinds = {slot.name: self.real for slot in plan.graph.slots if slot.single}

    def cell(self, table: str, row: str, columns: Sequence[object], column: object) -> str:
        """Spell where a number of a row is, in a table whose rows lie one after another."""
        place, width = columns.index(column), len(columns)
        start = f"{table} + {row}" if width == 1 else f"{table} + {row} * {width}"
        return f"{start} + {place}" if place else start

    def spell(self, node: Node, real: str) -> str:
        return self.spelled(node.op, *(self.names[child] for child in node.inputs), real=real)

    def spelled(self, op: str, *inputs: str, real: str = "float64") -> str:
        """Spell a pointwise operation on what has been spelled."""
        return _SPELLING[op].format(*inputs, element=self.element, real=real)

    def constant(self, node: Node, real: str) -> str:
        text = repr(node.attr)
        return f"tl.full((), {text if text.strip('-')[0].isdigit() else f'float({text!r})'}, tl.{real})"

    # Host scalars --------------------------------------------------------------------------------

    @property
    def has_begin(self) -> bool:
        """Whether host scalars are wanted before the first pass ends, and so need a launch of their own."""
        early = set(self.derived) & set(topological(self.plan.passes[0].scalars))
        return bool(self.derived) and (len(self.plan.passes) == 1 or not self.plan.passes[0].reductions or bool(early))

    def host_leaf(self, node: Node) -> str:
        if node.op == "const":
            return self.constant(node, "float64")
        if node.op == "hyper":
            return f"tl.load({self.cell('hyper', 'row', self.hypers, node.attr)}, mask=inside, other=1.0)"
        name = "t" if node.op == "step" else node.attr[0] if isinstance(node.attr, tuple) else ""
        held = f"tl.load({self.cell('counts', 'row', self.hosts, name)}, mask=inside, other=1.0).to(tl.float64)"
        return f"{held} + 1.0" if node.op == "step" else held

    def host_function(self) -> None:
        with self.function("host_scalars", "first, tensor_count, hyper, counts, host"):
            self.source.line("# one row a lane: numbers that depend on hyperparameters and the step count alone")
            self.source.line("row = first + tl.arange(0, ROWS)")
            self.source.line("inside = row < tensor_count")
            for node in topological(self.derived):
                text = self.spell(node, "float64") if node.inputs else self.host_leaf(node)
                self.assign(node, self.wanted(node), text)
            for node in self.derived:
                place = self.cell("host", "row", self.derived, node)
                self.source.line(f"tl.store({place}, {self.names[node]}, mask=inside)")

    def begin_kernel(self) -> None:
        with self.kernel("begin"):
            self.source.line("host_scalars(tl.program_id(0) * ROWS, tensor_count, hyper, counts, host)")

    # Scalars -------------------------------------------------------------------------------------

    def scalar(self, node: Node) -> str:
        """Return the expression of a scalar whose inputs have names."""
        if node.op == "const":
            return self.constant(node, "float64")
        if node.op == "hyper":
            return f"tl.load({self.cell('hyper', 'tensor', self.hypers, node.attr)})"
        if node in self.derived:
            return f"tl.load({self.cell('host', 'tensor', self.derived, node)})"
        if node.op == "read" and isinstance(node.attr, tuple):
            return f"tl.cast(tl.cast(tl.load({self.array(node.attr[0], '0')}), tl.{self.real}), tl.float64)"
        if node.reduces:
            place = self.plan.reductions.index(node)
            each = node.kind == "tensor"
            held = f"tl.load(reduced + {place} * tensor_count + tensor)" if each else f"tl.load(total + {place})"
            count = "tl.load(tensors + tensor * 3).to(tl.float64)"
            return self.spelled(node.reducer.finish, held, count) if node.reducer.finish else held
        return self.spell(node, "float64")

    def scalars(self, roots: Sequence[Node], narrow: Sequence[Node] = ()) -> None:
        """Compute scalars in float64, in order; give `narrow` ones to the elements in their own type."""
        stack, order = [(root, False) for root in reversed(roots)], dict[Node, None]()
        while stack:
            node, expanded = stack.pop()
            if expanded:
                order[node] = None
            elif node not in order:
                given = node in self.plan.host or node.reduces
                stack.append((node, True))
                stack.extend((child, False) for child in (() if given else reversed(node.inputs)))
        used = {child for node in order for child in node.inputs}
        short = self.real != "float64"
        for node in order:
            alone = short and node in narrow and node not in used
            if alone and node.op == "const":
                self.assign(node, self.wanted(node), self.constant(node, self.real))
            else:
                text = self.scalar(node)
                self.assign(node, self.wanted(node), f"tl.cast({text}, tl.{self.real})" if alone else text)
        for node in narrow if short else ():
            if node in used:
                wide = self.names[node]
                self.names[node] = self.fresh.fresh(self.wanted(node))
                self.source.line(f"{self.names[node]} = tl.cast({wide}, tl.{self.real})")

    def array(self, name: str, first: str) -> str:
        """Spell a pointer into an array of the current tensor."""
        if name == self.plan.graph.gradient:
            held = "tl.load(gradients + tensor)"
        else:
            held = f"tl.load({self.cell('addresses', 'tensor', self.arrays, name)})"
        return f"at({held}, {first}, tl.{self.kinds.get(name, self.element)}, {'False' if first == '0' else 'ALIGNED'})"

    # Kernels -------------------------------------------------------------------------------------

    @contextmanager
    def function(self, name: str, *arguments: str, options: str = "") -> Generator[None]:
        """Write one function, whose body is what is written inside."""
        self.begin()
        self.source.line(f"@triton.jit{options}")
        for line in arguments[:-1]:
            self.source.line(f"def {name}({line}," if line is arguments[0] else f"{' ' * (len(name) + 5)}{line},")
        head = f"def {name}(" if len(arguments) == 1 else " " * (len(name) + 5)
        with self.source.block(f"{head}{arguments[-1]}):"):
            yield
        self.source.line()
        self.source.line()

    def kernel(self, name: str) -> AbstractContextManager[None]:
        """Write one kernel; how many tensors and chunks there are compiles nothing."""
        names = ", ".join(f'"{count}"' for count in COUNTS)
        rest = ", ".join((*TABLES[8:], *COUNTS, "ALIGNED: tl.constexpr"))
        return self.function(name, ", ".join(TABLES[:8]), rest, options=f"(do_not_specialize=[{names}])")

    def goes(self) -> str:
        """Spell whether the step is taken: what found out that it must not be has ended by the last pass."""
        terms = ["tl.load(found) == 0.0"]
        if self.plan.guard is not None:
            terms.append(f"finite(tl.load(total + {self.plan.reductions.index(self.plan.guard)}))")
        return " & ".join(f"({term})" if len(terms) > 1 else term for term in terms)

    def present(self, row: str) -> str:
        """Spell whether a tensor has a gradient."""
        return f"(tl.load(gradients + {row}) != {ABSENT})"

    def pass_kernel(self, item: Pass) -> None:
        last = item is self.plan.passes[-1]
        with self.kernel(f"pass_{item.index}"):
            self.source.line(f"# {summary(item, self.plan.graph)}")
            self.source.line("chunk = tl.program_id(0).to(tl.int64)")
            self.source.line("tensor = tl.load(chunks + chunk * 3)")
            self.source.line("start = tl.multiple_of(tl.load(chunks + chunk * 3 + 1), CHUNK)")
            self.source.line("count = tl.load(chunks + chunk * 3 + 2).to(tl.int32)")
            if last:
                self.source.line(f"go = {self.goes()}")
            self.source.line(f"count = tl.where({'go & ' if last else ''}{self.present('tensor')}, count, 0)")
            self.scalars(item.scalars, [node for node in item.scalars if node.kind != "compare"])
            self.walk(item)
            if last and self.hosts:
                self.advance()

    def walk(self, item: Pass) -> None:
        """Write the walk over one chunk: whole blocks without masks, then what is left over."""
        places: dict[str, str] = {}
        for name in dict.fromkeys((*item.reads, *(name for name, _ in item.writes))):
            places[name] = self.fresh.fresh(f"{name}_at")
            self.source.line(f"{places[name]} = {self.array(name, 'start')}")
        sums = [self.running(node) for node in item.reductions]
        if not (places or sums):
            return
        self.source.line("whole = count // BLOCK * BLOCK")
        with self.source.block("for tail in tl.static_range(2):"):  # noqa: SIM117
            with self.source.block("for first in range(whole if tail else 0, count if tail else whole, BLOCK):"):
                self.source.line("here = first + tl.arange(0, BLOCK)")
                self.source.line("inside = here < count")
                self.body(item, places, sums)
        for name, node in zip(sums, item.reductions, strict=True):
            place = self.plan.reductions.index(node)
            self.source.line(f"tl.store(partial + {place} * chunk_count.to(tl.int64) + chunk, {_fold(node, name)})")

    def body(self, item: Pass, places: dict[str, str], sums: list[str]) -> None:
        results = {node: f"new_{name}" for name, node in item.writes}
        for name in item.reads:
            self.assign(read(name), name, f"read({places[name]} + here, inside, tail, tl.{self.real})")
        for node in item.elements:
            self.assign(node, results.get(node, "x"), self.spell(node, self.real))
        for name, node in zip(sums, item.reductions, strict=True):
            self.source.line(f"{name} = {self.joined(node, name)}")
        for name, node in item.writes:
            self.source.line(f"write({places[name]} + here, {self.names[node]}, inside, tail)")

    def running(self, node: Node) -> str:
        """Begin running reductions, one a lane, and return their name."""
        name = self.fresh.fresh(f"{node.op}_of")
        self.source.line(f"{name} = tl.full((BLOCK,), {_start(node)}, tl.float64)")
        return name

    def joined(self, node: Node, total: str) -> str:
        """Spell running reductions, one a lane, that have taken one more block."""
        reducer, value = node.reducer, self.names[node.inputs[0]]
        if reducer.combine == "add" and reducer.each in {"", "mul"}:
            return f"{'add_square' if reducer.each else 'add'}({total}, {value}, inside, tail)"
        wide = self.fresh.fresh("term")
        self.source.line(f"{wide} = tl.cast({value}, tl.float64)")
        each = self.spelled(reducer.each, *[wide] * OPS[reducer.each].arity) if reducer.each else wide
        return self.spelled(reducer.combine, total, f"padded({each}, inside, {_start(node)})")

    def advance(self) -> None:
        """Write step counts and host slots, in the first program; no other reads them in this launch."""
        new = dict(self.plan.host_writes)
        with self.source.block("if chunk == 0:"):
            self.source.line("rows = tl.where(go, tensor_count, 0)")
            with self.source.block("for first in range(0, rows, ROWS):"):
                self.source.line("row = first + tl.arange(0, ROWS)")
                there = f"tl.load(gradients + row, mask=row < rows, other={ABSENT}) != {ABSENT}"
                self.source.line(f"inside = (row < rows) & ({there})")
                for name in self.hosts:
                    place = self.cell("counts", "row", self.hosts, name)
                    if name == "t":
                        value = f"tl.load({place}, mask=inside, other=0.0) + 1.0"
                    elif name not in new:
                        continue
                    elif new[name] in self.derived:
                        held = self.cell("host", "row", self.derived, new[name])
                        value = f"tl.load({held}, mask=inside, other=0.0)"
                    else:
                        value = self.host_leaf(new[name])
                    self.source.line(f"tl.store({place}, ({value}).to(counts.dtype.element_ty), mask=inside)")

    def end_kernel(self, item: Pass) -> None:
        """Combine a pass's partial results in the order of chunks: the first program the global ones."""
        each = [node for node in item.reductions if node.kind == "tensor"]
        shared = [node for node in item.reductions if node.kind == "global"]
        with self.kernel(f"end_{item.index}"):
            self.source.line("tensor = tl.program_id(0)")
            if shared:
                with self.source.block("if tensor == 0:"):
                    for node in shared:
                        place = self.plan.reductions.index(node)
                        self.combine(node, "0", "chunk_count", f"total + {place}")
            if self.derived and item.index == 0 and not self.has_begin:
                with self.source.block("if tensor * ROWS < tensor_count:"):
                    self.source.line("host_scalars(tensor * ROWS, tensor_count, hyper, counts, host)")
            if each:
                self.source.line("start = tl.load(tensors + tensor * 3 + 1)")
                self.source.line("count = tl.load(tensors + tensor * 3 + 2)")
                for node in each:
                    place = self.plan.reductions.index(node)
                    self.combine(node, "start", "count", f"reduced + {place} * tensor_count + tensor")

    def combine(self, node: Node, start: str, count: str, place: str) -> None:
        at = f"partial + {self.plan.reductions.index(node)} * chunk_count.to(tl.int64)"
        at += "" if start == "0" else f" + {start}"
        total = self.running(node)
        with self.source.block(f"for first in range(0, {count}, BLOCK):"):
            self.source.line("here = first + tl.arange(0, BLOCK)")
            self.source.line(f"part = tl.load({at} + here, mask=here < {count}, other={_start(node)})")
            self.source.line(f"{total} = {self.spelled(node.reducer.combine, total, 'part')}")
        self.source.line(f"tl.store({place}, {_fold(node, total)})")

    def finish_kernel(self) -> None:
        """Write the slots that hold one number a tensor, after every pass has read them."""
        with self.kernel("finish"):
            self.source.line("tensor = tl.program_id(0).to(tl.int64)")
            self.source.line(f"go = ({self.goes()}) & {self.present('tensor')}")
            self.scalars([node for _, node in self.plan.tensor_writes])
            for name, node in self.plan.tensor_writes:
                value = f"tl.cast(tl.cast({self.names[node]}, tl.{self.real}), tl.{self.kinds.get(name, self.element)})"
                self.source.line(f"tl.store({self.array(name, '0')}, {value}, mask=go)")


def _start(node: Node) -> str:
    """Spell what a reduction is of nothing."""
    text = repr(float(node.reducer.init))
    return f'float("{text}")' if "inf" in text else text


def _fold(node: Node, lanes: str) -> str:
    """Spell the one number that the lanes of a block are joined to."""
    combine = node.reducer.combine
    return f"tl.sum({lanes}, 0)" if combine == "add" else f"fold({lanes}, join_{combine}, {BLOCK.bit_length() - 1})"


def host_width(plan: Plan) -> int:
    """Return how many host values are computed a tensor."""
    return len(_derived(plan))


def gpu_source(plan: Plan, dtype: str, version: str) -> str:
    """Return the module of a plan for tensors of one floating-point type."""
    writer = _Writer(plan, dtype)
    for op in dict.fromkeys(node.reducer.combine for node in plan.reductions if node.reducer.combine != "add"):
        with writer.function(f"join_{op}", "x, y"):
            writer.source.line(f"return {writer.spelled(op, 'x', 'y')}")
    if writer.derived:
        writer.host_function()
    if writer.has_begin:
        writer.begin_kernel()
    for item in plan.passes:
        writer.pass_kernel(item)
        if item.reductions:
            writer.end_kernel(item)
    if plan.tensor_writes:
        writer.finish_kernel()
    body = writer.source.text().rstrip() + "\n"
    return _head(plan, dtype, version, body) + body


def _head(plan: Plan, dtype: str, version: str, body: str) -> str:
    """Return what stands before the functions: the formula, and the helpers that they call."""
    source = Source({})
    source.head(plan.graph, f"{dtype}: one step for any number of tensors of any size on a GPU", version)
    source.line("import triton")
    source.line("import triton.language as tl")
    source.line()
    code = "\n".join(line for line in body.splitlines() if not line.lstrip().startswith("#"))
    used = [name for name in HELPERS if re.search(rf"\b{name}\(", code)]
    if used:
        source.line(f"from steprule.backends.triton_helpers import {', '.join(used)}")
        source.line()
    for name, value in (("CHUNK", CHUNK), ("BLOCK", BLOCK), ("ROWS", ROWS)):
        if re.search(rf"\b{name}\b", code):
            source.line(f"{name}: tl.constexpr = tl.constexpr({value})")
    source.line()
    source.line()
    return source.text()
