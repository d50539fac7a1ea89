"""The tasks on scikit-learn's digits."""

from __future__ import annotations

from dataclasses import replace

from torch.nn.functional import cross_entropy

from steprule.lab.data import digits
from steprule.lab.tasks.base import ACCURACY, Exhibit, Task, accuracy
from steprule.lab.tasks.models import convolutional, perceptron
from steprule.lab.tasks.pictures import png, row

ABOUT = "scikit-learn's bundled digits: 1,797 real 8×8 images of ten classes"


def first_digits(count: int = 26) -> Exhibit:
    """Return the first training images side by side."""
    pictures = digits().train.inputs[:count].reshape(-1, 8, 8)
    return Exhibit("The first training images, side by side", png=png(row(1 - pictures)))


def digits_mlp(hidden: tuple[int, ...] = (64,)) -> Task:
    """Return the perceptron on the digits."""
    sizes = (64, *hidden, 10)
    return Task(
        name="digits-mlp",
        title="handwritten digits",
        about=ABOUT,
        network="–".join(map(str, sizes)) + " perceptron, ReLU, cross-entropy",
        data=digits(),
        model=lambda _: perceptron(sizes),
        loss=cross_entropy,
        metric=ACCURACY,
        measure=accuracy,
        target=0.9,
        reference=(first_digits(),),
    )


def digits_logreg() -> Task:
    """Return the logistic regression on the digits."""
    network = "64–10 logistic regression, cross-entropy"
    return replace(digits_mlp(()), name="digits-logreg", network=network)


def digits_cnn() -> Task:
    """Return the convolutional network on the digits."""
    network = "convolutional network of 16 and 32 channels and 64 units, ReLU, cross-entropy"
    return replace(digits_mlp(), name="digits-cnn", network=network, model=lambda _: convolutional())
