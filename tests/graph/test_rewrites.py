"""Every rewrite, met with its pattern and with what only looks like it, keeps what a formula means.

Also for zeros, infinities, NaN, negative numbers, and the smallest and greatest that float32 holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pytest
import torch

import steprule as sr
from steprule.graph import simplify as rows
from steprule.graph.bounds import away_from_zero, bounds, finite
from steprule.graph.evaluate import evaluate
from steprule.graph.graph import Graph, Hyper, Slot
from steprule.graph.node import Node, Rank, const, hyper, make, read, step
from steprule.graph.ops import OPS
from steprule.graph.show import formula
from steprule.graph.simplify import ROWS, simplify
from steprule.graph.verify import verify

pytestmark = pytest.mark.null

THETA, G, M, S = (read(name) for name in ("theta", "g", "m", "s"))
K, H, LR, BETA = read("k", Rank.TENSOR), read("h", Rank.HOST), hyper("lr"), hyper("beta")
SLOTS = (Slot("m"), Slot("s"), Slot("k", Rank.TENSOR), Slot("h", Rank.HOST))
HYPERS = (Hyper("lr", 0.1), Hyper("beta", 0.9))
LARGEST, SMALLEST = 2.0**127, 2.0**-149
PALETTES = [
    [0.0, -0.0, 1.0, -1.0, 0.5, -2.0, 3.0],
    [0.0, 1.0, -2.0, np.inf, -np.inf, np.nan],
    [0.0, 1.0, -2.0, np.inf],
    [1.0, 3.0, np.inf],
    [1.0, -0.5, LARGEST, -LARGEST, SMALLEST, -SMALLEST],
]
COMPARE = ["lt", "le", "gt", "ge", "eq", "ne"]
REDUCE = ["sum", "mean", "norm", "max", "global_sum", "global_norm"]


class Planter:
    """Draws formulas in which one rewrite's pattern stands, nothing bent into a range."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)

    def one(self, *choices: Any) -> Any:
        return self.random.choice(choices)

    def number(self) -> Node:
        return const(self.one(0.0, 1.0, 2.0, -1.0, 0.5, -3.0))

    def scalar(self) -> Node:
        return self.one(LR, BETA, step(), H, K, make("sub", const(1), BETA), make(self.one(*REDUCE), self.x(0)))

    def x(self, depth: int = 1) -> Node:
        """Draw something that varies over elements."""
        if depth == 0 or self.random.random() < 0.5:
            return self.one(THETA, G, M, S)
        kind = self.one("neg", "abs", "add", "sub", "mul", "div", "minimum", "maximum")
        return make(kind, self.x(depth - 1), *[self.one(self.x(0), self.scalar())] * (OPS[kind].arity - 1))

    def condition(self) -> Node:
        return make(self.one(*COMPARE), self.x(), self.one(self.x(), self.scalar()))

    def shortening(self, limit: Node) -> Node:
        """Draw the factor of a clipping, which is between two numbers whatever the gradient is."""
        length = make("add", make(self.one("global_norm", "norm"), self.x(0)), const(1e-6))
        factor = make("minimum", const(1), make("div", limit, length))
        return self.one(
            factor, make("sub", factor, const(0.5)), make("div", const(1), make("maximum", const(1), length))
        )

    def longer(self) -> Node:
        """Draw a length of all tensors that is never nothing."""
        return make("add", make("global_norm", self.x(0)), const(1e-6))

    def parents(self, node: Node) -> Node:
        """Put a pattern inside of something, as it is."""
        for _ in range(self.random.randrange(3)):
            other = self.one(self.x(), self.scalar(), self.number())
            node = self.one(
                make(self.one("add", "sub", "mul", "div", "minimum", "maximum"), node, other),
                make(self.one("add", "sub", "mul", "div"), other, node),
                make(self.one("neg", "abs"), node),
                make("where", self.condition(), node, other),
            )
        return node

    def graph(self, pattern: Node) -> Graph:
        number = pattern if pattern.rank is not Rank.ELEMENT else make(self.one("sum", "norm", "max"), pattern)
        new = (self.parents(pattern), self.parents(pattern), self.x(), number, H)
        return verify(Graph("planted", "theta", "g", SLOTS, HYPERS, new[0], new[1:]))


Plant = Callable[[Planter], Node]


