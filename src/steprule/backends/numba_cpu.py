"""The CPU backend: one compiled kernel a plan and dtype, over tables of addresses, chunks and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..graph.evaluate import evaluate_scalars
from ..graph.node import Node, Rank, read
from ..plan.schedule import walks
from . import cache, compiler
from .base import (
    ABSENT,
    DTYPES,
    Arrays,
    Backend,
    Batch,
    Gradients,
    Kernel,
    Table,
    Where,
    addresses_of,
)
from .calls import calls_of
from .lots import Lots, lots
from .numba_dialect import NumbaDialect
from .numba_lines import NumbaLines
from .numba_tables import COUNTS, TABLES
from .threads import cheap, walk
from .tiles import cut

Parts = NDArray[np.int64]
"""Where the chunks of each part begin, and the end of the last."""
_PARTS = TABLES.index("parts")
_PART_COUNT = len(TABLES) + COUNTS.index("part_count")

CHUNK = 32_768
"""Elements a chunk: small enough to share out evenly, large enough that a chunk's own cost vanishes."""

PARALLEL_FROM = {True: 262_144, False: 524_288}
"""Elements a step from which a second thread saves more than calling it costs, if it is likely to be awake or not."""


class CpuKernel(Kernel):
    """The compiled step of a program."""

    dialect = NumbaLines
    _function: cache.Kernel | None = None

    def _writer(self) -> NumbaDialect:
        return (NumbaLines if self.program.plan.axes else NumbaDialect)(self.program)

    @property
    def function(self) -> cache.Kernel:
        """The kernel, compiled or loaded at first use."""
        if self._function is None:
            self._function = cache.load(self.source)
        return self._function

    def batch(self, arrays: Arrays, rows: Sequence[int], counts: Any, where: Where | None = None) -> Batch:  # noqa: ARG002
        """Bind tensors, in lots where they need not wait for each other; counts are in the table of hyperparameters."""
        found = lots(self.program, [own.numel() for own in arrays[self.program.plan.graph.parameter]], where)

        def made(own: slice) -> CpuBatch:
            some = {name: tensors[own] for name, tensors in arrays.items()}
            return CpuBatch(self, some, rows[own], where and where[own])

        return Lots(made, found) if len(found) > 1 else CpuBatch(self, arrays, rows, where)


class NumbaCpu(Backend):
    """Kernels in main memory, compiled by Numba."""

    name, kernel = "numba_cpu", CpuKernel

    def home(self, device: torch.device) -> bool:
        """Whether a device is main memory."""
        return device.type == "cpu"

    def obstacle(self, device: torch.device, dtype: torch.dtype) -> str:
        """Return why there are no kernels for such parameters, or ""."""
        if device.type != "cpu":
            return f"parameters are on {device.type}, and its kernels run in main memory"
        if dtype not in DTYPES:
            return f"parameters are {dtype}; CPU kernels are {', '.join(DTYPES.values())}"
        return compiler.obstacle()

    def reason(self, device: torch.device) -> str:  # noqa: ARG002
        """Word what is run."""
        return "parameters in main memory run one compiled kernel"


