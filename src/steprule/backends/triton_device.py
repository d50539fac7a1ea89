"""The device under a batch of Triton kernels: all that a batch asks of it, or does there, goes through one object.

`Cuda` is a GPU. `MainMemory` is where Triton's interpreter runs kernels as Python: nothing is captured, and all has
happened when a call returns. Tests have a third one, which counts, and waits to be told that time passes.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import BackendError

_torch: Any = getattr(torch, "_C")  # noqa: B009
Options = Mapping[str, Any]
"""How Triton compiles a kernel."""


class Now(NamedTuple):
    """What is true of a device throughout one step; it is asked once."""

    stream: int
    """The stream that is launched on."""
    capturing: bool
    """Whether what is launched becomes part of a CUDA graph."""
    away: bool = False
    """Whether the thread's current device is another one."""
    hooks: tuple[Any, Any] | None = None
    """What Triton is to call before and after each launch: profilers."""


Launch = Callable[[Now], None]
"""Launches one kernel, with the arguments that it always has."""


class Device(ABC):
    """Memory, the way to it, and launches; nothing here waits."""

    why_slow = ""
    """Why launches cost more than they could, or ""."""

    def __init__(self, where: torch.device) -> None:
        self.where = where

    @abstractmethod
    def now(self) -> Now:
        """Ask what is true of this step."""

    @abstractmethod
    def empty(self, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        """Make a table there."""

    @abstractmethod
    def pinned(self, words: int) -> torch.Tensor:
        """Make a piece of main memory, of 64-bit words, that the device reads when a copy's turn comes."""

    @abstractmethod
    def event(self) -> Any:
        """Make an event; `query` tells whether it has happened since it was last recorded."""

    @abstractmethod
    def record(self, event: Any) -> None:
        """Let an event happen when all that was launched before has been done."""

    @abstractmethod
    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Copy in the stream's order."""

    @abstractmethod
    def keep(self, tables: Sequence[torch.Tensor]) -> None:
        """Keep tables until the current stream has used them, even if they are freed before."""

    @abstractmethod
    def prepare(self, function: Any, programs: int, arguments: Sequence[Any], options: Options) -> Launch:
        """Compile a kernel for arguments that stay what and where they are, and return how it is launched."""

    def zeros(self, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        """Make a table of zeros there."""
        table = self.empty(*shape, dtype=dtype)
        self.zero(table)
        return table

    def zero(self, table: torch.Tensor) -> None:
        """Fill with zeros in the stream's order."""
        table.zero_()

    def table(self, values: NDArray[np.int64]) -> torch.Tensor:
        """Make a table there that holds these words."""
        piece = self.pinned(values.size)
        piece.numpy()[...] = values.ravel()
        table = self.empty(*values.shape, dtype=torch.int64)
        self.copy(table, piece.view(values.shape))
        return table


class MainMemory(Device):
    """Main memory, under Triton's interpreter."""

    _now = Now(stream=0, capturing=False)

    def now(self) -> Now:
        """Answer that there is one stream, and no capture."""
        return self._now

    def empty(self, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        """Make a table."""
        return torch.empty(shape, dtype=dtype, device="cpu")

    def pinned(self, words: int) -> torch.Tensor:
        """Make a piece of memory like any other."""
        return torch.empty(words, dtype=torch.int64, device="cpu")

    def event(self) -> Any:
        """Return one that has always happened."""
        return _Happened()

    def record(self, event: Any) -> None:
        """Do nothing: all has happened."""

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Copy at once."""
        target.copy_(source)

    def keep(self, tables: Sequence[torch.Tensor]) -> None:
        """Do nothing: what was launched is done."""

    def prepare(self, function: Any, programs: int, arguments: Sequence[Any], options: Options) -> Launch:
        """Return how the interpreter runs a kernel."""

        def launch(now: Now) -> None:  # noqa: ARG001
            # The interpreter's arithmetic is NumPy's, which would warn where machine code does not.
            with np.errstate(all="ignore"):
                function[programs,](*arguments, **options)

        return launch


class _Happened:
    def query(self) -> bool:
        return True


class Cuda(Device):
    """One of NVIDIA's GPUs."""

    def __init__(self, where: torch.device) -> None:
        super().__init__(where)  # a tensor's device has an index
        self._index, self._knobs = where.index, import_module("triton").knobs.runtime
        # Torch's own functions around these cost more than they do.
        names = ("_cuda_getDevice", "_cuda_getCurrentRawStream", "_cuda_isCurrentStreamCapturing")
        self._current, self._stream, self._captures = (getattr(_torch, name) for name in names)

    def now(self) -> Now:
        """Ask torch, and Triton whether anyone listens."""
        enter, leave = self._knobs.launch_enter_hook, self._knobs.launch_exit_hook
        # Triton's own hooks are lists of what to call.
        heard = getattr(enter, "calls", enter) or getattr(leave, "calls", leave)
        hooks = (enter, leave) if heard else None
        if self._current() == self._index:
            return Now(self._stream(self._index), self._captures(), hooks=hooks)
        with torch.cuda.device(self.where):
            return Now(self._stream(self._index), self._captures(), True, hooks)

    def empty(self, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        """Make a table on the GPU."""
        return torch.empty(shape, dtype=dtype, device=self.where)

    def pinned(self, words: int) -> torch.Tensor:
        """Make a piece of pinned memory."""
        return torch.empty(words, dtype=torch.int64, device="cpu", pin_memory=True)

    def event(self) -> Any:
        """Make one of torch's events, without a time."""
        return torch.cuda.Event()

    def record(self, event: Any) -> None:
        """Record an event on the current stream."""
        event.record(torch.cuda.current_stream(self.where))

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Copy, and do not wait."""
        target.copy_(source, non_blocking=True)

    def keep(self, tables: Sequence[torch.Tensor]) -> None:
        """Tell torch's allocator of the current stream."""
        stream = torch.cuda.current_stream(self.where)
        for table in tables:
            table.record_stream(stream)

    def prepare(self, function: Any, programs: int, arguments: Sequence[Any], options: Options) -> Launch:
        """Compile and load a kernel: what fails does so here, before any step is taken."""
        with torch.cuda.device(self.where):
            kernel = function.warmup(*arguments, grid=(programs,), **options)
            self.why_slow = slow_launch(kernel)
            if not self.why_slow:
                return direct(kernel, programs, arguments, self.where)

        def launch(now: Now) -> None:  # noqa: ARG001
            with torch.cuda.device(self.where):
                function[programs,](*arguments, **options)

        return launch


_LAST_CALL = ("gridX", "gridY", "gridZ", "stream", "function", "kernel_metadata", "launch_metadata",
              "launch_enter_hook", "launch_exit_hook", "args")  # fmt: skip


def slow_launch(kernel: Any) -> str:
    """Return why a compiled kernel is not launched directly, or "".

    Triton from 3.6 to 3.9 ends its dispatch by calling `kernel.run` as `direct` does.
    """
    try:
        names = [*inspect.signature(kernel.run).parameters]
        known = (kernel.function, kernel.packed_metadata, kernel.launch_metadata)
    except (AttributeError, TypeError, ValueError):
        names, known = [], ()
    if known and names[:5] == [*_LAST_CALL[:5]] and names[5:] in ([*_LAST_CALL[5:]], ["args"]):
        return ""
    return "this version of Triton launches kernels in another way than 3.6 to 3.9, and its dispatch takes longer"


def direct(kernel: Any, programs: int, arguments: Sequence[Any], where: torch.device) -> Launch:
    """Return how a compiled kernel is launched past Triton's dispatch, which looks at every argument each time.

    That is for arguments which stay: tensors are told by their addresses, and are held.
    """
    run, function, about = kernel.run, kernel.function, kernel.packed_metadata
    told = tuple(own.data_ptr() if isinstance(own, torch.Tensor) else own for own in arguments)

    def launch(now: Now) -> None:
        if now.hooks is None and not now.away:
            run(programs, 1, 1, now.stream, function, about, None, None, None, *told)
            return
        enter, leave = now.hooks or (None, None)
        with torch.cuda.device(where) if now.away else nullcontext():
            known = kernel.launch_metadata((programs, 1, 1), now.stream, *arguments) if enter or leave else None
            run(programs, 1, 1, now.stream, function, about, known, enter, leave, *told)

    return launch


DEVICES: dict[str, Callable[[torch.device], Device]] = {"cpu": MainMemory, "cuda": Cuda}
"""The devices by torch's name of their kind."""


def device_of(where: torch.device) -> Device:
    """Return what stands for a device of torch's."""
    return DEVICES[where.type](where)


# Tables that change ---------------------------------------------------------------------------------


class Piece(NamedTuple):
    """A piece of pinned memory, the same as an array, and an event that has happened when the device has read it."""

    memory: torch.Tensor
    words: NDArray[np.int64]
    read: Any


SPARE = 8
"""Pieces that are made ahead for CUDA graphs: a capture takes one for each different content, and makes none."""


class Upload:
    """A table on the device, and the way to it through pinned memory: one copy a step, none if nothing has changed.

    A piece is used again once it has been read. There are two, and more if the GPU falls behind: the host never waits.
    A CUDA graph sends again what it sent when it was captured. So its pieces stay as they are, and after a capture
    everything is always sent.
    """

    def __init__(self, device: Device, words: int, *, capturable: bool) -> None:
        self._device, self._capturable = device, capturable
        self.table = device.zeros(words, dtype=torch.int64)
        self._sent: bytes | None = None
        self._pieces: list[Piece] = []
        self._captured: list[Piece] = []
        self._spare: list[Piece] = []
        self._make_spare()

    def send(self, words: NDArray[np.int64], *, capturing: bool) -> bool:
        """Make the table hold these words; return whether anything had to be sent."""
        spelled = words.tobytes()
        if spelled == self._sent and not capturing and not self._captured:
            return False
        self._sent = None  # an interrupt may come before the copy, or after it
        if capturing:
            self._device.copy(self.table, self._for_good(words))
        else:
            self._make_spare()
            piece = self._next()
            piece.words[...] = words
            self._device.copy(self.table, piece.memory)
            self._device.record(piece.read)
            self._pieces.append(piece)  # only now: without its event it may not be used again
        self._sent = spelled
        return True

    def _piece(self) -> Piece:
        memory = self._device.pinned(len(self.table))
        return Piece(memory, memory.numpy(), self._device.event())

    def _make_spare(self) -> None:
        while self._capturable and len(self._spare) < SPARE:
            self._spare.append(self._piece())

    def _next(self) -> Piece:
        """Take a piece that the device has read, if there are two or more; else make one."""
        free = len(self._pieces) > 1 and self._pieces[0].read.query()
        return self._pieces.pop(0) if free else self._piece()

    def _for_good(self, words: NDArray[np.int64]) -> torch.Tensor:
        """Return memory with these words for a graph: that of an earlier step which sent the same, if there was one."""
        for piece in self._captured:
            if np.array_equal(piece.words, words):
                return piece.memory
        if not self._spare:
            raise BackendError(
                f"CUDA graphs capture more than {SPARE} steps that differ in gradients or hyperparameters",
                fix="take a step outside of a capture before the next one is captured, or keep what changes on the "
                "GPU: gradients that stay where they are, lr=torch.tensor(0.1, device='cuda')",
            )
        piece = self._spare.pop()
        piece.words[...] = words
        self._captured.append(piece)
        return piece.memory
