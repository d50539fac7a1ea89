"""The board's methods as the lab sees them: a name, its hyperparameters, and the clippings put before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import steprule as sr

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch

TITLES = {
    "gd": "Gradient descent",
    "sgd": "Stochastic gradient descent",
    "momentum": "SGD with momentum",
    "nesterov": "Nesterov momentum",
    "adagrad": "AdaGrad",
    "rmsprop": "RMSProp",
    "adam": "Adam",
}
"""Every method by name, in the order of the whiteboard."""

HYPERPARAMETERS: dict[str, tuple[str, ...]] = {
    "gd": (),
    "sgd": (),
    "momentum": ("beta",),
    "nesterov": ("beta",),
    "adagrad": ("eps",),
    "rmsprop": ("beta", "eps"),
    "adam": ("beta1", "beta2", "eps"),
}
"""What each method takes besides its learning rate."""

FULL_BATCH = frozenset({"gd"})
"""Methods whose iteration takes the gradient of the whole training set."""

CLIPS: dict[str, str] = {
    "clip_norm": "max_norm",
    "clip_component": "limit",
    "clip_global_norm": "max_norm",
    "clip_value": "limit",
}
"""Every clipping by name, with the name of its bound."""


@dataclass(frozen=True)
class Clip:
    """A clipping and its bound."""

    name: str
    bound: float

    @property
    def label(self) -> str:
        """The clipping as a person would write it, `clip_norm(1)`."""
        return f"{self.name}({self.bound:g})"

    def transform(self) -> Any:
        """Return the library's transform."""
        home = sr.board if self.name in {"clip_norm", "clip_component"} else sr
        return getattr(home, self.name)(**{CLIPS[self.name]: self.bound})


@dataclass(frozen=True)
class Method:
    """One optimiser under comparison: a board rule, its fixed hyperparameters, the clippings before it."""

    name: str
    hyper: tuple[tuple[str, float], ...] = ()
    clips: tuple[Clip, ...] = ()

    @property
    def title(self) -> str:
        """The name a reader knows the method by."""
        return TITLES[self.name]

    @property
    def settings(self) -> str:
        """Everything that was set apart from the learning rate, in words; empty when nothing was."""
        parts = [clip.label for clip in self.clips]
        return ", ".join(parts + [f"{name}={value:g}" for name, value in self.hyper])

    @property
    def label(self) -> str:
        """The method with its clippings in the order they act, `clip_norm(1) → adam`."""
        return " → ".join([*(clip.label for clip in self.clips), self.name])

    @property
    def full_batch(self) -> bool:
        """Whether one iteration is one pass over the training set."""
        return self.name in FULL_BATCH

    def rule(self, lr: float | None = None) -> Any:
        """Return the configured rule, or the chain of clippings and rule."""
        values = dict(self.hyper) if lr is None else {"lr": lr, **dict(self.hyper)}
        rule = getattr(sr.board, self.name)
        configured = rule(**values) if values else rule
        return sr.chain(*(clip.transform() for clip in self.clips), configured) if self.clips else configured

    def optimizer(self, parameters: Iterable[torch.nn.Parameter], lr: float) -> Any:
        """Return a real `torch.optim.Optimizer` over the parameters."""
        return self.rule(lr).optimizer(list(parameters))

    def explain(self) -> Any:
        """Return the library's own account of the method: formula, passes, bytes, source."""
        return sr.explain(self.rule())


def accepted(name: str, hyper: dict[str, float]) -> tuple[tuple[str, float], ...]:
    """Return those hyperparameters that the method takes, in the method's order."""
    return tuple((key, hyper[key]) for key in HYPERPARAMETERS[name] if key in hyper)
