"""Medians, quartiles, ratios and rounds are what they are called."""

import gc
import json

import pytest

from steprule.bench import measure
from steprule.bench.cases import ALL, FRESH, Case
from steprule.bench.conduct import Outcome, Result
from steprule.bench.measure import Arm, Effort, Feed, interleave, paired, spread
from steprule.bench.record import Record, best_peer, losses, ratios, start_lines
from steprule.bench.workloads import many

pytestmark = pytest.mark.null


class Clock:
    """A clock that moves only when somebody works or sleeps."""

    def __init__(self, patch):
        self.now, self.slept = 0.0, 0
        patch.setattr(measure.time, "perf_counter", lambda: self.now)
        patch.setattr(measure.time, "monotonic", lambda: self.now)
        patch.setattr(measure.time, "sleep", self.sleep)

    def sleep(self, seconds):
        self.slept += 1
        self.now += seconds

    def arm(self, name, *seconds, log=None):
        todo = list(seconds)

        def step():
            if log is not None:
                log.append((name, gc.isenabled()))
            self.now += todo[0] if len(todo) == 1 else todo.pop(0)

        from steprule.bench.units import Unit

        return Arm(name, [Feed(Unit(step, []))])


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_median_and_quartiles_of_made_up_numbers():
    seen = spread([5.0, 1.0, 4.0, 2.0, 3.0])
    assert (seen.median, seen.low, seen.high, seen.count) == (3.0, 2.0, 4.0, 5)
    even = spread([1.0, 2.0, 3.0, 4.0])
    assert (even.median, even.low, even.high) == (2.5, 1.75, 3.25)
    one = spread([7.0])
    assert (one.median, one.low, one.high) == (7.0, 7.0, 7.0)


def test_ratios_are_taken_round_by_round():
    """A machine that becomes twice as slow for both changes no ratio."""
    seen = paired([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert (seen.median, seen.low, seen.high) == (2.0, 2.0, 2.0)


def test_a_round_is_as_many_steps_as_take_two_milliseconds(clock):
    quick, slow = clock.arm("quick", 1e-4), clock.arm("slow", 0.5)
    times = interleave([quick, slow], Effort(1.0, rounds=3), pause=0.0)
    assert (quick.inner, slow.inner) == (20, 1)
    assert times["quick"] == pytest.approx([1e-4] * 3)
    assert times["slow"] == pytest.approx([0.5] * 3)


def test_rounds_alternate_in_a_drawn_order_without_the_garbage_collector(clock):
    log = []
    arms = [clock.arm(name, 1.0, log=log) for name in "abc"]
    interleave(arms, Effort(1.0, rounds=8), pause=1e-3, seed=3)
    rounds = [tuple(name for name, _ in log[place : place + 3]) for place in range(6, len(log), 3)]
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert len(set(rounds)) > 1
    assert not any(enabled for _, enabled in log)
    assert gc.isenabled()
    assert clock.slept == 24


def test_rounds_fill_the_time_but_are_never_too_few_nor_too_many():
    effort = Effort(2.0)
    assert effort.count(0.1) == 20
    assert effort.count(10.0) == measure.FEWEST
    assert effort.count(1e-9) == measure.MOST
    assert Effort(2.0, rounds=7).count(10.0) == 7


def test_a_machine_that_becomes_slow_ends_the_rounds_early(clock):
    arm = clock.arm("arm", 0.1, 0.1, *[1.0] * 50)
    assert len(interleave([arm], Effort(1.0), pause=0.0)["arm"]) == measure.FEWEST


CASE = Case("small", "AdamW", "global norm", many(3, 64), ALL, FRESH, ("steprule", "torch loop", "torch fused"), 1.0)


def outcome(*values, own=None):
    return Outcome(spread(values), paired(values, own or values), 10, 1e-7)


def made_up():
    own = (2e-6, 4e-6, 3e-6)
    result = Result(CASE, threads=2, bytes_per_parameter=32)
    result.arms = {
        "steprule": outcome(*own),
        "torch loop": outcome(6e-6, 8e-6, 9e-6, own=own),
        "torch fused": outcome(0.3e-6, 0.6e-6, 0.6e-6, own=own),
        "torch foreach": outcome(1e-6, 2.4e-6, 2.7e-6, own=own),
        "roofline": outcome(1e-6, 1e-6, 1e-6, own=own),
        "optax": Outcome(skipped="not installed"),
    }
    record = Record("steprule bench", {"cpu": "made up"})
    record.results = [result]
    return json.loads(record.text())


def test_record_of_made_up_numbers():
    (case,) = made_up()["cases"]
    assert case["name"] == "AdamW + clip global norm, 3 x 64, all threads, fresh gradients"
    own = case["arms"]["steprule"]
    assert own["microseconds"] == {"median": 3.0, "p25": 2.5, "p75": 3.5}
    assert own["gigabytes_per_second"] == 2.048  # 3 x 64 parameters, 32 bytes each, in 3 µs
    assert "ratio" not in own
    assert case["arms"]["torch loop"]["ratio"] == {"median": 2.667, "p25": 2.5, "p75": 3.0}
    assert case["arms"]["optax"] == {"skipped": "not installed"}


def test_losses_are_told_and_floors_are_none():
    document = made_up()
    (case,) = document["cases"]
    assert ratios(case) == {"torch loop": 2.667, "torch fused": 0.2, "torch foreach": 0.8}
    assert best_peer(case) == "torch fused"
    assert losses(document) == [(case["name"], "torch fused", 0.2)]


def test_facts_of_fresh_processes_are_worded():
    told = start_lines(
        {
            "tensors": 60,
            "parameters": 5,
            "import_seconds": {"median": 0.25, "p25": 0.2, "p75": 0.3},
            "first_step_seconds": {"from nothing": 0.5, "from the cache": 0.01},
            "torch_compile_first_step_seconds": {"skipped": "no compiler"},
            "extra_bytes_per_parameter": {"steprule": 0.04, "torch foreach": 4.0},
            "kernels_compiled_by": {"another lr": 0},
        }
    )
    assert told[0] == "import steprule, after torch: 0.25 s"
    assert told[1] == "first step on 60 tensors, steprule: from nothing 0.5 s, from the cache 0.01 s"
    assert told[2].endswith("torch.compile: no compiler")
    assert told[-1] == "kernels compiled by another lr: 0"
