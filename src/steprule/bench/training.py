"""Whole training steps: zero_grad, forward, backward, clipping, update, each arm with a model of its own."""

from __future__ import annotations

from typing import Any

from steprule.bench import arms
from steprule.bench.models import MODELS
from steprule.bench.rules import TimedRule
from steprule.bench.units import Tensors, Unit

NOTHING = "no update"
"""The arm that only makes gradients: the limit for an update that costs nothing."""


class _Given(Tensors):
    """A model's own parameters, in the place of tensors made for the purpose."""

    def __init__(self, parameters: list[Any]) -> None:
        self.parameters, self.gradients = parameters, []


def training_unit(name: str, model: str, rule: TimedRule, clip: str) -> Unit:
    """Return the training step of one arm."""
    network, loss = MODELS[model].fresh()
    parameters: list[Any] = list(network.parameters())
    given = _Given(parameters)
    update = arms.build(name, rule, clip, given).step if name != NOTHING else None

    def step() -> None:
        network.zero_grad()
        loss().backward()
        if update is not None:
            update()

    return Unit(step, parameters)
