"""Functions of matrices stand between passes: planned, lowered to `Call`, and hand arrays on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import steprule as sr
from steprule.errors import GraphError
from steprule.graph.node import Rank, const, make, read
from steprule.graph.verify import verify as verify_graph
from steprule.plan.program import Call, Program, lowered, verify
from steprule.plan.schedule import schedule, summary

pytestmark = pytest.mark.null


@sr.rule
def turned(theta, g, m, *, lr=0.1, t):
    m = 0.5 * m + g
    root = sr.orthogonalize(m)
    return theta - lr * t * root / (1 + sr.norm(root)), m


@sr.rule
def shampoo(theta, g, left=sr.slot(rank="left"), right=sr.slot(rank="right", init="identity"), *, lr=0.1):
    left = left + g @ sr.transpose(g)
    right = right + sr.transpose(g) @ g
    return theta - lr * (sr.inverse_root(left, 4) @ g @ sr.inverse_root(right, 4)), left, right


def program(formula: Any) -> Program:
    return lowered(schedule(formula.graph))


def calls_of(own: Program) -> list[list[Call]]:
    return [list(loop.calls) for loop in own.loops]


def test_its_argument_is_stored_by_the_pass_before_and_its_value_loaded_by_the_pass_after() -> None:
    plan = schedule(sr.chain(sr.clip_global_norm, turned).graph)
    told = [summary(item, plan.graph) for item in plan.passes]
    assert told[1].partition("; ")[2].startswith("keeps 0.5 mₜ₋₁")
    assert told[2].startswith("after orthogonalize(")
    own = lowered(plan)
    assert [len(item.calls) for item in plan.passes] == [0, 0, 1, 0]
    (call,) = (call for loop in own.loops for call in loop.calls)
    assert [store.array for store in own.loops[1].stores] == list(call.sources)
    for loop in own.loops[2:]:
        assert [load.array for load in loop.loads if load.array.scratch] == [call.target]
    # g; m, g and the argument; the value; θ, m, g and the value, of which two are written: 16 bits lose nothing there
    assert [loop.bytes_per_parameter for loop in own.loops] == [4, 10, 2, 22]
    assert [loop.bytes_per_parameter for loop in lowered(plan, "float64").loops] == [8, 24, 8, 48]


def test_functions_of_functions_need_no_pass_between_them_and_share_one_array() -> None:
    own = program(shampoo)
    assert [len(calls) for calls in calls_of(own)] == [0, 9]
    assert [loop.bytes_per_parameter for loop in own.loops] == [8, 12]  # g and its copy; θ twice and the direction
    assert own.scratch_bytes_per_parameter == 4
    assert [store.array.name for store in own.matrices] == ["left", "right"]
    assert {array.format.dtype for array in lowered(schedule(shampoo.graph), "bfloat16").scratch} == {"float32"}


def test_what_is_taken_of_slots_alone_is_called_before_the_first_pass() -> None:
    @sr.rule
    def lagging(theta, g, left=sr.slot(rank="left", init="identity"), *, lr=0.1):
        return theta - lr * (sr.inverse_root(left, 2) @ g), left + g @ sr.transpose(g)

    before, after = calls_of(program(lagging))
    assert [call.node.op for call in before] == ["inverse_root"]
    assert {"matmul", "transpose", "add"} == {call.node.op for call in after}


def test_a_value_that_two_calls_need_is_kept_once_and_not_written_over() -> None:
    @sr.rule
    def twice(theta, g, *, lr=0.1):
        first = sr.orthogonalize(g + theta)
        return theta - lr * first / sr.norm(first) * sr.norm(sr.orthogonalize((g + theta) / (1 + sr.norm(first))))

    own = program(twice)
    (first,), (second,) = (calls for calls in calls_of(own) if calls)
    assert first.target not in second.sources
    assert len(own.scratch) == 2


def test_a_matrix_function_of_what_does_not_fit_is_no_graph() -> None:
    graph = turned.graph
    for new in (make("orthogonalize", const(2.0), *map(const, (1.0,) * 5)), make("matmul", read("g"), read("g"))):
        with pytest.raises(GraphError, match="no matrices of fitting shapes"):
            verify_graph(replace(graph, new_slots=(new,)))
    square = make("matmul", read("g"), make("transpose", read("g")))
    for new, told in (
        (make("add", read("g"), square), "elements of different shapes"),
        (make("norm", square), "has not the parameter's shape"),
        (square, "the new `m` varies over lefts"),
    ):
        with pytest.raises(GraphError, match=told):
            verify_graph(replace(graph, new_slots=(new,)))
    with pytest.raises(GraphError, match="has not its shape"):
        verify_graph(replace(graph, new_parameter=square))


def test_a_call_without_its_argument_and_a_load_before_its_call_are_found() -> None:
    own = program(turned)
    first, *rest = own.loops
    with pytest.raises(GraphError, match="none has stored its argument"):
        verify(replace(own, loops=(replace(first, body=first.body[:-1]), *rest)))
    with pytest.raises(GraphError, match="before it has ended"):
        verify(replace(own, loops=(first, *(replace(loop, calls=()) for loop in rest))))
    last = replace(own.loops[-1], calls=rest[0].calls)  # a call that a reduction waits for comes too late
    with pytest.raises(GraphError, match="before it has ended"):
        verify(replace(own, loops=(first, replace(rest[0], calls=()), *rest[1:-1], last)))


def test_the_shapes_of_products_are_the_tensors_rows_and_columns() -> None:
    shape = (2, 3, 4)
    views = {rank: rank.view(shape) for rank in (Rank.ELEMENT, Rank.LEFT, Rank.RIGHT, Rank.TRANSPOSED)}
    assert list(views.values()) == [(2, 12), (2, 2), (12, 12), (12, 2)]
    assert Rank.LEFT.shape(()) == Rank.RIGHT.shape((7,)) == (1, 1)
    assert not any(other >= Rank.LEFT for other in (Rank.ELEMENT, Rank.ROW, Rank.RIGHT))
    assert make("mul", read("k", Rank.TENSOR), read("left", Rank.LEFT)).rank is Rank.LEFT
