"""The document of a study: every run with its curve, and everything that is needed to repeat it."""

from __future__ import annotations

import base64
import contextlib
import json
import math
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import steprule as sr
from steprule.console.text import escaped
from steprule.lab.protocol import DEFAULTS, EXTENSION, KEPT, VARIANTS, cut_words, selection
from steprule.lab.report.shape import MOST, SCHEMA
from steprule.lab.runs import DIVERGENCE, StepTimes
from steprule.lab.statistics import INTERVAL, PAIRED, compared, interval, variants, verdict, winner

if TYPE_CHECKING:
    from steprule.lab.methods import Method
    from steprule.lab.protocol import Comparison, Study
    from steprule.lab.runs import RunResult
    from steprule.lab.statistics import Pair
    from steprule.lab.tasks import Exhibit, Task

THEORY_POINTS = 100
"""At how many iterations a theory's line is drawn."""


def git_state() -> dict[str, Any] | None:
    """Return the commit of the working folder and whether files differ from it, or None outside a repository."""

    def said(*words: str) -> str:
        command = ["git", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()  # noqa: S603

    try:
        return {"commit": said("rev-parse", "HEAD"), "modified": bool(said("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None


@dataclass(frozen=True)
class Provenance:
    """The circumstances of a study, for anyone who wants to repeat it."""

    command: str
    workers: int
    started: str
    seconds: float = 0.0
    git: dict[str, Any] | None = field(default_factory=git_state)
    """As it was when the study began."""
    study: str = ""
    """A name unlike that of any other study in the same folder."""


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


def document(comparison: Comparison, provenance: Provenance) -> dict[str, Any]:
    """Return the whole of results.json."""
    studies = comparison.studies
    methods = studies[0].plan.methods
    written = {
        "schema": SCHEMA,
        "study": provenance.study,
        "command": provenance.command,
        "started": provenance.started,
        "seconds": round(provenance.seconds, 1),
        "interrupted": comparison.interrupted,
        "complete": comparison.complete,
        "versions": versions(),
        "hardware": hardware(provenance.workers),
        "git": provenance.git,
        "protocol": _protocol(comparison),
        "tasks": [_task(study, study.plan.task.build()) for study in studies],
        "optimizers": [_optimizer(studies[0], method) for method in methods],
        "results": [_result(study, study.plan.task.build(), method) for study in studies for method in methods],
        "comparisons": [_pair(study, pair) for study in studies for pair in compared(study)],
        "variants": [
            {"task": study.plan.task.build().name, **asdict(one)} for study in studies for one in variants(study)
        ],
        "verdicts": {study.plan.task.build().name: verdict(study) for study in studies},
        "winner": {study.plan.task.build().name: winner(study) for study in studies},
    }
    return _plain(written)


def _pair(study: Study, pair: Pair) -> dict[str, Any]:
    return {"task": study.plan.task.build().name, **asdict(pair)}


def _protocol(comparison: Comparison) -> dict[str, Any]:
    first = comparison.studies[0]
    plan, tuned = first.plan, first.fixed_lr is None
    grown = [EXTENSION] if plan.extend else []
    untuned = [DEFAULTS] if plan.defaults else []
    untuned += [VARIANTS] if len(plan.tuned) < len(plan.methods) else []
    said = [selection(plan), *grown, KEPT, *untuned, *comparison.words, *map(cut_words, comparison.studies)]
    several = [INTERVAL] if len(plan.report_seeds) > 1 else []
    return {
        "text": [*(filter(None, said) if tuned else []), DIVERGENCE, *several, *([PAIRED] if tuned else [])],
        "grids": {study.plan.task.build().name: list(study.grid) for study in comparison.studies},
        "own_grids": {
            study.plan.task.build().name: {method.key: list(study.plan.rates(method, study.grid)) for method in apart}
            for study in comparison.studies
            if (apart := study.plan.apart)
        },
        "tuning_seeds": list(plan.tuning_seeds),
        "report_seeds": list(plan.report_seeds),
        "schedules": list(dict.fromkeys(method.schedule for method in plan.methods)),
        "clips": list(dict.fromkeys(", ".join(clip.label for clip in method.clips) for method in plan.methods)),
        "budget": comparison.budget,
    }


def task_facts(task: Task) -> dict[str, Any]:
    """Return the facts of a task, for programs."""
    data = task.data
    return {
        "name": task.name,
        "title": task.title or task.name,
        "about": task.about,
        "network": task.network,
        "parameters": task.parameter_count(),
        "examples": {"train": len(data.train), "validation": len(data.validation), "test": len(data.test)},
        "metric": asdict(task.metric),
        "target": task.target,
        "optimum": task.optimum,
    }


def _task(study: Study, task: Task) -> dict[str, Any]:
    longest = max((run.iterations for run in study.runs), default=0)
    return {
        **task_facts(task),
        "target": study.plan.target,
        "theory": [_theory(line, longest) for line in task.theory],
        "budget": asdict(study.plan.budget),
        "reference": exhibits(task.reference),
    }


def _theory(line: Any, longest: int) -> dict[str, Any]:
    at = sorted({round(longest * place / THEORY_POINTS) for place in range(THEORY_POINTS + 1)})
    return {"label": line.label, "x": at, "y": [float(line.loss(iteration)) for iteration in at]}


def exhibits(shown: Sequence[Exhibit]) -> list[dict[str, Any]]:
    """Return the exhibits, for JSON."""
    return [
        {
            "caption": one.caption,
            "png": None if one.png is None else base64.b64encode(one.png).decode(),
            "text": one.text,
        }
        for one in shown
    ]


def _optimizer(study: Study, method: Method) -> dict[str, Any]:
    account = method.explain()
    seen = [run.state_bytes_per_parameter for run in study.runs if run.spec.method == method]
    measured = _median(value for value in seen if value is not None)
    return {
        "key": method.key,
        "name": method.name,
        "title": method.title,
        "schedule": method.schedule,
        "clips": [{"name": clip.name, "bound": clip.bound} for clip in method.clips],
        "hyperparameters": dict(method.hyper),
        "settings": method.settings,
        "full_batch": method.full_batch,
        **(UNKNOWN | {"state_bytes_per_parameter": measured} if account is None else _account(method, account)),
    }


UNKNOWN = {
    "formula": None,
    "equations": [],
    "latex": None,
    "source": None,
    "passes": [],
    "bytes_per_parameter": None,
    "state_bytes_per_parameter": None,
    "backend": None,
}
"""The account of an optimiser of another library."""


def _account(method: Method, account: Any) -> dict[str, Any]:
    """Return the library's own account of an optimiser."""
    return {
        "formula": account.formula,
        "equations": _equations(method, account),
        "latex": account.latex,
        "source": account.source,
        "passes": list(account.passes),
        "bytes_per_parameter": account.bytes_per_parameter,
        "state_bytes_per_parameter": account.state_bytes_per_parameter,
        "backend": account.backend,
    }


def _equations(method: Method, account: Any) -> list[str]:
    """Return the rule's lines, after a line that defines g if the rule leaves it to the training loop."""
    if any(line.startswith("g =") for line in account.equations):
        return list(account.equations)
    batch = r"\{(x_i, y_i)\}_n" if method.full_batch else "B_{t-1}"
    return [rf"g = \nabla L\left({batch},\, \theta_{{t-1}}\right)", *account.equations]


def _result(study: Study, task: Task, method: Method) -> dict[str, Any]:
    tuning, default, report = study.tuning_runs(method), study.default_runs(method), study.report_runs(method)
    choice = study.choice(method)
    return {
        "task": task.name,
        "optimizer": method.key,
        "lr": choice.lr,
        "lr_at_edge": choice.edge,
        "default_lr": method.default_lr,
        "tuned": _summary(report, task, study.plan.target) if report else None,
        "default": _summary(default, task, study.plan.target) if default else None,
        "runs": _records([*tuning, *default, *report]),
    }


def _summary(runs: Sequence[RunResult], task: Task, target: float | None) -> dict[str, Any]:
    """Return the summary of the runs of one phase."""
    score = interval([run.test_score for run in runs if run.test_score is not None])
    met = [run.first_met(task.metric, target) for run in runs if run.status != "failed"]
    times = [run.optimizer_us_per_step for run in runs if run.optimizer_us_per_step is not None]
    return {
        "test_score": score and asdict(score),
        "validation_loss": _median(run.validation_loss for run in runs),
        "to_target": _to_target(met),
        "reached_target": sum(point is not None for point in met),
        "runs": len(runs),
        "diverged": sum(run.status == "diverged" for run in runs),
        "failed": sum(run.status == "failed" for run in runs),
        "optimizer_us_per_step": _median(times),
        "step_spread": _spread([run.step_spread for run in runs if run.step_spread is not None]),
    }


def _spread(found: Sequence[StepTimes]) -> dict[str, Any] | None:
    """Return the quartiles of the middle run, and how many steps of all were timed."""
    if not found:
        return None
    low, high = (median(getattr(one, end) for one in found) for end in ("low", "high"))
    return asdict(StepTimes(low, high, sum(one.steps for one in found)))


def _to_target(met: Sequence[Any]) -> dict[str, float | None] | None:
    """Return the medians of the costs, a miss counted as infinite, or None if most runs missed."""
    if 2 * sum(point is None for point in met) >= max(len(met), 1):
        return None
    return {
        name: _median(math.inf if point is None else getattr(point, column) for point in met)
        for name, column in (
            ("iterations", "iteration"),
            ("epochs", "epoch"),
            ("examples", "examples"),
            ("seconds", "seconds"),
        )
    }


def _median(values: Iterable[float]) -> float | None:
    """Return the median, or None if half the values or more are infinite."""
    found = list(values)
    middle = median(found) if found else math.inf
    return middle if math.isfinite(middle) else None


def _records(runs: Sequence[RunResult]) -> list[dict[str, Any]]:
    """Return the runs as records. Exhibits are large, so one run keeps them."""
    records = [run.as_record() for run in runs]
    made = next((record for record in records if record["exhibits"] and record["phase"] == "report"), None)
    return [record if record is made else {**record, "exhibits": []} for record in records]


def as_text(value: dict[str, Any]) -> str:
    """Return strict JSON: six digits a number, null for NaN and infinity, a list of numbers on one line."""
    text = json.dumps(_plain(value), indent=1, allow_nan=False, ensure_ascii=False)
    text = escaped(text)
    return re.sub(r"\[[-+\d.,eE\s]*(?:null[-+\d.,eE\s]*)*\]", lambda found: re.sub(r"\s+", " ", found[0]), text)


def _plain(value: Any) -> Any:
    """Return the value as JSON will give it back: the page of a study and that of its file are the same.

    NaN and infinity become null, and so do numbers of a diverged run that are too large to draw.
    """
    if isinstance(value, float):
        return float(f"{value:.6g}") if abs(value) < MOST else None
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value
