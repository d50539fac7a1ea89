"""The interpreter beside an optimiser: the same steps in float64, from the same tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

import steprule as sr
from steprule import board, chain
from steprule.graph.evaluate import evaluate
from steprule.graph.node import Rank

RTOL = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 1e-2}
ATOL = {torch.float32: 1e-6, torch.float64: 1e-13, torch.bfloat16: 1e-2}


@sr.rule
def corrected_adam(theta, g, m, s, *, lr=0.1, beta1=0.9, beta2=0.99, eps=1e-8, t):
    """Adam with its bias corrections: the step count of every parameter matters."""
    m = beta1 * m + (1 - beta1) * g
    s = beta2 * s + (1 - beta2) * g**2
    return theta - lr / (1 - beta1**t) * m / (sr.sqrt(s / (1 - beta2**t)) + eps), m, s


CLIPPED = chain(sr.clip_global_norm(max_norm=0.5), board.momentum)
BOARD = [board.gd, board.sgd, board.momentum, board.nesterov, board.nesterov(look_ahead="board"), board.adagrad]
BOARD += [board.rmsprop, board.adam]
WITH_CLIPPING = [*BOARD, CLIPPED, chain(board.clip_norm, board.adam), chain(board.clip_component, board.sgd)]


class Truth:
    """What every parameter and slot of an optimiser should be; make it before the first step."""

    def __init__(self, optimizer: sr.Optimizer) -> None:
        self.optimizer = optimizer
        self.graph = optimizer.program.graph
        self.arrays: dict[torch.Tensor, dict[str, Any]] = {}
        self.steps: dict[torch.Tensor, int] = {}

    def _known(self, parameter: torch.Tensor) -> dict[str, Any]:
        if parameter not in self.arrays:
            theta = as_array(parameter)
            slots = {
                s.name: theta.copy()
                if s.init == "theta"
                else np.full(theta.shape if s.rank is Rank.ELEMENT else (), s.init)
                for s in self.graph.slots
            }
            self.arrays[parameter] = {self.graph.parameter: theta, **slots}
            self.steps[parameter] = 0
        return self.arrays[parameter]

    def step(self) -> None:
        """Take the step that the optimiser is about to take, with the gradients that are there."""
        arrays, numbers, parameters = [], [], []
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                known = self._known(parameter)
                if parameter.grad is None:
                    continue
                self.steps[parameter] += 1
                arrays.append({**known, self.graph.gradient: as_array(parameter.grad)})
                values = {name: float(group[name]) for name in self.optimizer.program.hypers}
                hosts = {slot.name: float(known[slot.name]) for slot in self.graph.slots if slot.rank is Rank.HOST}
                numbers.append({**values, **hosts, "t": float(self.steps[parameter])})
                parameters.append(parameter)
        for parameter, new in zip(parameters, evaluate(self.graph, arrays, numbers), strict=True):
            self.arrays[parameter] = new

    def agrees(self) -> None:
        """Compare every parameter and slot, within what the parameter's dtype can hold."""
        for parameter, arrays in self.arrays.items():
            close = {"rtol": RTOL[parameter.dtype], "atol": ATOL[parameter.dtype], "equal_nan": True}
            np.testing.assert_allclose(as_array(parameter), arrays[self.graph.parameter], **close)
            for slot in self.graph.slots:
                if self.steps[parameter]:
                    held = self.optimizer.state[parameter][slot.name].double().numpy()
                    np.testing.assert_allclose(held, arrays[slot.name], **close, err_msg=slot.name)


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """Return a tensor's values in float64, whatever its layout."""
    return tensor.detach().double().resolve_neg().numpy().copy()


def step_both(optimizer: sr.Optimizer, truth: Truth) -> None:
    """Step the interpreter, then the optimiser, and compare."""
    truth.step()
    optimizer.step()
    truth.agrees()


def fill_gradients(parameters: Sequence[torch.Tensor], scale: float = 1.0) -> None:
    """Give every parameter a new random gradient."""
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, dtype=torch.float64).mul(scale).to(parameter.dtype)


def make(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[torch.nn.Parameter]:
    """Make random parameters."""
    return [torch.nn.Parameter(torch.randn(shape, dtype=torch.float64).to(dtype)) for shape in shapes]


def bits(optimizer: torch.optim.Optimizer) -> list[tuple[str, bytes]]:
    """Return every bit of the parameters and their state, in order."""
    found: list[tuple[str, bytes]] = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            found.append(("parameter", raw(parameter)))
            state = optimizer.state.get(parameter, {})
            found += [(key, raw(state[key])) for key in sorted(state)]
    return found


def raw(tensor: torch.Tensor) -> bytes:
    """Return a tensor's values as bytes."""
    return tensor.detach().clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8).numpy().tobytes()
