"""Explain: all facts about a rule or a running optimiser, for a person and for a program."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from math import prod
from typing import Any

import torch

from ..backends import EAGER
from ..errors import RuleError
from ..graph.show import equations, formula, latex, one_line
from ..graph.twice import paths
from ..plan.groups import ALL
from ..plan.program import Loop, Program, lowered
from ..plan.schedule import Pass, Plan, schedule, summary
from ..plan.storage import REMAINDER, STATES, Layout, layout, state_bytes, state_bytes_once
from ..rule import Formula, Transform
from .compiled import NOBODY, Compiled, Kernels
from .means import Means, means
from .optimizer import Optimizer, Running
from .roles import Route, table
from .tensors import at_home

KEYS = ("formula", "latex", "passes", "bytes_per_parameter", "state_bytes_per_parameter", "backend", "reason", "source")
RULE_KEYS = (*KEYS[:5], "state_bytes_in", *KEYS[5:])
GROUP_KEYS = ("group", "tensors", "parameters", "dtype", "storage", "device", *KEYS)
FORMATS = tuple(word for word in STATES if word != ALL)
"""The formats of state in which a rule is told; one of a word for more parameters has the same bytes."""


@dataclass(frozen=True)
class Explanation:
    """A rule's formula, passes and code; sizes are of float32 unless `dtype` says otherwise.

    That of an optimiser has `groups`: an explanation for the parameters of each group, dtype, device and backend, with
    their number. It is itself the first of them, or the first that has no kernel, or that a step refuses.

    >>> import steprule as sr
    >>> print(sr.explain(sr.board.momentum))
    momentum
    <BLANKLINE>
        mₜ = (1 − β) g + β mₜ₋₁
        θₜ = θₜ₋₁ − η mₜ
    <BLANKLINE>
    pass 0: reads theta, m, g; writes theta, m (20 bytes, 5 flops a parameter)
    1 pass, 20 bytes a parameter in float32; state: 4 bytes a parameter
    state may take 2 in bfloat16, 1.03125 in 8bit
    backend: numba_cpu (parameters in main memory run one compiled kernel)
    """

    name: str
    formula: str
    latex: str
    equations: tuple[str, ...]
    passes: tuple[dict[str, Any], ...]
    bytes_per_parameter: float
    state_bytes_per_parameter: float
    backend: str
    reason: str
    source: str
    scratch_bytes_per_parameter: float = 0
    """What passes and functions of matrices hand to each other, allocated once beside the state."""
    state_bytes_once: float = 0
    """What is kept once for all tensors: numbers of rank global."""
    matrix_bytes: int = 0
    """Of parameters of an optimiser, what slots take that are matrices of rows by rows or columns by columns."""
    elsewhere: bool = False
    """Whether a step also moves parameters to the point of its gradient and back, which no pass counts."""
    storage: str = "float32"
    """How parameters and state lie in memory, and how results are rounded to that; the formula says nothing of it."""
    dtype: str = "float32"
    device: str = "cpu"
    group: int = 0
    tensors: int = 0
    parameters: int = 0
    groups: tuple[Explanation, ...] = ()
    state_bytes_in: dict[str, float] = field(default_factory=dict[str, float])
    """Of a rule, the bytes of its state a parameter in each format that `state=` may ask for."""
    routes: tuple[Route, ...] = ()
    """Of an optimiser with rules by role, the role of each parameter, its rule, and what shows it."""
    means: Means | None = field(default=None, compare=False)
    """The means of an optimiser's steps: whether anything makes them slower than they could be, and why."""

    def as_json(self) -> dict[str, Any]:
        """Return the facts as JSON data, under fixed keys; of an optimiser also those of `means` and of `groups`."""
        steps = {} if self.means is None else self.means.as_json()
        groups = {"groups": [_pick(one, GROUP_KEYS) for one in self.groups]} if self.groups else {}
        routes = {"routes": list(map(asdict, self.routes))} if self.routes else {}
        return _pick(self, RULE_KEYS if self.state_bytes_in else KEYS) | steps | groups | routes

    def __str__(self) -> str:
        slower = [] if self.means is None else self.means.slower()
        if len(self.groups) < 2:
            blocks = [[self.name, *_lines(self), *slower], table(self.routes)]
        else:
            alike: dict[tuple[str, ...], list[Explanation]] = {}
            for one in self.groups:
                alike.setdefault((one.name, *_lines(one)), []).append(one)
            told = [[f"{name}, {_places(found)}", *lines] for (name, *lines), found in alike.items()]
            blocks = [*told, slower, table(self.routes)]
        return "\n\n".join("\n".join(lines) for lines in blocks if lines)


