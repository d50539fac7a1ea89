"""What runs: one object a plan, dtype, device and backend. Batches are made of it, and `explain` quotes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ..backends import BACKENDS
from ..backends.base import Kernel
from ..graph.node import Rank
from ..plan.program import Program, lowered
from ..plan.schedule import Plan
from ..rule import Formula
from .tensors import Entry, route

NOBODY = "none"
"""The backend of what is not run."""
Reader = Callable[[dict[str, Any]], Any]
"""Reads one hyperparameter of a param group."""


@dataclass(frozen=True, eq=False)
class Compiled:
    """A plan as it runs on tensors of one kind: who runs it, why, and the code; nobody has none."""

    formula: Formula
    plan: Plan
    dtype: torch.dtype
    device: torch.device
    backend: str
    reason: str
    program: Program
    kernel: Kernel | None

    @property
    def source(self) -> str:
        """The text of the kernel; nothing where torch operations run."""
        return "" if self.kernel is None else self.kernel.source


@dataclass
class Kernels:
    """All that runs one plan, a kernel a dtype, compiled when first needed; `readers` find its hyperparameters."""

    formula: Formula
    plan: Plan
    readers: tuple[Reader, ...]
    host_dtype: torch.dtype = torch.float64
    inits: Mapping[str, Reader] = field(default_factory=dict[str, Reader])
    """Slots that start from a hyperparameter, and how it is read."""
    capturable: bool = False
    """Whether hyperparameters that are tensors on a device stay there, unread, for CUDA graphs."""
    _kernels: dict[tuple[str, torch.dtype], Kernel] = field(default_factory=dict[tuple[str, torch.dtype], Kernel])
    _compiled: dict[tuple[Any, ...], Compiled] = field(default_factory=dict[tuple[Any, ...], Compiled])

    def for_entry(self, entry: Entry, state: Mapping[str, Any], forced: str | None) -> Compiled:
        """Return what updates a parameter whose slots are laid out as it is."""
        slots = [slot for slot in self.plan.graph.slots if slot.rank is not Rank.HOST]
        own, singles = ([state[slot.name] for slot in slots if slot.single is wide] for wide in (False, True))
        return self._runs(entry.parameter, *route(entry, own, forced, singles))

    def refused(self, parameter: torch.Tensor, why: str) -> Compiled:
        """Return what stands for a parameter that a step refuses."""
        return self._runs(parameter, NOBODY, f"a parameter {why}: a step refuses it")

    def _runs(self, parameter: torch.Tensor, backend: str, reason: str) -> Compiled:
        key = (parameter.dtype, parameter.device, backend, reason)
        if key not in self._compiled:
            program = lowered(self.plan, str(parameter.dtype).removeprefix("torch."))
            kernel = self._kernel(backend, parameter.dtype, program)
            self._compiled[key] = Compiled(self.formula, self.plan, *key, program, kernel)
        return self._compiled[key]

    def _kernel(self, backend: str, dtype: torch.dtype, program: Program) -> Kernel | None:
        """Return the kernel of a dtype, the same for all devices."""
        key = (backend, dtype)
        if key not in self._kernels and backend in BACKENDS:
            self._kernels[key] = BACKENDS[backend].kernel(program, capturable=self.capturable)
        return self._kernels.get(key)
