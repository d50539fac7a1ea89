"""One run: a network trained by one method, at one learning rate, from one seed."""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, astuple, dataclass, field
from itertools import islice
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import steprule as sr
from steprule.lab.data import batches
from steprule.lab.schedules import SCHEDULES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from steprule.lab.budget import Budget
    from steprule.lab.checkpoint import Checkpoint
    from steprule.lab.data import Split
    from steprule.lab.methods import Method
    from steprule.lab.tasks import Task, TaskSpec

CHUNK = 512
"""A batch larger than this is walked in chunks, and its gradient accumulated."""

SEEN_AT_ONCE = 2048
"""A set larger than this is evaluated in chunks of so many examples."""

POINTS = 60
"""How many times a run is evaluated, evenly spaced over its iterations."""

SAVED_EVERY = 10.0
"""Seconds between two checkpoints of a run."""

DIVERGENCE = (
    "A run has diverged when a loss is not finite (it is stopped there), or when its loss on the whole "
    "training set is greater at the end than at the start."
)


@dataclass(frozen=True)
class RunSpec:
    """Everything that decides a run."""

    task: TaskSpec
    method: Method
    lr: float
    seed: int
    budget: Budget
    phase: str = "report"

    @property
    def scored(self) -> bool:
        """Whether the run meets the test set; a tuning run never does."""
        return self.phase == "report"


@dataclass(frozen=True)
class Point:
    """What was seen at one evaluation; the score is that of the task, on validation data.

    The training loss is the mean over the batches since the last evaluation, but where the task's optimum is
    known it is that of the whole training set at θ itself, so that its distance to the optimum means something.
    """

    iteration: int
    epoch: float
    training_loss: float
    validation_loss: float
    score: float


@dataclass(frozen=True)
class RunResult:
    """What a run gave. `status` is finished, diverged, or failed (then `reason` says of what)."""

    spec: RunSpec
    status: str
    reason: str = ""
    curve: tuple[Point, ...] = ()
    initial_loss: float = math.nan
    final_loss: float = math.nan
    test_loss: float | None = None
    test_score: float | None = None
    optimizer_us_per_step: float | None = None
    seconds: float = 0.0

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

    def iterations_to(self, target: float, *, higher: bool = True) -> float:
        """Return the first evaluated iteration whose score is as good as that; infinite when there is none."""
        sign = 1 if higher else -1
        met = (point.iteration for point in self.curve if sign * point.score >= sign * target)
        return next(met, math.inf)


@dataclass
class _Run:
    """The state of a run in progress."""

    spec: RunSpec
    task: Task
    model: torch.nn.Module
    optimizer: Any
    observe: Callable[[Point], None] | None
    curve: list[Point] = field(default_factory=list[Point])
    window: list[float] = field(default_factory=list[float])
    step_ns: list[int] = field(default_factory=list[int])
    examples: int = 0
    done: int = 0
    initial: float = math.nan
    checkpoint: Checkpoint | None = None
    saved: float = field(default_factory=time.monotonic)

    def look(self, iteration: int, training_loss: float) -> None:
        """Evaluate on the validation set at θ itself and add a point to the curve."""
        with at_theta(self.optimizer):
            loss, score = evaluate(self.model, self.task, self.task.data.validation)
        if self.task.optimum is not None and iteration and math.isfinite(training_loss):
            training_loss = self.training_loss()
        epoch = self.examples / len(self.task.data.train)
        self.curve.append(Point(iteration, epoch, training_loss, loss, score))
        self.window.clear()
        if self.observe is not None:
            self.observe(self.curve[-1])

    def prepare(self, iteration: int) -> None:
        """Set the learning rate of an iteration, and clip what the optimiser does not clip itself."""
        method, size = self.spec.method, len(self.task.data.train)
        if method.schedule != "constant":
            count = self.spec.budget.count(size, full_batch=method.full_batch) + self.spec.budget.final_full_batch
            for group in self.optimizer.param_groups:
                group["lr"] = self.spec.lr * SCHEDULES[method.schedule](iteration, count)
        if method.clips_outside:
            method.clip(self.model.parameters())

    def save(self) -> None:
        """Write a checkpoint; a disk that is full now may have room later, and the last checkpoint stays."""
        if self.checkpoint is None:
            return
        with suppress(OSError):
            self.checkpoint.save(self._state())
        self.saved = time.monotonic()

    def _state(self) -> dict[str, Any]:
        """Return all that decides how the run goes on; the order of the batches follows from the seed and `done`."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.random.get_rng_state(),
            "curve": [astuple(point) for point in self.curve],
            "window": list(self.window),
            "step_ns": list(self.step_ns),
            "examples": self.examples,
            "done": self.done,
            "initial": self.initial,
        }

    def resume(self) -> bool:
        """Go on from the checkpoint; say whether there was one."""
        state = self.checkpoint.load() if self.checkpoint else None
        if state is None:
            return False
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.random.set_rng_state(state["random"])
        self.curve = [Point(*values) for values in state["curve"]]
        self.window, self.step_ns = state["window"], state["step_ns"]
        self.examples, self.done, self.initial = state["examples"], state["done"], state["initial"]
        if self.observe is not None:
            for point in self.curve:
                self.observe(point)
        return True

    def training_loss(self) -> float:
        """Return the loss on the whole training set at θ itself."""
        with at_theta(self.optimizer):
            return evaluate(self.model, self.task, self.task.data.train)[0]


def at_theta(optimizer: torch.optim.Optimizer) -> AbstractContextManager[None]:
    """Hold θ itself in the parameters within: an optimiser of ours may store the point where its gradient is taken."""
    return optimizer.at_iterate() if isinstance(optimizer, sr.Optimizer) else nullcontext()


def evaluate(model: torch.nn.Module, task: Task, split: Split) -> tuple[float, float]:
    """Return the mean loss and the score on a set; what a network does only in training is off meanwhile."""
    training = model.training
    model.eval()
    with torch.no_grad():
        outputs = torch.cat([model(inputs) for inputs in split.inputs.split(SEEN_AT_ONCE)])
        loss = task.loss(outputs, split.labels).item()
        score = task.score(outputs, split.labels, loss)
    model.train(training)
    return loss, score


def accumulate(model: torch.nn.Module, task: Task, inputs: torch.Tensor, labels: torch.Tensor) -> float:
    """Leave the gradient of the mean loss over all the examples in the parameters, and return that loss."""
    model.zero_grad(set_to_none=True)
    if len(labels) <= CHUNK:
        loss = task.loss(model(inputs), labels)
        loss.backward()
        return loss.item()
    total = 0.0
    for some_inputs, some_labels in zip(inputs.split(CHUNK), labels.split(CHUNK), strict=True):
        share = len(some_labels) / len(labels)
        loss = task.loss(model(some_inputs), some_labels) * share
        loss.backward()
        total += loss.item()
    return total


def index_plan(spec: RunSpec, size: int) -> Iterator[torch.Tensor]:
    """Yield the examples of every iteration of a run, the board's last full-batch one included."""
    full_batch = spec.method.full_batch
    everything = torch.arange(size)
    order = batches(size, spec.budget.batch_size, spec.seed)
    for _ in range(spec.budget.count(size, full_batch=full_batch)):
        yield everything if full_batch else next(order)
    if spec.budget.final_full_batch:
        yield everything


