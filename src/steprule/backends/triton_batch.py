"""A batch of tensors on a GPU: tables that stay on the device, so that no step waits for it.

Step counts, host slots and hyperparameters are there too: a kernel finds out by itself whether a step must be left
out (a gradient that is not finite, GradScaler's `found_inf`), and counts it if not. The host sends what has changed,
gradients' addresses and hyperparameters in one piece, and never asks.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import BackendError
from ..graph.evaluate import evaluate_scalars
from ..graph.node import Node, Rank, hyper, read, step, topological
from ..graph.ops import OPS
from ..plan.lines import counted
from ..plan.program import Combine, Program
from ..plan.schedule import walks
from ..plan.tables import TENSOR, host_columns, tensor_columns
from .base import ABSENT, Arrays, Batch, Gradients, Table, Where, addresses_of
from .calls import calls_of, scalars_there
from .tiles import cut
from .torch_ops import spelling
from .triton_build import Build
from .triton_device import Device, Launch, Upload
from .triton_dialect import derived

# `signal.signal` takes eight microseconds to make enumerations of what these two return.
_python: Any = import_module("_signal")


def uninterrupted(write: Callable[[], None]) -> None:
    """Hold Ctrl-C back while something is launched: after an interrupt nobody could tell which launch has happened."""
    pending: list[Any] = []
    before = _python.getsignal(signal.SIGINT)
    held = callable(before)  # nothing else raises
    try:
        if held:
            _python.signal(signal.SIGINT, lambda *told: pending.append(told))
    except ValueError:  # threads other than the main one are not interrupted
        held = False
    try:
        write()
    finally:
        if held:
            _python.signal(signal.SIGINT, before)
            if pending:  # once, also for an event loop, which has been woken
                before(*pending[0])


class _Walk(NamedTuple):
    """The launches of a pass: what it needs of rows and columns, and itself; then what combines what it leaves."""

    walk: list[Launch]
    after: list[Launch]


def _some(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows of a table, or one in which nothing is: there is no launch of no programs."""
    return rows if len(rows) else np.zeros((1, rows.shape[1]), dtype=np.int64)


