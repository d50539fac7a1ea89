"""A whole run as a list of pieces of work, each of which adds to the record when it is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from steprule.bench import start
from steprule.bench.arms import COMPILERS, MOST_COMPILED, OWN
from steprule.bench.cases import FULL, GPU, QUICK, RANKED, START, Case, Scale, cases, tiny
from steprule.bench.conduct import BenchOptions, Result, conduct
from steprule.bench.limits import OutOfTime, limit
from steprule.bench.record import Record
from steprule.bench.rehearsal import Rehearsal

SCALES = ("full", "quick", "gpu")


@dataclass(frozen=True)
class Work:
    """One piece of work: its title, about how many seconds it takes, and what leaves it out for want of time."""

    name: str
    seconds: float
    do: Callable[[], None]
    leave: Callable[[str], None]


@dataclass
class Allowance:
    """The seconds that a run may take in all, if they are bounded."""

    seconds: float | None
    began: float

    @property
    def left(self) -> float | None:
        """How many are left."""
        return None if self.seconds is None else self.seconds - (time.monotonic() - self.began)

    def take(self, work: Work) -> bool:
        """Do a piece of work if there is time, and cut it if it takes longer after all; return whether it is done."""
        left = self.left
        if left is not None and work.seconds > left:
            spare = f"{max(left, 0.0):.0f} of {self.seconds:.0f} s are left"
            work.leave(f"left out: it takes about {work.seconds:.0f} s, and {spare}")
            return False
        try:
            with limit(left):
                work.do()
        except OutOfTime:
            work.leave(f"left out: the {self.seconds:.0f} s were over in its midst")
            return False
        return True


def scale(options: BenchOptions) -> Scale:
    """Return how large the cases are."""
    found = {"quick": QUICK, "full": FULL, "gpu": RANKED}["quick" if options.quick else options.scale]
    return tiny(found) if isinstance(options.gpu, Rehearsal) else found


def works(record: Record, suites: tuple[str, ...], options: BenchOptions) -> Iterator[Work]:
    """List the pieces of work of some suites that an earlier run, which goes on here, has not done."""
    size = scale(options)
    done = {told["name"] for told in record.before}
    for case in cases(suites, size, options.device):
        if case.name not in done:
            yield _case(record, case, options)
    if START in suites:
        facts = start.facts(size)
        for key, part in start.parts(size, quick=options.quick):
            if start.has(record.start, key):
                continue
            yield Work(
                f"{START}: {key.replace('_', ' ')}",
                5.0,
                lambda key=key, part=part: _file(record, facts, key, part),
                lambda _: None,
            )


def _case(record: Record, case: Case, options: BenchOptions) -> Work:
    def leave(reason: str) -> None:
        if record.results and record.results[-1].case is case:
            return  # the end of time came when it was done
        record.results.append(Result(case, 1, 0, skipped=reason, left_out=True))

    return Work(
        f"{case.suite}: {case.name}",
        _seconds(case, options),
        lambda: record.results.append(conduct(case, options)),
        leave,
    )


def _file(record: Record, facts: dict[str, Any], key: str, part: Callable[[], object]) -> None:
    record.start = facts if record.start is None else record.start
    start.collect(record.start, key, part)


def estimate(suites: tuple[str, ...], options: BenchOptions) -> float:
    """Return roughly how many seconds a run takes; set-up, checks and compilers are guessed."""
    size = scale(options)
    per_case = sum(_seconds(case, options) for case in cases(suites, size, options.device))
    return per_case + (start.seconds(size, quick=options.quick) if START in suites else 0.0)


def _seconds(case: Case, options: BenchOptions) -> float:
    """Guess one case: its time is bounded below by a few rounds of every arm."""
    if case.threads == GPU:
        return _seconds_on_gpu(case, options)
    arms = len(case.arms)
    rounds = 15 if options.rounds is None else options.rounds
    floor = 5e-9 * case.workload.parameters * arms * 5
    timed = max(case.seconds, floor) * (rounds / 15)
    made = 0.3 + 2e-8 * case.workload.parameters * arms / 4
    compiled = 40.0 if "torch.compile" in case.arms and not options.quick and case.workload.tensors <= 60 else 0.0
    return timed + made + compiled


def _seconds_on_gpu(case: Case, options: BenchOptions) -> float:
    """Guess one case on a GPU, where Triton compiles for ours and inductor for torch's."""
    own = sum(name in OWN for name in case.arms)
    drawn = 1.5 if case.workload.memory_bound else 0.5
    compiling = 0.0
    if case.workload.tensors <= MOST_COMPILED and not options.quick:
        times = 2 if case.workload.memory_bound else 1  # once more on the shapes that are checked
        compiling = sum(name in COMPILERS for name in case.arms) * times * (5.0 + 0.3 * case.workload.tensors)
    timed = case.seconds if options.rounds is None else 2e-3 * len(case.arms) * options.rounds
    return drawn + 2.0 * own + 0.15 * len(case.arms) + timed + compiling
