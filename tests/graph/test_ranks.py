"""Ranks are sets of axes: numbers that are one a row or column, in the interpreter, the laws and the rewrites."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest

from steprule.errors import GraphError
from steprule.graph import simplify as rows
from steprule.graph.evaluate import evaluate
from steprule.graph.graph import Graph, Hyper, Slot
from steprule.graph.node import Node, Rank, const, hyper, make, read
from steprule.graph.show import formula, latex
from steprule.graph.simplify import rewrite, simplify
from steprule.graph.verify import verify

pytestmark = pytest.mark.null

HOST, GLOBAL, TENSOR, ROW, COLUMN, ELEMENT, *_ = Rank.__members__.values()
THETA, G, LR = read("theta"), read("g"), hyper("lr")
R, C, K = read("r", ROW), read("c", COLUMN), read("k", TENSOR)
SLOTS = (Slot("r", ROW), Slot("c", COLUMN), Slot("k", TENSOR))
SHAPES: list[tuple[int, ...]] = [(3, 4), (), (5,), (2, 3, 4), (0, 4), (3, 0), (1, 1)]


def a_graph(new: Node = THETA, r: Node = R, c: Node = C, k: Node = K) -> Graph:
    return Graph("factored", "theta", "g", SLOTS, (Hyper("lr", 0.5),), new, (r, c, k))


def factored() -> Graph:
    """Adafactor's: squares as the product of what their rows and their columns have on average."""
    squares = make("mul", G, G)
    r = make("add", make("mul", const(0.5), R), make("mean", squares, attr=ROW))
    c = make("add", make("mul", const(0.5), C), make("mean", squares, attr=COLUMN))
    size = make("div", make("mul", r, c), make("mean", r))
    return a_graph(make("sub", THETA, make("div", make("mul", LR, G), make("sqrt", size))), r, c, make("mean", r))


