"""Rules as their papers write them: Lion and its like, relatives of Adam, LAMB and LARS by layers, Langevin dynamics.

β weighs the past, as in Adam; ε stands outside the root; counts of steps are each parameter's own. Where weight
decay is part of the formula it is a hyperparameter of the rule, elsewhere a transform before it.
"""

from ..rule import choice, clamp, exp, hyper, log, maximum, mean, minimum, norm, normal, rule, sign, slot, sqrt, where
from .common import BY_SIGN, below_1, from_0, to_1

__all__ = ["adabelief", "adan", "ademamix", "adopt", "lamb", "lars", "lion", "mars", "mars_exact", "sgld", "signum",
           "stable_adamw", "yogi"]  # fmt: skip


@rule
def lion(theta, g, exp_avg, *, lr=from_0(1e-4, tune=BY_SIGN), beta1=to_1(0.9), beta2=to_1(0.99)):
    """Lion (Chen et al., 2023), without its weight decay: chain `weight_decay` before it."""
    update = sign(beta1 * exp_avg + (1 - beta1) * g)
    return theta - lr * update, beta2 * exp_avg + (1 - beta2) * g


@rule
def adabelief(theta, g, exp_avg, exp_avg_var, *,
              lr=from_0(1e-3), beta1=below_1(0.9), beta2=below_1(0.999), eps=from_0(1e-16), t):
    """AdaBelief (Zhuang et al., 2020): how far g is from its average; ε is added to s each step, and to its root.

    Departures: the default ε is that of the authors' later code, whose rectification is left out.
    """
    m = beta1 * exp_avg + (1 - beta1) * g
    s = beta2 * exp_avg_var + (1 - beta2) * (g - m) ** 2 + eps
    return theta - lr / (1 - beta1**t) * m / (sqrt(s) / sqrt(1 - beta2**t) + eps), m, s


@rule
def yogi(theta, g, exp_avg, exp_avg_sq=slot(init=1e-6, low=0), *,
         lr=from_0(1e-2), beta1=below_1(0.9), beta2=below_1(0.999), eps=from_0(1e-3)):
    """Yogi (Zaheer et al., 2018): the second moment moves by at most (1−β₂)g²; nothing is bias-corrected.

    Departure: the second moment starts from a small number, not from an average over a mini-batch.
    """
    m = beta1 * exp_avg + (1 - beta1) * g
    v = exp_avg_sq - (1 - beta2) * g**2 * sign(exp_avg_sq - g**2)
    return theta - lr * m / (sqrt(v) + eps), m, v


@rule
def adopt(theta, g, exp_avg, exp_avg_sq, *,
          lr=from_0(1e-3), beta1=below_1(0.9), beta2=below_1(0.9999), eps=hyper(1e-6, above=0),
          weight_decay=from_0(0.0), decouple=choice(False, True), clipped=choice(True, False), t):
    """ADOPT (Taniguchi et al., 2024): g is divided by the root of the v before it, and clipped to ±(t−1)^¼.

    The first step only measures: v₁ = g², and neither θ nor m moves.
    """
    if not decouple:
        g = g + weight_decay * theta
    shrunk = theta * (1 - lr * weight_decay) if decouple else theta
    normed = g / maximum(sqrt(exp_avg_sq), eps)
    if clipped:
        bound = (t - 1) ** 0.25
        normed = clamp(normed, -bound, bound)
    m = where(t == 1, exp_avg, beta1 * exp_avg + (1 - beta1) * normed)
    v = where(t == 1, g**2, beta2 * exp_avg_sq + (1 - beta2) * g**2)
    return where(t == 1, theta, shrunk - lr * m), m, v


def _slower(beta1, beta3, done):
    """Return β on its way from β₁ to β₃: the half-life, ∝ 1/log β, grows linearly."""
    return minimum(exp(1 / ((1 - done) / log(beta1) + done / log(beta3))), beta3)


