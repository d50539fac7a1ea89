"""One number a tensor is never kept, or computed, at the precision of 16-bit elements."""

from __future__ import annotations

import pytest
import torch

import steprule as sr
from steprule import norm, rule, slot, sum

pytestmark = pytest.mark.cpu

NARROW = [torch.bfloat16, torch.float16]
BACKENDS = ["eager", "triton_gpu"]


@rule
def counting(theta, g, k=slot(rank="tensor"), total=slot(rank="tensor", init=1.0), *, lr=0.0):
    """Count steps, and add up squares."""
    return theta - lr * g / total, k + 1, total + sum(g**2)


@rule
def proportional(theta, g, k=slot(rank="tensor", init=1.0), *, lr=1.0):
    """Move by a number that 16 bits would round."""
    k = k + 0.001 * norm(g)
    return theta - lr * (k - 1) * g, k


def made(backend: str) -> str:
    if backend == "triton_gpu":
        pytest.importorskip("triton")
    return backend


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_numbers_of_narrow_tensors_are_float32(dtype: torch.dtype, backend: str) -> None:
    """A count in bfloat16 stops at 256; a sum of squares in float16 is infinite from 65,504 on."""
    parameter = torch.nn.Parameter(torch.ones(5, dtype=dtype))
    optimizer = counting.optimizer([parameter], backend=made(backend))
    parameter.grad = torch.full_like(parameter, 256.0)
    optimizer.step()
    state = optimizer.state[parameter]
    assert (state["k"].dtype, state["total"].dtype) == (torch.float32, torch.float32)
    state["k"].fill_(256.0)
    optimizer.step()
    assert (float(state["k"]), float(state["total"])) == (257.0, 1.0 + 2 * 5 * 256.0**2)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_what_is_computed_with_them_is_not_rounded_in_between(dtype: torch.dtype, backend: str) -> None:
    parameter = torch.nn.Parameter(torch.zeros(1, dtype=dtype))
    optimizer = proportional.optimizer([parameter], backend=made(backend))
    for _ in range(3):
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    assert float(optimizer.state[parameter]["k"]) == pytest.approx(1.003, rel=1e-6)
    assert float(parameter.detach()) == pytest.approx(-0.006, rel=2 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_numbers_saved_in_a_narrow_type_are_loaded_as_float32(dtype: torch.dtype) -> None:
    """From a checkpoint, or left in the state by one who unpickled it."""
    parameter = torch.nn.Parameter(torch.ones(5, dtype=dtype))
    optimizer = counting.optimizer([parameter])
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    saved = optimizer.state_dict()
    saved["state"][0] = {key: value.to(dtype) for key, value in saved["state"][0].items()}
    optimizer.load_state_dict(saved)
    assert {value.dtype for value in optimizer.state[parameter].values()} == {torch.float32}
    optimizer.state[parameter].update(saved["state"][0])
    optimizer.step()
    assert {value.dtype for value in optimizer.state[parameter].values()} == {torch.float32}
    assert float(optimizer.state[parameter]["k"]) == 2.0


def test_numbers_of_double_tensors_stay_double() -> None:
    parameter = torch.nn.Parameter(torch.ones(5, dtype=torch.float64))
    optimizer = counting.optimizer([parameter], backend="eager")
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert {value.dtype for value in optimizer.state[parameter].values()} == {torch.float64}
    assert isinstance(optimizer, sr.Optimizer)
