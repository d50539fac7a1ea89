"""Passes through a network: forward over a set to evaluate it, forward and back for a gradient."""

from __future__ import annotations

import math
from contextlib import contextmanager
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch

import steprule as sr

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from steprule.lab.data import Split
    from steprule.lab.tasks import Task

CHUNK = 512
"""A batch larger than this is walked in chunks, and its gradient accumulated."""

SEEN_AT_ONCE = 2048
"""Evaluation walks a larger set in chunks of this many examples."""

WIDE = "float32"
"""The type in which parameters are as networks come with them."""

DOUBLE = "float64"

KEPT = (WIDE, "bfloat16", DOUBLE)
"""The types in which parameters can be kept. With those of 64 bits a network computes in 64 bits, too."""

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""The types in which a network can compute. Losses and evaluations are float32, or as wide as the parameters."""


def kept_in(model: torch.nn.Module, dtype: str) -> torch.nn.Module:
    """Bring a network's float32 parameters to the type in which they are kept, and return it.

    To 64 bits go its buffers, too, since it then computes with them.
    """
    if dtype == DOUBLE:
        return model.double()
    if dtype != WIDE:
        for parameter in model.parameters():
            if parameter.dtype == torch.float32:
                parameter.data = parameter.data.to(getattr(torch, dtype))
    return model


def _narrow(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: one for name, one in model.named_parameters() if one.dtype == torch.bfloat16}


def _as_wide(model: torch.nn.Module, numbers: torch.Tensor) -> torch.Tensor:
    """Return float32 numbers in 64 bits for a network with such parameters, and all others as they are."""
    if numbers.dtype == torch.float32 and any(one.dtype == torch.float64 for one in model.parameters()):
        return numbers.double()
    return numbers


def outputs_of(model: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Return a network's outputs, computed with its 16-bit parameters as float32 numbers.

    So what is compared is how parameters are kept, and not how their products are rounded.
    """
    narrow = _narrow(model)
    if not narrow:
        return model(_as_wide(model, inputs))
    return torch.func.functional_call(model, {name: one.float() for name, one in narrow.items()}, (inputs,))


def as_it_came(model: torch.nn.Module, kept: str = WIDE) -> torch.nn.Module:
    """Return the network, or one with the same numbers as float32 where it was brought to another type."""
    if kept == DOUBLE:
        return deepcopy(model).float()
    if not _narrow(model):
        return model
    wide = deepcopy(model)
    for parameter in _narrow(wide).values():
        parameter.data = parameter.data.float()
    return wide


@contextmanager
def at_theta(optimizer: Any) -> Generator[None]:
    """Hold θ itself in the parameters within, where an optimiser stores another point while it trains.

    Ours may store the point where the next gradient is taken; others switch by methods `eval` and `train`.
    """
    if isinstance(optimizer, sr.Optimizer):
        with optimizer.at_iterate():
            yield
        return
    switches = callable(getattr(optimizer, "eval", None)) and callable(getattr(optimizer, "train", None))
    if switches:
        optimizer.eval()
    try:
        yield
    finally:
        if switches:
            optimizer.train()


def evaluate(model: torch.nn.Module, task: Task, split: Split) -> tuple[float, float]:
    """Return the mean loss and the score on a set, with the network in evaluation mode."""
    training = model.training
    model.eval()
    with torch.no_grad():
        outputs = torch.cat([outputs_of(model, inputs) for inputs in split.inputs.split(SEEN_AT_ONCE)])
        labels = _as_wide(model, split.labels)
        loss = task.loss(outputs, labels).item()
        score = task.score(outputs, labels, loss)
    model.train(training)
    return loss, score


def accumulate(
    model: torch.nn.Module,
    task: Task,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    parts: int = 1,
    precision: str = "float32",
    scale: torch.amp.GradScaler | None = None,
) -> float:
    """Leave the gradient of the mean loss over all the examples in the parameters, and return that loss.

    The examples come in `parts` micro-batches, or in more if those were too large, each weighted by its
    share. With a scale it is the gradient of the loss times that.
    """
    model.zero_grad(set_to_none=True)
    size = min(CHUNK, math.ceil(len(labels) / parts))
    if len(labels) <= size:
        return _gradient(model, task, inputs, labels, precision, scale)
    total = 0.0
    for some_inputs, some_labels in zip(inputs.split(size), labels.split(size), strict=True):
        share = len(some_labels) / len(labels)
        total += _gradient(model, task, some_inputs, some_labels, precision, scale, share)
    return total


def scaler(precision: str) -> torch.amp.GradScaler | None:
    """Return a scaler that keeps float16 gradients from vanishing, or None for other precisions.

    It multiplies the loss, and skips a step whose gradients overflow.
    """
    return torch.amp.GradScaler("cpu") if precision == "float16" else None


def check_precision(task: Task, precision: str, kept: Iterable[str] = ()) -> None:
    """Refuse, before any work, a precision in which this machine cannot train a network with parameters so kept."""
    if precision == WIDE:
        return
    if DOUBLE in kept:
        raise sr.errors.StepruleError(
            f"parameters of 64 bits cannot be computed with in {precision}",
            fix=f"leave out one of --parameters {DOUBLE} and --precision {precision}",
        )
    few = task.data.train.inputs[:2], task.data.train.labels[:2]
    try:
        accumulate(task.model(0), task, *few, precision=precision, scale=scaler(precision))
    except Exception as error:
        raise sr.errors.StepruleError(
            f"{task.name} cannot be trained in {precision} here: {type(error).__name__}: {error}",
            fix="choose another precision: " + ", ".join(PRECISIONS),
        ) from error


def _gradient(
    model: torch.nn.Module,
    task: Task,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    precision: str,
    scale: torch.amp.GradScaler | None,
    share: float = 1.0,
) -> float:
    """Add the gradient of one micro-batch's share of the loss, and return that share."""
    if precision == "float32":
        loss = task.loss(outputs_of(model, inputs), _as_wide(model, labels))
    else:
        with torch.autocast("cpu", PRECISIONS[precision]):
            outputs = outputs_of(model, inputs)
        loss = task.loss(outputs.float(), labels)
    if share != 1.0:
        loss = loss * share
    (loss if scale is None else scale.scale(loss)).backward()
    return loss.item()