@rule
def ademamix(theta, g, exp_avg_fast, exp_avg_slow, exp_avg_sq, *,
             lr=from_0(1e-3), beta1=below_1(0.9), beta2=below_1(0.999), beta3=below_1(0.9999), alpha=from_0(2.0),
             beta3_warmup=from_0(0.0), alpha_warmup=from_0(0.0), eps=from_0(1e-8), t):
    """AdEMAMix (Pagliardini, Ablin & Grangier, 2024): AdamW with a second, slow average of g, weighed by α.

    α and β₃ grow to their values in their warm-ups, counted in steps. Weight decay is a transform before the rule.
    """
    weight = where(t < alpha_warmup, t / alpha_warmup * alpha, alpha)
    slow = where(t < beta3_warmup, _slower(beta1, beta3, t / beta3_warmup), beta3)
    m1 = beta1 * exp_avg_fast + (1 - beta1) * g
    m2 = slow * exp_avg_slow + (1 - slow) * g
    v = beta2 * exp_avg_sq + (1 - beta2) * g**2
    return theta - lr * (m1 / (1 - beta1**t) + weight * m2) / (sqrt(v) / sqrt(1 - beta2**t) + eps), m1, m2, v


@rule
def adan(theta, g, exp_avg, exp_avg_diff, exp_avg_sq, neg_pre_grad, *,
         lr=from_0(1e-3), beta1=below_1(0.98), beta2=below_1(0.92), beta3=below_1(0.99), eps=from_0(1e-8),
         weight_decay=from_0(0.0), t):
    """Adan (Xie et al., 2022): Nesterov momentum from differences of gradients; the decay is a proximal step.

    Departures, those of the authors' code: β is the paper's 1−β, and the averages start from zero and are
    bias-corrected. The first difference is zero; `neg_pre_grad` keeps −g.
    """
    difference = where(t == 1, 0, g + neg_pre_grad)
    m = beta1 * exp_avg + (1 - beta1) * g
    v = beta2 * exp_avg_diff + (1 - beta2) * difference
    n = beta3 * exp_avg_sq + (1 - beta3) * (g + beta2 * difference) ** 2
    ahead = m / (1 - beta1**t) + beta2 * v / (1 - beta2**t)
    moved = theta - lr * ahead / (sqrt(n) / sqrt(1 - beta3**t) + eps)
    return moved / (1 + lr * weight_decay), m, v, n, -g


def _ratio(a, b):
    """Return a / b for two norms; 1 if either is zero."""
    return where(a > 0, where(b > 0, a / b, 1), 1)


@rule
def lamb(theta, g, exp_avg, exp_avg_sq, *,
         lr=from_0(1e-3), beta1=below_1(0.9), beta2=below_1(0.999), eps=from_0(1e-6), weight_decay=from_0(1e-2), t):
    """LAMB (You et al., 2020): Adam's direction with its decay, as long as the tensor it moves; φ is the identity."""
    m = beta1 * exp_avg + (1 - beta1) * g
    v = beta2 * exp_avg_sq + (1 - beta2) * g**2
    direction = m / (1 - beta1**t) / (sqrt(v) / sqrt(1 - beta2**t) + eps) + weight_decay * theta
    return theta - lr * _ratio(norm(theta), norm(direction)) * direction, m, v


@rule
def lars(theta, g, momentum_buffer, *,
         lr=from_0(1.0, tune=(1e-2, 1e2)), momentum=from_0(0.9), trust_coefficient=from_0(1e-3),
         weight_decay=from_0(0.0)):
    """LARS (You, Gitman & Ginsburg, 2017): a rate for every tensor; the learning rate stands inside the buffer.

    The local rate is 1 where θ or g is zero, which the paper leaves open.
    """
    size, length = norm(theta), norm(g)
    trusted = trust_coefficient * size / (length + weight_decay * size)
    local = where(size > 0, where(length > 0, trusted, 1), 1)
    b = momentum * momentum_buffer + lr * local * (g + weight_decay * theta)
    return theta - b, b


@rule
def signum(theta, g, momentum_buffer, *, lr=from_0(1e-3, tune=BY_SIGN), momentum=below_1(0.9)):
    """Signum (Bernstein et al., 2018): the sign of the average; without momentum, signSGD."""
    m = momentum * momentum_buffer + (1 - momentum) * g
    return theta - lr * sign(m), m


