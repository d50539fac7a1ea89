"""Symbol: what a rule's arguments are while it is traced. Arithmetic on symbols builds the graph."""

from __future__ import annotations

import math
from typing import Any, NoReturn

from ..errors import Origin, RuleError
from ..graph.node import Node, Rank, const, make
from ..graph.ops import OPS, REDUCTIONS
from .origin import here

LONGEST = 1000
"""Operations and numbers of a rule: so many compile in about 20 s, and the time grows faster than they do."""

USE_WHERE = "write where(condition, a, b), which chooses for every element; see also minimum, maximum, clamp"


class Recorder:
    """Remembers the source line that first wrote each node of one trace."""

    def __init__(self) -> None:
        self.origins: dict[Node, Origin] = {}

    def remember(self, node: Node) -> None:
        """Keep the author's current line as this node's origin, unless it has one."""
        if node not in self.origins and (origin := here()) is not None:
            if len(self.origins) == LONGEST:
                raise RuleError(
                    f"a rule has room for {LONGEST} operations, and this one goes on",
                    where=origin,
                    fix="a Python loop is written out in full: make it shorter, or spread it over steps with a slot",
                )
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

    __hash__ = object.__hash__

    def __add__(self, other: Any) -> Symbol:
        return apply("add", self, other)

    def __radd__(self, other: Any) -> Symbol:
        return apply("add", other, self)

    def __sub__(self, other: Any) -> Symbol:
        return apply("sub", self, other)

    def __rsub__(self, other: Any) -> Symbol:
        return apply("sub", other, self)

    def __mul__(self, other: Any) -> Symbol:
        return apply("mul", self, other)

    def __rmul__(self, other: Any) -> Symbol:
        return apply("mul", other, self)

    def __truediv__(self, other: Any) -> Symbol:
        return apply("div", self, other)

    def __rtruediv__(self, other: Any) -> Symbol:
        return apply("div", other, self)

    def __pow__(self, other: Any) -> Symbol:
        return apply("pow", self, other)

    def __rpow__(self, other: Any) -> Symbol:
        return apply("pow", other, self)

    def __neg__(self) -> Symbol:
        return apply("neg", self)

    def __pos__(self) -> Symbol:
        return self

    def __abs__(self) -> Symbol:
        return apply("abs", self)

    def __lt__(self, other: Any) -> Symbol:
        return apply("lt", self, other)

    def __le__(self, other: Any) -> Symbol:
        return apply("le", self, other)

    def __gt__(self, other: Any) -> Symbol:
        return apply("gt", self, other)

    def __ge__(self, other: Any) -> Symbol:
        return apply("ge", self, other)

    def __eq__(self, other: object) -> Symbol:  # type: ignore[override]
        return apply("eq", self, other)

    def __ne__(self, other: object) -> Symbol:  # type: ignore[override]
        return apply("ne", self, other)

    def __bool__(self) -> NoReturn:
        raise RuleError(
            "Python cannot decide `if`, `and`, `or`, `not`, min() or max() on a symbol: it has no value yet",
            where=here() or "",
            fix=USE_WHERE,
        )

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise RuleError(
            "a symbol has no value or length yet, so this function or operator does not know it",
            where=here() or "",
            fix=f"use the language's own: + - * / ** and {functions()} (from steprule import ...)",
        )

    __iter__ = __len__ = __getitem__ = __float__ = __int__ = __index__ = __complex__ = __round__ = _refuse  # type: ignore[assignment]
    __floor__ = __ceil__ = __trunc__ = __array__ = __mod__ = __rmod__ = __floordiv__ = __rfloordiv__ = _refuse
    __matmul__ = __rmatmul__ = __and__ = __rand__ = __or__ = __ror__ = __xor__ = __invert__ = __contains__ = _refuse  # type: ignore[assignment]

    @classmethod
    def __torch_function__(cls, func: Any, *_: Any, **__: Any) -> NoReturn:
        name = getattr(func, "__name__", "this")
        raise RuleError(
            f"torch's `{name}` does not know symbols: a rule is a formula, not a computation on tensors",
            where=here() or "",
            fix=f"use the language's own: {functions()} (from steprule import ...)",
        )

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        hint = f"write {name}(x)" if name in OPS else f"the functions are {functions()}"
        raise RuleError(f"a symbol has no `.{name}`", where=here() or "", fix=hint)


def functions() -> str:
    """List the names of the language's functions."""
    spelled = [name for name in OPS if OPS[name].kind != "leaf" and OPS[name].binding == 9]
    return ", ".join([*spelled, "clamp"])


def lift(value: Any, recorder: Recorder) -> Node:
    """Return the node of a symbol or a plain number."""
    if isinstance(value, Symbol):
        return value.node
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError):
        number = math.nan
    if isinstance(value, str | bytes) or not math.isfinite(number):
        raise RuleError(
            f"{value!r} cannot stand in a formula",
            where=here() or "",
            fix="a formula holds the rule's own arguments and finite numbers",
        )
    node = const(number)
    recorder.remember(node)
    return node


def apply(op: str, *operands: Any) -> Symbol:
    """Build the node of an operation on symbols and numbers, checking what tracing can check."""
    recorder = next(x.recorder for x in operands if isinstance(x, Symbol))
    nodes = [lift(x, recorder) for x in operands]
    if op in REDUCTIONS and nodes[0].rank is not Rank.ELEMENT:
        what = "a host scalar" if nodes[0].rank is Rank.HOST else "already one number"
        raise RuleError(
            f"`{op}` reduces over elements, but its argument is {what}: there is nothing to reduce",
            where=here() or "",
            fix="reduce an array of the rule (the parameter, the gradient, a slot), or drop the reduction",
        )
    for place, node in enumerate(nodes):
        wanted = op == "where" and place == 0
        if (OPS[node.op].kind == "compare") is not wanted:
            raise RuleError(
                "`where` needs a comparison first" if wanted else f"`{op}` cannot take a comparison as a number",
                where=here() or "",
                fix="write where(a < b, x, y)",
            )
    node = make(op, *nodes)
    recorder.remember(node)
    return Symbol(node, recorder)
