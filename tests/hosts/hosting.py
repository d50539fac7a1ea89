"""What the tests of all hosts share: our optimisers as a user hands them over, torch's beside them, comparisons."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import Any

import torch

import steprule as sr
from steprule import rule, sqrt

HYPER: dict[str, Any] = {"lr": 1e-2, "eps": 1e-4}
"""An ε well above rounding: an attention key's bias has no gradient but rounding noise, which Adam would scale up."""
MAX_NORM = 0.05
"""A bound on the gradient's norm that the small models here exceed, so that a run without clipping ends elsewhere."""
BF16 = 1e-4
"""How close runs in bfloat16 are: a weight that differs in its last bit of float32 may round the other way."""


@rule
def adamw(theta, g, m, s, *, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01, t):
    """AdamW as README writes it: torch has the same under the same names, but for the two betas."""
    m = beta1 * m + (1 - beta1) * g
    s = beta2 * s + (1 - beta2) * g**2
    update = m / (1 - beta1**t) / (sqrt(s / (1 - beta2**t)) + eps)
    return theta - lr * (update + weight_decay * theta), m, s


class RuleAdamW(sr.Optimizer):
    """A rule as a class, for hosts that make the optimiser themselves."""

    def __init__(self, params: Iterable[Any], clip: float | None = None, **hyper: Any) -> None:
        super().__init__(params, adamw, clip=clip, **hyper)


BOARD = sr.chain(sr.weight_decay(0.0), sr.board.adam)
"""A rule for hosts whose groups have a weight decay, which the whiteboard's own has not."""


def two_rules(params: Iterable[Any], **hyper: Any) -> sr.Optimizer:
    """Make an optimiser whose first group, or every other parameter, has a rule of its own."""
    groups: list[Any] = list(params)
    if not isinstance(groups[0], dict):
        groups = [{"params": groups[::2]}, {"params": groups[1::2]}]
    own = {**groups[0], "rule": sr.chain(sr.weight_decay(0.0), sr.board.momentum)}
    return sr.Optimizer([own, *groups[1:]], BOARD, **hyper)


def muon(params: Iterable[Any], **hyper: Any) -> sr.Optimizer:
    """Make a Muon whose second group, or every other parameter, is stepped by AdamW."""
    groups: list[Any] = list(params)
    if not isinstance(groups[0], dict):
        groups = [{"params": groups[::2]}, {"params": groups[1::2]}]
    return sr.optim.Muon([groups[0], *({**group, "rule": "adam"} for group in groups[1:])], **hyper)


OURS: dict[str, type[torch.optim.Optimizer]] = {"AdamW": sr.optim.AdamW, "a rule": RuleAdamW}
"""Both do what torch.optim.AdamW does."""


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copy a model's weights, to compare them later."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def furthest(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Return how far two models are apart, relative to the length of each tensor: the worst tensor."""
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).norm() / b[name].norm().clamp_min(1e-3)) for name in a)


def assert_close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], tolerance: float = 1e-5) -> None:
    """Require equality up to rounding, of float32 if nothing else is said."""
    assert furthest(a, b) < tolerance


def assert_apart(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    """Require a difference that no rounding explains: what was switched on did something."""
    assert furthest(a, b) > 2e-4


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    """Require equality bit by bit."""
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def _let_torchvision_import() -> None:
    """Declare the operators that torchvision's import expects, where its binary was built for another torch.

    timm cannot be imported without torchvision, and torchmetrics and transformers import it if it is there. None of
    them is asked here for an operator of it.
    """
    if importlib.util.find_spec("torchvision") is None:
        return
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in ("nms", "qnms"):
            _OPERATORS.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


_OPERATORS = torch.library.Library("torchvision", "FRAGMENT")
_let_torchvision_import()
