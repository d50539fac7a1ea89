"""What is written down: every run with its curve, and all that is needed to repeat it."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import re
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import steprule as sr
from steprule.lab.protocol import SELECTION
from steprule.lab.runs import DIVERGENCE
from steprule.lab.statistics import INTERVAL, Summary, summarise, verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from steprule.lab.methods import Method
    from steprule.lab.protocol import Study
    from steprule.lab.runs import RunResult
    from steprule.lab.tasks import Task

SCHEMA = 1
"""The number of the layout of results.json; it grows when a key changes its meaning or goes."""


@dataclass(frozen=True)
class Row:
    """One method, the numbers it earned, and the library's account of it."""

    method: Method
    summary: Summary
    account: Any


@dataclass(frozen=True)
class Setting:
    """The circumstances of a study, for whoever wants to repeat it."""

    command: str
    workers: int
    started: str
    seconds: float = 0.0


def rows(study: Study) -> list[Row]:
    """Return one row a method, in the plan's order."""
    return [Row(method, summarise(study, method), method.explain()) for method in study.plan.methods]


def by_name(table: Sequence[Row]) -> dict[str, Summary]:
    """Return the numbers of each method under its name."""
    return {row.method.name: row.summary for row in table}


def versions() -> dict[str, str]:
    """Return the version of everything whose change could change a number."""
    found = {"steprule": sr.__version__, "python": platform.python_version()}
    for package in ("torch", "numba", "numpy", "scikit-learn", "scipy"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def hardware(workers: int) -> dict[str, Any]:
    """Return the machine as far as it decides the timings."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8") as table:
        model = next((line.split(":", 1)[1].strip() for line in table if line.startswith("model name")), model)
    return {
        "processor": model,
        "system": platform.platform(terse=True),
        "cores": os.cpu_count(),
        "workers": workers,
        "threads_per_worker": 1,
    }


def document(study: Study, setting: Setting) -> dict[str, Any]:
    """Return the whole of results.json."""
    plan, budget = study.plan, study.plan.budget
    task = plan.task.build()
    table = rows(study)
    return {
        "schema": SCHEMA,
        "task": task_facts(task) | {"hidden": list(plan.task.hidden or ())},
        "command": setting.command,
        "versions": versions(),
        "hardware": hardware(setting.workers),
        "started": setting.started,
        "seconds": round(setting.seconds, 1),
        "interrupted": study.interrupted,
        "complete": study.complete,
        "budget": {
            "epochs": budget.epochs,
            "iterations": budget.iterations,
            "batch_size": budget.batch_size,
            "final_full_batch": budget.final_full_batch,
        },
        "protocol": {
            "grid": list(study.grid),
            "trials_per_method": len(study.grid) * len(plan.tuning_seeds),
            "tuning_seeds": list(plan.tuning_seeds),
            "report_seeds": list(plan.report_seeds),
            "target_accuracy": plan.target,
            "selection": SELECTION,
            "divergence": DIVERGENCE,
            "interval": INTERVAL,
        },
        "verdict": verdict(by_name(table), higher=task.metric.higher),
        "optimizers": [_optimizer(study, row) for row in table],
    }


def task_facts(task: Task) -> dict[str, Any]:
    """Return what a task is, for programs."""
    data = task.data
    return {
        "name": task.name,
        "about": task.about,
        "network": task.network,
        "parameters": task.parameter_count(),
        "metric": asdict(task.metric),
        "target": task.target,
        "optimum": task.optimum,
        "train_examples": len(data.train),
        "validation_examples": len(data.validation),
        "test_examples": len(data.test),
    }


def _optimizer(study: Study, row: Row) -> dict[str, Any]:
    method, summary = row.method, row.summary
    score = summary.test_accuracy
    runs = [*study.tuning_runs(method), *study.report_runs(method)]
    return {
        "name": method.name,
        "label": method.label,
        "clips": [{"name": clip.name, "bound": clip.bound} for clip in method.clips],
        "hyperparameters": dict(method.hyper),
        "formula": row.account and row.account.formula,
        "lr": summary.lr,
        "lr_at_edge": summary.edge,
        "tuning_validation_loss": summary.tuning_validation_loss,
        "validation_loss": summary.validation_loss,
        "test_accuracy": score and {"median": score.median, "low": score.low, "high": score.high},
        "iterations": summary.iterations,
        "epochs": summary.epochs,
        "iterations_to_target": summary.iterations_to_target,
        "reached_target": summary.reached_target,
        "diverged_runs": summary.diverged_runs,
        "diverged_tuning_runs": summary.diverged_tuning,
        "failed_runs": summary.failed_runs,
        "optimizer_us_per_step": summary.optimizer_us_per_step,
        "state_bytes_per_parameter": row.account and row.account.state_bytes_per_parameter,
        "runs": [_run(run) for run in runs],
    }


def _run(run: RunResult) -> dict[str, Any]:
    return {
        "phase": run.spec.phase,
        "lr": run.spec.lr,
        "seed": run.spec.seed,
        "status": run.status,
        "reason": run.reason,
        "iterations": run.iterations,
        "epochs": run.epochs,
        "initial_training_loss": run.initial_loss,
        "final_training_loss": run.final_loss,
        "validation_loss": run.curve[-1].validation_loss if run.curve else None,
        "test_loss": run.test_loss,
        "test_accuracy": run.test_score,
        "optimizer_us_per_step": run.optimizer_us_per_step,
        "seconds": run.seconds,
        "curve": {
            "iteration": [point.iteration for point in run.curve],
            "epoch": [point.epoch for point in run.curve],
            "training_loss": [point.training_loss for point in run.curve],
            "validation_loss": [point.validation_loss for point in run.curve],
            "validation_accuracy": [point.score for point in run.curve],
        },
    }


def as_text(value: dict[str, Any]) -> str:
    """Return strict JSON: six digits a number, null for what is not finite, a list of numbers on one line."""
    text = json.dumps(_plain(value), indent=1, allow_nan=False, ensure_ascii=False)
    return re.sub(r"\[[-+\d.,eE\s]*(?:null[-+\d.,eE\s]*)*\]", lambda found: re.sub(r"\s+", " ", found[0]), text)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value
