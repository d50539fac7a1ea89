"""Worker processes: one run at a time each, one compute thread each.

A pool of our own because the standard one treats a dead worker as the end of everything, and here it is one
failed run. Processes are spawned, not forked: OpenMP does not survive a fork.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections import deque
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Self

import torch

import steprule as sr
from steprule.lab.runs import RunResult, failure
from steprule.lab.training import train

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

    from steprule.lab.checkpoint import Checkpoint
    from steprule.lab.runs import Point, RunSpec

# Two spinning OpenMP threads on a busy core made the same run eighty times slower: processes share the work.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def attempt(
    spec: RunSpec, observe: Callable[[Point], None] | None = None, checkpoint: Checkpoint | None = None
) -> RunResult:
    """Do a run; an exception makes it a failed run, except that a checkpoint of another run is the caller's error."""
    try:
        return train(spec, observe, checkpoint)
    except sr.errors.StateError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever went wrong belongs in the results, beside the other runs
        return RunResult(spec, "failed", failure(error))


def serve(connection: Connection) -> None:
    """Do the runs that come through the connection until it closes, or whoever wants them is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    with contextlib.suppress(EOFError, OSError):
        while True:
            connection.send(attempt(connection.recv()))


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    spec: RunSpec | None = None


@contextlib.contextmanager
def _quiet_start() -> Generator[None]:
    """Let a child start with one compute thread, and deaf to ctrl-C.

    The terminal sends ctrl-C to every process of the group; the parent alone decides what it means. A blocked
    signal is inherited blocked, and waits for the parent until it is unblocked here, so none is lost.
    """
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update((name, "1") for name in _THREADS)
    masks = hasattr(signal, "pthread_sigmask")
    if masks:
        # Started by the first child otherwise, and its start unblocks the signal again.
        resource_tracker.ensure_running()
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if masks else set[int]()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        if masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, old)


def _start() -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs,), daemon=True, name="steprule-worker")
    with _quiet_start():
        process.start()
    # Our copy of the child's end must go, or its death would not be seen as an end of file.
    theirs.close()
    return _Worker(process, ours)


class Pool:
    """So many workers, started at once and kept until the `with` block ends."""

    def __init__(self, size: int) -> None:
        self._workers: list[_Worker] = []
        self._size = size

    def __enter__(self) -> Self:
        self._workers = [_start() for _ in range(self._size)]
        return self

    def __exit__(self, *exception: object) -> None:
        for worker in self._workers:
            worker.connection.close()
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join()

    def run(self, specs: Iterable[RunSpec]) -> Iterator[RunResult]:
        """Yield the result of every run, in the order in which they end."""
        waiting = deque(specs)
        while waiting or any(worker.spec for worker in self._workers):
            for worker in self._workers:
                if waiting and worker.spec is None:
                    yield from self._hand(worker, waiting.popleft())
            busy = [worker for worker in self._workers if worker.spec]
            if not busy:
                continue
            ready = wait([worker.connection for worker in busy])
            for worker in busy:
                if worker.connection in ready:
                    yield self._collect(worker)

    def _hand(self, worker: _Worker, spec: RunSpec) -> Iterator[RunResult]:
        """Give a run to an idle worker; a worker found dead makes it a failed run."""
        worker.spec = spec
        try:
            worker.connection.send(spec)
        except OSError:
            yield self._bury(worker)

    def _collect(self, worker: _Worker) -> RunResult:
        """Take a worker's result, or its death for one."""
        try:
            result: RunResult = worker.connection.recv()
        except (EOFError, OSError):
            return self._bury(worker)
        worker.spec = None
        return result

    def _bury(self, worker: _Worker) -> RunResult:
        """Replace a dead worker, and report the run that it had."""
        worker.process.join()
        code, spec = worker.process.exitcode, worker.spec
        worker.connection.close()
        self._workers[self._workers.index(worker)] = _start()
        if spec is None:
            raise AssertionError("only a worker with a run is watched")
        return RunResult(spec, "failed", f"the worker process ended with exit code {code}")
