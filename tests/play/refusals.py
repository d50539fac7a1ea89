"""Every text with which the language's own tests ask for an error, and the better ones beside them, as files."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "rule"
FILES = (
    "test_language_errors.py", "test_advice.py", "test_declaration_errors.py", "test_composition.py", "test_drawing.py",
    "test_watch.py", "test_hostile_rules.py", "test_wide_slots.py",
    "test_impure_rules.py",
)  # fmt: skip
HEADER = """import builtins
import math
import numpy as np
import torch
import steprule as sr
from steprule import board, chain, choice, hyper, maximum, mean, minimum, norm, normal, rule, slot, sqrt, transform
from steprule import watch, where

"""
HELD = "HELD = torch.tensor(0.5)\n\n"
CALLS = """
hyper(-1, low=0)
hyper(0.5, low=0, high=1, tune=(0.1, 2))
hyper(3, low=1, tune=(0, 9))
hyper(0.5, tune=0.1)
hyper(low=2, high=1)
hyper(low=0, above=0, below=1.5)
hyper("0.1")
hyper(1.0, low=None, high="x")
slot(rank="line")
slot(init="theta", rank="tensor")
slot(init="zeros")
slot(init="theta", rank="left")
slot(init=float("nan"))
slot(low=1)
slot(init=-1, low=0)
slot(dtype="int8")
choice()
chain()
chain(board.sgd, sr.clip_value)
chain(sr.clip_norm, sr.clip_value)
chain(sr.clip_value, board.sgd, board.adam)
chain(sr.ema, board.sgd)
chain(board.nesterov, sr.sam)
chain(sr.sam, sr.clip_value, board.nesterov)
chain(sr.clip_value, 1.0)
chain("adam", board.sgd)
chain(sr.clip_value, board.sgd)(limits=1.0)
chain(sr.clip_value, board.sgd)(limit=-1)
board.nesterov(betta=0.9)
board.nesterov(look_ahead="far")
board.nesterov(tolerance=0.1)
board.nesterov(look_ahead="implicit", max_eval=0)
board.sgd(lr=-0.5)
board.sgd(lr=None)
board.sgd(lr="0.1")
board.sgd(lr=[0.1])
board.sgd(lr=10**400)
board.sgd(lr=float("inf"))
board.adam(1e-3, 0.9)
board.nesterov("board")
board.sgd(None)
sr.clip_global_norm(1.0)
sr.clip_value(0.5)
rule(5)
rule("adam")
transform(board.adam)
transform(moves="gradients")(lambda theta, g: g)
rule(evaluate_at=5)(lambda theta, g: theta - g)
rule(evaluate_at="theta")(lambda theta, g: theta - g)
sr.sqrt("x")
sr.max([1, 2, 3])
sr.norm(None)
normal()
sr.matmul(1, 2)
sr.mean(1, axis=2)
watch("x", 3)
""".strip().splitlines()
"""Declarations and programs outside of rules."""
RULES = {
    "a slot a row of elements": "slot(rank='row')|return theta, g",
    "a slot a column of rows": "slot(rank='column')|return theta, mean(g, axis=1)",
    "a slot of all of a tensor": "slot(rank='global')|return theta, norm(g)",
    "a slot on the host": "slot(rank='host')|return theta, g * 2",
    "a left slot of elements": "slot(rank='left')|return theta, g",
    "an element slot of a product": "slot()|return theta, g @ sr.transpose(g)",
    "a product that is not kept": "slot()|return theta, sr.transpose(g)",
    "a new parameter of a product": "slot()|return g @ sr.transpose(g), k",
    "late numbers of a matrix": "slot()|return theta, sr.inverse_root(g @ sr.transpose(g), norm(g))",
    "a root of what is not square": "slot()|return theta, sr.inverse_root(g, 2)",
    "matrices beside elements": "slot()|return theta, g + g @ sr.transpose(g)",
    "the greatest of matrices": "slot()|return theta, sr.max(g @ sr.transpose(g))",
    "a matrix of numbers": "slot()|return theta, sr.matmul(1.5, 'a')",
    "a comparison of comparisons": "slot()|return theta, where((g < 1) < 2, 1, 0)",
    "a comparison that is returned": "slot()|return theta, g < 1",
    "a list of symbols": "slot()|return theta, [g, k]",
    "a set of symbols": "slot()|x = {g}\n    return theta, g",
    "a key": "slot()|x = {g: 1}\n    return theta, g",
    "too many to unpack": "slot()|a, b, c = 1, 2\n    return theta, g",
    "a symbol to unpack": "slot()|a, b = g\n    return theta, g",
    "a loop over a symbol": "slot()|for x in g:\n        pass\n    return theta, g",
    "a loop as long as a symbol": "slot()|for x in range(k):\n        pass\n    return theta, g",
    "a while": "slot()|while g > 0:\n        g = g - 1\n    return theta, g",
    "an elif": "slot()|if 1 > 2:\n        pass\n    elif g < k:\n        pass\n    return theta, g",
    "an if of several": "slot()|if g < k and 1 < 2:\n        pass\n    return theta, g",
    "an if of the step": "slot()|x = 1 if t == 1 else 2\n    return theta, g",
    "a text of a symbol": "slot()|return theta, g + 'a' + 'b'",
    "a function as a number": "slot()|return theta, g * sqrt",
    "an argument too many": "slot()|return theta, sqrt(g, 2)",
    "an argument twice": "slot()|return theta, sqrt(g, x=2)",
    "an argument too few": "slot()|return theta, maximum(g)",
    "two clamps": "slot()|return theta, sr.clamp(g, low=1, high=2, x=3)",
    "an unknown member": "slot()|return theta, sr.fourier(g)",
    "a member of a member": "slot()|return theta, board.adagrad.fast(g)",
    "a wrong sum of texts": "slot()|return theta, g * (1 + 'a')",
    "a call of a number": "slot()|return theta, g * 2(3)",
    "a division by nothing": "slot()|return theta, g * (1 / 0.0)",
    "a remainder of nothing": "slot()|return theta, g * (1 % 0)",
    "a key that is not there": "slot()|return theta, g * {'a': 1}['b']",
    "an index that is not there": "slot()|return theta, g * [1, 2][5]",
    "a number that does not end": "slot()|return theta, g * math.exp(1000)",
    "no logarithm": "slot()|return theta, g * math.log(-1)",
    "inlined without its slot": "slot()|return board.momentum(theta, g)",
    "inlined with another's": "slot()|return board.adam(theta, g, k, k, rate=1)",
    "inlined with a bad variant": "slot()|return board.nesterov(theta, g, k, look_ahead='far', lr=None)",
    "on the inside": "slot()|def deep(x):\n        return x and g\n    return theta, deep(k)",
    "on two lines": "slot()|return theta, (g\n        if g > 0 else 2)",
    "in brackets": "slot()|return theta, ((g) and (k))",
    "a name of a comprehension": "slot()|x = [y for z in range(3)]\n    return theta, g",
    "a name that looks like another": "slot()|return theta, nrom(g)",
    "a hyperparameter that decides": "slot()|return theta, g if lr else k",
    "a hyperparameter in text": "slot()|return theta, g if lr == 'fast' else k",
    "shift": "slot()|return theta, g << 2",
    "an updated symbol": "slot()|g //= 2\n    return theta, g",
    "a nested tuple": "slot()|return (theta, (g, k))",
    "three values": "slot()|return theta, g, k",
    "nothing": "slot()|theta = g",
}
"""Bodies of rules behind the declaration of a slot `k`."""
POINTS = {
    "scaled": "lambda theta, m: 2 * theta - m",
    "of itself": "lambda theta, m, *, lr: theta - lr * theta * m",
    "of what is not there": "lambda theta, speed: theta - speed",
    "of the gradient there": "lambda theta, g: theta - g",
    "of the end": "lambda theta, new_theta: new_theta - theta",
    "implicit, without a tolerance": "lambda new_theta: new_theta",
    "implicit, of both gradients": "lambda new_theta, g_theta: new_theta",
    "drawn": "lambda theta: theta + normal()",
    "of the loss": "lambda theta, *, lr: theta - lr / 0",
    "twice": "lambda theta, g_theta, m: theta + m * g_theta",
    "ahead": "lambda theta, m, *, lr: theta - lr * m",
    "added": "lambda theta, m, *, lr: lr * m + theta",
    "of a list": "lambda theta, m: [theta, m]",
}
"""Points where the gradient of a rule is taken."""


HELD_BY = {
    "HELD": HELD,
    "COUNT": "COUNT = 0\n\n",
    "SEEN": "SEEN = []\n\n",
    "TABLE": 'TABLE = {"inner": [0]}\n\n',
    "helping(g)": "def helping(g, calls=[]):\n    calls.append(1)\n    return g / len(calls)\n\n",
    "looked_up(": "MEMO = {}\n\ndef looked_up(value):\n    if value not in MEMO:\n        MEMO[value] = value**0.5\n"
    "    return MEMO[value]\n\ndef kept(value):\n    return value / 3\n\n",
}
"""What stands above texts that use a name of their file."""


def texts() -> dict[str, str]:
    """Return all texts by a name."""
    found: dict[str, str] = {}
    for file in FILES:
        source = (FOLDER / file).read_text(encoding="utf-8")
        for line, text in _of_file(source):
            found.setdefault(text, f"{file}:{line}")
    for text in CALLS:
        found.setdefault(f"program = {text}\n", text)
    for name, point in POINTS.items():
        text = f"@rule(evaluate_at={point})\ndef own(theta, g, m, *, lr=0.1):\n    return theta - lr * m, m + g\n"
        found.setdefault(text, f"a point {name}")
        found.setdefault(
            text.replace("m, *, lr", "ahead, last_lr=slot(), m=slot(), *, lr").replace("* m, m", "* m, m, m, m"),
            f"names and {name}",
        )
    for name, parts in RULES.items():
        declared, _, body = parts.partition("|")
        text = f"@rule\ndef own(theta, g, k={declared}, *, lr=0.1, t):\n    {body}\n"
        found.setdefault(text, name)
    return {name: HEADER + _held(text) + text for text, name in found.items()}


def _held(text: str) -> str:
    """Return what a text needs above it."""
    return "".join(above for word, above in HELD_BY.items() if word in text) or "\n"


def _of_file(source: str) -> Iterator[tuple[int, str]]:
    """Give every rule that a file of tests writes: functions, lambdas, and what is made of them."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.args.args and node.args.args[0].arg == "theta":
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            text = textwrap.dedent("\n".join(lines[first - 1 : node.end_lineno])) + "\n"
            marks = ("@rule", "@transform", "@sr.rule", "@sr.transform")
            yield first, text if text.startswith(marks) else f"@rule\n{text}"
        if isinstance(node, ast.Lambda) and [one.arg for one in node.args.args] == ["theta", "g"]:
            body = ast.get_source_segment(source, node.body) or ""
            whole = ast.get_source_segment(source, node) or ""
            yield node.lineno, f"@rule\ndef changed(theta, g, *, lr=0.1):\n    return theta - lr * ({body})\n"
            yield node.lineno, f"program = rule({whole})\n"


__all__ = ["texts"]
