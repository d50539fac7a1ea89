"""A bucket: the tensors of a step that one plan updates, with their hyperparameters, counts and batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, compress
from operator import is_, itemgetter, le
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..backends import BACKENDS
from ..backends.base import Batch, Gradients, Table
from ..errors import ParameterError
from ..graph.evaluate import evaluate_host
from ..graph.node import Rank
from ..plan.schedule import Plan
from ..plan.tables import array_rows, hyper_columns
from .cells import Cells
from .checks import comparison
from .compiled import Compiled, Kernels
from .shards import distributed, local, placed, placed_as
from .state import STEP, expected, slot_flaw
from .tensors import Entry, extent, in_order_of, in_order_of_slot, present, single

Groups = Sequence[dict[str, Any]]
_address = torch.Tensor.data_ptr
_offset = torch.Tensor.storage_offset
_storage, _size = torch.Tensor.untyped_storage, torch.UntypedStorage.nbytes


@dataclass(frozen=True)
class OnDevice:
    """A hyperparameter that need not leave the device it is on."""

    number: torch.Tensor


class TensorCheck:
    """The tensors that one batch updates, and what must stay true of them."""

    def __init__(
        self, entries: list[Entry], states: list[Mapping[str, Any]], slots: list[str], *, pointed: bool
    ) -> None:
        self.parameters = [entry.parameter for entry in entries]
        gradients = [in_order_of(entry.parameter, entry.gradient) for entry in entries]
        # A gradient that had to be copied must be copied again next time.
        same = map(is_, gradients, [entry.gradient for entry in entries])
        self.given = all(same) and not any(entry.copied for entry in entries)
        self.pointed = pointed
        self.states = states
        self.slots = slots
        self._get_slots = [itemgetter(name) for name in slots]
        self._same_gradients = comparison(gradients)
        self.held = [[slot(state) for state in states] for slot in self._get_slots]
        self.tensors = [*self.parameters, *map(local, chain.from_iterable(self.held))]
        self._same_tensors = comparison(self.tensors)
        self.addresses = list(map(_address, self.tensors))
        # Storages are held, so that memory outlives a parameter whose data another thread replaces under a kernel;
        # and their sizes are compared, since one that was made smaller may have come back to its address.
        self._storages = list(map(_storage, self.tensors)) if pointed else []
        self.sizes = list(map(_size, self._storages))
        self.needed = [int(_offset(g)) * g.element_size() + extent(g) for g in gradients] if pointed else []
        self.offsets = [int(_offset(g)) for g in gradients] if pointed else []
        self._forms = [(tuple(g.shape), g.stride()) for g in gradients]
        self._stand_ins: list[torch.Tensor] = []
        self.gradients: Gradients = [g if e.present else None for g, e in zip(gradients, entries, strict=True)]
        """Those of the first step, until its batch has them."""

    def pointed_at(self) -> Iterator[tuple[torch.Tensor, int, int, bool]]:
        """Give the tensors that are pointed at, where they are, the size of their storage, whether shape matters."""
        for place, tensor in enumerate(self.tensors):
            yield tensor, self.addresses[place], self.sizes[place], place < len(self.parameters)

    def kept(self) -> Iterator[tuple[str, list[Any]]]:
        """Give what each state holds, slot by slot."""
        return zip(self.slots, self.held, strict=True)

    def _same_form(self, gradients: Gradients) -> bool:
        """Whether gradients look as they did; where one is absent, what looks like it is asked instead."""
        if all(gradient is not None for gradient in gradients):
            return self._same_gradients(*gradients)
        if not self._stand_ins:
            forms = zip(self.parameters, self._forms, strict=True)
            self._stand_ins = [parameter.detach().as_strided(*form) for parameter, form in forms]
        return self._same_gradients(
            *(like if g is None else g for g, like in zip(gradients, self._stand_ins, strict=True))
        )

    def _same_reach(self, gradients: Gradients) -> bool:
        """Whether gradients begin where in their storages they began, and the storages hold all of them."""
        there = [gradient for gradient in gradients if gradient is not None]
        offsets, needed = self.offsets, self.needed
        if len(there) < len(gradients):
            kept = [gradient is not None for gradient in gradients]
            offsets, needed = list(compress(offsets, kept)), list(compress(needed, kept))
        return list(map(_offset, there)) == offsets and all(map(le, needed, map(_size, map(_storage, there))))

    def still_holds(self, gradients: Gradients) -> bool:
        """Whether all that pointers rely on is as it was.

        The state holds the very tensors it held: another view of their memory is another slot. Parameters and slots
        are where they were, in storages of the size they had; a gradient that is there begins where in its storage it
        began, and the storage holds all of it.
        """
        try:
            for slot, held in zip(self._get_slots, self.held):  # noqa: B905  # as long as each other
                if not all(map(is_, map(slot, self.states), held)):
                    return False
            return (
                self.given
                and self._same_form(gradients)
                and self._same_tensors(*self.tensors)
                and list(map(_address, self.tensors)) == self.addresses
                and list(map(_size, self._storages)) == self.sizes
                and (not self.pointed or self._same_reach(gradients))
            )
        except (KeyError, AttributeError, TypeError, RuntimeError):  # a slot is gone, or no dense tensor any more
            return False


class Bucket:
    """Tensors under one plan, each updated by what stands beside it."""

    def __init__(self, kernels: Kernels, entries: list[Entry], state: Any, compiled: Sequence[Compiled]) -> None:
        self.kernels = kernels
        self.plan = kernels.plan
        self.owners = [entry.owner for entry in entries]
        self._state = state
        self._make_rows(entries)
        self._make_batches(entries, compiled)

    # Hyperparameters -----------------------------------------------------------------------------

    def _make_rows(self, entries: list[Entry]) -> None:
        """Give every distinct (group, step count, host slots) a row of the hyperparameter table."""
        graph = self.plan.graph
        self._columns = hyper_columns(self.plan)
        self.hosts = ([STEP] if graph.uses_step else []) + [s.name for s in graph.slots if s.rank is Rank.HOST]
        # NumPy owns this memory: torch may move a storage elsewhere under its views (`share_memory_`, a queue).
        self.counts = np.zeros((len(entries), len(self.hosts)), dtype=str(self.kernels.host_dtype).split(".")[1])
        counts = torch.from_numpy(self.counts)
        taken: set[int] = set()
        rows: dict[tuple[float, ...], int] = {}
        row_of: list[int] = []
        for index, entry in enumerate(entries):
            state = self._state[entry.owner]
            own = tuple(float(state[name]) for name in self.hosts)
            row_of.append(rows.setdefault((entry.group, *own), len(rows)))
            for column, name in enumerate(self.hosts):
                counts[index, column] = own[column]
                # A view: one addition counts for every parameter. The tensor stays the one that others may hold.
                fits = type(state[name]) is torch.Tensor and state[name].dtype == counts.dtype
                if fits and id(state[name]) not in taken:
                    state[name].data = counts[index, column]
                else:
                    state[name] = counts[index, column]
                taken.add(id(state[name]))
        self.counted = self.counts.copy()
        self.states = [self._state[owner] for owner in self.owners]
        self.cells = Cells(self.hosts, self.states)
        hyper = np.zeros((len(rows), len(self._columns)))
        hyper[:, len(graph.hypers) :] = [key[1:] for key in rows]
        self._values: dict[int, tuple[Any, ...]] = {}
        self._lay_rows(hyper, np.array(row_of, dtype=np.int64), np.array([int(key[0]) for key in rows]))

    def _lay_rows(self, hyper: Table, row_of: NDArray[np.int64], groups: NDArray[np.int64]) -> None:
        """Take a table of hyperparameters, the row of each tensor in it, and the group of each row."""
        self.hyper, self._row_of, self._groups = hyper, row_of, groups
        self._rows_of_group = {int(group): np.flatnonzero(groups == group) for group in np.unique(groups)}
        self._stepping: NDArray[np.bool_] | bool = True
        self._new_hosts: Table | None = None
        # Views made once: each costs as much as what is done with it.
        first = len(self.plan.graph.hypers)
        self._t = self.hyper[:, first : first + self.plan.graph.uses_step]
        self._ends = self.hyper[:, first:]
        self._only = self._ends[0] if len(hyper) == 1 else None
        self._now = self._time()

    def _time(self) -> memoryview | None:
        """Return where the step is counted if one addition does it: NumPy's takes ten times as long."""
        if self._only is None or self._stepping is not True or not self.plan.graph.uses_step:
            return None
        return self._only.data

    def leave_out(self, present: NDArray[np.bool_]) -> None:
        """Step only some of the tensors from now on; a row that they share with others becomes two.

        So tensors that have always been stepped together share a row.
        """
        kinds, first, row_of = np.unique(2 * self._row_of + present, return_index=True, return_inverse=True)
        if len(kinds) > len(self.hyper):
            old = self._row_of[first]
            self._lay_rows(self.hyper[old], row_of, self._groups[old])
        self._stepping = True if present.all() else (kinds % 2 == 1)[:, None]
        self._now = self._time()
        for batch, members in zip(self.batches, self.order, strict=True):
            batch.set_rows(self._row_of[members].tolist())
            batch.leave_out(present[members])

    def set_hypers(self, groups: Groups) -> None:
        """Read every group's hyperparameters; check and store those that changed."""
        hypers = self.plan.graph.hypers
        for index, rows in self._rows_of_group.items():
            group = groups[index]
            values = tuple([v if type(v := read(group)) is float else plain(v) for read in self.kernels.readers])
            if values != self._values.get(index):
                owner = f"`{self.plan.graph.name}`, group {index}"
                checked = [hyper.check(value, owner) for hyper, value in zip(hypers, values, strict=True)]
                self.hyper[rows, : len(hypers)] = checked
                self._values[index] = values

    # Tensors -------------------------------------------------------------------------------------

    def _make_batches(self, entries: list[Entry], compiled: Sequence[Compiled]) -> None:
        names = array_rows(self.plan)
        slots = names[2:]
        sorted_in: dict[Compiled, list[int]] = {}
        for index, own in enumerate(compiled):
            sorted_in.setdefault(own, []).append(index)
        self.compiled = list(sorted_in)
        self.checks: list[TensorCheck] = []
        self.batches: list[Batch] = []
        self.order = list(sorted_in.values())
        for what, members in sorted_in.items():
            own = [entries[i] for i in members]
            states = [self._state[entry.owner] for entry in own]
            check = TensorCheck(own, states, slots, pointed=BACKENDS[what.backend].pointed)
            arrays = {names[0]: [entry.parameter for entry in own], names[1]: check.gradients}
            arrays |= {slot: [local(state[slot]) for state in states] for slot in slots}
            assert what.kernel is not None
            batch = what.kernel.batch(arrays, self._row_of[members].tolist(), torch.empty(0))
            check.gradients = ()
            self.checks.append(check)
            self.batches.append(batch)

    def still_holds(self, gradients: Gradients) -> bool:
        """Whether this bucket may be used again; if so, it points at this step's gradients."""
        if not self._counts_hold():
            return False
        for check, batch, members in zip(self.checks, self.batches, self.order, strict=True):
            own = [gradients[i] for i in members]
            if not check.still_holds(own):
                return False
            batch.set_gradients(own)
        return True

    def _counts_hold(self) -> bool:
        """Whether step counts and host slots are the ones this bucket wrote: not replaced, moved or edited."""
        if not self.hosts:
            return True
        same = self.counts.tobytes() == self.counted.tobytes()  # bit by bit: NaN equals itself
        return same and self.cells.still_hold()

    # The step ------------------------------------------------------------------------------------

    def advance(self, by: int) -> None:
        """Count a step in the hyperparameter table, or take it back."""
        self._new_hosts = None
        if self._now is not None:
            self._now[0] += by
        else:
            self._t += by * self._stepping

    def commit(self) -> None:
        """Write step counts and new host slots into the state; a second call in the same step changes nothing."""
        if not self.hosts:
            return
        if self.plan.host_writes:
            if self._new_hosts is None:
                self._new_hosts = self._next_hosts()
            np.copyto(self._ends, self._new_hosts, where=self._stepping)
        self.counts[...] = self._ends[self._row_of] if self._only is None else self._only
        self.counted[...] = self.counts
        self.cells.follow(self.counts)

    def _next_hosts(self) -> Table:
        """Return the columns of host slots for the step after this one, as exact as the state keeps them.

        A run that goes on and one that is resumed from its checkpoint then read the same numbers.
        """
        new = self._ends.copy()
        for name, values in self._written_hosts():
            new[:, self.hosts.index(name)] = values.astype(self.counts.dtype)
        return new

    def _written_hosts(self) -> Iterator[tuple[str, Table]]:
        """Give what each host slot becomes, a number a row: a kernel has computed it with its other scalars."""
        writes = self.plan.host_writes
        computed = next((batch.host for batch in self.batches if batch.host is not None), None)
        if computed is not None:
            for name, node in writes:
                yield name, computed[:, self.plan.host.index(node)]
            return
        numbers = [dict(zip(self._columns, row, strict=True)) for row in self.hyper.tolist()]
        rows = [evaluate_host([node for _, node in writes], own) for own in numbers]
        for place, (name, _) in enumerate(writes):
            yield name, np.array([row[place] for row in rows], dtype=np.float64)

    def work(self) -> list[tuple[Batch, Table]]:
        """List the batches with the table that they share."""
        return [(batch, self.hyper) for batch in self.batches]


