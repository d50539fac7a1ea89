"""Logistic regression on scikit-learn's breast cancer data: convex, with its optimum computed exactly."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from steprule.lab.budget import Budget
from steprule.lab.data import Split, cancer
from steprule.lab.tasks.base import ACCURACY, Task

PENALTY = 1e-2
"""λ of the penalty λ/2 ‖w‖². Without one there is no optimum: a plane separates the training set's two classes."""

SHARPEST = 1e-10
"""How long the gradient at the optimum may be, at most."""


class Regression(nn.Module):
    """A logistic regression with a penalty on its weights.

    The penalty is an output of its own, the same for every example, so that the loss of a batch stays a function
    of outputs and labels.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 1, dtype=torch.float64)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the logit and the penalty of every example."""
        penalty = PENALTY / 2 * self.linear.weight.square().sum()
        return torch.cat([self.linear(inputs), penalty.expand(len(inputs), 1)], dim=1)


def loss(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy with the penalty."""
    return binary_cross_entropy_with_logits(outputs[:, 0], labels.to(outputs.dtype)) + outputs[:, 1].mean()


def share_told_right(outputs: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the share of tumours on the right side of the plane."""
    return ((outputs[:, 0] > 0) == (labels == 1)).double().mean().item()


@cache
def optimum() -> tuple[float, np.ndarray[Any, Any]]:
    """Return the least penalised loss on the training set, and the weights and bias that have it.

    A trust-region Newton method of SciPy finds it in double precision, without any of the lab's optimisers.
    """
    from scipy.optimize import minimize

    inputs, signs = _signed(cancer().train)
    size, features = inputs.shape
    ridge = np.diag([PENALTY] * (features - 1) + [0.0])

    def value(theta: Any) -> float:
        margin = torch.from_numpy(signs * (inputs @ theta))
        return float(softplus(-margin).mean()) + float(theta @ ridge @ theta) / 2

    def gradient(theta: Any) -> Any:
        wrong = torch.sigmoid(torch.from_numpy(-signs * (inputs @ theta))).numpy()
        return -(inputs.T @ (signs * wrong)) / size + ridge @ theta

    def hessian(theta: Any) -> Any:
        right = torch.sigmoid(torch.from_numpy(inputs @ theta)).numpy()
        return (inputs.T * (right * (1 - right))) @ inputs / size + ridge

    found: Any = minimize(
        value, np.zeros(features), jac=gradient, hess=hessian, method="trust-exact", options={"gtol": 1e-9}
    )
    theta = found.x
    for _ in range(3):  # Newton's own steps take it from nearly there to the last digit
        theta = theta - np.linalg.solve(hessian(theta), gradient(theta))
    if float(np.linalg.norm(gradient(theta))) > SHARPEST:
        raise AssertionError("the optimum was not found: the gradient there is not zero")
    return value(theta), theta


def _signed(split: Split) -> tuple[Any, Any]:
    """Return the examples with a constant one behind, and the classes as -1 and 1."""
    inputs = split.inputs.numpy()
    return np.hstack([inputs, np.ones((len(inputs), 1))]), 2.0 * split.labels.numpy() - 1


def cancer_logreg() -> Task:
    """Return the logistic regression on the tumours."""
    return Task(
        name="cancer-logreg",
        title="breast cancer",
        about="scikit-learn's bundled breast cancer data: 569 tumours, 30 measurements each, two classes",
        network=f"30–1 logistic regression in double precision, cross-entropy with {PENALTY:g}/2 ‖w‖² added",
        data=cancer(),
        model=lambda _: Regression(30),
        loss=loss,
        metric=ACCURACY,
        measure=share_told_right,
        target=0.95,
        budget=Budget(epochs=60),
        optimum=optimum()[0],
    )
