"""Step sizes per coordinate with torch.optim's conventions: Adagrad, RMSprop, Adadelta, Rprop.

ε stands outside the root, except in Adadelta; accumulators start from zero unless said otherwise.
"""

from __future__ import annotations

from typing import Any

from ..rule import clamp, hyper, rule, sqrt, where
from .averages import average


@rule
def adagrad(
    theta: Any,
    g: Any,
    sum: Any,  # noqa: A002
    *,
    lr: Any = hyper(1e-2, low=0),
    lr_decay: Any = hyper(0.0, low=0),
    eps: Any = hyper(1e-10, low=0),
    t: Any,
) -> Any:
    """Adagrad (Duchi, Hazan & Singer, 2011), with torch's decay of the learning rate."""
    sum = sum + g**2  # noqa: A001
    return theta - lr / (1 + (t - 1) * lr_decay) * g / (sqrt(sum) + eps), sum


_ALPHA = hyper(0.99, low=0)
_EPS = hyper(1e-8, low=0)
_MOMENTUM = hyper(0.9, low=0)


def _mean_square(v: Any, g: Any, alpha: Any) -> Any:
    return alpha * v + (1 - alpha) * g**2


@rule
def rmsprop(
    theta: Any,
    g: Any,
    square_avg: Any,
    *,
    lr: Any = hyper(1e-2, low=0),
    alpha: Any = _ALPHA,
    eps: Any = _EPS,
    t: Any,  # noqa: ARG001  # torch counts the steps of this rule, though its formula does not
) -> Any:
    """RMSprop (Tieleman & Hinton, 2012), as in torch.optim."""
    v = _mean_square(square_avg, g, alpha)
    return theta - lr * g / (sqrt(v) + eps), v


@rule
def rmsprop_momentum(
    theta: Any,
    g: Any,
    square_avg: Any,
    momentum_buffer: Any,
    *,
    lr: Any = hyper(1e-2, low=0),
    alpha: Any = _ALPHA,
    eps: Any = _EPS,
    momentum: Any = _MOMENTUM,
    t: Any,  # noqa: ARG001  # torch counts the steps of this rule, though its formula does not
) -> Any:
    """RMSprop with momentum on the scaled gradient."""
    v = _mean_square(square_avg, g, alpha)
    b = momentum * momentum_buffer + g / (sqrt(v) + eps)
    return theta - lr * b, v, b


def _deviation(v: Any, a: Any, eps: Any) -> Any:
    # v may overflow, and a² with it; torch takes both in one operation, so that ∞ is left and not NaN.
    spread = where(v - v == 0, v - a**2, v - 0 * a)
    return sqrt(spread) + eps


@rule
def rmsprop_centered(
    theta: Any,
    g: Any,
    square_avg: Any,
    grad_avg: Any,
    *,
    lr: Any = hyper(1e-2, low=0),
    alpha: Any = _ALPHA,
    eps: Any = _EPS,
    t: Any,  # noqa: ARG001  # torch counts the steps of this rule, though its formula does not
) -> Any:
    """RMSprop scaled by the standard deviation of the gradient (Graves, 2013)."""
    v = _mean_square(square_avg, g, alpha)
    a = average(grad_avg, g, alpha)
    return theta - lr * g / _deviation(v, a, eps), v, a


@rule
def rmsprop_centered_momentum(
    theta: Any,
    g: Any,
    square_avg: Any,
    momentum_buffer: Any,
    grad_avg: Any,
    *,
    lr: Any = hyper(1e-2, low=0),
    alpha: Any = _ALPHA,
    eps: Any = _EPS,
    momentum: Any = _MOMENTUM,
    t: Any,  # noqa: ARG001  # torch counts the steps of this rule, though its formula does not
) -> Any:
    """Centred RMSprop with momentum on the scaled gradient."""
    v = _mean_square(square_avg, g, alpha)
    a = average(grad_avg, g, alpha)
    b = momentum * momentum_buffer + g / _deviation(v, a, eps)
    return theta - lr * b, v, b, a


@rule
def adadelta(
    theta: Any,
    g: Any,
    square_avg: Any,
    acc_delta: Any,
    *,
    lr: Any = hyper(1.0, low=0),
    rho: Any = hyper(0.9, low=0, high=1),
    eps: Any = hyper(1e-6, low=0),
    t: Any,  # noqa: ARG001  # torch counts the steps of this rule, though its formula does not
) -> Any:
    """Adadelta (Zeiler, 2012), ε inside both roots."""
    v = rho * square_avg + (1 - rho) * g**2
    step = sqrt(acc_delta + eps) / sqrt(v + eps) * g
    return theta - lr * step, v, rho * acc_delta + (1 - rho) * step**2


@rule
def rprop(
    theta: Any,
    g: Any,
    prev: Any,
    step_size: Any,
    *,
    lr: Any = hyper(1e-2, low=0),
    eta_minus: Any = hyper(0.5, above=0, below=1),
    eta_plus: Any = hyper(1.2, above=1),
    smallest: Any = hyper(1e-6),
    largest: Any = hyper(50.0),
    t: Any,
) -> Any:
    """Resilient propagation (Riedmiller & Braun, 1993): only the sign of the gradient counts."""
    agreement = g * prev
    factor = where(agreement > 0, eta_plus, where(agreement < 0, eta_minus, 1))
    step_size = clamp(where(t == 1, lr, step_size) * factor, smallest, largest)
    g = where(agreement < 0, 0, g)
    direction = where(g > 0, 1, where(g < 0, -1, 0))  # NaN has none, as in torch: such an element stays where it is
    return theta - direction * step_size, g, step_size
