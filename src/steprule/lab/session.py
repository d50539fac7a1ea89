"""A comparison from start to finish: workers, progress, interruption, and the files it leaves."""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from steprule.console.files import write_atomically
from steprule.console.kept import keep, tell
from steprule.lab import tensorboard
from steprule.lab.checkpoint import FILES, Checkpoint
from steprule.lab.dispatch import Dispatcher
from steprule.lab.earlier import REPORT, make_room
from steprule.lab.protocol import report_specs
from steprule.lab.report.writing import texts, write
from steprule.lab.results import Provenance, as_text, document
from steprule.lab.runs import RunResult
from steprule.lab.training import evaluation_points, made_by
from steprule.lab.workers import WorkerPool, attempt

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from steprule.console.progress import Meter
    from steprule.lab.protocol import Comparison
    from steprule.lab.runs import Point, RunSpec
    from steprule.lab.store.trials import TrialStore

SAVE_EVERY = 5.0
"""Seconds between two writings of results.json while runs come in."""

SHARE = 0.75
"""The part of the time after which no further learning rate is tried: the rest is for the fresh seeds."""


@dataclass
class Session:
    """A comparison under way, and the folder of its results so far."""

    comparison: Comparison
    provenance: Provenance
    out: Path | None
    meter: Meter
    tensorboard: Path | None = None
    anew: bool = False
    """Whether this run resumes nothing in the folder."""
    _began: float = 0.0
    _saved: float = 0.0
    _roomy: bool = False
    """Whether the files of another study are out of the way."""

    def compare(self, store: TrialStore, seconds: float | None = None) -> None:
        """Do the comparison with worker processes, together with other processes on the same store.

        With `seconds` tuning ends in time for the report's runs, even where it is not done.
        """
        with self.until_interrupted(), WorkerPool(self.provenance.workers) as pool, self.meter:
            deadline = None if seconds is None else time.monotonic() + SHARE * seconds
            Dispatcher(self.comparison, store, pool, self.meter, self._save_sometimes, deadline).run()
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
        checkpoint = self._checkpoint(spec, resume=resume)
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
                if seen:
                    study.add([RunResult(spec, "interrupted", "ctrl-C", tuple(seen))])
                raise
            finally:
                if writer is not None:
                    writer.close(self.comparison.runs)

    def _checkpoint(self, spec: RunSpec, *, resume: bool) -> Checkpoint | None:
        """Return the run's checkpoint. A checkpoint that it does not resume belongs to another run."""
        if self.out is None:
            return None
        checkpoint = Checkpoint(self.out, made_by(spec))
        self.provenance = replace(self.provenance, study=checkpoint.study)
        if not (resume and checkpoint.is_there):
            self.anew, checkpoint.anew = True, self.make_room
        return checkpoint

    @property
    def gone_on_with(self) -> bool:
        """Whether this run has left a state from which it can go on."""
        return self.out is not None and (self._roomy or not self.anew) and (self.out / FILES[0]).exists()

    def make_room(self) -> None:
        """Keep the files of another study, or of an earlier run, before the first file of this one is written."""
        if self.out is None or self._roomy:
            return
        if self.anew:
            tell(keep(self.out, (*FILES, *REPORT)))
        else:
            make_room(self.out, REPORT, self.provenance.study)
        self._roomy = True

    def save(self) -> None:
        """Write results.json as things stand; an older file stays until there is a run to replace it with."""
        if self.out is None or not self.comparison.runs:
            return
        write_atomically(self.out / REPORT[0], as_text(self._document()), first=self.make_room)
        self._saved = time.monotonic()

    def save_if_possible(self) -> None:
        """Save on the way. A disk that is full now may have room later; at the end, the command reports it."""
        with suppress(OSError):
            self.save()

    def finish(self) -> tuple[dict[str, Any], OSError | None]:
        """Write every file. Return the document and an error, so that results are printed before the error."""
        made = self._document()
        try:
            if self.out is not None:
                write_atomically(self.out / REPORT[0], as_text(made), first=self.make_room)
                write(texts(made, self.out))
        except OSError as error:
            return made, error
        return made, None

    def _document(self) -> dict[str, Any]:
        self.provenance = replace(self.provenance, seconds=time.monotonic() - self._began)
        return document(self.comparison, self.provenance)

    @contextmanager
    def until_interrupted(self) -> Generator[None]:
        """Do the work within. Ctrl-C ends it early, and the results so far are written."""
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