@rule
def sgld(theta, g, *, lr=from_0(1e-3), temperature=from_0(1.0)):
    """Stochastic gradient Langevin dynamics (Welling & Teh, 2011), in the form η = ε / 2, at any temperature.

    Of a loss that is the negative logarithm of a posterior it draws from that at temperature 1; of its mean over n
    examples, at temperature 1 / n.
    """
    return theta - lr * g + sqrt(2 * lr * temperature) * normal()


@rule
def stable_adamw(theta, g, exp_avg, exp_avg_sq, *,
                 lr=from_0(1e-3), beta1=below_1(0.9), beta2=below_1(0.99), eps=hyper(1e-8, above=0),
                 weight_decay=from_0(1e-2), t):
    """StableAdamW (Wortsman et al., 2023): AdamW whose rate a tensor's surprise divides, decay included.

    The averages need no correction, since β̂ₜ = β (1 − βᵗ⁻¹) / (1 − βᵗ).
    """
    of_m, of_v = beta1 * (1 - beta1 ** (t - 1)) / (1 - beta1**t), beta2 * (1 - beta2 ** (t - 1)) / (1 - beta2**t)
    m = of_m * exp_avg + (1 - of_m) * g
    v = of_v * exp_avg_sq + (1 - of_v) * g**2
    rate = lr / maximum(1, sqrt(mean(g**2 / maximum(v, eps**2))))
    return theta - rate * weight_decay * theta - rate * m / (sqrt(v) + eps), m, v


def _mars(theta, c, exp_avg, exp_avg_sq, lr, beta1, beta2, eps, t):
    """Return AdamW's step of a gradient that is first shortened to 1, and the new averages."""
    c = c / maximum(1, norm(c))
    m = beta1 * exp_avg + (1 - beta1) * c
    v = beta2 * exp_avg_sq + (1 - beta2) * c**2
    return theta - lr / (1 - beta1**t) * m / (sqrt(v) / sqrt(1 - beta2**t) + eps), m, v


@rule
def mars(theta, g, exp_avg, exp_avg_sq, previous, *,
         lr=from_0(3e-3), beta1=below_1(0.95), beta2=below_1(0.99), gamma=from_0(0.025), eps=from_0(1e-8), t):
    """MARS-AdamW (Yuan et al., 2024), approximate: the change of g corrects it, from one batch to the next.

    The corrected gradient of a tensor is at most 1 long. Departure: the first change is zero.
    """
    change = where(t == 1, 0, g - previous)
    c = g + gamma * beta1 / (1 - beta1) * change
    return *_mars(theta, c, exp_avg, exp_avg_sq, lr, beta1, beta2, eps, t), g


@rule(evaluate_at=lambda previous: previous)
def mars_exact(theta, g, exp_avg, exp_avg_sq, previous=slot(init="theta", dtype="float32"), *,
               lr=from_0(3e-3), beta1=below_1(0.95), beta2=below_1(0.99), gamma=from_0(0.025), eps=from_0(1e-8),
               t, g_theta):
    """MARS-AdamW (Yuan et al., 2024), exact: a batch's gradient, corrected by its change since the parameters before.

    A step evaluates its closure at θ and at `previous`, with the same batch; let dropout draw the same, too. The
    corrected gradient of a tensor is at most 1 long.

    >>> import torch, steprule as sr
    >>> model = torch.nn.Linear(2, 1)
    >>> opt = sr.mars_exact.optimizer(model.parameters(), lr=3e-3)
    >>> def closure():
    ...     opt.zero_grad()
    ...     loss = model(torch.ones(3, 2)).square().mean()
    ...     loss.backward()
    ...     return loss
    >>> loss = opt.step(closure)
    """
    c = g_theta + gamma * beta1 / (1 - beta1) * (g_theta - g)
    return *_mars(theta, c, exp_avg, exp_avg_sq, lr, beta1, beta2, eps, t), theta
