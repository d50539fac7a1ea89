"""Interleaved timing: every round times each arm once, in an order drawn anew, so that all see the same machine.

A round of an arm is as many steps as take two milliseconds, each timed alone: what is done between them to give
fresh gradients is not counted, for any arm. Before its round an arm waits until the workers of the arm before it have
gone to sleep (torch's spin for milliseconds), and takes one step that is not counted if its steps are short.
"""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from steprule.bench.units import Gradients, Unit

ROUND = 2e-3
"""Seconds that a round of one arm takes at least."""

SHORT = 2e-2
"""An uncounted step precedes steps that take less."""

PAUSE = 4e-3
"""Seconds before a round, when there are several threads."""

FEWEST, MOST = 5, 41


@dataclass(frozen=True)
class Spread:
    """A median, its quartiles, and of how many values."""

    median: float
    low: float
    high: float
    count: int


def quantile(ordered: Sequence[float], part: float) -> float:
    """Return a quantile of sorted values, between neighbours where it falls between them."""
    place = part * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def spread(values: Sequence[float]) -> Spread:
    """Return the median and the quartiles."""
    ordered = sorted(values)
    return Spread(quantile(ordered, 0.5), quantile(ordered, 0.25), quantile(ordered, 0.75), len(ordered))


@dataclass
class Feed:
    """Gives a unit its gradients: before a round, or before each step. `sets` are the original ones."""

    unit: Unit
    sets: Sequence[Gradients] = ()
    mode: str = "backward"
    _prepared: list[Any] = field(default_factory=list[Any])

    def __post_init__(self) -> None:
        self.mode = "same" if self.unit.stays and self.sets else self.mode
        self._prepared = [self.unit.prepare(gradients) for gradients in self.sets]

    def begin(self, turn: int) -> None:
        """Prepare a round."""
        if self.mode == "swapped":
            self.unit.place(self._prepared[turn % len(self._prepared)])
        elif self.mode == "same":
            self.unit.refill(self._prepared[turn % len(self._prepared)])

    def before(self, index: int) -> None:
        """Prepare a step."""
        if self.mode == "fresh":
            self.unit.place(self._prepared[index % len(self._prepared)])


@dataclass
class Arm:
    """One competitor: its working sets, which its steps take in turn."""

    name: str
    feeds: list[Feed]
    inner: int = 1
    pace: float = 0.0
    taken: int = 0
    passed: float = 0.0
    """Seconds of rounds and of their preparation. The processor worked for `worked` of them."""
    worked: float = 0.0
    host: list[float] = field(default_factory=list[float])
    """Seconds, a number a counted round, after which a step had returned to the host."""
    returned: float = 0.0
    """The same, of the last round."""

    def round(self, count: int) -> float:
        """Take some steps, and return the seconds each took."""
        clock, spent = time.perf_counter, 0.0
        for _ in range(count):
            feed = self.feeds[self.taken % len(self.feeds)]
            feed.before(self.taken)
            self.taken += 1
            step = feed.unit.step
            start = clock()
            step()
            spent += clock() - start
        self.returned = spent / count
        return self.returned

    def first(self) -> None:
        """Take the steps which make state, compile and are recorded."""
        self.begin(0)
        self.round(sum(feed.unit.warm for feed in self.feeds))

    def warm_up(self) -> None:
        """Take the first steps, and settle how many steps are a round."""
        if not self.taken:
            self.first()
        self.begin(0)
        self.pace = self.round(1)
        if self.pace < ROUND:
            self.pace = min(self.round(5), self.round(5))
        self.inner = max(1, math.ceil(ROUND / self.pace))

    def begin(self, turn: int) -> None:
        """Prepare a round."""
        for feed in self.feeds:
            feed.begin(turn)

    def timed(self, turn: int) -> float:
        """Prepare a round and do it."""
        began, worked = time.perf_counter(), time.thread_time()
        self.begin(turn)
        if self.pace < SHORT:
            self.round(1)
        seconds = self.round(self.inner)
        self.host.append(self.returned)
        self.passed += time.perf_counter() - began
        self.worked += time.thread_time() - worked
        return seconds

    @property
    def takes(self) -> float:
        """About how many seconds a round takes."""
        return self.pace * (self.inner + (self.pace < SHORT))


class EventArm(Arm):
    """An arm on a GPU, timed there: from an event before a step to one behind it. The host waits once a round."""

    def __init__(self, name: str, feeds: list[Feed], event: Callable[[], Any]) -> None:
        super().__init__(name, feeds)
        self._event = event

    def round(self, count: int) -> float:
        """Take some steps, and return the seconds each took on the GPU, where it waited for the host included."""
        clock, spent = time.perf_counter, 0.0
        pairs = [(self._event(), self._event()) for _ in range(count)]
        for begin, end in pairs:
            feed = self.feeds[self.taken % len(self.feeds)]
            feed.before(self.taken)
            self.taken += 1
            step = feed.unit.step
            begin.record()
            start = clock()
            step()
            spent += clock() - start
            end.record()
        self.returned = spent / count
        pairs[-1][1].synchronize()
        return sum(begin.elapsed_time(end) for begin, end in pairs) / 1e3 / count


@contextmanager
def undisturbed() -> Generator[None]:
    """Keep the garbage collector out of the timing."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@dataclass(frozen=True)
class Effort:
    """The length of a measurement: a number of seconds, but a few rounds at least; or a fixed number of rounds."""

    seconds: float
    rounds: int | None = None
    fewest: int = FEWEST

    def count(self, one: float) -> int:
        """Return the number of rounds, from the seconds that one takes."""
        if self.rounds is not None:
            return self.rounds
        return max(self.fewest, min(MOST, round(self.seconds / max(one, 1e-6))))

    def spent(self, rounds: int, seconds: float) -> bool:
        """Whether to stop early: the machine has become so slow that the rounds take far more than planned."""
        return self.rounds is None and rounds >= self.fewest and seconds > 2 * self.seconds


Fallen = Callable[[Arm, Exception], None]
"""What is told of an arm that failed, and may raise."""


def _raise(_: Arm, error: Exception) -> None:
    raise error


def interleave(
    arms: Sequence[Arm], effort: Effort, *, pause: float, seed: int = 0, fell: Fallen = _raise
) -> dict[str, list[float]]:
    """Return seconds a step, a value a round, for every arm. One that fails is left out, and `fell` is told."""
    dice = random.Random(seed)  # noqa: S311
    times: dict[str, list[float]] = {arm.name: [] for arm in arms}
    order = list(arms)

    def attempt(arm: Arm, what: Callable[[], Any]) -> None:
        try:
            what()
        except Exception as error:  # noqa: BLE001 - a peer may raise anything
            order.remove(arm)
            del times[arm.name]
            fell(arm, error)

    with undisturbed():
        for arm in arms:
            attempt(arm, arm.warm_up)
        began = time.monotonic()
        for turn in range(effort.count(sum(pause + arm.takes for arm in order))):
            if effort.spent(turn, time.monotonic() - began):
                break
            dice.shuffle(order)
            for arm in tuple(order):
                time.sleep(pause)
                attempt(arm, lambda arm=arm, turn=turn: times[arm.name].append(arm.timed(turn + 1)))
    return times


def paired(peer: Sequence[float], own: Sequence[float]) -> Spread:
    """Return how the ratio of two arms spreads over the rounds that they share."""
    return spread([other / mine for other, mine in zip(peer, own, strict=True)])
