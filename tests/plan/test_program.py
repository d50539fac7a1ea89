"""The lowered program: what it holds for each layout, and that each of its laws is asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import steprule as sr
from steprule import board, chain
from steprule.errors import GraphError
from steprule.graph.node import const, make, read
from steprule.plan.program import Accumulate, Combine, Compute, Exchange, Load, Program, Store, lower, lowered, verify
from steprule.plan.schedule import schedule
from steprule.plan.storage import FORMATS, REMAINDER, layout
from steprule.zoo import adam

pytestmark = pytest.mark.null
CLIPPED = chain(sr.clip_global_norm(max_norm=1.0), adam.adam)


@sr.rule
def counting(theta, g, k=sr.slot(rank="tensor"), m=sr.slot(), *, lr=0.1):
    m = m + g
    return theta - lr * m, k + sr.norm(g), m


PARTS = (Load, Compute, Accumulate, Store)


def program(dtype: str = "float32", rounding: str = "nearest", state: str = "", rule: sr.rule = CLIPPED) -> Program:
    plan = schedule(rule.graph)
    return lower(plan, layout(plan.graph, dtype, rounding, state))


def test_a_loop_loads_computes_accumulates_and_stores_in_this_order() -> None:
    first, last = program().loops
    assert [type(part) for part in first.body] == [Load, Accumulate]
    assert [type(part) for part in first.after] == [Combine, Exchange]
    kinds = [PARTS.index(type(part)) for part in last.body]
    assert kinds == sorted(kinds)
    assert [part.array.name for part in last.loads] == ["theta", "g", "exp_avg", "exp_avg_sq"]
    assert [part.array.name for part in last.stores] == ["theta", "exp_avg", "exp_avg_sq"]
    assert not last.after


@pytest.mark.parametrize(
    ("dtype", "rounding", "state", "moved", "kept"),
    [
        ("float64", "nearest", "", 8 + 56, 16),
        ("float32", "nearest", "", 4 + 28, 8),
        ("float32", "stochastic", "float32", 4 + 28, 8),
        ("bfloat16", "nearest", "", 2 + 14, 4),
        ("bfloat16", "stochastic", "float32", 2 + 2 + 2 + 2 + 16, 8),
        ("float16", "compensated", "", 2 + 4 + 2 + 4 + 8, 6),
        ("bfloat16", "compensated", "float32", 2 + 4 + 2 + 4 + 16, 10),
        ("float64", "compensated", "", 8 + 56, 16),
    ],
)
def test_bytes_are_counted_from_the_formats(dtype: str, rounding: str, state: str, moved: int, kept: int) -> None:
    own = program(dtype, rounding, state)
    assert own.bytes_per_parameter == moved
    assert own.state_bytes_per_parameter == kept
    assert (REMAINDER in own.tensors) is (rounding == "compensated" and dtype != "float64")


def test_arrays_that_lose_bits_draw_under_numbers_of_their_own() -> None:
    draws = {store.array.name: store.draw for store in program("bfloat16", "stochastic").loops[-1].stores}
    assert draws == {"theta": 0, "exp_avg": 1, "exp_avg_sq": 2}
    draws = {store.array.name: store.draw for store in program("bfloat16", "stochastic", "float32").loops[-1].stores}
    assert draws == {"theta": 0, "exp_avg": -1, "exp_avg_sq": -1}
    for own in (program("float32", "stochastic"), program("bfloat16"), program("bfloat16", "compensated")):
        assert {store.draw for store in own.loops[-1].stores} == {-1}


def test_what_draws_counts_steps() -> None:
    sgd = schedule(board.sgd.graph)
    with pytest.raises(GraphError, match="nobody counts steps"):
        lower(sgd, layout(sgd.graph, "bfloat16", "stochastic"))
    counted = schedule(replace(board.sgd.graph, counts_steps=True))
    own = lower(counted, layout(counted.graph, "bfloat16", "stochastic"))
    assert own.host[-1].op == "step"
    assert [node.op for node in own.plan.host] == ["hyper"]


def test_slots_of_one_number_a_tensor_are_never_narrower_than_float32() -> None:
    own = lowered(schedule(counting.graph), "bfloat16")
    assert [array.format.name for array in own.arrays] == ["bfloat16", "bfloat16", "float32", "bfloat16"]
    assert [store.array.name for store in own.finish] == ["k"]
    found = layout(board.adam.graph, "bfloat16", found={"m": "float32"})
    assert [form.name for _, form in found.slots] == ["float32", "bfloat16"]


def test_every_format_has_the_bytes_of_the_tensors_that_hold_it() -> None:
    for row in FORMATS.values():
        held = [getattr(torch, dtype).itemsize for dtype in (row.dtype, row.beside) if dtype]
        assert row.bytes == sum(held) + row.grouped / 32
        assert row.narrow is (held in ([1], [2]))


@pytest.mark.parametrize(
    ("flaw", "told"),
    [
        (lambda first, last: (first, replace(last, body=last.body[1:])), "before it is known"),
        (lambda first, last: (first, replace(last, body=(*last.body[-1:], *last.body[:-1]))), "before it is known"),
        (lambda first, last: (replace(first, body=last.stores[:1]), last), "before it is known"),
        (lambda first, last: (last, first), "before it has ended"),
        (lambda first, last: (first, replace(last, body=(*last.body, last.stores[0]))), "stores an array twice"),
        (lambda first, last: (replace(first, after=first.after[1:]), last), "combines"),
        (lambda first, last: (replace(first, after=first.after[:1]), last), "exchanges"),
        (lambda first, last: (replace(first, body=first.body[:1]), last), "combines"),
        (
            lambda first, last: (
                replace(first, body=(*first.body, Store(last.loads[0].array, read("g")))),
                last,
            ),
            "only the last loop may",
        ),
    ],
)
def test_each_law_of_a_program_is_asked_for(flaw: object, told: str) -> None:
    own = program()
    assert verify(own) is own
    with pytest.raises(GraphError, match=told):
        verify(replace(own, loops=flaw(*own.loops)))  # type: ignore[operator]


def test_a_value_that_nobody_computes_is_found() -> None:
    own = program()
    stranger = make("add", read("g"), const(3.0))
    last = own.loops[-1]
    with pytest.raises(GraphError, match="before it is known"):
        verify(replace(own, loops=(own.loops[0], replace(last, body=(*last.body, Compute(make("neg", stranger)))))))
