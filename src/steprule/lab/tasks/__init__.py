"""What is learnt. A new task is a function that returns a `Task`, and a row in `TASKS`.

The function's keyword arguments are the options the task takes; one without a default must be given.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from steprule.lab.tasks.autoencoder import digits_autoencoder
from steprule.lab.tasks.base import Exhibit, Metric, Task, Theory, drawing
from steprule.lab.tasks.cancer import cancer_logreg
from steprule.lab.tasks.digits import digits_cnn, digits_mlp
from steprule.lab.tasks.photograph import image_coords
from steprule.lab.tasks.pydocs import pydocs_gpt
from steprule.lab.tasks.quadratic import quadratic

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

__all__ = ["ALIASES", "TASKS", "Exhibit", "Metric", "Task", "TaskSpec", "Theory", "takes"]

TASKS: dict[str, Callable[..., Task]] = {
    "digits-mlp": digits_mlp,
    "digits-cnn": digits_cnn,
    "digits-autoencoder": digits_autoencoder,
    "cancer-logreg": cancer_logreg,
    "image-coords": image_coords,
    "pydocs-gpt": pydocs_gpt,
    "quadratic": quadratic,
}

ALIASES = {"digits": "digits-mlp"}
"""Other names by which a task can be asked for."""


def takes(name: str) -> dict[str, bool]:
    """Return the options of a task, and of each whether it must be given."""
    parameters = inspect.signature(TASKS[name]).parameters.values()
    return {parameter.name: parameter.default is parameter.empty for parameter in parameters}


@dataclass(frozen=True)
class TaskSpec:
    """A task by name, small enough to send to a worker process, which builds it there.

    An option that is none is the task's own default.
    """

    name: str = "digits-mlp"
    hidden: tuple[int, ...] | None = None
    condition: float | None = None

    def build(self) -> Task:
        """Return the task; building the same one twice costs nothing."""
        return _build(self)

    @property
    def options(self) -> dict[str, Any]:
        """What was chosen for the task."""
        return {name: value for name, value in vars(self).items() if name != "name" and value is not None}


@cache
def _build(spec: TaskSpec) -> Task:
    task = TASKS[spec.name](**spec.options)
    return replace(task, model=_seeded(task.model))


def _seeded(model: Callable[[int], nn.Module]) -> Callable[[int], nn.Module]:
    """Return the function that draws the same network from a seed whatever was drawn before."""

    def draw(seed: int) -> nn.Module:
        with drawing(seed):
            return model(seed)

    return draw