def _constants(p: Planter) -> Node:
    op = p.one("add", "sub", "mul", "pow", "neg", "exp", "minimum", "maximum", "abs", "sign")
    return make(op, *(const(p.one(2.0, 1.0, 0.5, 3.0)) for _ in range(OPS[op].arity)))


def _summed(p: Planter) -> Node:
    kept = p.one(lambda x: x, lambda x: make("neg", x), lambda x: make("mul", LR, x))
    return make(p.one("sum", "mean", "norm"), kept(make("mul", p.shortening(LR), p.x())))


def _summed_over_all(p: Planter) -> Node:
    return make(p.one("global_sum", "global_norm"), make("mul", make("div", const(1), p.longer()), p.x()))


def _alike(p: Planter) -> Node:
    x = p.x()
    return p.one(make("where", p.condition(), x, x), make("minimum", x, x), make("maximum", x, x))


def _square(p: Planter) -> Node:
    x = p.x()
    return make("mul", x, x)


PATTERNS: dict[str, list[Plant]] = {
    "fold_constants": [_constants],
    "drop_neutral": [
        lambda p: make("sub", p.x(), const(0)),
        lambda p: make("mul", p.x(), const(1)),
        lambda p: make("mul", const(1), p.x()),
        lambda p: make(p.one("div", "pow"), p.x(), const(1)),
    ],
    "negations": [
        lambda p: make("neg", make("neg", p.x())),
        lambda p: make(p.one("add", "sub"), p.x(), make("neg", p.x())),
        lambda p: make("add", make("neg", p.x()), p.x()),
        lambda p: make("mul", const(-1), p.x()),
    ],
    "small_powers": [lambda p: make("pow", p.x(), const(p.one(2, 3, 4, -1)))],
    "divide_scalars_once": [
        lambda p: make("div", p.x(), p.one(LR, H, make("sub", const(1), BETA), const(3))),
        lambda p: make("div", p.x(), make("add", make("norm", p.x()), const(1e-6))),
    ],
    "scalars_out": [
        _summed,
        _summed_over_all,
        lambda p: make("norm", make("mul", make("sub", p.shortening(LR), const(2)), p.x(0))),
    ],
    "squares_last": [lambda p: make("mul", p.one(LR, H, K, make("norm", G)), _square(p))],
    "order_operands": [
        lambda p: make(p.one("add", "mul"), p.x(), p.scalar()),
        lambda p: make(p.one("add", "mul"), make("mul", LR, p.x()), p.number()),
    ],
    "same_choice": [_alike],
}
"""What each row is about, a few forms each."""

NEAR: dict[str, list[Plant]] = {
    "fold_constants": [
        lambda p: make("div", p.number(), const(0)),
        lambda p: make(p.one("log", "sqrt"), const(p.one(-1.0, -2.0))),
        lambda p: make(p.one("add", "mul"), p.number(), p.scalar()),
    ],
    "drop_neutral": [
        lambda p: make(p.one("sub", "mul", "minimum"), const(0), p.x()),
        lambda p: make(p.one("div", "pow", "maximum", "sub"), const(1), p.x()),
        lambda p: make(p.one("add", "sub"), p.x(), const(1)),
        lambda p: make("add", *p.random.sample([p.x(), const(p.one(0.0, -0.0))], 2)),
        lambda p: make("sub", p.x(), const(-0.0)),
        lambda p: make("pow", p.x(), const(0)),
    ],
    "negations": [
        lambda p: make("sub", make("neg", p.x()), p.x()),
        lambda p: make(p.one("mul", "div"), make("neg", p.x()), p.x()),
        lambda p: make("div", const(-1), p.x()),
        lambda p: make("abs", make("neg", p.x())),
    ],
    "small_powers": [
        lambda p: make("pow", p.x(), const(p.one(0.5, -2, 5, 1.5))),
        lambda p: make("pow", const(p.one(2, 3, -1)), p.x()),
        lambda p: make("pow", p.x(), BETA),
    ],
    "divide_scalars_once": [
        lambda p: make("div", p.x(), p.one(K, make("norm", p.x()), make("sum", p.x()))),
        lambda p: make("div", p.scalar(), p.x()),
        lambda p: make("div", make("div", p.x(), p.x()), p.x()),
    ],
    "scalars_out": [
        lambda p: make(p.one(*REDUCE), make("mul", p.one(K, make("norm", p.x())), p.x())),
        lambda p: make(p.one(*REDUCE), make("div", p.x(), make("norm", p.x()))),
        lambda p: make("max", make("mul", make("sub", p.shortening(LR), const(2)), p.x())),
        lambda p: make(p.one("global_sum", "global_norm"), make("mul", make("div", LR, p.longer()), p.x(0))),
        lambda p: make(p.one("global_sum", "global_norm"), make("mul", p.shortening(p.one(LR, K, step())), p.x())),
        lambda p: make(p.one(*REDUCE), make(p.one("add", "maximum"), p.shortening(LR), p.x())),
    ],
    "squares_last": [
        lambda p: make("mul", LR, make("mul", p.x(), make("neg", p.x()))),
        lambda p: make(p.one("add", "minimum", "div"), LR, _square(p)),
        lambda p: make("mul", p.x(), _square(p)),
    ],
    "order_operands": [lambda p: make(p.one("sub", "div"), p.x(), p.scalar())],
    "same_choice": [
        lambda p: make("where", p.condition(), p.x(), make("neg", p.x())),
        lambda p: make(p.one("minimum", "maximum"), p.x(), make("neg", p.x())),
        lambda p: make(p.one("add", "sub", "div"), *[p.x()] * 2),
    ],
}
"""What looks like it: other numbers, other places, other ranks, what may be infinite."""


