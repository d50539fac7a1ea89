"""Muon with torch.optim.Muon's face."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from ..errors import HyperparameterError, ParameterError
from ..graph.ops import COEFFICIENTS
from ..rule import Rule
from ..zoo import matrices
from .tensors import label
from .torch_classes import Number, Own, TorchOptimizer, declared

SCALES = {None: "original", "original": "original", "match_rms_adamw": "match_rms_adamw"}
"""What torch's `adjust_lr_fn` chooses."""


@declared
class Muon(TorchOptimizer):
    """Run torch.optim.Muon's update on matrices: momentum, made orthogonal by Newton-Schulz iterations.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.Muon([torch.nn.Linear(4, 2).weight], lr=0.02, adjust_lr_fn="match_rms_adamw")

    Iterations are in bfloat16, as torch's are, unless parameters are float64; there torch's are in bfloat16, too.
    """

    _decoupled = True
    _parts_of = {"a": ("ns_coefficients", 0), "b": ("ns_coefficients", 1), "c": ("ns_coefficients", 2)}
    _meanings = {
        "momentum": "how much of the average gradient is kept a step; at least 0",
        "nesterov": "True orthogonalises the average of the gradient and the new momentum",
        "ns_coefficients": "the a, b, c of one iteration, aX + (bA + cA²)X with A = XXᵀ",
        "eps": "the least length that a matrix is divided by before iterations; at least 0",
        "ns_steps": "the number of iterations; a whole number from 0 to 99",
        "adjust_lr_fn": 'what lr is multiplied by: "original", which None means, by √max(1, rows / columns); '
                        '"match_rms_adamw" by 0.2 √max(rows, columns), which lets it have AdamW\'s lr and weight decay',
        "gram": "True iterates XXᵀ alone where one side is 1.5 times the other: fewer products, less exact",
    }  # fmt: skip

    def __init__(self, params: Iterable[Any], lr: Number = 1e-3, weight_decay: Number = 0.1, momentum: Number = 0.95,
                 nesterov: bool = True, ns_coefficients: tuple[Number, Number, Number] = COEFFICIENTS,
                 eps: Number = 1e-7, ns_steps: int = 5, adjust_lr_fn: str | None = None, *, gram: bool = False,
                 **own: Unpack[Own]) -> None: ...  # fmt: skip

    def _check_keys(self, group: dict[str, Any], which: str) -> None:
        super()._check_keys(group, which)
        if group["adjust_lr_fn"] not in SCALES:
            raise HyperparameterError(
                f"`adjust_lr_fn` of Muon is {group['adjust_lr_fn']!r}",
                where=f"  {which}",
                fix='use "original" or "match_rms_adamw"',
            )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of matrices; raise `ParameterError` for anything else."""
        super().add_param_group(param_group)
        index, group = len(self.param_groups) - 1, self.param_groups[-1]
        for place, parameter in enumerate(group["params"]):
            if parameter.ndim != 2:
                self.param_groups.pop()
                raise ParameterError(
                    f"Muon takes matrices, and {label(group, index, place)} has shape {tuple(parameter.shape)}",
                    fix="give biases, norms, embeddings and heads to another optimiser: Muon([p for p in "
                        "model.parameters() if p.ndim == 2]) and AdamW([p for p in model.parameters() if p.ndim != 2])",
                )  # fmt: skip

    def _rule_of(self, group: Mapping[str, Any]) -> Rule:
        """Return the variant that a group's flags choose."""
        flags = {"nesterov": bool(group["nesterov"]), "gram": bool(group.get("gram"))}
        return _rule(SCALES[group["adjust_lr_fn"]], **flags)


def _rule(scale: str, *, nesterov: bool, gram: bool) -> Rule:
    if (scale, nesterov, gram) not in _RULES:
        _RULES[scale, nesterov, gram] = matrices.muon(scale=scale, nesterov=nesterov, gram=gram)
    return _RULES[scale, nesterov, gram]


_RULES: dict[tuple[str, bool, bool], Rule] = {}

__all__ = ["Muon"]
