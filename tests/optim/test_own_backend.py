"""A backend is one row of `BACKENDS`: what it says of itself is all that optimisers know of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from truth import bits, corrected_adam, fill_gradients, make

import steprule as sr
from steprule.backends import BACKENDS
from steprule.backends.base import Backend
from steprule.backends.eager import Eager, EagerBatch, EagerKernel
from steprule.backends.numba_cpu import NumbaCpu
from steprule.errors import BackendError

pytestmark = pytest.mark.cpu


class Picky(NumbaCpu):
    """Kernels for float32 alone."""

    name = "picky"

    def obstacle(self, device: torch.device, dtype: torch.dtype) -> str:
        return "parameters are not to its taste" if dtype != torch.float32 else super().obstacle(device, dtype)

    def reason(self, device: torch.device) -> str:
        return f"it likes what is on {device}"

    def remedy(self) -> str:
        return "cook something else"


class CountingBatch(EagerBatch):
    """Torch operations that count by themselves, and leave a step out by themselves, as a device does."""

    def __init__(self, program: Any, arrays: Any, counts: torch.Tensor) -> None:
        super().__init__(program, arrays, range(len(counts)))
        self._counts, self._out, self.found = counts, False, 0.0

    def leave_out_if(self, found: torch.Tensor | None) -> None:
        self.found = 0.0 if found is None else float(found)

    def step(self, hyper: Any) -> bool:
        if self.found > 0:
            return True
        here = torch.tensor([g is not None for g in self.arrays[self.plan.graph.gradient]])
        self._counts[here, 0] += 1
        rows = hyper.copy()
        rows[:, -1] = self._counts[:, 0].numpy()
        return super().step(rows)


class CountingKernel(EagerKernel):
    def batch(self, arrays: Any, rows: Any, counts: torch.Tensor, where: Any = None) -> CountingBatch:
        return CountingBatch(self.program, arrays, counts)


class Counting(Eager):
    """Whoever asks finds that it decides for itself."""

    name = "counting"
    decides = True

    def kernel(self, program: Any, *, capturable: bool = False) -> CountingKernel:
        return CountingKernel(program)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """Add two rows; put all back in their order, in which the first that is at home is chosen."""
    before = dict(BACKENDS)
    BACKENDS.update({backend.name: backend for backend in (Picky(), Counting())})
    yield
    BACKENDS.clear()
    BACKENDS.update(before)


def trained(backend: str | None, steps: int = 3) -> tuple[list[torch.nn.Parameter], sr.Optimizer]:
    torch.manual_seed(1)
    parameters = make((3,), (2, 2), (5,))
    optimizer = corrected_adam.optimizer(parameters, backend=backend)
    for step in range(steps):
        fill_gradients(parameters)
        if step == 1:
            parameters[1].grad = None
        optimizer.step()
    return parameters, optimizer


def test_a_row_is_all_that_a_backend_needs() -> None:
    _, optimizer = trained("picky")
    _, other = trained(None)
    assert bits(optimizer) == bits(other)
    assert [len(bucket.hyper) for bucket in optimizer._binding.buckets] == [2]
    told = sr.explain(optimizer)
    assert (told.backend, told.reason) == ("picky", "it likes what is on cpu")


def test_what_it_does_not_take_is_refused_in_its_words() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    parameter.grad = torch.ones_like(parameter)
    with pytest.raises(BackendError, match=r"(?s)not to its taste.*cook something else"):
        corrected_adam.optimizer([parameter], backend="picky").step()
    with pytest.raises(BackendError, match="picky, counting"):
        corrected_adam.optimizer([parameter], backend="nobody")


def test_the_first_that_is_at_home_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[Backend] = [Picky(), *BACKENDS.values()]
    BACKENDS.clear()
    BACKENDS.update({row.name: row for row in rows})
    monkeypatch.setattr("steprule.backends.numba_cpu.NumbaCpu.home", lambda self, _: type(self) is Picky)
    assert sr.explain(trained(None)[1]).backend == "picky"
    assert sr.explain(board_of(torch.float64)).backend == "eager"


def board_of(dtype: torch.dtype) -> sr.Optimizer:
    return sr.board.adam.optimizer([torch.nn.Parameter(torch.zeros(3, dtype=dtype))])


def test_what_decides_counts_in_its_own_table_and_every_tensor_has_a_row() -> None:
    ours, optimizer = trained("counting")
    _, other = trained("eager")
    assert bits(optimizer) == bits(other)
    (bucket,) = optimizer._binding.buckets
    assert len(bucket.hyper) == 3
    assert not bucket.hyper[:, -1].any()  # the host counts nothing
    assert [float(optimizer.state[p]["step"]) for p in ours] == [3.0, 2.0, 3.0]


def test_what_decides_is_told_that_a_step_is_to_be_left_out() -> None:
    parameters, optimizer = trained("counting")
    before = bits(optimizer)
    optimizer.found_inf = torch.tensor(1.0)
    fill_gradients(parameters)
    optimizer.step()
    assert bits(optimizer) == before
    optimizer.found_inf = None
    optimizer.step()
    assert [float(optimizer.state[p]["step"]) for p in parameters] == [4.0, 3.0, 4.0]
