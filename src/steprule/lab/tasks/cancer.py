"""The task on scikit-learn's breast cancer data."""

from __future__ import annotations

from torch.nn.functional import cross_entropy

from steprule.lab.data import cancer
from steprule.lab.tasks.base import ACCURACY, Task, accuracy
from steprule.lab.tasks.networks import perceptron


def cancer_logreg() -> Task:
    """Return the logistic regression on the tumours."""
    return Task(
        name="cancer-logreg",
        title="breast cancer",
        about="scikit-learn's bundled breast cancer data: 569 tumours, 30 measurements each, two classes",
        network="30–2 logistic regression, cross-entropy",
        data=cancer(),
        model=lambda _: perceptron((30, 2)),
        loss=cross_entropy,
        metric=ACCURACY,
        measure=accuracy,
        target=0.95,
    )
