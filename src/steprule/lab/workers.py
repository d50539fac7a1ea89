"""Worker processes: one run at a time each, one compute thread each.

A pool of our own because the standard one treats a dead worker as the end of everything, and here it is one
failed run. Processes are spawned, not forked: OpenMP does not survive a fork.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Self

import torch

import steprule as sr
from steprule.lab.runs import RunResult, failure
from steprule.lab.training import train

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
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
    except Exception as error:  # noqa: BLE001 - any failure belongs in the results, beside the other runs
        return RunResult(spec, "failed", failure(error))


def serve(connection: Connection) -> None:
    """Do the runs that come through the connection until it closes, or the parent has gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    with contextlib.suppress(EOFError, OSError):
        while True:
            connection.send(attempt(connection.recv()))


@dataclass(frozen=True)
class Died:
    """A run's end without a result."""

    reason: str


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


class WorkerPool:
    """A number of workers, started at once and kept until the `with` block ends."""

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

    @property
    def idle(self) -> int:
        """How many workers have no run."""
        return sum(worker.spec is None for worker in self._workers)

    def begin(self, spec: RunSpec) -> None:
        """Give a run to an idle worker. If the worker is dead, `ended` reports it."""
        worker = next(worker for worker in self._workers if worker.spec is None)
        worker.spec = spec
        with contextlib.suppress(OSError):
            worker.connection.send(spec)

    def ended(self, seconds: float) -> Iterator[tuple[RunSpec, RunResult | Died]]:
        """Wait at most that many seconds, and yield every ended run with its result, or its worker's death."""
        busy = [worker for worker in self._workers if worker.spec]
        ready = wait([worker.connection for worker in busy], seconds) if busy else time.sleep(seconds) or []
        for worker in busy:
            if worker.connection in ready and worker.spec is not None:
                spec, worker.spec = worker.spec, None
                yield spec, self._collect(worker)

    def _collect(self, worker: _Worker) -> RunResult | Died:
        """Take a worker's result, or its death for one; a dead worker is replaced."""
        try:
            return worker.connection.recv()
        except (EOFError, OSError):
            worker.process.join()
        worker.connection.close()
        self._workers[self._workers.index(worker)] = _start()
        return Died(f"the worker process ended with exit code {worker.process.exitcode}")
