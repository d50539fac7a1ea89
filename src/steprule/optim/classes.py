"""torch.optim's classes by name: the same arguments, numbers and checkpoints, each one kernel.

A class is its signature, the rule that it runs, and what only its arguments mean; `declared` does the rest. Formulas
and their sources stand in `steprule.zoo`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from ..graph.graph import Hyper
from ..rule import Rule
from ..zoo import adam as adams
from ..zoo import adaptive, descent
from .documented import DECAY
from .settings import plain
from .state import ensure
from .tensors import oddity
from .torch_classes import Number, Own, TorchOptimizer, declared

Betas = tuple[Number, Number]


@declared
class SGD(TorchOptimizer):
    """Run torch.optim.SGD's update: plain, with heavy-ball momentum, or with Nesterov's.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.SGD(torch.nn.Linear(2, 1).parameters(), lr=0.1, momentum=0.9, nesterov=True, clip=1.0)
    """

    _hidden = {"started": 1.0}
    _meanings = {
        "momentum": "how much of the buffer of past gradients is kept a step; 0 has no buffer; at least 0",
        "dampening": "this part of each gradient is kept out of the buffer",
        "nesterov": "True looks ahead along the buffer; momentum must be above 0, dampening 0",
    }

    def __init__(self, params: Iterable[Any], lr: Number = 1e-3, momentum: Number = 0, dampening: Number = 0,
                 weight_decay: Number = 0, nesterov: bool = False, *, maximize: bool = False,
                 foreach: bool | None = None, differentiable: bool = False, fused: bool | None = None,
                 **own: Unpack[Own]) -> None: ...  # fmt: skip

    def _check_keys(self, group: dict[str, Any], which: str) -> None:
        super()._check_keys(group, which)
        if group["nesterov"]:
            Hyper("momentum", above=0).check(plain(group["momentum"]), f"SGD with nesterov=True, {which}")
            Hyper("dampening", low=0, high=0).check(plain(group["dampening"]), f"SGD with nesterov=True, {which}")

    def _rule_of(self, group: Mapping[str, Any]) -> Rule:
        """Return plain descent without momentum, else the kind of momentum asked for."""
        if not group["momentum"]:
            return descent.sgd
        return descent.nesterov if group["nesterov"] else descent.heavy_ball


@declared
class Adagrad(TorchOptimizer):
    """Run torch.optim.Adagrad's update; its accumulators exist from the start.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.Adagrad(torch.nn.Linear(2, 1).parameters(), initial_accumulator_value=0.1)
    """

    _formula = adaptive.adagrad
    _inits = {"sum": "initial_accumulator_value"}

    _meanings = {
        "lr_decay": "the learning rate is divided by 1 + (t − 1) · lr_decay; at least 0",
        "initial_accumulator_value": "where the sums of squares begin; at least 0",
    }

    def __init__(self, params: Iterable[Any], lr: Number = 1e-2, lr_decay: Number = 0, weight_decay: Number = 0,
                 initial_accumulator_value: Number = 0, eps: Number = 1e-10, foreach: bool | None = None, *,
                 maximize: bool = False, differentiable: bool = False, fused: bool | None = None,
                 **own: Unpack[Own]) -> None: ...  # fmt: skip

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, with its accumulators."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for parameter in group["params"]:
            if oddity(parameter) is None:  # what is refused by the first step needs none
                ensure(self._choose(group), group, parameter, self.state[parameter])


@declared
class RMSprop(TorchOptimizer):
    """Run torch.optim.RMSprop's update: plain, centred, with momentum, or both.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.RMSprop(torch.nn.Linear(2, 1).parameters(), centered=True, momentum=0.9)
    """

    _meanings = {
        "alpha": "how much of the average square is kept a step; at least 0",
        "momentum": "how much of the last direction is kept a step; 0 has no buffer; at least 0",
        "centered": "True subtracts the square of the average gradient from the average square",
    }

    def __init__(self, params: Iterable[Any], lr: Number = 1e-2, alpha: Number = 0.99, eps: Number = 1e-8,
                 weight_decay: Number = 0, momentum: Number = 0, centered: bool = False, capturable: bool = False,
                 foreach: bool | None = None, maximize: bool = False, differentiable: bool = False,
                 **own: Unpack[Own]) -> None: ...  # fmt: skip

    def _rule_of(self, group: Mapping[str, Any]) -> Rule:
        """Return the one of four that the group's flags name."""
        if group["momentum"]:
            return adaptive.rmsprop_centered_momentum if group["centered"] else adaptive.rmsprop_momentum
        return adaptive.rmsprop_centered if group["centered"] else adaptive.rmsprop


@declared
class Adam(TorchOptimizer):
    """Run torch.optim.Adam's update, or AMSGrad's.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.Adam(torch.nn.Linear(2, 1).parameters(), lr=1e-3, betas=(0.9, 0.99), clip=1.0)
    """

    def __init__(self, params: Iterable[Any], lr: Number = 1e-3, betas: Betas = (0.9, 0.999), eps: Number = 1e-8,
                 weight_decay: Number = 0, amsgrad: bool = False, *, foreach: bool | None = None,
                 maximize: bool = False, capturable: bool = False, differentiable: bool = False,
                 fused: bool | None = None, decoupled_weight_decay: bool = False,
                 **own: Unpack[Own]) -> None: ...  # fmt: skip

    def _rule_of(self, group: Mapping[str, Any]) -> Rule:
        """Return Adam or AMSGrad."""
        return adams.amsgrad if group["amsgrad"] else adams.adam


