"""A batch in lots: tensors that fit into the cache together take all passes of a step before the next lot begins.

Where nothing is reduced over all tensors, no tensor waits for another; a second pass then finds in the cache what the
first has read. How tensors are cut into chunks, and in which order these are combined, is as without lots.

Threads that share a pass wait for each other at its end. With lots there are more such ends, and where other processes
take the processors away, each of them is a long wait. So there are lots only where torch has one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ..graph.node import Node
from ..plan.program import Program
from .base import Batch, Gradients, Table, Where

CACHED = 4 << 20
"""Bytes of a lot, which usual processors have caches for."""


def lots(program: Program, sizes: Sequence[int], where: Where | None = None) -> list[slice]:
    """Share tensors of so many elements out among lots, in their order; one that is larger than a lot is one.

    Those of which other processes have parts wait for these between passes, together.
    """
    places = [slice(0, len(sizes))]
    waits = any(place.part for place in where or ())
    if len(program.loops) == 1 or not program.plan.apart or waits or torch.get_num_threads() > 1:
        return places
    each = sum(array.format.bytes for array in dict.fromkeys(own for loop in program.loops for own in loop.arrays))
    held = 0.0
    for tensor, size in enumerate(sizes):
        held += size * each
        if held > CACHED and tensor > places[-1].start:
            places[-1:] = [slice(places[-1].start, tensor), slice(tensor, len(sizes))]
            held = size * each
    return places


class Lots(Batch):
    """Batches of one plan, each of which takes its whole step before the next begins."""

    def __init__(self, made: Callable[[slice], Batch], places: Sequence[slice]) -> None:
        self._lots, self._places = [made(own) for own in places], places
        self.plan = self._lots[0].plan
        self.total = np.zeros(len(self.plan.reductions))  # of all tensors there is none
        self._hyper: Table = np.zeros((0, 0))

    def set_gradients(self, gradients: Gradients) -> None:
        """Point at this step's gradients."""
        for lot, own in zip(self._lots, self._places, strict=True):
            lot.set_gradients(gradients[own])

    def gradient_cells(self) -> list[int]:
        """List where the address of each tensor's gradient is kept."""
        return [cell for lot in self._lots for cell in lot.gradient_cells() or ()]

    def shared(self) -> bool:
        """Whether a pass over some lot is shared among threads."""
        return any(lot.shared() for lot in self._lots)

    def leave_out(self, present: NDArray[np.bool_]) -> None:
        """Prepare each lot for steps in which only some of its tensors have gradients."""
        for lot, own in zip(self._lots, self._places, strict=True):
            lot.leave_out(present[own])

    def set_rows(self, rows: Sequence[int]) -> None:
        """Read each tensor's hyperparameters from another row from now on."""
        for lot, own in zip(self._lots, self._places, strict=True):
            lot.set_rows(rows[own])

    def present(self) -> NDArray[np.bool_]:
        """Say which tensors have gradients in this step."""
        return np.concatenate([lot.present() for lot in self._lots])

    def numbers(self, nodes: Sequence[Node]) -> Table:
        """Return the values of nodes below element rank, a row a tensor."""
        return np.concatenate([lot.numbers(nodes) for lot in self._lots])

    def reduced(self) -> Table:
        """Return what each tensor's elements were reduced to in the last step."""
        return np.concatenate([lot.reduced() for lot in self._lots])

    # The step --------------------------------------------------------------------------------------

    def begin(self, hyper: Table) -> None:
        """Compute the host scalars, and keep the hyperparameters until a lot takes its step."""
        self._hyper = hyper
        for lot in self._lots:
            lot.begin(hyper)
        self.host = self._lots[0].host

    def sweep(self, index: int) -> None:
        """Run every lot's whole step instead of the last pass."""
        if index == len(self.plan.passes) - 1:
            self.finish()

    def begun(self) -> bool:
        """Whether a lot has begun to write."""
        return any(lot.begun() for lot in self._lots)

    def finish(self) -> None:
        """Write the rest of lots that have begun to write, and run the steps of those that have not."""
        for lot in self._lots:
            if lot.begun():
                lot.finish()
                lot.end()
            else:
                lot.step(self._hyper)

    def clear(self) -> None:
        """Forget how far this step has come, and its gradients."""
        for lot in self._lots:
            lot.clear()

    def end_all(self) -> None:
        """Write nothing: plans with a number for all tensors have no lots."""

    def end(self) -> None:
        """Leave it at what lots have written: each has ended its own step."""
