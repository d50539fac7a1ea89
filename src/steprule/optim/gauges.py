"""Gauges: what the last step did, in numbers that its passes reduced on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.hooks import RemovableHandle

from ..errors import HyperparameterError
from ..graph.evaluate import evaluate_scalars
from ..graph.gauges import COUNT, MEANINGS, lacking
from ..graph.graph import Gauge
from ..graph.node import Node, make, topological
from ..graph.ops import OPS, Reducer
from ..plan.tables import hyper_columns
from .binding import Binding
from .bucket import Bucket
from .options import Options
from .shards import Crossing
from .slots import STEP

Numbers = NDArray[np.float64]
_UNFINISHED = {"": lambda x, _: x, "sqrt": lambda x, _: x * x, "div": lambda x, n: x * n}
"""What a reduction was before its `finish`, by that: of one number, and the number of elements."""
_DIFFERS = "it differs between parameters"


@dataclass(frozen=True, eq=False)
class Gauges(Mapping[str, float]):
    """The gauges of one step: a mapping from names to numbers of all parameters together.

    >>> import torch, steprule as sr
    >>> model = torch.nn.Linear(3, 1)
    >>> opt = sr.optim.AdamW(model.named_parameters(), clip=1.0, watch=True)
    >>> model(torch.ones(2, 3)).sum().backward()
    >>> opt.step()
    >>> round(opt.gauges()["gradient_norm"], 4), opt.gauges().parameters["bias"]["nonfinite"]
    (4.0, 0.0)

    Norms are those of all elements together, shares are of all elements, counts are sums. NaN stands for what a step
    that was left out has not measured. Printed, they are one line; `rich` prints it in colours.
    Of DTensors they are those of the whole tensors.
    CPU kernels add squares of float32 in runs of 512: an element below 1e-19 counts as 0 there, one above 1e19 as ∞.
    """

    total: dict[str, float]
    parameters: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    """The gauges of each parameter that was stepped, by its name or place."""
    lacking: dict[str, str] = field(default_factory=dict[str, str])
    """Gauges that were asked for, and the reason why there is none."""
    step: int | None = None
    """How many steps a hook has seen."""

    def __getitem__(self, name: str) -> float:
        if name in self.total:
            return self.total[name]
        raise KeyError(f"{name}: {self.lacking.get(name, 'not watched; pass watch=True, or a list of names')}")

    def __iter__(self) -> Iterator[str]:
        return iter(self.total)

    def __len__(self) -> int:
        return len(self.total)

    def __str__(self) -> str:
        return "  ".join(f"{name} {value:.4g}" for name, value in self.items())

    def __rich__(self) -> str:
        shown = (
            f"[dim]{name}[/dim] [{'bold red' if _alarming(name, value) else 'bold'}]{value:.4g}[/]"
            for name, value in self.items()
        )
        return "  ".join(shown)


def _alarming(name: str, value: float) -> bool:
    """Whether a number is a sign of trouble."""
    return not np.isfinite(value) or (name.startswith("stalled") and value > 0.5) or (name == "nonfinite" and value > 0)


class _Reading(NamedTuple):
    """A gauge on the tensors of one bucket: its value, and that of each of its reductions."""

    gauge: Gauge
    values: Numbers
    parts: list[Numbers]


class _Table:
    """What one bucket's tensors have been reduced to, and the numbers beside them."""

    def __init__(self, bucket: Bucket, binding: Binding, *, stopped: bool) -> None:
        self.bucket, self.plan = bucket, bucket.plan
        self.places = [i for i, member in enumerate(bucket.members) if binding.present[member]]
        self.members = [bucket.members[i] for i in self.places]
        self.names = [binding.names[i] for i in self.members]
        self.owners = [binding.parameters[i] for i in self.members]
        self._shapes = [tuple(owner.shape) for owner in self.owners]
        self._sizes = {make(op): np.array([row.meaning(shape) for shape in self._shapes], dtype=np.float64)
                       for op, row in OPS.items() if row.kind == "size"}  # fmt: skip
        self._stopped = stopped
        self.numbers = self._numbers()
        self.reduced = bucket.reduced(self.join)[self.places]
        self._known: dict[Node, Numbers] = {}
        self.apart = [place for place, node in enumerate(self.plan.reductions) if node in self.plan.only_watched]
        """The places of what a step has not joined over processes."""

    def join(self, rows: Sequence[Numbers]) -> Numbers:
        """Return what the elements of a tensor were reduced to, given the row of each of its matrices."""
        with np.errstate(all="ignore"):
            joins = [OPS[node.reducer.combine].meaning.reduce for node in self.plan.reductions]  # type: ignore[attr-defined]
            return np.array([join(column) for join, column in zip(joins, np.stack(rows).T, strict=True)])

    def _numbers(self) -> dict[str, Any]:
        """Return hyperparameters, the step count, and slots as they were before the step."""
        bucket, columns = self.bucket, hyper_columns(self.plan)
        rows = bucket.settings()[self.places]
        found: dict[str, Any] = {name: rows[:, place] for place, name in enumerate(columns)}
        if self.plan.graph.uses_step:
            found["t"] = np.array([float(bucket.states[i][STEP]) for i in self.places])
        return found | {name: held.double().cpu().numpy()[self.places] for name, held in bucket.recalled.items()}

    def _finish(self) -> None:
        """Note every reduction of every tensor; NaN where a guard kept a pass from being made."""
        held = self.bucket.batch.total
        total = held.cpu().numpy() if isinstance(held, torch.Tensor) else held
        early = set(self.plan.passes[0].reductions)
        for place, node in enumerate(self.plan.reductions):
            raw = np.full(len(self.places), total[place]) if node.kind == "global" else self.reduced[:, place]
            with np.errstate(all="ignore"):
                value = np.asarray(node.reducer.finished(np.asarray(raw, np.float64), self.counts(node)))  # type: ignore[arg-type]
            self._known[node] = np.full(len(self.places), np.nan) if self._stopped and node not in early else value

    def counts(self, node: Node) -> Numbers:
        """Return how many numbers of each tensor a reduction is made of."""
        return np.array([node.count(shape) for shape in self._shapes], dtype=np.float64)

    def readings(self) -> dict[str, _Reading]:
        """Return the gauges of this bucket, by name."""
        self._finish()
        return {item.name: self._read(item) for item in self.bucket.compiled.program.gauges}

    def _read(self, item: Gauge) -> _Reading:
        parts = [self._spread(node, self._known) for _, node in item.parts]
        written = dict(zip((node for node, _ in item.parts), parts, strict=True))
        return _Reading(item, self._spread(item.formula, written), parts)

    def _spread(self, node: Node, known: Mapping[Node, Any]) -> Numbers:
        """Return a scalar's value on every tensor."""
        value = evaluate_scalars([node], self.numbers, {**self._sizes, **known})[0]
        return np.broadcast_to(np.asarray(value, np.float64), (len(self.places),))

    def together(self, item: Gauge, totals: Sequence[float]) -> Numbers:
        """Return a gauge on every tensor, with the reductions in it over all tensors."""
        return self._spread(item.formula, dict(zip((node for node, _ in item.parts), totals, strict=True)))


