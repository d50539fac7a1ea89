"""Optimisers of papers that torch.optim does not have, under the arguments that their torch implementations use.

All take `clip`, `nonfinite` and `backend`, and accept `foreach`, as torch.optim's classes here do. Formulas, their
sources and departures stand in `steprule.zoo.papers`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Unpack

from ..rule import Rule
from ..zoo import papers
from .compiled import Reader
from .shell import Own, Shell

Betas = tuple[Any, Any]
ThreeBetas = tuple[Any, Any, Any]

_BETAS = {"beta1": ("betas", 0), "beta2": ("betas", 1), "beta3": ("betas", 2)}


class _OfOneRule(Shell):
    """A shell around one rule, whatever the flags of a group."""

    rule: ClassVar[Rule]

    def rule_of(self, group: Mapping[str, Any]) -> Rule:  # noqa: ARG002
        """Return the rule of this class."""
        return self.rule


class Lion(_OfOneRule):
    """Run Lion (Chen et al., 2023), with decoupled weight decay.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.Lion(torch.nn.Linear(2, 1).parameters(), lr=1e-4, weight_decay=0.1)
    """

    rule = papers.lion
    decoupled: ClassVar[bool] = True

    def __init__(self, params: Iterable[Any], lr: Any = 1e-4, betas: Betas = (0.9, 0.99), weight_decay: Any = 0, *,
                 maximize: bool = False, foreach: bool | None = None, **own: Unpack[Own]) -> None:  # fmt: skip
        defaults = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize, "foreach": foreach}
        super().__init__(params, defaults, **own)


class AdaBelief(_OfOneRule):
    """Run AdaBelief (Zhuang et al., 2020), with decoupled weight decay and without rectification.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.AdaBelief(torch.nn.Linear(2, 1).parameters(), lr=1e-3, clip=1.0)
    """

    rule = papers.adabelief
    decoupled: ClassVar[bool] = True

    def __init__(self, params: Iterable[Any], lr: Any = 1e-3, betas: Betas = (0.9, 0.999), eps: Any = 1e-16,
                 weight_decay: Any = 0, *, maximize: bool = False, foreach: bool | None = None,
                 **own: Unpack[Own]) -> None:  # fmt: skip
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "maximize": maximize,
                    "foreach": foreach}  # fmt: skip
        super().__init__(params, defaults, **own)


class Yogi(_OfOneRule):
    """Run Yogi (Zaheer et al., 2018); weight decay is coupled, an L2 penalty.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.Yogi(torch.nn.Linear(2, 1).parameters(), lr=1e-2, initial_accumulator=1e-6)
    """

    rule = papers.yogi
    inits: ClassVar[Mapping[str, str]] = {"exp_avg_sq": "initial_accumulator"}

    def __init__(self, params: Iterable[Any], lr: Any = 1e-2, betas: Betas = (0.9, 0.999), eps: Any = 1e-3,
                 initial_accumulator: Any = 1e-6, weight_decay: Any = 0, *, maximize: bool = False,
                 foreach: bool | None = None, **own: Unpack[Own]) -> None:  # fmt: skip
        defaults = {"lr": lr, "betas": betas, "eps": eps, "initial_accumulator": initial_accumulator,
                    "weight_decay": weight_decay, "maximize": maximize, "foreach": foreach}  # fmt: skip
        super().__init__(params, defaults, **own)


class ADOPT(Shell):
    """Run ADOPT (Taniguchi et al., 2024), with the paper's clipping unless `clipped=False`.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.ADOPT(torch.nn.Linear(2, 1).parameters(), lr=1e-3, weight_decay=0.1, decouple=True)

    The first step of a parameter only measures its gradient: the parameter does not move.
    """

    rules: ClassVar[Mapping[tuple[bool, bool], Rule]] = {
        (decouple, clipped): papers.adopt(decouple=decouple, clipped=clipped)
        for decouple in (False, True)
        for clipped in (False, True)
    }

    def __init__(self, params: Iterable[Any], lr: Any = 1e-3, betas: Betas = (0.9, 0.9999), eps: Any = 1e-6,
                 weight_decay: Any = 0, decouple: bool = False, clipped: bool = True, *, maximize: bool = False,
                 foreach: bool | None = None, **own: Unpack[Own]) -> None:  # fmt: skip
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "decouple": decouple,
                    "clipped": clipped, "maximize": maximize, "foreach": foreach}  # fmt: skip
        super().__init__(params, defaults, **own)

    def rule_of(self, group: Mapping[str, Any]) -> Rule:
        """Return the one of four that the group's flags name."""
        return self.rules[bool(group["decouple"]), bool(group["clipped"])]


