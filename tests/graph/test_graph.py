"""Graphs: one node for one formula, ranks, the verifier's laws, and rewrites that keep the value."""

from __future__ import annotations

import gc
import itertools
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest

import steprule as sr
from steprule.errors import GraphError
from steprule.graph import simplify as rows
from steprule.graph.evaluate import evaluate
from steprule.graph.graph import Graph, Hyper, Slot
from steprule.graph.node import Node, Rank, const, hyper, make, read, step, substitute, topological
from steprule.graph.ops import OPS
from steprule.graph.simplify import ROWS, simplify
from steprule.graph.verify import verify

pytestmark = pytest.mark.null

THETA, G, M = read("theta"), read("g"), read("m")
K, H = read("k", Rank.TENSOR), read("h", Rank.HOST)
LR, BETA = hyper("lr"), hyper("beta")
SLOTS = (Slot("m"), Slot("k", Rank.TENSOR), Slot("h", Rank.HOST))
HYPERS = (Hyper("lr", 0.1), Hyper("beta", 0.9))
SPECIAL = [-np.inf, -2.0, -1.0, -0.0, 0.0, 0.5, 1.0, 3.0, np.inf, np.nan]


def a_graph(new: Node, *, slots: Any = SLOTS, new_slots: Any = (M, K, H), hypers: Any = HYPERS) -> Graph:
    return Graph("made", "theta", "g", slots, hypers, new, new_slots)


def value(node: Node, theta: float, g: float, m: float) -> np.ndarray:
    arrays = {"theta": np.full(3, theta), "g": np.full(3, g), "m": np.full(3, m), "k": 2.0, "h": 3.0}
    numbers = {"lr": 0.1, "beta": 0.9, "t": 7.0, "h": 3.0}
    return evaluate(a_graph(node), [arrays], [numbers])[0]["theta"]


# Nodes -------------------------------------------------------------------------------------------------


def test_equal_formulas_are_one_node() -> None:
    assert make("add", G, const(1)) is make("add", read("g"), const(1.0))
    assert make("add", G, M) is not make("add", M, G)
    assert read("g") is not read("g", Rank.TENSOR)
    assert const(0.0) is not const(-0.0)
    assert hyper("lr") is not read("lr")
    assert const(0.1 + 0.2) is not const(0.3)


def test_interning_lets_go_of_nodes_nobody_holds() -> None:
    from steprule.graph.node import _interned

    key = make("exp", make("exp", read("nobody"))).key
    gc.collect()
    assert key not in _interned


