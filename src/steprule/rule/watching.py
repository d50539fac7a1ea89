"""The word `watch`: a rule names an expression, and a step tells its value."""

from __future__ import annotations

import re
from typing import Any

from ..graph.gauges import of_every_rule
from ..graph.node import Rank
from .messages import told
from .origin import refusal
from .symbols import Symbol

NAME = re.compile(r"[^\W\d][\w ./-]{0,59}")
EXAMPLE = 'watch("largest", max(abs(g)))'


def watch(name: str, expression: Any) -> Any:
    """Watch an expression of a rule: `opt.gauges()` tells its value after every step.

    >>> import torch, steprule as sr
    >>> @sr.rule
    ... def sgd(theta, g, *, lr=0.1):
    ...     sr.watch("largest", sr.max(sr.abs(g)))
    ...     return theta - lr * g
    >>> p = torch.nn.Parameter(torch.zeros(3))
    >>> p.grad = torch.tensor([1.0, -4.0, 2.0])
    >>> opt = sgd.optimizer([p])
    >>> opt.step()
    >>> opt.gauges()["largest"]
    4.0

    The expression is one number a tensor, or of all tensors: reduce what has elements, by `norm`, `sum`, `mean` or
    `max`. It costs no pass over memory; one that would need its own is refused when an optimiser is made. Over all
    tensors the gauge is the expression with every reduction taken over all of their elements. The expression is
    returned. `watch=False` of an optimiser leaves it out. Raises `RuleError` at the line of the call.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise refusal(*told("gauge name", name=repr(name), example=EXAMPLE))
    if of_every_rule(name):
        raise refusal(*told("gauge of all", name=repr(name)))
    if not isinstance(expression, Symbol):
        raise refusal(*told("gauge of nothing", given=repr(expression), example=EXAMPLE))
    node, recorder = expression.node, expression.recorder
    if node.truth:
        raise refusal(*told("gauge of truth", name=repr(name)))
    if not node.rank <= Rank.TENSOR:
        raise refusal(*told("gauge of many", name=repr(name), rank=node.rank.word))
    if name in recorder.gauges:
        raise refusal(*told("gauge twice", name=repr(name)))
    recorder.remember(node)
    recorder.gauges[name] = node
    return expression
