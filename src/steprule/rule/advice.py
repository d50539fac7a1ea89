"""Advice: what to write instead of what a formula cannot say, found by the author's own words on that line."""

from __future__ import annotations

import ast
import difflib
from typing import Any

from ..errors import Origin
from ..graph.node import Rank
from ..graph.ops import OPS

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
        return f"leave .{name} out: a formula has no devices, types or copies"
    if plain in SPELLED:
        return f"write {SPELLED[plain]}"
    if plain in FUNCTIONS:
        return f"write {_usage(plain)}, the language's own (from steprule import {plain})"
    meant = "".join(f"did you mean {name}? " for name in difflib.get_close_matches(plain, FUNCTIONS, 1))
    return f"{meant}the functions are {LISTED} (from steprule import ...)"


def decision(origin: Origin | None, *, hyper: str = "") -> str:
    """Say what to write where Python was to decide on a symbol."""
    found, name = _expression(origin), called(origin)
    found = found.test if isinstance(found, ast.IfExp) else found
    if name in {"min", "max"}:
        other, sign = ("minimum", "<") if name == "min" else ("maximum", ">")
        return f"write {other}(a, b), which chooses for every element, as where(a {sign} b, a, b) does"
    if isinstance(found, ast.BoolOp):
        return f"write where({'(a < b) & (c < d)' if isinstance(found.op, ast.And) else '(a < b) | (c < d)'}, x, y)"
    if isinstance(found, ast.UnaryOp):
        return "write where(~(a < b), x, y)"
    if isinstance(found, ast.Compare) and isinstance(found.ops[0], ast.In | ast.NotIn):
        return "compare with one after another: where(x == a, y, where(x == b, y, z))"
    if isinstance(found, ast.Compare) and len(found.ops) > 1:
        return "write where((a < b) & (b < c), x, y)"
    if hyper:
        return (
            f"a variant that is fixed when the rule is read is declared as {hyper}=choice(False, True); "
            f"a number that may change at every step is asked by where({hyper} > 0, a, b)"
        )
    if isinstance(found, ast.Compare):
        return f"write where({words(origin)}, a, b), which chooses for every element"
    return "write where(condition, a, b), which chooses for every element; see also minimum, maximum, clamp"


BITS = "write (a < b) & (c < d), (a < b) | (c < d) or ~(a < b); of a and b, one is (a | b) & ~(a & b)"
FIXED = (
    "Python runs a loop when it reads the rule, so its length is fixed then: declare steps=choice(5, 10), "
    "or write a number"
)
WHOLES = "write floor(x / y), and x % y for what is left"
WHOLE = (
    "a formula says what happens to any one element, and takes no tensor apart; "
    "sum, mean, max and norm reduce a whole tensor, with axis=1 each row, with axis=0 each column"
)
_OPERATORS = {
    **dict.fromkeys(("floordiv", "rfloordiv", "divmod", "rdivmod"), WHOLES),
    "rmatmul": "a @ b is the product of two matrices of the rule; of a number and a matrix it is a * b",
    **dict.fromkeys(("xor", "rxor"), BITS),
    "len": "the number of elements is numel(x), that of rows is rows(x)",
}


def without_value(method: str, origin: Origin | None) -> str:
    """Say what to write where Python's method of that name would need a value, a length or an index."""
    name = called(origin)
    if method in _OPERATORS:
        return _OPERATORS[method]
    if name == "range" or (method == "index" and not name):
        return FIXED
    if method in {"round", "floor", "ceil", "trunc"}:
        return instead(method)
    if name in {"int", "float", "complex"}:
        return f"leave {name}(...) out: a formula has no types"
    if method == "iter" and name in {"sum", "max"}:
        return f"that is Python's own {name}; write sr.{name}(x), after import steprule as sr"
    if name in FUNCTIONS or name in SPELLED:
        return instead(name)
    return WHOLE if method in {"iter", "getitem", "setitem", "delitem", "contains"} else instead(name)


def truth(op: str, *, wanted: bool) -> tuple[str, str]:
    """Say what is wrong where a number stands for a comparison that is wanted, or a comparison for a number."""
    if op == "where" and wanted:
        return "`where` needs a comparison first", "write where(a < b, x, y): where(a < b, 1, 0) is a number"
    if wanted:
        sign = {"and": "&", "or": "|", "not": "~"}[op]
        return f"`{sign}` takes comparisons, and this is a number", (
            "give each its brackets, since & | ~ bind more tightly: where((a < b) & (c < d), x, y)"
        )
    return f"`{op}` cannot take a comparison as a number", "write where(a < b, x, y): where(a < b, 1, 0) is a number"


def misused(name: str, error: str) -> str:
    """Say how a function of the language is called."""
    if name == "norm" and ("'p'" in error or "'ord'" in error):
        return "norm is Euclidean; sum(abs(x)) is the 1-norm, max(abs(x)) the largest element"
    if name in {"sum", "max"} and "positional" in error and "keyword" not in error and "missing" not in error:
        return f"write {'maximum(a, b)' if name == 'max' else 'a + b'} for two values; {name}(x) reduces one tensor"
    if name in OPS and OPS[name].reducer is not None:
        along = (
            f"; {name}(x, axis=1) is one a row, {name}(x, axis=0) one a column" if OPS[name].kind == "tensor" else ""
        )
        return f"write {name}(x) alone, which is one number for a whole tensor{along}"
    return f"write {_usage(name)}"


def _usage(name: str) -> str:
    """Spell how a function of the language is called."""
    return USAGE.get(name) or (f"{name}()" if OPS[name].kind == "chance" else f"{name}(x)")


APART = "multiply it by other matrices, or reduce what has the parameter's shape, e.g. norm(g)"


def sides(rank: Rank) -> str:
    """Say what shape the values of a rank have, beside a parameter of rows by columns."""
    known = {1: "one", 2: "rows", 3: "columns"}
    rows, columns = rank.view((2, 3))
    return f"{known[rows]} by {known[columns]}"


def fitting(sides: list[str]) -> str:
    """Say which matrices a function takes, by the names of their sides."""
    if len(sides) == 2:
        return "the columns of the first must be the rows of the second: a @ transpose(b), or transpose(a) @ b"
    square = sides == ["aa"]
    return "give a square one, e.g. g @ transpose(g)" if square else "give an array of the rule, e.g. the gradient"


def value(given: Any) -> str:
    """Say what to write instead of a value that is not a number."""
    if isinstance(given, str | bytes):
        return 'a number has no quotes; a variant with a name is declared as mode=choice("fast", "slow")'
    if hasattr(given, "__array__"):
        return "a value that may change is a hyperparameter, read at every step; if it never changes, write float(x)"
    if isinstance(given, float | int):
        return "write a finite number, such as 1e30"
    if callable(given):
        return "call it, on symbols or numbers"
    return "a formula holds the rule's own arguments and finite numbers"