def evaluation_points(spec: RunSpec, size: int) -> set[int]:
    """Return the iterations after which a run is evaluated."""
    count = spec.budget.count(size, full_batch=spec.method.full_batch)
    points = {int(point) for point in np.linspace(0, count, POINTS + 1).round()}
    return points | {count + 1} if spec.budget.final_full_batch else points


def made_by(spec: RunSpec) -> dict[str, str]:
    """Return everything that decides a run, in words: what a checkpoint is compared by."""
    account = spec.method.explain()
    return {
        "task": str(spec.task),
        "method": spec.method.key,
        "formula": account.formula.replace("\n", ", ") if account else str(spec.method.kind.target),
        "lr": repr(spec.lr),
        "seed": str(spec.seed),
        **{key: str(value) for key, value in asdict(spec.budget).items()},
        "phase": spec.phase,
        "torch": str(torch.__version__),
    }


def train(
    spec: RunSpec, observe: Callable[[Point], None] | None = None, checkpoint: Checkpoint | None = None
) -> RunResult:
    """Do one run and return what it gave; `observe` is shown every point of the curve as it comes.

    With a checkpoint the run goes on from it where there is one, and writes it every `SAVED_EVERY` seconds and at
    the end. What follows is bit for bit what an uninterrupted run gives.
    """
    started = time.perf_counter()
    task = spec.task.build()
    model = task.model(spec.seed)
    optimizer = spec.method.optimizer(model.parameters(), spec.lr)
    run = _Run(spec, task, model, optimizer, observe, checkpoint=checkpoint)
    if not run.resume():
        run.initial = run.training_loss()
        run.look(0, run.initial)
    finite = _iterate(run)
    if finite:  # a run that ended at a loss which is none ends there again
        run.save()
    initial, final = run.initial, run.training_loss()
    healthy = finite and math.isfinite(final) and final <= initial
    test_loss, test_score = None, None
    if spec.scored:
        with at_theta(run.optimizer):
            test_loss, test_score = evaluate(model, task, task.data.test)
    return RunResult(
        spec=spec,
        status="finished" if healthy else "diverged",
        reason="" if healthy else f"training loss went from {initial:.3g} to {final:.3g}",
        curve=tuple(run.curve),
        initial_loss=initial,
        final_loss=final,
        test_loss=test_loss,
        test_score=test_score,
        optimizer_us_per_step=_microseconds(run.step_ns),
        seconds=time.perf_counter() - started,
    )


def _iterate(run: _Run) -> bool:
    """Make every iteration, and say whether the loss stayed finite; stop at the first that is not."""
    train_set = run.task.data.train
    points = evaluation_points(run.spec, len(train_set))
    left = islice(index_plan(run.spec, len(train_set)), run.done, None)
    for iteration, indices in enumerate(left, start=run.done + 1):
        loss = accumulate(run.model, run.task, train_set.inputs[indices], train_set.labels[indices])
        if not math.isfinite(loss):
            run.look(iteration - 1, loss)
            return False
        run.prepare(iteration)
        before = time.perf_counter_ns()
        run.optimizer.step()
        run.step_ns.append(time.perf_counter_ns() - before)
        run.window.append(loss)
        run.examples += len(indices)
        if iteration in points:
            run.look(iteration, sum(run.window) / len(run.window))
        run.done = iteration
        if time.monotonic() - run.saved > SAVED_EVERY:
            run.save()
    return True


def _microseconds(step_ns: list[int]) -> float | None:
    """Return the median time of a step; the first ones, which compile and warm up, are left out."""
    settled = step_ns[min(10, len(step_ns) // 2) :]
    return median(settled) / 1000 if settled else None