class AdEMAMix(_OfOneRule):
    """Run AdEMAMix (Pagliardini, Ablin & Grangier, 2024), with decoupled weight decay.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.AdEMAMix(torch.nn.Linear(2, 1).parameters(), alpha=5.0, alpha_warmup=1000, beta3_warmup=1000)

    The warm-ups, which the paper calls T, are numbers of steps; `None` is none.
    """

    rule = papers.ademamix
    parts_of: ClassVar[Mapping[str, tuple[str, int]]] = _BETAS
    decoupled: ClassVar[bool] = True

    def __init__(self, params: Iterable[Any], lr: Any = 1e-3, betas: ThreeBetas = (0.9, 0.999, 0.9999),
                 alpha: Any = 2.0, beta3_warmup: Any = None, alpha_warmup: Any = None, eps: Any = 1e-8,
                 weight_decay: Any = 0, *, maximize: bool = False, foreach: bool | None = None,
                 **own: Unpack[Own]) -> None:  # fmt: skip
        defaults = {"lr": lr, "betas": betas, "alpha": alpha, "beta3_warmup": beta3_warmup,
                    "alpha_warmup": alpha_warmup, "eps": eps, "weight_decay": weight_decay, "maximize": maximize,
                    "foreach": foreach}  # fmt: skip
        super().__init__(params, defaults, **own)

    def _reader(self, name: str) -> Reader:
        """Read a warm-up that is None as 0."""
        read = super()._reader(name)
        return (lambda group: read(group) or 0.0) if name.endswith("_warmup") else read


class Adan(_OfOneRule):
    """Run Adan (Xie et al., 2022), whose weight decay is a proximal step.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.Adan(torch.nn.Linear(2, 1).parameters(), lr=1e-3, weight_decay=0.02, clip=5.0)
    """

    rule = papers.adan
    parts_of: ClassVar[Mapping[str, tuple[str, int]]] = _BETAS

    def __init__(self, params: Iterable[Any], lr: Any = 1e-3, betas: ThreeBetas = (0.98, 0.92, 0.99),
                 eps: Any = 1e-8, weight_decay: Any = 0, *, maximize: bool = False, foreach: bool | None = None,
                 **own: Unpack[Own]) -> None:  # fmt: skip
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "maximize": maximize,
                    "foreach": foreach}  # fmt: skip
        super().__init__(params, defaults, **own)


class LAMB(_OfOneRule):
    """Run LAMB (You et al., 2020); every tensor's step is as long as the tensor, times `lr`.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.LAMB(torch.nn.Linear(2, 1).parameters(), lr=1e-3, weight_decay=0.01, clip=1.0)
    """

    rule = papers.lamb

    def __init__(self, params: Iterable[Any], lr: Any = 1e-3, betas: Betas = (0.9, 0.999), eps: Any = 1e-6,
                 weight_decay: Any = 1e-2, *, maximize: bool = False, foreach: bool | None = None,
                 **own: Unpack[Own]) -> None:  # fmt: skip
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "maximize": maximize,
                    "foreach": foreach}  # fmt: skip
        super().__init__(params, defaults, **own)


class LARS(_OfOneRule):
    """Run LARS (You, Gitman & Ginsburg, 2017); a new `lr` acts on new gradients only, as in the paper.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.LARS(torch.nn.Linear(2, 1).parameters(), lr=1.0, weight_decay=5e-4)
    """

    rule = papers.lars

    def __init__(self, params: Iterable[Any], lr: Any = 1.0, momentum: Any = 0.9, weight_decay: Any = 0,
                 trust_coefficient: Any = 1e-3, *, maximize: bool = False, foreach: bool | None = None,
                 **own: Unpack[Own]) -> None:  # fmt: skip
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay,
                    "trust_coefficient": trust_coefficient, "maximize": maximize, "foreach": foreach}  # fmt: skip
        super().__init__(params, defaults, **own)


__all__ = ["ADOPT", "LAMB", "LARS", "AdEMAMix", "AdaBelief", "Adan", "Lion", "Yogi"]
