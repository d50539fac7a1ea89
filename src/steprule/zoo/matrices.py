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

__all__ = ["muon", "normuon", "shampoo", "shampoo_of_columns", "shampoo_of_elements", "shampoo_of_rows", "soap",
           "soap_of_columns", "soap_of_rows"]  # fmt: skip

_LEAST = 1e-10


# Muon --------------------------------------------------------------------------------------------------


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

    With the scale "match_rms_adamw" steps are about as long as AdamW's in language models (Liu et al., 2025); the best
    rate may be another all the same.
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


# Shampoo -----------------------------------------------------------------------------------------------


def _taken(square, product, root, p, eps, frequency, t):
    """Return the sum of products of gradients, and its inverse root: taken anew in every so many steps."""
    square = square + product
    return square, where((t - 1) % frequency == 0, inverse_root(square, p, eps=eps), root)


@rule
def shampoo(theta, g, left=slot(rank="left"), right=slot(rank="right"),
            left_root=slot(rank="left"), right_root=slot(rank="right"), *,
            lr=from_0(1e-1), eps=hyper(1e-6, above=0), precondition_frequency=hyper(1, low=1), t):
    """Shampoo (Gupta, Koren & Singer, 2018); roots are taken anew in every so many steps, from the first on.

    Departure: sums start from zero, not from εI; eigenvalues below ε times the greatest count as that.
    """
    left, left_root = _taken(left, g @ transpose(g), left_root, 4, eps, precondition_frequency, t)
    right, right_root = _taken(right, transpose(g) @ g, right_root, 4, eps, precondition_frequency, t)
    return theta - lr * (left_root @ g @ right_root), left, right, left_root, right_root


@rule
def shampoo_of_rows(theta, g, left=slot(rank="left"), left_root=slot(rank="left"), *,
                    lr=from_0(1e-1), eps=hyper(1e-6, above=0), precondition_frequency=hyper(1, low=1), t):
    """Shampoo of vectors, and of matrices with too many columns (Anil et al., 2020): one matrix, its square root."""
    left, left_root = _taken(left, g @ transpose(g), left_root, 2, eps, precondition_frequency, t)
    return theta - lr * (left_root @ g), left, left_root


@rule
def shampoo_of_columns(theta, g, right=slot(rank="right"), right_root=slot(rank="right"), *,
                       lr=from_0(1e-1), eps=hyper(1e-6, above=0), precondition_frequency=hyper(1, low=1), t):
    """Shampoo of matrices with too many rows."""
    right, right_root = _taken(right, transpose(g) @ g, right_root, 2, eps, precondition_frequency, t)
    return theta - lr * (g @ right_root), right, right_root


@rule
def shampoo_of_elements(theta, g, sum, *, lr=from_0(1e-1), eps=hyper(1e-6, above=0)):
    """Shampoo of what is too long on both sides: the diagonal of its matrix, as in Adagrad."""
    sum = sum + g**2
    return theta - lr * g / (sqrt(sum) + eps), sum


# SOAP --------------------------------------------------------------------------------------------------


def _adam_in(into, back, theta, g, exp_avg, exp_avg_sq, lr, beta1, beta2, eps, t):
    """Return θ and the moments after Adam's step in a basis; the first step moves nothing and is not counted."""
    steps = maximum(t - 1, 1)
    m = beta1 * exp_avg + where(t == 1, 0, (1 - beta1) * g)
    v = beta2 * exp_avg_sq + where(t == 1, 0, (1 - beta2) * into(g) ** 2)
    step = lr / (1 - beta1**steps) * back(into(m) / (sqrt(v / (1 - beta2**steps)) + eps))
    return where(t == 1, theta, theta - step), m, v


def _basis(q, square, product, beta, frequency, t):
    """Return the average of products, and its eigenvectors.

    They are those of the first step, then, in every so many steps, a power iteration further.
    """
    square = beta * square + (1 - beta) * product
    return square, where(t == 1, eigenvectors(square), where((t - 1) % frequency == 0, qr(square @ q), q))


@rule
def soap(theta, g, exp_avg, exp_avg_sq, left=slot(rank="left"), right=slot(rank="right"),
         q_left=slot(rank="left", init="identity"), q_right=slot(rank="right", init="identity"), *,
         lr=from_0(3e-3), beta1=below_1(0.95), beta2=below_1(0.95), shampoo_beta=below_1(0.95), eps=from_0(1e-8),
         precondition_frequency=hyper(10, low=1), t):
    """SOAP (Vyas et al., 2024): Adam in the basis of Shampoo's eigenvectors; the first step only finds that.

    Departure from the authors' code: eigenvectors keep their order when the basis is refreshed.
    """
    into, back = (lambda x: transpose(q_left) @ x @ q_right), (lambda x: q_left @ x @ transpose(q_right))
    new, m, v = _adam_in(into, back, theta, g, exp_avg, exp_avg_sq, lr, beta1, beta2, eps, t)
    left, q_left = _basis(q_left, left, g @ transpose(g), shampoo_beta, precondition_frequency, t)
    right, q_right = _basis(q_right, right, transpose(g) @ g, shampoo_beta, precondition_frequency, t)
    return new, m, v, left, right, q_left, q_right


@rule
def soap_of_rows(theta, g, exp_avg, exp_avg_sq, left=slot(rank="left"), q_left=slot(rank="left", init="identity"), *,
                 lr=from_0(3e-3), beta1=below_1(0.95), beta2=below_1(0.95), shampoo_beta=below_1(0.95),
                 eps=from_0(1e-8), precondition_frequency=hyper(10, low=1), t):
    """SOAP of matrices with too many columns: these keep their basis."""
    into, back = (lambda x: transpose(q_left) @ x), (lambda x: q_left @ x)
    new, m, v = _adam_in(into, back, theta, g, exp_avg, exp_avg_sq, lr, beta1, beta2, eps, t)
    return new, m, v, *_basis(q_left, left, g @ transpose(g), shampoo_beta, precondition_frequency, t)


@rule
def soap_of_columns(theta, g, exp_avg, exp_avg_sq, right=slot(rank="right"),
                    q_right=slot(rank="right", init="identity"), *,
                    lr=from_0(3e-3), beta1=below_1(0.95), beta2=below_1(0.95), shampoo_beta=below_1(0.95),
                    eps=from_0(1e-8), precondition_frequency=hyper(10, low=1), t):
    """SOAP of matrices with too many rows: these keep their basis."""
    into, back = (lambda x: x @ q_right), (lambda x: x @ transpose(q_right))
    new, m, v = _adam_in(into, back, theta, g, exp_avg, exp_avg_sq, lr, beta1, beta2, eps, t)
    return new, m, v, *_basis(q_right, right, transpose(g) @ g, shampoo_beta, precondition_frequency, t)
