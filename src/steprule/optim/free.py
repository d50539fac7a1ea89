"""Optimisers that leave less to tune: by the loss, or by how far they came.

Formulas, their sources and departures stand in `steprule.zoo.free`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Unpack

from ..zoo import free
from .torch_classes import Number, Own, TorchOptimizer, declared

Betas = tuple[Number, Number]


@declared
class Polyak(TorchOptimizer):
    """Run Polyak's step (1987) of at most `lr`: pass the loss, by `step(closure)` or `step(loss=loss)`.

    >>> import torch, steprule as sr
    >>> model = torch.nn.Linear(2, 1)
    >>> opt = sr.optim.Polyak(model.parameters(), lr=1.0)
    >>> loss = model(torch.ones(1, 2)).square().sum()
    >>> loss.backward()
    >>> opt.step(loss=loss)
    """

    _formula = free.polyak
    _meanings: ClassVar[Mapping[str, str]] = {
        "lr": "the longest step, as a factor of the gradient; at least 0",
        "least": "the least loss there is",
        "eps": "is added to the squared length of the gradient; above 0",
    }

    def __init__(self, params: Iterable[Any], lr: Number = 1.0, least: Number = 0.0, eps: Number = 1e-30,
                 weight_decay: Number = 0, *, maximize: bool = False, foreach: bool | None = None,
                 **own: Unpack[Own]) -> None: ...  # fmt: skip


@declared
class DoG(TorchOptimizer):
    """Run DoG (Ivgi, Hinder & Carmon, 2023), whose `lr` of 1 needs no tuning; average the parameters to evaluate.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.DoG(torch.nn.Linear(2, 1).parameters())
    """

    _formula = free.dog
    _meanings: ClassVar[Mapping[str, str]] = {
        "lr": "a factor of the step that it finds; at least 0",
        "first": "the first way, as a part of one more than the length of the parameters; above 0",
        "eps": "is added to the sum of squares; at least 0",
    }

    def __init__(self, params: Iterable[Any], lr: Number = 1.0, first: Number = 1e-6, eps: Number = 1e-8,
                 weight_decay: Number = 0, *, maximize: bool = False, foreach: bool | None = None,
                 **own: Unpack[Own]) -> None: ...  # fmt: skip


@declared
class Prodigy(TorchOptimizer):
    """Run Prodigy (Mishchenko & Defazio, 2023), whose `lr` of 1 needs no tuning; a schedule may lower it.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.Prodigy(torch.nn.Linear(2, 1).parameters(), weight_decay=0.01)
    """

    _formula = free.prodigy
    _meanings: ClassVar[Mapping[str, str]] = {
        "lr": "a factor of the rate that it finds; at least 0",
        "d0": "the first estimate of how far the solution is; above 0",
        "d_coef": "a factor of that estimate; at least 0",
        "weight_decay": "decoupled: parameters shrink by this times the rate; at least 0",
    }

    def __init__(self, params: Iterable[Any], lr: Number = 1.0, betas: Betas = (0.9, 0.999), eps: Number = 1e-8,
                 weight_decay: Number = 0, d0: Number = 1e-6, d_coef: Number = 1.0, *, maximize: bool = False,
                 foreach: bool | None = None, **own: Unpack[Own]) -> None: ...  # fmt: skip


__all__ = ["DoG", "Polyak", "Prodigy"]