def _pick(one: Explanation, keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value := getattr(one, key), tuple) else value for key in keys}


def _lines(one: Explanation) -> list[str]:
    """Word all but the name."""
    lines = ["", *("    " + line for line in one.formula.splitlines()), ""]
    for item in one.passes:
        cost = f"{item['bytes_per_parameter']:g} bytes, {item['flops_per_parameter']} flops a parameter"
        lines.append(f"pass {item['index']}: {item['summary']} ({cost})")
    if one.passes:
        once = f", {one.state_bytes_once:g} bytes for all tensors" if one.state_bytes_once else ""
        count = f"{len(one.passes)} pass" + "es" * (len(one.passes) != 1)
        lines.append(f"{count}, {one.bytes_per_parameter:g} bytes a parameter in {one.dtype}; "
                     f"state: {one.state_bytes_per_parameter:g} bytes a parameter{once}")  # fmt: skip
        lines[-1] += f", and {one.matrix_bytes:,} bytes of matrices besides" if one.matrix_bytes else ""
        scratch = one.scratch_bytes_per_parameter
        lines += [f"scratch for functions of matrices: {scratch:g} bytes a parameter"] if scratch else []
    if others := [f"{size:g} in {form}" for form, size in one.state_bytes_in.items() if form != one.dtype and size]:
        lines.append(f"state may take {', '.join(others)}")
    if one.elsewhere:
        lines.append("a step also moves parameters to the point of its gradient and back, in torch operations")
    if one.storage != one.dtype:
        lines.append(f"stored: {one.storage}")
    return [*lines, f"backend: {one.backend} ({one.reason})"]


def _places(found: list[Explanation]) -> str:
    """Say which parameters are explained alike: their groups, their number, where they are."""
    groups = sorted({one.group for one in found})
    tensors, numbers = sum(one.tensors for one in found), sum(one.parameters for one in found)
    told = f"group{'s' * (len(groups) > 1)} {', '.join(map(str, groups))}"
    devices = ", ".join(dict.fromkeys(one.device for one in found))
    return f"{told}: {tensors} tensor{'s' * (tensors != 1)}, {numbers:,} numbers, {found[0].dtype} on {devices}"


def _facts(plan: Plan, item: Pass, loop: Loop) -> dict[str, Any]:
    return {
        "index": item.index,
        "summary": summary(item, plan.graph),
        "reads": list(item.reads),
        "writes": [name for name, _ in item.writes],
        "reductions": [one_line(node, plan.graph) for node in item.reductions],
        "bytes_per_parameter": loop.bytes_per_parameter,
        "flops_per_parameter": item.flops,
    }


def _of(made: Formula, program: Program, **runs: Any) -> Explanation:
    """Explain a formula by the program that is made of it; `runs` says who runs that."""
    graph, plan = made.graph, program.plan
    passes = tuple(_facts(plan, item, loop) for item, loop in zip(plan.passes, program.loops, strict=True))
    return Explanation(
        name=made.name,
        formula=formula(graph),
        latex=latex(graph),
        equations=equations(graph),
        passes=passes,
        bytes_per_parameter=program.bytes_per_parameter,
        state_bytes_per_parameter=program.state_bytes_per_parameter,
        scratch_bytes_per_parameter=program.scratch_bytes_per_parameter,
        state_bytes_once=state_bytes_once(graph, program.layout),
        elsewhere=bool(graph.first) or graph.implicit,
        storage=_storage(program.layout),
        dtype=program.layout.parameter.dtype,
        **runs,
    )


def _kept(own: Layout) -> str:
    more = "8 more bits in `{}`, together 24 bits" if own.parameter.more else "16 more bits in `{}`, together float32"
    return f"{own.parameter.dtype} and {more.format(REMAINDER)}"


def _storage(own: Layout) -> str:
    """Word a layout: the parameter's format, that of slots which have another, and the rounding if anything is lost."""
    parameter, same = own.parameter.dtype, "" if own.parameter.beside else own.parameter.dtype
    told = [parameter if same else _kept(own)]
    slots = {name: "8 bits" if form.grouped else form.dtype for name, form in own.slots}
    others = sorted(set(slots.values()) - {same})
    told += [f"{', '.join(f'`{name}`' for name in slots if slots[name] == other)} in {other}" for other in others]
    formats = (own.parameter, *(form for _, form in own.slots))
    lost = sum(form.narrow for form in formats) - len(own.drawn)
    told[-1] += ", rounded to the nearest" if lost else ""
    if own.drawn:
        names = ", ".join(f"`{name}`" for name, _ in own.slots if name in own.drawn)
        told[-1] += f", {names} stochastically" if lost else ", rounded stochastically"
    return "; ".join(told)