def _joined(reducer: Reducer, values: Numbers, sizes: Numbers) -> float | None:
    """Return the reduction over all tensors, given those of each; None if its `finish` cannot be undone."""
    if reducer.finish not in _UNFINISHED:
        return None
    with np.errstate(all="ignore"):
        raw = _UNFINISHED[reducer.finish](values, sizes)
        joined = OPS[reducer.combine].meaning.reduce(raw, initial=reducer.init)  # type: ignore[attr-defined]
        return float(reducer.finished(np.float64(joined), sizes.sum()))


def _total(pairs: Sequence[tuple[_Table, _Reading]]) -> float | None:
    """Return a gauge over all tensors; None if it has no one value."""
    totals: list[float] = []
    for place, (node, _) in enumerate(pairs[0][1].gauge.parts):
        alike = {reading.gauge.parts[place][0].op for _, reading in pairs if place < len(reading.parts)}
        values = np.concatenate([reading.parts[place] for _, reading in pairs]) if len(alike) == 1 else None
        if values is None or node.kind == "global":
            joined = None if values is None else values[0]
        else:
            sizes = np.concatenate([table.counts(reading.gauge.parts[place][0]) for table, reading in pairs])
            joined = _joined(node.reducer, values, sizes)
        if joined is None:
            return None
        totals.append(float(joined))
    found = np.concatenate([table.together(reading.gauge, totals) for table, reading in pairs])
    return float(found[0]) if np.array_equal(found, np.full_like(found, found[0]), equal_nan=True) else None


