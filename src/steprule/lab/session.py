"""A comparison from start to finish: workers, progress, interruption, and the files it leaves."""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from steprule.lab import tensorboard
from steprule.lab.checkpoint import Checkpoint
from steprule.lab.files import write_atomically
from steprule.lab.passes import accumulate, evaluate
from steprule.lab.protocol import conduct, report_specs
from steprule.lab.report.writing import write
from steprule.lab.results import Setting, as_text, document
from steprule.lab.runs import RunResult
from steprule.lab.training import POINTS, evaluation_points, made_by
from steprule.lab.workers import Pool, attempt

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator
    from pathlib import Path

    from steprule.lab.progress import Meter
    from steprule.lab.protocol import Plan, Study
    from steprule.lab.runs import Point, RunSpec

SAVE_EVERY = 5.0
"""Seconds between two writings of results.json while runs come in."""

STARTUP = 4.0
"""Seconds until the workers have imported torch; only the estimate uses it."""


@dataclass
class Session:
    """A study being conducted, and the folder that holds what is done so far."""

    study: Study
    setting: Setting
    out: Path | None
    meter: Meter
    tensorboard: Path | None = None
    _began: float = 0.0
    _saved: float = 0.0

    def conduct(self) -> None:
        """Do the study with worker processes."""
        with self.until_interrupted(), Pool(self.setting.workers) as pool, self.meter:
            conduct(self.study, lambda specs: self._watched(pool, specs))
        if self.tensorboard is not None:
            tensorboard.write(self.tensorboard, self.study.runs)

    def train(self, *, resume: bool = False) -> None:
        """Do the study's one run in this process; with a folder it keeps checkpoints there, and may go on from one."""
        plan = self.study.plan
        (spec,) = report_specs(self.study)
        seen: list[Point] = []
        checkpoint = Checkpoint(self.out, made_by(spec)) if self.out is not None else None
        if checkpoint is not None and not resume:
            checkpoint.remove()

        writer = tensorboard.Writer(self.tensorboard, spec) if self.tensorboard is not None else None

        def observe(point: Point) -> None:
            seen.append(point)
            self.meter.advance()
            if writer is not None:
                writer.point(point)

        with self.until_interrupted(), self.meter:
            self.meter.phase(spec.method.label, len(evaluation_points(spec, len(plan.task.build().data.train))))
            try:
                self.study.add([attempt(spec, observe, checkpoint)])
            except KeyboardInterrupt:
                self.study.add([RunResult(spec, "interrupted", "ctrl-C", tuple(seen))])
                raise
            finally:
                if writer is not None:
                    writer.close(self.study.runs)

    def save(self) -> None:
        """Write results.json as things stand; an older file stays until there is a run to replace it with."""
        self.setting = replace(self.setting, seconds=time.monotonic() - self._began)
        if self.out is None or not self.study.runs:
            return
        write_atomically(self.out / "results.json", as_text(document(self.study, self.setting)))
        self._saved = time.monotonic()

    def save_if_possible(self) -> None:
        """Save on the way: a disk that is full now may have room later, and at the end somebody is told."""
        with suppress(OSError):
            self.save()

    def finish(self) -> OSError | None:
        """Write every file; return what prevented it, so that the results can be printed before it is told."""
        try:
            self.save()
            self.write_report()
        except OSError as error:
            return error
        return None

    def write_report(self) -> None:
        """Write the page and the tables beside the results."""
        if self.out is not None:
            write(document(self.study, self.setting), self.out)

    @contextmanager
    def until_interrupted(self) -> Generator[None]:
        """Do the work within; ctrl-C ends it early, and what is done is written."""
        self._began = self._saved = time.monotonic()
        try:
            yield
            self.study.complete = True
        except KeyboardInterrupt:
            self.study.interrupted = True
        self.save_if_possible()

    def _watched(self, pool: Pool, specs: Iterable[RunSpec]) -> Iterator[RunResult]:
        """Pass results on; move the meter and save now and then."""
        batch = list(specs)
        plan = self.study.plan
        tuning = bool(batch) and batch[0].phase == "tuning"
        to_come = len(plan.methods) * len(plan.report_seeds) if tuning else 0
        name = "learning rates" if tuning else "fresh seeds"
        self.meter.phase(name, len(self.study.runs) + len(batch) + to_come)
        for result in pool.run(batch):
            yield result
            self.meter.advance()
            if time.monotonic() - self._saved > SAVE_EVERY:
                self.save_if_possible()
        self.save_if_possible()


def now() -> str:
    """Return the time of day as the results record it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def estimate(plan: Plan, workers: int) -> float:
    """Return roughly how many seconds a plan takes, from timed batches; the optimiser's share is a guess."""
    task = plan.task.build()
    train = task.data.train
    model = task.model(0)
    batch = train.inputs[: plan.budget.batch_size], train.labels[: plan.budget.batch_size]

    def seconds(work: object, *arguments: object) -> float:
        times: list[float] = []
        for _ in range(5):
            before = time.perf_counter()
            work(*arguments)  # type: ignore[operator]
            times.append(time.perf_counter() - before)
        return min(times)

    small = 1.6 * seconds(accumulate, model, task, *batch)
    full = seconds(accumulate, model, task, train.inputs, train.labels)
    look = POINTS * seconds(evaluate, model, task, task.data.validation)
    runs = plan.runs / len(plan.methods)
    size = len(train)
    per_method = (
        plan.budget.count(size, full_batch=method.full_batch) * (full if method.full_batch else small) + look
        for method in plan.methods
    )
    return STARTUP + runs * sum(per_method) / workers
