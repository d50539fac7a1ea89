"""A small model, trained as the loops of torch's own tools do it, and comparisons of what comes out."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from hosting import RuleAdamW

import steprule as sr

RTOL = {torch.float32: 1e-5, torch.float64: 1e-12}

Make = Callable[..., torch.optim.Optimizer]

PAIRS: dict[str, tuple[Make, Make, dict[str, Any]]] = {
    "AdamW": (sr.optim.AdamW, torch.optim.AdamW, {"lr": 0.02, "weight_decay": 0.1}),
    "SGD": (sr.optim.SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    "a rule": (RuleAdamW, torch.optim.AdamW, {"lr": 0.02, "weight_decay": 0.1}),
}
"""Ours, what torch has for it, and the options of both."""

CLASSES = (
    "SGD", "Adagrad", "RMSprop", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adadelta", "ASGD", "Rprop",
    "Lion", "AdaBelief", "Yogi", "ADOPT", "AdEMAMix", "Adan", "LAMB", "LARS",
)  # fmt: skip


def network(dtype: torch.dtype = torch.float64) -> torch.nn.Module:
    """Make the same small model every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)).to(dtype)


def batch(step: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the inputs and targets of a step, the same whoever asks."""
    random = torch.Generator().manual_seed(1000 + step)
    drawn = torch.randn(16, 7, generator=random, dtype=torch.float64).to(dtype)
    return drawn[:, :4], drawn[:, 4:]


def loss_of(model: Callable[[torch.Tensor], torch.Tensor], step: int, dtype: torch.dtype = torch.float64) -> Any:
    """Return the loss of a step's batch."""
    inputs, targets = batch(step, dtype)
    return (model(inputs) - targets).square().mean()


def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: Iterable[int]) -> None:
    """Train for some steps, each of which is known by its number."""
    dtype = next(model.parameters()).dtype
    for step in steps:
        optimizer.zero_grad()
        loss_of(model, step, dtype).backward()
        optimizer.step()


def deviation(a: Iterable[torch.Tensor], b: Iterable[torch.Tensor]) -> float:
    """Return the largest |a − b| / (|b| + 0.1) of two models."""
    pairs = [(x.detach().double(), y.detach().double()) for x, y in zip(a, b, strict=True)]
    return max(float(((x - y).abs() / (y.abs() + 0.1)).max()) for x, y in pairs if x.numel())


def held(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Copy the parameters and all their state, in order."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = [optimizer.state[p][key] for p in parameters for key in sorted(optimizer.state.get(p, {}))]
    return [tensor.detach().clone() for tensor in (*parameters, *state)]


def identical(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> bool:
    """Whether two lists of tensors agree in every bit."""
    return len(a) == len(b) and all(x.dtype == y.dtype and torch.equal(x, y) for x, y in zip(a, b, strict=True))


def through_a_file(saved: Any) -> Any:
    """Save and load, running no code from the file."""
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)
