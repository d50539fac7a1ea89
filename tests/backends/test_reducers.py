"""A reduction is one row: rows added at run time work in the interpreter and on every backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_chunks import FEW_SIZES, MARKS, SIZES, gradients_with, held_against, the_problem

import steprule as sr
from steprule import rule, slot
from steprule.backends.base import run as run_all
from steprule.backends.eager import EagerBatch
from steprule.backends.numba_cpu import CpuBatch, CpuKernel
from steprule.graph.evaluate import evaluate
from steprule.graph.ops import OPS, Op, Reducer, reduction
from steprule.graph.simplify import simplify
from steprule.plan.program import lowered
from steprule.plan.schedule import schedule
from steprule.plan.tables import hyper_columns
from steprule.rule import Formula
from steprule.rule.symbols import apply

ROWS = (
    reduction("min", "tensor", Reducer(np.inf, "minimum"), "smallest({})", "{}"),
    reduction("product", "tensor", Reducer(1.0, "mul"), "product({})", "{}"),
    reduction("farthest", "tensor", Reducer(0.0, "maximum", each="abs"), "farthest({})", "{}"),
    reduction("spread", "tensor", Reducer(0.0, each="abs", finish="div"), "spread({})", "{}"),
    reduction("global_min", "global", Reducer(np.inf, "minimum"), "smallest of all({})", "{}"),
    reduction("global_product", "global", Reducer(1.0, "mul", finish="abs"), "product of all({})", "{}"),
)


@pytest.fixture(autouse=True)
def more_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    for row in ROWS:
        monkeypatch.setitem(OPS, row.name, row)


def using(*, early: bool) -> Formula:
    """Keep a number a reduction in slots: of tensors, which the last pass ends in, or of elements."""
    kind: Any = slot() if early else slot(rank="tensor")

    @rule
    def reduced(theta, g, a=kind, b=kind, c=kind, d=kind, e=kind, f=kind, *, lr=1.0):
        new = [apply(row.name, g + 2) for row in ROWS]
        return theta - lr * g, *((0 * theta + value for value in new) if early else new)

    return reduced


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("kind", MARKS)
@pytest.mark.parametrize("early", [True, False])
def test_a_row_is_all_that_a_reduction_needs(kind: str, early: bool) -> None:
    """Over one, two and many chunks, of nothing, and with NaN or infinity in one place."""
    program = using(early=early)
    sizes = FEW_SIZES if kind == "triton" else SIZES
    cases = [(-9.0, -1), (np.nan, 0)] if kind == "triton" else [(-9.0, -1), (np.nan, 0), (np.nan, -1), (-np.inf, 1)]
    for value, place in cases:
        held_against(program, the_problem(program, gradients_with(value, place, sizes)), kind)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", MARKS)
def test_a_tensor_without_a_gradient_is_in_no_new_reduction(kind: str, dtype: torch.dtype) -> None:
    backend = {"eager": "eager", "triton": "triton_gpu"}.get(kind, "numba_cpu")
    program = using(early=True)
    parameters = [torch.nn.Parameter(torch.ones(3, dtype=dtype)) for _ in range(3)]
    for parameter, value in zip(parameters[:2], (0.5, -4.0), strict=True):
        parameter.grad = torch.full((3,), value, dtype=dtype)
    optimizer = program.optimizer(parameters, backend=backend)
    for absent, smallest, product in ((2, -2.0, 125.0), (1, 2.5, 15.625)):
        for parameter in parameters:
            parameter.grad = None if parameter is parameters[absent] else parameter.grad
        optimizer.step()
        assert optimizer.state[parameters[0]]["e"].tolist() == [smallest] * 3
        assert optimizer.state[parameters[0]]["f"].tolist() == pytest.approx([product] * 3)


@pytest.mark.cpu
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("backend", ["eager", "numba_cpu"])
def test_a_guard_stands_beside_new_reductions(backend: str, bad: float) -> None:
    parameter = torch.nn.Parameter(torch.ones(5))
    parameter.grad = torch.ones(5)
    optimizer = using(early=True).optimizer([parameter], backend=backend, nonfinite="skip")
    optimizer.step()
    before = parameter.detach().clone()
    parameter.grad[3] = bad
    optimizer.step()
    assert torch.equal(parameter, before)


@pytest.mark.cpu
def test_batches_share_what_is_over_all_tensors_whatever_joins_it() -> None:
    """With no sum in it: an eager batch and a compiled one in main memory."""
    plan = schedule(using(early=True).graph)
    data = the_problem(using(early=True), gradients_with(None, 0, [3, 7]))
    arrays = [{name: [torch.tensor(np.asarray(value))] for name, value in own.items()} for own in data.arrays]
    hyper = np.array([[data.numbers[0][name] for name in hyper_columns(plan)]])
    program = lowered(plan, "float64")
    batches = (EagerBatch(program, arrays[0], [0]), CpuBatch(CpuKernel(program), arrays[1], [0]))
    assert run_all([(batch, hyper) for batch in batches])
    truth = evaluate(plan.graph, data.arrays, [data.numbers[0]] * 2)
    for own, expected in zip(arrays, truth, strict=True):
        for name in "abcdef":
            np.testing.assert_allclose(own[name][0].numpy(), expected[name], rtol=1e-12)


@pytest.mark.null
def test_a_common_factor_comes_out_of_what_its_reducer_says() -> None:
    """Of a mean of absolute values none does, nor of a product; of a sum and a length of the same kind it does."""
    assert [name for name, row in OPS.items() if row.reducer and row.reducer.linear] == ["sum", "mean", "global_sum"]
    assert [name for name, row in OPS.items() if row.reducer and row.reducer.length] == ["norm", "global_norm"]

    def of_what(name: str) -> str:
        """Return the operation that is reduced, of a clipped gradient."""

        @rule
        def short(theta, g, *, lr=0.1):
            return theta - lr * apply(name, sr.minimum(1, 1 / (1 + sr.global_norm(g))) * g) * g

        return next(node.inputs[0].op for node in simplify(short.graph).nodes if node.op == name)

    found = {name: of_what(name) for name in ("sum", "mean", "norm", "product", "min", "spread", "farthest")}
    assert found == dict.fromkeys(("sum", "mean", "norm"), "read") | dict.fromkeys(list(found)[3:], "mul")


@pytest.mark.null
def test_a_mean_over_all_tensors_is_refused_since_nobody_counts_their_elements() -> None:
    with pytest.raises(ValueError, match="nobody counts"):
        reduction("global_mean", "global", Reducer(0.0, finish="div"), "{}", "{}")


@pytest.mark.null
def test_the_meaning_of_a_row_follows_from_its_reducer() -> None:
    x = np.random.default_rng(0).normal(size=(3, 1001))
    truth = {"sum": np.sum(x), "mean": np.sum(x) / np.float64(x.size), "max": np.max(x), "norm": np.sqrt(np.sum(x * x)),
             "min": np.min(x), "product": np.prod(x), "farthest": np.max(np.abs(x))}  # fmt: skip
    for name, expected in truth.items():
        assert OPS[name].meaning(x) == expected, name
    nothing = np.zeros((0, 3))
    with np.errstate(invalid="ignore"):
        found = {name: float(OPS[name].meaning(nothing)) for name in ("sum", "norm", "max", "min", "product", "mean")}
    assert found.pop("mean") != found["sum"]
    assert found == {"sum": 0, "norm": 0, "max": -np.inf, "min": np.inf, "product": 1}
    rows: list[Op] = [OPS[name] for name in ("sum", "norm")]
    assert [row.flops for row in rows] == [1, 2]


@pytest.mark.parametrize("kind", MARKS)
def test_a_reduction_of_an_array_that_the_same_pass_writes_is_of_what_it_was(kind: str) -> None:
    """Also of a single element, which is its own result."""

    @rule
    def written(theta, g, a=slot(rank="tensor"), b=slot(rank="tensor"), *, lr=1.0):
        return theta - lr * g, apply("min", theta), sr.max(theta)

    held_against(written, the_problem(written, gradients_with(None, 0, [1, 3])), kind)
