"""Descent with torch.optim's conventions: SGD, heavy-ball and Nesterov momentum, averaged SGD.

Momentum is accumulated (b = μb + g, heavy-ball), not averaged; the first buffer is the first gradient, whatever
the dampening. The learning rate stands outside the buffer.
"""

from __future__ import annotations

from typing import Any

from ..rule import hyper, maximum, rule, slot, where

_LR = hyper(1e-3, low=0)


@rule
def sgd(theta: Any, g: Any, *, lr: Any = _LR) -> Any:
    """Stochastic gradient descent (Robbins & Monro, 1951)."""
    return theta - lr * g


def _accumulate(g: Any, b: Any, started: Any, momentum: Any, dampening: Any) -> Any:
    return where(started > 0, momentum * b + (1 - dampening) * g, g)


@rule
def heavy_ball(
    theta: Any,
    g: Any,
    momentum_buffer: Any,
    started: Any = slot(rank="host"),
    *,
    lr: Any = _LR,
    momentum: Any = hyper(0.9, low=0),
    dampening: Any = hyper(0.0),
) -> Any:
    """SGD with heavy-ball momentum (Polyak, 1964), as torch.optim.SGD accumulates it."""
    b = _accumulate(g, momentum_buffer, started, momentum, dampening)
    return theta - lr * b, b, 1


@rule
def nesterov(
    theta: Any,
    g: Any,
    momentum_buffer: Any,
    started: Any = slot(rank="host"),
    *,
    lr: Any = _LR,
    momentum: Any = hyper(0.9, low=0),
    dampening: Any = hyper(0.0),
) -> Any:
    """Nesterov's momentum in the form of Sutskever et al. (2013): the step looks one buffer ahead."""
    b = _accumulate(g, momentum_buffer, started, momentum, dampening)
    return theta - lr * (g + momentum * b), b, 1


@rule
def asgd(
    theta: Any,
    g: Any,
    eta: Any = slot(rank="host"),
    mu: Any = slot(rank="host", init=1.0),
    ax: Any = slot(),
    *,
    lr: Any = hyper(1e-2, low=0),
    lambd: Any = hyper(1e-4, low=0),
    alpha: Any = hyper(0.75, low=0),
    t0: Any = hyper(1e6),
    t: Any,
) -> Any:
    """Averaged SGD (Polyak & Juditsky, 1992); `ax` is the average from step t0 on, the parameter before."""
    rate = where(t == 1, lr, eta)
    theta = (1 - lambd * rate) * theta - rate * g
    ax = where(mu == 1, theta, ax + (theta - ax) * mu)
    return theta, lr / (1 + lambd * lr * t) ** alpha, 1 / maximum(1, t - t0), ax
