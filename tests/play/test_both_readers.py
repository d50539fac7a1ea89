"""The browser reads what Python reads: the same graph, node by node, the same slots, numbers and LaTeX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from told_twice import by_browser, by_python, described, showing

import steprule as sr
from steprule.play.library import entries, public
from steprule.rule import Formula

pytestmark = pytest.mark.null

COMPARED = ("name", "graph", "slots", "hypers", "text", "latex")


def alike(source: str, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Assert that both read the same."""
    with showing(source):
        for part in COMPARED:
            assert part in found, found.get("told")
            assert found[part] == expected[part], part


def variants(name: str) -> list[str]:
    """List the texts that make a rule of the zoo in each of its variants."""
    entry = entries()[name]
    short = name.rpartition(".")[2]
    value = entry.value
    if not isinstance(value, Formula):
        return [f"program = chain({short}(decoupled={decoupled}), board.sgd)" for decoupled in (True, False)]
    (part,) = value.parts
    plain = f"program = {short}" if part.moves is None else ""
    around = [f"program = chain({short}, board.adam)", f"program = chain({short}, {short}, board.adam)"]
    behind = [f"program = {short}(board.adam)", f"program = chain(board.adam, {short}, {short})"]
    made = [plain] if plain else behind if part.moves == "update" else around
    if part.evaluate_at is not None and part.moves is not None:
        made = made[:1]
    options = [(key, option) for key, one in part.signature.choices.items() for option in one.options[1:]]
    configured = [f"{short} = {short}({key}={option!r})\n{made[0]}" for key, option in options]
    return [*made, *configured]


@pytest.mark.parametrize("name", list(entries()))
def test_every_rule_of_the_zoo_is_read_alike(name: str, tmp_path: Path) -> None:
    """As its own text, alone and in chains, in each of its variants."""
    for last in variants(name):
        source = f"from steprule import board, chain\n{entries()[name].source}\n{last}\n"
        alike(source, by_browser(source), by_python(source, tmp_path))


def test_texts_of_the_zoo_are_the_zoo(tmp_path: Path) -> None:
    """A text that stands for itself is the rule in its module, to the last node."""
    for name, entry in entries().items():
        if isinstance(entry.value, Formula) and entry.value.parts[0].moves is None:
            found = by_python(entry.source, tmp_path)
            assert found == described(entry.value), name


def test_the_library_is_there_by_its_public_names(tmp_path: Path) -> None:
    rules = [name for name in public() if name != "board"]
    assert {"cautious", "clip_global_norm", "ema", "mars_exact", "sam", "schedule_free_sgd"} <= set(rules)
    for name in rules:
        value = getattr(sr, name)
        ruled = isinstance(value, Formula) and value.parts[0].moves is None
        behind = isinstance(value, Formula) and value.parts[0].moves == "update"
        made = f"sr.{name}" if isinstance(value, Formula) else f"sr.{name}(0.1)"
        parts = made if ruled else f"sr.board.adam, {made}" if behind else f"{made}, sr.board.adam"
        source = f"import steprule as sr\nprogram = sr.chain({parts})\n"
        alike(source, by_browser(source), by_python(source, tmp_path))


