"""Random rules, drawn from the op table: every op with the input ranges its row declares."""

from __future__ import annotations

from dataclasses import dataclass, field
from unittest import mock

import numpy as np
import torch
from hypothesis import strategies as st

import steprule as sr
from steprule.backends import cache, lots
from steprule.backends.base import Batch, Place
from steprule.backends.eager import EagerBatch
from steprule.backends.numba_cpu import CpuKernel
from steprule.backends.triton_gpu import TritonKernel
from steprule.graph.chance import parameter_seed
from steprule.graph.graph import Graph, Hyper, Slot
from steprule.graph.node import AXES, Node, Rank, const, drawn, hyper, make, read, step
from steprule.graph.ops import ANY, DRAWN, OPS, Range
from steprule.graph.verify import verify
from steprule.plan.program import lowered
from steprule.plan.schedule import Plan
from steprule.plan.tables import array_rows, host_columns, hyper_columns

HYPERS = {"lr": 0.1, "beta": 0.9, "gamma": 1.7}
ALIKE = "gamma"
"""What is the same in all groups."""
POINTWISE = sorted(name for name, row in OPS.items() if row.kind == "pointwise")
MATRICES = sorted(name for name, row in OPS.items() if row.kind == "matrix")
REDUCTIONS = sorted(name for name, row in OPS.items() if row.reducer is not None)
OVER_ALL = [name for name in REDUCTIONS if OPS[name].kind == "global"]
LOGIC = sorted(name for name, row in OPS.items() if row.kind == "logic")
SIZES = sorted(name for name, row in OPS.items() if row.kind == "size")
COMPARE = sorted(name for name, row in OPS.items() if row.kind == "compare")


def _into(node: Node, wanted: Range) -> Node:
    """Bend a value into the range an op's input is sampled from."""
    if wanted == ANY:
        return node
    low, high = wanted
    positive = make("add", make("abs", node), const(low)) if low > 0 else node
    return make("minimum", make("maximum", positive, const(low)), const(high))


@dataclass
class _Drawer:
    draw: st.DrawFn
    reads: list[Node]
    axes: tuple[Rank, ...] = ()
    reductions: int = 0
    sites: int = 0
    matrices: int = 2
    """How many functions of matrices may be drawn yet."""
    used: set[str] = field(default_factory=set)

    def leaf(self, rank: Rank) -> Node:
        own = rank is not Rank.GLOBAL  # what tensors and groups have of their own is no part of one number for all
        choices = [*([*map(hyper, HYPERS), step()] if own else [hyper(ALIKE)])]
        choices.append(const(self.draw(st.sampled_from([0.0, 0.5, 1.0, -2.0, 3.0]))))
        arrays = [node for node in self.reads if node.rank <= rank and (own or node.rank is rank)]
        choices += [make(self.draw(st.sampled_from(SIZES)))] if rank >= Rank.TENSOR else []
        if rank is Rank.ELEMENT and self.draw(st.integers(0, 9)) == 9:
            self.sites += 1
            return drawn(self.draw(st.sampled_from(DRAWN)), self.sites)
        return self.draw(st.sampled_from([*arrays, *arrays, *choices]))

    def expression(self, depth: int, rank: Rank = Rank.ELEMENT) -> Node:
        if depth == 0:
            return self.leaf(rank)
        kind = self.draw(st.integers(0, 9))
        if kind == 0:
            return self.leaf(rank)
        if kind == 1 and self.reductions < 4 and rank is not Rank.HOST:
            return self.reduction(depth, rank)
        if kind == 2 and self.matrices and rank is Rank.ELEMENT:
            return self.matrix(depth)
        name = self.draw(st.sampled_from(POINTWISE))
        self.used.add(name)
        inputs = [
            self.comparison(depth - 1, rank) if name == "where" and place == 0
            else _into(self.expression(depth - 1, rank), wanted)
            for place, wanted in enumerate(OPS[name].sample)
        ]  # fmt: skip
        return make(name, *inputs)

    def comparison(self, depth: int, rank: Rank) -> Node:
        name = self.draw(st.sampled_from([*COMPARE, *LOGIC]))
        self.used.add(name)
        if name in LOGIC:
            return make(name, *(self.comparison(0, rank) for _ in range(OPS[name].arity)))
        return make(name, self.expression(min(depth, 1), rank), self.expression(min(depth, 1), rank))

    def element(self, depth: int) -> Node:
        inner = self.expression(depth)
        return inner if inner.rank is Rank.ELEMENT else make("add", inner, self.reads[1])

    def matrix(self, depth: int) -> Node:
        """Draw a function of matrices, in a place where a matrix that is nearly singular decides nothing."""
        self.matrices -= 1
        x, name = _into(self.element(depth - 1), ANY), self.draw(st.sampled_from(MATRICES))
        rest = [const((low + high) / 2) for low, high in OPS[name].sample[1:]]
        if name.startswith("orthogonalize"):
            return make(name, x, *rest[:-1], const(self.draw(st.integers(0, 5))))
        square = self.draw(st.sampled_from([gram(x), *(node for node in self.reads if node.rank is Rank.LEFT)]))
        if OPS[name].sides == "aa->aa":
            found = make(name, square, *rest)
            square = found if rest else make("matmul", found, make("transpose", found))
        return make("matmul", make("where", self.comparison(0, Rank.HOST), square, gram(self.reads[1])), x)

    def reduction(self, depth: int, rank: Rank) -> Node:
        inner = self.expression(depth - 1)
        name = self.draw(st.sampled_from(REDUCTIONS if rank is not Rank.GLOBAL else OVER_ALL))
        axes = [axis for axis in self.axes if axis <= rank and OPS[name].kind == "tensor"]
        axis = self.draw(st.sampled_from([None, *axes, *axes]))
        if not inner.rank > (axis or Rank.TENSOR):
            inner = make("add", inner, self.reads[1])
        self.reductions += 1
        self.used.add(name)
        return make(name, _into(inner, ANY), attr=axis)


