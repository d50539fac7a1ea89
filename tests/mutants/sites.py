"""Where a file can be broken in a small way, and how: the planted defects of `make mutants`.

A site is a piece of the text and what stands there instead. Text that no test should pin is left alone: docstrings,
annotations, what an error says, `__repr__`, and what only a type checker reads.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_COMPARE = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.Is: "is not", ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in",
}  # fmt: skip
_BINARY = {
    ast.Add: "-", ast.Sub: "+", ast.Mult: "+", ast.Div: "*", ast.FloorDiv: "*", ast.Mod: "+", ast.Pow: "*",
    ast.BitAnd: "|", ast.BitOr: "&", ast.LShift: ">>", ast.RShift: "<<",
}  # fmt: skip
_NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "sorted": "list", "minimum": "maximum",
          "maximum": "minimum", "setdefault": "get", "append": "index", "le": "gt"}  # fmt: skip
_CODE = ((" + ", " - "), (" - ", " + "), (" * ", " + "), (" / ", " * "), (" < ", " <= "), (" <= ", " < "),
         (" > ", " >= "), (" >= ", " > "), (" == ", " != "), (" != ", " == "), (" & ", " | "), (" // ", " * "),
         ("min(", "max("), ("max(", "min("), ("sqrt(", "abs("), ("range(", "range(1, "),
         (" else ", " if True else "), ("float64", "float32"), ("int64", "int32"),
         ("mask=inside", "mask=inside | True"), ("mask=go", "mask=go | True"))  # fmt: skip
"""What is exchanged in text that is code: the text of kernels."""
_NUMBER = re.compile(r"(?<![\w.{])\d+(?:\.\d+)?(?![\w.])")
_NAMED = re.compile(r"[\w.]+ = |#|$")
"""What a line of a kernel begins with that is missed at once: a value, or nothing that is done."""


@dataclass(frozen=True)
class Site:
    """A piece of a file, from one offset to another, and what is put there."""

    line: int
    start: int
    end: int
    text: str
    kind: str

    def apply(self, source: str) -> str:
        """Return the file with the defect in it."""
        return source[: self.start] + self.text + source[self.end :]


class _Finder:
    def __init__(self, source: str, *, writes_code: bool) -> None:
        self._source, self._writes_code = source, writes_code
        self._lines = [0]
        for line in source.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))
        self._encoded = [line.encode() for line in source.splitlines(keepends=True)]

    def _at(self, line: int, column: int) -> int:
        """Return the offset of a place that the parser counts in bytes."""
        return self._lines[line - 1] + len(self._encoded[line - 1][:column].decode())

    def _span(self, node: ast.AST) -> tuple[int, int]:
        where: ast.expr = node  # type: ignore[assignment]
        assert where.end_lineno is not None
        assert where.end_col_offset is not None
        return self._at(where.lineno, where.col_offset), self._at(where.end_lineno, where.end_col_offset)

    def _put(self, node: ast.AST, text: str, kind: str) -> Iterator[Site]:
        start, end = self._span(node)
        if _same(self._source[start:end], node):  # inside f-strings, Python before 3.12 tells other places
            yield Site(node.lineno, start, end, text, kind)  # type: ignore[attr-defined]

    def _between(self, a: ast.AST, b: ast.AST, old: str, new: str, kind: str) -> Iterator[Site]:
        """Exchange an operator that stands between two operands."""
        start, end = self._span(a)[1], self._span(b)[0]
        place = self._source.find(old, start, end)
        if place >= 0:
            yield Site(a.lineno, place, place + len(old), new, kind)  # type: ignore[attr-defined]

    # What is broken, by the kind of node ----------------------------------------------------------

    def compare(self, node: ast.Compare) -> Iterator[Site]:
        left = node.left
        for operator, right in zip(node.ops, node.comparators, strict=True):
            old = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=", ast.Is: "is",
                   ast.IsNot: "is not", ast.In: "in", ast.NotIn: "not in"}[type(operator)]  # fmt: skip
            yield from self._between(left, right, old, _COMPARE[type(operator)], "comparison")
            left = right

    def binary(self, node: ast.BinOp) -> Iterator[Site]:
        old = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Pow: "**",
               ast.BitAnd: "&", ast.BitOr: "|", ast.LShift: "<<", ast.RShift: ">>"}.get(type(node.op))  # fmt: skip
        text = isinstance(node.left, ast.Constant | ast.JoinedStr) and not isinstance(
            getattr(node.left, "value", None), int | float
        )
        if old is not None and not text:
            yield from self._between(node.left, node.right, old, _BINARY[type(node.op)], "arithmetic")

    def boolean(self, node: ast.BoolOp) -> Iterator[Site]:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for a, b in zip(node.values, node.values[1:], strict=False):
            yield from self._between(a, b, old, new, "boolean")

    def unary(self, node: ast.UnaryOp) -> Iterator[Site]:
        if isinstance(node.op, ast.Not):
            yield from self._put(node, f"({ast.unparse(node.operand)})", "negation")

    def constant(self, node: ast.Constant) -> Iterator[Site]:
        value = node.value
        if isinstance(value, bool):
            yield from self._put(node, str(not value), "constant")
        elif isinstance(value, int):
            yield from self._put(node, str(value + 1), "constant")
        elif isinstance(value, float):
            yield from self._put(node, repr(value * 2 if value else 1.0), "constant")
        elif isinstance(value, str) and self._writes_code:
            yield from self._in_text(node)

    def _in_text(self, node: ast.Constant) -> Iterator[Site]:
        start, end = self._span(node)
        for old, new in _CODE:
            place = self._source.find(old, start, end)
            while place >= 0:
                line = self._source.count("\n", 0, place) + 1
                yield Site(line, place, place + len(old), new, "kernel text")
                place = self._source.find(old, place + len(old), end)
        for found in _NUMBER.finditer(self._source[:end], start):
            value = ast.literal_eval(found.group())
            new = str(value + 1) if isinstance(value, int) else repr(value * 2 if value else 1.0)
            yield Site(self._source.count("\n", 0, found.start()) + 1, found.start(), found.end(), new, "kernel text")

    def call(self, node: ast.Call) -> Iterator[Site]:
        """Leave out a line that a kernel would have, if it does something."""
        if self._writes_code and isinstance(node.func, ast.Attribute) and node.func.attr == "line":
            for one in node.args:
                text = one.values[0] if isinstance(one, ast.JoinedStr) and one.values else one
                if isinstance(text, ast.Constant) and not _NAMED.match(str(text.value)):
                    yield from self._put(one, '"pass"', "line of a kernel")

    def opened(self, node: ast.With) -> Iterator[Site]:
        """Do what a block does without what holds during it."""
        for item in node.items:
            if isinstance(item.context_expr, ast.Call) and item.optional_vars is None:
                yield from self._put(item.context_expr, '__import__("contextlib").nullcontext()', "context")

    def condition(self, node: ast.If | ast.IfExp | ast.While) -> Iterator[Site]:
        yield from self._put(node.test, f"not ({ast.unparse(node.test)})", "condition")

    def filtered(self, node: ast.comprehension) -> Iterator[Site]:
        for test in node.ifs:
            yield from self._put(test, "True", "filter")

    def name(self, node: ast.Name | ast.Attribute) -> Iterator[Site]:
        called = node.id if isinstance(node, ast.Name) else node.attr
        if called in _NAMES:
            end = self._span(node)[1]
            yield Site(node.end_lineno or node.lineno, end - len(called), end, _NAMES[called], "name")

    def statement(self, node: ast.stmt) -> Iterator[Site]:
        if isinstance(node, ast.Return) and node.value is not None:
            if not (isinstance(node.value, ast.Constant) and node.value.value is None):
                yield from self._put(node.value, "None", "result")
        elif (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)) or isinstance(
            node, ast.AugAssign | ast.Raise
        ):
            yield from self._put(node, "pass", "statement")
        elif isinstance(node, ast.Assign) and all(isinstance(t, ast.Attribute | ast.Subscript) for t in node.targets):
            yield from self._put(node, "pass", "assignment")


_FINDERS: dict[type[ast.AST], Callable[[_Finder, ast.AST], Iterator[Site]]] = {
    ast.Compare: _Finder.compare, ast.BinOp: _Finder.binary, ast.BoolOp: _Finder.boolean, ast.UnaryOp: _Finder.unary,
    ast.Constant: _Finder.constant, ast.If: _Finder.condition, ast.IfExp: _Finder.condition,
    ast.While: _Finder.condition, ast.comprehension: _Finder.filtered,
    ast.Name: _Finder.name, ast.Attribute: _Finder.name,
    ast.Return: _Finder.statement, ast.Expr: _Finder.statement, ast.AugAssign: _Finder.statement,
    ast.Raise: _Finder.statement, ast.Assign: _Finder.statement, ast.Call: _Finder.call, ast.With: _Finder.opened,
}  # type: ignore[dict-item]  # fmt: skip


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _only_typed(node: ast.AST) -> bool:
    """Whether only a type checker, or a person, reads this."""
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return True
    if isinstance(node, ast.FunctionDef) and node.name in {"__repr__", "__dir__"}:
        return True
    return isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__"


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """List the parts of a node that decide what it does."""
    if isinstance(node, ast.Raise):
        return  # what an error says; that it is raised is a site of its own
    for name, value in ast.iter_fields(node):
        if name in {"annotation", "returns", "decorator_list", "type_params", "bases", "keywords"} and not isinstance(
            node, ast.Call
        ):
            continue
        yield from (child for child in (value if isinstance(value, list) else [value]) if isinstance(child, ast.AST))


def sites(source: str, *, writes_code: bool = False) -> list[Site]:
    """List every defect that can be planted in a file; `writes_code` if its strings are code as well."""
    finder, found = _Finder(source, writes_code=writes_code), list[Site]()

    def visit(node: ast.AST, *, makes: bool = False) -> None:
        if _is_text(node) or _only_typed(node):
            return
        if type(node) in _FINDERS and not (makes and isinstance(node, ast.Assign)):
            found.extend(_FINDERS[type(node)](finder, node))
        for child in _children(node):  # an attribute that a constructor does not make is missed at once
            visit(child, makes=isinstance(node, ast.FunctionDef) and node.name == "__init__")

    visit(ast.parse(source))
    one = {(site.start, site.end, site.text): site for site in found if _parses(site.apply(source))}
    return [one[place] for place in sorted(one)]


def _same(text: str, node: ast.AST) -> bool:
    """Whether a piece of text is what a node was read from."""
    try:
        return ast.unparse(ast.parse(f"({text})" if isinstance(node, ast.expr) else text)) == ast.unparse(node)
    except SyntaxError:
        return False


def _parses(source: str) -> bool:
    try:
        compile(source, "mutant", "exec")
    except SyntaxError:
        return False
    return True
