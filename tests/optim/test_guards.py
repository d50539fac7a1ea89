"""Steps that are left out, refused, or interrupted half-way, for slots of every rank, on every backend.

What is left out leaves no bit behind: the plain steps that follow are those of an optimiser which never met it.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from truth import bits

import steprule as sr
from steprule import rule, slot
from steprule.backends import numba_cpu
from steprule.errors import NonFiniteError

pytestmark = pytest.mark.cpu


@rule
def of_all_ranks(theta, g, m, k=slot(rank="tensor", init=1.0), n=slot(rank="host"), *, lr=0.1, t):
    """Count and sum in slots of every rank; a norm of all tensors ends the first pass, a mean of each the last."""
    m = 0.9 * m + g / (1 + sr.global_norm(g))
    return theta - lr * m / (k + n + t), m, k + sr.mean(m * m), n + 0.5


DTYPES: dict[str, tuple[torch.dtype, ...]] = {
    "one kernel": (torch.float64,) * 3,
    "two kernels": (torch.float64, torch.float32, torch.float64),
    "a kernel and eager": (torch.float64, torch.bfloat16, torch.float64),
    "eager": (torch.float64, torch.float32, torch.bfloat16),
    "triton_gpu": (torch.float32, torch.float64, torch.float32),
}
SIZES = (40, 17, 33)
WAYS = [pytest.param(way, marks=pytest.mark.interp) if way == "triton_gpu" else way for way in DTYPES]


def made(way: str, nonfinite: str = "skip") -> Any:
    torch.manual_seed(2)
    parameters = [
        torch.nn.Parameter(torch.randn(size, dtype=torch.float64).to(dtype))
        for size, dtype in zip(SIZES, DTYPES[way], strict=True)
    ]
    backend = way if way in {"eager", "triton_gpu"} else None
    return sr.Optimizer(parameters, of_all_ranks, nonfinite=nonfinite, backend=backend)


def give(optimizer: Any, turn: int, bad: float | None = None, where: tuple[int, int] = (0, 0)) -> None:
    """Give every parameter the gradient of a turn, one element of which may be bad."""
    torch.manual_seed(100 + turn)
    parameters = optimizer.param_groups[0]["params"]
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, dtype=torch.float64).to(parameter.dtype)
    if bad is not None:
        parameters[where[0]].grad[where[1]] = bad


BAD = [(torch.nan, (0, 0)), (torch.inf, (1, -1)), (-torch.inf, (2, -1)), (torch.nan, (1, 3))]


@pytest.mark.parametrize("nonfinite", ["skip", "raise"])
@pytest.mark.parametrize("way", WAYS)
def test_a_step_that_is_left_out_and_the_plain_ones_after_it(way: str, nonfinite: str) -> None:
    """Before the first step, between two, and twice running, wherever the bad number stands."""
    optimizer, never = made(way, nonfinite), made(way, nonfinite)
    for turn, (bad, where) in enumerate([*BAD, *BAD]):
        for _ in range(1 + turn % 2):
            before = bits(optimizer)
            give(optimizer, turn, bad, where)
            if nonfinite == "skip":
                optimizer.step()
            else:
                with pytest.raises(NonFiniteError, match=rf"gradient of parameter {where[0]} of group 0 is not finite"):
                    optimizer.step()
            if way == "triton_gpu" and not turn:  # the host is not told: state has been made, and counts no step
                assert [float(state["step"]) for state in optimizer.state.values()] == [0.0] * 3
                assert [pair for pair in bits(optimizer) if pair[0] == "parameter"] == bits(never)
                continue
            assert bits(optimizer) == before
            assert len(optimizer.state_dict()["state"]) == (3 if turn else 0)
        for both in (optimizer, never):
            give(both, turn)
            both.step()
        assert bits(optimizer) == bits(never)
    states = list(optimizer.state.values())
    assert [float(state["step"]) for state in states] == [8.0] * 3
    assert [float(state["n"]) for state in states] == [4.0] * 3
    assert all(float(state["k"]) > 1.0 for state in states)


@pytest.mark.parametrize("way", WAYS[-2:])
def test_without_a_guard_the_same_number_spreads(way: str) -> None:
    """So the tests above have something to leave out."""
    optimizer = made(way, "propagate")
    give(optimizer, 0, torch.nan, (1, 3))
    optimizer.step()
    for parameter in optimizer.param_groups[0]["params"]:
        assert parameter.isnan().all()
        assert optimizer.state[parameter]["m"].isnan().all()


class Interrupting:
    """Walk over memory part by part; at one walk, over some parts only, and be interrupted."""

    def __init__(self, at: int, parts: tuple[int, ...]) -> None:
        self.at, self.chosen = at, parts
        self.walks = 0

    def __call__(self, kernel: Any, address: Any, parts: int, where: int) -> None:
        del address
        assert parts == 3
        self.walks += 1
        for part in self.chosen if self.walks == self.at else range(parts):
            kernel(part, part + 1, where)
        if self.walks == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("way", ["one kernel", "two kernels"])
@pytest.mark.parametrize("stepped", [False, True])
def test_an_interrupt_that_leaves_parts_unwritten_is_made_good(
    way: str, stepped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any parts of any pass of any kernel: the step has happened whole, slots of every rank included, or not at all."""
    monkeypatch.setattr(numba_cpu, "CHUNK", 4)
    monkeypatch.setattr(numba_cpu, "PARALLEL_FROM", {True: 4, False: 4})
    torch.set_num_threads(3)
    kernels = len(set(DTYPES[way]))
    for at, chosen in product(range(1, 2 * kernels + 1), [(), (0,), (1,), (2,), (0, 2), (2, 1), (0, 1, 2)]):
        interrupted, never = made(way), made(way)
        if stepped:
            for both in (interrupted, never):
                give(both, 0)
                both.step()
        before = bits(interrupted)
        for both in (interrupted, never):
            give(both, 1)
        with monkeypatch.context() as patch:
            patch.setattr(numba_cpu, "walk", Interrupting(at, chosen))
            with pytest.raises(KeyboardInterrupt):
                interrupted.step()
        written = at > kernels + 1 or (at == kernels + 1 and bool(chosen))
        if written:
            never.step()
        assert bits(interrupted) == (bits(never) if written else before)
        for turn in (2, 3):
            for both in (interrupted, never):
                give(both, turn)
                both.step()
            assert bits(interrupted) == bits(never)


@pytest.mark.parametrize("backend", ["numba_cpu", "eager", pytest.param("triton_gpu", marks=pytest.mark.interp)])
def test_finite_gradients_whose_sum_has_no_float64_are_no_bad_step(backend: str) -> None:
    parameter = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    parameter.grad = torch.full((3,), 1.7e308, dtype=torch.float64)
    sr.board.sgd.optimizer([parameter], lr=1e-308, nonfinite="skip", backend=backend).step()
    assert parameter.tolist() == pytest.approx([-1.7] * 3)
