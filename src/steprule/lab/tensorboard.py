"""Runs for TensorBoard: scalars of every evaluation, and settings beside results."""

from __future__ import annotations

import math
import re
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import steprule as sr
from steprule.lab.optimizers import worded

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from steprule.lab.runs import Point, RunResult, RunSpec

TAGS = {
    "training_loss": "loss/training",
    "validation_loss": "loss/validation",
    "score": "score/validation",
    "lr": "learning rate",
    "gradient_norm": "diagnostics/gradient norm",
    "clip_coefficient": "diagnostics/clip coefficient",
    "update_ratio": "diagnostics/update to parameter",
    "epoch": "progress/epoch",
    "examples": "progress/examples",
    "seconds": "progress/seconds of training",
}
"""Under which name TensorBoard shows each value of a point."""


def check() -> None:
    """Refuse a missing package, before any work."""
    _writer_class()


def _writer_class() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of TensorBoard's own dependencies
            from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise sr.errors.StepruleError(
            f"TensorBoard is not installed ({error})",
            where="--tensorboard",
            fix="pip install 'steprule[tensorboard]'",
        ) from error
    return SummaryWriter


class Writer:
    """Writes one run as it goes on; an older account of the same run is hidden by it."""

    def __init__(self, folder: Path, spec: RunSpec) -> None:
        self._spec = spec
        self._writer = _writer_class()(str(folder / _name(spec)), purge_step=0)

    def point(self, point: Point) -> None:
        """Write the measurements of one evaluation."""
        for key, value in asdict(point).items():
            if key in TAGS and value is not None and math.isfinite(value):
                self._writer.add_scalar(TAGS[key], value, point.iteration)
        self._writer.flush()

    def close(self, results: Sequence[RunResult]) -> None:
        """Write the settings and the result, if the run has one."""
        for result in results:
            self._sum_up(result)
        self._writer.close()

    def _sum_up(self, result: RunResult) -> None:
        spec = self._spec
        found = {"final training loss": result.final_loss}
        found |= {"test loss": result.test_loss, "test score": result.test_score}
        numbers = {name: value for name, value in found.items() if value is not None and math.isfinite(value)}
        settings = {key: worded(value) for key, value in spec.method.hyper}
        told = {"optimizer": spec.method.name, "schedule": spec.method.schedule, "lr": spec.lr, "seed": spec.seed}
        told |= {"task": spec.task.name, "phase": spec.phase, "status": result.status}
        told |= {clip.name: clip.bound for clip in spec.method.clips}
        told |= {key: value for key, value in asdict(spec.budget).items() if value is not None}
        self._writer.add_hparams(told | settings, numbers, run_name=".")


def write(folder: Path, results: Iterable[RunResult]) -> None:
    """Write runs that have ended."""
    for result in results:
        writer = Writer(folder, result.spec)
        for point in result.curve:
            writer.point(point)
        writer.close([result])


def _name(spec: RunSpec) -> str:
    """Return a folder of the run's own: task, method, phase, learning rate and seed."""
    parts = (spec.task.name, spec.method.key, f"{spec.phase} lr {spec.lr:g} seed {spec.seed}")
    return "/".join(re.sub(r"[^\w.=,+-]+", "_", part).strip("._") or "_" for part in parts)
