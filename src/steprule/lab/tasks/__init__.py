"""The tasks. A new one is a function that returns a `Task`, and a row in `TASKS`.

The function's arguments are the options the task takes; one without a default must be given. A task that is not
here is named by where it is found, as `module:name` or `file.py:name`.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import steprule as sr
from steprule.console.text import near
from steprule.lab.loading import is_reference
from steprule.lab.tasks.autoencoder import digits_autoencoder
from steprule.lab.tasks.base import Exhibit, Metric, Task, Theory, drawing
from steprule.lab.tasks.cancer import cancer_logreg
from steprule.lab.tasks.digits import digits_cnn, digits_logreg, digits_mlp
from steprule.lab.tasks.files import cifar10_cnn, mnist_mlp
from steprule.lab.tasks.own import own
from steprule.lab.tasks.photograph import image_coords
from steprule.lab.tasks.pydocs import pydocs_gpt
from steprule.lab.tasks.quadratic import quadratic

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

__all__ = ["ALIASES", "TASKS", "Exhibit", "Metric", "Task", "TaskSpec", "Theory", "named", "several", "takes"]

TASKS: dict[str, Callable[..., Task]] = {
    "digits-mlp": digits_mlp,
    "digits-cnn": digits_cnn,
    "digits-logreg": digits_logreg,
    "digits-autoencoder": digits_autoencoder,
    "cancer-logreg": cancer_logreg,
    "image-coords": image_coords,
    "pydocs-gpt": pydocs_gpt,
    "quadratic": quadratic,
    "mnist": mnist_mlp,
    "cifar10": cifar10_cnn,
}

ALIASES = {"digits": "digits-mlp"}
"""Other names of tasks."""


def named(text: str) -> str:
    """Return a task's own name; a task of the user's is named by where it is found."""
    name = ALIASES.get(text, text)
    if name not in TASKS and not is_reference(name):
        raise sr.errors.TaskError(
            f"{text!r} is none of {', '.join(map(repr, TASKS))}",
            fix=f"{near(text, [*TASKS, *ALIASES])} name one of these, or file.py:name or module:name".strip(),
        )
    return name


def several(text: str) -> tuple[str, ...]:
    """Return each task of a list with commas once; `all` stands for those that need no option."""
    words = [word.strip() for word in text.split(",")]
    bundled = [name for name in TASKS if not any(takes(name).values())]
    return tuple(dict.fromkeys(name for word in words for name in (bundled if word == "all" else [named(word)])))


def takes(name: str) -> dict[str, bool]:
    """Return the options of a task, and for each whether it is required."""
    if name not in TASKS:
        return {}
    parameters = inspect.signature(TASKS[name]).parameters.values()
    return {parameter.name: parameter.default is parameter.empty for parameter in parameters}


@dataclass(frozen=True)
class TaskSpec:
    """A task by name, small enough to send to a worker process, which builds it there.

    None for an option means the task's own default.
    """

    name: str = "digits-mlp"
    hidden: tuple[int, ...] | None = None
    condition: float | None = None
    data_dir: str | None = None
    source: str | None = None
    """Of a user's file, the beginning of its SHA-256: a run goes on only with the task that it began with."""

    def build(self) -> Task:
        """Return the task. Building the same one twice costs nothing."""
        return _build(self)

    def told(self) -> str:
        """Return in words everything that decides the task. The folder of its data does not."""
        return f"{replace(self, data_dir=None)}, {self.build().about}"

    @property
    def options(self) -> dict[str, Any]:
        """The options that are set for the task."""
        return {
            name: value for name, value in vars(self).items() if name not in {"name", "source"} and value is not None
        }


@cache
def _build(spec: TaskSpec) -> Task:
    task = TASKS[spec.name](**spec.options) if spec.name in TASKS else own(spec.name)
    return replace(task, model=_seeded(task.model))


def _seeded(model: Callable[[int], nn.Module]) -> Callable[[int], nn.Module]:
    """Return a function that draws a network from a seed alone."""

    def draw(seed: int) -> nn.Module:
        with drawing(seed):
            return model(seed)

    return draw
