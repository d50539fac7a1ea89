"""Parts of a sweep shared among threads: each is run once, and whoever stops a sweep waits for those that run."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from steprule.backends import threads
from steprule.backends.threads import _Job, parallel

pytestmark = pytest.mark.null
PATIENCE = 30


@pytest.mark.parametrize("count", [2, 7])
def test_every_part_is_run_once_by_whoever_claims_it(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_pools", {})
    done: list[tuple[int, int]] = []
    parts = [(i, i + 1) for i in range(count)]
    parallel(lambda lo, hi: done.append((lo, hi)), parts)
    assert sorted(done) == parts


def test_stopping_waits_for_a_part_that_runs_and_lets_no_other_begin() -> None:
    begun, release, stopped = threading.Event(), threading.Event(), threading.Event()
    done: list[int] = []

    def work(lo: int, _: int) -> None:
        done.append(lo)
        begun.set()
        assert release.wait(PATIENCE)

    job = _Job(work, [(0, 1), (1, 2), (2, 3)])
    helper = threading.Thread(target=job.help)
    stopper = threading.Thread(target=lambda: (job.stop(), stopped.set()))
    helper.start()
    assert begun.wait(PATIENCE)
    stopper.start()
    assert not stopped.wait(0.05), "its memory is in use"
    release.set()
    assert stopped.wait(PATIENCE)
    helper.join(PATIENCE)
    job.help()
    first = len(done)
    job.help()
    assert 1 <= first < 4
    assert len(done) == first == len(set(done))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_makes_threads_of_its_own() -> None:
    parts = [(i, i + 1) for i in range(3)]
    parallel(lambda lo, hi: None, parts)
    child = os.fork()
    if not child:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(PATIENCE)  # the parent's threads are not here: who waits for them waits for ever
        done: list[int] = []
        parallel(lambda lo, hi: done.append(lo), parts)
        os._exit(sorted(done) != [0, 1, 2])
    assert os.waitpid(child, 0)[1] == 0