def _values(random: Random) -> tuple[list[dict[str, Any]], list[dict[str, float]]]:
    """Draw two tensors, in groups of their own, whose elements come from one palette."""
    arrays, numbers = [], []
    palette = random.choice(PALETTES)
    for group in (1, 2):
        own: dict[str, Any] = {n: np.array(random.choices(palette, k=6 * group)) for n in ("theta", "g", "m", "s")}
        h = random.choice([0.5, 2.0, -1.0, 0.0])
        arrays.append(own | {"k": random.choice([*palette, 2.0]), "h": h})
        numbers.append({"lr": 0.25 * group, "beta": 0.5, "t": 2.0 * group, "h": h})
    return arrays, numbers


def _scale(graph: Graph, arrays: list[dict[str, Any]], numbers: list[dict[str, float]]) -> float:
    """Return the greatest finite number that a formula meets: what cancels is rounded to a part of it."""
    outer = [node for node in graph.nodes if not node.truth]
    slots = tuple(Slot(f"n{index}", node.rank) for index, node in enumerate(outer))
    wide = Graph("wide", "theta", "g", (*SLOTS, *slots), HYPERS, THETA, (M, S, K, H, *outer))
    values = [np.ravel(v) for own in evaluate(wide, [a | dict.fromkeys([s.name for s in slots], 0.0) for a in arrays],
                                              [n | dict.fromkeys([s.name for s in slots], 0.0) for n in numbers])
              for v in own.values()]  # fmt: skip
    known = np.abs(np.concatenate(values))
    return float(np.max(known[np.isfinite(known)], initial=1.0))


def _moved(graph: Graph, arrays: Any, numbers: Any, truth: list[dict[str, Any]]) -> bool:
    """Whether a hair's breadth changes what the formula says: then rounding decides a comparison in it."""
    near = [{name: value * (1 + 1e-13) for name, value in own.items()} for own in arrays]
    near_numbers = [own | {"lr": own["lr"] * (1 - 1e-13), "beta": own["beta"] * (1 + 1e-13)} for own in numbers]
    other = evaluate(graph, near, near_numbers)
    pairs = [(np.asarray(a[n]), np.asarray(b[n])) for a, b in zip(truth, other, strict=True) for n in a if n != "h"]
    return not all(np.allclose(a, b, rtol=1e-9, atol=1e-9, equal_nan=True) for a, b in pairs)


