"""The roster: the tensors of a step, checked once in full, then compared every step at little cost.

`Roster` is built by looking at everything. `still_holds` then asks, before every launch, whether anything
that a raw pointer depends on has changed since: which parameters have gradients, the address, size and
layout of each parameter, gradient and slot, a lazily negated gradient, the groups themselves. Whatever
differs makes the optimiser build a new roster, and with it check everything again, before anything is
written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import gcd
from operator import attrgetter, is_, itemgetter
from typing import Any

import numpy as np
import torch

from ..backends.base import Batch, run
from ..backends.eager import EagerBatch
from ..backends.numba_cpu import CpuBatch, CpuKernel
from ..backends.numba_source import array_rows, hyper_columns
from ..errors import ParameterError
from ..graph.evaluate import evaluate_host
from ..graph.node import Rank
from ..plan.schedule import Plan
from .state import HOST_DTYPE, STEP, ensure
from .tensors import Entry, check, extent, in_order_of, label, present, route
from .witness import witness

Groups = Sequence[dict[str, Any]]
_gradient = attrgetter("grad")
_address = torch.Tensor.data_ptr


class Kernels:
    """The kernels of one plan, one a dtype, compiled when first needed."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._kernels: dict[torch.dtype, CpuKernel] = {}

    def get(self, dtype: torch.dtype) -> CpuKernel:
        """Return the kernel of a dtype."""
        if dtype not in self._kernels:
            self._kernels[dtype] = CpuKernel(self.plan, dtype)
        return self._kernels[dtype]


class Crew:
    """The tensors that one batch updates, and what must stay true of them."""

    def __init__(self, entries: list[Entry], states: list[Mapping[str, Any]], slots: list[str]) -> None:
        self.parameters = [entry.parameter for entry in entries]
        self.gradients = [in_order_of(entry.parameter, entry.gradient) for entry in entries]
        # A gradient that had to be copied must be copied again next time.
        self._given = all(map(is_, self.gradients, map(_gradient, self.parameters)))
        self._states = states
        self._slots = [itemgetter(name) for name in slots]
        self._same_parameters = witness(self.parameters)
        self._same_gradients = witness(self.gradients)
        self._addresses = self._look()

    def _look(self) -> list[list[int]]:
        slots = [list(map(_address, map(slot, self._states))) for slot in self._slots]
        return [list(map(_address, self.parameters)), *slots]

    def still_holds(self, gradients: list[torch.Tensor]) -> bool:
        """Whether all that pointers rely on is as it was."""
        try:
            return (
                self._given
                and self._same_gradients(gradients)
                and self._same_parameters(self.parameters)
                and self._look() == self._addresses
            )
        except (KeyError, AttributeError, TypeError, RuntimeError):  # a slot is gone, or no dense tensor any more
            return False


