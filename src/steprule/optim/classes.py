"""torch.optim's classes by name: the same arguments, numbers and checkpoints, each one kernel.

`documented` puts what each argument and option means under every class's own words. Formulas and their sources stand in
`steprule.zoo`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Unpack

from ..graph.graph import Hyper
from ..rule import Rule
from ..zoo import adam as adams
from ..zoo import adaptive, descent
from .bucket import plain
from .documented import DECAY, documented
from .state import ensure
from .tensors import oddity
from .torch_classes import Number, Own, TorchOptimizer

Betas = tuple[Number, Number]


@documented
class SGD(TorchOptimizer):
    """Run torch.optim.SGD's update: plain, with heavy-ball momentum, or with Nesterov's.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.SGD(torch.nn.Linear(2, 1).parameters(), lr=0.1, momentum=0.9, nesterov=True, clip=1.0)
    """

    _hidden: ClassVar[Mapping[str, float]] = {"started": 1.0}

    _meanings: ClassVar[Mapping[str, str]] = {
        "momentum": "how much of the buffer of past gradients is kept a step; 0 has no buffer; at least 0",
        "dampening": "this part of each gradient is kept out of the buffer",
        "nesterov": "True looks ahead along the buffer; momentum must be above 0, dampening 0",
    }  # fmt: skip

    def __init__(self, params: Iterable[Any], lr: Number = 1e-3, momentum: Number = 0, dampening: Number = 0,
                 weight_decay: Number = 0, nesterov: bool = False, *, maximize: bool = False,
                 foreach: bool | None = None, differentiable: bool = False, fused: bool | None = None,
                 **own: Unpack[Own]) -> None:  # fmt: skip
        defaults = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay,
                    "nesterov": nesterov, "maximize": maximize, "foreach": foreach, "differentiable": differentiable,
                    "fused": fused}  # fmt: skip
        super().__init__(params, defaults, **own)

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


@documented
class Adagrad(TorchOptimizer):
    """Run torch.optim.Adagrad's update; its accumulators exist from the start.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.Adagrad(torch.nn.Linear(2, 1).parameters(), initial_accumulator_value=0.1)
    """

    _inits: ClassVar[Mapping[str, str]] = {"sum": "initial_accumulator_value"}

    _meanings: ClassVar[Mapping[str, str]] = {
        "lr_decay": "the learning rate is divided by 1 + (t − 1) · lr_decay; at least 0",
        "initial_accumulator_value": "where the sums of squares begin; at least 0",
    }  # fmt: skip

    def __init__(self, params: Iterable[Any], lr: Number = 1e-2, lr_decay: Number = 0, weight_decay: Number = 0,
                 initial_accumulator_value: Number = 0, eps: Number = 1e-10, foreach: bool | None = None, *,
                 maximize: bool = False, differentiable: bool = False, fused: bool | None = None,
                 **own: Unpack[Own]) -> None:  # fmt: skip
        defaults = {"lr": lr, "lr_decay": lr_decay, "eps": eps, "weight_decay": weight_decay,
                    "initial_accumulator_value": initial_accumulator_value, "foreach": foreach, "maximize": maximize,
                    "differentiable": differentiable, "fused": fused}  # fmt: skip
        super().__init__(params, defaults, **own)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, with its accumulators."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for parameter in group["params"]:
            if oddity(parameter) is None:  # what is refused by the first step needs none
                ensure(self._choose(group), group, parameter, self.state[parameter])

    def _rule_of(self, group: Mapping[str, Any]) -> Rule:  # noqa: ARG002
        """Return Adagrad."""
        return adaptive.adagrad


@documented
class RMSprop(TorchOptimizer):
    """Run torch.optim.RMSprop's update: plain, centred, with momentum, or both.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.RMSprop(torch.nn.Linear(2, 1).parameters(), centered=True, momentum=0.9)
    """

    _meanings: ClassVar[Mapping[str, str]] = {
        "alpha": "how much of the average square is kept a step; at least 0",
        "momentum": "how much of the last direction is kept a step; 0 has no buffer; at least 0",
        "centered": "True subtracts the square of the average gradient from the average square",
    }  # fmt: skip

    def __init__(self, params: Iterable[Any], lr: Number = 1e-2, alpha: Number = 0.99, eps: Number = 1e-8,
                 weight_decay: Number = 0, momentum: Number = 0, centered: bool = False, capturable: bool = False,
                 foreach: bool | None = None, maximize: bool = False, differentiable: bool = False,
                 **own: Unpack[Own]) -> None:  # fmt: skip
        defaults = {"lr": lr, "momentum": momentum, "alpha": alpha, "eps": eps, "centered": centered,
                    "weight_decay": weight_decay, "capturable": capturable, "foreach": foreach, "maximize": maximize,
                    "differentiable": differentiable}  # fmt: skip
        super().__init__(params, defaults, **own)

    def _rule_of(self, group: Mapping[str, Any]) -> Rule:
        """Return the one of four that the group's flags name."""
        if group["momentum"]:
            return adaptive.rmsprop_centered_momentum if group["centered"] else adaptive.rmsprop_momentum
        return adaptive.rmsprop_centered if group["centered"] else adaptive.rmsprop


