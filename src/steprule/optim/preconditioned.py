"""Shampoo and SOAP: steps in which products of gradients with themselves decide, row by row and column by column.

What has a side that is too long for a matrix of that size has rules of its own, which do without it. Formulas, their
sources and departures stand in `steprule.zoo.matrices`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, Unpack

from ..graph.graph import Hyper
from ..rule import Rule
from ..zoo import matrices
from ..zoo.adam import adam
from .classes import Betas
from .groups import RULE
from .roles import Declared
from .settings import plain
from .torch_classes import Instead, Number, Own, TorchOptimizer, declared, is_flat
from .whole import ROLES, WholeModel

_BOUND = Hyper("max_precond_dim", low=0)
_MEANINGS = {
    "precondition_frequency": "steps from one to the next in which roots or bases are taken anew; at least 1",
    "max_precond_dim": "the longest side for which a matrix of that size is kept; at least 0",
}


@dataclass(frozen=True)
class Longer:
    """Whether rows, columns or both of a matrix are more than a number."""

    bound: float
    rows: bool
    columns: bool

    def __call__(self, shape: Sequence[int]) -> bool:
        """Whether a tensor of this shape is so, its leading index by all others; the only side of a vector is both."""
        rows = shape[0] if shape else 1
        columns = rows if is_flat(shape) else prod(shape[1:])
        return (rows > self.bound or not self.rows) and (columns > self.bound or not self.columns)


def _longer(group: Mapping[str, Any], both: Rule, of_columns: Rule, of_rows: Rule) -> Instead:
    """Return the rules of matrices with sides longer than a group's bound."""
    bound = float(plain(group["max_precond_dim"]))
    long = [Longer(bound, *sides) for sides in ((True, True), (True, False), (False, True))]
    return tuple(zip(long, (both, of_columns, of_rows), strict=True))


@declared
class Shampoo(TorchOptimizer):
    """Run Shampoo (Gupta, Koren & Singer, 2018); weight decay is coupled, an L2 penalty.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.Shampoo(torch.nn.Linear(4, 2).parameters(), lr=0.1, precondition_frequency=10)

    A vector has one matrix, and a step by its square root. So has what has one side that is too long; where both are,
    the diagonal of it is kept, as in Adagrad.
    """

    _formula = matrices.shampoo
    _meanings: ClassVar[Mapping[str, str]] = {
        **_MEANINGS,
        "eps": "eigenvalues below this times the greatest count as that; above 0",
    }

    def __init__(self, params: Iterable[Any], lr: Number = 1e-1, eps: Number = 1e-6, weight_decay: Number = 0, *,
                 precondition_frequency: int = 1, max_precond_dim: int = 10000, maximize: bool = False,
                 **own: Unpack[Own]) -> None: ...  # fmt: skip

    def _check_keys(self, group: dict[str, Any], which: str) -> None:
        super()._check_keys(group, which)
        _BOUND.check(plain(group["max_precond_dim"]), f"Shampoo, {which}")

    def _instead(self, group: Mapping[str, Any]) -> Instead:
        rules = matrices.shampoo_of_elements, matrices.shampoo_of_columns, matrices.shampoo_of_rows
        return (*_longer(group, *rules), (is_flat, matrices.shampoo_of_rows))


@declared
class SOAP(WholeModel):
    """Run SOAP (Vyas et al., 2024): Adam in the basis of Shampoo's eigenvectors, with decoupled weight decay.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.SOAP(torch.nn.Linear(4, 2).parameters(), lr=3e-3, precondition_frequency=5)

    Vectors are stepped by Adam, as in the authors' code, and so is what has two sides that are too long; where one is,
    the other has its basis. Given a model, it steps hidden matrices so, and the rest by AdamW with the same betas.

    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> {name: route.rule for name, route in sr.optim.SOAP(model).routes.items()}
    {'0.weight': 'soap', '0.bias': 'adam', '2.weight': 'adam', '2.bias': 'adam'}
    """

    _matrices = matrices.soap
    _meanings: ClassVar[Mapping[str, str]] = {
        **_MEANINGS,
        "params": "tensors, groups (dicts) or named parameters, as any torch optimiser takes them; or a model",
        "roles": ROLES,
        "shampoo_beta": "how much is kept a step of products of gradients; from 0, below 1",
    }

    def __init__(self, params: Iterable[Any], lr: Number = 3e-3, betas: Betas = (0.95, 0.95),
                 shampoo_beta: Number = 0.95, eps: Number = 1e-8, weight_decay: Number = 0.01,
                 precondition_frequency: int = 10, max_precond_dim: int = 10000, *, cautious_decay: bool = False,
                 roles: Mapping[str, Declared] | None = None, **own: Unpack[Own]) -> None: ...  # fmt: skip

    def _of_adam(self, given: dict[str, Any]) -> dict[str, Any]:
        return {name: given[name] for name in ("betas", "eps", "cautious_decay")}

    def _check_keys(self, group: dict[str, Any], which: str) -> None:
        super()._check_keys(group, which)
        if group.get(RULE) is None:
            _BOUND.check(plain(group["max_precond_dim"]), f"SOAP, {which}")

    def _variant_of(self, group: Mapping[str, Any]) -> Rule:  # noqa: ARG002
        return matrices.soap

    def _instead(self, group: Mapping[str, Any]) -> Instead:
        if group.get(RULE) is not None:
            return ()
        return ((is_flat, adam), *_longer(group, adam, matrices.soap_of_columns, matrices.soap_of_rows))


__all__ = ["SOAP", "Shampoo"]
