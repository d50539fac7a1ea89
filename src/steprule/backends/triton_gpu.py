"""The GPU backend: Triton kernels over tables that stay on the device, so that no step waits for the GPU.

Step counts, host slots and hyperparameters are there too: a kernel finds out by itself whether a step must be left
out (a gradient that is not finite, GradScaler's `found_inf`), and counts it if not. The host sends what has changed
through pinned memory, and never asks.

With TRITON_INTERPRET=1 the same kernels run in main memory, as Python: slow, and how they are tested without a GPU.
"""

from __future__ import annotations

import hashlib
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import BackendError
from ..locks import lock
from ..plan.program import Program
from .base import DTYPES, Arrays, Backend, Batch, Gradients, Kernel, Table, Where, addresses_of, chunks, tensor_table
from .cache import execute
from .triton_dialect import Build, TritonDialect, current_build, derived

_modules: dict[str, dict[str, Any]] = {}
_lock = lock()


# Where it runs ----------------------------------------------------------------------------------------


@cache
def missing() -> str:
    """Return why this process has no Triton, or ""."""
    try:
        from . import triton_helpers  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        return f"Triton cannot be imported ({error})"
    return ""


def interpreted() -> bool:
    """Whether kernels run through Triton's interpreter, in main memory."""
    if missing():
        return False
    from .triton_helpers import interpreted

    return interpreted


def capturing(device: torch.device) -> bool:
    """Whether what is launched now becomes part of a CUDA graph."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


# Kernels ----------------------------------------------------------------------------------------------


class TritonKernel(Kernel):
    """The kernels of a program."""

    dialect = TritonDialect

    def __init__(self, program: Program, *, capturable: bool = False, build: Build | None = None) -> None:
        self.build = build or current_build()
        super().__init__(program, capturable=capturable)
        self.captured: list[TritonBatch] = []
        """Batches that CUDA graphs point at: they live as long as the optimiser."""

    def _writer(self) -> TritonDialect:
        return TritonDialect(self.program, self.build)

    @property
    def functions(self) -> dict[str, Any]:
        """The kernels by name; Triton compiles each when it is first launched, and keeps machine code on disk."""
        name = hashlib.sha256(self.source.encode()).hexdigest()[:32]
        with _lock:
            if name not in _modules:
                _modules[name] = execute(self.source, name)
            return _modules[name]

    def table_of(self, counts: NDArray[Any], device: torch.device) -> torch.Tensor:
        """Return a table on the device, where kernels count."""
        if capturing(device):
            raise BackendError("what this step needs on the GPU is not there yet, and a CUDA graph is being captured",
                               fix="take a few steps before the capture, with the same parameters")  # fmt: skip
        return torch.zeros(counts.shape, dtype=torch.from_numpy(counts).dtype, device=device)

    def batch(self, arrays: Arrays, rows: Any, counts: torch.Tensor, where: Where | None = None) -> TritonBatch:  # noqa: ARG002
        """Bind tensors, each with a row of its own; the device keeps the counts."""
        return TritonBatch(self, arrays, counts, where)


class TritonGpu(Backend):
    """Kernels on a GPU, compiled by Triton; they count steps and leave them out by themselves."""

    name, kernel = "triton_gpu", TritonKernel
    decides = True

    def home(self, device: torch.device) -> bool:
        """Whether a device is not main memory."""
        return device.type != "cpu"

    def obstacle(self, device: torch.device, dtype: torch.dtype) -> str:
        """Return why there are no kernels for such parameters, or ""."""
        if device.type not in {"cuda", "cpu"}:
            return f"parameters are on {device.type}, for which there are no kernels"
        if dtype not in DTYPES:
            return f"parameters are {dtype}; GPU kernels are {', '.join(DTYPES.values())}"
        if missing():
            return missing()
        if device.type == "cpu":
            return "" if interpreted() else "Triton kernels run on a GPU, and parameters are in main memory"
        if interpreted():
            return "TRITON_INTERPRET=1 runs Triton kernels in main memory, and parameters are on a GPU"
        if torch.version.hip:
            return "Triton kernels have not been tried on AMD's GPUs"
        oldest = (8, 0) if dtype is torch.bfloat16 else (7, 0)
        found = torch.cuda.get_device_capability(device)
        return f"the GPU is of compute capability {found}, and {oldest} is needed" if found < oldest else ""

    def reason(self, device: torch.device) -> str:
        """Word what is run."""
        if device.type == "cpu":
            return "asked for; Triton's interpreter runs GPU kernels in main memory, slowly"
        return "parameters on a GPU run Triton kernels, one launch a pass for all tensors of a dtype"

    def remedy(self) -> str:
        """Return what brings Triton, if it is not there."""
        return "pip install 'steprule[gpu]', or leave backend=None" if missing() else super().remedy()


class Upload:
    """A table on the device, and the way to it: pinned memory, of which a piece is used again once it has been read.

    There are two pieces, and more if the GPU falls behind: the host never waits. What is as it was is not sent. A
    CUDA graph sends again what it sent when it was captured, so after a capture everything is always sent.
    """

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        self.table = torch.zeros(shape, dtype=dtype, device=device)
        self._sent = b""
        self._pieces: list[tuple[torch.Tensor, torch.cuda.Event]] = []
        self._captured: list[torch.Tensor] = []

    def send(self, values: NDArray[Any]) -> bool:
        """Make the table hold these values; return whether anything had to be sent."""
        spelled = values.tobytes()
        device = self.table.device
        frozen = capturing(device)
        if spelled == self._sent and not frozen and not self._captured:
            return False
        if device.type == "cpu":
            self.table.copy_(torch.from_numpy(values))
        elif frozen:
            self._captured.append(self._pinned())
            self._copy(self._captured[-1], values)
        else:
            piece, read = self._piece()
            self._copy(piece, values)
            read.record(torch.cuda.current_stream(device))
        self._sent = spelled
        return True

    def _pinned(self) -> torch.Tensor:
        return torch.empty(self.table.shape, dtype=self.table.dtype, device="cpu", pin_memory=True)

    def _copy(self, piece: torch.Tensor, values: NDArray[Any]) -> None:
        piece.numpy()[...] = values
        self.table.copy_(piece, non_blocking=True)

    def _piece(self) -> tuple[torch.Tensor, torch.cuda.Event]:
        """Return a piece that the device has read, if there are two or more; else a new one."""
        if len(self._pieces) > 1 and self._pieces[0][1].query():
            self._pieces.append(self._pieces.pop(0))
        else:
            self._pieces.append((self._pinned(), torch.cuda.Event()))
        return self._pieces[-1]


@contextmanager
def uninterrupted() -> Generator[None]:
    """Hold Ctrl-C back for a few launches: after an interrupt it would be unknown which had happened."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is None:
        yield  # other threads are not interrupted, and a handler that is not Python's is left alone
        return
    pending: list[Any] = []
    signal.signal(signal.SIGINT, lambda *told: pending.append(told))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if pending:
            signal.raise_signal(signal.SIGINT)


