"""What every backend gives: a batch of tensors on which a plan's passes can be run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ..graph.ops import OPS
from ..plan.schedule import Plan

Table = NDArray[np.float64]


class Batch(ABC):
    """Tensors of one dtype and device, bound to a plan.

    The caller runs `begin`, then for every pass `sweep` and `end`; between the two it may replace the
    totals of global reductions by those of all batches. `step` does all of it for a batch that is alone.
    """

    plan: Plan
    total: Table
    """One number a reduction; after `sweep`, this batch's own share of each global one."""

    @abstractmethod
    def set_gradients(self, gradients: Sequence[torch.Tensor], addresses: Sequence[int]) -> None:
        """Point at this step's gradients; their shape, dtype, strides and device have been checked."""

    @abstractmethod
    def begin(self, hyper: Table) -> None:
        """Take this step's hyperparameters: a row a distinct setting, columns as `hyper_columns` says."""

    @abstractmethod
    def sweep(self, index: int) -> None:
        """Walk over memory once: pass `index`."""

    @abstractmethod
    def end(self, index: int) -> None:
        """Finish pass `index`, its totals now being those of all batches."""

    def step(self, hyper: Table) -> None:
        """Run every pass."""
        self.begin(hyper)
        for item in self.plan.passes:
            self.sweep(item.index)
            self.end(item.index)


def run(batches: Sequence[Batch], hyper: Table) -> None:
    """Run one step of a plan on all batches, sharing what is global."""
    if len(batches) == 1:
        batches[0].step(hyper)
        return
    for batch in batches:
        batch.begin(hyper)
    for item in batches[0].plan.passes if batches else ():
        for batch in batches:
            batch.sweep(item.index)
        for node in item.reductions:
            if OPS[node.op].kind == "global":
                place = batches[0].plan.reductions.index(node)
                whole = sum(float(batch.total[place]) for batch in batches)
                for batch in batches:
                    batch.total[place] = whole
        for batch in batches:
            batch.end(item.index)


Arrays = Mapping[str, Sequence[torch.Tensor]]
"""The parameter, the gradient and every slot that is no host slot, by name: one tensor a parameter."""
