"""The facts that the page reads: all that Python says of the language, as one document of JSON.

JavaScript has no second copy of any of it: operations and their spellings, ranks, declarations, messages, forms of
LaTeX, and the rules of the zoo as texts.
"""

from __future__ import annotations

import inspect
from typing import Any

from steprule import __version__
from steprule.backends.javascript import HELPERS, SPELLING
from steprule.backends.javascript_words import chance_functions
from steprule.console.embedding import embedded
from steprule.graph import gauges, show
from steprule.graph.chance import SITES
from steprule.graph.graph import MISSING, OUTSIDE
from steprule.graph.look_ahead import AHEAD, SHIFT, TAKEN, UNSAID
from steprule.graph.node import AXES, SIDES, Rank
from steprule.graph.ops import DRAWN, OPS, Op
from steprule.play.library import Shelved, entries, public
from steprule.rule import Formula, Rule, advice, functions, signature
from steprule.rule.declare import RANKS
from steprule.rule.messages import MESSAGES, PHRASES
from steprule.rule.symbols import LONGEST
from steprule.rule.watching import EXAMPLE, NAME

FILE = "rule.py"
"""What the text is called in messages: the name under which a page saves it."""
ONE_FILE = [
    "{name}, from the playground of steprule {version}",
    "An ES module in float64 that imports nothing. `arrays` holds the parameter, its gradient and what `start` gives:",
    "each is a list of one Float64Array a tensor. `step(arrays, {{ ...defaults, lr: 0.1 }}, t)` updates them in place,",
    "from t = 1 on. Where there is a `point(arrays, hyper, t)`, the gradient is taken there.",
]
"""What a rule's single file of JavaScript says of itself."""
_SIGNS = {
    "add": "+", "sub": "-", "mul": "*", "truediv": "/", "pow": "**", "mod": "%", "matmul": "@", "and": "&", "or": "|",
    "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!=",
}  # fmt: skip
"""Python's signs, by the methods that they call."""


def facts() -> dict[str, Any]:
    """Return the facts, of which everything is text, numbers, lists and objects of JSON."""
    return {
        "version": __version__,
        "file": FILE,
        **_operations(),
        **_ranks(),
        **_printing(),
        **_words(),
        **_declarations(),
        "library": {name: _library(entry) for name, entry in entries().items()},
        "public": public(),
    }


def script() -> str:
    """Return the facts as a script: `steprule.facts`, and `operations` and `draws`, functions of the op table.

    The page puts it before all scripts that read rules. Operations are functions in the text, so that nothing of it is
    made from words while it runs.
    """
    spelled = {
        name: text.replace("{0}", "a").replace("{1}", "b").replace("{2}", "c") for name, text in SPELLING.items()
    }
    rows = [f'  "{name}": (a, b, c) => {text},' for name, text in spelled.items()]
    drawn = chance_functions()
    draws = f"steprule.draws = {{ {', '.join(name for name in drawn if name in {'key_of', 'draw', *DRAWN})} }};"
    data = f"steprule.facts = {embedded(facts())};"
    body = [*HELPERS.values(), *drawn.values(), draws, data, "steprule.operations = {", *rows, "};"]
    return "\n".join(["(function (steprule) {", '"use strict";', *body, "})((globalThis.steprule ??= {}));", ""])


def _operations() -> dict[str, Any]:
    return {
        "helpers": HELPERS,
        "sites": SITES,
        "one_file": ONE_FILE,
        "ops": {name: _row(row) for name, row in OPS.items()},
        "signs": {_SIGNS[row.operator]: name for name, row in OPS.items() if row.operator in _SIGNS},
        "functions": list(advice.FUNCTIONS),
        "signatures": {
            name: [_parameter(one) for one in inspect.signature(getattr(functions, name)).parameters.values()]
            for name in ("clamp", "inverse_root", "orthogonalize")
        },
        "docs": {name: (inspect.getdoc(getattr(functions, name)) or "").split("\n")[0] for name in advice.FUNCTIONS},
    }


def _row(row: Op) -> dict[str, Any]:
    reducer = row.reducer
    own = list(inspect.signature(getattr(functions, row.name)).parameters) if row.doc else []
    return {
        "name": row.name,
        "kind": row.kind,
        "arity": row.arity,
        "operator": row.operator,
        "text": row.text,
        "latex": row.latex,
        "binding": row.binding,
        "truth": row.truth,
        "asks": [row.asks(place) for place in range(row.arity)],
        "sides": row.sides,
        "arguments": [name for name in own if name != "axis"],
        "spelling": SPELLING.get(row.name, ""),
        "reducer": reducer
        and {"init": str(reducer.init), "combine": reducer.combine, "each": reducer.each, "finish": reducer.finish},
        "doc": row.doc,
    }


def _parameter(one: inspect.Parameter) -> dict[str, Any]:
    """Describe an argument; a whole number is a text, since JSON has floats alone."""
    kind = "keyword" if one.kind is one.KEYWORD_ONLY else "any"
    if one.default is one.empty:
        return {"name": one.name, "kind": kind}
    whole = isinstance(one.default, int) and not isinstance(one.default, bool)
    return {"name": one.name, "kind": kind, "value": str(one.default) if whole else one.default}


def _ranks() -> dict[str, Any]:
    ranks = {str(name): rank for name, rank in Rank.__members__.items()}
    return {
        "ranks": {name: rank.value for name, rank in ranks.items()},
        "each": {name: rank.each for name, rank in ranks.items()},
        "sides": {str(rank.name): sides for rank, sides in SIDES.items()},
        "words": {word: str(rank.name) for word, rank in RANKS.items()},
        "axes": {str(axis): str(rank.name) for axis, rank in AXES.items()},
    }


def _printing() -> dict[str, Any]:
    return {
        "greek": show.GREEK,
        "letters": show.LETTERS,
        "board": {name: list(pair) for name, pair in show.BOARD.items()},
        "subscripts": show.SUBSCRIPTS,
        "superscripts": show.SUPERSCRIPTS,
        "cases": show.CASES,
        "longest_line": show.LONGEST,
    }


def _words() -> dict[str, Any]:
    own = {"value missing": MISSING, "value outside": OUTSIDE, "shift": SHIFT, "taken": TAKEN, "unsaid": UNSAID}
    return {
        "messages": {name: list(pair) for name, pair in (MESSAGES | own).items()},
        "phrases": PHRASES,
        "spelled": advice.SPELLED,
        "needless": sorted(advice.NEEDLESS),
        "usage": advice.USAGE,
        "longest": LONGEST,
        "gauges": {
            "names": [*gauges.MEANINGS, gauges.COUNT],
            "stalled": gauges.STALLED,
            "pattern": NAME.pattern.replace(r"[^\W\d]", r"[\p{L}_]").replace(r"\w", r"\p{L}\p{N}_"),
            "example": EXAMPLE,
        },
    }


def _declarations() -> dict[str, Any]:
    return {
        "reserved": sorted(signature.RESERVED),
        "reserved_hypers": sorted(signature.RESERVED_HYPERS),
        "asked": signature.ASKED,
        "ahead": AHEAD,
    }


def _library(entry: Shelved) -> dict[str, Any]:
    """Describe a rule by its text; what else there is to know the page reads from that."""
    kind = "function" if not isinstance(entry.value, Formula) else "transform"
    kind = "rule" if isinstance(entry.value, Rule) else kind
    return {"source": entry.source, "doc": (inspect.getdoc(entry.value) or "").split("\n")[0], "kind": kind}


__all__ = ["FILE", "facts", "script"]