@documented
class Adam(TorchOptimizer):
    """Run torch.optim.Adam's update, or AMSGrad's.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.Adam(torch.nn.Linear(2, 1).parameters(), lr=1e-3, betas=(0.9, 0.99), clip=1.0)
    """

    def __init__(self, params: Iterable[Any], lr: Number = 1e-3, betas: Betas = (0.9, 0.999), eps: Number = 1e-8,
                 weight_decay: Number = 0, amsgrad: bool = False, *, foreach: bool | None = None,
                 maximize: bool = False, capturable: bool = False, differentiable: bool = False,
                 fused: bool | None = None, decoupled_weight_decay: bool = False,
                 **own: Unpack[Own]) -> None:  # fmt: skip
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad,
                    "maximize": maximize, "foreach": foreach, "capturable": capturable,
                    "differentiable": differentiable, "fused": fused,
                    "decoupled_weight_decay": decoupled_weight_decay}  # fmt: skip
        super().__init__(params, defaults, **own)

    def _rule_of(self, group: Mapping[str, Any]) -> Rule:
        """Return Adam or AMSGrad."""
        return adams.amsgrad if group["amsgrad"] else adams.adam


@documented
class AdamW(Adam):
    """Run torch.optim.AdamW's update: Adam with decoupled weight decay.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.AdamW(torch.nn.Linear(2, 1).parameters(), lr=1e-3, weight_decay=0.1, clip=1.0)
    """

    _meanings: ClassVar[Mapping[str, str]] = {
        "weight_decay": DECAY,
    }  # fmt: skip

    def __init__(self, params: Iterable[Any], lr: Number = 1e-3, betas: Betas = (0.9, 0.999), eps: Number = 1e-8,
                 weight_decay: Number = 1e-2, amsgrad: bool = False, *, maximize: bool = False,
                 foreach: bool | None = None, capturable: bool = False, differentiable: bool = False,
                 fused: bool | None = None, **own: Unpack[Own]) -> None:  # fmt: skip
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, foreach=foreach, maximize=maximize,
                         capturable=capturable, differentiable=differentiable, fused=fused,
                         decoupled_weight_decay=True, **own)  # fmt: skip


@documented
class NAdam(TorchOptimizer):
    """Run torch.optim.NAdam's update.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.NAdam(torch.nn.Linear(2, 1).parameters(), lr=2e-3)
    """

    _meanings: ClassVar[Mapping[str, str]] = {
        "momentum_decay": "the first of betas is multiplied by 1 − 0.5 · 0.96^(t · momentum_decay); at least 0",
    }  # fmt: skip

    def __init__(self, params: Iterable[Any], lr: Number = 2e-3, betas: Betas = (0.9, 0.999), eps: Number = 1e-8,
                 weight_decay: Number = 0, momentum_decay: Number = 4e-3, decoupled_weight_decay: bool = False, *,
                 foreach: bool | None = None, maximize: bool = False, capturable: bool = False,
                 differentiable: bool = False, **own: Unpack[Own]) -> None:  # fmt: skip
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
                    "momentum_decay": momentum_decay, "decoupled_weight_decay": decoupled_weight_decay,
                    "maximize": maximize, "foreach": foreach, "capturable": capturable,
                    "differentiable": differentiable}  # fmt: skip
        super().__init__(params, defaults, **own)

    def _rule_of(self, group: Mapping[str, Any]) -> Rule:  # noqa: ARG002
        """Return NAdam."""
        return adams.nadam


@documented
class RAdam(TorchOptimizer):
    """Run torch.optim.RAdam's update.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.RAdam(torch.nn.Linear(2, 1).parameters(), lr=1e-3)
    """

    def __init__(self, params: Iterable[Any], lr: Number = 1e-3, betas: Betas = (0.9, 0.999), eps: Number = 1e-8,
                 weight_decay: Number = 0, decoupled_weight_decay: bool = False, *, foreach: bool | None = None,
                 maximize: bool = False, capturable: bool = False, differentiable: bool = False,
                 **own: Unpack[Own]) -> None:  # fmt: skip
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "maximize": maximize,
                    "foreach": foreach, "capturable": capturable, "decoupled_weight_decay": decoupled_weight_decay,
                    "differentiable": differentiable}  # fmt: skip
        super().__init__(params, defaults, **own)

    def _rule_of(self, group: Mapping[str, Any]) -> Rule:  # noqa: ARG002
        """Return RAdam."""
        return adams.radam


