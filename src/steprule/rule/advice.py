"""Advice: what to write instead of what a formula cannot say, found by the author's own words on that line."""

from __future__ import annotations

import ast
import difflib
from typing import Any

from ..errors import Origin
from ..graph.node import Rank
from ..graph.ops import OPS
from .messages import phrase, told

FUNCTIONS = (*(name for name, row in OPS.items() if row.doc), "clamp", "inverse_root", "orthogonalize")
"""The functions of the language."""
LISTED = ", ".join(FUNCTIONS)

_SPELLED = {
    "x + y": "add",
    "x - y": "sub subtract",
    "x * y": "mul multiply",
    "x / y": "div divide true_divide",
    "x ** y": "pow power float_power",
    "-x": "neg negative",
    "x ** 2": "square",
    "1 / x": "reciprocal",
    "1 / sqrt(x)": "rsqrt",
    "abs(x)": "absolute fabs",
    "sign(x)": "sgn",
    "clamp(x, low, high)": "clip clamp_min clamp_max",
    "maximum(x, y)": "fmax",
    "minimum(x, y)": "fmin",
    "maximum(x, 0)": "relu",
    "max(x)": "amax",
    "-max(-x)": "min amin",
    "x + weight * (y - x)": "lerp",
    "x + value * a * b": "addcmul",
    "x + value * a / b": "addcdiv",
    "1 / (1 + exp(-x))": "sigmoid",
    "-floor(-x)": "ceil",
    "floor(x + 0.5)": "round",
    "sign(x) * floor(abs(x))": "trunc fix",
    "x % y": "mod fmod remainder",
    "floor(x / y)": "floor_divide",
    "atan2(x, y)": "arctan2",
    "atan2(x, 1)": "atan arctan",
    "log(x) / log(2)": "log2",
    "log(1 + x)": "log1p",
    "exp(x) - 1": "expm1",
    "sum(x * y)": "dot vdot inner",
    "mean((x - mean(x)) ** 2)": "var",
    "sqrt(mean((x - mean(x)) ** 2))": "std",
    "0 * x": "zeros_like",
    "0 * x + 1": "ones_like",
    "numel(x)": "nelement size",
    "rows(x)": "shape",
    "normal()": "randn randn_like standard_normal gauss normalvariate",
    "uniform()": "rand rand_like random random_sample",
    "where(uniform() < p, 1, 0)": "bernoulli",
    "transpose(x)": "T mT t swapaxes permute",
    "a @ b": "mm bmm",
    "eigenvectors(x)": "eigh eig",
}
SPELLED = {name: text for text, names in _SPELLED.items() for name in names.split() if name not in FUNCTIONS}
NEEDLESS = {"item", "detach", "clone", "copy", "float", "double", "half", "to", "cpu", "numpy", "data", "contiguous"}
USAGE = {
    "where": "where(condition, a, b)",
    "clamp": "clamp(x, low, high); of one bound, maximum(x, low) or minimum(x, high)",
    "minimum": "minimum(a, b)",
    "atan2": "atan2(a, b)",
    "maximum": "maximum(a, b)",
    "matmul": "matmul(a, b), or a @ b",
    "inverse_root": "inverse_root(x, p); eps= is the least eigenvalue, as a part of the greatest",
    "orthogonalize": "orthogonalize(x); its coefficients, eps=, steps= and gram= may follow",
}


def words(origin: Origin | None) -> str:
    """Return the author's words that an origin points at."""
    return origin.text[origin.start : origin.end].strip() if origin is not None else ""


def _expression(origin: Origin | None) -> ast.expr | None:
    try:
        return ast.parse(words(origin), mode="eval").body
    except (SyntaxError, ValueError):
        return None


def called(origin: Origin | None) -> str:
    """Return the name of the function that a line calls, without its module; "" if it calls none."""
    found = _expression(origin)
    if not isinstance(found, ast.Call):
        return ""
    return found.func.attr if isinstance(found.func, ast.Attribute) else getattr(found.func, "id", "")


def instead(name: str) -> str:
    """Say what stands for a function or method of NumPy, torch or math."""
    plain = name.rstrip("_")
    if plain in NEEDLESS:
        return phrase("needless", name=name)
    if plain in SPELLED:
        return phrase("spelled", text=SPELLED[plain])
    if plain in FUNCTIONS:
        return phrase("own", usage=_usage(plain), name=plain)
    meant = "".join(phrase("meant", name=name) for name in difflib.get_close_matches(plain, FUNCTIONS, 1))
    return phrase("listed", meant=meant, listed=LISTED)


