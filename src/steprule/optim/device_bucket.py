"""A bucket on a GPU: tensors of one dtype and device under one plan, whose counts the device keeps.

Step counts and host slots of the state are numbers in one table on the device. A kernel advances them, unless it leaves
the step out, so the host need not know. What is edited there in place is followed; what is replaced is found out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..backends.base import Batch, Gradients, Share, Table
from ..backends.triton_gpu import capturing
from ..errors import BackendError
from ..graph.node import Rank
from ..plan.tables import array_rows
from .bucket import Groups, OnDevice, TensorCheck, plain
from .cells import Cells
from .compiled import Compiled, Kernels
from .shards import local
from .state import STEP
from .tensors import Entry


class DeviceBucket:
    """Tensors under one plan that Triton kernels update: one check, one batch."""

    def __init__(self, kernels: Kernels, entries: list[Entry], state: Any, compiled: Compiled) -> None:
        self.kernels, self.plan, self.compiled = kernels, kernels.plan, [compiled]
        parameters = [entry.parameter for entry in entries]
        self.owners = [entry.owner for entry in entries]
        self._device = parameters[0].device
        if capturing(self._device):
            raise BackendError("what this step needs on the GPU is not there yet, and a CUDA graph is being captured",
                               fix="take a few steps before the capture, with the same parameters")  # fmt: skip
        self.states: list[Any] = [state[owner] for owner in self.owners]
        graph = self.plan.graph
        self.hosts = ([STEP] if graph.uses_step else []) + [s.name for s in graph.slots if s.rank is Rank.HOST]
        counts = self._make_counts()
        self.cells = Cells(self.hosts, self.states)
        names = array_rows(self.plan)
        check = TensorCheck(entries, self.states, names[2:], pointed=True)
        arrays = {names[0]: parameters, names[1]: check.gradients}
        arrays |= {name: [local(own[name]) for own in self.states] for name in names[2:]}
        assert compiled.kernel is not None
        self._batch = compiled.kernel.batch(arrays, range(len(entries)), counts)
        check.gradients = ()
        self.checks, self.batches, self.order = [check], [self._batch], [list(range(len(entries)))]
        self.hyper: Table = np.zeros((len(entries), len(graph.hypers)))
        self._rows_of_group: dict[int, slice] = {}
        for row, entry in enumerate(entries):  # a group's entries are neighbours
            first = self._rows_of_group.get(entry.group, slice(row, row)).start
            self._rows_of_group[entry.group] = slice(first, row + 1)

    def _make_counts(self) -> torch.Tensor:
        """Move step counts and host slots into one table, of which the state then holds the cells."""
        dtype = self.kernels.host_dtype
        counts = torch.zeros(len(self.states), len(self.hosts), dtype=dtype, device=self._device)
        for column, name in enumerate(self.hosts):
            held = [torch.as_tensor(own[name]).detach() for own in self.states]
            on_host = all(number.device.type == "cpu" for number in held)
            ready = [number if on_host else number.to(self._device) for number in held]
            counts[:, column].copy_(torch.stack([number.reshape(()).to(dtype) for number in ready]))
            for row, own in enumerate(self.states):
                own[name] = counts[row, column]
        return counts

    def set_hypers(self, groups: Groups) -> None:
        """Read every group's hyperparameters; check and store those that the host may know."""
        shares: list[Share] = []
        for index, rows in self._rows_of_group.items():
            owner = f"`{self.plan.graph.name}`, group {index}"
            for column, (hyper, read) in enumerate(zip(self.plan.graph.hypers, self.kernels.readers, strict=True)):
                value = read(groups[index])
                if (number := self._stays(value)) is not None:
                    shares.append((rows, column, number))
                else:
                    self.hyper[rows, column] = hyper.check(plain(value), owner)
        self._batch.shares = shares

    def _stays(self, value: Any) -> torch.Tensor | None:
        """Return a number that stays on the device: its range is not checked, since that would mean waiting."""
        number = value.number if isinstance(value, OnDevice) else value if self.kernels.capturable else None
        if isinstance(number, torch.Tensor) and number.device == self._device and number.numel() == 1:
            return number.detach()
        return None

    def leave_out_if(self, found: torch.Tensor | None) -> None:
        """Leave the next step out if this number, which may be on a device, is above 0."""
        self._batch.leave_out_if(found)

    def stopped(self) -> bool:
        """Whether a guard stopped the last step; this waits for the device."""
        return self._batch.stopped()

    def leave_out(self, present: NDArray[np.bool_]) -> None:
        """Step only some of the tensors: a kernel finds out by itself which."""

    def still_holds(self, gradients: Gradients) -> bool:
        """Whether this bucket may be used again; if so, it points at this step's gradients."""
        if not (self.cells.still_hold() and self.checks[0].still_holds(gradients)):
            return False
        self._batch.set_gradients(gradients)
        return True

    def advance(self, by: int) -> None:
        """Count nothing: the device does."""

    def commit(self) -> None:
        """Write no counts: the device has."""

    def work(self) -> list[tuple[Batch, Table]]:
        """List the batch with its table."""
        return [(self._batch, self.hyper)]
