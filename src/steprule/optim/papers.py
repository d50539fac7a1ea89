"""Optimisers of papers that torch.optim does not have, under the arguments that their torch implementations use.

A class is its signature, the rule that it runs, and what only its arguments mean; `declared` does the rest. Formulas,
their sources and departures stand in `steprule.zoo.papers`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from ..rule import Rule
from ..zoo import papers
from .compiled import Reader
from .torch_classes import Number, Own, TorchOptimizer, declared

Betas = tuple[Number, Number]
ThreeBetas = tuple[Number, Number, Number]

_BETAS = {"beta1": ("betas", 0), "beta2": ("betas", 1), "beta3": ("betas", 2)}


@declared
class Lion(TorchOptimizer):
    """Run Lion (Chen et al., 2023), with decoupled weight decay.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.Lion(torch.nn.Linear(2, 1).parameters(), lr=1e-4, weight_decay=0.1)
    """

    _formula = papers.lion
    _decoupled = True
    _meanings = {
        "betas": "how much of the average is under the sign, and how much of it is kept a step; each from 0 to 1",
    }

    def __init__(self, params: Iterable[Any], lr: Number = 1e-4, betas: Betas = (0.9, 0.99), weight_decay: Number = 0,
                 *, maximize: bool = False, foreach: bool | None = None, **own: Unpack[Own]) -> None: ...  # fmt: skip


@declared
class AdaBelief(TorchOptimizer):
    """Run AdaBelief (Zhuang et al., 2020), with decoupled weight decay and without rectification.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.AdaBelief(torch.nn.Linear(2, 1).parameters(), lr=1e-3, clip=1.0)
    """

    _formula = papers.adabelief
    _decoupled = True
    _meanings = {
        "betas": "how much is kept a step of the average, and of the square around it; each from 0, below 1",
    }

    def __init__(self, params: Iterable[Any], lr: Number = 1e-3, betas: Betas = (0.9, 0.999), eps: Number = 1e-16,
                 weight_decay: Number = 0, *, maximize: bool = False, foreach: bool | None = None,
                 **own: Unpack[Own]) -> None: ...  # fmt: skip


@declared
class Yogi(TorchOptimizer):
    """Run Yogi (Zaheer et al., 2018); weight decay is coupled, an L2 penalty.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.Yogi(torch.nn.Linear(2, 1).parameters(), lr=1e-2, initial_accumulator=1e-6)
    """

    _formula = papers.yogi
    _inits = {"exp_avg_sq": "initial_accumulator"}
    _meanings = {"initial_accumulator": "where the second moment begins; at least 0"}

    def __init__(self, params: Iterable[Any], lr: Number = 1e-2, betas: Betas = (0.9, 0.999), eps: Number = 1e-3,
                 initial_accumulator: Number = 1e-6, weight_decay: Number = 0, *, maximize: bool = False,
                 foreach: bool | None = None, **own: Unpack[Own]) -> None: ...  # fmt: skip


@declared
class ADOPT(TorchOptimizer):
    """Run ADOPT (Taniguchi et al., 2024), with the paper's clipping unless `clipped=False`.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.ADOPT(torch.nn.Linear(2, 1).parameters(), lr=1e-3, weight_decay=0.1, decouple=True)

    The first step of a parameter only measures its gradient: the parameter does not move.
    """

    _rules = {
        (decouple, clipped): papers.adopt(decouple=decouple, clipped=clipped)
        for decouple in (False, True)
        for clipped in (False, True)
    }

    _meanings = {
        "eps": "keeps denominators from 0; above 0",
        "decouple": "True takes weight decay out of the gradient: parameters shrink by lr · weight_decay a step",
        "clipped": "True bounds every element of the direction by the fourth root of the step count",
    }

    def __init__(self, params: Iterable[Any], lr: Number = 1e-3, betas: Betas = (0.9, 0.9999), eps: Number = 1e-6,
                 weight_decay: Number = 0, decouple: bool = False, clipped: bool = True, *, maximize: bool = False,
                 foreach: bool | None = None, **own: Unpack[Own]) -> None: ...  # fmt: skip

    def _rule_of(self, group: Mapping[str, Any]) -> Rule:
        """Return the one of four that the group's flags name."""
        return self._rules[bool(group["decouple"]), bool(group["clipped"])]


