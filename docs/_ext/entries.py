"""What Look up says of a public name, all of it read from the code: no fact is typed twice.

`entry_of("steprule.sqrt")` takes the name apart: its signature, the words of its docstring, an example that runs, what
it takes, what it raises, and its source. A rule has hyperparameters with ranges, slots and a formula besides.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import steprule as sr
from steprule import optim
from steprule.graph.node import Rank
from steprule.graph.ops import OPS, Op
from steprule.graph.show import symbol
from steprule.rule import Rule, Transform, functions

PACKAGE = Path(sr.__file__).parent
HIDING = sorted(set(functions.__all__) - set(sr.__all__))
"""The functions of the language that `from steprule import *` leaves out, since Python has its own."""

SHAPES = {
    "pointwise": "Works element by element on arrays and symbols of any rank, and on numbers.",
    "size": "Gives one whole number a tensor, in float64; of a number it is 1.",
    "chance": "Gives one number for every element of the parameter. `seed` of the optimiser decides which.",
    "tensor": "Gives one number a tensor, in float64; with `axis=1` one a row, with `axis=0` one a column. A tensor "
    "counts as a matrix: its leading index by all others.",
    "global": "Gives one number for all tensors that the optimiser steps together, in float64.",
    "matrix": "Takes tensors as matrices, their leading index by all others, and gives a matrix.",
}
"""What a function of the language takes and gives, by the kind of its row in the op table."""

WRITTEN = {
    "numel": "theta - lr * g / sr.numel(g)",
    "rows": "theta - lr * g * sr.sqrt(sr.rows(g) / sr.columns(g))",
    "columns": "theta - lr * g / sr.sqrt(sr.columns(g))",
    "normal": "theta - lr * (g + 0.01 * sr.normal())",
    "uniform": "theta - lr * sr.where(sr.uniform() < 0.5, g, 0)",
    "rademacher": "theta - lr * (g + 0.01 * sr.rademacher())",
    "matmul": "theta - lr * sr.matmul(sr.matmul(g, sr.transpose(g)), g)",
    "transpose": "theta - lr * g @ sr.transpose(g) @ g",
    "eigenvectors": "theta - lr * sr.eigenvectors(g @ sr.transpose(g)) @ g",
    "qr": "theta - lr * sr.qr(g @ sr.transpose(g)) @ g",
    "sum": "theta - lr * g / (1 + sr.sum(sr.abs(g)))",
    "mean": "theta - lr * (g - sr.mean(g, axis=1))",
    "max": "theta - lr * g / (1e-8 + sr.max(sr.abs(g)))",
    "norm": "theta - lr * g / (1e-8 + sr.norm(g))",
    "global_sum": "theta - lr * g / (1 + sr.global_sum(sr.abs(g)))",
    "global_norm": "theta - lr * g / (1e-8 + sr.global_norm(g))",
}
"""What a rule may write with a function that numbers alone do not show."""


@dataclass(frozen=True)
class Entry:
    """A public name, taken apart."""

    name: str
    value: Any
    kind: str
    signature: inspect.Signature | None
    words: str
    example: str = ""
    """One that runs, where the docstring has none of its own."""
    shapes: str = ""
    raises: str = ""
    place: str = ""
    source: str = ""
    hypers: tuple[tuple[str, ...], ...] = ()
    """Of a rule or transform: each one's name, symbol, default and range."""
    slots: tuple[tuple[str, ...], ...] = ()
    """Each one's name, what it is kept as, where it starts, and what it holds."""
    formula: str = ""

    @property
    def sentence(self) -> str:
        """The first sentence."""
        return self.words.split("\n\n", maxsplit=1)[0].replace("\n", " ")


@cache
def public() -> dict[str, list[str]]:
    """Return every public name, by the module under which it is documented."""
    lab, errors = import_module("steprule.lab"), import_module("steprule.errors")
    own = {
        name for name, value in vars(errors).items() if inspect.isclass(value) and value.__module__ == errors.__name__
    }
    once = {"board", "errors", "__version__"}
    return {
        "steprule": [*(name for name in sr.__all__ if name not in once), *HIDING],
        "steprule.optim": [name for name in optim.__all__ if name not in sr.__all__],
        "steprule.board": list(sr.board.__all__),
        "steprule.lab": list(lab.__all__),
        "steprule.errors": sorted(own - {"Origin"}),
    }


def value_of(name: str) -> Any:
    """Return what a dotted name stands for; `steprule.board` is a module that has another name as well."""
    module, _, last = name.rpartition(".")
    return getattr(sr.board if module == "steprule.board" else import_module(module), last)


@cache
def entry_of(name: str) -> Entry:
    """Take a public name apart."""
    value = value_of(name)
    if isinstance(value, Rule | Transform):
        return formula_entry(name, value)
    row = _row(value)
    kind = "class" if inspect.isclass(value) else "function"
    kind = "exception" if kind == "class" and issubclass(value, BaseException) else kind
    words = inspect.getdoc(value) or ""
    place, source = _source(value) if row is None else _row_source(row)
    return Entry(
        name, value, kind, _signature(value), words, place=place, source=source,
        example="" if ">>>" in words or row is None else _example(row),
        shapes=SHAPES[row.kind] if row else "",
        raises="Raises `RuleError` for what is neither a symbol nor a number." if row else "",
    )  # fmt: skip