def gram(x: Node) -> Node:
    """Return the matrix of all products of a matrix's rows."""
    return make("matmul", x, make("transpose", x))


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Draw a whole rule: two element slots, a slot a tensor, a global and a host one, reductions of every kind.

    A rule in a few has functions of matrices, and a slot that is one; one in five has rows and columns: slots, and
    reductions along them.
    """
    slots = (Slot("m"), Slot("s", init=0.25), Slot("k", Rank.TENSOR, 1.0), Slot("h", Rank.HOST, 2.0))
    slots += (Slot("u", Rank.GLOBAL, 0.75),)
    matrices, lined = draw(st.integers(0, 5)) == 0, draw(st.integers(0, 4)) == 4
    lines = (Slot("r", Rank.ROW, 0.5), Slot("c", Rank.COLUMN, 1.5)) if lined else ()
    slots += (*lines, *((Slot("p", Rank.LEFT, "identity"),) if matrices else ()))
    reads = [read("theta"), read("g"), *(read(slot.name, slot.rank) for slot in slots)]
    drawer = _Drawer(draw, reads, tuple(AXES.values()) if lined else (), matrices=2 * matrices)
    new = drawer.expression(draw(st.integers(1, 3)))
    m = drawer.expression(draw(st.integers(0, 2)))
    s = drawer.expression(1)
    k = drawer.expression(1, Rank.TENSOR)
    h = drawer.expression(1, Rank.HOST)
    u = drawer.expression(2, Rank.GLOBAL)
    bounded = [_into(node, ANY) for node in (new, m, s, k, h, u, *(drawer.expression(1, slot.rank) for slot in lines))]
    bounded += (
        [make("add", make("mul", const(0.5), reads[-1]), gram(_into(make("add", m, reads[1]), ANY)))]
        if matrices
        else []
    )
    hypers = tuple(Hyper(name, value) for name, value in HYPERS.items())
    return verify(Graph("drawn", "theta", "g", slots, hypers, bounded[0], tuple(bounded[1:])))


@dataclass
class Problem:
    """Tensors for a drawn rule: their arrays by name, and their numbers."""

    arrays: list[dict[str, np.ndarray]]
    numbers: list[dict[str, float]]


def problem(seed: int, shapes: list[tuple[int, ...]]) -> Problem:
    """Make the arrays of a few tensors, in two groups with different hyperparameters."""
    rng = np.random.default_rng(seed)
    arrays, numbers = [], []
    for index, shape in enumerate(shapes):
        own = {name: rng.normal(size=shape) for name in ("theta", "g", "m", "s")}
        rows = rng.normal(size=(shape or (1,))[:1] * 2)
        own |= {name: rng.normal(size=rank.shape(shape)) for name, rank in (("r", Rank.ROW), ("c", Rank.COLUMN))}
        arrays.append(
            own | {"p": rows @ rows.T, "u": np.array(0.75), "k": np.array(0.5 + index), "h": np.array(1.5 + index % 2)}
        )
        numbers.append(
            {name: value * (1 + index % 2 * (name != ALIKE)) for name, value in HYPERS.items()}
            | {"t": 3.0, "h": 1.5 + index % 2}
        )
    return Problem(arrays, numbers)


def run(plan: Plan, data: Problem, kind: str, dtype: torch.dtype = torch.float64) -> list[dict[str, np.ndarray]]:
    """Run one step of a plan through a backend and return the parameter and slots in memory."""
    names = array_rows(plan)
    device = "cuda" if kind == "triton" and torch.cuda.is_available() else "cpu"
    arrays = {n: [torch.tensor(np.asarray(a[n]), dtype=dtype, device=device) for a in data.arrays] for n in names}
    for name in (slot.name for slot in plan.graph.global_slots):
        arrays[name] = [arrays[name][0].double()] * len(data.arrays)
    rows = [index % 2 for index in range(len(data.arrays))]
    hyper = np.array([[data.numbers[row][name] for name in hyper_columns(plan)] for row in (0, 1)])
    program = lowered(plan, str(dtype).removeprefix("torch."))
    batch: Batch
    streams = parameter_seed(np.array([0], np.uint64), np.arange(len(data.arrays))).view(np.int64).tolist()
    shapes = [np.shape(a[names[0]]) for a in data.arrays]
    where = [Place(own, shape, (0,) * len(shape)) for own, shape in zip(streams, shapes, strict=True)]
    if kind == "eager":
        batch = EagerBatch(program, arrays, rows, where)
    elif kind == "triton":
        before = [[data.numbers[row][name] - (name == "t") for name in host_columns(plan)] for row in rows]
        batch = TritonKernel(program).batch(
            arrays, rows, torch.tensor(before, dtype=torch.float64, device=device), where
        )
        hyper = np.ascontiguousarray(hyper[rows][:, : len(plan.graph.hypers)])
    else:
        kernel = CpuKernel(program)
        if kind == "plain":
            kernel._function = cache.plain(kernel.source)
        # A lot for each tensor, where tensors need not wait for each other.
        with mock.patch.object(lots, "CACHED", 0), mock.patch.object(torch, "get_num_threads", return_value=1):
            batch = kernel.batch(arrays, rows, None, where)
    with np.errstate(all="ignore"):
        batch.step(hyper)
    kept = [names[0], *names[2:]]
    return [{name: arrays[name][i].double().cpu().numpy() for name in kept} for i in range(len(data.arrays))]


__all__ = ["HYPERS", "Problem", "graphs", "problem", "run", "sr"]
