"""Run a kernel on parts of its chunks in several threads of this process.

torch's own threads do it where this version lends them (`torch_parallel_for`, part of its stable C interface): after
forward and backward they are awake, so that a loop costs 2 µs, and there are no more threads than the user has
allowed torch. They do not survive a fork. In a forked child, and with an older torch, plain Python threads around
kernels that release the interpreter lock do it, which have to be woken (about 40 µs). Neither is a threading layer
of Numba's, which may abort on concurrent use, change torch's thread count, or hang in a child.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

from ..locks import lock

Part = tuple[int, int]
Call = TypeVar("Call", bound=Callable[..., Any])


@cache
def torch_library() -> Any:
    """Return torch's library of CPU operations, already loaded; None where it is not found under its usual name."""
    folder = Path(torch.__file__).parent / "lib"
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib", "torch_cpu.dll"):
        try:
            return ctypes.CDLL(str(folder / name))
        except OSError:
            continue
    return None


def _find_loop() -> Callable[[int, int, int, int, int], int] | None:
    """Return torch's parallel loop: begin, end, fewest iterations a thread, function, its last argument."""
    loop: Any = getattr(torch_library(), "torch_parallel_for", None)
    if loop is not None:
        loop.argtypes = [ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p]
        loop.restype = ctypes.c_int
    return loop


_lock = lock()
_pools: dict[int, tuple[int, ThreadPoolExecutor]] = {}
_loops: list[Callable[[int, int, int, int, int], int]] = [loop for loop in [_find_loop()] if loop is not None]
"""torch's loop, if it may be used in this process."""
_forked = False


def _forget_threads() -> None:
    """Leave the parent's threads behind in a forked child."""
    global _forked  # noqa: PLW0603
    _forked = True
    _pools.clear()
    _loops.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


def alone(function: Call) -> Call:
    """Let a function's torch operations run in one thread in a forked child: torch would wait for the parent's."""

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        if not _forked:
            return function(*arguments, **options)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return function(*arguments, **options)
        finally:
            torch.set_num_threads(threads)

    return cast("Call", call)


def by() -> tuple[str, str]:
    """Return whose threads share large steps, `"torch"` or `"python"`, and why not torch's.

    Nothing is started. `explain` quotes it.
    """
    if _loops:
        return "torch", ""
    return "python", "torch's threads stay behind in a forked process" if _forked else (
        f"torch {torch.__version__} does not lend its threads (torch_parallel_for): 2.10 and later do"
    )


def cheap() -> bool:
    """Whether the threads that would be used are likely to be awake."""
    return bool(_loops)


def walk(kernel: Callable[[int, int, int], None], address: int | None, parts: int, where: int) -> None:
    """Call `kernel(lo, hi, where)`, whose machine code is at an address, until 0..parts is covered."""
    if parts == 1:
        kernel(0, 1, where)
    elif _loops and address is not None:
        _loops[0](0, parts, 1, address, where)
    else:
        parallel(lambda lo, hi: kernel(lo, hi, where), [(part, part + 1) for part in range(parts)])


def _pool(helpers: int) -> ThreadPoolExecutor:
    with _lock:
        size, pool = _pools.get(os.getpid(), (0, None))
        if pool is None or size < helpers:
            pool = ThreadPoolExecutor(helpers, thread_name_prefix="steprule")
            _pools[os.getpid()] = (helpers, pool)
        return pool


class _Job:
    """Parts of one sweep, each run by the one thread that claims it.

    Only the calling thread can be interrupted, at any moment; a claim is one operation that can be repeated, so
    after an interrupt it is still known which parts the others have and when they have ended.
    """

    def __init__(self, work: Callable[[int, int], None], parts: Sequence[Part]) -> None:
        self._work = work
        self._parts = parts
        self._owner: dict[Part, int] = {}
        self._ended: set[Part] = set()

    def help(self) -> None:
        """Run the parts that nobody has claimed."""
        me = threading.get_ident()
        for part in self._parts:
            if part not in self._owner and self._owner.setdefault(part, me) == me:
                self._work(*part)
                self._ended.add(part)

    def stop(self) -> None:
        """Let no part begin, and wait for those that have: their memory is in use."""
        me = threading.get_ident()
        for part in self._parts:
            while self._owner.setdefault(part, me) != me and part not in self._ended:
                time.sleep(1e-5)


def parallel(work: Callable[[int, int], None], parts: Sequence[Part]) -> None:
    """Call `work(lo, hi)` once for every part, in as many threads; interrupted, leave no thread at work."""
    job = _Job(work, parts)
    try:
        futures = []
        try:
            pool = _pool(len(parts) - 1)
            futures = [pool.submit(job.help) for _ in parts[1:]]
        except RuntimeError:  # the interpreter is shutting down: no new threads, so do it all here
            pass
        job.help()
        for future in futures:
            future.result()
    except BaseException:
        while True:
            try:
                job.stop()
                break
            except KeyboardInterrupt:
                continue
        raise
