"""Functions of matrices stand between passes: planned, lowered to `Call`, executed by eager, refused by kernels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import steprule as sr
from steprule.errors import BackendError, GraphError
from steprule.graph.evaluate import evaluate
from steprule.graph.node import const, make
from steprule.graph.ops import ANY, OPS, Op
from steprule.graph.verify import verify as verify_graph
from steprule.plan.program import Call, lowered, verify
from steprule.plan.schedule import schedule, summary
from steprule.rule.symbols import apply

pytestmark = pytest.mark.null
SHAPES = ((3, 3), (1, 1), (2, 2, 1), ())


@pytest.fixture(autouse=True)
def inverse() -> Iterator[None]:
    """Add one row: no function of matrices is in the language yet."""
    OPS["inverse"] = Op("inverse", "matrix", (ANY,), np.linalg.inv, "inverse", "inverse({})", "{}^{{-1}}")
    yield
    del OPS["inverse"]


@pytest.fixture
def rule() -> Any:
    @sr.rule
    def turned(theta, g, m, *, lr=0.1, t):
        m = 0.5 * m + g
        root = apply("inverse", m)
        return theta - lr * t * root / (1 + sr.norm(root)), m

    return turned


def scratch(graph: Any) -> set[str]:
    loops = lowered(schedule(graph)).loops
    calls = [part for loop in loops for part in loop.after if isinstance(part, Call)]
    return {array.name for part in calls for array in (part.source, part.target)}


def test_its_argument_is_stored_by_the_pass_before_and_its_value_loaded_by_the_pass_after(rule: Any) -> None:
    plan = schedule(sr.chain(sr.clip_global_norm, rule).graph)
    assert [summary(item, plan.graph).partition(";")[2] for item in plan.passes][1].startswith(" then inverse(")
    own = lowered(plan)
    assert [len(item.calls) for item in plan.passes] == [0, 1, 0, 0]
    (call,) = (part for loop in own.loops for part in loop.after if isinstance(part, Call))
    assert [store.array for store in own.loops[1].stores] == [call.source]
    for loop in own.loops[2:]:
        assert [load.array for load in loop.loads if load.array.scratch] == [call.target]
    # g; m, g and the argument; the value; θ, m, g and the value, of which two are written
    assert [loop.bytes_per_parameter for loop in own.loops] == [4, 12, 4, 24]


@pytest.mark.parametrize("clip", [None, 1.0])
def test_eager_agrees_with_the_interpreter(rule: Any, clip: Any) -> None:
    torch.manual_seed(1)
    parameters = [torch.nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in SHAPES]
    optimizer = rule.optimizer(parameters, clip=clip)
    graph = optimizer.program.graph
    held = [{"theta": p.detach().numpy().copy(), "m": np.zeros(p.shape)} for p in parameters]
    for step in range(1, 4):
        there = [step != 2 or place != 0 for place in range(len(parameters))]
        for parameter, present in zip(parameters, there, strict=True):
            parameter.grad = torch.randn_like(parameter) if present else None
        stepped = [i for i, present in enumerate(there) if present]
        numbers = [{"lr": 0.1, "max_norm": 1.0, "t": float(step - (step == 3 and i == 0))} for i in stepped]
        given = [held[i] | {"g": parameters[i].grad.numpy()} for i in stepped]
        for i, new in zip(stepped, evaluate(graph, given, numbers), strict=True):
            held[i] = new
        optimizer.step()
        for parameter, own in zip(parameters, held, strict=True):
            np.testing.assert_allclose(parameter.detach().numpy(), own["theta"], rtol=1e-9)
    (bucket,) = optimizer._binding.buckets
    assert {name for name, own in bucket.batch.arrays.items() if all(one is None for one in own)} >= scratch(graph)


def test_kernels_say_that_they_lack_it(rule: Any) -> None:
    parameter = torch.nn.Parameter(torch.eye(2))
    parameter.grad = torch.eye(2)
    optimizer = rule.optimizer([parameter])
    optimizer.step()
    told = sr.explain(optimizer)
    assert (told.backend, told.reason) == ("eager", "there is no kernel with `inverse`")
    with pytest.raises(BackendError, match="there is no kernel with `inverse`"):
        rule.optimizer([parameter], backend="numba_cpu").step()


def test_a_number_is_no_matrix(rule: Any) -> None:
    with pytest.raises(GraphError, match="a value that is no matrix"):
        verify_graph(replace(rule.graph, new_slots=(make("inverse", const(2.0)),)))


def test_a_call_without_its_argument_and_a_load_before_its_call_are_found(rule: Any) -> None:
    own = lowered(schedule(rule.graph))
    first, *rest = own.loops
    with pytest.raises(GraphError, match="has not stored its argument"):
        verify(replace(own, loops=(replace(first, body=first.body[:-1]), *rest)))
    with pytest.raises(GraphError, match="before it has ended"):
        verify(replace(own, loops=(replace(first, after=()), *rest)))
