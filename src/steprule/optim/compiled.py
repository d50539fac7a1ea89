"""The code that runs: one object a program, device and backend. It makes batches, and `explain` quotes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..backends import BACKENDS
from ..backends.base import Backend, Kernel, Place, Where
from ..graph.chance import parameter_seed
from ..plan.groups import WORDS, words_of
from ..plan.program import Program, lower
from ..plan.schedule import Plan
from ..plan.storage import CODES, KEEPING, beside, format_of, layout
from ..plan.tables import array_rows
from ..rule import Formula
from .options import Options
from .shards import in_order, lies_in, local
from .tensors import Entry, backend_of, name_of

NOBODY = "none"
"""The backend of a plan that does not run."""
Reader = Callable[[dict[str, Any]], Any]
"""Reads one hyperparameter of a param group."""
Kinds = tuple[torch.dtype, ...]
"""The types of a parameter and of its slots in memory, in order."""
_SCATTERED = "what draws counts elements row by row in the whole tensor, and memory has another order"

_IN_ROWS = "kernels walk over rows one element after another, and memory has another order"


@dataclass(frozen=True, eq=False)
class Compiled:
    """A plan as it runs on tensors of one kind: its backend, the reason for it, and the code."""

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
        """The text of the kernel, or "" for torch operations."""
        return "" if self.kernel is None else self.kernel.source

    @property
    def slots(self) -> list[str]:
        """The tensors of a state for a batch: slots in memory, and the remainder beside the parameter."""
        return list(self.program.tensors[2:])


@dataclass
class Kernels:
    """All that runs one plan, a kernel a layout, compiled when first needed; `readers` find its hyperparameters."""

    formula: Formula
    plan: Plan
    readers: tuple[Reader, ...]
    options: Options = field(default_factory=Options)
    host_dtype: torch.dtype = torch.float64
    inits: Mapping[str, Reader] = field(default_factory=dict[str, Reader])
    """Slots that start from a hyperparameter, and how it is read."""
    flat: Kernels | None = None
    """What runs for parameters of fewer than two dimensions, if that is another rule with the same hyperparameters."""
    _types: dict[Any, dict[str, torch.dtype]] = field(default_factory=dict[Any, dict[str, torch.dtype]])
    _programs: dict[Kinds, Program] = field(default_factory=dict[Kinds, Program])
    _lacking: dict[tuple[str, Kinds], str] = field(default_factory=dict[tuple[str, Kinds], str])
    _kernels: dict[tuple[str, Kinds], Kernel] = field(default_factory=dict[tuple[str, Kinds], Kernel])
    _compiled: dict[tuple[Any, ...], Compiled] = field(default_factory=dict[tuple[Any, ...], Compiled])

    def of(self, parameter: torch.Tensor) -> Kernels:
        """Return what runs for a parameter."""
        return self if self.flat is None or parameter.ndim > 1 else self.flat

    def keeps(self, dtype: torch.dtype) -> torch.dtype | None:
        """Return the type of the remainder that is kept beside parameters of a type, if one is."""
        rounding = self.options.rounding
        own = format_of(beside(name_of(dtype), rounding)).beside if rounding in KEEPING else ""
        return getattr(torch, own) if own else None

    def types(self, dtype: torch.dtype, shape: Sequence[int]) -> Mapping[str, torch.dtype]:
        """Return the types of new slots in memory beside a parameter of a type and a whole shape, by name."""
        key = (dtype, words_of(shape))
        if key not in self._types:
            own = layout(self.plan.graph, name_of(dtype), state=self.options.state, groups=key[1])
            self._types[key] = {name: getattr(torch, form.dtype) for name, form in own.slots}
        return self._types[key]

    def coded(self, parameter: torch.Tensor) -> dict[str, torch.dtype]:
        """Return the slots of a parameter that are to be in 8 bits."""
        if isinstance(self.options.state, str | None) and self.options.state not in WORDS:
            return {}
        types = self.types(parameter.dtype, parameter.shape)
        return {name: dtype for name, dtype in types.items() if name_of(dtype) in CODES}

    def for_entry(self, entry: Entry, state: Mapping[str, Any], forced: str | None) -> Compiled:
        """Return the compiled plan for a parameter whose slots are laid out as it is."""
        kinds = (entry.parameter.dtype, *[state[name].dtype for name in array_rows(self.plan)[2:]])
        program = self._lowered(kinds)

        def lacks(backend: Backend) -> str:
            if (backend.name, kinds) not in self._lacking:
                self._lacking[backend.name, kinds] = backend.lacks(program)
            why = _SCATTERED if program.draws else _IN_ROWS if program.plan.axes else ""
            scattered = why and not in_order(entry.owner, local(entry.parameter))
            return self._lacking[backend.name, kinds] or (why if scattered else "")

        held = [state[name] for name in program.tensors[2:]]
        return self._runs(kinds, entry.parameter.device, *backend_of(entry, held, forced, lacks))

    def refused(self, parameter: torch.Tensor, why: str) -> Compiled:
        """Return a stand-in for a parameter that a step refuses."""
        return self._runs((parameter.dtype,), parameter.device, NOBODY, f"a parameter {why}: a step refuses it")

    def where(self, entries: Sequence[Entry]) -> Where:
        """Return where the draws of these parameters come from."""
        positions = np.array([entry.position for entry in entries])
        streams = parameter_seed(np.array([self.options.seed], np.uint64), positions).view(np.int64).tolist()
        return [Place(stream, *lies_in(entry.owner)) for stream, entry in zip(streams, entries, strict=True)]

    def _lowered(self, kinds: Kinds) -> Program:
        """Return the program for a parameter and slots of these types."""
        if kinds not in self._programs:
            dtype, *slots = map(name_of, kinds)
            found = dict(zip(array_rows(self.plan)[2:], slots, strict=False))
            own = layout(self.plan.graph, dtype, self.options.rounding, self.options.state, found)
            self._programs[kinds] = lower(self.plan, own)
        return self._programs[kinds]

    def _runs(self, kinds: Kinds, device: torch.device, backend: str, reason: str) -> Compiled:
        key = (kinds, device, backend, reason)
        if key not in self._compiled:
            program, kernel = self._lowered(kinds), self._kernel(backend, kinds)
            self._compiled[key] = Compiled(self.formula, self.plan, kinds[0], *key[1:], program, kernel)
        return self._compiled[key]

    def _kernel(self, backend: str, kinds: Kinds) -> Kernel | None:
        """Return the kernel for a parameter and slots of these types, the same for all devices."""
        key = (backend, kinds)
        if key not in self._kernels and backend in BACKENDS:
            own = self._lowered(kinds)
            self._kernels[key] = BACKENDS[backend].kernel(own, capturable=self.options.capturable)
        return self._kernels.get(key)
