"""Rules with numbers that are one a row or column, on every backend: against the interpreter, and as state."""

from __future__ import annotations

import io
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch

import steprule as sr
from steprule.errors import ParameterError, StateError
from steprule.graph.evaluate import evaluate

SHAPES = [(19, 3), (2, 3, 11), (7,), (), (1, 40), (40, 1), (3, 0), (0, 3)]
"""Tall, of three dimensions, a vector, a number, one row, one column, empty ones: in chunks of 8 of several chunks."""


@sr.rule
def factored(theta, g, m, r=sr.slot(rank="row"), c=sr.slot(rank="column", init=0.5), k=sr.slot(rank="tensor"), *,
             lr=0.1, t):  # fmt: skip
    r = 0.5 * r + sr.mean(g**2, axis=1)
    c = 0.5 * c + sr.max(sr.abs(g), axis=0)
    k = k + sr.mean(r) * sr.rows(g) + sr.columns(g)
    m = 0.5 * m + g / sr.sqrt(r * c + 1) + sr.mean(theta * r, axis=0) / (1 + sr.numel(g))
    return theta - lr / t * m, m, r, c, k


def tensors(dtype: torch.dtype = torch.float32) -> list[torch.nn.Parameter]:
    torch.manual_seed(1)
    return [torch.nn.Parameter(torch.randn(shape).to(dtype)) for shape in SHAPES]


def give_gradients(parameters: list[torch.nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)


def truth(parameters: list[torch.nn.Parameter], steps: int) -> list[dict[str, Any]]:
    graph = factored.graph
    arrays: list[dict[str, Any]] = [
        {"theta": p.detach().double().numpy()}
        | {slot.name: np.full(slot.rank.shape(p.shape), slot.init) for slot in graph.slots}
        for p in parameters
    ]
    for step in range(1, steps + 1):
        give_gradients(parameters, step)
        own = [{**array, "g": p.grad.double().numpy()} for array, p in zip(arrays, parameters, strict=True)]  # type: ignore[union-attr]
        arrays = evaluate(graph, own, [{"lr": 0.1, "t": step}] * len(own))
    return arrays


def stepped(parameters: list[torch.nn.Parameter], steps: int, **options: Any) -> sr.Optimizer:
    opt = sr.Optimizer(parameters, factored, **options)
    for step in range(1, steps + 1):
        give_gradients(parameters, step)
        opt.step()
    return opt


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(
    ("backend", "dtype"),
    [
        pytest.param("eager", torch.float64, marks=pytest.mark.null),
        pytest.param("eager", torch.bfloat16, marks=pytest.mark.null),
        pytest.param("numba_cpu", torch.float64, marks=pytest.mark.cpu),
        pytest.param("numba_cpu", torch.bfloat16, marks=pytest.mark.cpu),
    ],
)
def test_three_steps_are_those_of_the_interpreter(backend: str, dtype: torch.dtype) -> None:
    parameters = tensors(dtype)
    expected = truth(parameters, 3)
    opt = stepped(parameters, 3, backend=backend, state="float32" if dtype is torch.bfloat16 else None)
    close = {torch.float64: 1e-12, torch.bfloat16: 2e-2}[dtype]
    for p, own in zip(parameters, expected, strict=True):
        state = opt.state[p]
        assert {name: tuple(state[name].shape) for name in "mrck"} == {name: own[name].shape for name in "mrck"}
        assert state["r"].dtype == state["c"].dtype == (dtype if dtype is torch.float64 else torch.float32)
        for name, value in {"theta": p.detach(), **{name: state[name] for name in "mrck"}}.items():
            np.testing.assert_allclose(value.double(), own[name], rtol=close, atol=close, err_msg=f"{name} {p.shape}")


@pytest.mark.null
def test_8_bits_beside_rows_are_torch_operations_and_explain_says_so() -> None:
    (p,) = own = [torch.nn.Parameter(torch.ones(64, 64))]
    p.grad = torch.ones(64, 64)
    opt = sr.Optimizer(own, factored, state={"m": "8bit"})
    opt.step()
    told = sr.explain(opt)
    assert told.backend == "eager"
    assert "in 8 bits beside rows and columns" in str(told)


@pytest.mark.null
def test_a_run_goes_on_from_a_checkpoint_and_wrong_shapes_are_refused() -> None:
    def opened(saved: dict[str, Any]) -> sr.Optimizer:
        opt = sr.Optimizer(others, factored, backend="eager")
        opt.load_state_dict(saved)
        return opt

    parameters = tensors()
    opt = stepped(parameters, 2, backend="eager")
    others = [torch.nn.Parameter(p.detach().clone()) for p in parameters]
    file = io.BytesIO()
    torch.save(opt.state_dict(), file)
    file.seek(0)
    again = opened(torch.load(file, weights_only=True))
    for own, both in ((parameters, opt), (others, again)):
        give_gradients(own, 3)
        both.step()
    assert all(torch.equal(a, b) for a, b in zip(parameters, others, strict=True))
    saved = deepcopy(opt.state_dict())
    saved["state"][0]["r"] = saved["state"][0]["r"].reshape(-1)
    with pytest.raises(StateError, match=r"'r' has shape \(19,\), but \(19, 1\) is needed"):
        opened(saved)
    opt.state[parameters[0]]["c"] = torch.zeros(19, 1)
    before = parameters[0].detach().clone()
    with pytest.raises(ParameterError, match=r"'c' has shape \(19, 1\), but is one a column: \(1, 3\)"):
        opt.step()
    assert torch.equal(parameters[0], before)
    with pytest.raises(sr.errors.HyperparameterError, match="'r', which is no slot of `factored` as large"):
        sr.Optimizer(parameters, factored, state={"r": "8bit"})


@pytest.mark.null
def test_slots_of_rows_that_lie_elsewhere_are_put_in_order_and_freed_ones_refused() -> None:
    parameters, twins = tensors(), tensors()
    opt, other = (stepped(own, 1, backend="eager") for own in (parameters, twins))
    state = opt.state[parameters[0]]
    state["r"] = torch.stack([state["r"], state["r"]], -1)[..., 0]
    assert not state["r"].is_contiguous()
    for own, one in ((parameters, opt), (twins, other)):
        give_gradients(own, 2)
        one.step()
    assert state["r"].is_contiguous()
    assert all(torch.equal(a, b) for a, b in zip(parameters, twins, strict=True))
    state["r"].untyped_storage().resize_(0)
    with pytest.raises(ParameterError, match="memory of state 'r' was freed"):
        opt.step()


@pytest.mark.null
def test_a_gauge_of_means_of_rows_counts_rows() -> None:
    @sr.rule
    def watching(theta, g, *, lr=0.1):
        sr.watch("rough", sr.mean(sr.norm(g, axis=1)) + 0 * sr.numel(g))
        return theta - lr * g

    p, q = torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.ones(4))
    p.grad, q.grad = torch.tensor([[3.0, 4, 0], [0, 0, 1]]), torch.tensor([1.0, -1, 1, 1])
    opt = watching.optimizer([p, q])
    opt.step()
    assert [own["rough"] for own in opt.gauges().parameters.values()] == [3.0, 1.0]
    assert opt.gauges()["rough"] == pytest.approx((5 + 1 + 4) / 6)


@pytest.mark.null
def test_what_is_never_negative_is_known_of_rows_too() -> None:
    from steprule.graph.bounds import never_negative

    assert never_negative(factored.graph) == {"r", "k"}