def decision(origin: Origin | None, *, hyper: str = "") -> str:
    """Say what to write where Python was to decide on a symbol."""
    found, name = _expression(origin), called(origin)
    found = found.test if isinstance(found, ast.IfExp) else found
    if name in {"min", "max"}:
        other, sign = ("minimum", "<") if name == "min" else ("maximum", ">")
        return phrase("least", name=other, sign=sign)
    if isinstance(found, ast.BoolOp):
        return phrase("and" if isinstance(found.op, ast.And) else "or")
    if isinstance(found, ast.UnaryOp):
        return phrase("not")
    if isinstance(found, ast.Compare) and isinstance(found.ops[0], ast.In | ast.NotIn):
        return phrase("in")
    if isinstance(found, ast.Compare) and len(found.ops) > 1:
        return phrase("in a row")
    if hyper:
        return phrase("variant", name=hyper)
    if isinstance(found, ast.Compare):
        return phrase("chosen", words=words(origin))
    return phrase("any decision")


OPERATORS = {
    **dict.fromkeys(("floordiv", "rfloordiv", "divmod", "rdivmod"), "floordiv"),
    "rmatmul": "rmatmul",
    **dict.fromkeys(("xor", "rxor"), "xor"),
    "len": "len",
}
"""What is said instead of Python's operators that symbols have not."""


def without_value(method: str, origin: Origin | None) -> str:
    """Say what to write where Python's method of that name would need a value, a length or an index."""
    name = called(origin)
    if method in OPERATORS:
        return phrase(OPERATORS[method])
    if name == "range" or (method == "index" and not name):
        return phrase("fixed")
    if method in {"round", "floor", "ceil", "trunc"}:
        return instead(method)
    if name in {"int", "float", "complex"}:
        return phrase("typeless", name=name)
    if method == "iter" and name in {"sum", "max"}:
        return phrase("builtin", name=name)
    if name in FUNCTIONS or name in SPELLED:
        return instead(name)
    return phrase("whole") if method in {"iter", "getitem", "setitem", "delitem", "contains"} else instead(name)


def truth(op: str, *, wanted: bool) -> tuple[str, str]:
    """Say what is wrong where a number stands for a comparison that is wanted, or a comparison for a number."""
    if op == "where" and wanted:
        return told("truth wanted first")
    if wanted:
        return told("truth wanted", sign={"and": "&", "or": "|", "not": "~"}[op])
    return told("number wanted", op=op)


def misused(name: str, error: str) -> str:
    """Say how a function of the language is called."""
    if name == "norm" and ("'p'" in error or "'ord'" in error):
        return phrase("norms")
    if name in {"sum", "max"} and "positional" in error and "keyword" not in error and "missing" not in error:
        return phrase("two values", instead="maximum(a, b)" if name == "max" else "a + b", name=name)
    if name in OPS and OPS[name].reducer is not None:
        return phrase("alone", name=name, along=phrase("along", name=name) if OPS[name].kind == "tensor" else "")
    return phrase("spelled", text=_usage(name))


def _usage(name: str) -> str:
    """Spell how a function of the language is called."""
    return USAGE.get(name) or (f"{name}()" if OPS[name].kind == "chance" else f"{name}(x)")


def sides(rank: Rank) -> str:
    """Say what shape the values of a rank have, beside a parameter of rows by columns."""
    known = {1: "one", 2: "rows", 3: "columns"}
    rows, columns = rank.view((2, 3))
    return phrase("sides", rows=known[rows], columns=known[columns])


def fitting(sides: list[str]) -> str:
    """Say which matrices a function takes, by the names of their sides."""
    if len(sides) == 2:
        return phrase("fitting")
    return phrase("square" if sides == ["aa"] else "array")


def value(given: Any) -> str:
    """Say what to write instead of a value that is not a number."""
    if isinstance(given, str | bytes):
        return phrase("quotes")
    if hasattr(given, "__array__"):
        return phrase("held")
    if isinstance(given, float | int):
        return phrase("finite")
    return phrase("call it" if callable(given) else "own arguments")