@declared
class AdamW(Adam):
    """Run torch.optim.AdamW's update: Adam with decoupled weight decay.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.AdamW(torch.nn.Linear(2, 1).parameters(), lr=1e-3, weight_decay=0.1, clip=1.0)
    """

    _fixed = {"decoupled_weight_decay": True}
    _meanings = {"weight_decay": DECAY}

    def __init__(self, params: Iterable[Any], lr: Number = 1e-3, betas: Betas = (0.9, 0.999), eps: Number = 1e-8,
                 weight_decay: Number = 1e-2, amsgrad: bool = False, *, maximize: bool = False,
                 foreach: bool | None = None, capturable: bool = False, differentiable: bool = False,
                 fused: bool | None = None, **own: Unpack[Own]) -> None: ...  # fmt: skip


@declared
class NAdam(TorchOptimizer):
    """Run torch.optim.NAdam's update.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.NAdam(torch.nn.Linear(2, 1).parameters(), lr=2e-3)
    """

    _formula = adams.nadam
    _meanings = {
        "momentum_decay": "the first of betas is multiplied by 1 − 0.5 · 0.96^(t · momentum_decay); at least 0",
    }

    def __init__(self, params: Iterable[Any], lr: Number = 2e-3, betas: Betas = (0.9, 0.999), eps: Number = 1e-8,
                 weight_decay: Number = 0, momentum_decay: Number = 4e-3, decoupled_weight_decay: bool = False, *,
                 foreach: bool | None = None, maximize: bool = False, capturable: bool = False,
                 differentiable: bool = False, **own: Unpack[Own]) -> None: ...  # fmt: skip


@declared
class RAdam(TorchOptimizer):
    """Run torch.optim.RAdam's update.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.RAdam(torch.nn.Linear(2, 1).parameters(), lr=1e-3)
    """

    _formula = adams.radam

    def __init__(self, params: Iterable[Any], lr: Number = 1e-3, betas: Betas = (0.9, 0.999), eps: Number = 1e-8,
                 weight_decay: Number = 0, decoupled_weight_decay: bool = False, *, foreach: bool | None = None,
                 maximize: bool = False, capturable: bool = False, differentiable: bool = False,
                 **own: Unpack[Own]) -> None: ...  # fmt: skip


@declared
class Adamax(TorchOptimizer):
    """Run torch.optim.Adamax's update.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.Adamax(torch.nn.Linear(2, 1).parameters(), lr=2e-3)
    """

    _formula = adams.adamax

    def __init__(self, params: Iterable[Any], lr: Number = 2e-3, betas: Betas = (0.9, 0.999), eps: Number = 1e-8,
                 weight_decay: Number = 0, foreach: bool | None = None, *, maximize: bool = False,
                 differentiable: bool = False, capturable: bool = False, **own: Unpack[Own]) -> None: ...  # fmt: skip


@declared
class Adadelta(TorchOptimizer):
    """Run torch.optim.Adadelta's update.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.Adadelta(torch.nn.Linear(2, 1).parameters(), lr=1.0, rho=0.9)
    """

    _formula = adaptive.adadelta
    _meanings = {
        "lr": "a factor of the step that the formula finds by itself; at least 0",
        "rho": "how much of both averages is kept a step; from 0 to 1",
    }

    def __init__(self, params: Iterable[Any], lr: Number = 1.0, rho: Number = 0.9, eps: Number = 1e-6,
                 weight_decay: Number = 0, foreach: bool | None = None, *, capturable: bool = False,
                 maximize: bool = False, differentiable: bool = False, **own: Unpack[Own]) -> None: ...  # fmt: skip


@declared
class ASGD(TorchOptimizer):
    """Run torch.optim.ASGD's update; the averaged parameters are in the state, under `ax`.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.ASGD(torch.nn.Linear(2, 1).parameters(), lr=1e-2, t0=100)
    """

    _formula = descent.asgd
    _meanings = {
        "lambd": "how fast parameters shrink, and the learning rate falls; at least 0",
        "alpha": "the power with which the learning rate falls; at least 0",
        "t0": "the step from which parameters are averaged",
    }

    def __init__(self, params: Iterable[Any], lr: Number = 1e-2, lambd: Number = 1e-4, alpha: Number = 0.75,
                 t0: Number = 1e6, weight_decay: Number = 0, foreach: bool | None = None, maximize: bool = False,
                 differentiable: bool = False, capturable: bool = False, **own: Unpack[Own]) -> None: ...  # fmt: skip


@declared
class Rprop(TorchOptimizer):
    """Run torch.optim.Rprop's update.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.Rprop(torch.nn.Linear(2, 1).parameters(), lr=1e-2)
    """

    _formula = adaptive.rprop
    _parts_of = {
        "eta_minus": ("etas", 0), "eta_plus": ("etas", 1), "smallest": ("step_sizes", 0), "largest": ("step_sizes", 1),
    }  # fmt: skip

    _meanings = {
        "lr": "the length of each element's first step; at least 0",
        "etas": "factors of an element's step where its gradient changed sign (between 0 and 1), else (above 1)",
        "step_sizes": "the shortest and the longest step of an element",
    }

    def __init__(self, params: Iterable[Any], lr: Number = 1e-2, etas: Betas = (0.5, 1.2),
                 step_sizes: Betas = (1e-6, 50), *, capturable: bool = False, foreach: bool | None = None,
                 maximize: bool = False, differentiable: bool = False, **own: Unpack[Own]) -> None: ...  # fmt: skip