def lay_out(plan: Plan, parameter: torch.Tensor, state: dict[str, Any], who: str) -> None:
    """Give slots whose strides differ from the parameter's (a checkpoint, a moved model) its layout.

    Numbers that were kept in a narrow type before, in a pickle for instance, are kept in float32 from now on.
    """
    for slot in expected(plan.graph):
        if flaw := slot_flaw(slot, state.get(slot.name)):
            fix = "give it back what it was, load a checkpoint, or delete the state of this parameter to begin anew"
            raise ParameterError(f"state {slot.name!r} {flaw}", where=f"  {who}", fix=fix)
    for slot in [slot for slot in plan.graph.slots if slot.single and slot.name in state]:
        state[slot.name] = state[slot.name].to(single(state[slot.name].dtype))
    for slot in [slot for slot in plan.graph.element_slots if slot.name in state]:
        if state[slot.name].shape != parameter.shape:
            raise ParameterError(
                f"state {slot.name!r} has shape {tuple(state[slot.name].shape)}, "
                f"the parameter {tuple(parameter.shape)}",
                where=f"  {who}",
                fix="replacing a parameter's data by another size starts a new parameter: delete its state",
            )
        value = _beside(parameter, state[slot.name], slot.name, who)
        if not present(local(value)):
            what = f"memory of state {slot.name!r} was freed"
            raise ParameterError(what, where=f"  {who}", fix="restore it before step()")
        state[slot.name] = in_order_of_slot(parameter, value)


def _beside(parameter: torch.Tensor, value: torch.Tensor, name: str, who: str) -> torch.Tensor:
    """Return a slot that is distributed as its parameter, if it is a DTensor."""
    if not (distributed(parameter) or distributed(value)):
        return value.resolve_neg()
    alike = distributed(value) is distributed(parameter)
    moved = placed_as(parameter, value) if alike else None
    if moved is None:
        own, other = (f"a {type(t.data).__name__}{placed(t)}" for t in (value, parameter))
        raise ParameterError(
            f"state {name!r} is {own}, the parameter {other}",
            where=f"  {who}",
            fix="load it by torch.distributed.checkpoint.state_dict.set_optimizer_state_dict, which distributes it",
        )
    return moved


def plain(value: Any) -> Any:
    """Return a hyperparameter as a plain value that can be compared; what is none is left to be refused."""
    if isinstance(value, OnDevice):
        value = value.number
    if value is None or isinstance(value, str) or type(value) in (float, int, bool):
        return value
    try:
        return float(value.detach() if isinstance(value, torch.Tensor) else value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return repr(value)