def _signature(value: Any) -> inspect.Signature | None:
    if inspect.isclass(value) and issubclass(value, BaseException):
        return None
    try:
        return inspect.signature(value)
    except (TypeError, ValueError):
        return None


def _row(value: Any) -> Op | None:
    """Return the row of the op table that a function of the language stands for."""
    own = getattr(value, "__module__", "") == functions.__name__ and getattr(value, "__name__", "")
    return OPS.get(own) if own and OPS.get(own, OPS["add"]).doc else None


def _example(row: Op) -> str:
    """Return a function of the language in use: on numbers if it takes such, else in a rule."""
    if row.kind == "pointwise":
        numbers = {1: (0.25,), 2: (0.5, 2.0), 3: (True, 0.5, 2.0)}[row.arity]
        given = ", ".join(map(str, numbers))
        return f">>> sr.{row.name}({given})\n{value_of(f'steprule.{row.name}')(*numbers)!r}"
    space: dict[str, Any] = {"sr": sr}
    body = WRITTEN[row.name]
    exec(f"made = sr.rule(lambda theta, g, *, lr=0.1: {body})", space)  # noqa: S102 - a row of the table above
    told = sr.explain(space["made"]).formula
    return (f">>> @sr.rule\n... def shown(theta, g, *, lr=0.1):\n...     return {body}\n"
            f">>> print(sr.explain(shown).formula)\n{told}")  # fmt: skip


def _where(function: Any) -> str:
    path = Path(inspect.getsourcefile(function) or "")
    return f"steprule/{path.relative_to(PACKAGE)}"


def _source(value: Any) -> tuple[str, str]:
    lines, first = inspect.getsourcelines(inspect.unwrap(value))
    return f"{_where(value)}, line {max(first, 1)}", "".join(lines)


def _row_source(row: Op) -> tuple[str, str]:
    """Return the lines of the op table that hold a row."""
    path = PACKAGE / "graph/ops.py"
    lines = path.read_text(encoding="utf-8").splitlines()
    start = next(at for at, line in enumerate(lines) if f'("{row.name}"' in line)
    end = next(at for at in range(start, len(lines)) if lines[at].rstrip().endswith("),"))
    return f"steprule/graph/ops.py, line {start + 1}", inspect.cleandoc("\n".join(lines[start : end + 1]))


def formula_entry(name: str, value: Rule | Transform) -> Entry:
    """Take a rule or a transform apart."""
    told = sr.explain(value)
    place, source = _source(value.part.function)
    words = inspect.getdoc(value.part.function) or ""
    short = name.replace("steprule.", "sr.")
    if ">>>" in words:
        example = ""
    elif isinstance(value, Rule):
        values = ", ".join(f"{hyper.name}={hyper.value:g}" for hyper in list(value.hypers.values())[:1]
                           if hyper.value is not None)  # fmt: skip
        example = f">>> opt = {short}.optimizer(torch.nn.Linear(2, 1).parameters(), {values})"
    else:
        values = ", ".join(f"{hyper.name}={hyper.value:g}" for hyper in value.part.own.values()
                           if hyper.value is not None)  # fmt: skip
        example = f">>> rule = sr.chain({short}({values}), sr.board.adam)\n>>> rule.name\n'{value.name}+adam'"
    return Entry(
        name, value, "rule" if isinstance(value, Rule) else "transform", inspect.signature(value), words, example,
        raises="Raises `HyperparameterError` for a value outside its range, before anything is written.",
        place=place, source=source, hypers=(*_hypers(value),), slots=(*_slots(value),), formula=told.latex,
    )  # fmt: skip


def _hypers(value: Rule | Transform) -> Iterable[tuple[str, ...]]:
    for hyper in value.part.own.values():
        default = "none: it must be given" if hyper.value is None else f"{hyper.value:g}"
        search = f"; searched from {hyper.tune[0]:g} to {hyper.tune[1]:g}" if hyper.tune else ""
        yield hyper.name, f"{symbol(hyper.name, latex=True)}", default, hyper.interval() + search


def _slots(value: Rule | Transform) -> Iterable[tuple[str, ...]]:
    kept = {Rank.ELEMENT: "as large as the parameter", Rank.ROW: "a number a row", Rank.COLUMN: "a number a column",
            Rank.TENSOR: "a number a tensor", Rank.GLOBAL: "one number for all tensors", Rank.HOST: "a number a tensor",
            Rank.LEFT: "a matrix of rows by rows", Rank.RIGHT: "a matrix of columns by columns"}  # fmt: skip
    graph = value.graph
    for slot in graph.slots:
        start = f"{slot.init:g}" if isinstance(slot.init, float | int) else {"theta": "θ"}.get(slot.init, slot.init)
        held = "never negative" if slot.low == 0 else "any number"
        yield slot.name, f"{kept.get(slot.rank, slot.rank.name.lower())}", start, held


def size(number: float) -> str:
    """Word bytes a parameter."""
    return f"{number:g}" if math.isclose(number, round(number, 4)) else f"{number:.4g}"
