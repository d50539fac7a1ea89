"""Muon with torch.optim.Muon's face, and NorMuon: steps along orthogonal matrices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from ..errors import HyperparameterError, ParameterError
from ..graph.ops import COEFFICIENTS
from ..rule import Rule
from ..zoo import matrices
from .classes import Betas
from .cut import cut_of
from .groups import RULE
from .roles import Declared
from .tensors import label
from .torch_classes import Number, Own, declared
from .whole import BETAS, ROLES, WholeModel

SCALES = ("original", "match_rms_adamw")
"""What torch's `adjust_lr_fn` chooses."""
_OF_BOTH: dict[str, str] = {
    "params": "matrices, groups (dicts) or named parameters, as torch's optimiser takes them; or a model",
    "betas": BETAS,
    "roles": ROLES,
    "momentum": "how much of the average gradient is kept a step; at least 0",
    "nesterov": "True orthogonalises the average of the gradient and the new momentum",
    "ns_coefficients": "the a, b, c of one iteration, aX + (bA + cA²)X with A = XXᵀ",
    "eps": "the least length that a matrix is divided by before iterations; at least 0",
    "ns_steps": "the number of iterations; a whole number from 0 to 99",
    "gram": "True iterates XXᵀ alone where one side is 1.5 times the other: fewer products, less exact",
}
_COEFFICIENTS = {"a": ("ns_coefficients", 0), "b": ("ns_coefficients", 1), "c": ("ns_coefficients", 2)}
Coefficients = tuple[Number, Number, Number]


class _Orthogonal(WholeModel):
    """A class whose step is along an orthogonal matrix."""

    def _check_keys(self, group: dict[str, Any], which: str) -> None:
        super()._check_keys(group, which)
        if group.get(RULE) is None and group["adjust_lr_fn"] not in (None, *SCALES):
            raise HyperparameterError(
                f"`adjust_lr_fn` of {type(self).__name__} is {group['adjust_lr_fn']!r}",
                where=f"  {which}",
                fix='use "original" or "match_rms_adamw"',
            )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of matrices, to a model's also filters; raise `ParameterError` for anything else."""
        super().add_param_group(param_group)
        index, group = len(self.param_groups) - 1, self.param_groups[-1]
        for place, parameter in enumerate(group["params"]):
            filters = parameter.ndim > 2 and not self._routes and cut_of(group) is None
            if group.get(RULE) is None and (parameter.ndim < 2 or filters):
                self.param_groups.pop()
                own = type(self).__name__
                raise ParameterError(
                    f"{own} takes matrices, and {label(group, index, place)} has shape {tuple(parameter.shape)}",
                    fix='let AdamW step its group: {"params": [...], "rule": "adam"}'
                    if self._routes
                    else f"give the whole model, whose other parameters AdamW then steps: {own}(model, lr=1e-3)",
                )

    def _variant_of(self, group: Mapping[str, Any]) -> Rule:
        flags = (group["adjust_lr_fn"], bool(group["nesterov"]), bool(group.get("gram")))
        if (self._matrices, flags) not in _RULES:
            scale, nesterov, gram = flags
            own = {} if scale is None else {"scale": scale}
            _RULES[self._matrices, flags] = self._matrices(nesterov=nesterov, gram=gram, **own)
        return _RULES[self._matrices, flags]


_RULES: dict[tuple[Rule, tuple[str | None, bool, bool]], Rule] = {}


@declared
class Muon(_Orthogonal):
    """Run torch.optim.Muon's update on matrices: momentum, made orthogonal by Newton-Schulz iterations.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.Muon([torch.nn.Linear(4, 2).weight], lr=0.02, adjust_lr_fn="match_rms_adamw")

    Iterations are in bfloat16, as torch's are, unless parameters are float64; there torch's are in bfloat16, too.

    Given a model, it steps all of it: hidden matrices and convolutions so, the rest by AdamW. One `lr` is for both: a
    step of matrices is at most 0.2 of it, in the root mean square, about as long as AdamW's. BENCHMARKS.md has the best
    rates of both.

    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> opt = sr.optim.Muon(model, lr=1e-3)
    >>> {name: route.rule for name, route in opt.routes.items()}
    {'0.weight': 'muon', '0.bias': 'adam', '2.weight': 'adam', '2.bias': 'adam'}

    Roles are found as `steprule.Optimizer` finds them. A group may ask for AdamW: `{"params": ..., "rule": "adam"}`.
    """

    _matrices = matrices.muon
    _parts_of = {**_COEFFICIENTS, "beta1": ("betas", 0), "beta2": ("betas", 1)}
    _meanings = {
        **_OF_BOTH,
        "adjust_lr_fn": 'what lr is multiplied by: "original", by √max(1, rows / columns); '
                        '"match_rms_adamw" by 0.2 √max(rows, columns): steps about as long as AdamW\'s; '
                        'None means the former, of a model the latter',
    }  # fmt: skip

    def __init__(self, params: Iterable[Any], lr: Number = 1e-3, weight_decay: Number = 0.1, momentum: Number = 0.95,
                 nesterov: bool = True, ns_coefficients: Coefficients = COEFFICIENTS, eps: Number = 1e-7,
                 ns_steps: int = 5, adjust_lr_fn: str | None = None, *, gram: bool = False,
                 cautious_decay: bool = False, betas: Betas = (0.9, 0.999), roles: Mapping[str, Declared] | None = None,
                 **own: Unpack[Own]) -> None: ...  # fmt: skip

    def _of_a_model(self, given: Mapping[str, Any]) -> dict[str, Any]:
        return {"adjust_lr_fn": given["adjust_lr_fn"] or "match_rms_adamw"}


@declared
class NorMuon(_Orthogonal):
    """Run NorMuon (Li et al., 2025) on matrices: Muon's direction, each row over the usual length of its steps.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.NorMuon([torch.nn.Linear(4, 2).weight], lr=1e-3, cautious_decay=True)

    The RMS of a step is 0.2 lr, about that of AdamW's in language models; the best `lr` may be another all the same, as
    BENCHMARKS.md has it of Muon. Beside Muon's momentum it keeps one number a row. Given a model, it steps all of it as
    `Muon` does: hidden matrices so, the rest by AdamW.

    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> {name: route.rule for name, route in sr.optim.NorMuon(model).routes.items()}
    {'0.weight': 'normuon', '0.bias': 'adam', '2.weight': 'adam', '2.bias': 'adam'}
    """

    _matrices = matrices.normuon
    _parts_of = {**_COEFFICIENTS, "beta1": ("betas", 0), "beta2": ("betas", 1)}
    _meanings = {
        **_OF_BOTH,
        "beta2": "how much is kept a step of the average squares of rows; from 0, below 1",
        "adjust_lr_fn": 'how long a step is: "match_rms_adamw", or None, has an RMS of 0.2 lr; "original" is as long '
                        "as Muon's, times √max(1, rows / columns), as in the authors' code",
    }  # fmt: skip

    def __init__(self, params: Iterable[Any], lr: Number = 1e-3, weight_decay: Number = 0.1, momentum: Number = 0.95,
                 beta2: Number = 0.95, nesterov: bool = True, ns_coefficients: Coefficients = COEFFICIENTS,
                 eps: Number = 1e-7, ns_steps: int = 5, adjust_lr_fn: str | None = None, *, gram: bool = False,
                 cautious_decay: bool = False, betas: Betas = (0.9, 0.999), roles: Mapping[str, Declared] | None = None,
                 **own: Unpack[Own]) -> None: ...  # fmt: skip


__all__ = ["Muon", "NorMuon"]
