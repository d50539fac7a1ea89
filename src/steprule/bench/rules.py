"""The update rules that are timed: under which arguments each implementation computes the same one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

import steprule as sr

NO_CLIP, GLOBAL_NORM, TENSOR_NORM, VALUE = "none", "global norm", "tensor norm", "value"
CLIPS = (NO_CLIP, GLOBAL_NORM, TENSOR_NORM, VALUE)
BOUND = 1.0
"""The greatest norm, or the greatest component, of every clipping."""


@dataclass(frozen=True, eq=False)
class TimedRule:
    """One update rule: a class of ours, one of torch.optim where it has one, and their common arguments.

    Agreement is checked on displacements, so a rule that is `linear` in the gradient starts near zero and steps
    far: rounding the parameter must not hide an error in the update.
    """

    name: str
    ours: str
    torch: str | None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    fused: bool = False
    linear: bool = False

    @property
    def lr(self) -> float:
        """The learning rate, the same for every implementation."""
        return 1.0 if self.linear else 0.1

    @property
    def start(self) -> float:
        """How large the parameters are at the start."""
        return 1e-3 if self.linear else 1.0

    @property
    def state_bytes(self) -> float:
        """The bytes of state a parameter, in float32."""
        optimizer = self.make([torch.nn.Parameter(torch.zeros(1))], NO_CLIP)
        return sr.explain(optimizer).state_bytes_per_parameter

    def make(self, parameters: list[torch.Tensor], clip: str, bound: float = BOUND, **storage: Any) -> Any:
        """Return our optimiser, which clips by itself; `storage` says how 16-bit parameters and state are kept."""
        return self.ours_class(parameters, lr=self.lr, clip=OUR_CLIPS[clip](bound), **self.options, **storage)

    @property
    def ours_class(self) -> Callable[..., Any]:
        """Our class of `steprule.optim`."""
        return getattr(sr.optim, self.ours)

    @property
    def torch_class(self) -> Callable[..., torch.optim.Optimizer] | None:
        """The class of `torch.optim`, if it has one."""
        return getattr(torch.optim, self.torch) if self.torch else None


OUR_CLIPS: dict[str, Callable[[float], Any]] = {
    NO_CLIP: lambda _: None,
    GLOBAL_NORM: lambda bound: bound,
    TENSOR_NORM: lambda bound: sr.clip_norm(max_norm=bound),
    VALUE: lambda bound: sr.clip_value(limit=bound),
}

_MOMENTUM, _MEAN_SQUARE = {"momentum": 0.9}, {"alpha": 0.99}

_ALL = (
    TimedRule("SGD", "SGD", "SGD", fused=True, linear=True),
    TimedRule("momentum", "SGD", "SGD", _MOMENTUM, fused=True, linear=True),
    TimedRule("Nesterov", "SGD", "SGD", {**_MOMENTUM, "nesterov": True}, fused=True, linear=True),
    TimedRule("Adagrad", "Adagrad", "Adagrad", fused=True),
    TimedRule("RMSProp", "RMSprop", "RMSprop", _MEAN_SQUARE),
    TimedRule("RMSProp centred", "RMSprop", "RMSprop", {**_MEAN_SQUARE, "centered": True}),
    TimedRule("RMSProp momentum", "RMSprop", "RMSprop", {**_MEAN_SQUARE, **_MOMENTUM}),
    TimedRule("Adam", "Adam", "Adam", fused=True),
    TimedRule("AdamW", "AdamW", "AdamW", {"weight_decay": 0.1}, fused=True),
    TimedRule("NAdam", "NAdam", "NAdam"),
    TimedRule("Lion", "Lion", None),
)
RULES = {rule.name: rule for rule in _ALL}