@pytest.fixture
def fired(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count how often each row changes a node."""
    counts: Counter[str] = Counter()

    def counted(row: Any) -> Any:
        def applied(node: Node) -> Node | None:
            new = row(node)
            counts[row.__name__] += new is not None and new.rank is node.rank
            return new

        return applied

    monkeypatch.setattr(rows, "ROWS", tuple(counted(row) for row in ROWS))
    return counts


ROUNDS = 60


@pytest.mark.parametrize("name", [row.__name__ for row in ROWS])
def test_a_planted_pattern_and_its_near_misses_mean_what_they_meant(name: str, fired: Counter[str]) -> None:
    compared, fired_on_pattern = 0, 0
    for near, plants in ((False, PATTERNS[name]), (True, NEAR[name])):
        for place, plant in enumerate(plants):
            for seed in range(max(ROUNDS // len(plants), 20)):
                planter = Planter(1000 * place + seed)
                graph = planter.graph(plant(planter))
                before = fired[name]
                simple = simplify(graph)
                fired_on_pattern += fired[name] > before and not near
                arrays, numbers = _values(planter.random)
                truth = evaluate(graph, arrays, numbers)
                if _moved(graph, arrays, numbers, truth):
                    continue
                compared += 1
                allowed = 1e-13 * _scale(graph, arrays, numbers)
                for own, new in zip(truth, evaluate(simple, arrays, numbers), strict=True):
                    for key, value in own.items():
                        np.testing.assert_allclose(
                            new[key], value, rtol=1e-11, atol=allowed, err_msg=f"{key}, seed {seed}:\n{formula(graph)}"
                        )
    assert fired_on_pattern > 0.8 * ROUNDS, "nearly every pattern is one"
    assert compared >= ROUNDS


def test_every_row_is_planted_and_missed() -> None:
    assert set(PATTERNS) == set(NEAR) == {row.__name__ for row in ROWS}


# Bounds ------------------------------------------------------------------------------------------------


def test_bounds_hold_whatever_is_read() -> None:
    """Of scalars drawn at random, the value is between its bounds, or NaN."""
    checked, bounded = 0, 0
    for seed in range(300):
        planter = Planter(seed)
        node: Node = planter.one(planter.scalar(), planter.number(), planter.shortening(LR))
        for _ in range(planter.random.randrange(4)):
            op = planter.one("add", "sub", "mul", "div", "minimum", "maximum", "neg", "abs", "sqrt", "sign", "exp")
            others = [planter.one(planter.scalar(), planter.number()) for _ in range(OPS[op].arity - 1)]
            node = make(op, *planter.random.sample([node, *others], len(others) + 1))
        low, high = bounds(node)
        graph = verify(Graph("bounded", "theta", "g", SLOTS, HYPERS, node, (M, S, K, H)))
        for _ in range(5):
            for own in evaluate(graph, *_values(planter.random)):
                value = own["theta"]
                assert np.all(np.isnan(value) | ((value >= low) & (value <= high))), formula(graph)
                assert not finite(node) or np.all(np.abs(value) < np.inf) or np.isnan(value).any()
                checked += value.size
        bounded += finite(node)
    assert checked > 1000
    assert bounded > 50


@pytest.mark.parametrize(
    ("node", "is_finite", "is_away"),
    [
        (LR, True, False),
        (make("add", make("norm", G), const(1e-6)), False, True),
        (make("norm", G), False, False),
        (make("div", LR, make("add", make("norm", G), const(1e-6))), True, False),
        (make("div", LR, make("norm", G)), False, False),
        (make("minimum", const(1), make("sum", G)), False, False),
        (make("maximum", const(0), make("minimum", const(1), make("sum", G))), True, False),
        (make("sub", const(-1), make("norm", G)), False, True),
        (K, False, False),
    ],
    ids=repr,
)
def test_what_is_bounded_is_told_from_what_may_be_infinite_or_nothing(
    node: Node, is_finite: bool, is_away: bool
) -> None:
    assert finite(node) is is_finite
    assert away_from_zero(node) is is_away


# No overflow that is not in the formula ------------------------------------------------------------------


def test_a_gradient_of_denormals_is_as_long_as_the_literal_clipping_says() -> None:
    """The reciprocal of its length is infinite in float32; the quotient is not."""
    parameter = torch.nn.Parameter(torch.zeros(4))
    parameter.grad = torch.full((4,), 1e-40)
    sr.chain(sr.board.clip_norm(max_norm=10.0), sr.board.sgd).optimizer([parameter], lr=1.0, backend="eager").step()
    np.testing.assert_allclose(parameter.detach().numpy(), np.full(4, -5.0), rtol=1e-4)


def test_factors_keep_the_order_in_which_they_were_written() -> None:
    """(a g) g may be finite where a g² is not, and h (k g) where h k is not."""
    for node in (
        make("mul", make("mul", make("sub", const(1), BETA), G), G),
        make("mul", LR, make("mul", BETA, G)),
        make("sub", make("div", THETA, M), make("div", G, M)),
    ):
        kept = simplify(verify(Graph("ordered", "theta", "g", SLOTS, HYPERS, node, (M, S, K, H)))).new_parameter
        assert {child.op for child in kept.inputs} == {child.op for child in node.inputs}
        assert sorted(map(repr, kept.inputs)) == sorted(map(repr, node.inputs))
