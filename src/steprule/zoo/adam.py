"""Adam and its relatives with torch.optim's conventions.

Both moments are bias-corrected, ε stands outside the root. Weight decay is a transform: coupled, or
decoupled as in AdamW. Averages are those of `torch.lerp`, which decide what an infinite gradient leaves behind.
"""

from ..rule import abs, maximum, rule, slot, sqrt, where
from .common import average, below_1, from_0


def _moments(m, v, g, beta1, beta2):
    return average(m, g, beta1), beta2 * v + (1 - beta2) * g**2


@rule
def adam(theta, g, exp_avg, exp_avg_sq, *,
         lr=from_0(1e-3), beta1=below_1(0.9), beta2=below_1(0.999), eps=from_0(1e-8), t):
    """Adam (Kingma & Ba, 2015)."""
    m, v = _moments(exp_avg, exp_avg_sq, g, beta1, beta2)
    return theta - lr / (1 - beta1**t) * m / (sqrt(v) / sqrt(1 - beta2**t) + eps), m, v


@rule
def amsgrad(theta, g, exp_avg, exp_avg_sq, max_exp_avg_sq, *,
            lr=from_0(1e-3), beta1=below_1(0.9), beta2=below_1(0.999), eps=from_0(1e-8), t):
    """AMSGrad (Reddi, Kale & Kumar, 2018): Adam whose second moment never shrinks; the raw one is compared."""
    m, v = _moments(exp_avg, exp_avg_sq, g, beta1, beta2)
    most = maximum(max_exp_avg_sq, v)
    return theta - lr / (1 - beta1**t) * m / (sqrt(most) / sqrt(1 - beta2**t) + eps), m, v, most


@rule
def adamax(theta, g, exp_avg, exp_inf, *,
           lr=from_0(2e-3), beta1=below_1(0.9), beta2=below_1(0.999), eps=from_0(1e-8), t):
    """Adamax (Kingma & Ba, 2015): the infinity norm in place of the second moment; ε is added to |g|."""
    m = average(exp_avg, g, beta1)
    u = maximum(beta2 * exp_inf, abs(g) + eps)
    return theta - lr / (1 - beta1**t) * m / u, m, u


@rule
def nadam(theta, g, mu_product=slot(rank="host", init=1.0), exp_avg=slot(), exp_avg_sq=slot(), *,
          lr=from_0(2e-3), beta1=below_1(0.9), beta2=below_1(0.999), eps=from_0(1e-8), momentum_decay=from_0(4e-3), t):
    """NAdam (Dozat, 2016): Adam with Nesterov momentum on a schedule."""
    m, v = _moments(exp_avg, exp_avg_sq, g, beta1, beta2)
    mu = beta1 * (1 - 0.5 * 0.96 ** (t * momentum_decay))
    mu_next = beta1 * (1 - 0.5 * 0.96 ** ((t + 1) * momentum_decay))
    product = mu_product * mu
    ahead = (1 - mu) / (1 - product) * g + mu_next / (1 - product * mu_next) * m
    return theta - lr * ahead / (sqrt(v / (1 - beta2**t)) + eps), product, m, v


@rule
def radam(theta, g, exp_avg, exp_avg_sq, *,
          lr=from_0(1e-3), beta1=below_1(0.9), beta2=below_1(0.999), eps=from_0(1e-8), t):
    """RAdam (Liu et al., 2020): Adam rectified while the variance of its second moment is unknown."""
    m, v = _moments(exp_avg, exp_avg_sq, g, beta1, beta2)
    correction = 1 - beta2**t
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * t * beta2**t / correction
    rectification = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    adaptive = sqrt(correction) * sqrt(rectification) / (sqrt(v) + eps)
    return theta - lr / (1 - beta1**t) * m * where(length > 5, adaptive, 1), m, v


__all__ = ["adam", "adamax", "amsgrad", "nadam", "radam"]
