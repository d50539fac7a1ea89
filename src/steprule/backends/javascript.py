"""JavaScript's words: how each operation is spelled in float64, equal to the interpreter wherever arithmetic is exact.

What has a method in `Math` is spelled with it. Two do not mean in JavaScript what NumPy means, so they are functions of
`HELPERS`: `%` has the sign of the dividend there, and 1 ** NaN and (−1) ** ∞ are NaN. Of two zeros −0 is the smaller.
"""

from __future__ import annotations

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

__all__ = ["HELPERS", "SPELLING"]
