"""JavaScript's words: how each operation is spelled in float64, equal to the interpreter wherever arithmetic is exact.

What has a method in `Math` is spelled with it. Two do not mean in JavaScript what NumPy means, so they are functions of
`HELPERS`: `%` has the sign of the dividend there, and 1 ** NaN and (−1) ** ∞ are NaN. Of two zeros −0 is the smaller.
"""

from __future__ import annotations

import json
import re

SPELLING = {
    "add": "{0} + {1}", "sub": "{0} - {1}", "mul": "{0} * {1}", "div": "{0} / {1}", "pow": "power({0}, {1})",
    "neg": "-{0}", "sqrt": "Math.sqrt({0})", "exp": "Math.exp({0})", "log": "Math.log({0})", "abs": "Math.abs({0})",
    "sign": "Math.sign({0}) + 0", "minimum": "Math.min({0}, {1})", "maximum": "Math.max({0}, {1})",
    "where": "{0} ? {1} : {2}", "floor": "Math.floor({0})", "mod": "modulo({0}, {1})", "tanh": "Math.tanh({0})",
    "atan2": "Math.atan2({0}, {1})",
    "lt": "{0} < {1}", "le": "{0} <= {1}", "gt": "{0} > {1}", "ge": "{0} >= {1}", "eq": "{0} === {1}",
    "ne": "{0} !== {1}", "and": "{0} && {1}", "or": "{0} || {1}", "not": "!{0}",
}  # fmt: skip
"""Every operation of elements and scalars; `{0}` is the first input: a name, a number that is not negative, or in
brackets. The sign of a zero has no sign, hence `+ 0`."""

HELPERS = {
    "power": """\
/** Return a to the power of b, which is 1 for 1 to any power, as IEEE 754 has it, and a · a if b is 2. */
function power(a, b) {
  if (b === 2) {
    return a * a;
  }
  return a === 1 || (a === -1 && Math.abs(b) === Infinity) ? 1 : a ** b;
}
""",
    "modulo": """\
/** Return the remainder of a / b, with the sign of b; a remainder of 0 has no sign. */
function modulo(a, b) {
  const rest = a % b;
  return rest !== 0 && rest < 0 !== b < 0 ? rest + b : rest + 0;
}
""",
}
"""The functions that spellings call, by name."""
PARTS = {
    "Sum": """\
/** A sum beside which the errors of its roundings are added up (Neumaier, 1974): it is off by about one rounding. */
class Sum {
  total = 0;
  rest = 0;

  add(x) {
    const next = this.total + x;
    this.rest += Math.abs(this.total) >= Math.abs(x) ? this.total - next + x : x - next + this.total;
    this.total = next;
  }

  get value() {
    return Number.isFinite(this.rest) ? this.total + this.rest : this.total;
  }
}
""",
    "matrix": """\
/** Return the rows and columns of a tensor: its leading size by all others; a vector has one column. */
function matrix(shape) {
  return [shape.length ? shape[0] : 1, shape.slice(1).reduce((a, b) => a * b, 1)];
}
""",
}
"""The functions that steps call besides, by name: how sums are made, and how a shape is seen."""

_WORDS = """
await break case catch class const continue debugger default delete do else enum eval export extends false finally
for function if implements import in instanceof interface let new null package private protected public return static
super switch this throw true try typeof undefined var void while with yield
Array BigInt Float64Array Infinity Math NaN Number Object arguments globalThis
arrays hyper t seed shapes k i count row column rows columns
step start point solve distance names hypers defaults Sum matrix power modulo key_of draw normal uniform rademacher
"""
RESERVED = frozenset(_WORDS.split())
"""Names that no value of a function may have."""


def number(value: float) -> str:
    """Spell a number as JavaScript does: 1, 0.5, 1e-8."""
    text = re.sub(r"\.0$", "", repr(float(value)))
    return {"inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}.get(text, re.sub(r"e\+?(-?)0*", r"e\1", text))


def key_of(name: str) -> str:
    """Spell a name as the key of an object."""
    return name if name.isascii() else json.dumps(name, ensure_ascii=False)


__all__ = ["HELPERS", "PARTS", "RESERVED", "SPELLING", "key_of", "number"]
