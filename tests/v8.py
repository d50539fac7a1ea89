"""JavaScript that the tests run in V8, in this process: one context for all, in which numbers pass without a loss."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest

from roundings import bounds
from steprule.graph.graph import Graph
from steprule.graph.show import formula

NUMBERS = """
const inward = (x) => Array.isArray(x) ? x.map(inward) : Number(x);
const outward = (x) => typeof x === "number" || x === undefined
  ? (Object.is(x, -0) ? "-0" : String(x)) : Array.from(x, outward);
const lists = (arrays) => Object.fromEntries(
  Object.entries(arrays).map(([name, own]) => [name, own.map((x) => Float64Array.from(inward(x)))]));
"""


@cache
def v8() -> Any:
    """Return the context; skip the test where V8 is not installed."""
    context = pytest.importorskip("py_mini_racer").MiniRacer()
    context.eval(NUMBERS)
    return context


def value(expression: str, evaluate: Callable[[str], str] | None = None) -> Any:
    """Return what JavaScript's expression is, here or where `evaluate` asks: numbers, or lists of them."""
    return _numbers(json.loads((evaluate or v8().eval)(f"JSON.stringify(outward({expression}))")))


def _numbers(x: Any) -> Any:
    return [_numbers(y) for y in x] if isinstance(x, list) else float(x.replace("Infinity", "inf"))


def spelled(numbers: Any) -> str:
    """Spell an array so that `inward` reads it again."""
    text = json.dumps([repr(x) for x in np.ravel(np.asarray(numbers, float)).tolist()])
    return text.replace("inf", "Infinity").replace("nan", "NaN")


def classic(text: str) -> str:
    """Return a module without its export: a script."""
    return re.sub(r"^export \{.*\};$", "", text, flags=re.MULTILINE)


def stepped(
    text: str, arrays: Mapping[str, Sequence[Any]], hyper: Mapping[str, float], t: int, *, call: str = "step",
    shapes: Sequence[Sequence[int]] | None = None,
) -> dict[str, list[np.ndarray]]:  # fmt: skip
    """Run a function of a text on arrays, each a list, and return all of them afterwards, flat.

    What it returns is the parameter, if it is not `step`.
    """
    given = ", ".join(f"{json.dumps(name)}: [{', '.join(spelled(x) for x in own)}]"
                      for name, own in arrays.items())  # fmt: skip
    more = "" if shapes is None else f", {{ shapes: {json.dumps([list(shape) for shape in shapes])} }}"
    numbers = json.dumps(dict(hyper))
    done = "return Object.values(arrays)" if call == "step" else "return [result]"
    found = value(f"(() => {{ {classic(text)}\nconst arrays = lists({{{given}}});\n"
                  f"const result = {call}(arrays, {numbers}, {t}{more}); {done}; }})()")  # fmt: skip
    names = list(arrays) if call == "step" else ["point"]
    return {name: [np.array(x, float) for x in own] for name, own in zip(names, found, strict=True)}


def agrees(
    text: str,
    graph: Graph,
    arrays: Sequence[Mapping[str, Any]],
    hyper: Mapping[str, float],
    t: int,
    *,
    shaped: bool,
    tell: Callable[[Any, Any], None] = lambda result, bound: None,
) -> list[dict[str, Any]]:
    """Hold a step in V8 to the interpreter, within what roundings may do; return the arrays after it.

    Each result is told with its bound.
    """
    shapes, ranks = [np.shape(item[graph.parameter]) for item in arrays], graph.ranks
    ones = {slot.name for slot in graph.global_slots}
    given = {name: [item[name] for item in (arrays[:1] if name in ones else arrays)] for name in ranks}
    found = stepped(text, given, hyper, t, shapes=shapes if shaped else None)
    after = [dict(item) for item in arrays]
    for name, own in bounds(graph, arrays, [{**hyper, "t": float(t)} for _ in arrays]).items():
        for index, (truth, bound) in enumerate(own):
            result = found[name][0 if name in ones else index]
            view = ranks[name].view(shapes[index])
            wanted, allowed = (np.broadcast_to(x, view).ravel() for x in (truth, bound))
            with np.errstate(all="ignore"):
                same = (result == wanted) | (np.isnan(result) & np.isnan(wanted))
                off = ~same & ~(np.abs(result - wanted) <= allowed) & ~np.isinf(allowed)
            tell(result, allowed)
            told = f"tensor {index}, {name}: {result[off]} for {wanted[off]} ± {allowed[off]}"
            assert not off.any(), f"{told}\n{formula(graph)}"
            after[index][name] = result.reshape(ranks[name].shape(shapes[index]))
    return after


__all__ = ["NUMBERS", "agrees", "classic", "spelled", "stepped", "v8", "value"]
