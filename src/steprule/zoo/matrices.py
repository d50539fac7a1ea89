"""Rules that take a parameter as a matrix, its leading index by all others: Muon, NorMuon, Shampoo, SOAP.

A vector is one column: Muon's step along it has a length of about 1, and preconditioners on its right are numbers.
Weight decay is a transform before the rule. Shampoo and SOAP have rules of their own for matrices of which one side is
too long for a preconditioner.
"""

from ..graph.ops import COEFFICIENTS
from ..rule import (
    choice,
    columns,
    eigenvectors,
    hyper,
    inverse_root,
    maximum,
    mean,
    orthogonalize,
    qr,
    rows,
    rule,
    slot,
    sqrt,
    transpose,
    where,
)
from .common import below_1, from_0

__all__ = ["muon", "normuon", "shampoo", "soap"]

_LEAST = 1e-10


def _scale(theta, kind):
    """Return how long Muon's step is: as its author has it, or as AdamW's usually is (Liu et al., 2025), or plain."""
    if kind == "match_rms_adamw":
        return 0.2 * sqrt(maximum(rows(theta), columns(theta)))
    return sqrt(maximum(1, rows(theta) / columns(theta))) if kind == "original" else 1


def _direction(g, momentum_buffer, momentum, a, b, c, eps, ns_steps, nesterov, gram):
    """Return the orthogonal direction of Muon's step, and the new momentum."""
    m = momentum * momentum_buffer + (1 - momentum) * g
    ahead = momentum * m + (1 - momentum) * g if nesterov else m
    return orthogonalize(ahead, a, b, c, eps=eps, steps=ns_steps, gram=gram), m


@rule
def muon(theta, g, momentum_buffer, *,
         lr=from_0(1e-3), momentum=from_0(0.95), a=hyper(COEFFICIENTS[0]), b=hyper(COEFFICIENTS[1]),
         c=hyper(COEFFICIENTS[2]), eps=from_0(1e-7), ns_steps=hyper(5, low=0, below=100),
         nesterov=choice(True, False), scale=choice("original", "match_rms_adamw", "none"), gram=choice(False, True)):
    """Muon (Jordan et al., 2024): momentum, made orthogonal by Newton-Schulz iterations.

    With the scale "match_rms_adamw", learning rates and weight decays of AdamW can be used.
    """
    o, m = _direction(g, momentum_buffer, momentum, a, b, c, eps, ns_steps, nesterov, gram)
    return theta - lr * _scale(theta, scale) * o, m


@rule
def normuon(theta, g, momentum_buffer, second_momentum=slot(rank="row"), *,
            lr=from_0(1e-3), momentum=from_0(0.95), beta2=below_1(0.95), a=hyper(COEFFICIENTS[0]),
            b=hyper(COEFFICIENTS[1]), c=hyper(COEFFICIENTS[2]), eps=from_0(1e-7), ns_steps=hyper(5, low=0, below=100),
            nesterov=choice(True, False), scale=choice("match_rms_adamw", "original", "none"),
            gram=choice(False, True)):
    """NorMuon (Li et al., 2025): Muon's direction, each row over its usual length; its RMS is 0.2, as of Adam's step.

    With the other scales the step is as long as Muon's; the authors' code has "original".
    """
    o, m = _direction(g, momentum_buffer, momentum, a, b, c, eps, ns_steps, nesterov, gram)
    square = mean(o**2, axis=1)
    v = beta2 * second_momentum + (1 - beta2) * square
    even = 1 / (sqrt(v) + _LEAST)
    long = 0.2 if scale == "match_rms_adamw" else sqrt(mean(square)) * _scale(theta, scale)
    return theta - lr * long / maximum(sqrt(mean(square * even**2)), _LEAST) * even * o, m, v


@rule
def shampoo(theta, g, left=slot(rank="left"), right=slot(rank="right"),
            left_root=slot(rank="left"), right_root=slot(rank="right"), *,
            lr=from_0(1e-1), eps=hyper(1e-6, above=0), frequency=hyper(1, low=1), t):
    """Shampoo (Gupta, Koren & Singer, 2018); roots are taken anew in every so many steps, from the first on.

    Departure: sums start from zero, not from εI; eigenvalues below ε times the greatest count as that.
    """
    left, right = left + g @ transpose(g), right + transpose(g) @ g
    now = (t - 1) % frequency == 0
    left_root = where(now, inverse_root(left, 4, eps=eps), left_root)
    right_root = where(now, inverse_root(right, 4, eps=eps), right_root)
    return theta - lr * (left_root @ g @ right_root), left, right, left_root, right_root


def _basis(q, square, frequency, t):
    """Return eigenvectors: those of the first step, then, in every so many steps, a power iteration further."""
    return where(t == 1, eigenvectors(square), where(t % frequency == 0, qr(square @ q), q))


@rule
def soap(theta, g, exp_avg, exp_avg_sq, left=slot(rank="left"), right=slot(rank="right"),
         q_left=slot(rank="left", init="identity"), q_right=slot(rank="right", init="identity"), *,
         lr=from_0(3e-3), beta1=below_1(0.95), beta2=below_1(0.95), shampoo_beta=below_1(0.95), eps=from_0(1e-8),
         frequency=hyper(10, low=1), t):
    """SOAP (Vyas et al., 2024): Adam in the basis of Shampoo's eigenvectors; the first step only finds that.

    Departures from the authors' code: eigenvectors keep their order when the basis is refreshed, and the first
    step counts, for corrections and `frequency`.
    """
    m = beta1 * exp_avg + where(t == 1, 0, (1 - beta1) * g)
    v = beta2 * exp_avg_sq + where(t == 1, 0, (1 - beta2) * (transpose(q_left) @ g @ q_right) ** 2)
    ahead = transpose(q_left) @ m @ q_right / (sqrt(v / (1 - beta2**t)) + eps)
    step = lr / (1 - beta1**t) * (q_left @ ahead @ transpose(q_right))
    left = shampoo_beta * left + (1 - shampoo_beta) * (g @ transpose(g))
    right = shampoo_beta * right + (1 - shampoo_beta) * (transpose(g) @ g)
    bases = _basis(q_left, left, frequency, t), _basis(q_right, right, frequency, t)
    return where(t == 1, theta, theta - step), m, v, left, right, *bases