@documented
class Adamax(TorchOptimizer):
    """Run torch.optim.Adamax's update.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.Adamax(torch.nn.Linear(2, 1).parameters(), lr=2e-3)
    """

    def __init__(self, params: Iterable[Any], lr: Number = 2e-3, betas: Betas = (0.9, 0.999), eps: Number = 1e-8,
                 weight_decay: Number = 0, foreach: bool | None = None, *, maximize: bool = False,
                 differentiable: bool = False, capturable: bool = False, **own: Unpack[Own]) -> None:  # fmt: skip
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "foreach": foreach,
                    "maximize": maximize, "differentiable": differentiable, "capturable": capturable}  # fmt: skip
        super().__init__(params, defaults, **own)

    def _rule_of(self, group: Mapping[str, Any]) -> Rule:  # noqa: ARG002
        """Return Adamax."""
        return adams.adamax


@documented
class Adadelta(TorchOptimizer):
    """Run torch.optim.Adadelta's update.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.Adadelta(torch.nn.Linear(2, 1).parameters(), lr=1.0, rho=0.9)
    """

    _meanings: ClassVar[Mapping[str, str]] = {
        "lr": "a factor of the step that the formula finds by itself; at least 0",
        "rho": "how much of both averages is kept a step; from 0 to 1",
    }  # fmt: skip

    def __init__(self, params: Iterable[Any], lr: Number = 1.0, rho: Number = 0.9, eps: Number = 1e-6,
                 weight_decay: Number = 0, foreach: bool | None = None, *, capturable: bool = False,
                 maximize: bool = False, differentiable: bool = False, **own: Unpack[Own]) -> None:  # fmt: skip
        defaults = {"lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay, "maximize": maximize,
                    "capturable": capturable, "foreach": foreach, "differentiable": differentiable}  # fmt: skip
        super().__init__(params, defaults, **own)

    def _rule_of(self, group: Mapping[str, Any]) -> Rule:  # noqa: ARG002
        """Return Adadelta."""
        return adaptive.adadelta


@documented
class ASGD(TorchOptimizer):
    """Run torch.optim.ASGD's update; the averaged parameters are in the state, under `ax`.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.ASGD(torch.nn.Linear(2, 1).parameters(), lr=1e-2, t0=100)
    """

    _meanings: ClassVar[Mapping[str, str]] = {
        "lambd": "how fast parameters shrink, and the learning rate falls; at least 0",
        "alpha": "the power with which the learning rate falls; at least 0",
        "t0": "the step from which parameters are averaged",
    }  # fmt: skip

    def __init__(self, params: Iterable[Any], lr: Number = 1e-2, lambd: Number = 1e-4, alpha: Number = 0.75,
                 t0: Number = 1e6, weight_decay: Number = 0, foreach: bool | None = None, maximize: bool = False,
                 differentiable: bool = False, capturable: bool = False, **own: Unpack[Own]) -> None:  # fmt: skip
        defaults = {"lr": lr, "lambd": lambd, "alpha": alpha, "t0": t0, "weight_decay": weight_decay,
                    "foreach": foreach, "maximize": maximize, "differentiable": differentiable,
                    "capturable": capturable}  # fmt: skip
        super().__init__(params, defaults, **own)

    def _rule_of(self, group: Mapping[str, Any]) -> Rule:  # noqa: ARG002
        """Return averaged SGD."""
        return descent.asgd


@documented
class Rprop(TorchOptimizer):
    """Run torch.optim.Rprop's update.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.Rprop(torch.nn.Linear(2, 1).parameters(), lr=1e-2)
    """

    _parts_of: ClassVar[Mapping[str, tuple[str, int]]] = {
        "eta_minus": ("etas", 0), "eta_plus": ("etas", 1), "smallest": ("step_sizes", 0), "largest": ("step_sizes", 1),
    }  # fmt: skip

    _meanings: ClassVar[Mapping[str, str]] = {
        "lr": "the length of each element's first step; at least 0",
        "etas": "factors of an element's step where its gradient changed sign (between 0 and 1), else (above 1)",
        "step_sizes": "the shortest and the longest step of an element",
    }  # fmt: skip

    def __init__(self, params: Iterable[Any], lr: Number = 1e-2, etas: Betas = (0.5, 1.2),
                 step_sizes: Betas = (1e-6, 50), *, capturable: bool = False, foreach: bool | None = None,
                 maximize: bool = False, differentiable: bool = False, **own: Unpack[Own]) -> None:  # fmt: skip
        defaults = {"lr": lr, "etas": etas, "step_sizes": step_sizes, "foreach": foreach, "maximize": maximize,
                    "differentiable": differentiable, "capturable": capturable}  # fmt: skip
        super().__init__(params, defaults, **own)

    def _rule_of(self, group: Mapping[str, Any]) -> Rule:  # noqa: ARG002
        """Return Rprop."""
        return adaptive.rprop
