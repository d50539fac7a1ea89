"""The whiteboard, literal: every rule reads as its formula on the board.

Conventions of the board: momentum is an exponential average (the smoothing vector), ε stands inside the
root, nothing is bias-corrected, and β may be any number of the closed interval [0, 1].
"""

from ..rule import choice, global_norm, hyper, rule, sqrt, transform, where
from .common import from_0, to_1

__all__ = ["adagrad", "adam", "clip_component", "clip_norm", "gd", "momentum", "nesterov", "rmsprop", "sgd"]


@rule
def gd(theta, g, *, lr=from_0(0.1)):
    """Gradient descent: g is the gradient of the whole data set (Cauchy, 1847)."""
    return theta - lr * g


@rule
def sgd(theta, g, *, lr=from_0(0.1)):
    """Stochastic gradient descent: g is the gradient of a mini-batch (Robbins & Monro, 1951)."""
    return theta - lr * g


@rule
def momentum(theta, g, m, *, lr=from_0(0.1), beta=to_1(0.9)):
    """SGD with momentum (Polyak, 1964), m being the smoothing vector; β = 0 is SGD, β = 1 never moves m."""
    m = (1 - beta) * g + beta * m
    return theta - lr * m, m


def _look_ahead(theta, m, new_theta, *, lr, beta, look_ahead):
    if look_ahead == "implicit":
        return new_theta
    if look_ahead == "board":
        return theta - where(m == 0, 0, beta * m / (1 - beta))  # m = 0 looks nowhere, at β = 1 too
    return theta - lr * beta * m


@rule(evaluate_at=_look_ahead)
def nesterov(theta, g, m, *,
             lr=from_0(0.1), beta=to_1(0.9), tolerance=hyper(1e-14, low=0, only="implicit"),
             max_eval=hyper(500, low=1, only="implicit"), look_ahead=choice("momentum", "board", "implicit")):
    """Nesterov momentum (Nesterov, 1983): g is taken at θ − ηβm, where the momentum alone would carry θ.

    `look_ahead="board"` takes it at θ − βm/(1−β), as the board literally reads. `"implicit"` takes it at θₜ itself,
    where the step ends, as the board's first line reads. Then each step evaluates its closure, which must give the
    same loss at the same point, until an evaluation moves θₜ by at most `tolerance` times the step (or by what rounding
    does, if that is more), and at most `max_eval` times. It contracts where η(1−β) times the curvature is below 1.
    """
    m = (1 - beta) * g + beta * m
    return theta - lr * m, m


@rule
def adagrad(theta, g, s, *, lr=from_0(0.1), eps=from_0(1e-8)):
    """AdaGrad (Duchi, Hazan & Singer, 2011), with ε inside the root."""
    s = s + g**2
    return theta - lr * g / sqrt(s + eps), s


@rule
def rmsprop(theta, g, s, *, lr=from_0(0.01), beta=to_1(0.99), eps=from_0(1e-8)):
    """RMSProp (Tieleman & Hinton, 2012), with ε inside the root."""
    s = beta * s + (1 - beta) * g**2
    return theta - lr * g / sqrt(s + eps), s


@rule
def adam(theta, g, m, s, *, lr=from_0(1e-3), beta1=to_1(0.9), beta2=to_1(0.99), eps=from_0(1e-8)):
    """Adam (Kingma & Ba, 2015) as on the board: adaptive steps + momentum, no bias correction, ε inside."""
    m = (1 - beta1) * g + beta1 * m
    s = beta2 * s + (1 - beta2) * g**2
    return theta - lr * m / sqrt(s + eps), m, s


@transform
def clip_norm(theta, g, *, max_norm=from_0(1.0)):
    """Clipping ①, literal: the whole gradient always gets the length S_g; zero stays zero."""
    length = global_norm(g)
    return where(length == 0, g, g / length * max_norm)


@transform
def clip_component(theta, g, *, limit=hyper(1.0)):
    """Clipping ②, literal: every component above L_g becomes L_g; nothing is bounded from below."""
    return where(g <= limit, g, limit)
