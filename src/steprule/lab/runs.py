"""A run's specification, its curve and its result, and their form in JSON."""

from __future__ import annotations

import math
from base64 import b64decode, b64encode
from dataclasses import asdict, astuple, dataclass, field, fields
from typing import TYPE_CHECKING, Any

import torch

from steprule.lab.report.shape import MOST, RUN, Misshapen, check, whole
from steprule.lab.tasks import Exhibit

if TYPE_CHECKING:
    from steprule.lab.budget import Budget
    from steprule.lab.methods import Method
    from steprule.lab.tasks import Metric, TaskSpec

DIVERGENCE = (
    "A run has diverged when a loss is not finite (it is stopped there), or when its loss on the whole "
    "training set is greater at the end than at the start, or when an implicit step finds no end (it is stopped there)."
)

OUT_OF_MEMORY = "out of memory"


@dataclass(frozen=True)
class RunSpec:
    """Everything that decides a run. Whether it keeps exhibits does not."""

    task: TaskSpec
    method: Method
    lr: float
    seed: int
    budget: Budget
    phase: str = "report"
    exhibits: bool = field(default=False, compare=False)

    @property
    def scored(self) -> bool:
        """Whether the run meets the test set; a tuning run never does."""
        return self.phase != "tuning"


@dataclass(frozen=True)
class Point:
    """The measurements of one evaluation. The score is the task's, on validation data.

    The training loss is the mean over the batches since the last evaluation, but where the task's optimum is
    known it is that of the whole training set at θ itself, so that its distance to the optimum means something.
    `seconds` counts training alone. The last three describe the step just made: None before the first, and no
    clip coefficient without clipping.
    """

    iteration: int
    epoch: float
    examples: int
    seconds: float = field(compare=False)
    lr: float | None
    training_loss: float
    validation_loss: float
    score: float
    gradient_norm: float | None = None
    clip_coefficient: float | None = None
    update_ratio: float | None = None


@dataclass(frozen=True)
class StepTimes:
    """The quartiles of the times of steps, in microseconds, and how many were timed."""

    low: float
    high: float
    steps: int


@dataclass(frozen=True)
class RunResult:
    """The result of a run. `status` is finished, diverged, or failed, with a `reason`.

    Two results are equal when their numbers are; times are left out of that.
    """

    spec: RunSpec
    status: str
    reason: str = ""
    curve: tuple[Point, ...] = ()
    initial_loss: float = math.nan
    final_loss: float = math.nan
    test_loss: float | None = None
    test_score: float | None = None
    optimizer_us_per_step: float | None = field(default=None, compare=False)
    step_spread: StepTimes | None = field(default=None, compare=False)
    state_bytes_per_parameter: float | None = None
    seconds: float = field(default=0.0, compare=False)
    gradient_evaluations: int = 0
    """How often a gradient was evaluated: once an iteration, but in methods that take several."""
    exhibits: tuple[Exhibit, ...] = ()

    @property
    def validation_loss(self) -> float:
        """The loss a learning rate is chosen by: at the end, on validation data; infinite unless finished."""
        return self.curve[-1].validation_loss if self.status == "finished" else math.inf

    @property
    def iterations(self) -> int:
        """How many iterations were made."""
        return self.curve[-1].iteration if self.curve else 0

    @property
    def epochs(self) -> float:
        """How many times, on average, each training example was seen."""
        return self.curve[-1].epoch if self.curve else 0.0

    def first_met(self, metric: Metric, target: float | None) -> Point | None:
        """Return the first point whose score meets the target, or None without such a point or a target."""
        if target is None:
            return None
        return next((point for point in self.curve if metric.met(point.score, target)), None)

    def as_record(self) -> dict[str, Any]:
        """Return everything but the spec's task, method and budget as JSON, without null."""
        columns = zip(*map(astuple, self.curve), strict=True)
        return {
            "phase": self.spec.phase,
            "lr": self.spec.lr,
            "seed": self.spec.seed,
            "status": self.status,
            "reason": self.reason,
            "iterations": self.iterations,
            "epochs": self.epochs,
            "gradient_evaluations": self.gradient_evaluations,
            "initial_training_loss": _plain(self.initial_loss),
            "final_training_loss": _plain(self.final_loss),
            "validation_loss": _plain(self.curve[-1].validation_loss) if self.curve else None,
            "test_loss": _plain(self.test_loss),
            "test_score": _plain(self.test_score),
            "optimizer_us_per_step": self.optimizer_us_per_step,
            "step_spread": self.step_spread and asdict(self.step_spread),
            "state_bytes_per_parameter": self.state_bytes_per_parameter,
            "seconds": self.seconds,
            "exhibits": [_exhibit(exhibit) for exhibit in self.exhibits],
            "curve": {name: [] for name in COLUMNS}
            | {name: list(map(_plain, column)) for name, column in zip(COLUMNS, columns, strict=False)},
        }


COLUMNS = tuple(part.name for part in fields(Point))
"""The names under which a record holds a curve, in the order of a point."""

SPREAD = tuple(part.name for part in fields(StepTimes))

_OPTIONAL = frozenset({"lr", "gradient_norm", "clip_coefficient", "update_ratio"})


def from_record(spec: RunSpec, record: dict[str, Any]) -> RunResult:
    """Return the result that a record was made of; a number that was not finite is NaN.

    A record of another run, or one that contradicts itself, is misshapen.
    """
    check(record, RUN)
    whole(record)
    try:
        result = _result(spec, record)
    except ValueError as error:
        raise Misshapen("exhibits", "has a picture that is not base64") from error
    for name, value in result.as_record().items():
        if record.get(name, value) != value:
            raise Misshapen(name, f"is not what belongs to {spec.method.key} and the rest of the record")
    return result


def _result(spec: RunSpec, record: dict[str, Any]) -> RunResult:
    curve = record["curve"]
    columns = [curve[name] if name in _OPTIONAL else list(map(_number, curve[name])) for name in COLUMNS]
    return RunResult(
        spec=spec,
        status=record["status"],
        reason=record["reason"],
        curve=tuple(Point(*values) for values in zip(*columns, strict=True)),
        initial_loss=_number(record["initial_training_loss"]),
        final_loss=_number(record["final_training_loss"]),
        test_loss=record["test_loss"],
        test_score=record["test_score"],
        optimizer_us_per_step=record["optimizer_us_per_step"],
        step_spread=StepTimes(*map(record["step_spread"].get, SPREAD)) if record.get("step_spread") else None,
        state_bytes_per_parameter=record["state_bytes_per_parameter"],
        seconds=record["seconds"],
        gradient_evaluations=record.get("gradient_evaluations", record["iterations"]),
        exhibits=tuple(
            Exhibit(shown["caption"], None if shown["png"] is None else b64decode(shown["png"]), shown["text"])
            for shown in record["exhibits"]
        ),
    )


def _plain(value: float | None) -> float | None:
    return None if value is None or not abs(value) < MOST else value


def _number(value: float | None) -> Any:
    return math.nan if value is None else value


def _exhibit(exhibit: Exhibit) -> dict[str, Any]:
    png = None if exhibit.png is None else b64encode(exhibit.png).decode()
    return {"caption": exhibit.caption, "png": png, "text": exhibit.text}


def failure(error: BaseException) -> str:
    """Return in words why a run failed. A lack of memory goes by many names."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
        return OUT_OF_MEMORY
    return f"{type(error).__name__}: {error}"