def measure(bindings: Sequence[Binding], skipped: float, asked: bool | Sequence[str] | None) -> Gauges:
    """Return the gauges of the last step, of all its bindings; on a device this waits for it."""
    tables, order = list[_Table](), list[str]()
    for binding in bindings:
        own = [_Table(bucket, binding, stopped=binding.left_out()) for bucket in binding.buckets]
        members = sorted(pair for table in own for pair in zip(table.members, table.names, strict=True))
        tables, order = tables + own, order + [name for _, name in members]
    _join_parts(tables)
    found = [(table, table.readings()) for table in tables if table.places]
    total, parameters = dict[str, float](), {name: dict[str, float]() for name in order}
    names = dict.fromkeys(name for _, own in found for name in own)
    why: dict[str, str] = {}
    for name in [*(one for one in MEANINGS if one in names), *(one for one in names if one not in MEANINGS)]:
        pairs = [(table, own[name]) for table, own in found if name in own]
        whole = _total(pairs)
        if whole is None:
            why[name] = _DIFFERS
        else:
            total[name] = whole
        for table, reading in pairs:
            if not reading.gauge.whole:
                for member, value in zip(table.names, reading.values.tolist(), strict=True):
                    parameters[member][name] = value
    total[COUNT] = skipped
    missing = {name: told for table in tables for name, told in _missing(table.bucket, asked).items()}
    return Gauges(total, parameters, {name: told for name, told in (missing | why).items() if name not in total})


def _join_parts(tables: Sequence[_Table]) -> None:
    """Reduce DTensors over the processes that have parts of them, in an order that all of these agree on."""
    cells = [(member, table, row) for table in tables for row, member in enumerate(table.members)]
    cells.sort(key=itemgetter(0))
    kept = [table.apart for _, table, _ in cells]
    parts = [(table.owners[row], [table.plan.reductions[place].reducer.combine for place in own])
             for (_, table, row), own in zip(cells, kept, strict=True)]  # fmt: skip
    numbers = [table.reduced[row, own] for (_, table, row), own in zip(cells, kept, strict=True)]
    found = Crossing(parts)(torch.from_numpy(np.concatenate([*numbers, np.zeros(0)]))).numpy()
    for (_, table, row), own in zip(cells, kept, strict=True):
        table.reduced[row, own], found = found[: len(own)], found[len(own) :]


def _missing(bucket: Bucket, asked: bool | Sequence[str] | None) -> dict[str, str]:
    """Say why gauges that were asked for are not there."""
    program, graph = bucket.compiled.program, bucket.plan.graph
    why = lacking(graph)
    held = {one.name: one for one in graph.gauges}
    for name in held.keys() - {one.name for one in program.gauges}:
        stored = next(str(n.attr) for n in topological([held[name].formula]) if n.kind == "stored")
        why[name] = f"what a store leaves in `{stored}` is what was computed"
    wanted = set(MEANINGS) if asked is True else set(asked or ())
    return {name: told for name, told in why.items() if name in wanted}


def merged(counters: list[torch.Tensor], *, graphs: bool) -> list[torch.Tensor]:
    """Add up the counters of all bindings but the last one's, unless CUDA graphs may still count in them."""
    past = counters[:-1]
    if graphs or len(past) < 2 or len({own.device for own in past}) > 1:
        return counters
    return [torch.stack(past).sum(), counters[-1]]