@declared
class AdEMAMix(TorchOptimizer):
    """Run AdEMAMix (Pagliardini, Ablin & Grangier, 2024), with decoupled weight decay.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.AdEMAMix(torch.nn.Linear(2, 1).parameters(), alpha=5.0, alpha_warmup=1000, beta3_warmup=1000)

    The warm-ups, which the paper calls T, are numbers of steps; `None` skips one.
    """

    _formula = papers.ademamix
    _parts_of = _BETAS
    _decoupled = True
    _meanings = {
        "betas": "how much is kept of the quick average, the squares and the slow average; each from 0, below 1",
        "alpha": "the weight of the slow average; at least 0",
        "beta3_warmup": "the number of steps in which the third of betas grows to its value; None leaves that out",
        "alpha_warmup": "the number of steps in which alpha grows to its value; None leaves that out",
    }

    def __init__(self, params: Iterable[Any], lr: Number = 1e-3, betas: ThreeBetas = (0.9, 0.999, 0.9999),
                 alpha: Number = 2.0, beta3_warmup: Number | None = None, alpha_warmup: Number | None = None,
                 eps: Number = 1e-8, weight_decay: Number = 0, *, maximize: bool = False, foreach: bool | None = None,
                 **own: Unpack[Own]) -> None: ...  # fmt: skip

    def _reader(self, name: str) -> Reader:
        """Read a warm-up that is None as 0."""
        read = super()._reader(name)
        return (lambda group: read(group) or 0.0) if name.endswith("_warmup") else read


@declared
class Adan(TorchOptimizer):
    """Run Adan (Xie et al., 2022), whose weight decay is a proximal step.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.Adan(torch.nn.Linear(2, 1).parameters(), lr=1e-3, weight_decay=0.02, clip=5.0)
    """

    _formula = papers.adan
    _parts_of = _BETAS
    _meanings = {
        "betas": "how much is kept of averages of the gradient, its change and the square; each from 0, below 1",
        "weight_decay": "a proximal step: parameters are divided by 1 + lr · weight_decay; at least 0",
    }

    def __init__(self, params: Iterable[Any], lr: Number = 1e-3, betas: ThreeBetas = (0.98, 0.92, 0.99),
                 eps: Number = 1e-8, weight_decay: Number = 0, *, maximize: bool = False, foreach: bool | None = None,
                 **own: Unpack[Own]) -> None: ...  # fmt: skip


@declared
class LAMB(TorchOptimizer):
    """Run LAMB (You et al., 2020); every tensor's step is as long as the tensor, times `lr`.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.LAMB(torch.nn.Linear(2, 1).parameters(), lr=1e-3, weight_decay=0.01, clip=1.0)
    """

    _formula = papers.lamb
    _meanings = {
        "weight_decay": "this times the parameter is added to the direction, before that is scaled; at least 0",
    }

    def __init__(self, params: Iterable[Any], lr: Number = 1e-3, betas: Betas = (0.9, 0.999), eps: Number = 1e-6,
                 weight_decay: Number = 1e-2, *, maximize: bool = False, foreach: bool | None = None,
                 **own: Unpack[Own]) -> None: ...  # fmt: skip


