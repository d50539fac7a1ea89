"""The functions of the language, from the rows of the op table: numbers they compute, of symbols they make the graph.

Type checkers and editors read `functions.pyi`, which `python tests/rule/test_functions.py` writes from them.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable
from inspect import Parameter, Signature
from typing import Any

import numpy as np

from ..errors import RuleError
from ..graph.node import AXES, Rank
from ..graph.ops import COEFFICIENTS, OPS, Op
from .messages import phrase, told
from .origin import refusal
from .symbols import Symbol, apply, draw, size_of

_ARGUMENTS = {0: ("x",), 1: ("x",), 2: ("a", "b"), 3: ("condition", "a", "b")}


def function(row: Op) -> Callable[..., Any]:
    """Return the function that authors call for an operation."""
    own = () if row.kind == "chance" else _ARGUMENTS[row.arity]
    names = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, annotation=Any) for name in own]
    if row.kind == "tensor":
        names.append(Parameter("axis", Parameter.KEYWORD_ONLY, default=None, annotation=Any))
    signature = Signature(names, return_annotation=Any)

    def called(*operands: Any, **named: Any) -> Any:
        try:
            given = signature.bind(*operands, **named)
            return _call(row.name, *given.args, **given.kwargs)
        except TypeError as error:
            if isinstance(error, RuleError):
                raise
            raise TypeError(f"{row.name}() {error}") from None

    called.__name__ = called.__qualname__ = row.name
    called.__doc__ = row.doc
    vars(called)["__signature__"] = signature
    return called


def _call(op: str, *operands: Any, axis: Any = None) -> Any:
    if OPS[op].kind == "chance":
        return draw(op)
    attr = _kept(op, axis)
    if op == "where" and not isinstance(operands[0], Symbol):  # Python knows the answer
        return operands[1 if operands[0] else 2]
    if OPS[op].kind == "size":
        return size_of(op, operands[0]) if isinstance(operands[0], Symbol) else 1.0  # a number is a matrix of one
    if any(isinstance(x, Symbol) for x in operands):
        return apply(op, *operands, attr=attr)
    if OPS[op].kind == "matrix":
        given = ", ".join(map(repr, operands[: OPS[op].taken]))
        raise refusal(*told("of matrices", op=op, given=given))
    try:
        numbers = [np.float64(float(x)) for x in operands]
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise refusal(*told("of symbols", op=op, given=operands, fix=_fitting(op, operands))) from None
    with np.errstate(all="ignore"):
        return float(OPS[op].meaning(*numbers))


def _kept(op: str, axis: Any) -> Rank | None:
    """Return what a reduction along an axis gives a number for each of: rows or columns; None without an axis."""
    if axis is None:
        return None
    if type(axis) is int and axis in AXES:
        return AXES[axis]
    raise refusal(*told("axis", op=op, axis=repr(axis)))


def _fitting(op: str, operands: tuple[Any, ...]) -> str:
    """Say what to call instead on a value that is neither a symbol nor a number."""
    items = list(operands[0]) if isinstance(operands[0], list | tuple) else []
    if any(isinstance(item, Symbol) for item in items):
        return phrase("one array", op=op)
    return phrase("Python's own", op=op) if hasattr(builtins, op) else phrase("inside")


def clamp(x: Any, low: Any, high: Any) -> Any:
    """Move every element into [low, high].

    >>> import steprule as sr
    >>> sr.clamp(2.5, -1.0, 1.0)
    1.0

    Works element by element on arrays and symbols of any rank, and on numbers. Raises `RuleError` for anything else.
    """
    return _call("minimum", _call("maximum", x, low), high)


def orthogonalize(
    x: Any,
    a: Any = COEFFICIENTS[0],
    b: Any = COEFFICIENTS[1],
    c: Any = COEFFICIENTS[2],
    *,
    eps: Any = 1e-7,
    steps: Any = 5,
    gram: bool = False,
) -> Any:
    """Move all singular values of a matrix near 1, between 0.7 and 1.2, by Newton-Schulz iterations.

    >>> import steprule as sr
    >>> @sr.rule
    ... def muon(theta, g, m, *, lr=0.02, beta=0.95):
    ...     m = beta * m + g
    ...     return theta - lr * sr.orthogonalize(m), m

    The matrix, over its length or `eps`, goes `steps` times through aX + (bA + cA²)X, where A = XXᵀ. A vector is one
    column, and keeps its direction. On parameters that are not float64 it is computed in bfloat16, as torch's Muon and
    its author do. `gram` iterates the smaller A alone, which is quicker where one side is long, and less exact (Jordan
    et al., 2024). Raises `RuleError` for a number: it is taken of arrays.
    """
    return _call("orthogonalize_gram" if gram else "orthogonalize", x, a, b, c, eps, steps)


def inverse_root(x: Any, p: Any, *, eps: Any = 1e-6) -> Any:
    """Return the symmetric matrix x to the power of −1/p; eigenvalues below `eps` times the greatest count as that.

    >>> import steprule as sr
    >>> @sr.rule
    ... def half_shampoo(theta, g, left=sr.slot(rank="left"), *, lr=0.1):
    ...     left = left + g @ sr.transpose(g)
    ...     return theta - lr * sr.inverse_root(left, 2) @ g, left

    `x` is made symmetric first. Of zeros the root is large, and finite. Raises `RuleError` for a number.
    """
    return _call("inverse_root", x, p, eps)


_FUNCTIONS = {name: function(row) for name, row in OPS.items() if row.doc}
globals().update(_FUNCTIONS)
__all__ = ["clamp", "inverse_root", "orthogonalize", *_FUNCTIONS]  # noqa: PLE0604  # pyright: ignore[reportUnsupportedDunderAll]
