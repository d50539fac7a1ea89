import os
from dataclasses import dataclass

import pytest

from steprule.lab.budget import Budget
from steprule.lab.methods import Method
from steprule.lab.runs import RunSpec
from steprule.lab.tasks import TaskSpec
from steprule.lab.workers import WorkerPool, attempt

pytestmark = pytest.mark.cpu


@dataclass(frozen=True)
class Deadly(Method):
    """Takes its process down, as a segmentation fault would."""

    def optimizer(self, parameters, lr):
        os._exit(9)


@dataclass(frozen=True)
class Broken(Method):
    def optimizer(self, parameters, lr):
        raise ValueError("no such thing")


def spec(method, seed=0):
    return RunSpec(TaskSpec(hidden=(4,)), method, 0.1, seed, Budget(None, 2))


def test_an_exception_is_a_failed_run():
    result = attempt(spec(Broken("sgd")))
    assert (result.status, result.reason) == ("failed", "ValueError: no such thing")


def test_a_dead_worker_is_told_and_the_others_are_done():
    specs = [spec(Deadly("sgd")), spec(Method("sgd"), 1), spec(Method("sgd"), 2)]
    ended = {}
    with WorkerPool(1) as pool:
        for each in specs:
            pool.begin(each)
            while not pool.idle:
                ended.update(pool.ended(1.0))
        processes = [worker.process for worker in pool._workers]
    assert "exit code 9" in ended[specs[0]].reason
    assert [ended[each].status for each in specs[1:]] == ["finished", "finished"]
    assert not any(process.is_alive() for process in processes)
