"""A task: data, a network drawn from a seed, a loss, and a score."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import nn

from steprule.lab.budget import Budget
from steprule.lab.data import Data

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


@dataclass(frozen=True)
class Metric:
    """How a run is scored: along its curve on validation data, and once on test data."""

    name: str
    higher: bool = False
    """Whether more is better."""
    percent: bool = False
    unit: str = ""

    def word(self, value: float) -> str:
        """Return a score as a person writes it: `97.2 %`, `27.3 dB`, `0.0415`."""
        if not math.isfinite(value):
            return "–"
        told = f"{100 * value:.1f} %" if self.percent else f"{value:.3g}"
        return f"{told} {self.unit}" if self.unit else told

    def met(self, value: float, target: float) -> bool:
        """Return whether a score is at least as good as the target."""
        return value >= target if self.higher else value <= target


ACCURACY = Metric("accuracy", higher=True, percent=True)

LOSS = Metric("loss")


@dataclass(frozen=True)
class Exhibit:
    """Something to look at: a picture as the bytes of a PNG, or a text."""

    caption: str
    png: bytes | None = None
    text: str | None = None


@dataclass(frozen=True)
class Theory:
    """The training loss that theory gives for a number of iterations."""

    label: str
    loss: Callable[[int], float]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A learning problem; `model` is called with torch's generator already set from the seed.

    `loss` takes outputs and labels to the mean over the examples. `measure` takes them to the score; without one
    the score is the loss. `optimum` is the least possible training loss, if it is known exactly.
    """

    name: str
    data: Data
    model: Callable[[int], nn.Module]
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    title: str = ""
    about: str = ""
    network: str = ""
    metric: Metric = LOSS
    measure: Callable[[torch.Tensor, torch.Tensor], float] | None = None
    target: float | None = None
    budget: Budget = field(default_factory=Budget)
    lr_range: tuple[float, float] = (1e-3, 10.0)
    optimum: float | None = None
    theory: tuple[Theory, ...] = ()
    exhibit: Callable[[nn.Module], list[Exhibit]] | None = None
    reference: tuple[Exhibit, ...] = ()

    def parameter_count(self) -> int:
        """Return how many numbers the network learns."""
        return sum(parameter.numel() for parameter in self.model(0).parameters() if parameter.requires_grad)

    def score(self, outputs: torch.Tensor, labels: torch.Tensor, loss: float) -> float:
        """Return the score of outputs with a known mean loss."""
        return loss if self.measure is None else self.measure(outputs, labels)


@contextmanager
def drawing(seed: int) -> Generator[None]:
    """Draw weights from the seed within the block; torch's own generator goes on as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def accuracy(outputs: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the share of examples whose largest output is the label's."""
    return (outputs.argmax(dim=1) == labels).double().mean().item()
