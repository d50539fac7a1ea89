"""Rules that leave less to tune: Polyak's step asks the loss, DoG and Prodigy measure, Schedule-Free averages.

β weighs the past, as in Adam; ε stands outside the root. Schedule-Free takes its gradient at a point y between the
iterate x, which is what to evaluate, and z, which takes the steps: `theta` is x, and `lead` is x − z. Training stores
y; `eval()`, or `at_iterate()`, holds x in the parameters.
"""

from ..rule import abs, global_norm, global_sum, hyper, maximum, minimum, rule, slot, sqrt, where
from .common import below_1, from_0

AROUND_1 = (0.1, 10.0)
"""Where a factor of the rate that a rule finds itself is searched."""

__all__ = ["dog", "polyak", "prodigy", "schedule_free_adamw", "schedule_free_sgd"]


@rule
def polyak(theta, g, *, lr=from_0(1.0), least=hyper(0.0), eps=hyper(1e-30, above=0), loss):
    """Polyak's step (1987), at most `lr` as in SPS_max (Loizou et al., 2021); `least` is the least loss there is.

    All tensors share one step. `eps` keeps the step of a gradient of zero from being NaN.
    """
    return theta - minimum(lr, maximum(0, loss - least) / (global_sum(g**2) + eps)) * g


def _averaged(theta, z, rate, lr_max, weight_sum, t, r, weight_lr_power):
    """Return the next iterate, how far it leads z, and what weights know: x is the average of z, by rates."""
    lr_max = maximum(rate, lr_max)
    weight = t**r * lr_max**weight_lr_power
    weight_sum = weight_sum + weight
    share = where(weight_sum > 0, weight / weight_sum, 0)
    x = (1 - share) * theta + share * z
    return x, x - z, lr_max, weight_sum


@rule(evaluate_at=lambda theta, lead, *, momentum: theta - (1 - momentum) * lead)
def schedule_free_sgd(theta, g, lead, lr_max=slot(rank="host"), weight_sum=slot(rank="host"), *,
                      lr=from_0(1.0), momentum=below_1(0.9), weight_decay=from_0(0.0), warmup_steps=from_0(0.0),
                      r=from_0(0.0), weight_lr_power=from_0(2.0), t):
    """Schedule-Free SGD (Defazio et al., 2024), with decay at y; weights are powers of t and the greatest rate.

    >>> import torch, steprule as sr
    >>> opt = sr.schedule_free_sgd.optimizer(torch.nn.Linear(2, 1).parameters(), lr=1.0, warmup_steps=100)
    >>> opt.eval()  # puts the average in place, for evaluation; `opt.train()` puts the point of the gradient back
    """
    rate = lr * minimum(1, t / maximum(warmup_steps, 1))
    y = theta - (1 - momentum) * lead
    z = theta - lead - rate * (g + weight_decay * y)
    return _averaged(theta, z, rate, lr_max, weight_sum, t, r, weight_lr_power)


@rule(evaluate_at=lambda theta, lead, *, beta1: theta - (1 - beta1) * lead)
def schedule_free_adamw(theta, g, lead, lr_max=slot(rank="host"), weight_sum=slot(rank="host"), exp_avg_sq=slot(), *,
                        lr=from_0(2.5e-3), beta1=below_1(0.9), beta2=below_1(0.999), eps=from_0(1e-8),
                        weight_decay=from_0(0.0), warmup_steps=from_0(0.0), r=from_0(0.0),
                        weight_lr_power=from_0(2.0), t):
    """Schedule-Free AdamW (Defazio et al., 2024), with weight decay at y; weights are as those of the SGD.

    >>> import torch, steprule as sr
    >>> opt = sr.schedule_free_adamw.optimizer(torch.nn.Linear(2, 1).parameters(), lr=2.5e-3, warmup_steps=100)
    >>> opt.train()
    """
    rate = lr * minimum(1, t / maximum(warmup_steps, 1))
    v = beta2 * exp_avg_sq + (1 - beta2) * g**2
    y = theta - (1 - beta1) * lead
    z = theta - lead - rate * (g / (sqrt(v / (1 - beta2**t)) + eps) + weight_decay * y)
    return *_averaged(theta, z, rate, lr_max, weight_sum, t, r, weight_lr_power), v


@rule
def dog(theta, g, start=slot(init="theta"), furthest=slot(rank="global"), total=slot(rank="global"), *,
        lr=from_0(1.0, tune=AROUND_1), first=hyper(1e-6, above=0), eps=from_0(1e-8)):
    """DoG (Ivgi, Hinder & Carmon, 2023): the way from the start over the root of all squared gradients, of all tensors.

    The first way is `first` times one more than the length of θ.
    """
    way = where(furthest == 0, first * (1 + global_norm(theta)), furthest)
    way = maximum(way, global_norm(theta - start))
    total = total + global_sum(g**2)
    return theta - lr * way / sqrt(total + eps) * g, start, way, total


@rule
def prodigy(theta, g, exp_avg, exp_avg_sq, s, p0=slot(init="theta"), d=slot(rank="global"),
            d_numerator=slot(rank="global"), *,
            lr=from_0(1.0, tune=AROUND_1), beta1=below_1(0.9), beta2=below_1(0.999), eps=from_0(1e-8),
            d0=hyper(1e-6, above=0), d_coef=from_0(1.0), weight_decay=from_0(0.0)):
    """Prodigy (Mishchenko & Defazio, 2023) of AdamW, without bias correction: d, of all tensors, grows as they move.

    As in the authors' code β₃ = √β₂, and the decay is decoupled. Departure: groups may differ in `lr`, each adding to
    the sums at its own; theirs differ in lr = 0 alone, which leaves a group out of the sums.
    """
    d, beta3 = where(d == 0, d0, d), sqrt(beta2)
    rate = d * lr
    m = beta1 * exp_avg + (1 - beta1) * (d * g)
    v = beta2 * exp_avg_sq + (1 - beta2) * (d * g) ** 2
    s = beta3 * s + d / d0 * rate * g
    top, bottom = beta3 * d_numerator + global_sum(d / d0 * rate * g * (p0 - theta)), global_sum(abs(s))
    found = maximum(d, where(bottom > 0, d_coef * top / bottom, d))
    return theta * (1 - rate * weight_decay) - rate * m / (sqrt(v) + found * eps), m, v, s, p0, found, top
