"""Run a kernel on parts of its chunks in several threads of this process.

Plain Python threads around kernels that release the interpreter lock: no threading layer, so nothing
here can abort on concurrent use, change torch's own thread count, or hang in a forked child (a child
finds no pool under its own process number and makes one when it needs it).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise

_lock = threading.Lock()
_pools: dict[int, tuple[int, ThreadPoolExecutor]] = {}


def _forget_pool() -> None:
    """Leave the parent's threads behind in a forked child; its lock may have been held."""
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()
    _pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def _pool(helpers: int) -> ThreadPoolExecutor:
    with _lock:
        size, pool = _pools.get(os.getpid(), (0, None))
        if pool is None or size < helpers:
            pool = ThreadPoolExecutor(helpers, thread_name_prefix="steprule")
            _pools[os.getpid()] = (helpers, pool)
        return pool


def _finish(futures: list[Future[None]]) -> None:
    """Wait for every part, even when interrupted: a kernel that has begun must be let end."""
    interrupt: KeyboardInterrupt | None = None
    for future in futures:
        while True:
            try:
                future.result()
                break
            except KeyboardInterrupt as error:
                interrupt = error
    if interrupt is not None:
        raise interrupt


def parallel(work: Callable[[int, int], None], bounds: list[int]) -> None:
    """Call `work(lo, hi)` for every neighbouring pair of bounds, the first here, the others in threads."""
    parts = list(pairwise(bounds))
    futures: list[Future[None]] = []
    try:
        pool = _pool(len(parts) - 1)
        futures = [pool.submit(work, lo, hi) for lo, hi in parts[1:]]
    except RuntimeError:  # the interpreter is shutting down: no new threads, so do the rest here
        for lo, hi in parts[1 + len(futures) :]:
            work(lo, hi)
    try:
        work(*parts[0])
    finally:
        _finish(futures)
