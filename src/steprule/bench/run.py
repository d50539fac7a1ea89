"""A whole run as a list of pieces of work, each of which adds to the record when it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from steprule.bench import start
from steprule.bench.cases import FULL, QUICK, START, Case, Scale, cases
from steprule.bench.conduct import BenchOptions, conduct
from steprule.bench.record import Record


@dataclass(frozen=True)
class Work:
    """One piece of work, with its title."""

    name: str
    do: Callable[[], None]


def scale(*, quick: bool) -> Scale:
    """Return how large the cases are."""
    return QUICK if quick else FULL


def works(record: Record, suites: tuple[str, ...], options: BenchOptions) -> Iterator[Work]:
    """List the pieces of work of some suites."""
    size = scale(quick=options.quick)
    for case in cases(suites, size, options.device):
        yield Work(f"{case.suite}: {case.name}", lambda case=case: record.results.append(conduct(case, options)))
    if START in suites:
        facts = start.facts(size)
        for key, part in start.parts(size, quick=options.quick):
            yield Work(f"{START}: {key.replace('_', ' ')}", lambda key=key, part=part: _file(record, facts, key, part))


def _file(record: Record, facts: dict[str, object], key: str, part: Callable[[], object]) -> None:
    record.start = facts
    start.collect(facts, key, part)


def estimate(suites: tuple[str, ...], options: BenchOptions) -> float:
    """Return roughly how many seconds a run takes; set-up, checks and compilers are guessed."""
    size = scale(quick=options.quick)
    per_case = sum(_seconds(case, options) for case in cases(suites, size, options.device))
    return per_case + (start.seconds(size, quick=options.quick) if START in suites else 0.0)


def _seconds(case: Case, options: BenchOptions) -> float:
    """Guess one case: its time is bounded below by a few rounds of every arm."""
    arms = len(case.arms)
    rounds = 15 if options.rounds is None else options.rounds
    floor = 5e-9 * case.workload.parameters * arms * 5
    timed = max(case.seconds, floor) * (rounds / 15)
    made = 0.3 + 2e-8 * case.workload.parameters * arms / 4
    compiled = 40.0 if "torch.compile" in case.arms and not options.quick and case.workload.tensors <= 60 else 0.0
    return timed + made + compiled