class Roster:
    """All tensors of a step with their batches, hyperparameter rows and step counts."""

    def __init__(self, kernels: Kernels, groups: Groups, state: Any, backend: str | None) -> None:
        self.plan = plan = kernels.plan
        self._state = state
        self._groups = [list(group["params"]) for group in groups]
        self._all = [parameter for group in self._groups for parameter in group]
        entries = self._gather(groups)
        for entry in entries:
            check(entry)
        _no_overlap(entries)
        for entry in entries:
            ensure(plan.graph, entry.parameter, state[entry.parameter])
        self._present = [gradient is not None for gradient in map(_gradient, self._all)]
        self._complete = all(self._present)
        self.parameters = [entry.parameter for entry in entries]
        self._make_rows(entries)
        self._make_batches(entries, kernels, backend)

    def _gather(self, groups: Groups) -> list[Entry]:
        return [
            Entry(label(group, i, j), i, parameter, parameter.grad)
            for i, group in enumerate(groups)
            for j, parameter in enumerate(group["params"])
            if parameter.grad is not None
        ]

    # Hyperparameters -----------------------------------------------------------------------------

    def _make_rows(self, entries: list[Entry]) -> None:
        """Give every distinct (group, step count, host slots) a row of the hyperparameter table."""
        graph = self.plan.graph
        self._columns = hyper_columns(self.plan)
        self._hosts = ([STEP] if graph.uses_step else []) + [s.name for s in graph.slots if s.rank is Rank.HOST]
        self._dicts = list(self._state.values())
        counts = torch.zeros(len(entries), len(self._hosts), dtype=HOST_DTYPE, device="cpu")
        rows: dict[tuple[float, ...], int] = {}
        self.rows: list[int] = []
        for index, entry in enumerate(entries):
            state = self._state[entry.parameter]
            own = tuple(float(state[name]) for name in self._hosts)
            self.rows.append(rows.setdefault((entry.group, *own), len(rows)))
            for column, name in enumerate(self._hosts):
                counts[index, column] = own[column]
                state[name] = counts[index, column]  # a view: one addition counts for every parameter
        self._counts = counts.numpy()
        self._counted = self._counts.copy()
        self._own = [self._state[parameter] for parameter in self.parameters]
        self._host_slots = [[state[name] for state in self._own] for name in self._hosts]
        self._group_of_row = [int(key[0]) for key in rows]
        self._row_of = np.array(self.rows, dtype=np.int64)
        self.hyper = np.zeros((len(rows), len(self._columns)))
        first = len(graph.hypers)
        for key, row in rows.items():
            self.hyper[row, first:] = key[1:]
        self._values: dict[int, tuple[Any, ...]] = {}

    def set_hypers(self, groups: Groups) -> None:
        """Read every group's hyperparameters; check and store those that changed."""
        hypers = self.plan.graph.hypers
        for index in dict.fromkeys(self._group_of_row):
            group = groups[index]
            values = tuple([v if type(v := group.get(h.name)) is float else plain(v) for h in hypers])
            if values != self._values.get(index):
                owner = f"`{self.plan.graph.name}`, group {index}"
                checked = [hyper.check(value, owner) for hyper, value in zip(hypers, values, strict=True)]
                for row, owner_group in enumerate(self._group_of_row):
                    if owner_group == index:
                        self.hyper[row, : len(hypers)] = checked
                self._values[index] = values

    # Tensors -------------------------------------------------------------------------------------

    def _make_batches(self, entries: list[Entry], kernels: Kernels, backend: str | None) -> None:
        names = array_rows(self.plan)
        slots = names[2:]
        sorted_in: dict[tuple[str, Any, Any], list[int]] = {}
        self.routes: dict[str, str] = {}
        for index, entry in enumerate(entries):
            parameter, state = entry.parameter, self._state[entry.parameter]
            self._lay_out(parameter, state)
            name, reason = route(entry, [state[slot] for slot in slots], backend)
            self.routes.setdefault(name, reason)
            sorted_in.setdefault((name, parameter.dtype, parameter.device), []).append(index)
        self._crews: list[Crew] = []
        self.batches: list[Batch] = []
        self._order = list(sorted_in.values())
        for (name, dtype, _), members in sorted_in.items():
            own = [entries[i] for i in members]
            states = [self._state[entry.parameter] for entry in own]
            crew = Crew(own, states, slots)
            arrays = {names[0]: [entry.parameter for entry in own], names[1]: crew.gradients}
            arrays |= {slot: [state[slot] for state in states] for slot in slots}
            rows = [self.rows[i] for i in members]
            kernel_batch = name == "numba_cpu"
            batch = CpuBatch(kernels.get(dtype), arrays, rows) if kernel_batch else EagerBatch(self.plan, arrays, rows)
            self._crews.append(crew)
            self.batches.append(batch)

    def _lay_out(self, parameter: torch.Tensor, state: dict[str, Any]) -> None:
        """Give slots whose strides differ from the parameter's (a checkpoint, a moved model) its layout."""
        for slot in self.plan.graph.element_slots:
            if state[slot.name].shape != parameter.shape:
                raise ParameterError(
                    f"state {slot.name!r} has shape {tuple(state[slot.name].shape)}, "
                    f"the parameter {tuple(parameter.shape)}",
                    fix="replacing a parameter's data by another size starts a new parameter: delete its state",
                )
            if not present(state[slot.name]):
                raise ParameterError(f"memory of state {slot.name!r} was freed", fix="restore it before step()")
            state[slot.name] = in_order_of_slot(parameter, state[slot.name].resolve_neg())

    def still_holds(self, groups: Groups, state: Any) -> bool:
        """Whether this roster may be used again; if so, it points at this step's gradients."""
        if state is not self._state or len(groups) != len(self._groups) or not self._state_holds():
            return False
        for group, before in zip(groups, self._groups, strict=True):
            now = group["params"]
            if len(now) != len(before) or not all(map(is_, now, before)):
                return False
        gradients = list(map(_gradient, self._all))
        if not self._complete:
            if [gradient is not None for gradient in gradients] != self._present:
                return False
            gradients = [gradient for gradient in gradients if gradient is not None]
        for crew, batch, members in zip(self._crews, self.batches, self._order, strict=True):
            own = gradients if len(self._order) == 1 else [gradients[i] for i in members]
            if not crew.still_holds(own):
                return False
            batch.set_gradients(own, list(map(_address, own)))
        return True

    def _state_holds(self) -> bool:
        """Whether the state is the same dictionaries with the same counts, not cleared, replaced or edited."""
        if len(self._state) != len(self._dicts) or not all(map(is_, self._state.values(), self._dicts)):
            return False
        try:
            for name, slots in zip(self._hosts, self._host_slots, strict=True):
                if not all(map(is_, map(itemgetter(name), self._own), slots)):
                    return False
        except KeyError:
            return False
        return not self._hosts or bool((self._counts == self._counted).all())

    # The step ------------------------------------------------------------------------------------

    def step(self) -> None:
        """Run the plan on every batch, then count the step."""
        first = len(self.plan.graph.hypers)
        if self.plan.graph.uses_step:
            self.hyper[:, first] += 1
        try:
            run(self.batches, self.hyper)
        except BaseException:
            if self.plan.graph.uses_step:
                self.hyper[:, first] -= 1
            raise
        self._commit(first)
        torch.autograd.graph.increment_version(self.parameters)

    def _commit(self, first: int) -> None:
        if not self._hosts:
            return
        if self.plan.host_writes:
            for row in range(len(self.hyper)):
                numbers = dict(zip(self._columns, self.hyper[row].tolist(), strict=True))
                new = evaluate_host([node for _, node in self.plan.host_writes], numbers)
                for (name, _), value in zip(self.plan.host_writes, new, strict=True):
                    self.hyper[row, self._columns.index(name)] = value
        self._counts[:] = self._counted[:] = self.hyper[self._row_of, first:]