def test_threads_that_build_the_same_formula_get_the_same_node() -> None:
    found: list[Node] = []
    gate = threading.Barrier(8)

    def build() -> None:
        gate.wait()
        node = read("threaded")
        for number in range(200):
            node = make("add", node, const(number))
        found.append(node)

    threads = [threading.Thread(target=build) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_keys_are_equal_in_another_process() -> None:
    """Orders are built on keys, and kernels on orders: the cache would miss if they differed."""
    code = "import steprule as sr; print(sr.board.adam.graph.new_parameter.key)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    assert told.strip() == sr.board.adam.graph.new_parameter.key


@pytest.mark.parametrize(
    ("node", "rank"),
    [
        (make("mul", LR, step()), Rank.HOST),
        (make("add", H, const(1)), Rank.HOST),
        (make("add", K, LR), Rank.TENSOR),
        (make("mul", K, G), Rank.ELEMENT),
        (make("norm", G), Rank.TENSOR),
        (make("global_norm", G), Rank.GLOBAL),
        (make("add", make("global_sum", G), make("max", G)), Rank.TENSOR),
        (make("where", make("lt", LR, BETA), LR, make("global_norm", G)), Rank.GLOBAL),
        (make("where", make("lt", G, M), LR, BETA), Rank.ELEMENT),
    ],
    ids=repr,
)
def test_rank_is_where_a_value_varies(node: Node, rank: Rank) -> None:
    assert node.rank is rank


def test_a_node_of_any_depth_has_a_short_name_and_a_quick_order() -> None:
    node = G
    for _ in range(20_000):
        node = make("add", node, node)
    assert len(repr(node)) < 2_000
    assert len(topological([node])) == 20_001
    assert substitute([node], {G: M})[node].rank is Rank.ELEMENT


# The verifier ------------------------------------------------------------------------------------------

UNKNOWN = Node("cube", (G,), None, Rank.ELEMENT, "unknown")
SHORT = Node("add", (G,), None, Rank.ELEMENT, "short")
ENDLESS = Node("const", (), float("inf"), Rank.HOST, "endless")
TEXT = Node("const", (), "1", Rank.HOST, "text")
LESS = make("lt", G, M)


@pytest.mark.parametrize(
    ("graph", "complaint"),
    [
        (a_graph(UNKNOWN), "`cube` is no operation"),
        (a_graph(SHORT), "`add` takes 2 inputs, not 1"),
        (a_graph(make("add", THETA, make("norm", LR))), "`norm` is taken of a value that does not vary"),
        (a_graph(make("add", THETA, make("sum", make("mean", G)))), "`sum` is taken of a value"),
        (a_graph(make("add", THETA, LESS)), "a comparison stands outside"),
        (a_graph(make("where", G, THETA, M)), "or is missing there"),
        (a_graph(make("where", LESS, LESS, M)), "a comparison stands outside"),
        (a_graph(LESS), "the new `theta` is a comparison"),
        (a_graph(read("other")), "an array is read that the rule does not declare"),
        (a_graph(read("m", Rank.TENSOR)), "an array is read that the rule does not declare"),
        (a_graph(hyper("decay")), "hyperparameter `decay` is not declared"),
        (a_graph(ENDLESS), "inf is not a finite number"),
        (a_graph(TEXT), "'1' is not a finite number"),
        (a_graph(THETA, new_slots=(M, G, H)), "the new `k` varies over elements, its slot over tensors"),
        (a_graph(THETA, new_slots=(M, K, K)), "the new `h` varies over tensors, its slot over hosts"),
        (
            a_graph(THETA, slots=(*SLOTS, Slot("u", Rank.GLOBAL)), new_slots=(M, K, H, make("add", LR, step()))),
            "the new `u` is one number for all tensors, made of what each has of its own",
        ),
        (a_graph(THETA, new_slots=(M, K)), "3 slots are declared, but 2 have new values"),
        (a_graph(THETA, slots=(Slot("g"), *SLOTS[1:])), "`g` is declared twice"),
        (a_graph(THETA, hypers=(*HYPERS, Hyper("h", 1.0))), "`h` is declared twice"),
    ],
    ids=lambda item: item if isinstance(item, str) else "",
)
def test_a_graph_that_breaks_a_law_is_refused_at_every_door(graph: Graph, complaint: str) -> None:
    for door in (verify, simplify):
        with pytest.raises(GraphError) as caught:
            door(graph)
        assert caught.value.what.startswith("made: ")
        assert complaint in caught.value.what


def test_a_legal_graph_passes_unchanged() -> None:
    graph = a_graph(make("sub", THETA, make("mul", LR, G)))
    assert verify(graph) is graph


# Simplification ----------------------------------------------------------------------------------------

NORM = make("norm", G)
LONG = make("add", const(1e-6), NORM)
SHORTENED = make("minimum", const(1), make("div", LR, make("add", const(1e-6), make("global_norm", M))))
EXAMPLES: list[tuple[Any, Node, Node]] = [
    (rows.fold_constants, make("mul", const(3), const(4)), const(12)),
    (rows.fold_constants, make("sqrt", const(2)), const(2**0.5)),
    (rows.drop_neutral, make("sub", G, const(0)), G),
    (rows.drop_neutral, make("mul", const(1), G), G),
    (rows.drop_neutral, make("div", G, const(1)), G),
    (rows.drop_neutral, make("pow", G, const(1)), G),
    (rows.negations, make("neg", make("neg", G)), G),
    (rows.negations, make("add", G, make("neg", M)), make("sub", G, M)),
    (rows.negations, make("sub", G, make("neg", M)), make("add", G, M)),
    (rows.negations, make("add", make("neg", M), G), make("sub", G, M)),
    (rows.negations, make("mul", const(-1), G), make("neg", G)),
    (rows.small_powers, make("pow", G, const(2)), make("mul", G, G)),
    (rows.small_powers, make("pow", G, const(3)), make("mul", G, make("mul", G, G))),
    (rows.small_powers, make("pow", G, const(4)), make("mul", make("mul", G, G), make("mul", G, G))),
    (rows.small_powers, make("pow", G, const(-1)), make("div", const(1), G)),
    (rows.divide_scalars_once, make("div", G, LONG), make("mul", make("div", const(1), LONG), G)),
    (rows.divide_scalars_once, make("div", G, LR), make("mul", make("div", const(1), LR), G)),
    (rows.scalars_out, make("sum", make("mul", SHORTENED, G)), make("mul", SHORTENED, make("sum", G))),
    (
        rows.scalars_out,
        make("norm", make("mul", LR, make("neg", make("mul", SHORTENED, G)))),
        make("mul", make("abs", SHORTENED), make("norm", make("mul", LR, make("neg", G)))),
    ),
    (rows.squares_last, make("mul", LR, make("mul", G, G)), make("mul", make("mul", LR, G), G)),
    (rows.squares_last, make("mul", NORM, make("mul", G, G)), make("mul", make("mul", NORM, G), G)),
    (rows.order_operands, make("mul", G, LR), make("mul", LR, G)),
    (rows.order_operands, make("add", LR, const(2)), make("add", const(2), LR)),
    (rows.same_choice, make("where", LESS, G, G), G),
    (rows.same_choice, make("minimum", G, G), G),
    (rows.same_choice, make("maximum", M, M), M),
]


@pytest.mark.parametrize(("row", "before", "after"), EXAMPLES, ids=lambda item: getattr(item, "__name__", ""))
def test_a_row_fires_and_keeps_every_value(row: Any, before: Node, after: Node) -> None:
    """For infinities, NaN and zeros of both signs too."""
    assert row(before) is after
    for theta, g, m in itertools.product([1.0], SPECIAL, SPECIAL):
        np.testing.assert_allclose(value(after, theta, g, m), value(before, theta, g, m), rtol=1e-14)


def test_every_row_has_an_example() -> None:
    assert {row for row, _, _ in EXAMPLES} == set(ROWS)


@pytest.mark.parametrize(
    "node",
    [
        make("mul", const(0), G),
        make("sub", G, G),
        make("div", G, G),
        make("pow", G, const(0)),
        make("div", const(0), G),
        make("exp", make("log", G)),
        make("sqrt", make("mul", G, G)),
        make("log", const(0)),
        make("minimum", G, const(0)),
        make("div", const(1), make("add", G, const(0))),
        make("div", const(1), make("sub", G, const(-0.0))),
    ],
    ids=repr,
)
def test_what_infinities_or_nan_would_change_is_left_alone(node: Node) -> None:
    kept = simplify(a_graph(node)).new_parameter
    for g in SPECIAL:
        np.testing.assert_array_equal(value(kept, 1.0, g, 1.0), value(node, 1.0, g, 1.0))


def test_simplification_never_changes_an_outputs_rank() -> None:
    """A sum counts elements: a value that shrank to a scalar would be counted once."""
    graph = a_graph(make("add", THETA, make("sum", make("where", LESS, LR, LR))))
    np.testing.assert_allclose(value(simplify(graph).new_parameter, 0.0, 1.0, 1.0), [0.3] * 3)


def test_one_division_stands_where_two_would_do() -> None:
    """Of what the board's rules do to every element, none divides twice."""
    decayed = sr.chain(sr.weight_decay(0.1), sr.clip_global_norm, sr.board.adam)
    for program in (sr.board.rmsprop, sr.board.adam, decayed):
        nodes = [node for node in simplify(program.graph).nodes if node.rank is Rank.ELEMENT]
        assert sum(node.op == "div" for node in nodes) == 1
    clipped = [n for n in simplify(sr.chain(sr.clip_norm, sr.board.sgd).graph).nodes if n.rank is Rank.ELEMENT]
    assert not any(node.op == "div" for node in clipped)


def test_simplifying_twice_changes_nothing_more() -> None:
    for program in (
        sr.board.adam,
        sr.board.nesterov(look_ahead="board"),
        sr.chain(sr.clip_norm, sr.board.rmsprop),
    ):
        simple = simplify(program.graph)
        assert simplify(simple).roots == simple.roots


def test_simplified_nodes_remember_the_line_that_wrote_them() -> None:
    graph = simplify(sr.board.adam.graph)
    written = [graph.origins[node].text for node in graph.nodes if OPS[node.op].kind != "leaf"]
    assert any("s = beta2 * s" in text for text in written)
    assert any("return theta - lr * m" in text for text in written)
