"""Step counts and host slots are the numbers that the user sees, wherever their tensors point."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest
import torch
import torch.multiprocessing  # which teaches the pickler to share memory
from truth import bits, corrected_adam, fill_gradients, make

import steprule as sr
from steprule.optim import binding, fast_check

pytestmark = pytest.mark.cpu

WAYS = ["fast", "slow", "eager", pytest.param("triton_gpu", marks=pytest.mark.interp)]


@sr.rule
def counting(theta, g, k=sr.slot(rank="host", init=1.0), *, lr=0.1, t):
    """Move by what is counted, twice."""
    return theta - lr * g * k / t, k * 1.5


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "slow":
        monkeypatch.setattr(binding, "loop", lambda: None)
    elif request.param == "fast" and fast_check.loop() is None:
        pytest.skip("this Python or this torch is made differently")
    return request.param


def trained(way: str) -> tuple[list[torch.nn.Parameter], sr.Optimizer]:
    torch.manual_seed(1)
    parameters = make((3,), (2, 2), (5,))
    backend = way if way in {"eager", "triton_gpu"} else None
    optimizer = counting.optimizer(parameters, backend=backend)
    for _ in range(3):
        fill_gradients(parameters)
        optimizer.step()
    return parameters, optimizer


def shared_by_a_queue(cell: torch.Tensor) -> torch.Tensor:
    """Pickle as a queue between processes does, and return what the other process gets."""
    return ForkingPickler.loads(bytes(ForkingPickler.dumps(cell)))


def _data(cell: torch.Tensor) -> None:
    cell.data = torch.tensor(7.0, dtype=cell.dtype)


def _data_of_another_dtype(cell: torch.Tensor) -> None:
    cell.data = torch.tensor(7.0, dtype=torch.float16)


def _same_memory_as_integers(cell: torch.Tensor) -> None:
    cell.fill_({torch.float64: 3.5e-323, torch.float32: 1e-44}[cell.dtype])  # bits of the integer 7
    cell.data = cell.data.view({torch.float64: torch.int64, torch.float32: torch.int32}[cell.dtype])


def _negated(cell: torch.Tensor) -> None:
    cell.fill_(-7.0)
    cell.data = torch._neg_view(cell.data)


def _another_place_of_its_storage(cell: torch.Tensor) -> None:
    whole = torch.tensor([0.0, 7.0], dtype=cell.dtype)
    cell.set_(whole.untyped_storage(), 1, ())


POINTED_ELSEWHERE: dict[str, Callable[[torch.Tensor], Any]] = {
    "data": _data,
    "data of another dtype": _data_of_another_dtype,
    "the same memory as integers": _same_memory_as_integers,
    "negated": _negated,
    "set_": lambda cell: cell.set_(torch.tensor(7.0, dtype=cell.dtype)),
    "another place of a storage": _another_place_of_its_storage,
    "share_memory_": lambda cell: cell.share_memory_().fill_(7.0),
    "a queue": lambda cell: shared_by_a_queue(cell).fill_(7.0),
    "swapped": lambda cell: torch.utils.swap_tensors(cell, torch.tensor(7.0, dtype=cell.dtype)),
}


@pytest.mark.parametrize("name", ["step", "k"])
@pytest.mark.parametrize("how", POINTED_ELSEWHERE)
def test_a_number_that_is_pointed_elsewhere_is_followed(way: str, how: str, name: str) -> None:
    ends = []
    for change in (POINTED_ELSEWHERE[how], lambda cell: cell.fill_(7.0)):
        parameters, optimizer = trained(way)
        assert (optimizer._binding._fast is not None) == (way in {"fast", "triton_gpu"} and binding.loop() is not None)
        cell = optimizer.state[parameters[1]][name]
        change(cell)
        assert float(cell) == 7.0
        seen = []
        for _ in range(3):
            fill_gradients(parameters)
            optimizer.step()
            seen.append(float(optimizer.state[parameters[1]][name]))
        assert seen == [8.0, 9.0, 10.0] if name == "step" else [10.5, 15.75, 23.625]
        ends.append([(key, value) for key, value in bits(optimizer) if key == "parameter"])
    assert ends[0] == ends[1]


def test_numbers_whose_memory_moves_while_a_kernel_runs_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue's thread pickles when it likes; then the table is no longer what the user sees."""
    parameters, optimizer = trained("fast")
    cell = optimizer.state[parameters[1]]["step"]
    batch = optimizer._binding.buckets[0].batch
    monkeypatch.setattr(batch, "step", lambda hyper: cell.share_memory_() is None or type(batch).step(batch, hyper))
    optimizer.step()
    assert [float(optimizer.state[p]["step"]) for p in parameters] == [4.0] * 3
    monkeypatch.undo()
    optimizer.step()
    assert [float(optimizer.state[p]["step"]) for p in parameters] == [5.0] * 3


def test_the_table_of_counts_is_memory_that_torch_cannot_free() -> None:
    parameters, optimizer = trained("fast")
    bucket = optimizer._binding.buckets[0]
    before = bucket.counts.tobytes()
    address = optimizer.state[parameters[0]]["step"].data_ptr()
    optimizer.state[parameters[0]]["step"].share_memory_().fill_(0.0)
    assert optimizer.state[parameters[1]]["step"].data_ptr() != address
    assert bucket.counts.flags.owndata
    assert bucket.counts.tobytes() == before


def test_one_tensor_that_counts_for_two_parameters_counts_for_each() -> None:
    torch.manual_seed(1)
    parameters = make((3,), (2,))
    optimizer = corrected_adam.optimizer(parameters)
    fill_gradients(parameters)
    optimizer.step()
    optimizer.state[parameters[1]]["step"] = optimizer.state[parameters[0]]["step"]
    for _ in range(2):
        fill_gradients(parameters)
        optimizer.step()
    before = optimizer._binding
    optimizer.step()
    assert optimizer._binding is before
    assert [float(optimizer.state[p]["step"]) for p in parameters] == [4.0, 4.0]