def arrays_of(shape: tuple[int, ...], seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    ranks = {"theta": ELEMENT, "g": ELEMENT, "r": ROW, "c": COLUMN, "k": TENSOR}
    return {name: rng.uniform(0.5, 2, size=rank.shape(shape)) for name, rank in ranks.items()}


def run(graph: Graph, shapes: list[tuple[int, ...]]) -> list[dict[str, Any]]:
    numbers = [{"lr": 0.5 + index, "t": 1.0} for index in range(len(shapes))]
    return evaluate(graph, [arrays_of(shape, seed) for seed, shape in enumerate(shapes)], numbers)


# The order -------------------------------------------------------------------------------------------


def test_a_rank_is_below_another_if_it_varies_over_less() -> None:
    order = [HOST, GLOBAL, TENSOR, ROW, ELEMENT]
    for (i, low), (j, high) in product(enumerate(order), repeat=2):
        assert ((low <= high), (low < high), (low >= high), (low > high)) == (i <= j, i < j, i >= j, i > j)
    assert not any((ROW <= COLUMN, COLUMN <= ROW, ROW < COLUMN, ROW > COLUMN, ROW >= COLUMN))
    assert TENSOR < COLUMN < ELEMENT
    assert [rank.word for rank in (ROW, HOST)] == ["row", "host"]


def test_an_operation_varies_where_any_of_its_inputs_does() -> None:
    assert make("mul", R, C).rank is ELEMENT
    assert make("mul", R, K).rank is make("add", LR, R).rank is ROW
    assert make("add", C, make("global_sum", G)).rank is COLUMN
    assert [make("sum", G, attr=axis).rank for axis in (None, ROW, COLUMN)] == [TENSOR, ROW, COLUMN]
    assert make("sum", R).rank is TENSOR
    assert make("global_sum", C).rank is GLOBAL


def test_keys_of_what_there_was_before_rows_and_columns_are_what_they_were() -> None:
    """Orders of operands depend on them, and so the last bits of every rule."""
    nodes = (THETA, K, read("h", HOST), make("sum", G), make("mul", LR, G))
    assert [node.key[:16] for node in nodes] == [
        "841303c8c5b02437", "feb9352e22dcc711", "c16b5b5414ed3e13", "685c9df7546a10e3", "043d0b3aeb02c380"
    ]  # fmt: skip


def test_a_tensor_is_seen_as_a_matrix_of_its_leading_index_by_all_others() -> None:
    sides = {shape: ELEMENT.view(shape) for shape in SHAPES}
    assert sides == {(3, 4): (3, 4), (): (1, 1), (5,): (5, 1), (2, 3, 4): (2, 12), (0, 4): (0, 4), (3, 0): (3, 0),
                     (1, 1): (1, 1)}  # fmt: skip
    kept = {shape: (ROW.shape(shape), COLUMN.shape(shape)) for shape in SHAPES}
    assert kept == {(3, 4): ((3, 1), (1, 4)), (): ((), ()), (5,): ((5,), (1,)), (2, 3, 4): ((2, 1, 1), (1, 3, 4)),
                    (0, 4): ((0, 1), (1, 4)), (3, 0): ((3, 1), (1, 0)), (1, 1): ((1, 1), (1, 1))}  # fmt: skip
    assert all(rank.view(shape) == rank.view(rank.shape(shape)) for rank in (ROW, COLUMN) for shape in SHAPES)
    assert ELEMENT.shape((2, 3, 4)) == (2, 3, 4)
    assert TENSOR.shape((2, 3)) == HOST.shape((2, 3)) == ()


def test_a_slot_of_rows_has_float32_at_least() -> None:
    assert [slot.single for slot in (*SLOTS, Slot("m"), Slot("h", HOST))] == [True, True, True, False, False]


# The interpreter -------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", [factored(), simplify(factored())], ids=["as written", "simplified"])
def test_factored_squares_are_as_numpy_has_them(graph: Graph) -> None:
    for index, (shape, new) in enumerate(zip(SHAPES, run(graph, SHAPES), strict=True)):
        own = arrays_of(shape, index)
        g = own["g"].reshape(ELEMENT.view(shape))
        own |= {"r": own["r"].ravel(), "c": own["c"].ravel()}
        with np.errstate(all="ignore"):
            r = 0.5 * own["r"] + np.array([np.sum(row * row) for row in g]) / np.float64(g.shape[1])
            c = 0.5 * own["c"] + np.array([np.sum(column * column) for column in g.T]) / np.float64(g.shape[0])
            k = np.sum(r) / np.float64(len(r))
            theta = own["theta"] - ((0.5 + index) * g / np.sqrt(np.outer(r, c) / k)).reshape(shape)
        for name, value in {"theta": theta, "r": r, "c": c, "k": k}.items():
            assert new[name].shape == graph.ranks[name].shape(shape), (name, shape)
            np.testing.assert_allclose(new[name].ravel(), value.ravel(), rtol=1e-13, err_msg=f"{name} of {shape}")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("op", ["sum", "mean", "max", "norm"])
def test_every_reduction_goes_along_rows_and_columns(op: str, shape: tuple[int, ...]) -> None:
    """Of nothing, each is what it is of a tensor without elements."""
    new = run(a_graph(r=make(op, G, attr=ROW), c=make(op, G, attr=COLUMN)), [shape])[0]
    g = arrays_of(shape)["g"].reshape(ELEMENT.view(shape))
    truth: dict[str, Any] = {
        "sum": np.sum,
        "norm": np.linalg.norm,
        "mean": lambda x: np.sum(x) / np.float64(np.size(x)),
        "max": lambda x: np.max(x, initial=-np.inf),
    }
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(new["r"].ravel(), [truth[op](row) for row in g], rtol=1e-14)
        np.testing.assert_allclose(new["c"].ravel(), [truth[op](column) for column in g.T], rtol=1e-14)


def test_numbers_of_rows_are_reduced_as_they_are_one_each() -> None:
    """Not as often as a row has elements; and over all tensors, all rows of all of them."""
    graph = a_graph(k=make("add", make("sum", R), make("mul", const(100), make("global_sum", R))))
    shapes: list[tuple[int, ...]] = [(3, 4), (2, 2)]
    sums = [float(arrays_of(shape, seed)["r"].sum()) for seed, shape in enumerate(shapes)]
    for new, own in zip(run(graph, shapes), sums, strict=True):
        assert float(new["k"]) == pytest.approx(own + 100 * sum(sums))


def test_a_number_fills_every_place_of_a_slot_of_rows() -> None:
    new = run(a_graph(new=R, r=LR, c=K), [(2, 3)])[0]
    own = arrays_of((2, 3))
    assert new["r"].tolist() == [[0.5], [0.5]]
    assert new["c"].tolist() == [[own["k"]] * 3]
    assert new["theta"].tolist() == [[value] * 3 for (value,) in own["r"]]


# The laws --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("graph", "complaint"),
    [
        (a_graph(r=C), "the new `r` varies over columns, its slot over rows"),
        (a_graph(c=make("mul", R, K)), "the new `c` varies over rows, its slot over columns"),
        (a_graph(k=R), "the new `k` varies over rows, its slot over tensors"),
        (a_graph(r=G), "the new `r` varies over elements, its slot over rows"),
        (a_graph(r=make("sum", R, attr=ROW)), "`sum` gives one number a row, of one number a row"),
        (a_graph(r=make("sum", C, attr=ROW)), "`sum` gives one number a row, of one number a column"),
        (a_graph(r=make("sum", K, attr=ROW)), "`sum` is taken of a value that does not vary"),
        (a_graph(r=make("sum", G, attr=ELEMENT)), "`sum` cannot give one number a element"),
        (a_graph(r=make("global_sum", G, attr=ROW)), "`global_sum` cannot give one number a row"),
        (a_graph(r=make("abs", R, attr=ROW)), "`abs` cannot give one number a row"),
        (a_graph(r=read("c", ROW)), "an array is read that the rule does not declare"),
    ],
)
def test_rows_do_not_stand_for_columns(graph: Graph, complaint: str) -> None:
    with pytest.raises(GraphError) as caught:
        verify(graph)
    assert complaint in str(caught.value)


