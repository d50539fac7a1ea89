"""One case from start to finish: enough memory, the arms that take part and agree, then the timing."""

from __future__ import annotations

import gc
import math
import time
from dataclasses import dataclass, field

from steprule.bench import arms, machine
from steprule.bench.arms import (
    COMPENSATED,
    COMPILERS,
    COPY,
    FOREACH,
    FUSED_GRAPHED,
    FUSED_WIDE,
    GRAPHED,
    LOOP,
    OPTAX,
    OURS,
    REDUCED,
    ROOFLINE,
    STOCHASTIC_WIDE,
    WIDE,
    Conditions,
)
from steprule.bench.bars import LeastRatio, measured
from steprule.bench.cases import ALL, GPU, Case
from steprule.bench.gpu import Gpu, first_line
from steprule.bench.limits import OutOfTime, limit
from steprule.bench.load import MachineLoad, watch
from steprule.bench.measure import FEWEST, PAUSE, Arm, Effort, EventArm, Spread, interleave, paired, spread
from steprule.bench.rehearsal import Rehearsal
from steprule.bench.roofline import traffic
from steprule.bench.rules import RULES
from steprule.bench.stage import SETS, Stage, pool, threads
from steprule.bench.training import NOTHING
from steprule.bench.truth import Trial

ROTATED, ROTATED_ON_GPU = 2, 4
"""How many times the last-level cache all working sets together are at least."""

COMPILING = 60.0
"""Seconds that an arm may compile for on a GPU, whose time is dear."""

SPARE = 2**30
"""Bytes that are left free."""


@dataclass(frozen=True)
class BenchOptions:
    """The command line's settings for every case."""

    threads: int
    rounds: int | None = None
    quick: bool = False
    device: str = "cpu"
    scale: str = "full"
    gpu: Gpu = field(default_factory=Gpu)


@dataclass(frozen=True)
class Outcome:
    """The result of one arm: its time, or a reason why it was skipped. Times are seconds a step.

    `host` is how long the host took to return from a step, which on a GPU goes on behind it.
    """

    times: Spread | None = None
    ratio: Spread | None = None
    inner: int = 0
    deviation: float | None = None
    skipped: str | None = None
    wrong: bool = False
    failed: bool = False
    host: Spread | None = None


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
    left_out: bool = False
    """Whether there was no time for it, so that a run that goes on does it."""
    lost: str = ""
    """Why the GPU answers no more, if so."""
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


def copies(case: Case, slots: int, cache: int | None) -> int:
    """Return how many working sets to rotate, so that none is in the cache when its turn comes again."""
    if not case.workload.memory_bound:
        return 1
    touched = case.precision.bytes * case.workload.parameters * (2 + slots)
    times = ROTATED_ON_GPU if case.threads == GPU else ROTATED
    return math.ceil(times * (cache or machine.ASSUMED_CACHE) / touched)


def need(case: Case, names: list[str], slots: int, count: int) -> int:
    """Return about how many bytes a case takes: shared parameters and gradients, and each arm's own."""
    width, sets, state = case.precision.bytes, SETS[case.gradients], 4 * slots
    temporary = {FOREACH: 2, LOOP: 2, OPTAX: 3, COPY: slots + 4, GRAPHED: 1, FUSED_GRAPHED: 1, REDUCED: 2}
    wide = {WIDE: state, STOCHASTIC_WIDE: state, COMPENSATED: state + 2, FUSED_WIDE: state + 4 * (1 + sets)}
    own = sum(wide.get(name, width * (slots + temporary.get(name, 0))) for name in names)
    return case.workload.parameters * count * (width * (1 + sets) + own)


def _refusal(wanted: int, free: int | None) -> str | None:
    if free is None or wanted + SPARE <= free:
        return None
    return f"it needs {(wanted + SPARE) / 2**30:.0f} GiB, and {free / 2**30:.0f} GiB are free"


# The case ---------------------------------------------------------------------------------------------


class LostError(Exception):
    """The GPU answers no more: nothing that comes after can be timed."""


def _failure(error: BaseException) -> str:
    return f"it failed: {first_line(error)}"