class TritonBatch(Batch):
    """Dense tensors on one GPU, laid out as one program says; a row of hyperparameters and counts a tensor.

    `counts` is a table of the state's own step counts and host slots, as `host_columns` lists them. `kept` are the
    batches that CUDA graphs point at, or None if steps may not be captured.
    """

    def __init__(
        self,
        program: Program,
        functions: Mapping[str, Any],
        build: Build,
        device: Device,
        arrays: Arrays,
        counts: torch.Tensor,
        where: Where | None,
        kept: list[TritonBatch] | None,
    ) -> None:
        self.program, self.plan = program, program.plan
        self._functions, self._build, self._device, self._kept = functions, build, device, kept
        names = [name for name in program.tensors if name != program.plan.graph.gradient]
        self._held = [arrays[name] for name in names]  # what is pointed at must not be freed
        self.calls, self._counted = calls_of(program, arrays), counts
        self._held += [] if self.calls is None else self.calls.arrays.values()
        few = {Rank.TENSOR, Rank.GLOBAL}
        self._numbers = {name: arrays[name] for name, rank in program.plan.graph.ranks.items() if rank in few}
        shapes = [tuple(tensor.shape) for tensor in arrays[program.plan.graph.parameter]]
        self._changing(len(shapes), len(program.plan.graph.hypers))
        self._tables = self._make_tables(shapes, counts, where)
        self._now = device.now()
        self._streams = {self._now.stream}
        self._rows = b""
        self._found_now: torch.Tensor | None = None
        sizes = {} if self.calls is None else self.calls.sizes
        self._sizes = {node: device.table(own.astype(np.int64)).double() for node, own in sizes.items()}
        self._begun = self._ended = self._ended_all = self._may_leave_out = False
        rereads = any(isinstance(part, Combine) and not walks(part.node) for part in program.loops[-1].after)
        self._own = device.empty(len(self.total)) if rereads else None
        """What the last pass gave, where that is also of slots that have new values in the end."""
        self.set_gradients(arrays[program.plan.graph.gradient])
        self._prepare()

    def _make_tables(self, shapes: list[Any], counts: torch.Tensor, where: Where | None) -> tuple[torch.Tensor, ...]:
        """Make what kernels are given; `_held` lies where it is pointed at."""
        device, build, reductions = self._device, self._build, len(self.plan.reductions)
        pointers = np.array([[tensor.data_ptr() for tensor in own] for own in self._held], dtype=np.int64).T
        length = build.tile if self.plan.axes else build.chunk
        found = cut(self.program, shapes, range(len(shapes)), length, where, wide=build.wide, lanes=build.lanes)
        pieces = _some(found.chunks)
        self._counts, self._strips = (len(shapes), len(pieces)), 0
        if found.strips is not None:
            strips = _some(found.strips)
            self._strips, pieces = len(strips), np.concatenate([pieces, strips])
        self._room = device.empty(found.room)
        self.total = device.zeros(reductions + 1)
        self.found = device.zeros(1, dtype=torch.float32)
        """Above 0, this step is left out."""
        gradients, hyper = self._there
        return (
            device.table(np.ascontiguousarray(pointers)),
            gradients,
            device.table(found.at(self._room.data_ptr()).tensors),
            device.table(pieces),
            hyper,
            counts,
            device.empty(len(shapes), len(derived(self.program))),
            device.empty(self._counts[1], reductions),
            device.empty(len(shapes), reductions),
            self.total,
            self.found,
        )

    def _changing(self, tensors: int, hypers: int) -> None:
        """Make what is sent: gradients' addresses, then hyperparameters, which begin at a multiple of 16 bytes."""
        first = tensors + tensors % 2
        self._words = np.zeros(first + tensors * hypers, dtype=np.int64)
        self._cells = self._words[:tensors]
        self._hyper = self._words[first:].view(np.float64).reshape(tensors, hypers)
        self._upload = Upload(self._device, len(self._words), capturable=self._kept is not None)
        table = self._upload.table
        self._there = table[:tensors], table[first:].view(torch.float64).view(tensors, hypers)

    def _prepare(self) -> None:
        """Compile the kernels for what they are given: before the first pass, the passes, after the last."""
        arguments, (tensors, pieces) = (*self._tables, *self._counts), self._counts
        kind = {"grouped": bool(self.program.grouped), "lined": bool(self.plan.axes)}
        options = self._build.options(self.program.layout.real, **kind)

        def prepared(**kernels: int) -> list[Launch]:
            found = [(self._functions[name], own) for name, own in kernels.items() if name in self._functions]
            return [self._device.prepare(function, programs, arguments, options) for function, programs in found]

        def passed(at: int) -> _Walk:
            after = {f"parts_{at}": self._strips, f"end_{at}": tensors, f"total_{at}": 1}
            return _Walk(prepared(**{f"lines_{at}": self._strips, f"pass_{at}": pieces}), prepared(**after))

        self._first = prepared(begin=-(-tensors // self._build.rows))
        self._walks = [passed(at) for at in range(len(self.plan.passes))]
        self._last, self._last_of_all = prepared(write_lines=self._strips, finish=tensors), prepared(finish_all=1)
        self.why_slow = self._device.why_slow

    def set_gradients(self, gradients: Gradients) -> None:
        """Point at this step's gradients."""
        self._gradients = gradients
        self._cells[:] = addresses_of(gradients)

    def gradient_cells(self) -> list[int]:
        """List where the address of each tensor's gradient is kept until it is sent."""
        first, width = self._cells.ctypes.data, self._cells.itemsize
        return [first + width * tensor for tensor in range(len(self._cells))]

    # The step ------------------------------------------------------------------------------------

    def begin(self, hyper: Table) -> None:
        """Send what has changed, and compute the host scalars if they are needed at once."""
        self._now = now = self._device.now()
        if now.capturing or now.stream not in self._streams:
            self._keep_tables()
        self._begun = self._ended = self._ended_all = False
        if self.calls is not None:
            self.calls.begin()
        rows = hyper.tobytes()
        if rows != self._rows:
            self._hyper[...] = hyper[:, : self._hyper.shape[1]]  # the device counts by itself
            self._rows = rows
        self._upload.send(self._words, capturing=now.capturing)
        for rows_of, column, number in self.shares:
            self._device.copy(self._there[1][rows_of, column], number.reshape(()))
        if now.capturing or self._may_leave_out or self._found_now is not None:
            self._leave_out()
        for launch in self._first:
            launch(now)

    def leave_out_if(self, found: torch.Tensor | None) -> None:
        """Leave the next step out if this number, which may be on a device, is above 0."""
        self._found_now = found

    def _leave_out(self) -> None:
        """Tell the kernels what `leave_out_if` was told."""
        found, self._found_now = self._found_now, None
        if found is None:
            self._device.zero(self.found)
        else:
            self._device.copy(self.found, found.reshape(1))
        self._may_leave_out = found is not None or bool(self._kept)

    def _keep_tables(self) -> None:
        """Keep the tables alive for another stream, or a graph, that uses them."""
        if self._now.capturing:
            if self._kept is None:
                raise BackendError("this step is being captured in a CUDA graph", fix="pass capturable=True")
            if self not in self._kept:
                self._kept.append(self)
        else:
            self._streams.add(self._now.stream)
            self._device.keep([*self._tables, self._room])

    def step(self, hyper: Table) -> bool:
        """Run every pass; return that it was launched, whatever kernels decide."""
        self.begin(hyper)
        for index, (walk, after) in enumerate(self._walks[:-1]):
            if self.calls is not None:
                self.call(index)
            for launch in walk:
                launch(self._now)
            for launch in after:
                launch(self._now)
        if self.calls is not None:
            self.call(len(self._walks) - 1)
        uninterrupted(self._write)
        return True

    def sweep(self, index: int) -> None:
        """Walk over memory once, and combine what the walk reduced.

        The last pass is not interrupted, because its progress could not be found out afterwards.
        """
        if index == len(self._walks) - 1:
            uninterrupted(self._walk_last)
        else:
            for launch in (*self._walks[index].walk, *self._walks[index].after):
                launch(self._now)

    def _walk_last(self) -> None:
        walk, after = self._walks[-1]
        for launch in walk:
            launch(self._now)
        self._begun = True
        for launch in after:
            launch(self._now)
        if self._own is not None:
            self._device.copy(self._own, self.total)

    def _finish(self) -> None:
        for launch in self._last:
            launch(self._now)
        if self.calls is not None:
            self.calls.write(self._goes())
        self._ended = True

    def _goes(self) -> torch.Tensor:
        """Whether kernels take this step, as a number on the device."""
        goes, guard = self.found[0] == 0, self.program.guard
        return goes if guard < 0 else goes & self.total[guard].isfinite()

    def _write(self) -> None:
        self._walk_last()
        if self._last or self.calls is not None:
            self._finish()
        self._finish_all()

    def end(self) -> None:
        """Write the slots that no pass writes, after the last one."""
        if (self._last or self.calls is not None) and not self._ended:
            uninterrupted(self._finish)

    def _finish_all(self) -> None:
        for launch in self._last_of_all:
            launch(self._now)
        self._ended_all = True

    def end_all(self) -> None:
        """Write the slots that hold one number for all tensors."""
        if self._last_of_all and not self._ended_all:
            uninterrupted(self._finish_all)

    def refuses(self, index: int) -> bool:  # noqa: ARG002
        """Return False: kernels look at the guard themselves, and asking them would mean waiting."""
        return False

    def stopped(self) -> bool:
        """Whether the guard stopped the last step, and not `found`; this waits for the device."""
        guard = self.plan.guard
        if guard is not None and self._device.now().capturing:
            raise BackendError('nonfinite="raise" asks the GPU after every step, and a CUDA graph cannot',
                               fix='pass nonfinite="skip", which leaves such steps out on the GPU')  # fmt: skip
        total = 0.0 if guard is None else float(self.total[self.plan.reductions.index(guard)])
        return not np.isfinite(total) and float(self.found[0]) == 0.0

    def skipped(self) -> torch.Tensor | None:
        """Return where the device counts the steps that it leaves out; None without a guard."""
        return None if self.plan.guard is None else self.total[-1]

    def reduced(self) -> Table:
        """Return what each tensor's elements were reduced to in the last step; this waits for the device."""
        return self._tables[8].cpu().numpy()

    def reduced_at(self, places: Sequence[int]) -> torch.Tensor:
        """Return what each tensor was reduced to, at some places, on the device."""
        return torch.stack([self._tables[8][:, place] for place in places], dim=1)

    def put_reduced(self, places: Sequence[int], numbers: torch.Tensor) -> None:
        """Let these be what each tensor was reduced to."""
        for column, place in enumerate(places):
            self._tables[8][:, place].copy_(numbers[:, column])

    def left_out(self) -> bool:
        """Whether kernels left the last step out; this waits for the device."""
        return self.stopped() or float(self.found[0]) > 0

    def begun(self) -> bool:
        """Whether this step has begun to write."""
        return self._begun

    def finish(self) -> None:
        """Write, unless that is done. Combine reductions again, since totals may have been shared."""
        if not self._begun:
            self.sweep(len(self._walks) - 1)
        elif (self._ended or self._ended_all) and self._own is not None:
            self._device.copy(self.total, self._own)
        else:
            for launch in self._walks[-1].after:
                launch(self._now)

    def clear(self) -> None:
        """Forget that this step has written, and its gradients, so that zero_grad frees them."""
        self._begun = self._ended = self._ended_all = False
        self._gradients = ()
        if self.calls is not None:
            self.calls.begin()

    # What calls ask ------------------------------------------------------------------------------

    def present(self) -> NDArray[np.bool_]:
        """Say which tensors have gradients in this step."""
        return self._cells != ABSENT

    def numbers(self, nodes: Sequence[Node]) -> Table:
        """Return the values of nodes that are known before the step; this waits for what the device counts."""
        own, graph = set(topological(nodes)), self.plan.graph
        there = [share for share in self.shares if hyper(graph.hypers[share[1]].name) in own]
        counts = [self._count(name) for name in host_columns(self.plan)]
        if self._now.capturing and (there or own & set(counts)):
            raise BackendError(f"`{graph.name}` asks after t, or what is on the GPU, before it calls a function of "
                               "matrices, and a CUDA graph cannot", fix="leave capturable=False")  # fmt: skip
        table = self._hyper.copy()
        for rows, column, number in there:
            table[rows, column] = float(number)
        known = {hyper(item.name): table[:, place] for place, item in enumerate(graph.hypers)}
        if own & set(counts):
            held = self._counted.double().cpu().numpy()
            known |= {node: held[:, place] + (node.op == "step") for place, node in enumerate(counts)}
        found = evaluate_scalars(nodes, {}, known)
        return np.stack([np.broadcast_to(value, len(table)) for value in found], axis=1).astype(np.float64)

    def _count(self, name: str) -> Node:
        return step() if name == "t" else read(name, Rank.HOST)

    def scalars(self, nodes: Sequence[Node]) -> torch.Tensor:
        """Return the values of nodes below element rank on the device."""
        known = {hyper(item.name): self._there[1][:, place] for place, item in enumerate(self.plan.graph.hypers)}
        known |= self._sizes
        for place, name in enumerate(host_columns(self.plan)):
            node = self._count(name)
            known[node] = self._counted[:, place].double() + (node.op == "step")
        ranks = self.plan.graph.ranks
        known |= {read(name, ranks[name]): torch.stack([one.double() for one in own])
                  for name, own in self._numbers.items()}  # fmt: skip
        sizes = self._tables[2][:, TENSOR.index("size")]
        columns = tensor_columns(self.program)
        for place, node in enumerate(self.plan.reductions):
            total = self.total[place] if node.kind == "global" else self._tables[8][:, place]
            finish = node.reducer.finish
            taken = (total, self._tables[2][:, columns.index(counted(node))])[: OPS[finish].arity] if finish else ()
            known[node] = spelling(finish)(*taken) if finish else total
        return scalars_there(nodes, known, sizes)
