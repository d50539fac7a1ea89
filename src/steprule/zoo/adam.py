"""Adam and its relatives with torch.optim's conventions.

Both moments are bias-corrected, ε stands outside the root. Weight decay is a transform: coupled before
the rule, decoupled as AdamW has it. Averages are taken as `torch.lerp` does, which decides what an infinite
gradient leaves behind.
"""

from __future__ import annotations

from typing import Any

from ..rule import abs, hyper, maximum, rule, slot, sqrt, where
from .averages import average

_LR = hyper(1e-3, low=0)
_BETA1 = hyper(0.9, low=0, below=1)
_BETA2 = hyper(0.999, low=0, below=1)
_EPS = hyper(1e-8, low=0)


def _moments(m: Any, v: Any, g: Any, beta1: Any, beta2: Any) -> tuple[Any, Any]:
    return average(m, g, beta1), beta2 * v + (1 - beta2) * g**2


@rule
def adam(
    theta: Any,
    g: Any,
    exp_avg: Any,
    exp_avg_sq: Any,
    *,
    lr: Any = _LR,
    beta1: Any = _BETA1,
    beta2: Any = _BETA2,
    eps: Any = _EPS,
    t: Any,
) -> Any:
    """Adam (Kingma & Ba, 2015)."""
    m, v = _moments(exp_avg, exp_avg_sq, g, beta1, beta2)
    return theta - lr / (1 - beta1**t) * m / (sqrt(v) / sqrt(1 - beta2**t) + eps), m, v


@rule
def amsgrad(
    theta: Any,
    g: Any,
    exp_avg: Any,
    exp_avg_sq: Any,
    max_exp_avg_sq: Any,
    *,
    lr: Any = _LR,
    beta1: Any = _BETA1,
    beta2: Any = _BETA2,
    eps: Any = _EPS,
    t: Any,
) -> Any:
    """AMSGrad (Reddi, Kale & Kumar, 2018): Adam whose second moment never shrinks; the raw one is compared."""
    m, v = _moments(exp_avg, exp_avg_sq, g, beta1, beta2)
    most = maximum(max_exp_avg_sq, v)
    return theta - lr / (1 - beta1**t) * m / (sqrt(most) / sqrt(1 - beta2**t) + eps), m, v, most


@rule
def adamax(
    theta: Any,
    g: Any,
    exp_avg: Any,
    exp_inf: Any,
    *,
    lr: Any = hyper(2e-3, low=0),
    beta1: Any = _BETA1,
    beta2: Any = _BETA2,
    eps: Any = _EPS,
    t: Any,
) -> Any:
    """Adamax (Kingma & Ba, 2015): the infinity norm in place of the second moment; ε is added to |g|."""
    m = average(exp_avg, g, beta1)
    u = maximum(beta2 * exp_inf, abs(g) + eps)
    return theta - lr / (1 - beta1**t) * m / u, m, u


@rule
def nadam(
    theta: Any,
    g: Any,
    mu_product: Any = slot(rank="host", init=1.0),
    exp_avg: Any = slot(),
    exp_avg_sq: Any = slot(),
    *,
    lr: Any = hyper(2e-3, low=0),
    beta1: Any = _BETA1,
    beta2: Any = _BETA2,
    eps: Any = _EPS,
    momentum_decay: Any = hyper(4e-3, low=0),
    t: Any,
) -> Any:
    """NAdam (Dozat, 2016): Adam with Nesterov momentum on a schedule."""
    m, v = _moments(exp_avg, exp_avg_sq, g, beta1, beta2)
    mu = beta1 * (1 - 0.5 * 0.96 ** (t * momentum_decay))
    mu_next = beta1 * (1 - 0.5 * 0.96 ** ((t + 1) * momentum_decay))
    product = mu_product * mu
    ahead = (1 - mu) / (1 - product) * g + mu_next / (1 - product * mu_next) * m
    return theta - lr * ahead / (sqrt(v / (1 - beta2**t)) + eps), product, m, v


@rule
def radam(
    theta: Any,
    g: Any,
    exp_avg: Any,
    exp_avg_sq: Any,
    *,
    lr: Any = _LR,
    beta1: Any = _BETA1,
    beta2: Any = _BETA2,
    eps: Any = _EPS,
    t: Any,
) -> Any:
    """RAdam (Liu et al., 2020): Adam rectified while the variance of its second moment is unknown."""
    m, v = _moments(exp_avg, exp_avg_sq, g, beta1, beta2)
    correction = 1 - beta2**t
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * t * beta2**t / correction
    rectification = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    adaptive = sqrt(correction) * sqrt(rectification) / (sqrt(v) + eps)
    return theta - lr / (1 - beta1**t) * m * where(length > 5, adaptive, 1), m, v


__all__ = ["adam", "adamax", "amsgrad", "nadam", "radam"]
