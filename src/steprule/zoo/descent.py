"""Descent with torch.optim's conventions: SGD, heavy-ball and Nesterov momentum, averaged SGD.

Momentum is accumulated (b = μb + g, heavy-ball), not averaged; the first buffer is the first gradient, without
dampening. The learning rate stands outside the buffer.
"""

from ..rule import hyper, maximum, rule, slot, where
from .common import from_0


@rule
def sgd(theta, g, *, lr=from_0(1e-3)):
    """Stochastic gradient descent (Robbins & Monro, 1951)."""
    return theta - lr * g


def _accumulate(g, b, started, momentum, dampening):
    return where(started > 0, momentum * b + (1 - dampening) * g, g)


@rule
def heavy_ball(theta, g, momentum_buffer, started=slot(rank="host"), *,
               lr=from_0(1e-3), momentum=from_0(0.9), dampening=hyper(0.0)):
    """SGD with heavy-ball momentum (Polyak, 1964), as torch.optim.SGD accumulates it."""
    b = _accumulate(g, momentum_buffer, started, momentum, dampening)
    return theta - lr * b, b, 1


@rule
def nesterov(theta, g, momentum_buffer, started=slot(rank="host"), *,
             lr=from_0(1e-3), momentum=from_0(0.9), dampening=hyper(0.0)):
    """Nesterov's momentum in the form of Sutskever et al. (2013): the step looks one buffer ahead."""
    b = _accumulate(g, momentum_buffer, started, momentum, dampening)
    return theta - lr * (g + momentum * b), b, 1


@rule
def asgd(theta, g, eta=slot(rank="host"), mu=slot(rank="host", init=1.0), ax=slot(), *,
         lr=from_0(1e-2), lambd=from_0(1e-4), alpha=from_0(0.75), t0=hyper(1e6), t):
    """Averaged SGD (Polyak & Juditsky, 1992); `ax` is the average from step t0 on, the parameter before."""
    rate = where(t == 1, lr, eta)
    theta = (1 - lambd * rate) * theta - rate * g
    ax = where(mu == 1, theta, ax + (theta - ax) * mu)
    return theta, lr / (1 + lambd * lr * t) ** alpha, 1 / maximum(1, t - t0), ax
