"""Optimisers whose second moments are one number a row or column: Adafactor with torch.optim's face, and relatives.

What has fewer than two dimensions, as a bias, has a rule of its own where the authors keep something else of it.
Formulas, their sources and departures stand in `steprule.zoo.factored`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Unpack

import torch

from ..zoo import factored
from .compiled import Reader
from .documented import DECAY
from .torch_classes import Number, Own, TorchOptimizer, declared

Betas = tuple[Number, Number]
ThreeBetas = tuple[Number, Number, Number]
Epsilons = tuple[Number | None, Number]


@declared
class Adafactor(TorchOptimizer):
    """Run torch.optim.Adafactor's update.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.Adafactor(torch.nn.Linear(2, 3).parameters(), lr=1e-2, clip=1.0)

    Numbers and state are torch's for tensors of up to two dimensions. One of more is a matrix here, its leading index
    by all others, where torch takes it for many matrices of its last two dimensions: its state does not move to torch.
    """

    _formula = factored.adafactor
    _flat_formula = factored.adafactor_of_vectors
    _parts_of = {"eps1": ("eps", 0), "eps2": ("eps", 1)}
    _meanings = {
        "lr": "the greatest relative step, and the rate of the decay; at least 0",
        "beta2_decay": "second moments keep 1 − t^beta2_decay of what they were; at most 0",
        "eps": "two numbers: the least divisor, at least 0, or None for the machine epsilon of the first parameter's "
               "type; and the least RMS of a parameter to which steps are relative",
        "d": "the greatest RMS of an update before it is scaled; at least 1",
        "weight_decay": DECAY,
    }  # fmt: skip

    def __init__(self, params: Iterable[Any], lr: Number = 1e-2, beta2_decay: Number = -0.8,
                 eps: Epsilons = (None, 1e-3), d: Number = 1.0, weight_decay: Number = 0.0, *,
                 foreach: bool | None = None, maximize: bool = False, **own: Unpack[Own]) -> None: ...  # fmt: skip

    def _reader(self, name: str) -> Reader:
        own = super()._reader(name)
        return (lambda group: _least(group, own(group))) if name == "eps1" else own


def _least(group: dict[str, Any], told: Any) -> Any:
    """Return ε₁ of a group: as in torch, that of its first parameter's type if none is told."""
    params = dict.__getitem__(group, "params")  # no setting, which steps would look at again: bindings know types
    if told is not None or (isinstance(params, list) and not params):
        return told
    first = params[0] if isinstance(params, list) else params  # a new group may be anything that torch makes a list of
    first = first[-1] if isinstance(first, tuple) else first
    return float(torch.finfo(first.dtype if isinstance(first, torch.Tensor) else torch.float32).eps)


@declared
class CAME(TorchOptimizer):
    """Run CAME (Luo et al., 2023), with decoupled weight decay.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.CAME(torch.nn.Linear(2, 3).parameters(), lr=2e-4, weight_decay=0.01)
    """

    _formula = factored.came
    _flat_formula = factored.came_of_vectors
    _decoupled = True
    _parts_of = {"beta1": ("betas", 0), "beta2": ("betas", 1), "beta3": ("betas", 2), "eps1": ("eps", 0),
                 "eps2": ("eps", 1)}  # fmt: skip
    _meanings = {
        "betas": "how much is kept a step of the average update, of its second moments, and of what it differs by",
        "eps": "two numbers: what is added to squared gradients, and to squared differences; each above 0",
        "clip_threshold": "the greatest RMS of an update before it is averaged; above 0",
    }

    def __init__(self, params: Iterable[Any], lr: Number = 2e-4, eps: tuple[Number, Number] = (1e-30, 1e-16),
                 clip_threshold: Number = 1.0, betas: ThreeBetas = (0.9, 0.999, 0.9999), weight_decay: Number = 0, *,
                 maximize: bool = False, foreach: bool | None = None, **own: Unpack[Own]) -> None: ...  # fmt: skip


@declared
class SM3(TorchOptimizer):
    """Run SM3-II (Anil et al., 2019); weight decay is coupled, an L2 penalty.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.SM3(torch.nn.Linear(2, 3).parameters(), lr=0.1)
    """

    _formula = factored.sm3
    _meanings = {"momentum": "how much of the average update is kept a step; from 0, below 1"}

    def __init__(self, params: Iterable[Any], lr: Number = 0.1, momentum: Number = 0.9, weight_decay: Number = 0, *,
                 maximize: bool = False, foreach: bool | None = None, **own: Unpack[Own]) -> None: ...  # fmt: skip


@declared
class AdamMini(TorchOptimizer):
    """Run Adam-mini (Zhang et al., 2024) with a second moment a row, and decoupled weight decay.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.AdamMini(torch.nn.Linear(2, 3).parameters(), lr=1e-3, weight_decay=0.1)
    """

    _formula = factored.adam_mini
    _flat_formula = factored.adam_mini_of_vectors
    _decoupled = True

    def __init__(self, params: Iterable[Any], lr: Number = 1e-3, betas: Betas = (0.9, 0.999), eps: Number = 1e-8,
                 weight_decay: Number = 0, *, maximize: bool = False, foreach: bool | None = None,
                 **own: Unpack[Own]) -> None: ...  # fmt: skip