def _of_group(index: int, kernels: Kernels, running: list[Running]) -> Iterator[Explanation]:
    """Explain a group: once for all parameters that the same object updates."""
    alike: dict[Compiled, list[torch.Tensor]] = {}
    for parameter, compiled in running:
        alike.setdefault(compiled, []).append(parameter)
    for compiled, parameters in alike.items():
        yield _of(
            compiled.formula, compiled.program, group=index, tensors=len(parameters),
            parameters=sum(map(_count, parameters)), matrix_bytes=_matrices(kernels, compiled, parameters),
            backend=compiled.backend, reason=compiled.reason, source=compiled.source, device=str(compiled.device),
        )  # fmt: skip
    if not running:
        yield _of(kernels.formula, lowered(kernels.plan), group=index, backend=NOBODY, source="",
                  reason="no parameter of this group can have a gradient")  # fmt: skip


def _matrices(kernels: Kernels, compiled: Compiled, parameters: list[torch.Tensor]) -> int:
    """Return the bytes of slots whose size is that of a side, not of the parameter."""
    forms = dict(compiled.program.layout.slots)
    slots = [slot for slot in compiled.plan.graph.slots if slot.rank.apart]
    sizes = (prod(kernels.of(own).shape(slot, own.shape)) * forms[slot.name].bytes
             for slot in slots for own in parameters if _count(own))  # fmt: skip
    return int(sum(sizes))


def _count(parameter: torch.Tensor) -> int:
    return 0 if isinstance(parameter, torch.nn.UninitializedParameter) else parameter.numel()


def _worst_first(told: Explanation) -> int:
    """Order what is refused before what has no kernel, that before what has, and that before what is nothing."""
    return (0 if told.backend == NOBODY else 2 if told.source else 1) if told.tensors else 3


def _of_optimizer(optimizer: Optimizer) -> Explanation:
    """Explain every group by the objects that run on it."""
    found = optimizer._running()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    groups = [told for index, (kernels, running) in enumerate(found) for told in _of_group(index, kernels, running)]
    first = min(groups, key=_worst_first)
    binding = optimizer._binding  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    return replace(first, groups=tuple(groups), routes=tuple(optimizer.routes.values()), means=means(binding))


def explain(program: Formula | Optimizer) -> Explanation:
    """Show a rule's formula, passes, bytes, generated source, and which backend runs it and why.

    >>> import steprule as sr
    >>> told = sr.explain(sr.chain(sr.clip_global_norm(max_norm=1.0), sr.board.adam(lr=1e-3)))
    >>> len(told.passes), told.bytes_per_parameter, told.state_bytes_per_parameter
    (2, 32, 8)
    >>> told.state_bytes_in
    {'float32': 8, 'bfloat16': 4, '8bit': 2.0625}

    Takes a rule, a chain, a transform or an optimiser. `str()` of the result is for people, `as_json()` for programs.
    An optimiser is asked what it runs: guards, the types of its parameters and of its state as they are now, and every
    group are in the answer, in `groups`. For a rule with a look-ahead, passes and source are those of the closure-free
    form, unless the optimiser's last step had a closure. Nothing is compiled or changed. Raises `RuleError` for
    anything else, and what the next step would raise where a backend was forced that cannot take a parameter.
    """
    if isinstance(program, Optimizer):
        return _of_optimizer(program)
    if not isinstance(program, Formula):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise RuleError(f"{program!r} is no rule, chain, transform or optimiser", fix="explain(board.adam)")
    graph = program.graph
    if isinstance(program, Transform):
        return Explanation(program.name, formula(graph), latex(graph), equations(graph), (), 0, 0, "none",
                           "a transform runs inside a rule's kernel: chain it with one", "")  # fmt: skip
    ways = paths(graph)
    own = lowered(schedule(ways.stored if ways else graph))
    device = torch.device("cpu")
    backend = at_home(device)
    kept = {form: state_bytes(graph, layout(graph, "float32", state=form)) for form in FORMATS}
    if lacking := backend.lacks(own):
        return _of(program, own, backend=EAGER.name, reason=lacking, source="", state_bytes_in=kept)
    source, reason = backend.kernel(own).source, backend.reason(device)
    return _of(program, own, backend=backend.name, reason=reason, source=source, state_bytes_in=kept)
