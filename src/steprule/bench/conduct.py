"""One case from start to finish: enough memory, the arms that take part and agree, then the timing."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from steprule.bench import arms, gpu, machine
from steprule.bench.arms import (
    COMPENSATED,
    COPY,
    FOREACH,
    FUSED_WIDE,
    LOOP,
    OPTAX,
    OURS,
    ROOFLINE,
    STOCHASTIC_WIDE,
    WIDE,
    Conditions,
)
from steprule.bench.bars import LeastRatio, measured
from steprule.bench.cases import ALL, BACKWARD, FRESH, GPU, SAME, SWAPPED, Case
from steprule.bench.load import MachineLoad, watch
from steprule.bench.measure import FEWEST, PAUSE, Arm, Effort, EventArm, Feed, Spread, interleave, paired, spread
from steprule.bench.precision import FLOAT32, Precision
from steprule.bench.roofline import traffic
from steprule.bench.rules import RULES
from steprule.bench.training import NOTHING, training_unit
from steprule.bench.truth import Trial
from steprule.bench.units import Tensors, Unit
from steprule.bench.workloads import Workload

SETS = {SAME: 4, FRESH: 8, SWAPPED: 2, BACKWARD: 0}
SPARE = 2**30
"""Bytes that are left free."""


@dataclass(frozen=True)
class BenchOptions:
    """The command line's settings for every case."""

    threads: int
    rounds: int | None = None
    quick: bool = False
    device: str = "cpu"


@dataclass(frozen=True)
class Outcome:
    """The result of one arm: its time, or a reason why it was skipped. Times are seconds a step."""

    times: Spread | None = None
    ratio: Spread | None = None
    inner: int = 0
    deviation: float | None = None
    skipped: str | None = None
    wrong: bool = False


@dataclass
class Result:
    """The result of one case."""

    case: Case
    threads: int
    bytes_per_parameter: int
    copies: int = 1
    arms: dict[str, Outcome] = field(default_factory=dict[str, Outcome])
    skipped: str | None = None
    failed: bool = False
    seconds: float = 0.0
    load: MachineLoad | None = None
    bars: dict[LeastRatio, Spread] = field(default_factory=dict[LeastRatio, Spread])

    def median(self, name: str) -> float | None:
        """Return an arm's seconds a step, if it was timed."""
        outcome = self.arms.get(name)
        return outcome.times.median if outcome and outcome.times else None

    @property
    def wrong(self) -> list[str]:
        """The errors of this case: arms that computed something else, or a failure of the case."""
        found = [f"{name}: {outcome.skipped}" for name, outcome in self.arms.items() if outcome.wrong]
        return [*found, *([self.skipped or ""] if self.failed else [])]


# Memory -----------------------------------------------------------------------------------------------


def copies(case: Case, slots: int) -> int:
    """Return how many working sets to rotate, so that none is in the cache when its turn comes again."""
    if not case.workload.memory_bound:
        return 1
    cache = (gpu.cache() if case.threads == GPU else machine.last_level_cache()) or machine.ASSUMED_CACHE
    touched = case.precision.bytes * case.workload.parameters * (2 + slots)
    return math.ceil(2 * cache / touched)


def need(case: Case, names: list[str], slots: int, count: int) -> int:
    """Return about how many bytes a case takes: shared parameters and gradients, and each arm's own."""
    width, sets, state = case.precision.bytes, SETS[case.gradients], 4 * slots
    temporary = {FOREACH: 2, LOOP: 2, OPTAX: 3, COPY: slots + 4}
    wide = {WIDE: state, STOCHASTIC_WIDE: state, COMPENSATED: state + 2, FUSED_WIDE: state + 4 * (1 + sets)}
    own = sum(wide.get(name, width * (slots + temporary.get(name, 0))) for name in names)
    return case.workload.parameters * count * (width * (1 + sets) + own)


def _refusal(case: Case, names: list[str], slots: int, count: int) -> str | None:
    wanted = need(case, names, slots, count) + SPARE
    free = gpu.available() if case.threads == GPU else machine.available()
    if free is None or wanted <= free:
        return None
    return f"it needs {wanted / 2**30:.0f} GiB, and {free / 2**30:.0f} GiB are free"


# Arms -------------------------------------------------------------------------------------------------