def hooked(hook: Callable[[Gauges], Any], every: int) -> Callable[..., None]:
    """Return a hook for torch that reads the gauges of every so many steps."""
    if type(every) is not int or every < 1:
        raise HyperparameterError(f"every is {every!r}", fix="give a whole number of steps, from 1")
    steps = 0

    def after(optimizer: Any, *_: Any) -> None:
        nonlocal steps
        steps += 1
        if steps % every == 0:
            hook(replace(optimizer.gauges(), step=steps))

    return after


class TensorBoardGauges:
    """Write gauges for TensorBoard: a hook for `register_gauges_hook`.

    >>> import torch, steprule as sr
    >>> class Shown:  # stands for torch.utils.tensorboard.SummaryWriter("runs/1")
    ...     def add_scalar(self, tag, value, step):
    ...         print(tag, round(value, 3), step)
    >>> p = torch.nn.Parameter(torch.ones(4))
    >>> p.grad = torch.ones(4)
    >>> opt = sr.optim.SGD([p], lr=0.1, watch=["update_norm"])
    >>> handle = opt.register_gauges_hook(sr.TensorBoardGauges(Shown()))
    >>> opt.step()
    gauges/update_norm 0.2 1
    gauges/skipped 0.0 1

    `writer` is whatever has `add_scalar(tag, value, step)`. Steps are counted from `first`, the number of those before:
    give it when a run goes on. `parameters=True` also writes each parameter's, as `update_norm/name`. NaN, of what a
    step has not measured, is left out.
    """

    def __init__(self, writer: Any, *, first: int = 0, parameters: bool = False) -> None:
        self._writer, self._first, self._parameters = writer, first, parameters
        self._calls = 0

    def __call__(self, gauges: Gauges) -> None:
        """Write the gauges of a step."""
        self._calls += 1
        step = self._first + (self._calls if gauges.step is None else gauges.step)
        told = {f"gauges/{name}": value for name, value in gauges.items()}
        if self._parameters:
            own = gauges.parameters.items()
            told |= {f"{name}/{parameter}": value for parameter, found in own for name, value in found.items()}
        for tag, value in told.items():
            if not np.isnan(value):
                self._writer.add_scalar(tag, value, step)


class Gauging(torch.optim.Optimizer):
    """An optimiser that tells what its last step did."""

    _busy: AbstractContextManager[Any]
    _options: Options
    _skipped: int
    _skipped_there: list[torch.Tensor]

    def _last_bindings(self) -> Sequence[Binding]:
        """List the bindings of the last step."""
        raise NotImplementedError

    def gauges(self) -> Gauges:
        """Return what the last step did: norms, ratios, coefficients and counts, in total and by parameter.

        >>> import torch, steprule as sr
        >>> model = torch.nn.Linear(2, 1)
        >>> opt = sr.Optimizer(model.parameters(), sr.board.adam, lr=0.1, clip=1.0)
        >>> model(torch.ones(1, 2)).sum().backward()
        >>> opt.step()
        >>> {name: round(value, 3) for name, value in opt.gauges().items()}
        {'gradient_norm': 1.732, 'clip_coefficient': 0.577, 'clipped': 1.0, 'skipped': 0.0}

        The norm that clipping needs, and the number of steps left out since this object was made, are there without
        asking; `watch` asks for more. Reading waits for a GPU; steps do not. Of DTensors, it is the reading that sends
        what parts were reduced to: every process must call it.
        """
        with self._busy:
            skipped = sum(map(float, self._skipped_there), float(self._skipped))
            return measure(self._last_bindings(), skipped, self._options.watch)

    def register_gauges_hook(self, hook: Callable[[Gauges], Any], *, every: int = 1) -> RemovableHandle:
        """Call `hook(gauges)` after every step, or every so many; the returned handle removes it.

        >>> import torch, steprule as sr
        >>> opt = sr.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1, watch=["update_norm"])
        >>> handle = opt.register_gauges_hook(lambda gauges: print(gauges), every=10)
        >>> handle.remove()

        `gauges.step` is the number of steps that the hook has seen. Like torch's hooks it is not part of a checkpoint.
        Raises `HyperparameterError` if `every` is no whole number from 1.
        """
        return self.register_step_post_hook(hooked(hook, every))
