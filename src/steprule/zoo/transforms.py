"""Transforms in their usual forms: clipping, weight decay, and what is done to the update of any rule."""

from ..rule import (
    Transform,
    abs,
    choice,
    clamp,
    global_norm,
    hyper,
    maximum,
    mean,
    minimum,
    norm,
    slot,
    transform,
    where,
)
from .common import below_1, from_0, to_1

__all__ = ["adagc", "cautious", "cautious_weight_decay", "clip_global_norm", "clip_last_global_norm", "clip_norm",
           "clip_value", "ema", "lookahead", "sam", "weight_decay"]  # fmt: skip

_LEAST = 1e-30
_TINY = 1e-6  # torch.nn.utils.clip_grad_norm_ adds this to the norm, and so do we


@transform
def clip_global_norm(theta, g, *, max_norm=from_0(1.0)):
    """Shorten the whole gradient to at most `max_norm` (Pascanu, Mikolov & Bengio, 2013).

    >>> import steprule as sr
    >>> print(sr.explain(sr.chain(sr.clip_global_norm(max_norm=1.0), sr.board.gd)).formula)
    g* = g min(1, S_g / (‖g‖ + 1e-6))
    θₜ = θₜ₋₁ − η g*

    `clip=1.0` of any optimiser puts it in front. Like torch's it scales by max_norm / (‖g‖ + 1e-6).
    """
    return g * minimum(1, max_norm / (global_norm(g) + _TINY))


@transform
def clip_norm(theta, g, *, max_norm=from_0(1.0)):
    """Shorten each tensor's gradient to at most `max_norm`.

    >>> import steprule as sr
    >>> sr.explain(sr.chain(sr.clip_norm(max_norm=1.0), sr.board.gd)).passes[0]["reductions"]
    ['‖g‖_tensor']
    """
    return g * minimum(1, max_norm / (norm(g) + _TINY))


@transform
def clip_last_global_norm(theta, g, last_norm=slot(rank="tensor", low=0), *, max_norm=from_0(1.0)):
    """Shorten the gradient by the whole one's length in the step before, or a tensor's own if that is greater.

    A tensor's own length is never more than the whole one's. So a first step clips each tensor by itself, as
    `clip_norm` does, and so does a sudden large gradient. Every tensor keeps the last length as `last_norm`.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.SGD(torch.nn.Linear(2, 1).parameters(), lr=0.1, clip=sr.clip_last_global_norm(max_norm=1.0))
    """
    length = maximum(last_norm, norm(g))
    return g * minimum(1, max_norm / (length + _TINY)), global_norm(g)


@transform
def clip_value(theta, g, *, limit=from_0(1.0)):
    """Move every component of the gradient into [−limit, limit].

    >>> import torch, steprule as sr
    >>> opt = sr.optim.SGD(torch.nn.Linear(2, 1).parameters(), lr=0.1, clip=sr.clip_value(limit=0.5))
    """
    return clamp(g, -limit, limit)


@transform
def adagc(theta, g, usual=slot(rank="tensor"), *,
          ratio=from_0(1.05), beta=below_1(0.98), max_norm=from_0(1.0), start=from_0(100), t):
    """AdaGC (Wang et al., 2025): shorten each tensor's gradient to `ratio` times its usual length.

    In the first `start` steps the whole gradient is clipped to `max_norm`; the least length of a tensor is its usual.

    >>> import torch, steprule as sr
    >>> opt = sr.optim.AdamW(torch.nn.Linear(2, 1).parameters(), lr=1e-3, clip=sr.adagc(ratio=1.05))
    """
    early = t <= start
    whole, own = max_norm / (global_norm(g) + _TINY), ratio * usual / (norm(g) + _LEAST)
    clipped = g * minimum(1, where(early, whole, own))
    length = norm(clipped)
    first = where(t == 1, length, minimum(usual, length))
    return clipped, where(early, first, beta * usual + (1 - beta) * length)


@transform
def coupled_weight_decay(theta, g, *, weight_decay=from_0(1e-2)):
    """L2 penalty: λθ is added to the gradient (Krogh & Hertz, 1991)."""
    return g + weight_decay * theta


@transform(moves="parameter")
def decoupled_weight_decay(theta, g, *, lr=hyper(shared=True), weight_decay=from_0(1e-2)):
    """Shrink the parameter by ηλ before the step (Loshchilov & Hutter, 2019)."""
    return theta * (1 - lr * weight_decay)


