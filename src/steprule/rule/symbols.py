"""Symbols stand for a rule's arguments while it is traced. Arithmetic on them builds the graph."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn

import numpy as np

from ..errors import Origin
from ..graph.node import Node, Rank, const, drawn, make, product
from ..graph.ops import OPS
from . import advice
from .messages import phrase, told
from .origin import here, refusal

LONGEST = 1000
"""Operations and numbers of a rule: so many compile in about 20 s, and the time grows faster than they do."""


_NOWHERE = Origin("", 0, "")


class Recorder:
    """Remembers the nodes of one trace, and the source line that first wrote each; if `quick`, not the lines."""

    def __init__(self, *, quick: bool = False) -> None:
        self.origins: dict[Node, Origin] = {}
        self.sites = 0
        """How often something was drawn."""
        self.gauges: dict[str, Node] = {}
        """What the current function watches."""
        self._where: Callable[[], Origin | None] = (lambda: _NOWHERE) if quick else here

    def remember(self, node: Node) -> None:
        """Keep the author's current line as this node's origin, unless it has one."""
        if node not in self.origins and (origin := self._where()) is not None:
            if len(self.origins) == LONGEST:
                raise refusal(*told("endless", most=LONGEST), origin)
            self.origins[node] = origin


class Symbol:
    """A value inside a rule: an array, a hyperparameter, or an expression of them."""

    __array_ufunc__ = None  # NumPy scalars on the left hand over to our reflected operators
    __slots__ = ("node", "recorder")

    def __init__(self, node: Node, recorder: Recorder) -> None:
        self.node = node
        self.recorder = recorder

    def __repr__(self) -> str:
        return f"<symbol {self.node!r}>"

    def __hash__(self) -> int:
        raise refusal(*told("hashed"))

    def __pos__(self) -> Symbol:
        return self

    def __bool__(self) -> NoReturn:
        origin = here()
        fix = advice.decision(origin, hyper=str(self.node.attr) if self.node.op == "hyper" else "")
        raise refusal(*told("undecided", fix=fix), origin)

    @classmethod
    def __torch_function__(cls, func: Any, *_: Any, **__: Any) -> NoReturn:
        name = getattr(func, "__name__", "this")
        raise refusal(*told("torch's", name=name, fix=advice.instead(name)))

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise refusal(*told("attribute", name=name, fix=advice.instead(name)))


def _without_value(method: str) -> Callable[..., NoReturn]:
    """Return a method that refuses what needs a value, and says what to write."""

    def refuse(*_: Any, **__: Any) -> NoReturn:
        origin = here()
        raise refusal(*told("no value", fix=advice.without_value(method, origin)), origin)

    return refuse


def _written(op: str, *, reflected: bool = False) -> Callable[..., Symbol]:
    """Return a method that writes an operation; `reflected` is the right operand's."""
    return lambda *operands: apply(op, *(reversed(operands) if reflected else operands))


for _method in (
    *("iter", "len", "getitem", "setitem", "delitem", "contains", "float", "int", "index", "complex", "round", "floor"),
    *("ceil", "trunc", "array", "floordiv", "rfloordiv", "divmod", "rdivmod", "rmatmul"),
    *("xor", "rxor"),
):
    setattr(Symbol, f"__{_method}__", _without_value(_method))
for _op, _row in OPS.items():
    if _row.operator:
        setattr(Symbol, f"__{_row.operator}__", _written(_op))
    if _row.operator and _row.kind in {"pointwise", "logic"} and _row.arity == 2:
        setattr(Symbol, f"__r{_row.operator}__", _written(_op, reflected=True))


def lift(value: Any, recorder: Recorder) -> Node:
    """Return the node of a symbol or a plain number."""
    if isinstance(value, Symbol):
        return value.node
    held = hasattr(value, "__array__") and not isinstance(value, np.generic)  # it may change, and would be read once
    try:
        number = math.nan if held or isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise refusal(*told("no number", shown=reprlib.repr(value), fix=advice.value(value)))
    node = const(number)
    recorder.remember(node)
    return node


_now: ContextVar[Recorder | None] = ContextVar("_now", default=None)


@contextmanager
def reading(recorder: Recorder) -> Generator[None]:
    """Let calls without arguments know, in this block, for which rule they are."""
    before = _now.set(recorder)
    try:
        yield
    finally:
        _now.reset(before)


def draw(op: str) -> Symbol:
    """Build the node of random numbers, other ones at every call."""
    recorder = _now.get()
    if recorder is None:
        raise refusal(*told("drawn outside", op=op))
    node = drawn(op, recorder.sites)
    recorder.sites += 1
    recorder.remember(node)
    return Symbol(node, recorder)


def _check_reduction(op: str, given: Rank, kept: Rank) -> None:
    """Raise `RuleError` for a reduction of what has no more numbers than are kept."""
    if given <= Rank.TENSOR:
        what = phrase("host scalar" if given is Rank.HOST else "one number")
        raise refusal(*told("nothing to reduce", op=op, given=what))
    if not kept < given:
        raise refusal(*told("reduced already", op=op, kept=kept.word, given=given.word))


def size_of(op: str, operand: Symbol) -> Symbol:
    """Build the node of a number of the shape of an array of the rule, which all arrays of a tensor share."""
    if operand.node.rank is not Rank.ELEMENT:
        raise refusal(*told("size of a part", op=op, given=operand.node.rank.word))
    node = make(op)
    operand.recorder.remember(node)
    return Symbol(node, operand.recorder)


def apply(op: str, *operands: Any, attr: Rank | None = None) -> Symbol:
    """Build the node of an operation on symbols and numbers, checking what tracing can check."""
    recorder = next(x.recorder for x in operands if isinstance(x, Symbol))
    nodes = [lift(x, recorder) for x in operands]
    if OPS[op].reducer is not None:
        _check_reduction(op, nodes[0].rank, attr or (Rank.GLOBAL if OPS[op].kind == "global" else Rank.TENSOR))
    for place, node in enumerate(nodes):
        if node.truth is not OPS[op].asks(place):
            raise refusal(*advice.truth(op, wanted=not node.truth))
    node = make(op, *nodes, attr=attr)
    _check_shapes(op, node)
    recorder.remember(node)
    return Symbol(node, recorder)


def _check_shapes(op: str, node: Node) -> None:
    """Refuse matrices that do not fit together, and elements of different shapes beside each other."""
    row = OPS[op]
    if row.kind == "matrix" and product(op, node.inputs) is None:
        sides = row.sides.partition("->")[0].split(",")
        matrices, numbers = node.inputs[: len(sides)], node.inputs[len(sides) :]
        if any(number.rank is not Rank.HOST for number in numbers):
            raise refusal(*told("late numbers", op=op))
        shapes = " and ".join(map(_shape, matrices))
        raise refusal(*told("no product", op=op, told=shapes, fix=advice.fitting(sides)))
    if node.rank not in Rank.__members__.values() or (row.reducer is not None and node.inputs[0].rank.apart):
        shapes = " and ".join(dict.fromkeys(_shape(child) for child in node.inputs if not child.rank <= Rank.TENSOR))
        raise refusal(*told("shapes", op=op, told=shapes, fix=phrase("apart")))


def _shape(node: Node) -> str:
    """Say in words what shape a value has."""
    return phrase("a number") if node.rank <= Rank.TENSOR else phrase("a matrix", sides=advice.sides(node.rank))
