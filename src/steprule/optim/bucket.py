"""A bucket: the tensors of a step that one compiled plan updates, with their hyperparameters, counts and batch.

Step counts and host slots of the state are numbers of one table, where the kernels look for them: in main memory, where
they are counted here, or on a device whose kernels decide by themselves whether a step is taken, and count it there.
Counts that are edited in place are followed; replaced ones are found out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..backends import BACKENDS
from ..backends.base import Arrays, Batch, Gradients, Share, Table
from ..graph.evaluate import evaluate_host
from ..plan.tables import array_rows, host_columns, hyper_columns
from .compiled import Compiled, Kernels
from .settings import OnDevice, plain
from .shards import local
from .slots import STEP
from .tensors import Entry

Groups = Sequence[dict[str, Any]]


class Bucket:
    """Tensors under one compiled plan, each updated by what stands beside it; `members` says which of a step's."""

    def __init__(
        self,
        kernels: Kernels,
        compiled: Compiled,
        members: list[int],
        entries: list[Entry],
        gradients: Gradients,
        state: Any,
    ) -> None:
        assert compiled.kernel is not None
        backend = BACKENDS[compiled.backend]
        self.kernels, self.plan, self.compiled, self.members = kernels, kernels.plan, compiled, members
        self.decides, self.pointed = backend.decides, backend.pointed
        self.states: list[dict[str, Any]] = [state[entry.owner] for entry in entries]
        names, columns, self.cut = array_rows(self.plan), host_columns(self.plan), kernels.cut
        matrices = [1 if self.cut is None else len(self.cut.of(entry.parameter)) for entry in entries]
        self._of: NDArray[np.int64] = np.repeat(np.arange(len(entries)), matrices)
        """The tensor of each matrix that the batch has, and the first matrix of each tensor."""
        self._first = np.searchsorted(self._of, np.arange(len(entries)))
        self.hosts = [STEP if name == "t" else name for name in columns]
        self.names = [*compiled.slots, *self.hosts]
        self.recalled: dict[str, torch.Tensor] = {}
        # NumPy owns this memory: torch may move a storage elsewhere under its views (`share_memory_`, a queue).
        self.counts = np.zeros((len(self._of), len(columns)), dtype=str(kernels.host_dtype).split(".")[1])
        table = compiled.kernel.table_of(self.counts, compiled.device)
        self._move_into(table)
        self.counted = self.counts.copy()
        self._make_rows([entries[place].group for place in self._of])
        parameters = [entry.parameter for entry in entries]
        slots = {name: [local(own[name]) for own in self.states] for name in compiled.slots}
        self.arrays = list(dict.fromkeys(chain.from_iterable(slots.values())))  # what all share, once
        # Memory outlives a parameter whose data another thread replaces under a kernel.
        self.storages = [tensor.untyped_storage() for tensor in (*parameters, *self.arrays)] if self.pointed else []
        whole: Arrays = {names[0]: parameters, names[1]: gradients, **slots}
        arrays = {name: self._matrices(own) for name, own in whole.items()}
        placed = compiled.program.placed or any(entry.shared is not None for entry in entries)
        where = kernels.where(entries) if placed else None
        self.batch: Batch = compiled.kernel.batch(arrays, self._row_of.tolist(), table, where)

    def _matrices(self, tensors: Sequence[Any]) -> list[Any]:
        """Return tensors, or the matrices in them; of an absent one that many that are absent."""
        if self.cut is None:
            return list(tensors)
        counts = np.bincount(self._of).tolist()
        return [one for own, count in zip(tensors, counts, strict=True)
                for one in ([None] * count if own is None else self.cut.of(own))]  # fmt: skip

    def set_gradients(self, gradients: Gradients) -> None:
        """Point at this step's gradients, of all tensors of a step."""
        self.batch.set_gradients(self._matrices([gradients[place] for place in self.members]))

    def gradient_cells(self) -> list[int] | None:
        """List where the address of each tensor's gradient belongs, if one address is all that is needed."""
        return self.batch.gradient_cells() if self.cut is None else None

    def reduced(self, join: Callable[[Sequence[Any]], Any]) -> Table:
        """Return the row of each tensor in the table `reduced`, joined of those of its matrices."""
        rows = np.array(self.batch.reduced())
        if self.cut is None:
            return rows
        return np.array([join(list(rows[self._of == place])) for place in range(len(self.states))])

    def _move_into(self, table: torch.Tensor) -> None:
        """Move step counts and host slots into one table, of which the state then holds the cells.

        Each is a view: one addition counts for every parameter. Its tensor stays the one that others may hold.
        """
        taken: set[int] = set()
        for column, name in enumerate(self.hosts):
            table[:, column].copy_(_together([self.states[place][name] for place in self._of], table))
            for row, own in zip(self._first.tolist(), self.states, strict=True):
                held, cell = own[name], table[row, column]
                alike = type(held) is torch.Tensor and held.dtype == cell.dtype and held.device == cell.device
                if alike and id(held) not in taken:
                    held.data = cell
                else:
                    own[name] = cell
                taken.add(id(own[name]))
        self.cells: list[torch.Tensor] = [own[name] for name in self.hosts for own in self.states]
        self._where = self.cells[0].data_ptr() if self.cells else 0

    # Hyperparameters -----------------------------------------------------------------------------

    def _make_rows(self, groups: list[int]) -> None:
        """Give every distinct (group, step count, host slots) a row of the table; each tensor, if a device counts."""
        keys = [(i,) for i in range(len(groups))] if self.decides else zip(groups, *self.counts.T.tolist(), strict=True)
        rows: dict[tuple[float, ...], int] = {}
        row_of = np.array([rows.setdefault(key, len(rows)) for key in keys], dtype=np.int64)
        columns = hyper_columns(self.plan)
        hyper, group_of = np.zeros((len(rows), len(columns))), np.zeros(len(rows), dtype=np.int64)
        hyper[row_of, len(columns) - len(self.hosts) :], group_of[row_of] = self.counts, groups
        self._values: dict[int, tuple[Any, ...]] = {}
        self._lay_rows(hyper, row_of, group_of)

    def _lay_rows(self, hyper: Table, row_of: NDArray[np.int64], groups: NDArray[np.int64]) -> None:
        """Take a table of hyperparameters, the row of each tensor in it, and the group of each row."""
        self.hyper, self._row_of, self._groups = hyper, row_of, groups
        self._rows_of_group = {int(group): _rows(np.flatnonzero(groups == group)) for group in np.unique(groups)}
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
        if self.decides:  # each has a row of its own, and kernels see who is absent
            return
        present = present[self._of]
        kinds, first, row_of = np.unique(2 * self._row_of + present, return_index=True, return_inverse=True)
        if len(kinds) > len(self.hyper):
            old = self._row_of[first]
            self._lay_rows(self.hyper[old], row_of, self._groups[old])
        self._stepping = True if present.all() else (kinds % 2 == 1)[:, None]
        self._now = self._time()
        self.batch.set_rows(self._row_of.tolist())
        self.batch.leave_out(present)

    def set_hypers(self, groups: Groups) -> None:
        """Read every group's hyperparameters; check and store those that changed and that the host may know.

        Of slots smaller than the parameter, what gauges ask is noted before the step writes them.
        """
        hypers = self.plan.graph.hypers
        shares: list[Share] = []
        for index, rows in self._rows_of_group.items():
            group = groups[index]
            values = tuple([v if type(v := read(group)) is float else self._known(v) for read in self.kernels.readers])
            before = self._values.get(index)
            if values != before:
                owner, own = f"`{self.plan.graph.name}`, group {index}", enumerate(zip(hypers, values, strict=True))
                new = [(at, hyper, v) for at, (hyper, v) in own if before is None or v != before[at]]
                checked = [np.nan if type(v) is OnDevice else hyper.check(v, owner) for _, hyper, v in new]
                for (at, _, _), number in zip(new, checked, strict=True):
                    self.hyper[rows, at] = number
                self._values[index] = values
            if type(rows) is slice:  # as all are where kernels decide
                shares += [(rows, at, v.number) for at, v in enumerate(values) if type(v) is OnDevice]
        self.batch.shares = shares
        self.recalled = {name: torch.stack([own[name].detach().reshape(()) for own in self.states])
                         for name in self.plan.recalled}  # fmt: skip

    def _known(self, value: Any) -> Any:
        """Return a plain value, or a number that stays on the device: asking for its range would mean waiting."""
        number = value.number if isinstance(value, OnDevice) else value if self.kernels.options.capturable else None
        if not (self.decides and isinstance(number, torch.Tensor) and number.device == self.compiled.device):
            return plain(value)
        return OnDevice(number.detach()) if number.numel() == 1 else plain(value)

    def settings(self) -> Table:
        """Return the row of each tensor in the table of hyperparameters; what stands on a device is waited for."""
        table = self.hyper.copy()
        for rows, column, number in self.batch.shares:
            table[rows, column] = float(number)
        return table[self._row_of[self._first]]

    # The step, where it is counted here ----------------------------------------------------------

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
        if self.cells[0].data_ptr() != self._where:  # a queue has moved the storage while a kernel ran
            for cell, number in zip(self.cells, self.counts[self._first].T.flat, strict=True):
                cell.fill_(float(number))

    def _next_hosts(self) -> Table:
        """Return the columns of host slots for the step after this one, as exact as the state keeps them.

        A run that goes on and one that is resumed from its checkpoint then read the same numbers.
        """
        new, computed = self._ends.copy(), self.batch.host
        for place, (name, node) in enumerate(self.plan.host_writes):
            values = self._evaluated()[:, place] if computed is None else computed[:, self.plan.host.index(node)]
            new[:, self.hosts.index(name)] = values.astype(self.counts.dtype)
        return new

    def _evaluated(self) -> Table:
        """Return the new host slots, a row a setting. No kernel has computed them with its other scalars."""
        columns, nodes = hyper_columns(self.plan), [node for _, node in self.plan.host_writes]
        numbers = [dict(zip(columns, row, strict=True)) for row in self.hyper.tolist()]
        return np.array([evaluate_host(nodes, own) for own in numbers], dtype=np.float64)


def _rows(places: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """Return rows by the name that costs least: neighbours are a slice."""
    first, last = int(places[0]), int(places[-1])
    return slice(first, last + 1) if last - first + 1 == len(places) else places


def _together(numbers: list[Any], table: torch.Tensor) -> torch.Tensor:
    """Return numbers of the state as one tensor; what is on a device is not waited for."""
    if any(isinstance(number, torch.Tensor) and number.device.type != "cpu" for number in numbers):
        own = [torch.as_tensor(number).detach().to(table.device, table.dtype).reshape(()) for number in numbers]
        return torch.stack(own)
    return torch.tensor([float(number) for number in numbers], dtype=table.dtype, device="cpu")