def weight_decay(weight_decay: float = 1e-2, *, decoupled: bool = True) -> Transform:
    """Return weight decay as a transform: decoupled as in AdamW, or coupled (an L2 penalty).

    >>> import steprule as sr
    >>> adamw = sr.chain(sr.weight_decay(0.1), sr.board.adam(lr=1e-3))
    >>> adamw.name
    'decoupled_weight_decay+adam'

    Decoupled decay uses the rule's own `lr`. Coupled decay acts where it stands in the chain: after
    a clipping it is not clipped. Raises `HyperparameterError` for a number below 0.
    """
    return (decoupled_weight_decay if decoupled else coupled_weight_decay)(weight_decay=weight_decay)


@transform
def maximize(theta, g):
    """Climb instead of descending."""
    return -g


@transform
def unscale(theta, g, *, inverse_scale=hyper(1.0)):
    """Undo the loss scale of mixed precision."""
    return inverse_scale * g


@transform(moves="update")
def cautious(theta, g, new):
    """Leave out of an update what goes against the gradient, and lengthen the rest (Liang et al., 2024).

    >>> import steprule as sr
    >>> sr.cautious(sr.board.adam(lr=1e-3)).name
    'adam+cautious'

    A decoupled weight decay before the rule is no part of its update; `cautious_weight_decay` behind the rule is what
    such a decay is, left out where it goes against the update.
    """
    goes = where((new - theta) * g < 0, 1, 0)
    return theta + (new - theta) * goes / maximum(mean(goes), 1e-3)


@transform(moves="update")
def cautious_weight_decay(theta, g, new, *, lr=hyper(shared=True), weight_decay=from_0(1e-2)):
    """Shrink by ηλ those parameters that their update does not move away from zero (Chen et al., 2025).

    >>> import steprule as sr
    >>> sr.chain(sr.board.adam(lr=1e-3), sr.cautious_weight_decay(weight_decay=0.1)).name
    'adam+cautious_weight_decay'
    """
    return new - lr * weight_decay * where((theta - new) * theta >= 0, theta, 0)


@transform(moves="update")
def lookahead(theta, g, new, slow=slot(init="theta"), *, every=hyper(5, low=1), alpha=to_1(0.5), t):
    """Move slow weights towards the fast ones at every k-th step, and start from them again (Zhang et al., 2019).

    >>> import steprule as sr
    >>> sr.lookahead(sr.board.adam(lr=1e-3), every=6).name
    'adam+lookahead'
    """
    due = t % every == 0
    slow = where(due, slow + alpha * (new - slow), slow)
    return where(due, slow, new), slow


@transform(moves="update")
def ema(theta, g, new, average=slot(init="theta"), *, decay=to_1(0.999)):
    """Keep an exponential average of the parameters in a slot `average`, which changes no step.

    >>> import steprule as sr
    >>> sr.ema(sr.board.adam(lr=1e-3), decay=0.9999).name
    'adam+ema'
    """
    return new, decay * average + (1 - decay) * new


def _climbed(theta, g_theta, *, rho, adaptive):
    climb = abs(theta) * g_theta if adaptive else g_theta
    way = rho * climb / (global_norm(climb) + _LEAST)
    return theta + (abs(theta) * way if adaptive else way)


@transform(evaluate_at=_climbed)
def sam(theta, g, *, rho=from_0(0.05), adaptive=choice(False, True)):
    """Take the gradient of any rule where the loss is higher, at ρ along the gradient (SAM; Foret et al., 2021).

    >>> import torch, steprule as sr
    >>> model = torch.nn.Linear(2, 1)
    >>> opt = sr.Optimizer(model.parameters(), sr.sam(sr.board.momentum, rho=0.05), lr=0.1)
    >>> def closure():
    ...     opt.zero_grad()
    ...     loss = model(torch.ones(4, 2)).square().mean()
    ...     loss.backward()
    ...     return loss
    >>> loss = opt.step(closure)

    `step(closure)` evaluates twice, and returns the first loss, that at θ; θ comes back bit for bit. `rho` is the
    length of the way, of all tensors together; at least 0. `adaptive=True` measures it in units of |θ|, element by
    element (ASAM; Kwon et al., 2021), where `rho` is about ten times greater. Clipping, weight decay and all else act
    on the second gradient. Batch normalisation counts both evaluations in its running statistics. Parameters of 16 bits
    reach only such points as 16 bits hold.
    """
    return g
