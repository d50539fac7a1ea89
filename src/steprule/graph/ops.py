"""The op table: one row an operation, and everything that is true of it on every backend.

A row holds the float64 meaning (NumPy), how the op prints, the range its inputs are drawn from in
tests, and its spelling in torch. Backends add only the spellings that differ from plain Python.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Kind = Literal["leaf", "pointwise", "compare", "tensor", "global"]
Range = tuple[float, float]

ANY: Range = (-3.0, 3.0)
POSITIVE: Range = (0.05, 3.0)
AWAY: Range = (0.5, 3.0)
"""Positive and away from zero, where division is well conditioned."""


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
    """How tightly the printed form binds: 1 comparison, 2 sum, 3 product, 4 power, 9 never needs brackets."""
    flops: int = 1

    @property
    def arity(self) -> int:
        """Number of inputs."""
        return len(self.sample)


def _mean(x: Any) -> Any:
    return np.sum(x) / np.float64(np.size(x))


def _largest(x: Any) -> Any:
    return np.max(x) if np.size(x) else np.float64(-np.inf)


def _norm(x: Any) -> Any:
    return np.sqrt(np.sum(x * x))


def _leaf(name: str) -> Op:
    return Op(name, "leaf", (), float, "", "", "", flops=0)


_ROWS = (
    _leaf("const"),
    _leaf("hyper"),
    _leaf("step"),
    _leaf("read"),
    Op("add", "pointwise", (ANY, ANY), np.add, "add", "{} + {}", "{} + {}", 2),
    Op("sub", "pointwise", (ANY, ANY), np.subtract, "sub", "{} − {}", "{} - {}", 2),
    Op("mul", "pointwise", (ANY, ANY), np.multiply, "mul", "{} {}", r"{} \, {}", 3),
    Op("div", "pointwise", (ANY, AWAY), np.divide, "div", "{} / {}", r"\frac{{{}}}{{{}}}", 3),
    Op("pow", "pointwise", (POSITIVE, (-2.0, 3.0)), np.power, "pow", "{}^{}", "{{{}}}^{{{}}}", 4, 20),
    Op("neg", "pointwise", (ANY,), np.negative, "neg", "−{}", "-{}", 3),
    Op("sqrt", "pointwise", (POSITIVE,), np.sqrt, "sqrt", "√({})", r"\sqrt{{{}}}", 9),
    Op("exp", "pointwise", (ANY,), np.exp, "exp", "exp({})", r"\exp\left({}\right)", 9, 20),
    Op("log", "pointwise", (POSITIVE,), np.log, "log", "log({})", r"\log\left({}\right)", 9, 20),
    Op("abs", "pointwise", (ANY,), np.abs, "abs", "|{}|", r"\left| {} \right|"),
    Op("sign", "pointwise", (ANY,), np.sign, "sgn", "sign({})", r"\mathrm{{sign}}\left({}\right)"),
    # What a value is once it lies in the parameter's memory; float64 and the kernels' own types lose nothing.
    Op("stored", "pointwise", (ANY,), np.positive, "positive", "stored({})",
       r"\mathrm{{stored}}\left({}\right)", flops=0),
    Op("minimum", "pointwise", (ANY, ANY), np.minimum, "minimum", "min({}, {})", r"\min\left({},\, {}\right)"),
    Op("maximum", "pointwise", (ANY, ANY), np.maximum, "maximum", "max({}, {})", r"\max\left({},\, {}\right)"),
    Op("where", "pointwise", ((0.0, 1.0), ANY, ANY), np.where, "where",
       "({1} if {0}, else {2})", r"\left({1}\ \mathrm{{if}}\ {0},\ \mathrm{{else}}\ {2}\right)"),
    Op("lt", "compare", (ANY, ANY), np.less, "lt", "{} < {}", "{} < {}", 1),
    Op("le", "compare", (ANY, ANY), np.less_equal, "le", "{} ≤ {}", r"{} \leq {}", 1),
    Op("gt", "compare", (ANY, ANY), np.greater, "gt", "{} > {}", "{} > {}", 1),
    Op("ge", "compare", (ANY, ANY), np.greater_equal, "ge", "{} ≥ {}", r"{} \geq {}", 1),
    Op("eq", "compare", (ANY, ANY), np.equal, "eq", "{} = {}", "{} = {}", 1),
    Op("ne", "compare", (ANY, ANY), np.not_equal, "ne", "{} ≠ {}", r"{} \neq {}", 1),
    Op("sum", "tensor", (ANY,), np.sum, "sum", "sum({})", r"\mathrm{{sum}}\left({}\right)"),
    Op("mean", "tensor", (ANY,), _mean, "mean", "mean({})", r"\mathrm{{mean}}\left({}\right)"),
    Op("max", "tensor", (ANY,), _largest, "max", "largest({})", r"\mathrm{{largest}}\left({}\right)"),
    Op("norm", "tensor", (ANY,), _norm, "norm", "‖{}‖_tensor", r"\left\Vert {} \right\Vert_{{\mathrm{{tensor}}}}",
       flops=2),
    Op("global_sum", "global", (ANY,), np.sum, "sum", "sum over all({})",
       r"\mathrm{{sum}}_{{\mathrm{{all}}}}\left({}\right)"),
    Op("global_norm", "global", (ANY,), _norm, "norm", "‖{}‖", r"\left\Vert {} \right\Vert", flops=2),
)  # fmt: skip

OPS: dict[str, Op] = {row.name: row for row in _ROWS}
"""Every operation, by name."""

REDUCTIONS = frozenset(name for name, row in OPS.items() if row.kind in {"tensor", "global"})
