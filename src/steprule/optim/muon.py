"""Muon with torch.optim.Muon's face."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

import torch

from ..errors import HyperparameterError, ParameterError
from ..graph.ops import COEFFICIENTS
from ..rule import Rule
from ..zoo import matrices
from ..zoo.adam import adam
from .classes import Betas
from .groups import RULE
from .options import Options
from .roles import grouped
from .settings import plain
from .tensors import label
from .torch_classes import Number, Own, TorchOptimizer, declared, part_of

EPS = 1e-8
"""AdamW's ε, for what is stepped by that."""
SCALES = {None: "original", "original": "original", "match_rms_adamw": "match_rms_adamw"}
"""What torch's `adjust_lr_fn` chooses."""


@declared
class Muon(TorchOptimizer):
    """Run torch.optim.Muon's update on matrices: momentum, made orthogonal by Newton-Schulz iterations.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.Muon([torch.nn.Linear(4, 2).weight], lr=0.02, adjust_lr_fn="match_rms_adamw")

    Iterations are in bfloat16, as torch's are, unless parameters are float64; there torch's are in bfloat16, too.

    Given a model, it steps all of it: hidden matrices and convolutions so, the rest by AdamW. AdamW's `lr` suits both.

    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> opt = sr.optim.Muon(model, lr=1e-3)
    >>> {name: route.rule for name, route in opt.routes.items()}
    {'0.weight': 'muon', '0.bias': 'adam', '2.weight': 'adam', '2.bias': 'adam'}

    Roles are found as `steprule.Optimizer` finds them. A group may ask for AdamW: `{"params": ..., "rule": "adam"}`.
    """

    _decoupled = True
    _parts_of = {
        "a": ("ns_coefficients", 0),
        "b": ("ns_coefficients", 1),
        "c": ("ns_coefficients", 2),
        "beta1": ("betas", 0),
        "beta2": ("betas", 1),
    }
    _others = {"adam": adam}
    _kept = ("_step_supports_amp_scaling", "_aside", "_routes")
    _meanings = {
        "params": "matrices, groups (dicts) or named parameters, as torch's optimiser takes them; or a model",
        "betas": "those of AdamW, for what is stepped by it, and checked where something is",
        "roles": 'roles that the modules of a model do not show, as {"lm_head": "head"}; see steprule.Optimizer',
        "momentum": "how much of the average gradient is kept a step; at least 0",
        "nesterov": "True orthogonalises the average of the gradient and the new momentum",
        "ns_coefficients": "the a, b, c of one iteration, aX + (bA + cA²)X with A = XXᵀ",
        "eps": "the least length that a matrix is divided by before iterations; at least 0",
        "ns_steps": "the number of iterations; a whole number from 0 to 99",
        "adjust_lr_fn": 'what lr is multiplied by: "original", by √max(1, rows / columns); '
                        '"match_rms_adamw" by 0.2 √max(rows, columns), for AdamW\'s lr and weight decay; '
                        'None means the former, of a model the latter',
        "gram": "True iterates XXᵀ alone where one side is 1.5 times the other: fewer products, less exact",
    }  # fmt: skip

    def __init__(self, params: Iterable[Any], lr: Number = 1e-3, weight_decay: Number = 0.1, momentum: Number = 0.95,
                 nesterov: bool = True, ns_coefficients: tuple[Number, Number, Number] = COEFFICIENTS,
                 eps: Number = 1e-7, ns_steps: int = 5, adjust_lr_fn: str | None = None, *, gram: bool = False,
                 betas: Betas = (0.9, 0.999), roles: Mapping[str, str] | None = None,
                 **own: Unpack[Own]) -> None: ...  # fmt: skip

    def _make(self, params: Any, options: Options, given: dict[str, Any]) -> None:
        self._aside, declared, self._routes = {"betas": given.pop("betas"), "eps": EPS}, given.pop("roles"), {}
        for name in ("beta1", "beta2"):
            adam.hypers[name].check(plain(part_of(self._aside, *self._parts_of[name])), "Muon")
        if declared is not None or isinstance(params, torch.nn.Module):
            params, _, self._routes = grouped(params, {"hidden": matrices.muon, "rest": adam}, declared)
            given["adjust_lr_fn"] = given["adjust_lr_fn"] or "match_rms_adamw"
            params = [{**group, RULE: None if group[RULE] is matrices.muon else "adam"} for group in params]
        super()._make(params, options, given)

    def _defaults_of(self, group: Mapping[str, Any]) -> dict[str, Any]:
        if group.get(RULE) is None:
            return self.defaults
        return {"lr": self.defaults["lr"], "weight_decay": self.defaults["weight_decay"], **self._aside}

    def _check_keys(self, group: dict[str, Any], which: str) -> None:
        super()._check_keys(group, which)
        if group.get(RULE) is None and group["adjust_lr_fn"] not in SCALES:
            raise HyperparameterError(
                f"`adjust_lr_fn` of Muon is {group['adjust_lr_fn']!r}",
                where=f"  {which}",
                fix='use "original" or "match_rms_adamw"',
            )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of matrices, to a model's also filters; raise `ParameterError` for anything else."""
        super().add_param_group(param_group)
        index, group = len(self.param_groups) - 1, self.param_groups[-1]
        for place, parameter in enumerate(group["params"]):
            if group.get(RULE) is None and (parameter.ndim < 2 or (parameter.ndim > 2 and not self._routes)):
                self.param_groups.pop()
                raise ParameterError(
                    f"Muon takes matrices, and {label(group, index, place)} has shape {tuple(parameter.shape)}",
                    fix="give the whole model, whose other parameters AdamW then steps: Muon(model, lr=1e-3)",
                )  # fmt: skip

    def _rule_of(self, group: Mapping[str, Any]) -> Rule:
        """Return the rule that a group names, or the variant that its flags choose."""
        if group.get(RULE) is not None:
            return self._others[group[RULE]]
        flags = {"nesterov": bool(group["nesterov"]), "gram": bool(group.get("gram"))}
        return _rule(SCALES[group["adjust_lr_fn"]], **flags)


def _rule(scale: str, *, nesterov: bool, gram: bool) -> Rule:
    if (scale, nesterov, gram) not in _RULES:
        _RULES[scale, nesterov, gram] = matrices.muon(scale=scale, nesterov=nesterov, gram=gram)
    return _RULES[scale, nesterov, gram]


_RULES: dict[tuple[str, bool, bool], Rule] = {}

__all__ = ["Muon"]
