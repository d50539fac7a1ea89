"""Plans of rules with numbers that are one a row or column."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from steprule import board
from steprule.backends.eager import EagerKernel
from steprule.backends.numba_cpu import CpuKernel
from steprule.backends.triton_gpu import TritonKernel
from steprule.errors import BackendError, GraphError
from steprule.graph.graph import Graph, Hyper, Slot
from steprule.graph.node import Node, Rank, hyper, make, read
from steprule.plan.program import Combine, lowered
from steprule.plan.schedule import schedule

pytestmark = pytest.mark.null

THETA, G, LR = read("theta"), read("g"), hyper("lr")
R, C, K = read("r", Rank.ROW), read("c", Rank.COLUMN), read("k", Rank.TENSOR)
SLOTS = (Slot("r", Rank.ROW), Slot("c", Rank.COLUMN), Slot("k", Rank.TENSOR))
SQUARES = make("mul", G, G)
BY_ROW, BY_COLUMN = make("mean", SQUARES, attr=Rank.ROW), make("mean", SQUARES, attr=Rank.COLUMN)


def a_plan(new: Node, r: Node = R, c: Node = C, k: Node = K, *, guarded: bool = False) -> Any:
    graph = Graph("rowed", "theta", "g", SLOTS, (Hyper("lr", 0.5),), new, (r, c, k))
    return schedule(graph, guarded=guarded)


def factored() -> Any:
    r, c = make("add", make("mul", LR, R), BY_ROW), make("add", make("mul", LR, C), BY_COLUMN)
    size = make("div", make("mul", r, c), make("mean", r))
    return a_plan(make("sub", THETA, make("div", G, make("sqrt", size))), r, c)


def test_a_reduction_of_rows_ends_a_pass_and_what_is_made_of_rows_needs_none() -> None:
    plan = factored()
    first, last = plan.passes
    assert first.reads == ("g",)
    assert {(node.op, node.rank) for node in first.reductions} == {
        ("mean", Rank.ROW), ("mean", Rank.COLUMN), ("mean", Rank.TENSOR)
    }  # fmt: skip
    assert first.reductions[-1].inputs[0].rank is Rank.ROW, "inputs first"
    assert first.scalars == (), "its elements need none"
    assert first.flops == 3, "a square, and two sums; what is reduced of rows is not done an element"
    assert set(last.reads) == {"theta", "g"}
    assert {node.rank for node in last.scalars} >= {Rank.ROW, Rank.COLUMN}
    assert [name for name, _ in last.writes] == ["theta"]
    assert [name for name, _ in plan.tensor_writes] == ["r", "c"]
    assert lowered(plan).bytes_per_parameter == 4 * 4
    assert lowered(plan).state_bytes_per_parameter == 0
    assert [part.node.rank for part in lowered(plan).loops[0].accumulated] == [Rank.ROW, Rank.COLUMN]
    after = lowered(plan).loops[0].after
    assert [part.node for part in after if isinstance(part, Combine)] == list(first.reductions)
    assert plan.axes == {Rank.ROW, Rank.COLUMN}


def test_what_only_slots_of_rows_need_costs_no_pass() -> None:
    plan = a_plan(make("sub", THETA, make("mul", LR, G)), r=BY_ROW, k=make("norm", make("add", BY_ROW, LR)))
    (only,) = plan.passes
    assert [node.op for node in only.reductions] == ["mean", "norm"]
    assert LR in plan.host, "also where a reduction of rows alone uses it"


def test_a_reduction_of_a_slot_of_rows_ends_in_the_first_pass_for_what_needs_it() -> None:
    plan = a_plan(make("sub", THETA, make("mul", make("sum", R), G)))
    assert [[node.op for node in item.reductions] for item in plan.passes] == [["sum"], []]
    assert plan.passes[0].reads == ()


def test_a_guard_stands_beside_rows() -> None:
    plan = a_plan(make("sub", THETA, G), r=BY_ROW, guarded=True)
    assert plan.guard in plan.passes[0].reductions
    assert [item.writes == () for item in plan.passes] == [True, False]


def test_a_plan_in_which_rows_are_reduced_before_they_are_known_is_refused() -> None:
    plan = factored()
    first = replace(plan.passes[0], reductions=plan.passes[0].reductions[::-1])
    with pytest.raises(GraphError, match=r"a reduction after loop 0 uses .* before it has ended"):
        lowered(replace(plan, passes=(first, *plan.passes[1:])))
    with pytest.raises(GraphError, match=r"loop 1 uses .* before it has ended"):
        lowered(replace(plan, passes=plan.passes[::-1]))
    few = a_plan(make("sub", THETA, G), r=BY_ROW)
    with pytest.raises(GraphError, match=r"a slot uses .* before it has ended"):
        lowered(replace(few, passes=(replace(few.passes[0], reductions=()),)))


def test_every_language_has_words_for_rows_and_one_that_lacks_them_refuses_at_its_door(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for kernel in (EagerKernel, CpuKernel, TritonKernel):
        assert kernel(lowered(factored())).program.plan.axes
    monkeypatch.setattr(TritonKernel.dialect, "lines", False)
    with pytest.raises(BackendError, match=r"varies over (rows|columns)(?s:.*)help: backend=\"eager\" runs it"):
        TritonKernel(lowered(factored()))
    assert TritonKernel(lowered(schedule(board.adam.graph))).program.plan.axes == frozenset()


def test_what_is_reduced_of_a_total_of_rows_waits_until_batches_have_shared_it() -> None:
    total = make("global_sum", BY_ROW)
    plan = a_plan(make("sub", THETA, make("mul", make("sum", make("mul", total, R)), G)))
    assert [[node.op for node in item.reductions] for item in plan.passes] == [["mean", "global_sum"], ["sum"], []]


def test_slots_of_rows_that_are_written_count_though_nothing_varies_so() -> None:
    plan = a_plan(make("sub", THETA, G), r=K, c=K)
    assert not any(Rank.TENSOR < node.rank < Rank.ELEMENT for node in plan.graph.nodes)
    assert plan.axes == {Rank.ROW, Rank.COLUMN}
