"""The op table: one row an operation, and everything that is true of it on every backend.

A row holds the float64 meaning (NumPy), how the op prints, the range its inputs are drawn from in
tests, and its spelling in torch. Backends add only the spellings that differ from plain Python. The row of a
reduction has a `Reducer` instead, from which its meaning and all that a backend does for it follow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from . import chance, matrices

Kind = Literal["leaf", "chance", "size", "pointwise", "compare", "logic", "matrix", "tensor", "global", "stored"]
"""By `chance` come random numbers, one for every element. A `size` is a number of a whole tensor's shape, whoever has
how much of it. A `compare` says of numbers whether something holds, `logic` makes one answer of such. A `matrix`
function takes tensors as matrices, their leading index by all others, and gives a matrix. What is `stored` is a new
value as its array holds it; only gauges ask it."""
Range = tuple[float, float]

ANY: Range = (-3.0, 3.0)
POSITIVE: Range = (0.05, 3.0)
AWAY: Range = (0.5, 3.0)
"""Positive and away from zero, where division is well conditioned."""


@dataclass(frozen=True, slots=True)
class Reducer:
    """How elements become one number: `each` of them, joined two by two with `combine` from `init` on, then `finish`.

    All three are names of pointwise ops. `each` has the element in every place ("mul" squares it); `combine` is
    commutative and associative, and leaves what is joined with `init` as it is; `finish` takes the total, and, if it
    has two inputs, the number of elements ("div" makes a mean).
    """

    init: float
    combine: str = "add"
    each: str = ""
    finish: str = ""

    @property
    def linear(self) -> bool:
        """Whether a common factor of all elements is one of the result."""
        return self.combine == "add" and not self.each and self.finish in {"", "div"}

    @property
    def length(self) -> bool:
        """Whether it is a Euclidean length, of which a common factor's absolute value is a factor."""
        return (self.combine, self.each, self.finish) == ("add", "mul", "sqrt")

    def joined(self, x: Any, axis: int | None = None) -> Any:
        """Return what all elements of a matrix, or those along an axis, are joined to, in NumPy."""
        each, join = OPS.get(self.each), OPS[self.combine].meaning
        terms = x if each is None else each.meaning(*[x] * each.arity)
        if np.size(x, axis):
            return join.reduce(terms, axis=axis, keepdims=axis is not None)  # type: ignore[attr-defined]
        return np.full(() if axis is None else (np.shape(x)[1 - axis], 1)[:: 1 if axis else -1], self.init)

    def finished(self, total: Any, count: Any) -> Any:
        """Return the float64 result, from what `count` elements were joined to; of many tensors, from arrays."""
        if not self.finish:
            return total
        row = OPS[self.finish]
        return row.meaning(*(total, np.asarray(count, dtype=np.float64)[()])[: row.arity])


@dataclass(frozen=True, slots=True)
class Op:
    """One row: `sample` holds the test range of each input, so it also fixes the arity."""

    name: str
    kind: Kind
    sample: tuple[Range, ...]
    meaning: Callable[..., Any]
    torch: str
    text: str
    latex: str
    binding: int = 9
    """How tightly the printed form binds: −1 or, 0 and, 1 comparison, 2 sum, 3 product, 4 power, 9 no brackets."""
    flops: int = 1
    reducer: Reducer | None = None
    operator: str = ""
    """Python's operator that writes it, as the method between the underscores: `truediv` for /."""
    sides: str = ""
    """Of a function of matrices, as what sides of its first inputs become those of its value: `"ab,bc->ac"`."""
    half: bool = False
    """Whether a function of matrices is computed in bfloat16 where elements are not float64."""
    doc: str = ""
    """What the function of this name does, in one sentence; what authors do not call by name has none."""

    @property
    def arity(self) -> int:
        """Number of inputs."""
        return len(self.sample)

    @property
    def taken(self) -> int:
        """Number of its first inputs that vary over elements or are matrices: what follows are numbers beside them."""
        return self.sides.count(",") + 1 if self.sides else self.arity

    @property
    def truth(self) -> bool:
        """Whether it says that something holds, and is no number."""
        return self.kind in {"compare", "logic"}

    def asks(self, place: int) -> bool:
        """Whether the input at a place must say that something holds, and be no number."""
        return self.kind == "logic" or (self.name == "where" and place == 0)