def test_what_varies_less_may_stand_where_more_is_wanted() -> None:
    verify(a_graph(new=make("mul", R, C), r=K, c=LR, k=make("sum", C)))


# Rewrites --------------------------------------------------------------------------------------------

SHORT = make("minimum", const(1), make("div", const(2), make("add", const(1), make("norm", G))))
ROWS = make("minimum", const(1), make("div", const(2), make("add", const(1), make("norm", G, attr=ROW))))
"""A factor that waits for a reduction, and one a row."""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (make("sum", make("mul", SHORT, G), attr=ROW), make("mul", SHORT, make("sum", G, attr=ROW))),
        (make("sum", make("mul", ROWS, G), attr=ROW), make("mul", ROWS, make("sum", G, attr=ROW))),
        (make("norm", make("mul", ROWS, G), attr=ROW), make("mul", make("abs", ROWS), make("norm", G, attr=ROW))),
        (make("sum", make("mul", SHORT, R)), make("mul", SHORT, make("sum", R))),
        (make("sum", make("mul", ROWS, G), attr=COLUMN), None),
        (make("sum", make("mul", ROWS, G)), None),
        (make("sum", make("mul", ROWS, C), attr=ROW), None),
        (make("global_sum", make("mul", ROWS, G)), None),
    ],
)
def test_what_is_the_same_along_a_row_comes_out_of_its_sum_alone(before: Node, after: Node | None) -> None:
    assert rows.scalars_out(before) is after


def test_elements_are_divided_by_a_number_a_row_once_a_row() -> None:
    longer = make("add", const(1), make("norm", G, attr=ROW))
    assert rows.divide_scalars_once(make("div", G, longer)) is make("mul", make("div", const(1), longer), G)
    assert rows.divide_scalars_once(make("div", G, R)) is None, "it may be so small that its reciprocal is infinite"
    assert rows.divide_scalars_once(make("div", R, longer)) is None, "no element is divided"


def test_squares_of_columns_are_made_once_a_column() -> None:
    assert rows.squares_last(make("mul", R, make("mul", C, C))) is None
    assert rows.squares_last(make("mul", R, make("mul", G, G))) is make("mul", make("mul", R, G), G)


def test_operands_stand_in_one_order_whatever_axes_they_have() -> None:
    for a, b in product((LR, K, R, C, G), repeat=2):
        assert rewrite(make("add", a, b)) is rewrite(make("add", b, a))
    assert rewrite(make("mul", G, R)) is make("mul", R, G)


def test_rewrites_keep_the_value_of_what_has_rows_and_columns() -> None:
    values = [G, R, C, K, SHORT, ROWS, make("mul", R, C), make("mul", ROWS, G), make("mul", SHORT, make("mul", R, G))]
    found = 0
    for a, b, op, axis in product(values, values, ("sum", "mean", "norm", "max"), (None, ROW, COLUMN)):
        inner = make("div", make("neg", make("mul", a, b)), make("add", const(1), make("abs", a)))
        reduced = make(op, make("mul", a, inner), attr=axis)
        if not reduced.inputs[0].rank > (axis or TENSOR):
            continue
        graph = a_graph(new=make("add", make("mul", reduced, make("mul", b, b)), G), k=K)
        for new, other in zip(run(graph, [(3, 4)]), run(simplify(graph), [(3, 4)]), strict=True):
            found += 1
            np.testing.assert_allclose(new["theta"], other["theta"], rtol=1e-12, err_msg=repr(reduced))
    assert found > 500


# The printer -----------------------------------------------------------------------------------------


def test_a_reduction_along_an_axis_says_which() -> None:
    graph = replace(a_graph(), new_slots=(make("norm", G, attr=ROW), make("mean", G, attr=COLUMN), make("norm", G)))
    assert formula(graph).splitlines()[:3] == ["rₜ = ‖g‖_row", "cₜ = mean_column(g)", "kₜ = ‖g‖_tensor"]
    lines = latex(graph).splitlines()[1:4]
    assert lines[0].endswith(r"r_{t} &= \left\Vert g \right\Vert_{\mathrm{row}} \\")
    assert lines[1].endswith(r"c_{t} &= \mathrm{mean}_{\mathrm{column}}\left(g\right) \\")
