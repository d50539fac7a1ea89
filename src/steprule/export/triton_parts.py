"""What a file of Triton is made of: the program of a subject, its kernels, its numbers and its slots."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..backends.triton_build import current_build
from ..errors import BackendError
from ..graph.graph import Graph, Hyper
from ..optim.compiled import Kernels
from ..optim.prepared import seen
from ..optim.settings import Reading, plain
from ..plan.program import Program, lower
from ..plan.schedule import schedule
from ..plan.storage import REMAINDER, layout
from .subject import Subject
from .triton_kernels import FileKernels

_TORCH = 'export it to="torch", which has no such limit'


@dataclass(frozen=True)
class HyperInGroup:
    """A hyperparameter in a group: its declaration, the key under which it stands, and its place in a tuple there."""

    hyper: Hyper
    key: str
    place: int | None = None
    optional: bool = False
    """Whether None stands for 0."""

    @property
    def read(self) -> str:
        """How Python reads it."""
        found = f'group["{self.key}"]' + ("" if self.place is None else f"[{self.place}]")
        return f"{found} or 0.0" if self.optional else found


@dataclass(frozen=True)
class Parts:
    """All that a file is written from."""

    subject: Subject
    program: Program
    kernels: FileKernels
    numbers: tuple[HyperInGroup, ...]
    defaults: Mapping[str, Any]
    """What a group has if it says nothing else."""
    starts: Mapping[str, str]
    """Slots that start from a hyperparameter, and how Python reads it."""
    count: torch.dtype
    """The type of step counts and host slots in the state."""
    watched: bool

    @property
    def graph(self) -> Graph:
        """The formula."""
        return self.program.plan.graph


def parts_of(subject: Subject) -> Parts:
    """Return what a file is made of. Raises `BackendError` for what no such file can do."""
    optimizer = subject.optimizer
    chosen = {id(own): own for own in map(optimizer._choose, optimizer.param_groups)}  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    if len(chosen) > 1:
        raise _refused(subject, "steps its groups by several rules")
    (own,) = chosen.values()
    dtypes = {p.dtype for group in optimizer.param_groups for p in group["params"]}
    if len(dtypes) > 1:
        raise _refused(subject, f"has parameters of several types, {', '.join(sorted(map(str, dtypes)))}")
    _check(subject, own)
    graph, options = replace(own.plan.graph, gauges=()), subject.options
    dtype = str(dtypes.pop()).removeprefix("torch.")
    plan = schedule(seen(graph, replace(options, watch=False)))
    program = lower(plan, layout(plan.graph, dtype, options.rounding, options.state))
    _check_program(subject, program)
    kernels = FileKernels(program, current_build(), options.seed)
    group = optimizer.param_groups[0]
    numbers = tuple(_found(subject, own, group, at) for at, one in enumerate(graph.hypers) if not one.told)
    starts = {name: _key(subject, read, group, name) for name, read in own.inits.items()}
    defaults = {one.key: _plain(group.get(one.key, one.hyper.value)) for one in (*numbers, *starts.values())}
    told = {name: one.read for name, one in starts.items()}
    return Parts(subject, program, kernels, numbers, defaults, told, own.host_dtype, bool(own.plan.graph.gauges))


def _plain(value: Any) -> Any:
    return tuple(map(plain, value)) if isinstance(value, tuple | list) else plain(value)  # pyright: ignore[reportUnknownArgumentType]


def _refused(subject: Subject, why: str) -> BackendError:
    return BackendError(f"`{subject.name}` {why}: no file of Triton does that", where="  export to triton", fix=_TORCH)


def _check(subject: Subject, own: Kernels) -> None:
    """Refuse rules that are more than passes over elements, whatever their types."""
    graph, options = own.formula.graph, subject.options
    if graph.implicit or graph.first:
        raise _refused(subject, "takes gradients at other points than where the parameters are")
    if own.others:
        raise _refused(subject, "has another rule for tensors of some shapes")
    if options.nonfinite != "propagate":
        raise _refused(subject, f'has nonfinite="{options.nonfinite}"')


def _check_program(subject: Subject, program: Program) -> None:
    """Refuse programs that are more than passes over elements."""
    if any(loop.calls for loop in program.loops) or program.matrices:
        raise _refused(subject, "calls functions of matrices")
    if program.plan.axes:
        raise _refused(subject, "keeps numbers that are one a row or column")
    if program.grouped:
        raise _refused(subject, f"keeps {', '.join(program.grouped)} in 8 bits")
    if why := FileKernels.lacks(program):
        raise _refused(subject, f"has no kernel ({why})")


def _found(subject: Subject, own: Kernels, group: dict[str, Any], at: int) -> HyperInGroup:
    hyper = own.plan.graph.hypers[at]
    return replace(_key(subject, own.readers[at], group, hyper.name), hyper=hyper)


def _key(subject: Subject, read: Callable[[dict[str, Any]], Any], group: dict[str, Any], name: str) -> HyperInGroup:
    """Find out where a reader looks: give it groups in which one value is another."""
    reading, other = Reading(dict(group)), object()
    read(reading)
    for key in sorted(reading.asked, key=lambda key: key != name):
        if read({**group, key: other}) is other:
            return HyperInGroup(Hyper(name), key, optional=read({**group, key: None}) == 0.0)
        value: Any = group.get(key)
        for place in range(len(value)) if isinstance(value, tuple | list) else ():  # pyright: ignore[reportUnknownArgumentType]
            if read({**group, key: [*value[:place], other, *value[place + 1 :]]}) is other:
                return HyperInGroup(Hyper(name), key, place)
    raise _refused(subject, f"computes `{name}` of what its groups hold")


def _filled(start: str, dtype: str) -> str:
    return f"torch.zeros_like(p, dtype={dtype})" if start == "0.0" else f"torch.full_like(p, {start}, dtype={dtype})"


def slots_of(parts: Parts) -> list[tuple[str, str, str]]:
    """List what the state of a parameter holds: the name, where it varies, how Python makes it."""
    graph, program = parts.graph, parts.program
    found = [("step", "host", f"torch.tensor(0.0, dtype={parts.count})")] if graph.uses_step else []
    forms = {name: f"torch.{form.dtype}" for name, form in program.layout.slots}
    for slot in graph.slots:
        start = parts.starts.get(slot.name) or (slot.init if isinstance(slot.init, str) else repr(float(slot.init)))
        word, dtype = slot.rank.word, forms.get(slot.name, str(parts.count))
        made = {
            "host": f"torch.tensor({start}, dtype={dtype})",
            "element": f"p.to({dtype}, copy=True)" if start == "theta" else _filled(start, dtype),
        }.get(word, f"torch.full((), {start}, dtype={dtype}, device=p.device)")
        found.append((slot.name, word, made))
    if beside := program.layout.parameter.beside:
        found.append((REMAINDER, "element", f"torch.zeros_like(p, dtype=torch.{beside})"))
    return found