def _reduced(reducer: Reducer, x: Any, axis: int | None = None) -> Any:
    return reducer.finished(reducer.joined(x, axis), np.size(x, axis))


def reduction(
    name: str, kind: Literal["tensor", "global"], reducer: Reducer, text: str, latex: str, doc: str = ""
) -> Op:
    """Return the row of a reduction over one tensor, or over all tensors of the optimiser.

    How it prints may show that it gives a number for each row: "sum{under}({})", "‖{}‖_{each}".
    """
    each, end = OPS.get(reducer.each), OPS.get(reducer.finish)
    if kind == "global" and end is not None and end.arity == 2:
        raise ValueError(
            f"`{name}` is over all tensors, whose elements nobody counts, so `{end.name}` cannot finish it"
        )
    flops = OPS[reducer.combine].flops + (each.flops if each is not None else 0)
    return Op(name, kind, (ANY,), partial(_reduced, reducer), "", text, latex, flops=flops, reducer=reducer, doc=doc)


def _modulo(a: Any, b: Any) -> Any:
    return np.mod(a, b) + 0.0  # a remainder of 0 has no sign


def _leaf(name: str) -> Op:
    return Op(name, "leaf", (), float, "", "", "", flops=0)


def _size(name: str, meaning: Callable[..., Any], doc: str) -> Op:
    return Op(name, "size", (), meaning, "", name, rf"\mathrm{{{{{name}}}}}", flops=0, doc=doc)


def _drawn(name: str, doc: str) -> Op:
    meaning = vars(chance)[f"{name}_float64"]
    return Op(name, "chance", (), meaning, "", f"{name}{{}}()", rf"\mathrm{{{{{name}}}}}{{}}()", flops=20, doc=doc)