class CpuBatch(Batch):
    """Dense tensors in main memory, laid out as one program says."""

    def __init__(self, kernel: CpuKernel, arrays: Arrays, rows: Sequence[int], where: Where | None = None) -> None:
        self.program = kernel.program
        self.plan = plan = kernel.program.plan
        self._function = kernel.function
        self.calls = calls_of(self.program, arrays)
        self._arrays = arrays if self.calls is not None else {}
        pointed = [arrays[name] for name in self.program.tensors if name != plan.graph.gradient]
        pointed += [] if self.calls is None else self.calls.arrays.values()
        self._held: list[Any] = [*pointed, ()]  # what is pointed at must not be freed
        sizes = [tensor.numel() for tensor in arrays[plan.graph.parameter]]
        pointers = [addresses_of(own) for own in pointed]
        self._addresses = np.array(pointers, dtype=np.int64).reshape(len(pointed), len(sizes)).T.copy()
        self._gradients = np.zeros(len(sizes), dtype=np.int64)
        self.set_gradients(arrays[plan.graph.gradient])
        self._shapes = [tuple(parameter.shape) for parameter in arrays[plan.graph.parameter]]
        found = cut(self.program, self._shapes, rows, CHUNK, where)
        self._lines = np.zeros(found.room)
        self._tensors, self._chunks = found.at(self._lines.ctypes.data).tensors, found.chunks
        self.host = np.zeros((0, len(self.program.host)))
        self._partial = np.zeros((len(self._chunks), len(plan.reductions)))
        self._reduced = np.zeros((len(sizes), len(plan.reductions)))
        self.total = self._own = np.zeros(len(plan.reductions))
        self._lengths, self._elements = self._chunks[:, 2], sum(sizes)
        self._done = np.zeros(len(self._chunks) + 3, dtype=np.int64)
        self._address = cache.address(self._function)
        self._cuts = {1: np.array([0, len(self._chunks)], dtype=np.int64)}
        self._parts = self._cuts[1]
        self._hyper: Table | None = None
        self._directory = np.zeros(len(TABLES) + len(COUNTS) + 1, dtype=np.int64)
        self._where = self._directory.ctypes.data

    def set_gradients(self, gradients: Gradients) -> None:
        """Point at this step's gradients."""
        self._held[-1] = gradients
        self._gradients[:] = addresses_of(gradients)

    def leave_out(self, present: NDArray[np.bool_]) -> None:
        """Share out the chunks of the tensors that have gradients."""
        self._lengths = self._chunks[:, 2] * present[self._chunks[:, 0]]
        self._elements = int(self._lengths.sum())
        self._cuts = {1: self._cuts[1]}

    def set_rows(self, rows: Sequence[int]) -> None:
        """Read each tensor's hyperparameters from another row from now on."""
        self._tensors[:, 0] = rows

    def gradient_cells(self) -> list[int]:
        """List where the address of each tensor's gradient is kept."""
        first, width = self._gradients.ctypes.data, self._gradients.itemsize
        return [first + width * tensor for tensor in range(len(self._gradients))]

    def begin(self, hyper: Table) -> None:
        """Compute the host scalars."""
        self._done.fill(0)
        if self.calls is not None:
            self.calls.begin()
        if self._hyper is not hyper:
            self._take(hyper)
        self._once(0)

    def present(self) -> NDArray[np.bool_]:
        """Say which tensors have gradients in this step."""
        return self._gradients != ABSENT

    def numbers(self, nodes: Sequence[Node]) -> Table:
        """Return the values of nodes below element rank, a row a tensor."""
        known: dict[Node, Any] = {} if self.calls is None else dict(self.calls.sizes)
        rows, sizes = self._tensors[:, 0], self._tensors[:, 1]
        host = np.zeros((0, 0)) if self.host is None else self.host
        known |= {node: host[rows, place] for place, node in enumerate(self.program.host)}
        for place, node in enumerate(self.plan.reductions):
            total = self.total[place] if node.kind == "global" else self._reduced[:, place]
            with np.errstate(all="ignore"):
                counts = sizes if walks(node) else np.array([node.count(shape) for shape in self._shapes])
                known[node] = node.reducer.finished(total, counts)
        for name, rank in self.plan.graph.ranks.items():
            if name in self._arrays and rank in {Rank.TENSOR, Rank.GLOBAL}:
                known[read(name, rank)] = np.array([float(own) for own in self._arrays[name]])
        table = np.empty((len(rows), len(nodes)))
        for place, value in enumerate(evaluate_scalars(nodes, {}, known)):
            table[:, place] = value
        return table

    def _take(self, hyper: Table) -> None:
        """List the addresses of all tables, unless they are as before."""
        self.host = host = np.zeros((len(hyper), len(self.program.host)))
        tables = (self._addresses, self._gradients, self._tensors, self._chunks, hyper, host, self._partial,
                  self._reduced, self.total, self._done, self._parts)  # fmt: skip
        counts = (len(self._tensors), len(self._chunks), len(hyper), len(self._parts) - 1)
        self._directory[:-1] = [*(table.ctypes.data for table in tables), *counts]
        self._hyper = hyper  # last: an interrupt before it must find the tables listed again

    def _once(self, stage: int) -> None:
        """Run a stage other than a walk over chunks."""
        self._directory[-1] = stage
        self._function(0, 0, self._where)

    def _cut_into(self, parts: Parts) -> None:
        """Give the kernel the chunks of each part."""
        if parts is not self._parts:
            self._directory[_PARTS], self._directory[_PART_COUNT] = parts.ctypes.data, len(parts) - 1
            self._parts = parts  # last: an interrupt before it must find them told again

    def _share(self) -> Parts:
        """Cut the chunks into as many runs of about equal cost as torch has threads; return where each begins."""
        if self._elements < PARALLEL_FROM[True]:  # too few for any threads
            return self._cuts[1]
        fewest = PARALLEL_FROM[cheap()]
        alone = self._elements < fewest
        threads = 1 if alone else min(torch.get_num_threads(), self._elements // (fewest // 2))
        if threads not in self._cuts:
            done = np.cumsum(self._lengths)
            inner = np.searchsorted(done, np.arange(1, threads) * (self._elements / threads)) + 1
            bounds = np.concatenate([[0], np.minimum(inner, len(self._chunks)), [len(self._chunks)]])
            self._cuts[threads] = np.unique(bounds).astype(np.int64)
        return self._cuts[threads]

    def shared(self) -> bool:
        """Whether a pass is shared among threads."""
        return len(self._share()) > 2  # one part has two ends

    def sweep(self, index: int) -> None:
        """Walk over memory once, in as many threads as torch uses."""
        parts = self._share()
        self._cut_into(parts)
        self._lay_lines(index)
        self._directory[-1] = 2 * index + 1
        walk(self._function, self._address, len(parts) - 1, self._where)
        self._combine(index)

    def _lay_lines(self, index: int) -> None:
        """Compute what elements of a pass use of rows and columns."""
        if self.program.loops[index].lines:
            self._once(2 * len(self.plan.passes) + 2 + index)

    def _combine(self, index: int) -> None:
        """Reduce what a walk has left, a number a chunk."""
        if self.plan.passes[index].reductions:
            self._once(2 * index + 2)
        self._own = self.total.copy()

    def reduced(self) -> Table:
        """Return what each tensor's elements were reduced to in the last step."""
        return self._reduced

    def reduced_at(self, places: Sequence[int]) -> torch.Tensor:
        """Return what each tensor was reduced to, at some places."""
        return torch.from_numpy(self._reduced[:, places])

    def put_reduced(self, places: Sequence[int], numbers: torch.Tensor) -> None:
        """Let these be what each tensor was reduced to."""
        self._reduced[:, places] = numbers.cpu().numpy()

    def begun(self) -> bool:
        """Whether this step has begun to write: a kernel says so before it returns."""
        return bool(self._done.any())

    def finish(self) -> None:
        """Write the parts that an interrupted last pass has not written."""
        last = len(self.plan.passes) - 1
        if not self._done.any():
            self._cut_into(self._share())
        if self._done[len(self._parts) - 1 :].any():  # wound up: slots, which may be reduced, have new values since
            self.total[:] = self._own
            return
        self._lay_lines(last)
        self._directory[-1] = 2 * last + 1
        for part in range(len(self._parts) - 1):
            if not self._done[part]:
                self._function(part, part + 1, self._where)
        self._combine(last)

    def clear(self) -> None:
        """Forget how far this step has come, and its gradients, so that zero_grad frees them."""
        self._done.fill(0)
        if self.calls is not None:
            self.calls.begin()
        self._held[-1] = ()

    def end(self) -> None:
        """Write the slots that no pass writes, after the last one."""
        if self.calls is not None:
            self.calls.write()
        if self.plan.tensor_writes and not self._done[len(self._parts) - 1]:
            self._once(2 * len(self.plan.passes) + 1)

    def end_all(self) -> None:
        """Write the slots that hold one number for all tensors."""
        if self.plan.global_writes and not self._done[len(self._parts)]:
            self._once(3 * len(self.plan.passes) + 2)

    def step(self, hyper: Table) -> bool:
        """Run every pass: in one call when one thread will do, and nothing is called between passes."""
        parts = self._share()
        if len(parts) > 2 or self.calls is not None:  # one part has two ends
            return super().step(hyper)
        if self._hyper is not hyper:
            self._take(hyper)
        if parts is not self._parts:
            self._cut_into(parts)
        self._directory[-1] = -1
        self._function(0, 1, self._where)
        return self.plan.guard is None or not self.refuses(0)