@declared
class LARS(TorchOptimizer):
    """Run LARS (You, Gitman & Ginsburg, 2017); a new `lr` acts on new gradients only, as in the paper.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.LARS(torch.nn.Linear(2, 1).parameters(), lr=1.0, weight_decay=5e-4)
    """

    _formula = papers.lars
    _meanings = {
        "lr": "the learning rate, a factor of the trusted length of a step; at least 0",
        "momentum": "how much of the last step is kept; at least 0",
        "weight_decay": "this times the parameter is added to its gradient, before the length is measured; at least 0",
        "trust_coefficient": "the trusted length of a step, as a part of the parameter's own; at least 0",
    }

    def __init__(self, params: Iterable[Any], lr: Number = 1.0, momentum: Number = 0.9, weight_decay: Number = 0,
                 trust_coefficient: Number = 1e-3, *, maximize: bool = False, foreach: bool | None = None,
                 **own: Unpack[Own]) -> None: ...  # fmt: skip


@declared
class MARS(TorchOptimizer):
    """Run MARS-AdamW (Yuan et al., 2024) in its approximate form, with decoupled weight decay.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.MARS(torch.nn.Linear(2, 1).parameters(), lr=3e-3, gamma=0.025)
    """

    _formula = papers.mars
    _decoupled = True
    _meanings = {"gamma": "how much of a gradient's change is added to it; at least 0"}

    def __init__(self, params: Iterable[Any], lr: Number = 3e-3, betas: Betas = (0.95, 0.99), eps: Number = 1e-8,
                 weight_decay: Number = 0, gamma: Number = 0.025, *, maximize: bool = False,
                 foreach: bool | None = None, **own: Unpack[Own]) -> None: ...  # fmt: skip


@declared
class SGLD(TorchOptimizer):
    """Run stochastic gradient Langevin dynamics (Welling & Teh, 2011): `seed` decides the noise.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.SGLD(torch.nn.Linear(2, 1).parameters(), lr=1e-3, temperature=1e-4, seed=3)
    """

    _formula = papers.sgld
    _meanings = {
        "weight_decay": "this times the parameter is added to its gradient: a normal prior; at least 0",
        "temperature": "of the noise: 1 for a loss that is summed over examples, 1 / n for their mean; at least 0",
    }

    def __init__(self, params: Iterable[Any], lr: Number = 1e-3, temperature: Number = 1.0, weight_decay: Number = 0,
                 *, maximize: bool = False, foreach: bool | None = None, **own: Unpack[Own]) -> None: ...  # fmt: skip


@declared
class Signum(TorchOptimizer):
    """Run Signum (Bernstein et al., 2018), with decoupled weight decay; without momentum it is signSGD.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.Signum(torch.nn.Linear(2, 1).parameters(), lr=1e-3, momentum=0.9)
    """

    _formula = papers.signum
    _decoupled = True
    _meanings = {"momentum": "how much is kept a step of the average under the sign; from 0, below 1"}

    def __init__(self, params: Iterable[Any], lr: Number = 1e-3, momentum: Number = 0.9, weight_decay: Number = 0,
                 *, maximize: bool = False, foreach: bool | None = None, **own: Unpack[Own]) -> None: ...  # fmt: skip


@declared
class StableAdamW(TorchOptimizer):
    """Run StableAdamW (Wortsman et al., 2023): a tensor whose gradient surprises takes a shorter step.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.StableAdamW(torch.nn.Linear(2, 1).parameters(), lr=1e-3, betas=(0.9, 0.99))
    """

    _formula = papers.stable_adamw
    _meanings = {
        "eps": "keeps denominators from 0; above 0",
        "weight_decay": "parameters shrink by this times the rate that their tensor has; at least 0",
    }

    def __init__(self, params: Iterable[Any], lr: Number = 1e-3, betas: Betas = (0.9, 0.99), eps: Number = 1e-8,
                 weight_decay: Number = 1e-2, *, maximize: bool = False, foreach: bool | None = None,
                 **own: Unpack[Own]) -> None: ...  # fmt: skip


__all__ = ["ADOPT", "LAMB", "LARS", "MARS", "SGLD", "AdEMAMix", "AdaBelief", "Adan", "Lion", "Signum", "StableAdamW",
           "Yogi"]  # fmt: skip
