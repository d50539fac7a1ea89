"""What several families share: the ranges of hyperparameters, and the exponential average as torch.optim takes it."""

from functools import partial

from ..rule import hyper, where

from_0 = partial(hyper, low=0)
"""A number of [0, ∞)."""
below_1 = partial(hyper, low=0, below=1)
"""A number of [0, 1)."""
to_1 = partial(hyper, low=0, high=1)
"""A number of [0, 1]."""

BY_SIGN = (1e-5, 0.1)
"""Where to search the learning rate of a rule that moves every element alike, by the sign of a direction."""


def average(m, g, beta):
    """Return βm + (1−β)g as `torch.lerp` does: a step from the nearer end, so that after ∞ a finite g gives NaN."""
    difference = g - m
    return where(beta > 0.5, m + (1 - beta) * difference, g - beta * difference)
