"""A user's own task: found, made, and tried on a few examples before any run depends on it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

import steprule as sr
from steprule.lab.data import Data
from steprule.lab.loading import load, place
from steprule.lab.tasks.base import Task, drawing

FACTORY = "name a Task, or a function or class that gives one when it is called without arguments"

TRIED = 8
"""The number of examples on which a task is tried."""


def own(text: str) -> Task:
    """Return the task that `module:name` or `file.py:name` names, with default words for missing ones."""
    found = load(text)
    task = found if isinstance(found, Task) or not callable(found) else _call(text, "the factory", found)
    if not isinstance(task, Task):
        raise sr.errors.TaskError(f"{text} is no task but {_kind(task)}", fix=FACTORY)
    model = _model(text, task)
    _try(text, task, model)
    return replace(
        task,
        title=task.title or task.name,
        about=task.about or f"the task of {text}",
        network=task.network or type(model).__name__,
    )


def _kind(value: Any) -> str:
    return f"of type {type(value).__name__}"


def _call(text: str, part: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of a part of the task. Word its exceptions with the line that raised them."""
    try:
        return function(*arguments)
    except Exception as error:
        told = f"{part} of {text} raised {type(error).__name__}: {error}"
        raise sr.errors.TaskError(told, where=place(error), fix="mend that line") from error


def _model(text: str, task: Task) -> nn.Module:
    with drawing(0):
        model = _call(text, "the model", task.model, 0)
    if not isinstance(model, nn.Module):
        raise sr.errors.TaskError(
            f"the model of {text} is no network but {_kind(model)}",
            fix="model is a function of the seed that returns a torch.nn.Module",
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise sr.errors.TaskError(
            f"the model of {text} has no parameters: there is nothing to learn",
            fix="return a torch.nn.Module with parameters that require a gradient",
        )
    return model


def _try(text: str, task: Task, model: nn.Module) -> None:
    """Refuse a task that could not be trained, and say why."""
    if not isinstance(task.data, Data):  # pyright: ignore[reportUnnecessaryIsInstance] - the user's may be anything
        raise sr.errors.TaskError(f"the data of {text} is {_kind(task.data)}", fix="give Data(train, validation, test)")
    for name, split in vars(task.data).items():
        if len(split.inputs) != len(split.labels) or not len(split.labels):
            told = f"the {name} set of {text} has {len(split.inputs)} inputs and {len(split.labels)} labels"
            raise sr.errors.TaskError(told, fix="give as many labels as inputs, and at least one")
    some = task.data.train.inputs[:TRIED], task.data.train.labels[:TRIED]
    outputs = _call(text, "the model", model, some[0])
    loss = _call(text, "the loss", task.loss, outputs, some[1])
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1 or loss.ndim:
        told = f"shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else _kind(loss)
        raise sr.errors.TaskError(
            f"the loss of {text} is no scalar but of {told.removeprefix('of ')}",
            fix="return the mean over the examples, a tensor without dimensions",
        )
    if not loss.requires_grad:
        raise sr.errors.TaskError(
            f"the loss of {text} does not depend on the model's parameters", fix="compute it from the outputs"
        )
    if not math.isfinite(loss.item()):
        raise sr.errors.TaskError(
            f"the loss of {text} is {loss.item()} at the start", fix="look for NaN or infinity in data, model and loss"
        )
    score = _call(text, "the measure", task.score, outputs.detach(), some[1], loss.item())
    if not isinstance(score, float | int):
        raise sr.errors.TaskError(f"the measure of {text} returns {_kind(score)}", fix="return a float, by .item()")
