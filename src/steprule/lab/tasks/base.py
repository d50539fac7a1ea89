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
    """How a run is scored: along its curve on validation data, and once on test data.

    >>> from steprule.lab import Metric
    >>> accuracy = Metric("accuracy", higher=True, percent=True)
    >>> accuracy.word(0.972), accuracy.met(0.972, target=0.97)
    ('97.2 %', True)
    """

    name: str
    """What it is called in tables and charts."""
    higher: bool = False
    """Whether more is better."""
    percent: bool = False
    """Whether 0.97 is written as 97 %."""
    unit: str = ""
    """What is written behind a number, such as dB."""

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
    """Something to look at: a picture as the bytes of a PNG, or a text.

    >>> from steprule.lab import Exhibit
    >>> Exhibit("what the network continues", text="def f(x):").text
    'def f(x):'
    """

    caption: str
    """What is seen."""
    png: bytes | None = None
    """A picture, as the bytes of a PNG."""
    text: str | None = None
    """A text, in place of a picture."""


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

    >>> import torch
    >>> from steprule.lab import Data, Split, Task
    >>> x = torch.linspace(0, 1, 30)[:, None]
    >>> sets = Data(*(Split(x[part::3], 2 * x[part::3]) for part in range(3)))
    >>> line = Task(name="line", data=sets, model=lambda seed: torch.nn.Linear(1, 1), loss=torch.nn.functional.mse_loss)
    >>> line.parameter_count(), line.score(torch.zeros(1), torch.zeros(1), loss=0.25)
    (2, 0.25)

    A function that returns one is given to `steprule compare --task file.py:function`, which tries the task on a few
    examples first, and raises `TaskError` for a part that cannot be learnt from.
    """

    name: str
    """What `--task` and the files of results call it."""
    data: Data
    """The three sets."""
    model: Callable[[int], nn.Module]
    """Makes the network from the seed."""
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    """Of outputs and labels: the mean over the examples."""
    title: str = ""
    """The heading of the report."""
    about: str = ""
    """The data, in a few words."""
    network: str = ""
    """The network, in a few words."""
    metric: Metric = LOSS
    """What the score is called, and which way is better."""
    measure: Callable[[torch.Tensor, torch.Tensor], float] | None = None
    """Of outputs and labels: the score. None scores by the loss."""
    target: float | None = None
    """The score to which iterations are counted."""
    budget: Budget = field(default_factory=Budget)
    """The length of a run, unless options say another."""
    lr_range: tuple[float, float] = (1e-3, 10.0)
    """The learning rates that are tried, unless a rule or an option says others."""
    optimum: float | None = None
    """The least possible training loss, if it is known exactly."""
    theory: tuple[Theory, ...] = ()
    """What theory says of the training loss, drawn beside the curves."""
    exhibit: Callable[[nn.Module], list[Exhibit]] | None = None
    """What a trained network has to show."""
    reference: tuple[Exhibit, ...] = ()
    """What stands beside it to compare with."""

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
