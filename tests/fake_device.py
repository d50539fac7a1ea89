"""A device for tests: main memory that counts what is asked of it, and where what is launched waits until it is let go.

    fake = FakeDevice()
    monkeypatch.setitem(triton_device.DEVICES, "cpu", lambda where: fake)

Parameters are in main memory and `backend="triton_gpu"`. As on a GPU, launches and copies happen later, in order, when
`work` is called or at once with `eager=True`; a piece of pinned memory is read then, and not before. `capture` gives a
graph, to which launches and copies go instead, and during which making memory is an error. `replay` does them again.

`SilentGpu` is `Cuda` itself, all of its Python, above calls that do nothing: for what the host does, not for results.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from steprule.backends.triton_device import Cuda, Launch, MainMemory, Now, Options, direct

Action = tuple[str, Callable[[], None]]
"""What it is called, and what it does."""


class FakeDevice(MainMemory):
    """Main memory as if it were a GPU. `counted` says how often each thing was asked."""

    def __init__(self, *, eager: bool = True, runs: bool = True) -> None:
        super().__init__(torch.device("cpu"))
        self.counted: Counter[str] = Counter()
        self.eager, self.runs = eager, runs
        self.stream = 1
        self.waiting: list[Action] = []
        """Launched, and not yet done."""
        self.launched: list[str] = []
        """Names of kernels, in order; those that a graph takes too."""
        self.graph: list[Action] | None = None
        """What is being captured, if anything is."""
        self.kept: list[tuple[int, int]] = []
        """Streams and tables that the allocator was told of."""
        self.before_launch: Callable[[str], None] = lambda name: None
        """Called with a kernel's name before it is launched, e.g. to interrupt or to fail."""

    def now(self) -> Now:
        self.counted["now"] += 1
        return Now(self.stream, self.graph is not None)

    def _make(self, what: str) -> None:
        assert self.graph is None, f"a capture makes {what}"
        self.counted[what] += 1

    def empty(self, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        self._make("empty")
        return torch.full(shape, torch.nan if dtype.is_floating_point else -1, dtype=dtype)

    def zeros(self, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        return self.empty(*shape, dtype=dtype).zero_()

    def pinned(self, words: int) -> torch.Tensor:
        self._make("pinned")
        return super().pinned(words)

    def event(self) -> FakeEvent:
        self._make("event")
        return FakeEvent()

    def record(self, event: FakeEvent) -> None:
        assert self.graph is None, "an event of a capture does not happen"
        event.happened = False
        self._do("event", event.happen)

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        self.counted["copy"] += 1
        self._do("copy", lambda: target.copy_(source))

    def zero(self, table: torch.Tensor) -> None:
        self.counted["zero"] += 1
        self._do("zero", table.zero_)

    def keep(self, tables: Sequence[torch.Tensor]) -> None:
        self.kept += [(self.stream, id(table)) for table in tables]

    def prepare(self, function: Any, programs: int, arguments: Sequence[Any], options: Options) -> Launch:
        self._make("kernel")
        run = super().prepare(function, programs, arguments, options)
        name = function.__name__

        def launch(now: Now) -> None:
            self.before_launch(name)
            assert now.capturing == (self.graph is not None), "a step asks once, and this is another one"
            self.launched.append(name)
            if self.runs:
                self._do(name, lambda: run(now))

        return launch

    # Time ----------------------------------------------------------------------------------------

    def _do(self, name: str, action: Callable[[], Any]) -> None:
        if self.graph is not None:
            self.graph.append((name, action))
        elif self.eager:
            action()
        else:
            self.waiting.append((name, action))

    def work(self, until: int | None = None) -> None:
        """Do what waits, or the first so many of it."""
        ready = self.waiting[:until]
        del self.waiting[:until]
        for _, action in ready:
            action()

    @contextmanager
    def capture(self) -> Generator[list[Action]]:
        """Let what is launched go to a graph."""
        assert self.graph is None
        self.graph = graph = []
        try:
            with _Recording(self, graph):
                yield graph
        finally:
            self.graph = None

    def replay(self, graph: list[Action]) -> None:
        """Launch what a graph has captured."""
        for name, action in graph:
            self._do(name, action)


class _Recording(TorchDispatchMode):
    """Takes what torch itself does during a capture to the graph, too; counts what makes a tensor, refuses to wait."""

    def __init__(self, device: FakeDevice, graph: list[Action]) -> None:
        super().__init__()
        self.device, self.graph = device, graph

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, schema = kwargs or {}, func._schema
        assert func is not torch.ops.aten._local_scalar_dense.default, "a capture waits for a number"
        if not schema.is_mutable:
            view = any(own.alias_info for own in schema.returns)
            self.device.counted["tensor"] += not view
            return func(*args, **kwargs)
        self.graph.append((str(func), lambda: func(*args, **kwargs)))
        return kwargs.get("out", args[0])


class FakeEvent:
    """An event that has happened when the device has come so far."""

    def __init__(self) -> None:
        self.happened = True

    def query(self) -> bool:
        return self.happened

    def happen(self) -> None:
        self.happened = True


class SilentGpu(Cuda):
    """A GPU that is asked, told and launched on by the code that does it for CUDA; what is called last does nothing."""

    REPLACED = (
        "cudaGetDevice, the current stream and whether it captures, as torch._C tells them: functions of Python",
        "Triton's launcher (kernel.run): a function that counts",
        "memory on the GPU, and pinned memory: main memory",
        "cudaMemcpyAsync: torch's copy within main memory",
        "events: objects that have happened",
    )
    """What the last calls are, and what is called instead."""

    def __init__(self) -> None:
        self.where, self._index = torch.device("cpu"), 0
        chain = import_module("triton").knobs.HookChain
        self.hooks: Any = SimpleNamespace(launch_enter_hook=chain(), launch_exit_hook=chain(reversed=True))
        self._knobs = self.hooks
        self._current, self._stream, self._captures = (lambda: 0), (lambda index: 7), (lambda: False)
        self.counted: Counter[str] = Counter()
        """Calls that make something, copy, or launch."""

    def empty(self, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        self.counted["made"] += 1
        return torch.zeros(shape, dtype=dtype)

    def pinned(self, words: int) -> torch.Tensor:
        self.counted["made"] += 1
        return torch.zeros(words, dtype=torch.int64)

    def event(self) -> FakeEvent:
        self.counted["made"] += 1
        return FakeEvent()

    def record(self, event: FakeEvent) -> None:
        pass

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        self.counted["copied"] += 1
        super().copy(target, source)

    def prepare(self, function: Any, programs: int, arguments: Sequence[Any], options: Options) -> Launch:
        self.counted["made"] += 1

        def run(*told: Any) -> None:
            self.counted["launched"] += 1

        return direct(SimpleNamespace(run=run, function=11, packed_metadata=(4, 1, 0)), programs, arguments, self.where)