def plain(value: Any) -> Any:
    """Return a hyperparameter as a plain value that can be compared; what is none is left to be refused."""
    if isinstance(value, int | float | str | None):
        return value
    try:
        return float(value.detach() if isinstance(value, torch.Tensor) else value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return repr(value)


def in_order_of_slot(parameter: torch.Tensor, slot: torch.Tensor) -> torch.Tensor:
    """Return a slot that is walked in the parameter's order, copying it only if it is not."""
    if slot.stride() == parameter.stride():
        return slot
    ordered = torch.empty_like(parameter, dtype=slot.dtype, memory_format=torch.preserve_format)
    return slot if ordered.stride() == slot.stride() else ordered.detach().copy_(slot)


def _no_overlap(entries: list[Entry]) -> None:
    """Refuse two parameters that share memory: updated side by side, the result would be chance."""
    spans: list[tuple[int, int, Entry]] = []
    for entry in entries:
        tensor = entry.parameter
        if tensor.numel() and tensor.device.type == "cpu":
            spans.append((tensor.data_ptr(), tensor.data_ptr() + extent(tensor), entry))
    spans.sort(key=itemgetter(0))
    crowd: list[Entry] = []
    reach = 0
    for start, end, entry in spans:
        if start >= reach:
            _none_shared(crowd, reach)
            crowd = []
        crowd.append(entry)
        reach = max(reach, end)
    _none_shared(crowd, reach)


def _none_shared(crowd: list[Entry], end: int) -> None:
    """Mark the memory of every parameter of a crowd; refuse the first that steps on another's."""
    if len(crowd) < 2:
        return
    tensors = [entry.parameter for entry in crowd]
    first = tensors[0].data_ptr()
    unit = gcd(*(t.element_size() for t in tensors), *(t.data_ptr() - first for t in tensors))
    owner = np.zeros((end - first) // unit, dtype=np.int32)
    for index, tensor in enumerate(tensors):
        size = tensor.element_size()
        strides = (*(stride * size // unit * owner.itemsize for stride in tensor.stride()), owner.itemsize)
        begin = owner[(tensor.data_ptr() - first) // unit :]
        cells = np.lib.stride_tricks.as_strided(begin, (*tensor.shape, size // unit), strides)
        if cells.any():
            raise ParameterError(
                f"{crowd[int(cells.max()) - 1].label} and {crowd[index].label} share memory",
                fix="tie weights by using one Parameter in both places, and pass it once",
            )
        cells[...] = index + 1
