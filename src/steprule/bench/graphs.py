"""Steps that the GPU is sent as one CUDA graph: recorded once, replayed ever after, on gradients that stay in place.

In main memory, where a run is rehearsed, there is nothing to record, and the step is taken as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch

from steprule.bench.units import StandingUnit, Unit


def record(step: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """Record a step without taking it, and return what replays it.

    A step that fails spoils the recording, whose end then raises an error of its own and leaves its stream the current
    one: what is raised here is the step's.
    """
    if device.type != "cuda":
        return step
    graph, stream, fault = torch.cuda.CUDAGraph(), torch.cuda.current_stream(device), None
    try:
        with torch.cuda.graph(graph):
            try:
                step()
            except BaseException as error:
                fault = error
                raise
    except BaseException as error:  # noqa: BLE001 - it is raised again
        torch.cuda.set_stream(stream)
        raise fault or error  # noqa: B904
    return graph.replay


class GraphedUnit(StandingUnit):
    """A unit that takes its first step as it is, which makes state, and replays the record of its second."""

    warm = 2

    def __init__(self, unit: Unit) -> None:
        super().__init__(self._begin, unit.parameters)
        self._unit = unit

    def _begin(self) -> None:
        self._unit.step()
        self.step = self._record

    def _record(self) -> None:
        self.step = record(self._unit.step, self.device)
        self.step()


class ReducedUnit(StandingUnit):
    """A unit compiled in the mode `reduce-overhead`, which makes graphs: of two steps, then of each the replay."""

    warm = 3

    def refill(self, prepared: Any) -> None:
        """Copy these values into its gradients. Told that these stay, graphs copy none of them at each step."""
        new = not self._standing
        super().refill(prepared)
        if new:
            compiler: Any = import_module("torch._dynamo")
            for gradient in self._standing:
                compiler.mark_static_address(gradient)
