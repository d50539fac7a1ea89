"""What is learnt: data, a network drawn from a seed, and a loss. A new task is one more row in `TASKS`."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import nn

from steprule.lab.data import Data, cancer, digits

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence


@dataclass(frozen=True)
class Task:
    """A learning problem; `model(seed)` draws the same initial weights for every method."""

    name: str
    title: str
    about: str
    network: str
    data: Data
    model: Callable[[int], nn.Module]
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    pictures: bool = False
    """Whether an input is an 8×8 picture, which the report can show."""

    def parameter_count(self) -> int:
        """Return how many numbers the network learns."""
        return sum(parameter.numel() for parameter in self.model(0).parameters())


@dataclass(frozen=True)
class TaskSpec:
    """A task by name, small enough to send to a worker process, which builds it there."""

    name: str = "digits"
    hidden: tuple[int, ...] = (64,)

    def build(self) -> Task:
        """Return the task; building the same one twice costs nothing."""
        return _build(self)


@cache
def _build(spec: TaskSpec) -> Task:
    return TASKS[spec.name](spec)


@contextmanager
def _drawing(seed: int) -> Generator[None]:
    """Draw weights from the seed within the block; torch's own generator goes on as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def perceptron(sizes: Sequence[int], seed: int) -> nn.Module:
    """Return a ReLU network of the given layer sizes, with PyTorch's default weights drawn from the seed."""
    with _drawing(seed):
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(sizes):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        return nn.Sequential(*layers[:-1])


def convolutional(seed: int) -> nn.Module:
    """Return a small convolutional network for 8×8 pictures, with PyTorch's default weights drawn from the seed."""
    with _drawing(seed):
        return nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)),
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(512, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )


def _digits(spec: TaskSpec) -> Task:
    sizes = (64, *spec.hidden, 10)
    return Task(
        name="digits",
        title="handwritten digits",
        about="scikit-learn's bundled digits: 1,797 real 8×8 images of ten classes",
        network="–".join(map(str, sizes)) + " perceptron, ReLU, cross-entropy",
        data=digits(),
        model=lambda seed: perceptron(sizes, seed),
        loss=nn.functional.cross_entropy,
        pictures=True,
    )


def _digits_cnn(_: TaskSpec) -> Task:
    network = "convolutional network of 16 and 32 channels and 64 units, ReLU, cross-entropy"
    return replace(_digits(TaskSpec()), name="digits-cnn", network=network, model=convolutional)


def _cancer_logreg(_: TaskSpec) -> Task:
    return Task(
        name="cancer-logreg",
        title="breast cancer",
        about="scikit-learn's bundled breast cancer data: 569 tumours, 30 measurements each, two classes",
        network="30–2 logistic regression, cross-entropy",
        data=cancer(),
        model=lambda seed: perceptron((30, 2), seed),
        loss=nn.functional.cross_entropy,
    )


TASKS: dict[str, Callable[[TaskSpec], Task]] = {
    "digits": _digits,
    "digits-cnn": _digits_cnn,
    "cancer-logreg": _cancer_logreg,
}

LAYERED = ("digits",)
"""The tasks whose hidden layers can be chosen."""