_DRAWN = (
    _drawn("normal", "Return a standard normal number for every element, another one at every step."),
    _drawn("uniform", "Return a number from 0, below 1, for every element, another one at every step."),
    _drawn("rademacher", "Return −1 or 1 for every element, each as often, another one at every step."),
)
DRAWN = tuple(row.name for row in _DRAWN)
"""What a rule may draw: the float64 meaning of each is that of 32 random bits."""
_ROWS = (
    _leaf("const"),
    _leaf("hyper"),
    _leaf("step"),
    _leaf("read"),
    _size("numel", math.prod, "Return the number of elements of a whole tensor."),
    _size("rows", lambda shape: shape[0] if shape else 1,
          "Return the number of rows of a whole tensor: its leading size; a vector's is that of its elements."),
    _size("columns", lambda shape: math.prod(shape[1:]),
          "Return the number of columns of a whole tensor: the elements of a row; 1 for a vector."),
    *_DRAWN,
    Op("add", "pointwise", (ANY, ANY), np.add, "add", "{} + {}", "{} + {}", 2, operator="add"),
    Op("sub", "pointwise", (ANY, ANY), np.subtract, "sub", "{} − {}", "{} - {}", 2, operator="sub"),
    Op("mul", "pointwise", (ANY, ANY), np.multiply, "mul", "{} {}", r"{} \, {}", 3, operator="mul"),
    Op("div", "pointwise", (ANY, AWAY), np.divide, "div", "{} / {}", r"\frac{{{}}}{{{}}}", 3, operator="truediv"),
    Op("pow", "pointwise", (POSITIVE, (-2.0, 3.0)), np.power, "pow", "{}^{}", "{{{}}}^{{{}}}", 4, 20, operator="pow"),
    Op("neg", "pointwise", (ANY,), np.negative, "neg", "−{}", "-{}", 3, operator="neg"),
    Op("sqrt", "pointwise", (POSITIVE,), np.sqrt, "sqrt", "√({})", r"\sqrt{{{}}}", 9,
       doc="Return the square root of every element."),
    Op("exp", "pointwise", (ANY,), np.exp, "exp", "exp({})", r"\exp\left({}\right)", 9, 20,
       doc="Return e to the power of every element."),
    Op("log", "pointwise", (POSITIVE,), np.log, "log", "log({})", r"\log\left({}\right)", 9, 20,
       doc="Return the natural logarithm of every element."),
    Op("abs", "pointwise", (ANY,), np.abs, "abs", "|{}|", r"\left| {} \right|", operator="abs",
       doc="Return the absolute value of every element."),
    Op("sign", "pointwise", (ANY,), np.sign, "sgn", "sign({})", r"\mathrm{{sign}}\left({}\right)",
       doc="Return −1, 0 or 1 for every element; NaN stays NaN."),
    Op("minimum", "pointwise", (ANY, ANY), np.minimum, "minimum", "min({}, {})", r"\min\left({},\, {}\right)",
       doc="Return the smaller of two values, element by element; NaN wins."),
    Op("maximum", "pointwise", (ANY, ANY), np.maximum, "maximum", "max({}, {})", r"\max\left({},\, {}\right)",
       doc="Return the larger of two values, element by element; NaN wins."),
    Op("where", "pointwise", ((0.0, 1.0), ANY, ANY), np.where, "where",
       "({1} if {0}, else {2})", r"\left({1}\ \mathrm{{if}}\ {0},\ \mathrm{{else}}\ {2}\right)",
       doc="Return `a` where the condition holds, else `b`."),
    Op("floor", "pointwise", (ANY,), np.floor, "floor", "⌊{}⌋", r"\left\lfloor {} \right\rfloor",
       doc="Return the greatest whole number that is not above, of every element."),
    Op("mod", "pointwise", (ANY, AWAY), _modulo, "remainder", "mod({}, {})",
       r"\mathrm{{mod}}\left({},\, {}\right)", 9, 20, operator="mod"),
    Op("tanh", "pointwise", (ANY,), np.tanh, "tanh", "tanh({})", r"\tanh\left({}\right)", 9, 20,
       doc="Return the hyperbolic tangent of every element."),
    Op("atan2", "pointwise", (ANY, ANY), np.arctan2, "atan2", "atan2({}, {})",
       r"\mathrm{{atan2}}\left({},\, {}\right)", 9, 20,
       doc="Return the angle of the point (b, a), from −π to π: whose tangent is a / b."),
    Op("lt", "compare", (ANY, ANY), np.less, "lt", "{} < {}", "{} < {}", 1, operator="lt"),
    Op("le", "compare", (ANY, ANY), np.less_equal, "le", "{} ≤ {}", r"{} \leq {}", 1, operator="le"),
    Op("gt", "compare", (ANY, ANY), np.greater, "gt", "{} > {}", "{} > {}", 1, operator="gt"),
    Op("ge", "compare", (ANY, ANY), np.greater_equal, "ge", "{} ≥ {}", r"{} \geq {}", 1, operator="ge"),
    Op("eq", "compare", (ANY, ANY), np.equal, "eq", "{} = {}", "{} = {}", 1, operator="eq"),
    Op("ne", "compare", (ANY, ANY), np.not_equal, "ne", "{} ≠ {}", r"{} \neq {}", 1, operator="ne"),
    Op("and", "logic", (ANY, ANY), np.logical_and, "logical_and", "{} ∧ {}", r"{} \wedge {}", 0, operator="and"),
    Op("or", "logic", (ANY, ANY), np.logical_or, "logical_or", "{} ∨ {}", r"{} \vee {}", -1, operator="or"),
    Op("not", "logic", (ANY,), np.logical_not, "logical_not", "¬({})", r"\neg\left({}\right)", operator="invert"),
    Op("kept", "stored", (ANY,), np.positive, "positive", "{}", "{}", flops=0),
)  # fmt: skip

