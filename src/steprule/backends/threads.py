"""Run a kernel on parts of its chunks in several threads of this process.

Plain Python threads around kernels that release the interpreter lock: no threading layer, so nothing
here can abort on concurrent use, change torch's own thread count, or hang in a forked child (a child
finds no pool under its own process number and makes one when it needs it).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

Part = tuple[int, int]

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
