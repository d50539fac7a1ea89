"""The whiteboard, literal: every rule reads as its formula on the board.

Conventions of the board: momentum is an exponential average (the smoothing vector), ε stands inside the
root, nothing is bias-corrected, and β may be any number of the closed interval [0, 1].
"""

from __future__ import annotations

from typing import Any

from ..rule import choice, global_norm, hyper, rule, sqrt, transform, where

__all__ = ["adagrad", "adam", "clip_component", "clip_norm", "gd", "momentum", "nesterov", "rmsprop", "sgd"]


@rule
def gd(theta: Any, g: Any, *, lr: Any = hyper(0.1, low=0)) -> Any:
    """Gradient descent: g is the gradient of the whole data set (Cauchy, 1847)."""
    return theta - lr * g


@rule
def sgd(theta: Any, g: Any, *, lr: Any = hyper(0.1, low=0)) -> Any:
    """Stochastic gradient descent: g is the gradient of a mini-batch (Robbins & Monro, 1951)."""
    return theta - lr * g


@rule
def momentum(theta: Any, g: Any, m: Any, *, lr: Any = hyper(0.1, low=0), beta: Any = hyper(0.9, low=0, high=1)) -> Any:
    """SGD with momentum (Polyak, 1964), m being the smoothing vector; β = 0 is SGD, β = 1 never moves m."""
    m = (1 - beta) * g + beta * m
    return theta - lr * m, m


def _look_ahead(theta: Any, m: Any, new_theta: Any, *, lr: Any, beta: Any, look_ahead: str) -> Any:
    if look_ahead == "implicit":
        return new_theta
    if look_ahead == "board":
        return theta - where(m == 0, 0, beta * m / (1 - beta))  # m = 0 looks nowhere, at β = 1 too
    return theta - lr * beta * m


@rule(evaluate_at=_look_ahead)
def nesterov(
    theta: Any,
    g: Any,
    m: Any,
    *,
    lr: Any = hyper(0.1, low=0),
    beta: Any = hyper(0.9, low=0, high=1),
    tolerance: Any = hyper(1e-14, low=0, only="implicit"),  # noqa: ARG001
    max_eval: Any = hyper(500, low=1, only="implicit"),  # noqa: ARG001
    look_ahead: Any = choice("momentum", "board", "implicit"),  # noqa: ARG001
) -> Any:
    """Nesterov momentum (Nesterov, 1983): g is taken at θ − ηβm, where the momentum alone would carry θ.

    `look_ahead="board"` takes it at θ − βm/(1−β), as the board literally reads. `"implicit"` takes it at θₜ itself,
    where the step ends, as the board's first line reads. Then each step evaluates its closure, which must give the
    same loss at the same point, until an evaluation moves θₜ by at most `tolerance` times the step (or by what rounding
    does, if that is more), and at most `max_eval` times. It contracts where η(1−β) times the curvature is below 1.
    """
    m = (1 - beta) * g + beta * m
    return theta - lr * m, m


@rule
def adagrad(theta: Any, g: Any, s: Any, *, lr: Any = hyper(0.1, low=0), eps: Any = hyper(1e-8, low=0)) -> Any:
    """AdaGrad (Duchi, Hazan & Singer, 2011), with ε inside the root."""
    s = s + g**2
    return theta - lr * g / sqrt(s + eps), s


@rule
def rmsprop(
    theta: Any,
    g: Any,
    s: Any,
    *,
    lr: Any = hyper(0.01, low=0),
    beta: Any = hyper(0.99, low=0, high=1),
    eps: Any = hyper(1e-8, low=0),
) -> Any:
    """RMSProp (Tieleman & Hinton, 2012), with ε inside the root."""
    s = beta * s + (1 - beta) * g**2
    return theta - lr * g / sqrt(s + eps), s


@rule
def adam(
    theta: Any,
    g: Any,
    m: Any,
    s: Any,
    *,
    lr: Any = hyper(1e-3, low=0),
    beta1: Any = hyper(0.9, low=0, high=1),
    beta2: Any = hyper(0.99, low=0, high=1),
    eps: Any = hyper(1e-8, low=0),
) -> Any:
    """Adam (Kingma & Ba, 2015) as on the board: adaptive steps + momentum, no bias correction, ε inside."""
    m = (1 - beta1) * g + beta1 * m
    s = beta2 * s + (1 - beta2) * g**2
    return theta - lr * m / sqrt(s + eps), m, s


@transform
def clip_norm(theta: Any, g: Any, *, max_norm: Any = hyper(1.0, low=0)) -> Any:  # noqa: ARG001
    """Clipping ①, literal: the whole gradient always gets the length S_g; zero stays zero."""
    length = global_norm(g)
    return where(length == 0, g, g / length * max_norm)


@transform
def clip_component(theta: Any, g: Any, *, limit: Any = hyper(1.0)) -> Any:  # noqa: ARG001
    """Clipping ②, literal: every component above L_g becomes L_g; nothing is bounded from below."""
    return where(g <= limit, g, limit)