TEXTS = {
    "names that mathematics has": """
from steprule import rule
@rule
def named(theta_1, grad, momentum_2, βeta, *, lr_3=1, weight_decay=0.5, 学習率=1e-12, gamma_10=123456.789, x_y=1e17,
          eps=1e-05):
    momentum_2 = -gamma_10 * -grad + 学習率 / -x_y
    return theta_1 - lr_3 * momentum_2 ** -2 ** weight_decay - (-eps), momentum_2, βeta + 1e16 * grad + 12345678.123456
""",
    "Python around it": """
import math
from functools import partial
import steprule as sr
from steprule import rule as make, sqrt as root, where

SCALE = [1, 2.5, -3]
TABLE = {"a": 0.25, "b": (1, 2)}
near = partial(sr.hyper, low=0)

def twice(x, *more, by=2, **named):
    \"\"\"Two lines
    of words.\"\"\"
    for one in more:
        x += one
    return x * by if named.get("really", True) else x

@make
def written(theta, g, m=sr.slot(), k=sr.slot(init=2, rank="tensor"), *, lr: float = near(0.1, high=2),
            n=sr.choice(3, 2), t):
    # a comment
    steps = []
    for i, s in enumerate(SCALE):
        if i == n and not False:
            break
        elif i > 5:
            continue
        else:
            steps.append(s / 3)
    while len(steps) < 4:
        steps = steps + [math.sqrt(2) ** 2 % 1.5 // 0.25]
    a, (b, *rest) = TABLE["b"][0], [g, *steps]
    f = lambda x, y=a: (x - y) ** 2 if n is not None else x
    big = 2 ** 70 + 0xff + 1_000
    m = sum([s * m for s in rest]) + f(b) + big * 1e-30
    extra = [q for q in range(1, 6, 2) if q != 3]
    update = twice(m, g, -1, by=TABLE['a']) / max(extra[-1], min(1, 2))
    c = (g > 0) & ~(m <= 1) | (0 < lr)
    return theta - lr * where(c, update, root(abs(g))) / (1 - 0.5 ** t), m, sr.maximum(k, sr.norm(g))
""",
    "rules in rules": """
import steprule as sr
@sr.rule
def inner(theta, g, m, *, lr=0.1, beta=sr.hyper(0.9, above=0, below=1, tune=(0.5, 0.99))):
    m = beta * m + g
    return theta - lr * m, m

@sr.transform
def shrunk(theta, g, k=sr.slot(rank="global"), *, beta=2.0, lr=sr.hyper(shared=True)):
    k = sr.maximum(k, sr.global_norm(g))
    sr.watch("size", sr.norm(g) / k)
    return beta * g * lr / k, k

@sr.rule
def outer(theta, g, a, b, *, lr=0.1, mix=0.5):
    one, a = inner(theta, g, a, lr=lr, beta=mix)
    two, b = sr.board.momentum(theta, g, m=b)
    return (one + two) / 2, a, b

links = [sr.clip_value(limit=0.5), shrunk, shrunk(beta=3), sr.sam(rho=0.1), outer(lr=0.25), sr.ema, sr.lookahead]
program = sr.chain(*links)(decay=0.5, every=7)
""",
    "rows, columns and matrices": """
import steprule as sr
@sr.rule
def lined(theta, g, r=sr.slot(rank="row"), c=sr.slot(rank="column"), left=sr.slot(rank="left", init="identity"), *,
          lr=0.1):
    r = sr.mean(g**2, axis=1) + r
    c = sr.max(abs(g), axis=0)
    left = 0.5 * left + g @ sr.transpose(g)
    step = sr.inverse_root(left, 4, eps=1e-3) @ sr.orthogonalize(g, steps=3)
    return theta - lr * step / sr.sqrt(r * c / sr.numel(g)) + sr.normal() * sr.uniform(), r, c, left
""",
    "before and behind a rule": """
import steprule as sr
links = [sr.weight_decay(0.1), sr.board.adam(lr=0.5), sr.cautious, sr.cautious_weight_decay(weight_decay=0.2)]
program = sr.chain(*links)
""",
    "letters of another hand": """
import steprule as sr
@sr.rule
def written(𝜃, g, 𝑚, *, 𝜂=0.1, ﬁrst=1.0):
    m = 𝑚 + g
    return θ - η * m * 𝖋irst, m
""",
    "a long formula": """
import steprule as sr
@sr.rule
def long(theta, g, *, lr=0.1):
    for i in range(60):
        g = g * g + i
    return theta - lr * g
""",
}


@pytest.mark.parametrize("name", TEXTS)
def test_python_as_people_write_it_is_read_alike(name: str, tmp_path: Path) -> None:
    alike(TEXTS[name], by_browser(TEXTS[name]), by_python(TEXTS[name], tmp_path))
