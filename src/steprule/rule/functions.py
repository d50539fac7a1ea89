"""The functions of the language; on plain numbers they compute, on symbols they build the graph."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import RuleError
from ..graph.ops import OPS
from .origin import here
from .symbols import Symbol, apply


def _call(op: str, *operands: Any) -> Any:
    if any(isinstance(x, Symbol) for x in operands):
        return apply(op, *operands)
    try:
        numbers = [np.float64(float(x)) for x in operands]
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise RuleError(
            f"`{op}` takes symbols and numbers, not {operands!r}",
            where=here(),
            fix=_fitting(op, operands),
        ) from None
    with np.errstate(all="ignore"):
        return float(OPS[op].meaning(*numbers))


def _fitting(op: str, operands: tuple[Any, ...]) -> str:
    """Say what to call instead on what is neither a symbol nor a number."""
    items = list(operands[0]) if isinstance(operands[0], list | tuple) else []
    if any(isinstance(item, Symbol) for item in items):
        return f"give one array: {op}(x)"
    if op in {"abs", "max", "sum"}:
        return f"for Python's own {op}, import steprule as sr, which leaves it as it is, or builtins"
    return "call it inside a @rule or @transform, on the rule's arguments"


def sqrt(x: Any) -> Any:
    """Square root of every element."""
    return _call("sqrt", x)


def exp(x: Any) -> Any:
    """E to the power of every element."""
    return _call("exp", x)


def log(x: Any) -> Any:
    """Natural logarithm of every element."""
    return _call("log", x)


def abs(x: Any) -> Any:  # noqa: A001
    """Absolute value of every element."""
    return _call("abs", x)


def sign(x: Any) -> Any:
    """−1, 0 or 1 for every element; NaN stays NaN."""
    return _call("sign", x)


def minimum(a: Any, b: Any) -> Any:
    """The smaller of two values, element by element; NaN wins."""
    return _call("minimum", a, b)


def maximum(a: Any, b: Any) -> Any:
    """The larger of two values, element by element; NaN wins."""
    return _call("maximum", a, b)


def clamp(x: Any, low: Any, high: Any) -> Any:
    """Every element moved into [low, high]."""
    return minimum(maximum(x, low), high)


def where(condition: Any, a: Any, b: Any) -> Any:
    """`a` where the condition holds, else `b`."""
    return apply("where", condition, a, b) if isinstance(condition, Symbol) else (a if condition else b)


def sum(x: Any) -> Any:  # noqa: A001
    """Sum over the elements of one tensor."""
    return _call("sum", x)


def mean(x: Any) -> Any:
    """Mean over the elements of one tensor; NaN if it has none."""
    return _call("mean", x)


def max(x: Any) -> Any:  # noqa: A001
    """Largest element of one tensor; −∞ if it has none."""
    return _call("max", x)


def norm(x: Any) -> Any:
    """Euclidean length of one tensor, accumulated in float64."""
    return _call("norm", x)


def global_norm(x: Any) -> Any:
    """Euclidean length over all tensors of the optimiser, accumulated in float64."""
    return _call("global_norm", x)


def global_sum(x: Any) -> Any:
    """Sum over all elements of all tensors of the optimiser."""
    return _call("global_sum", x)
