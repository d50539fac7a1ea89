"""Explain: everything the compiler knows about a rule, for a person and for a program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..backends.numba_cpu import CpuKernel
from ..backends.triton_gpu import NAME as TRITON
from ..backends.triton_gpu import TritonKernel
from ..errors import RuleError
from ..graph.look_ahead import look_ahead
from ..graph.show import equations, formula, latex, one_line
from ..plan.schedule import Pass, Plan, schedule, summary
from ..rule import Program, Transform
from .optimizer import Optimizer
from .tensors import KERNEL_REASON, Entry, label, route

_DEFAULT = (torch.float32, "numba_cpu", KERNEL_REASON)
KEYS = ("formula", "latex", "passes", "bytes_per_parameter", "state_bytes_per_parameter", "backend", "reason", "source")


@dataclass(frozen=True)
class Explanation:
    """What a rule is and how it runs; sizes are of float32 unless `dtype` says otherwise."""

    name: str
    formula: str
    latex: str
    equations: tuple[str, ...]
    passes: tuple[dict[str, Any], ...]
    bytes_per_parameter: int
    state_bytes_per_parameter: int
    backend: str
    reason: str
    source: str
    dtype: str = "float32"

    def as_json(self) -> dict[str, Any]:
        """Return the facts as plain data, under fixed keys."""
        return {key: list(value) if isinstance(value := getattr(self, key), tuple) else value for key in KEYS}

    def __str__(self) -> str:
        lines = [self.name, "", *("    " + line for line in self.formula.splitlines()), ""]
        for item in self.passes:
            cost = f"{item['bytes_per_parameter']} bytes, {item['flops_per_parameter']} flops a parameter"
            lines.append(f"pass {item['index']}: {item['summary']} ({cost})")
        if self.passes:
            count = f"{len(self.passes)} pass" + "es" * (len(self.passes) != 1)
            lines.append(f"{count}, {self.bytes_per_parameter} bytes a parameter in {self.dtype}; "
                         f"state: {self.state_bytes_per_parameter} bytes a parameter")  # fmt: skip
        lines.append(f"backend: {self.backend} ({self.reason})")
        return "\n".join(lines)


def _facts(plan: Plan, item: Pass, itemsize: int) -> dict[str, Any]:
    return {
        "index": item.index,
        "summary": summary(item, plan.graph),
        "reads": list(item.reads),
        "writes": [name for name, _ in item.writes],
        "reductions": [one_line(node, plan.graph) for node in item.reductions],
        "bytes_per_parameter": item.bytes_per_parameter(itemsize),
        "flops_per_parameter": item.flops,
    }


def _of_optimizer(optimizer: Optimizer) -> tuple[torch.dtype, str, str]:
    """Return the dtype, backend and reason of what an optimiser would run now; eager if that is so anywhere."""
    found: list[tuple[torch.dtype, str, str]] = []
    for i, group in enumerate(optimizer.param_groups):
        names = [slot.name for slot in optimizer.program_of(group).graph.element_slots]
        for j, parameter in enumerate(group["params"]):
            state = optimizer.state.get(parameter, {})
            slots = [state[name] for name in names if name in state]
            backend, reason = route(Entry(label(group, i, j), i, parameter, parameter), slots, optimizer.backend)
            found.append((parameter.dtype, backend, reason))
    return next((item for item in found if item[1] == "eager"), found[0] if found else _DEFAULT)


def explain(program: Program | Optimizer) -> Explanation:
    """Show a rule's formula, passes, bytes, generated source, and which backend runs it and why.

    >>> import steprule as sr
    >>> told = sr.explain(sr.chain(sr.clip_global_norm(max_norm=1.0), sr.board.adam(lr=1e-3)))
    >>> len(told.passes), told.bytes_per_parameter, told.state_bytes_per_parameter
    (2, 32, 8)

    Takes a rule, a chain, a transform or an optimiser. `str()` of the result is for people,
    `as_json()` for programs. For a rule with a look-ahead, passes and source are those of the
    closure-free form.
    """
    dtype, backend, reason = _DEFAULT
    if isinstance(program, Optimizer):
        dtype, backend, reason = _of_optimizer(program)
        program = program.program_of(program.param_groups[0])
    if not isinstance(program, Program):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise RuleError(f"{program!r} is no rule, chain, transform or optimiser", fix="explain(board.adam)")
    graph = program.graph
    if isinstance(program, Transform):
        return Explanation(program.name, formula(graph), latex(graph), equations(graph), (), 0, 0, "none",
                           "a transform runs inside a rule's kernel: chain it with one", "")  # fmt: skip
    paths = look_ahead(graph)
    plan = schedule(paths.closure_free if paths else graph)
    itemsize = dtype.itemsize
    kinds: dict[str, Any] = {"numba_cpu": CpuKernel, TRITON: TritonKernel}
    source = kinds[backend](plan, dtype).source if backend in kinds else ""
    return Explanation(
        name=program.name,
        formula=formula(graph),
        latex=latex(graph),
        equations=equations(graph),
        passes=tuple(_facts(plan, item, itemsize) for item in plan.passes),
        bytes_per_parameter=sum(item.bytes_per_parameter(itemsize) for item in plan.passes),
        state_bytes_per_parameter=itemsize * len(plan.graph.element_slots),
        backend=backend,
        reason=reason,
        source=source,
        dtype=str(dtype).removeprefix("torch."),
    )
