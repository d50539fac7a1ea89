"""Rules whose second moments are one number a row or column of a matrix: Adafactor, CAME, SM3, Adam-mini.

A tensor is seen as a matrix, its leading index by all others. What is a product of rows and columns is scaled by the
product of their roots, so that elements need no root and no division. Vectors and numbers have rules of their own where
the authors keep something else of them.
"""

from ..rule import hyper, max, maximum, mean, minimum, rule, slot, sqrt, where
from .common import below_1, from_0

__all__ = ["adafactor", "adafactor_of_vectors", "adam_mini", "adam_mini_of_vectors", "came", "came_of_vectors", "sm3"]

# Adafactor and CAME ------------------------------------------------------------------------------------


def _rms(x):
    return sqrt(mean(x**2))


def _towards(v, mean_square, t, beta2_decay):
    return v + t**beta2_decay * (mean_square - v)


def _inverse_root(r, c, least=0):
    """Return 1/√v of v = r c / mean(r), the matrix whose rows and columns have these means."""
    return sqrt(maximum(mean(r), least)) / sqrt(r) * (1 / sqrt(c))


def _limited(theta, g, scale, lr, eps2, d, weight_decay, t):
    """Return θ after a step along g · scale, whose RMS is at most d, relative to the RMS of θ."""
    update = g * scale
    alpha = maximum(eps2, _rms(theta)) * minimum(lr, 1 / sqrt(t))
    return (1 - lr * weight_decay) * theta - alpha / maximum(1, _rms(update) / d) * update


@rule
def adafactor(theta, g, row_var=slot(rank="row"), col_var=slot(rank="column"), *,
              lr=from_0(1e-2), beta2_decay=hyper(-0.8, high=0), eps1=from_0(2.0**-23), eps2=from_0(1e-3),
              d=hyper(1.0, low=1), weight_decay=from_0(0.0), t):
    """Adafactor (Shazeer & Stern, 2018) as torch.optim has it: ε₁ bounds the divisors, lr the relative step.

    Departure of torch from the paper: the moments are of g², not of g² + ε₁, and lr is also that of the decay.
    """
    r = _towards(row_var, mean(g**2, axis=1), t, beta2_decay)
    c = _towards(col_var, mean(g**2, axis=0), t, beta2_decay)
    scale = minimum(_inverse_root(r, c, eps1), 1 / eps1)
    return _limited(theta, g, scale, lr, eps2, d, weight_decay, t), r, c


@rule
def adafactor_of_vectors(theta, g, variance=slot(low=0), *,
                         lr=from_0(1e-2), beta2_decay=hyper(-0.8, high=0), eps1=from_0(2.0**-23),
                         eps2=from_0(1e-3), d=hyper(1.0, low=1), weight_decay=from_0(0.0), t):
    """Adafactor of what has fewer than two dimensions: the moment is of every element."""
    v = _towards(variance, g**2, t, beta2_decay)
    return _limited(theta, g, minimum(1 / sqrt(v), 1 / eps1), lr, eps2, d, weight_decay, t), v


@rule
def came(theta, g, exp_avg, exp_avg_sq_row=slot(rank="row"), exp_avg_sq_col=slot(rank="column"),
         exp_avg_res_row=slot(rank="row"), exp_avg_res_col=slot(rank="column"), *,
         lr=from_0(2e-4, tune=(1e-5, 0.1)), beta1=below_1(0.9), beta2=below_1(0.999), beta3=below_1(0.9999),
         eps1=hyper(1e-30, above=0), eps2=hyper(1e-16, above=0), clip_threshold=hyper(1.0, above=0)):
    """CAME (Luo et al., 2023): Adafactor's step is trusted where it is near its average; nothing is bias-corrected."""
    r = beta2 * exp_avg_sq_row + (1 - beta2) * mean(g**2 + eps1, axis=1)
    c = beta2 * exp_avg_sq_col + (1 - beta2) * mean(g**2 + eps1, axis=0)
    u = g * _inverse_root(r, c)
    u = u / maximum(1, _rms(u) / clip_threshold)
    m = beta1 * exp_avg + (1 - beta1) * u
    far = (u - m) ** 2 + eps2
    rows = beta3 * exp_avg_res_row + (1 - beta3) * mean(far, axis=1)
    columns = beta3 * exp_avg_res_col + (1 - beta3) * mean(far, axis=0)
    return theta - lr * m * _inverse_root(rows, columns), m, r, c, rows, columns


@rule
def came_of_vectors(theta, g, exp_avg, exp_avg_sq=slot(low=0), *,
                    lr=from_0(2e-4), beta1=below_1(0.9), beta2=below_1(0.999), beta3=below_1(0.9999),
                    eps1=hyper(1e-30, above=0), eps2=hyper(1e-16, above=0), clip_threshold=hyper(1.0, above=0)):
    """CAME of what has fewer than two dimensions, as its authors have it: without confidence, so β₃ and ε₂ are idle."""
    v = beta2 * exp_avg_sq + (1 - beta2) * (g**2 + eps1)
    u = g / sqrt(v)
    m = beta1 * exp_avg + (1 - beta1) * (u / maximum(1, _rms(u) / clip_threshold))
    return theta - lr * m, m, v


# SM3 and Adam-mini -------------------------------------------------------------------------------------


@rule
def sm3(theta, g, momentum_buffer, row=slot(rank="row"), col=slot(rank="column"), *,
        lr=from_0(0.1), momentum=below_1(0.9)):
    """SM3-II (Anil, Gupta, Koren & Singer, 2019): Adagrad with what a row and a column have seen at most.

    Departure: a tensor of more than two dimensions is a matrix, and has no number for each index of each.
    """
    v = minimum(row, col) + g**2
    m = momentum * momentum_buffer + (1 - momentum) * where(v > 0, g / sqrt(v), 0)
    return theta - lr * m, m, max(v, axis=1), max(v, axis=0)


def _mini(theta, g, exp_avg, vmean, mean_square, lr, beta1, beta2, eps, t):
    m = beta1 * exp_avg + (1 - beta1) * g
    v = beta2 * vmean + (1 - beta2) * mean_square
    return theta - lr / (1 - beta1**t) * m / (sqrt(v) / sqrt(1 - beta2**t) + eps), m, v


@rule
def adam_mini(theta, g, exp_avg, vmean=slot(rank="row"), *,
              lr=from_0(1e-3), beta1=below_1(0.9), beta2=below_1(0.999), eps=from_0(1e-8), t):
    """Adam-mini (Zhang et al., 2024): Adam with one second moment a row, the weights of one neuron or token.

    Departure: queries and keys, too, are cut by rows; the authors cut them by heads.
    """
    return _mini(theta, g, exp_avg, vmean, mean(g**2, axis=1), lr, beta1, beta2, eps, t)


@rule
def adam_mini_of_vectors(theta, g, exp_avg, vmean=slot(rank="tensor"), *,
                         lr=from_0(1e-3), beta1=below_1(0.9), beta2=below_1(0.999), eps=from_0(1e-8), t):
    """Adam-mini of what has fewer than two dimensions: one second moment for all of it."""
    return _mini(theta, g, exp_avg, vmean, mean(g**2), lr, beta1, beta2, eps, t)