@contextmanager
def threads(count: int) -> Generator[None]:
    """Let torch, and ours with it, use a number of threads within."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class TensorPool:
    """Keeps the large tensors of a case for the next one on the same shapes: they take seconds to make."""

    def __init__(self) -> None:
        self._key: Any = None
        self._held: list[Tensors] = []

    def clear(self, key: Any = None) -> None:
        """Drop the held tensors, unless the next case needs them."""
        if self._key is None or self._key != key:
            self._key, self._held = None, []

    def get(
        self, workload: Workload, sets: int, count: int, device: str = "cpu", precision: Precision = FLOAT32
    ) -> list[Tensors]:
        """Return tensors for arms to share, with fresh numbers if an arm left some that no training has."""
        key = workload, sets, count, device, precision
        self.clear(key if all(map(_usual, self._held)) else None)
        if not self._held:
            self._key, self._held = key, [Tensors(workload, 1.0, sets, device, precision) for _ in range(count)]
        return self._held


def _usual(tensors: Tensors) -> bool:
    """Whether no size is near overflow, or so small that products underflow: both would be timed differently."""
    largest = [float(tensor.detach().norm(float("inf"))) for group in tensors.everything() for tensor in group]
    return all(1e-9 < size < 1e9 for size in largest)


pool = TensorPool()


class Stage:
    """The tensors and arms of one case; in a large one they share parameters and gradients, but never state."""

    def __init__(self, case: Case, count: int) -> None:
        self.case, self._count = case, count
        self.rule = RULES[case.rule]
        self._sets = SETS[case.gradients]
        large = case.workload.memory_bound
        self._shared = pool.get(case.workload, self._sets, count, case.device, case.precision) if large else []

    def _fresh(self, workload: Workload, sets: int) -> Tensors:
        return Tensors(workload, self.rule.start, sets, self.case.device, self.case.precision)

    def arm(self, name: str) -> Arm:
        """Return an arm, ready to be timed."""
        case = self.case
        if case.model:
            return Arm(name, [Feed(training_unit(name, case.model, self.rule, case.clip))])
        feeds: list[Feed] = []
        for index in range(self._count):
            own = self._shared[index] if self._shared else self._fresh(case.workload, self._sets)
            unit = arms.build(name, self.rule, case.clip, own)
            feeds.append(Feed(unit, own.gradients, case.gradients))
        return (EventArm if case.threads == GPU else Arm)(name, feeds)

    def trial(self, name: str, made: Arm, trial: Trial) -> float:
        """Return the error of the timed arm itself if possible, else of one on thinned tensors."""
        return trial.of(made.feeds[0].unit if self.exact else self._thin(name))

    def _thin(self, name: str) -> Unit:
        return arms.build(name, self.rule, self.case.clip, self._fresh(self.checked_on, sets=0))

    @property
    def exact(self) -> bool:
        """Whether the very arms that are timed are checked."""
        return not (self.case.workload.memory_bound or self.case.model)

    @property
    def checked_on(self) -> Any:
        """The shapes on which the arms are checked."""
        return self.case.workload if self.exact else self.case.workload.thin()


def _failure(error: BaseException) -> str:
    told = (str(error).splitlines() or [""])[0]
    return f"it failed: {type(error).__name__}: {told[:200]}"


def _join(name: str, stage: Stage, trial: Trial, conditions: Conditions) -> tuple[Arm | None, Outcome]:
    """Build an arm and check it. A peer's failure becomes a reason to skip it, and stops no other arm."""
    reason = arms.missing(name, conditions)
    if reason:
        return None, Outcome(skipped=reason)
    if name in {ROOFLINE, COPY, NOTHING}:
        return stage.arm(name), Outcome()
    try:
        arm = stage.arm(name)
        off = stage.trial(name, arm, trial)
    except Exception as error:  # a peer may raise anything
        if name == OURS:
            raise
        return None, Outcome(skipped=_failure(error))
    if not off <= trial.tolerance:
        return None, Outcome(
            deviation=off, skipped=f"refused: it computes something else, off by {off:.1e}", wrong=True
        )
    return arm, Outcome(deviation=off)


# The case ---------------------------------------------------------------------------------------------


def conduct(case: Case, options: BenchOptions) -> Result:
    """Do one case; a case for which there is no memory, or on which we are wrong, is refused with the reason."""
    count = options.threads if case.threads == ALL else 1
    rule = RULES[case.rule]
    passes = arms.passes(rule, case.clip, case.precision)
    per_parameter, slots = traffic(passes), len(passes[-1]["writes"]) - 1
    result = Result(case, count, per_parameter, copies(case, slots))
    conditions = Conditions(rule, case.clip, case.workload, count, machine.cores(), options.quick, case.device)
    wanted = [name for name in case.arms if arms.applies(name, rule, case.clip)] + ([NOTHING] if case.model else [])
    able = [name for name in wanted if arms.missing(name, conditions) is None]
    pool.clear((case.workload, SETS[case.gradients], result.copies, case.device, case.precision))
    result.skipped = _refusal(case, able, slots, result.copies)
    began = time.monotonic()
    try:
        if result.skipped is None:
            with threads(count):
                _compare(result, wanted, conditions, options)
    except (MemoryError, RuntimeError) as error:
        result.skipped, result.failed = _failure(error), True
    result.seconds = time.monotonic() - began
    arms.forget()
    gc.collect()
    return result


def _compare(result: Result, wanted: list[str], conditions: Conditions, options: BenchOptions) -> None:
    case = result.case
    stage = Stage(case, result.copies)
    trial = Trial(stage.rule, case.clip, stage.checked_on, case.precision)
    ready: list[Arm] = []
    for name in wanted:
        arm, result.arms[name] = _join(name, stage, trial, conditions)
        ready += [arm] if arm is not None else []
    if result.arms[OURS].wrong:
        result.skipped = f"steprule, {result.arms[OURS].skipped}"
        return
    effort = Effort(case.seconds, options.rounds, 3 if options.quick else FEWEST)
    end = watch(result.threads)
    times = interleave(ready, effort, pause=PAUSE if result.threads > 1 else 0.0)
    result.load, result.bars = end(_waited(ready)), measured(case, times)
    for arm in ready:
        ratio = paired(times[arm.name], times[OURS])
        before = result.arms[arm.name]
        result.arms[arm.name] = Outcome(spread(times[arm.name]), ratio, arm.inner, before.deviation)


def _waited(ready: list[Arm]) -> float:
    """Return the share of their time in which arms waited for a core, without arms that wait for other processes."""
    working = [arm for arm in ready if arm.name != OPTAX and not isinstance(arm, EventArm)]
    passed = sum(arm.passed for arm in working)
    return 1 - sum(arm.worked for arm in working) / passed if passed else 0.0
