"""Cells: the step counts and host slots that the state holds, each a view of one place in a table of ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from operator import is_, itemgetter
from typing import Any

import torch
from numpy.typing import NDArray

from .checks import comparison

_address = torch.Tensor.data_ptr


class Cells:
    """The tensors under some names of each state, and where they are."""

    def __init__(self, names: Sequence[str], states: Sequence[Mapping[str, Any]]) -> None:
        self._names = names
        self.states = states
        self._get = [itemgetter(name) for name in names]
        self._held = [[state[name] for state in states] for name in names]
        self.tensors: list[torch.Tensor] = list(chain.from_iterable(self._held))
        self.addresses = list(map(_address, self.tensors))
        self._same_tensors = comparison(self.tensors)
        self._storages = [*{tensor.untyped_storage() for tensor in self.tensors}]  # known by address while they live

    def kept(self) -> Iterator[tuple[str, list[Any]]]:
        """Give what each state holds, name by name."""
        return zip(self._names, self._held, strict=True)

    def still_hold(self) -> bool:
        """Whether the states hold these very tensors, and they are still views of the table."""
        try:
            for cell, held in zip(self._get, self._held):  # noqa: B905  # as long as each other
                if not all(map(is_, map(cell, self.states), held)):
                    return False
            return self._same_tensors(*self.tensors) and list(map(_address, self.tensors)) == self.addresses
        except (KeyError, AttributeError, TypeError, RuntimeError):  # one is gone, or no dense tensor any more
            return False

    def follow(self, counts: NDArray[Any]) -> None:
        """Write numbers that have been counted where the cells are, if their storage has moved while a kernel ran."""
        if self.tensors[0].data_ptr() != self.addresses[0]:
            for tensor, number in zip(self.tensors, counts.T.flat, strict=True):
                tensor.fill_(float(number))
