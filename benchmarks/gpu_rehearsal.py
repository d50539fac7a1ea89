"""A GPU that is not there: what a script for one does, done in main memory, before there is a GPU to do it on.

python benchmarks/gpu_rehearsal.py -m MODULE ARGUMENTS...   # runs a module
python -m pytest -m gpu -p gpu_rehearsal                    # with this folder in PYTHONPATH: runs the tests of a GPU

Whoever asks for memory on the GPU is given main memory, Triton's interpreter runs the kernels, and torch.cuda is
played: events are the host's clock, streams are names, and a graph is a list of what to do. Every line is run; no time
means anything.
"""

from __future__ import annotations

import os
import runpy
import sys
import time
import warnings
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any, Self
from unittest import mock

os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is first imported

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

SAID = "a rehearsal in main memory: every line is run, and times mean nothing"
PROPERTIES = SimpleNamespace(name="no GPU, rehearsed in main memory", major=9, minor=0, multi_processor_count=1,
                             total_memory=2**34, L2_cache_size=2**16)  # fmt: skip


class Played:
    """What torch keeps of a GPU: the stream in use, the graph that is captured, and whether to tell of waits."""

    def __init__(self) -> None:
        self.stream: Any = Stream()
        self.graph: Graph | None = None
        self.tells: str | int = "default"
        self.said = False

    def told(self, mode: str | int) -> None:
        """Do as `torch.cuda.set_sync_debug_mode` does, with its warning."""
        if not self.said:
            self.said = True
            warnings.warn("Synchronization debug mode is a prototype feature (rehearsed)", UserWarning, stacklevel=2)
        self.tells = {0: "default", 1: "warn", 2: "error"}.get(mode, mode) if isinstance(mode, int) else mode

    def wait(self) -> None:
        """Tell that somebody waits, if that was asked for."""
        if self.tells == "error":
            raise RuntimeError("called a synchronizing CUDA operation")
        if self.tells == "warn":
            warnings.warn("called a synchronizing CUDA operation", UserWarning, stacklevel=2)

    @contextmanager
    def on(self, stream: Any) -> Generator[Any]:
        """Use another stream for a while."""
        before, self.stream = self.stream, stream or self.stream
        try:
            yield stream
        finally:
            self.stream = before

    @contextmanager
    def capturing(self, graph: Graph, **_: Any) -> Generator[None]:
        """Keep what would be done, and do not do it."""
        self.graph = graph
        try:
            yield
        finally:
            self.graph = None
            if not graph.work:
                warnings.warn("The CUDA Graph is empty. (rehearsed)", UserWarning, stacklevel=2)


class Stream:
    """A stream, on which everything has happened already."""

    def wait_stream(self, _: Any) -> None:
        """Do nothing, like all that waits here."""

    wait_event = wait_stream

    def synchronize(self) -> None:
        """Do nothing."""


class Event:
    """A mark on the host's clock."""

    def __init__(self, **_: Any) -> None:
        self.at = 0.0

    def record(self, _: Any = None) -> None:
        """Take the time."""
        self.at = time.perf_counter()

    def elapsed_time(self, end: Self) -> float:
        """Return milliseconds."""
        return 1e3 * (end.at - self.at)

    def query(self) -> bool:
        """Say that it has happened."""
        return True

    def synchronize(self) -> None:
        """Do nothing."""


class Graph:
    """A CUDA graph: the writes and launches of a capture, which `replay` does."""

    def __init__(self) -> None:
        self.work: list[Callable[[], Any]] = []

    def replay(self) -> None:
        """Do what was kept."""
        for one in self.work:
            one()


class Elsewhere(TorchFunctionMode):
    """Gives main memory to whoever asks for the GPU, and leaves writes to a graph that is captured."""

    def __init__(self, played: Played) -> None:
        super().__init__()
        self.played = played

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch with the CPU where the GPU is named."""
        name = getattr(function, "__name__", "")
        if name == "cuda":
            function, args = torch.Tensor.to, (args[0], "cpu")
        named = {key: _here(value) for key, value in (kwargs or {}).items() if key != "pin_memory"}
        if self.played.graph is None or not name.endswith("_") or name.endswith("__"):
            return function(*map(_here, args), **named)
        self.played.graph.work.append(partial(function, *args, **named))
        return args[0]


def _here(value: Any) -> Any:
    return "cpu" if isinstance(value, str | torch.device) and str(value).startswith("cuda") else value


def _launches(played: Played, stack: ExitStack) -> None:
    """Leave launches to a graph that is captured; Triton 3.6 reads numbers as NumPy 2.4 no longer lets it."""
    from triton.runtime import interpreter

    launch: Any = interpreter.GridExecutor.__call__
    words: Any = interpreter._patch_lang_tensor  # noqa: SLF001

    def launched(own: Any, *args: Any, **named: Any) -> None:
        if played.graph is not None:
            played.graph.work.append(partial(launched, own, *args, **named))
            return
        with np.errstate(all="ignore"):
            launch(own, *args, **named)

    def worded(tensor: Any, scope: Any) -> None:
        words(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda own: int(own.handle.data.squeeze()))

    stack.enter_context(mock.patch.object(interpreter.GridExecutor, "__call__", launched))
    stack.enter_context(mock.patch.object(interpreter, "_patch_lang_tensor", worded))


@contextmanager
def rehearsing() -> Generator[None]:
    """Play a GPU within."""
    from steprule.backends import BACKENDS
    from steprule.backends.triton_build import Build, building
    from steprule.backends.triton_device import DEVICES, MainMemory, Now

    played = Played()

    class Device(MainMemory):
        def now(self) -> Now:
            return Now(0, played.graph is not None)

    cuda: dict[str, Any] = {
        "is_available": lambda: True, "device_count": lambda: 1, "current_device": lambda: 0,
        "get_device_name": lambda *_: PROPERTIES.name, "get_device_capability": lambda *_: (9, 0),
        "get_device_properties": lambda *_: PROPERTIES, "mem_get_info": lambda *_: (2**34, 2**34),
        "memory_reserved": lambda *_: 0, "memory_allocated": lambda *_: 0, "empty_cache": lambda: None,
        "synchronize": lambda *_: played.wait(), "set_sync_debug_mode": played.told, "Event": Event, "Stream": Stream,
        "stream": played.on, "current_stream": lambda *_: played.stream, "CUDAGraph": Graph, "graph": played.capturing,
        "is_current_stream_capturing": lambda: played.graph is not None,
    }  # fmt: skip
    home = {"triton_gpu": True, "numba_cpu": False}
    with ExitStack() as stack:
        stack.enter_context(mock.patch.multiple(torch.cuda, **cuda))
        for name, own in home.items():
            stack.enter_context(mock.patch.object(BACKENDS[name], "home", lambda _, own=own: own))
        stack.enter_context(mock.patch.dict(DEVICES, {"cpu": Device}))
        stack.enter_context(building(Build(chunk=2**16, block=2048)))  # long chunks take less of Python's time
        _launches(played, stack)
        stack.enter_context(Elsewhere(played))
        yield


_kept = ExitStack()


def pytest_load_initial_conftests() -> None:
    """Play a GPU while tests are collected and run, to the end of the process."""
    _kept.enter_context(rehearsing())


def main() -> None:
    """Run a module of which the command line is the rest of ours."""
    del sys.argv[:2]
    print(SAID, flush=True)
    with rehearsing():
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
