"""Every operation of the table, at numbers where mistakes hide: zeros of both signs, equal ones, infinity, NaN."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from steprule.graph.evaluate import evaluate
from steprule.graph.graph import Graph, Slot
from steprule.graph.node import Node, const, make, read
from steprule.graph.ops import OPS
from steprule.plan.schedule import schedule
from strategies import Problem, run

SPECIAL = [-np.inf, -2.0, -1.0, -0.0, 0.0, 0.5, 1.0, 3.0, np.inf, np.nan]
MARKS = {"eager": pytest.mark.null, "plain": pytest.mark.null, "triton": pytest.mark.interp}


def every_operation() -> Graph:
    """Return a graph that keeps the value of each operation of two numbers in a slot of its name."""
    theta, g = read("theta"), read("g")
    news: dict[str, Node] = {}
    for name, op in OPS.items():
        if op.kind == "compare":
            news[name] = make("where", make(name, theta, g), theta, const(7.0))
        elif op.kind == "logic":
            held = make("gt", theta, const(0.0)), make("lt", g, const(1.0))
            news[name] = make("where", make(name, *held[: op.arity]), theta, const(7.0))
        elif op.kind == "pointwise" and name != "where":
            news[name] = make(name, *[theta, g][: op.arity])
    slots = tuple(Slot(name) for name in news)
    return Graph("every operation", "theta", "g", slots, (), make("add", theta, const(1.0)), tuple(news.values()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("kind", [pytest.param(kind, marks=mark) for kind, mark in MARKS.items()])
def test_every_operation_means_at_special_numbers_what_the_interpreter_says(kind: str, dtype: Any) -> None:
    graph = every_operation()
    pairs = np.array([*itertools.product(SPECIAL, SPECIAL)])
    arrays = {"theta": pairs[:, 0].copy(), "g": pairs[:, 1].copy()}
    data = Problem([{**arrays, **{slot.name: np.zeros(len(pairs)) for slot in graph.slots}}], [{}, {}])
    (truth,) = evaluate(graph, data.arrays, data.numbers[:1])
    (found,) = run(schedule(graph), data, kind, dtype)
    for name, value in found.items():
        close = 1e-12 if dtype is torch.float64 else 1e-6
        np.testing.assert_allclose(value, truth[name], rtol=close, atol=0, err_msg=name)
        if name not in {"minimum", "maximum"}:  # either zero is the smaller
            zero = truth[name] == 0
            assert (np.signbit(value[zero]) == np.signbit(truth[name][zero])).all(), f"the sign of zero: {name}"