class TritonBatch(Batch):
    """Dense tensors on one GPU, laid out as one program says; a row of hyperparameters and counts a tensor.

    `counts` is a table of the state's own step counts and host slots, as `host_columns` lists them.
    """

    def __init__(self, kernel: TritonKernel, arrays: Arrays, counts: torch.Tensor, where: Where | None = None) -> None:
        self.program = kernel.program
        self.plan = plan = kernel.program.plan
        self._kernel = kernel
        self._functions, build = kernel.functions, kernel.build
        names = [name for name in self.program.tensors if name != plan.graph.gradient]
        parameters = arrays[plan.graph.parameter]
        self._device = device = parameters[0].device
        self._held = [arrays[name] for name in names]  # what is pointed at must not be freed
        pointers = np.array([[tensor.data_ptr() for tensor in own] for own in self._held], dtype=np.int64).T
        self._dense = not bool((pointers % 16).any())
        self._gradients: Gradients = ()
        sizes = [tensor.numel() for tensor in parameters]
        pieces = chunks(sizes, build.chunk) if any(sizes) else np.zeros((1, 3), dtype=np.int64)
        self._counts = (len(sizes), len(pieces))
        self._gradient_table = Upload((len(sizes),), torch.int64, device)
        self._hyper = Upload((len(sizes), len(plan.graph.hypers)), torch.float64, device)
        self.total = torch.zeros(len(plan.reductions), dtype=torch.float64, device=device)
        self.found = torch.zeros(1, dtype=torch.float32, device=device)
        """Above 0, this step is left out."""
        self._tables = (
            self._table(pointers),
            self._gradient_table.table,
            self._table(tensor_table(sizes, range(len(sizes)), build.chunk, where)),
            self._table(pieces),
            self._hyper.table,
            counts,
            self._scratch(len(sizes), len(derived(self.program))),
            self._scratch(len(pieces), len(plan.reductions)),
            self._scratch(len(sizes), len(plan.reductions)),
            self.total,
            self.found,
        )
        self._streams: list[Any] = [self._stream()]
        self._begun = self._ended = self._may_leave_out = False
        self.set_gradients(arrays[plan.graph.gradient])

    def _table(self, values: NDArray[np.int64]) -> torch.Tensor:
        own = Upload(values.shape, torch.int64, self._device)
        own.send(np.ascontiguousarray(values, dtype=np.int64))
        return own.table

    def _scratch(self, *shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.float64, device=self._device)

    def _stream(self) -> Any:
        return torch.cuda.current_stream(self._device) if self._device.type == "cuda" else None

    def set_gradients(self, gradients: Gradients) -> None:
        """Point at this step's gradients."""
        self._gradients = gradients
        self._addresses = np.array(addresses_of(gradients), dtype=np.int64)
        self._aligned = self._dense and not bool((self._addresses % 16).any())

    # The step ------------------------------------------------------------------------------------

    def begin(self, hyper: Table) -> None:
        """Send the changed tables, and compute the host scalars if they are needed at once."""
        self._prepare()
        self._begun = self._ended = False
        self._gradient_table.send(self._addresses)
        self._hyper.send(hyper[:, : self._hyper.table.shape[1]])  # the device counts by itself
        for rows, column, number in self.shares:
            self._hyper.table[rows, column].copy_(number.reshape(()))
        self._launch("begin", -(-self._counts[0] // self._kernel.build.rows))

    def leave_out_if(self, found: torch.Tensor | None) -> None:
        """Leave the next step out if this number, which may be on a device, is above 0."""
        if found is not None:
            self.found.copy_(found.reshape(1), non_blocking=True)
        elif self._may_leave_out or capturing(self._device):
            self.found.zero_()
        self._may_leave_out = found is not None or bool(self._kernel.captured)

    def _prepare(self) -> None:
        """Keep the tables alive for another stream, or a graph, that uses them."""
        if capturing(self._device):
            if not self._kernel.capturable:
                raise BackendError("this step is being captured in a CUDA graph", fix="pass capturable=True")
            if self not in self._kernel.captured:
                self._kernel.captured.append(self)
        elif (stream := self._stream()) not in self._streams:
            self._streams.append(stream)
            for table in self._tables:
                table.record_stream(stream)

    def _launch(self, name: str, programs: int) -> None:
        """Launch a kernel, if this plan has it, on the current stream of the tensors' device."""
        function = self._functions.get(name)
        if function is None:
            return
        # The interpreter's arithmetic is NumPy's, which would warn where machine code does not.
        with torch.cuda.device(self._device) if self._device.type == "cuda" else np.errstate(all="ignore"):
            function[programs,](*self._tables, *self._counts, ALIGNED=self._aligned, **self._kernel.build.options)

    def sweep(self, index: int) -> None:
        """Walk over memory once, and combine what the walk reduced.

        The last pass is not interrupted, because its progress could not be found out afterwards.
        """
        if index < len(self.plan.passes) - 1:
            self._walk(index)
            return
        with uninterrupted():
            self._begun = True
            self._walk(index)

    def _walk(self, index: int) -> None:
        self._launch(f"pass_{index}", self._counts[1])
        self._launch(f"end_{index}", self._counts[0])

    def end(self) -> None:
        """Write the slots of one number a tensor, after the last pass."""
        if self.plan.tensor_writes and not self._ended:
            with uninterrupted():
                self._ended = True
                self._launch("finish", self._counts[0])

    def refuses(self, index: int) -> bool:  # noqa: ARG002
        """Return False: kernels look at the guard themselves, and asking them would mean waiting."""
        return False

    def stopped(self) -> bool:
        """Whether the guard stopped the last step, and not `found`; this waits for the device."""
        guard = self.plan.guard
        total = 0.0 if guard is None else float(self.total[self.plan.reductions.index(guard)])
        return not np.isfinite(total) and float(self.found[0]) == 0.0

    def begun(self) -> bool:
        """Whether this step has begun to write."""
        return self._begun

    def finish(self) -> None:
        """Write, unless that is done. Combine reductions again, since totals may have been shared."""
        last = len(self.plan.passes) - 1
        if not self._begun:
            self.sweep(last)
        else:
            self._launch(f"end_{last}", self._counts[0])

    def clear(self) -> None:
        """Forget that this step has written, and its gradients, so that zero_grad frees them."""
        self._begun = self._ended = False
        self._gradients = ()