class _Run:
    """One case under way: its arms, the trial that each has to pass, and what came of them."""

    def __init__(self, result: Result, conditions: Conditions, options: BenchOptions) -> None:
        self.result, self.case, self._conditions, self._options = result, result.case, conditions, options
        self._on_gpu = result.case.threads == GPU

    def compare(self, wanted: list[str]) -> None:
        """Build and check the arms, then time them in turns."""
        result, options = self.result, self._options
        self._stage = stage = Stage(self.case, result.copies, options.gpu)
        self._trial = Trial(stage.rule, self.case.clip, stage.checked_on, self.case.precision)
        ready: list[Arm] = []
        for name in wanted:
            arm, result.arms[name] = self._join(name)
            ready += [arm] if arm is not None else []
        if result.arms[OURS].wrong:
            result.skipped = f"steprule, {result.arms[OURS].skipped}"
            return
        effort = Effort(self.case.seconds, options.rounds, 3 if options.quick else FEWEST)
        end = watch(result.threads)
        times = interleave(ready, effort, pause=PAUSE if result.threads > 1 else 0.0, fell=self._fell)
        result.load, result.bars = end(_waited(ready)), measured(self.case, times)
        for arm in ready:
            if arm.name in times:
                ratio, off = paired(times[arm.name], times[OURS]), result.arms[arm.name].deviation
                host = spread(arm.host)
                result.arms[arm.name] = Outcome(spread(times[arm.name]), ratio, arm.inner, off, host=host)

    def _join(self, name: str) -> tuple[Arm | None, Outcome]:
        """Build an arm and check it. A peer's failure becomes a reason to skip it, and stops no other arm."""
        if reason := arms.missing(name, self._conditions):
            return None, Outcome(skipped=reason)
        over = None
        try:
            with limit(COMPILING if self._on_gpu and name in COMPILERS else None) as over:
                arm, off = self._made(name)
        except OutOfTime as error:
            if error is not over:
                raise
            return None, Outcome(skipped=f"left out: it compiled for more than {COMPILING:.0f} s")
        except Exception as error:  # noqa: BLE001 - a peer may raise anything
            return None, self._failed(name, error)
        if off is not None and not off <= self._trial.tolerance:
            told = f"refused: it computes something else, off by {off:.1e}"
            return None, Outcome(deviation=off, skipped=told, wrong=True)
        return arm, Outcome(deviation=off)

    def _made(self, name: str) -> tuple[Arm, float | None]:
        arm = self._stage.arm(name)
        off = None if name in {ROOFLINE, COPY, NOTHING} else self._stage.trial(name, arm, self._trial)
        if name in COMPILERS:
            arm.first()  # within its limit
        return arm, off

    def _fell(self, arm: Arm, error: Exception) -> None:
        self.result.arms[arm.name] = self._failed(arm.name, error)
        arm.feeds.clear()  # and with them its memory

    def _failed(self, name: str, error: Exception) -> Outcome:
        """Return what became of an arm that failed. Without ours there is no case, and without the GPU nothing."""
        lost = self._options.gpu.lost() if self._on_gpu else None
        if lost:
            raise LostError(f"{name} failed with {first_line(error)}, and the GPU answers no more ({lost})") from error
        if name == OURS:
            raise error
        return Outcome(skipped=_failure(error), failed=True)


def conduct(case: Case, options: BenchOptions) -> Result:
    """Do one case; one for which there is no memory, or on which we are wrong or fail, is refused with the reason."""
    count = options.threads if case.threads == ALL else 1
    result = Result(case, count, 0)
    began = time.monotonic()
    try:
        _conduct(result, options)
    except LostError as error:
        result.skipped, result.failed, result.lost = str(error), True, str(error)
    except Exception as error:  # noqa: BLE001 - compilers raise plain exceptions, and one case ends no run
        result.skipped, result.failed = _failure(error), True
    result.seconds = time.monotonic() - began
    if not result.lost:
        arms.forget()
    gc.collect()
    if case.threads == GPU and not result.lost:
        options.gpu.sweep()
    return result


def _conduct(result: Result, options: BenchOptions) -> None:
    case, on_gpu = result.case, result.case.threads == GPU
    where = options.gpu.place if on_gpu else case.device
    rule = RULES[case.rule]
    passes = arms.passes(rule, case.clip, case.precision)
    slots = len(passes[-1]["writes"]) - 1
    result.bytes_per_parameter = traffic(passes)
    result.copies = copies(case, slots, options.gpu.cache() if on_gpu else machine.last_level_cache())
    conditions = Conditions(
        rule,
        case.clip,
        case.workload,
        result.threads,
        machine.cores(),
        options.quick,
        case.device,
        result.copies,
        isinstance(options.gpu, Rehearsal),
    )
    wanted = [name for name in case.arms if arms.applies(name, rule, case.clip)] + ([NOTHING] if case.model else [])
    able = [name for name in wanted if arms.missing(name, conditions) is None]
    pool.clear((case.workload, SETS[case.gradients], result.copies, where, case.precision))
    free = options.gpu.available() if on_gpu else machine.available()
    result.skipped = _refusal(need(case, able, slots, result.copies), free)
    if result.skipped is None:
        with threads(result.threads):
            _Run(result, conditions, options).compare(wanted)


def _waited(ready: list[Arm]) -> float:
    """Return the share of their time in which arms waited for a core, without arms that wait for other processes."""
    working = [arm for arm in ready if arm.name != OPTAX and not isinstance(arm, EventArm)]
    passed = sum(arm.passed for arm in working)
    return 1 - sum(arm.worked for arm in working) / passed if passed else 0.0
