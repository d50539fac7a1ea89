"""One run: a network trained by one method, at one learning rate, from one seed."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext, suppress
from copy import deepcopy
from dataclasses import asdict, astuple, dataclass, field
from itertools import islice
from statistics import quantiles
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import steprule as sr
from steprule.lab.data import batches
from steprule.lab.diagnostics import Probe, Seen, state_bytes, watch
from steprule.lab.interrupt import Interrupt, waiting
from steprule.lab.network import accumulate, as_it_came, at_theta, evaluate, kept_in, scaler
from steprule.lab.runs import OUT_OF_MEMORY, Point, RunResult, RunSpec, StepTimes, failure
from steprule.lab.schedules import SCHEDULES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from steprule.lab.checkpoint import Checkpoint
    from steprule.lab.tasks import Exhibit, Task

POINTS = 60
"""How many times a run is evaluated, evenly spaced over its iterations."""

SAVED_EVERY = 10.0
"""Seconds between two checkpoints of a run."""


class TimedOut(Exception):  # noqa: N818 - it is caught where it is raised, and makes a failed run
    """A run has had its time."""


@dataclass
class _Run:
    """The state of a run in progress."""

    spec: RunSpec
    task: Task
    model: torch.nn.Module
    optimizer: Any
    observe: Callable[[Point], None] | None
    checkpoint: Checkpoint | None
    scale: torch.amp.GradScaler | None
    curve: list[Point] = field(default_factory=list[Point])
    window: list[float] = field(default_factory=list[float])
    step_ns: list[int] = field(default_factory=list[int])
    training_ns: int = 0
    examples: int = 0
    done: int = 0
    evaluations: int = 0
    """How many gradients were evaluated to make steps of them."""
    trouble: str = ""
    """Why a step that evaluates its gradients was not taken."""
    by_closure: bool = False
    """Whether a step evaluates its gradients itself."""
    initial: float = math.nan
    spent: float = 0.0
    """Seconds that the processes before this one have had."""
    began: float = field(default_factory=time.monotonic)
    saved: float = field(default_factory=time.monotonic)
    on_disk: int = -1
    """How many iterations the checkpoint on disk has."""
    kept: dict[str, Any] = field(default_factory=dict[str, Any])
    """The state at the last evaluation, for a run that ends at a moment at which its state is not whole."""
    interrupt: Interrupt = field(default_factory=Interrupt)

    def begin(self) -> None:
        """Go on from the checkpoint, or evaluate the network as it was drawn."""
        state = self.checkpoint.load() if self.checkpoint else None
        if state is not None:
            self._restore(state)
            return
        self.initial = self.training_loss()
        self.look(0, self.initial, Seen())
        self.keep()

    def look(self, iteration: int, training_loss: float, seen: Seen) -> None:
        """Evaluate on the validation set at θ itself and add a point to the curve."""
        with at_theta(self.optimizer):
            loss, score = evaluate(self.model, self.task, self.task.data.validation)
        if self.task.optimum is not None and iteration and math.isfinite(training_loss):
            training_loss = self.training_loss()
        epoch, lr = self.examples / len(self.task.data.train), self.lr(iteration) if iteration else None
        seconds = self.training_ns / 1e9
        self.curve.append(
            Point(iteration, epoch, self.examples, seconds, lr, training_loss, loss, score, *astuple(seen))
        )
        self.window.clear()
        if self.observe is not None:
            self.observe(self.curve[-1])

    def lr(self, iteration: int) -> float:
        """Return the learning rate of an iteration."""
        spec = self.spec
        total = spec.budget.total(len(self.task.data.train), full_batch=spec.method.full_batch)
        return spec.lr * SCHEDULES[spec.method.schedule](iteration, total)

    def gradient(self, indices: torch.Tensor) -> float:
        """Leave the gradient of a batch in the parameters, and return its loss."""
        examples, budget = self.task.data.train, self.spec.budget
        inputs, labels = examples.inputs[indices], examples.labels[indices]
        loss = accumulate(self.model, self.task, inputs, labels, budget.accumulate, budget.precision, self.scale)
        if self.scale is not None:
            self.scale.unscale_(self.optimizer)
        return loss

    def solve(self, iteration: int, indices: torch.Tensor) -> tuple[float, int]:
        """Take one step that evaluates its gradients; return the loss it is of, and the time that gradients took.

        Its closure is always the same batch with the same dropout: otherwise an implicit step would have no end, and
        two gradients would differ by more than their points. If the first loss is not finite there is no step.
        """
        self.set_rate(iteration)
        drawn, spent, made = torch.random.get_rng_state(), 0, self.evaluations

        def closure() -> float:
            nonlocal spent
            before = time.perf_counter_ns()
            torch.random.set_rng_state(drawn)
            self.evaluations += 1
            loss = self.gradient(indices)
            spent += time.perf_counter_ns() - before
            if self.evaluations == made + 1 and not math.isfinite(loss):
                raise sr.errors.ConvergenceError(f"the loss of iteration {iteration} is {loss}", fix="lower lr")
            return loss

        return self.optimizer.step(closure), spent

    def advance(self, iteration: int, indices: torch.Tensor, *, probed: bool) -> tuple[float, Probe | None]:
        """Make one iteration, unless its loss is not finite; return the loss, and the probe of an evaluation."""
        by_closure, before = self.by_closure, time.perf_counter_ns()
        loss = 0.0 if by_closure else self.gradient(indices)
        made = time.perf_counter_ns() - before
        if not math.isfinite(loss):
            return loss, None
        probe = Probe(self.model, self.optimizer, self.spec.method, self.scale) if probed else None
        before = time.perf_counter_ns()
        if by_closure:
            loss, made = self.solve(iteration, indices)
        else:
            self.step(iteration, loss)
        whole = time.perf_counter_ns() - before + (0 if by_closure else made)
        self.step_ns.append(whole - made)
        self.training_ns += whole
        if probe is not None and by_closure:
            probe.measure()
        return loss, probe

    def set_rate(self, iteration: int) -> None:
        """Set the iteration's learning rate."""
        if self.spec.method.schedule != "constant":
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr(iteration)

    def step(self, iteration: int, loss: float) -> None:
        """Take one step at the iteration's learning rate, clipped here where the optimiser does not clip itself."""
        self.set_rate(iteration)
        self.evaluations += 1
        if self.spec.method.clips_outside:
            self.spec.method.clip(self.model.parameters())
        told: dict[str, Any] = {"loss": loss} if isinstance(self.optimizer, sr.Optimizer) else {}
        if self.scale is None:
            self.optimizer.step(**told)
        else:
            self.scale.step(self.optimizer, **told)
            self.scale.update()

    def save(self) -> None:
        """Write a checkpoint. A disk that is full now may have room later, and the last checkpoint stays."""
        self._write(self._state())

    def _write(self, state: dict[str, Any]) -> None:
        if self.checkpoint is None:
            return
        with suppress(OSError):
            self.checkpoint.save(state)
            self.on_disk = state["done"]
        self.saved = time.monotonic()

    def keep(self) -> None:
        """Remember the state as it is, where there is a checkpoint to write it to."""
        if self.checkpoint is not None:
            self.kept = deepcopy(self._state())

    def rescue(self) -> None:
        """Write the last state that was whole, unless the disk has a later one."""
        if self.kept and self.kept["done"] > self.on_disk:
            self._write(self.kept)

    def stop_if_asked(self) -> None:
        """End here, between two iterations, after Ctrl-C."""
        if self.interrupt.asked:
            self.save()
            raise KeyboardInterrupt

    def _state(self) -> dict[str, Any]:
        """Return all that decides how the run goes on; the order of the batches follows from the seed and `done`."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scale": {} if self.scale is None else self.scale.state_dict(),
            "random": torch.random.get_rng_state(),
            "curve": [astuple(point) for point in self.curve],
            "window": list(self.window),
            "step_ns": list(self.step_ns),
            "training_ns": self.training_ns,
            "examples": self.examples,
            "done": self.done,
            "evaluations": self.evaluations,
            "initial": self.initial,
            "spent": self.elapsed(),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scale is not None:
            self.scale.load_state_dict(state["scale"])
        torch.random.set_rng_state(state["random"])
        self.curve = [Point(*values) for values in state["curve"]]
        for name in ("window", "step_ns", "training_ns", "examples", "done", "initial", "spent"):
            setattr(self, name, state[name])
        self.evaluations = state.get("evaluations", self.done)
        self.on_disk = self.done
        if self.observe is not None:
            for point in self.curve:
                self.observe(point)

    def elapsed(self) -> float:
        """Return the seconds of the run, in this process and those before it."""
        return self.spent + time.monotonic() - self.began

    def training_loss(self) -> float:
        """Return the loss on the whole training set at θ itself."""
        with at_theta(self.optimizer):
            return evaluate(self.model, self.task, self.task.data.train)[0]

    def result(self, status: str, reason: str = "", **ends: Any) -> RunResult:
        """Return the results of the run so far."""
        count = sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)
        return RunResult(
            spec=self.spec,
            status=status,
            reason=reason,
            curve=tuple(self.curve),
            initial_loss=self.initial,
            **_microseconds(self.step_ns),
            state_bytes_per_parameter=state_bytes(self.optimizer) / count if count else None,
            seconds=self.elapsed(),
            gradient_evaluations=self.evaluations,
            **ends,
        )


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
    """Return everything that decides a run, in words, to compare checkpoints by."""
    budget = {key: str(value) for key, value in asdict(spec.budget).items() if key != "timeout"}
    return {
        "task": str(spec.task),
        "method": spec.method.key,
        "formula": spec.method.made_of(),
        "lr": repr(spec.lr),
        "seed": str(spec.seed),
        **budget,
        "phase": spec.phase,
        "torch": str(torch.__version__),
    }


def train(
    spec: RunSpec, observe: Callable[[Point], None] | None = None, checkpoint: Checkpoint | None = None
) -> RunResult:
    """Do one run and return its result. `observe` gets every point of the curve as it comes.

    With a checkpoint the run goes on from a saved one, and saves its own every `SAVED_EVERY` seconds, when Ctrl-C
    ends it, and at the end. The rest is bit for bit that of an uninterrupted run. Random numbers on the way,
    such as dropout's, follow from the seed; torch's own generator stays as it was.
    """
    task = spec.task.build()
    model = kept_in(task.model(spec.seed), spec.method.parameters)
    optimizer = spec.method.optimizer(model, spec.lr)
    watch(optimizer)
    run = _Run(spec, task, model, optimizer, observe, checkpoint, scaler(spec.budget.precision))
    run.by_closure = spec.method.needs_closure
    ctrl_c = nullcontext(run.interrupt) if checkpoint is None else waiting()
    with torch.random.fork_rng(devices=[]), ctrl_c as run.interrupt:
        torch.manual_seed(spec.seed)
        try:
            run.begin()
            finite = _iterate(run)
            return _ended(run, finite=finite)
        except KeyboardInterrupt:
            run.rescue()
            raise
        except TimedOut:
            run.save()
            return run.result("failed", f"timed out after {spec.budget.timeout:g} s")
        except (MemoryError, RuntimeError) as error:
            if failure(error) != OUT_OF_MEMORY:
                raise
            return run.result("failed", OUT_OF_MEMORY)


def _iterate(run: _Run) -> bool:
    """Make every iteration, up to the first loss that is not finite. Return whether all were finite."""
    size, timeout = len(run.task.data.train), run.spec.budget.timeout
    points = evaluation_points(run.spec, size)
    left = islice(index_plan(run.spec, size), run.done, None)
    for iteration, indices in enumerate(left, start=run.done + 1):
        run.stop_if_asked()
        if timeout is not None and run.elapsed() > timeout:
            raise TimedOut
        try:
            loss, probe = run.advance(iteration, indices, probed=iteration in points)
        except sr.errors.ConvergenceError as error:
            loss, probe, run.trouble = math.nan, None, error.what
        if not math.isfinite(loss):
            run.look(iteration - 1, loss, Seen())
            return False
        run.window.append(loss)
        run.examples += len(indices)
        if probe is not None:
            run.look(iteration, sum(run.window) / len(run.window), probe.read())
        run.done = iteration
        if probe is not None:
            run.keep()
        if time.monotonic() - run.saved > SAVED_EVERY:
            run.save()
    run.stop_if_asked()
    return True


def _ended(run: _Run, *, finite: bool) -> RunResult:
    """Judge a run that has made its iterations, and score it on test data."""
    if finite:  # a run that ended at a non-finite loss ends there again
        run.save()
    initial, final = run.initial, run.training_loss()
    healthy = finite and math.isfinite(final) and final <= initial
    test_loss, test_score = None, None
    with at_theta(run.optimizer):
        if run.spec.scored:
            test_loss, test_score = evaluate(run.model, run.task, run.task.data.test)
        exhibits = _exhibits(run) if run.spec.exhibits and math.isfinite(final) else ()
    return run.result(
        "finished" if healthy else "diverged",
        "" if healthy else run.trouble or f"training loss went from {initial:.3g} to {final:.3g}",
        final_loss=final,
        test_loss=test_loss,
        test_score=test_score,
        exhibits=exhibits,
    )


def _exhibits(run: _Run) -> tuple[Exhibit, ...]:
    """Return the exhibits of the network as it is now."""
    if run.task.exhibit is None:
        return ()
    run.model.eval()
    with torch.no_grad():
        return tuple(run.task.exhibit(as_it_came(run.model, run.spec.method.parameters)))


def _microseconds(step_ns: list[int]) -> dict[str, Any]:
    """Return the median time of a step and its spread; the first ones, which compile and warm up, are left out."""
    settled = [time / 1000 for time in step_ns[min(10, len(step_ns) // 2) :]]
    if not settled:
        return {}
    low, middle, high = quantiles(settled, n=4, method="inclusive") if len(settled) > 1 else settled * 3
    return {"optimizer_us_per_step": middle, "step_spread": StepTimes(low, high, len(settled))}
