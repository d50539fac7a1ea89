"""The code that runs: one object a program, device and backend. It makes batches, and `explain` quotes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from ..backends import BACKENDS
from ..backends.base import Backend, Kernel, Place, Where
from ..graph.chance import parameter_seed
from ..graph.graph import Slot
from ..plan.groups import WORDS, words_of
from ..plan.program import Program, lower
from ..plan.schedule import Plan
from ..plan.storage import CODES, KEEPING, beside, format_of, layout
from ..plan.tables import array_rows
from ..rule import Formula
from .cut import Splits, check_cut
from .options import Options
from .shards import in_order, lies_in, local, whole
from .tensors import Entry, backend_of, check_shards, dense, name_of

NOBODY = "none"
"""The backend of a plan that does not run."""
Reader = Callable[[dict[str, Any]], Any]
"""Reads one hyperparameter of a param group."""
Fits = Callable[[Sequence[int]], bool]
"""Says whether tensors of a shape are meant."""
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
    others: tuple[tuple[Fits, Kernels], ...] = ()
    """What runs for parameters of some shapes, if that is another rule with the same hyperparameters."""
    cut: Splits | None = None
    """The matrices in each parameter, if there are several."""
    _cuts: dict[Splits, Kernels] = field(default_factory=dict[Splits, "Kernels"])
    _types: dict[Any, dict[str, torch.dtype]] = field(default_factory=dict[Any, dict[str, torch.dtype]])
    _programs: dict[Kinds, Program] = field(default_factory=dict[Kinds, Program])
    _lacking: dict[tuple[str, Kinds], str] = field(default_factory=dict[tuple[str, Kinds], str])
    _kernels: dict[tuple[str, Kinds], Kernel] = field(default_factory=dict[tuple[str, Kinds], Kernel])
    _compiled: dict[tuple[Any, ...], Compiled] = field(default_factory=dict[tuple[Any, ...], Compiled])

    def of(self, parameter: torch.Tensor) -> Kernels:
        """Return what runs for a parameter."""
        if not self.others:
            return self
        shape = parameter.shape[1:] if self.cut is not None and self.cut.stack else parameter.shape
        return next((own for fits, own in self.others if fits(shape)), self)

    def apart(self, cut: Splits | None) -> Kernels:
        """Return what runs where parameters hold several matrices: the same programs, on each."""
        if cut is not None and cut not in self._cuts:
            others = tuple((fits, own.apart(cut)) for fits, own in self.others)
            self._cuts[cut] = replace(self, cut=cut, others=others)
        return self if cut is None else self._cuts[cut]

    def check(self, group: Mapping[str, Any], index: int) -> None:
        """Raise an error for a tensor of a group that has a part alone, or other parts than the group declares."""
        check_shards(group, index, self.plan)
        if self.cut is not None:
            check_cut(group, index, self.cut, self.plan.graph)

    def shape(self, slot: Slot, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of a slot beside a parameter of this shape."""
        return slot.rank.shape(shape) if self.cut is None else self.cut.shape(slot.rank, shape)

    def keeps(self, dtype: torch.dtype) -> torch.dtype | None:
        """Return the type of the remainder that is kept beside parameters of a type, if one is."""
        rounding = self.options.rounding
        own = format_of(beside(name_of(dtype), rounding)).beside if rounding in KEEPING else ""
        return getattr(torch, own) if own else None

    def types(self, dtype: torch.dtype, shape: Sequence[int]) -> Mapping[str, torch.dtype]:
        """Return the types of new slots in memory beside a parameter of a type and a whole shape, by name."""
        key = (dtype, words_of(shape) if self.cut is None else frozenset[str]())
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
        program, own = self._lowered(kinds), entry
        held = [state[name] for name in program.tensors[2:]]
        if self.cut is not None:
            pieces = self.cut.of(local(entry.parameter))
            piece = next((one for one in pieces if not dense(one)), pieces[0])
            entry = replace(entry, parameter=piece, gradient=piece)

        def lacks(backend: Backend) -> str:
            if (backend.name, kinds) not in self._lacking:
                self._lacking[backend.name, kinds] = backend.lacks(program)
            why = _SCATTERED if program.draws else _IN_ROWS if program.plan.axes else ""
            scattered = why and not in_order(own.owner, local(own.parameter))
            return self._lacking[backend.name, kinds] or (why if scattered else "")

        sends = "what that reduces to" if self.plan.needed and not whole(own.owner) else "nothing"
        return self._runs(kinds, entry.parameter.device, *backend_of(entry, held, forced, lacks, sends))

    def refused(self, parameter: torch.Tensor, why: str) -> Compiled:
        """Return a stand-in for a parameter that a step refuses."""
        return self._runs((parameter.dtype,), parameter.device, NOBODY, f"a parameter {why}: a step refuses it")

    def where(self, entries: Sequence[Entry]) -> Where:
        """Return where the draws of these parameters come from; each of several matrices has a stream of its own."""
        positions = np.array([entry.position for entry in entries])
        streams = parameter_seed(np.array([self.options.seed], np.uint64), positions)
        if self.cut is None:
            found = zip(streams.view(np.int64).tolist(), entries, strict=True)
            return [Place(stream, *lies_in(entry.owner), not whole(entry.owner)) for stream, entry in found]
        own = [(stream, place, tuple(one.shape)) for stream, entry in zip(streams, entries, strict=True)
               for place, one in enumerate(self.cut.of(entry.parameter))]  # fmt: skip
        seeds = [parameter_seed(stream[None], np.array([place])).view(np.int64)[0] for stream, place, _ in own]
        return [Place(int(seed), shape, (0,) * len(shape)) for seed, (_, _, shape) in zip(seeds, own, strict=True)]

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
