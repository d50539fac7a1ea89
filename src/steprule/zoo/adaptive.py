"""Step sizes per coordinate with torch.optim's conventions: Adagrad, RMSprop, Adadelta, Rprop.

ε stands outside the root, except in Adadelta; accumulators start from zero. Every rule asks for `t`, because torch
counts the steps of each; only Adagrad and Rprop use it.
"""

from ..rule import clamp, hyper, rule, slot, sqrt, where
from .common import average, from_0, to_1


@rule
def adagrad(theta, g, sum, *, lr=from_0(1e-2), lr_decay=from_0(0.0), eps=from_0(1e-10), t):
    """Adagrad (Duchi, Hazan & Singer, 2011), with torch's decay of the learning rate."""
    sum = sum + g**2
    return theta - lr / (1 + (t - 1) * lr_decay) * g / (sqrt(sum) + eps), sum


def _mean_square(v, g, alpha):
    return alpha * v + (1 - alpha) * g**2


@rule
def rmsprop(theta, g, square_avg=slot(low=0), *, lr=from_0(1e-2), alpha=from_0(0.99), eps=from_0(1e-8), t):
    """RMSprop (Tieleman & Hinton, 2012), as in torch.optim."""
    v = _mean_square(square_avg, g, alpha)
    return theta - lr * g / (sqrt(v) + eps), v


@rule
def rmsprop_momentum(theta, g, square_avg=slot(low=0), momentum_buffer=slot(), *,
                     lr=from_0(1e-2), alpha=from_0(0.99), eps=from_0(1e-8), momentum=from_0(0.9), t):
    """RMSprop with momentum on the scaled gradient."""
    v = _mean_square(square_avg, g, alpha)
    b = momentum * momentum_buffer + g / (sqrt(v) + eps)
    return theta - lr * b, v, b


def _deviation(v, a, eps):
    # v may overflow, and a² with it; torch takes both in one operation, so that ∞ is left and not NaN.
    spread = where(v - v == 0, v - a**2, v - 0 * a)
    return sqrt(spread) + eps


@rule
def rmsprop_centered(theta, g, square_avg=slot(low=0), grad_avg=slot(), *,
                     lr=from_0(1e-2), alpha=from_0(0.99), eps=from_0(1e-8), t):
    """RMSprop scaled by the standard deviation of the gradient (Graves, 2013)."""
    v = _mean_square(square_avg, g, alpha)
    a = average(grad_avg, g, alpha)
    return theta - lr * g / _deviation(v, a, eps), v, a


@rule
def rmsprop_centered_momentum(theta, g, square_avg=slot(low=0), momentum_buffer=slot(), grad_avg=slot(), *,
                              lr=from_0(1e-2), alpha=from_0(0.99), eps=from_0(1e-8), momentum=from_0(0.9), t):
    """Centred RMSprop with momentum on the scaled gradient."""
    v = _mean_square(square_avg, g, alpha)
    a = average(grad_avg, g, alpha)
    b = momentum * momentum_buffer + g / _deviation(v, a, eps)
    return theta - lr * b, v, b, a


@rule
def adadelta(theta, g, square_avg, acc_delta, *, lr=from_0(1.0, tune=(1e-2, 1e2)), rho=to_1(0.9), eps=from_0(1e-6), t):
    """Adadelta (Zeiler, 2012), ε inside both roots."""
    v = rho * square_avg + (1 - rho) * g**2
    step = sqrt(acc_delta + eps) / sqrt(v + eps) * g
    return theta - lr * step, v, rho * acc_delta + (1 - rho) * step**2


@rule
def rprop(theta, g, prev, step_size, *,
          lr=from_0(1e-2), eta_minus=hyper(0.5, above=0, below=1), eta_plus=hyper(1.2, above=1), smallest=hyper(1e-6),
          largest=hyper(50.0), t):
    """Resilient propagation (Riedmiller & Braun, 1993): only the sign of the gradient counts."""
    agreement = g * prev
    factor = where(agreement > 0, eta_plus, where(agreement < 0, eta_minus, 1))
    step_size = clamp(where(t == 1, lr, step_size) * factor, smallest, largest)
    g = where(agreement < 0, 0, g)
    direction = where(g > 0, 1, where(g < 0, -1, 0))  # NaN has none, as in torch: such an element stays where it is
    return theta - direction * step_size, g, step_size