COEFFICIENTS = (3.4445, -4.775, 2.0315)
"""Those of the polynomial that is iterated: its slope at 0 is steep, and its values near 1 stay between 0.7 and 1.2."""
_ITERATED = ((3.4, 3.5), (-4.8, -4.7), (2.0, 2.1), (1e-8, 1e-6), (1.0, 5.0))
_NS = "orthogonalize({}; {}, {}, {}, {}, {})"
_MATRICES = (
    Op("orthogonalize", "matrix", (ANY, *_ITERATED), matrices.orthogonalize, "", _NS,
       r"\mathrm{{orthogonalize}}\left({};\, {},\, {},\, {},\, {},\, {}\right)", sides="ab->ab", half=True),
    Op("orthogonalize_gram", "matrix", (ANY, *_ITERATED), matrices.orthogonalize, "", _NS,
       r"\mathrm{{orthogonalize}}\left({};\, {},\, {},\, {},\, {},\, {}\right)", sides="ab->ab", half=True),
    Op("matmul", "matrix", (ANY, ANY), matrices.matmul, "", "{} @ {}", r"{} \times {}", 2,
       operator="matmul", sides="ab,bc->ac", doc="Return the product of two matrices, as `a @ b` does."),
    Op("transpose", "matrix", (ANY,), matrices.transpose, "", "{}ᵀ", r"{{{}}}^{{\top}}", 4,
       sides="ab->ba", doc="Return a matrix with its rows as columns."),
    Op("inverse_root", "matrix", (POSITIVE, (1.0, 4.0), (1e-6, 1e-2)), matrices.inverse_root, "",
       "inverse_root({}, {}, {})", r"\left({}\right)^{{-1/{}}}_{{{}}}", sides="aa->aa"),
    Op("eigenvectors", "matrix", (POSITIVE,), matrices.eigenvectors, "", "eigenvectors({})",
       r"\mathrm{{eigenvectors}}\left({}\right)", sides="aa->aa",
       doc="Return a symmetric matrix's eigenvectors as columns, by falling eigenvalue, the largest part positive."),
    Op("qr", "matrix", (ANY,), matrices.qr, "", "qr({})", r"\mathrm{{qr}}\left({}\right)", sides="aa->aa",
       doc="Return the orthonormal Q of a square matrix A = QR, where R is triangular and its diagonal not negative."),
)  # fmt: skip

OPS: dict[str, Op] = {row.name: row for row in (*_ROWS, *_MATRICES)}
"""Every operation, by name."""

_SUM, _NORM = Reducer(0.0), Reducer(0.0, each="mul", finish="sqrt")
_REDUCTIONS = (
    reduction("sum", "tensor", _SUM, "sum{under}({})", r"\mathrm{{sum}}{under}\left({}\right)",
              "Return the sum over the elements of one tensor, or of each of its rows (axis=1) or columns (axis=0)."),
    reduction("mean", "tensor", Reducer(0.0, finish="div"), "mean{under}({})",
              r"\mathrm{{mean}}{under}\left({}\right)",
              "Return the mean over the elements of one tensor, each row (axis=1) or column (axis=0); NaN of none."),
    reduction("max", "tensor", Reducer(-np.inf, "maximum"), "largest{under}({})",
              r"\mathrm{{largest}}{under}\left({}\right)",
              "Return the largest element of one tensor, of each row (axis=1) or column (axis=0); −∞ if it has none."),
    reduction("norm", "tensor", _NORM, "‖{}‖_{each}", r"\left\Vert {} \right\Vert_{{\mathrm{{{each}}}}}",
              "Return the Euclidean length of one tensor, of each row (axis=1) or column (axis=0), added in float64."),
    reduction("global_sum", "global", _SUM, "sum over all({})", r"\mathrm{{sum}}_{{\mathrm{{all}}}}\left({}\right)",
              "Return the sum over all elements of all tensors of the optimiser."),
    reduction("global_norm", "global", _NORM, "‖{}‖", r"\left\Vert {} \right\Vert",
              "Return the Euclidean length over all tensors of the optimiser, accumulated in float64."),
)  # fmt: skip
OPS.update((row.name, row) for row in _REDUCTIONS)
