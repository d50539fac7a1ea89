"""A comparison from start to finish: workers, progress, interruption, and the files it leaves."""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from steprule.lab import tensorboard
from steprule.lab.checkpoint import Checkpoint
from steprule.lab.conducting import Conductor
from steprule.lab.files import write_atomically
from steprule.lab.protocol import report_specs
from steprule.lab.report.writing import write
from steprule.lab.results import Setting, as_text, document
from steprule.lab.runs import RunResult
from steprule.lab.training import evaluation_points, made_by
from steprule.lab.workers import Pool, attempt

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from steprule.lab.ledger import Ledger
    from steprule.lab.progress import Meter
    from steprule.lab.protocol import Comparison
    from steprule.lab.runs import Point

SAVE_EVERY = 5.0
"""Seconds between two writings of results.json while runs come in."""

SHARE = 0.75
"""The part of the time after which no further learning rate is tried: the rest is for the fresh seeds."""


@dataclass
class Session:
    """A comparison being conducted, and the folder that holds what is done so far."""

    comparison: Comparison
    setting: Setting
    out: Path | None
    meter: Meter
    tensorboard: Path | None = None
    _began: float = 0.0
    _saved: float = 0.0

    def conduct(self, ledger: Ledger, seconds: float | None = None) -> None:
        """Do the comparison with worker processes, together with whoever works on the same ledger.

        With `seconds` tuning ends in time for the report's runs, even where it is not done.
        """
        with self.until_interrupted(), Pool(self.setting.workers) as pool, self.meter:
            deadline = None if seconds is None else time.monotonic() + SHARE * seconds
            Conductor(self.comparison, ledger, pool, self.meter, self._save_sometimes, deadline).conduct()
        if self.tensorboard is not None:
            tensorboard.write(self.tensorboard, self.comparison.runs)

    def _save_sometimes(self) -> None:
        if time.monotonic() - self._saved > SAVE_EVERY:
            self.save_if_possible()

    def train(self, *, resume: bool = False) -> None:
        """Do the study's one run in this process; with a folder it keeps checkpoints there, and may go on from one."""
        (study,) = self.comparison.studies
        plan = study.plan
        (spec,) = report_specs(study)
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
            self.meter.phase(spec.method.key, len(evaluation_points(spec, len(plan.task.build().data.train))))
            try:
                study.add([attempt(spec, observe, checkpoint)])
            except KeyboardInterrupt:
                study.add([RunResult(spec, "interrupted", "ctrl-C", tuple(seen))])
                raise
            finally:
                if writer is not None:
                    writer.close(self.comparison.runs)

    def save(self) -> None:
        """Write results.json as things stand; an older file stays until there is a run to replace it with."""
        if self.out is None or not self.comparison.runs:
            return
        write_atomically(self.out / "results.json", as_text(self._document()))
        self._saved = time.monotonic()

    def save_if_possible(self) -> None:
        """Save on the way: a disk that is full now may have room later, and at the end somebody is told."""
        with suppress(OSError):
            self.save()

    def finish(self) -> tuple[dict[str, Any], OSError | None]:
        """Write every file; return the document, and what prevented it: results are printed before that is told."""
        made = self._document()
        try:
            if self.out is not None:
                write_atomically(self.out / "results.json", as_text(made))
                write(made, self.out)
        except OSError as error:
            return made, error
        return made, None

    def _document(self) -> dict[str, Any]:
        self.setting = replace(self.setting, seconds=time.monotonic() - self._began)
        return document(self.comparison, self.setting)

    @contextmanager
    def until_interrupted(self) -> Generator[None]:
        """Do the work within; ctrl-C ends it early, and what is done is written."""
        self._began = self._saved = time.monotonic()
        try:
            yield
            self.comparison.complete = True
        except KeyboardInterrupt:
            self.comparison.interrupted = True
        finally:
            self.save_if_possible()


def now() -> str:
    """Return the time of day as the results record it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
