"""The random numbers of `graph.chance` in JavaScript, translated from their source: formulas are written once.

Words of 32 bits are numbers there, multiplied by `Math.imul` and made unsigned by `>>> 0`; words of 64 bits are
BigInts. A key is made once a step, and taken apart into two words: elements need no BigInt.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Literal, cast

from ..graph import chance
from .javascript import HELPERS, PARTS, number

Kind = Literal["word", "wide", "halves", "number", "truth"]
"""What a value is: 32 bits, 64 bits, 64 bits as a pair of `high` and `low`, a number, or whether something holds."""
_TAKES: Mapping[str, tuple[Kind, ...]] = {
    "_mixed": ("wide",), "parameter_seed": ("wide", "wide"), "key": ("wide", "wide", "wide"),
    "draw": ("word", "word", "halves"), "uniform_float32": ("word",), "rademacher_float32": ("word",),
    "_centred": ("word",), "_middle": ("number",), "_tail": ("number",), "_quantile": ("number",),
    "normal_float32": ("word",),
}  # fmt: skip
"""The functions that are translated, inner ones first, with the kinds of their arguments."""
_GIVES: dict[str, Kind] = {"_mixed": "wide", "parameter_seed": "wide", "key": "wide", "draw": "word"}
_CALLED = {"uniform_float32": "uniform", "rademacher_float32": "rademacher", "normal_float32": "normal"}
"""What float32 has no need to round: with float64's own operations they are the formulas of float64."""
_SIGNS = {"Add": "+", "Sub": "-", "Mult": "*", "BitXor": "^", "BitAnd": "&", "BitOr": "|", "LShift": "<<",
          "RShift": ">>", "Lt": "<", "Gt": ">"}  # fmt: skip
_HEX = 1 << 16
"""From where on words are spelled by their bits."""
_KEY_OF = """\
/** Return the key of a step's draws for a call in the rule, in two words. */
function key_of(seed, parameter, t, site) {
  const own = key(parameter_seed(BigInt(seed), BigInt(parameter)), BigInt(t), BigInt(site));
  return { high: Number(own >> 32n), low: Number(own & 0xffffffffn) };
}
"""


def spelled_name(name: str) -> str:
    """Return the name that a function of `graph.chance` has in JavaScript."""
    return _CALLED.get(name, name)


class _Translator:
    """Translates one function, a statement after another."""

    def __init__(self, function: Any, kinds: tuple[Kind, ...]) -> None:
        self.tree = cast("ast.FunctionDef", ast.parse(inspect.getsource(function)).body[0])
        self.arguments = [argument.arg for argument in self.tree.args.args]
        self.kinds: dict[str, Kind] = dict(zip(self.arguments, kinds, strict=True))

    def text(self) -> str:
        """Return the function in JavaScript."""
        words = (ast.get_docstring(self.tree) or "").split("\n\n")[0]
        told = [f"/** {words} */"] if words else []
        lines = [*told, f"function {spelled_name(self.tree.name)}({', '.join(self.arguments)}) {{", *self._body(), "}"]
        return "\n".join(lines) + "\n"

    def _body(self) -> Iterator[str]:
        for statement in self.tree.body:
            if isinstance(statement, ast.Return) and statement.value is not None:
                yield f"  return {self._plain(statement.value)[0]};"
            elif isinstance(statement, ast.Assign) and isinstance(target := statement.targets[0], ast.Name):
                text, kind = self._plain(statement.value)
                known = target.id in self.kinds
                yield f"  {'' if known else 'let '}{target.id} = {text};"
                self.kinds[target.id] = kind

    def _plain(self, node: ast.expr) -> tuple[str, Kind]:
        """Return an expression without the brackets around it."""
        text, kind = self._of(node)
        return (text[1:-1] if isinstance(node, ast.BinOp) and text.startswith("(") else text), kind

    def _of(self, node: ast.expr) -> tuple[str, Kind]:
        if isinstance(node, ast.Name):
            return (node.id, self.kinds[node.id]) if node.id in self.kinds else self._constant(vars(chance)[node.id])
        if isinstance(node, ast.Constant):
            return self._constant(node.value)
        if isinstance(node, ast.Compare):
            (one, _), (other, _) = self._of(node.left), self._of(node.comparators[0])
            return f"{one} {_SIGNS[type(node.ops[0]).__name__]} {other}", "truth"
        if isinstance(node, ast.Call):
            return self._call(node)
        if isinstance(node, ast.UnaryOp):
            return f"-{self._of(node.operand)[0]}", "number"
        return self._binary(cast("ast.BinOp", node))

    def _constant(self, value: Any) -> tuple[str, Kind]:
        if isinstance(value, float):
            return number(value), "number"
        return hex(value) if value >= _HEX else str(value), "word"

    def _binary(self, node: ast.BinOp) -> tuple[str, Kind]:
        sign = _SIGNS[type(node.op).__name__]
        (one, kind), (other, beside) = self._of(node.left), self._of(node.right)
        if isinstance(node.op, ast.RShift) and kind == "halves":
            return f"{one}.high", "word"
        wide = "wide" in (kind, beside)
        if wide:
            one, other = (f"{x}n" if x[0].isdecimal() else x for x in (one, other))
            text = f"({one} {sign} {other})"
            return (text if sign in ">>^&|" else f"BigInt.asUintN(64, {text[1:-1]})"), "wide"
        if "number" in (kind, beside):
            return f"({one} {sign} {other})", "number"
        text = {"*": f"Math.imul({self._plain(node.left)[0]}, {other})", ">>": f"({one} >>> {other})"}.get(
            sign, f"({one} {sign} {other})"
        )
        return text if sign == ">>" else f"({text} >>> 0)", "word"

    def _call(self, node: ast.Call) -> tuple[str, Kind]:
        name, given = cast("ast.Name", node.func).id, [self._plain(argument) for argument in node.args]
        (one, kind), *rest = given
        if name == "word" and kind == "halves":
            return f"{one}.low", "word"
        if name in {"word", "wide", "double"}:
            return self._of(node.args[0])[0], kind
        if name == "real":
            return f"({one} | 0)", "number"
        if name == "where":
            return f"({one} ? {rest[0][0]} : {rest[1][0]})", rest[0][1]
        if name == "ratio":
            return f"({self._of(node.args[0])[0]} / {self._of(node.args[1])[0]})", "number"
        called = {"root": "Math.sqrt", "logarithm": "Math.log"}.get(name, spelled_name(name))
        return f"{called}({', '.join(text for text, _ in given)})", _GIVES.get(name, "number")


@cache
def chance_functions() -> dict[str, str]:
    """Return the functions that draw, by name: `key_of`, `draw`, `normal`, `uniform`, `rademacher` and their parts."""
    found = {spelled_name(name): _Translator(vars(chance)[name], kinds).text() for name, kinds in _TAKES.items()}
    return {**found, "key_of": _KEY_OF}


def called(text: str) -> list[str]:
    """Return the functions that a text calls, and those that these call, in an order that is always the same."""
    known, found, words = HELPERS | PARTS | chance_functions(), set[str](), set(re.findall(r"\w+", text))
    while fresh := (words & known.keys()) - found:
        found |= fresh
        words = {word for name in fresh for word in re.findall(r"\w+", known[name])}
    return [text for name, text in known.items() if name in found]


__all__ = ["called", "chance_functions", "spelled_name"]
