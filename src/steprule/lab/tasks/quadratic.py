"""A quadratic of a chosen condition number, drawn beside the bound that theory gives."""

from __future__ import annotations

import math

import torch
from torch import nn

from steprule.lab.budget import Budget
from steprule.lab.data import Data, Split
from steprule.lab.tasks.base import Metric, Task, Theory

SIZE = 100


class Bowl(nn.Module):
    """A point in a bowl ½ xᵀ Q diag(λ) Qᵀ x, whose axes Q and start are drawn; the start lies at height 1.

    An input is one axis, scaled so that the mean over all of them is the whole bowl.
    """

    axes: torch.Tensor

    def __init__(self, curvatures: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("axes", nn.init.orthogonal_(torch.empty(SIZE, SIZE, dtype=torch.float64)))
        point = self.axes.T @ (torch.randn(SIZE, dtype=torch.float64) / curvatures.sqrt())
        height = (curvatures * (self.axes @ point).square()).sum() / 2
        self.point = nn.Parameter(point / height.sqrt())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return how far the point lies along each input."""
        return inputs @ (self.axes @ self.point)


def loss(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return half the mean squared distance."""
    return (outputs - labels).square().mean() / 2


def curvatures(condition: float) -> torch.Tensor:
    """Return the curvatures, from 1/κ to 1, equal factors apart."""
    return torch.logspace(-math.log10(condition), 0, SIZE, dtype=torch.float64)


def _theory(condition: float) -> tuple[Theory, ...]:
    """Return the rates of two methods at their best steps; a distance that shrinks by r takes the loss by r²."""
    root = math.sqrt(condition)
    gd, ball = (condition - 1) / (condition + 1), (root - 1) / (root + 1)
    return (
        Theory("theory: gradient descent, ((κ−1)/(κ+1))²ᵗ", lambda t: gd ** (2 * t)),
        Theory("theory: heavy ball, ((√κ−1)/(√κ+1))²ᵗ", lambda t: ball ** (2 * t)),
    )


def quadratic(condition: float = 100.0) -> Task:
    """Return the bowl whose steepest axis is curved κ times as much as its flattest."""
    rows = torch.diag((SIZE * curvatures(condition)).sqrt())
    whole = Split(rows, torch.zeros(SIZE, dtype=torch.float64))
    return Task(
        name="quadratic",
        title=f"a quadratic of condition number {condition:g}",
        about=f"a bowl in {SIZE} dimensions with curvatures from 1/{condition:g} to 1, turned and started at random: "
        "the gradient is exact, and all three sets are the bowl itself",
        network="½ xᵀ A x in double precision, started at 1",
        data=Data(whole, whole, whole),
        model=lambda _: Bowl(curvatures(condition)),
        loss=loss,
        metric=Metric("height above the minimum"),
        target=1e-6,
        budget=Budget(epochs=300, batch_size=SIZE),
        lr_range=(1e-3, 100.0),
        optimum=0.0,
        theory=_theory(condition),
    )
